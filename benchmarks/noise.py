"""Whether denoising helps where content is noise: PromptMMPlus with and without.

    python -m benchmarks.noise --seeds 0 1 2

Synthetic data in which a share of the items shows, in every modality, what other items
drawn at random show. Only training reads features, so validation and test do not know.
All models have the same epochs and the same trials, of which the best on validation at
the first seed is kept for all; the test positives are read once per model and seed.
Writes ``benchmarks/results/noise.json``.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch_geometric.data import HeteroData

from benchmarks.command_line import command_line
from benchmarks.kept import kept
from benchmarks.result_file import versions, write_result
from benchmarks.shares import best_trial, fitted, rows
from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    USER,
    make_synthetic_dataset,
    modality_mask_dict,
    modality_x_dict,
    num_nodes_dict,
    split_per_user,
)
from promptmm_pyg.models.promptmm_plus import PromptMMPlus
from promptmm_pyg.training import Schedule
from promptmm_pyg.transforms import (
    AddBipartiteNorm,
    AddModalityPCA,
    StandardizeModalities,
)

METRIC = 'Recall@20'
SIZES = (6000, 4000, 100)  # Users, items and tastes: few interactions an item.
DATA_SEED = 5  # Not 0 or 2, on which the way to denoise and the sizes were found.
PROMPT_CHANNELS = 16
TEACHER: dict[str, Any] = {
    'embedding_dim': 32,
    'num_layers': 2,
    'self_loop_weight': 1.0,
}
LEARNING_RATE = 1e-2
BATCH_SIZE = 2048
SCHEDULE = Schedule(epochs=30, patience=5, validate_every=2, progress=False)
PLAIN = 'plain'
MODELS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    'denoise': {'denoise': True},
    'edge_dropout': {'edge_dropout': 0.2},
    'item graph': {'item_graph_weight': 0.3},
}


class Trial(NamedTuple):
    """What is chosen on validation."""

    l2: float
    modality_weight: float


TRIALS = (Trial(0.05, 0.03), Trial(0.05, 0.1), Trial(0.05, 0.3))


def corrupt_features(data: HeteroData, share: float, seed: int) -> HeteroData:
    """A copy in which a share of the items has other items' content.

    Every modality of a noisy item, with its presence, is that of another item, drawn
    anew for each modality. Items are drawn without replacement, donors with.

    Args:
        data: Graph with features on items.
        share: Share of the items, in [0, 1].
        seed: Which draw.

    Raises:
        ValueError: If ``share`` is none, or there is no other item.
    """
    num_items = num_nodes_dict(data)[ITEM]
    if not 0 <= share <= 1:
        raise ValueError(f"'share' must be in [0, 1] (got {share})")
    if num_items < 2:
        raise ValueError(f"'data' requires at least two items (got {num_items})")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(num_items, generator=generator)
    noisy = order[: round(share * num_items)]
    out = data.clone()
    masks = modality_mask_dict(data)
    for modality, x_dict in modality_x_dict(data).items():
        steps = torch.randint(1, num_items, noisy.size(), generator=generator)
        donor = (noisy + steps) % num_items  # Never the item itself.
        tables = {f'x_{modality}': x_dict.get(ITEM)}
        tables[f'mask_{modality}'] = masks.get(modality, {}).get(ITEM)
        for name, table in tables.items():
            if table is not None:
                out[ITEM][name] = table.index_copy(0, noisy, table[donor])
    return out


class Bench:
    """The synthetic data, and every model that was trained on it."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.split = split_per_user(make_synthetic_dataset(*SIZES, seed=DATA_SEED))
        self._train: dict[float, HeteroData] = {}

    def train(self, share: float) -> HeteroData:
        if share not in self._train:
            noisy = corrupt_features(self.split.train, share, seed=DATA_SEED)
            data = AddBipartiteNorm()(StandardizeModalities()(noisy))
            self._train[share] = AddModalityPCA(PROMPT_CHANNELS)(data)
        return self._train[share]

    def outcome(
        self, share: float, model: str, trial: Trial, seed: int
    ) -> dict[str, Any]:
        """Validation value, epoch and per-user test values, trained now or before."""
        numbers = [SIZES, DATA_SEED, PROMPT_CHANNELS, TEACHER, LEARNING_RATE]
        numbers += [BATCH_SIZE, SCHEDULE]
        key = [*numbers, share, MODELS[model], trial, seed]
        return kept(
            self.work / 'noise', key, lambda: self._fit(share, model, trial, seed)
        )

    def _fit(self, share: float, model: str, trial: Trial, seed: int) -> dict[str, Any]:
        train = self.train(share)
        torch.manual_seed(seed)
        plus = PromptMMPlus(
            num_nodes_dict(train),
            INTERACTS,
            modality_x_dict(train),
            {key: train[key].prompt_start for key in (USER, ITEM)},
            **TEACHER,
            **MODELS[model],
            modality_weight=trial.modality_weight,
        )
        return fitted(
            plus,
            train,
            self.split,
            terms=plus.terms,
            weights={**plus.weights, 'l2': trial.l2},
            learning_rate=LEARNING_RATE,
            batch_size=BATCH_SIZE,
            seed=seed,
            schedule=SCHEDULE,
        )

    def choose(self, share: float, model: str, seed: int) -> Trial:
        """The best trial on validation; of equals, the first."""
        trial: Trial = best_trial(self, TRIALS, share, model, seed)
        return trial


def main() -> None:
    parser = command_line(__doc__, settings=())
    parser.add_argument('--shares', type=float, nargs='+', default=[0.0, 0.4])
    args = parser.parse_args()
    found = rows(
        Bench(args.work),
        MODELS,
        args.shares,
        args.seeds,
        over='over_plain',
        about=lambda trial: {'trial': trial._asdict()},
    )
    result = {
        'sizes': SIZES,
        'data_seed': DATA_SEED,
        'teacher': TEACHER,
        'learning_rate': LEARNING_RATE,
        'batch_size': BATCH_SIZE,
        'schedule': SCHEDULE._asdict(),
        'trials': [trial._asdict() for trial in TRIALS],
        'models': MODELS,
        'seeds': args.seeds,
        'noise': found,
        'threads': torch.get_num_threads(),
        'versions': versions(),
    }
    write_result(args.out / 'noise.json', result)


if __name__ == '__main__':
    main()
