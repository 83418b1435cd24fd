"""What cheaper training costs in Recall@20: shared propagations, half precision, lazy
updates, each beside the same model trained without.

    python -m benchmarks.shortcuts tiktok --data FOLDER --seeds 0 1 2

Every way to train has the same trials, of which the best on validation at the first
seed is kept for all; the test positives are read once per way and seed. With
``propagate_every`` a propagation and a step serve several batches, so an epoch has
fewer steps; half precision keeps the features of the teacher's items in 16 bits, and
its products too where it says so; the lazy optimizer updates the rows of a batch
alone. What is gained in time is measured by :mod:`benchmarks.speed` and
:mod:`benchmarks.scale`. Finished trainings are kept under ``--work``. Writes
``benchmarks/results/shortcuts-<setting>.json``.
"""

from typing import Any, NamedTuple

import torch

from benchmarks.command_line import command_line
from benchmarks.kept import kept
from benchmarks.paired import difference
from benchmarks.prepared import PreparedSetting
from benchmarks.result_file import versions, write_result
from benchmarks.run import build_teacher, spread
from benchmarks.settings import SETTINGS, read
from benchmarks.shares import fitted
from promptmm_pyg.data import ITEM, modality_x_dict, num_nodes_dict
from promptmm_pyg.models import LightGCN, MatrixFactorization
from promptmm_pyg.nn import ChunkedFeatures
from promptmm_pyg.training import Schedule, bpr_terms

GRAPH, TEACHER, TABLES = 'LightGCN', 'PromptMM teacher', 'MatrixFactorization'
EXACT = 'exact'
TABLES_L2 = 0.05
SCHEDULE = Schedule(epochs=150, patience=6, validate_every=3, progress=False)


class Way(NamedTuple):
    """How a model is trained; the first of every model takes no shortcut."""

    model: str
    name: str
    how: dict[str, Any]  # Arguments of `train_teacher`.
    features: torch.dtype = torch.float
    products: torch.dtype | None = None  # With these features.


WAYS = (
    Way(GRAPH, EXACT, {}),
    *(
        Way(GRAPH, f'propagate_every={number}', {'propagate_every': number})
        for number in (2, 4, 8)
    ),
    Way(TEACHER, EXACT, {}),
    Way(TEACHER, 'bfloat16 features', {}, torch.bfloat16),
    Way(TEACHER, 'bfloat16 features and products', {}, *2 * (torch.bfloat16,)),
    Way(TABLES, EXACT, {}),
    Way(TABLES, "optimizer='lazy'", {'optimizer': 'lazy'}),
)
RATES = {GRAPH: (3e-3, 1e-2), TEACHER: (3e-3,), TABLES: (3e-3, 1e-2)}  # The trials.


class Bench(PreparedSetting):
    """One data set, and every way that was gone on it."""

    def outcome(self, way: Way, rate: float, seed: int) -> dict[str, Any]:
        """Validation value, epoch and per-user test values, trained now or before."""
        key = [self.setting.digest(), way.model, way.how, str(way.features), rate]
        if way.model == TABLES:
            key.append(TABLES_L2)
        if way.products is not None:
            key.append(str(way.products))
        return kept(
            self.work / 'shortcuts',
            [*key, seed, SCHEDULE],
            lambda: self._fit(way, rate, seed),
            f'{self.setting.dataset}-',
        )

    def _fit(self, way: Way, rate: float, seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        model, more = self.model(way)
        return fitted(
            model,
            self.train,
            self.split,
            learning_rate=rate,
            batch_size=self.setting.batch_size,
            seed=seed,
            schedule=SCHEDULE,
            **more,
            **way.how,
        )

    def model(self, way: Way) -> tuple[torch.nn.Module, dict[str, Any]]:
        """A model at its start, and what it is trained with."""
        sizes, setting = num_nodes_dict(self.train), self.setting
        if way.model == GRAPH:
            weights = {'bpr': 1.0, 'l2': setting.light_gcn_l2}
            model = LightGCN(sizes, **setting.light_gcn)
            return model, {'terms': bpr_terms, 'weights': weights}
        if way.model == TABLES:
            weights = {'bpr': 1.0, 'l2': TABLES_L2}
            width = setting.light_gcn['embedding_dim']
            tables = MatrixFactorization(sizes, width)
            return tables, {'terms': bpr_terms, 'weights': weights}
        features: dict[str, dict[str, Any]] = {
            modality: {ITEM: _held(x_dict[ITEM], way)}
            for modality, x_dict in modality_x_dict(self.train).items()
        }
        teacher = build_teacher(self.train, setting, features)
        return teacher, {'weights': setting.teacher_weights}

    def choose(self, way: Way, seed: int) -> float:
        """The best learning rate on validation; of equals, the first."""
        return max(
            RATES[way.model],
            key=lambda rate: float(self.outcome(way, rate, seed)['validation']),
        )


def _held(x: torch.Tensor, way: Way) -> torch.Tensor | ChunkedFeatures:
    x = x.to(way.features)
    return x if way.products is None else ChunkedFeatures(x, products=way.products)


def rows(bench: Bench, seeds: list[int], models: list[str]) -> list[dict[str, Any]]:
    """Every way, beside the same model without a shortcut."""
    out: list[dict[str, Any]] = []
    exact: dict[str, list[torch.Tensor]] = {}
    for way in (way for way in WAYS if way.model in models):
        rate = bench.choose(way, seeds[0])
        runs = [bench.outcome(way, rate, seed) for seed in seeds]
        values = [run['test'] for run in runs]
        row: dict[str, Any] = {
            'model': way.model,
            'way': way.name,
            'learning_rate': rate,
            'test': spread([float(x.mean()) for x in values]),
            'validation': [run['validation'] for run in runs],
            'epochs': [run['epoch'] for run in runs],
        }
        if way.name == EXACT:
            exact[way.model] = values
        else:
            row['over_exact'] = difference(values, exact[way.model])
        out.append(row)
        print(way.model, way.name, rate, row['validation'], flush=True)
    return out


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument('--models', nargs='+', choices=RATES, default=list(RATES))
    args = parser.parse_args()
    setting = SETTINGS[args.setting]
    bench = Bench(setting, read(setting.dataset, args.data), args.work)
    result = {
        'setting': setting.as_dict(),
        'schedule': SCHEDULE._asdict(),
        'rates': RATES,
        'seeds': args.seeds,
        'shortcuts': rows(bench, args.seeds, args.models),
        'threads': torch.get_num_threads(),
        'versions': versions(),
    }
    write_result(args.out / f'shortcuts-{args.setting}.json', result)


if __name__ == '__main__':
    main()
