"""What missing content costs, and what helps: from no item without it to nearly all.

    python -m benchmarks.missing --seeds 0 1 2
    python -m benchmarks.missing --seeds 0 1 2 --pattern modalities

Synthetic data in which a share of the items lacks every modality, or each modality lacks
in a share of the items drawn for it alone, in training and in serving. The items are
the same for all models, and those of a smaller share are among those of a larger. All
models have the same epochs and trials, of which the best on validation at the first
seed is kept for all; the test positives are read once per model and seed. Finished
trainings are kept under ``--work``. Writes ``benchmarks/results/missing.json``, or
``missing-modalities.json``.
"""

from pathlib import Path
from typing import Any, get_args

import torch
from torch_geometric.data import HeteroData

from benchmarks.command_line import command_line
from benchmarks.hidden_content import Pattern, absent, hide_content
from benchmarks.kept import kept
from benchmarks.result_file import versions, write_result
from benchmarks.shares import best_trial, fitted, rows
from promptmm_pyg.data import (
    ITEM,
    USER,
    make_synthetic_dataset,
    modality_mask_dict,
    modality_x_dict,
    num_nodes_dict,
    split_per_user,
)
from promptmm_pyg.models import LightGCN, PromptMM
from promptmm_pyg.training import (
    TEACHER_WEIGHTS,
    Schedule,
    bpr_terms,
)
from promptmm_pyg.transforms import (
    AddBipartiteNorm,
    AddModalityPCA,
    ImputeFromNeighbors,
    StandardizeModalities,
)

METRIC = 'Recall@20'
SIZES = (2000, 1000)  # Users and items.
DATA_SEED = 1
PROMPT_CHANNELS = 16
MODEL: dict[str, Any] = {'embedding_dim': 32, 'num_layers': 2}
LEARNING_RATE = 1e-2
BATCH_SIZE = 1024
SCHEDULE = Schedule(epochs=30, patience=6, validate_every=2, progress=False)
L2 = (0.05, 0.15)  # The trials of every model.
FLOOR, IMPUTED = 'LightGCN, no content', 'neighbors'
TEACHERS: dict[str, dict[str, Any]] = {
    'zero': {'missing': 'zero'},
    'token': {'missing': 'token'},
    'token, modality_dropout': {'missing': 'token', 'modality_dropout': 0.2},
    IMPUTED: {},  # Reads what is filled in, and no mask.
}
_IMPUTATION = 'prompt of what is filled in'  # Named in what is kept.


class Bench:
    """The synthetic data, and every model that was trained on it."""

    def __init__(self, work: Path, pattern: Pattern = 'items') -> None:
        self.work, self.pattern = work, pattern
        self.split = split_per_user(make_synthetic_dataset(*SIZES, seed=DATA_SEED))

    def hidden(self, share: float) -> HeteroData:
        """The training graph with the content of a share hidden."""
        return hide_content(self.split.train, share, DATA_SEED, self.pattern)

    def train(self, share: float, model: str) -> HeteroData:
        """What a model is trained on."""
        data = StandardizeModalities()(self.hidden(share))
        if model == IMPUTED:
            data = ImputeFromNeighbors()(data)
            for modality in modality_mask_dict(data):
                # With it, the prompt would start without what is filled in.
                del data[ITEM][f'mask_{modality}']
        return AddModalityPCA(PROMPT_CHANNELS)(AddBipartiteNorm()(data))

    def outcome(self, share: float, model: str, l2: float, seed: int) -> dict[str, Any]:
        """Validation value, epoch and per-user test values, trained now or before."""
        numbers = [SIZES, DATA_SEED, PROMPT_CHANNELS, MODEL, LEARNING_RATE]
        numbers += [BATCH_SIZE, SCHEDULE]
        # What knows no content is the same whatever is missing.
        about = 0.0 if model == FLOOR else share
        key = [*numbers, about, model, TEACHERS.get(model), l2, seed]
        if model == IMPUTED:
            key.append(_IMPUTATION)
        if self.pattern != 'items' and model != FLOOR:
            key.append(self.pattern)
        return kept(
            self.work / 'missing', key, lambda: self._fit(about, model, l2, seed)
        )

    def _fit(self, share: float, model: str, l2: float, seed: int) -> dict[str, Any]:
        train = self.train(share, model)
        sizes = num_nodes_dict(train)
        torch.manual_seed(seed)
        built: torch.nn.Module
        more: dict[str, Any]
        if model == FLOOR:
            built = LightGCN(sizes, **MODEL)
            more = {'terms': bpr_terms, 'weights': {'bpr': 1.0, 'l2': l2}}
        else:
            masks = None if model == IMPUTED else modality_mask_dict(train)
            built = PromptMM(
                sizes,
                modality_x_dict(train),
                {key: train[key].prompt_start for key in (USER, ITEM)},
                **MODEL,
                self_loop_weight=1.0,
                modality_mask_dict=masks,
                **TEACHERS[model],
            )
            more = {'weights': {**TEACHER_WEIGHTS, 'l2': l2}}
        return fitted(
            built,
            train,
            self.split,
            learning_rate=LEARNING_RATE,
            batch_size=BATCH_SIZE,
            seed=seed,
            schedule=SCHEDULE,
            **more,
        )

    def choose(self, share: float, model: str, seed: int) -> float:
        """The best penalty on validation; of equals, the first."""
        l2: float = best_trial(self, L2, share, model, seed)
        return l2


def main() -> None:
    parser = command_line(__doc__, settings=())
    parser.add_argument(
        '--shares', type=float, nargs='+', default=[0.0, 0.3, 0.5, 0.7, 0.9]
    )
    parser.add_argument(
        '--pattern',
        choices=get_args(Pattern),
        default='items',
        help='whether the same items lack every modality, or others each',
    )
    args = parser.parse_args()
    bench = Bench(args.work, args.pattern)
    found = rows(
        bench,
        (FLOOR, *TEACHERS),
        args.shares,
        args.seeds,
        over='over_floor',
        about=lambda l2: {'l2': l2},
    )
    lacking = {share: absent(bench.hidden(share)) for share in args.shares}
    for row in found:
        row['absent'] = lacking[row['share']]
    result = {
        'pattern': args.pattern,
        'sizes': SIZES,
        'data_seed': DATA_SEED,
        'model': MODEL,
        'learning_rate': LEARNING_RATE,
        'batch_size': BATCH_SIZE,
        'schedule': SCHEDULE._asdict(),
        'l2': L2,
        'teachers': TEACHERS,
        'seeds': args.seeds,
        'missing': found,
        'threads': torch.get_num_threads(),
        'versions': versions(),
    }
    name = 'missing' if args.pattern == 'items' else f'missing-{args.pattern}'
    write_result(args.out / f'{name}.json', result)


if __name__ == '__main__':
    main()
