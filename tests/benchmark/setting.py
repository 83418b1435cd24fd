"""A data set and configurations that train in seconds."""

from promptmm_pyg.benchmark import load_config, run_benchmark
from promptmm_pyg.benchmark.config import Dataset
from promptmm_pyg.benchmark.result import load_result
from promptmm_pyg.benchmark.runner import Bench

CONFIGS = 'benchmarks/configs'
TINY = [
    'dataset.synthetic.synthetic={num_users=60,num_items=110,num_clusters=4,seed=0}',
    'dataset.synthetic.prompt_channels=4',
    'dataset.synthetic.training={epochs=1,batch_size=128}',
    'training={epochs=1,batch_size=128}',
]
SMALL_MODELS = [
    'dataset.synthetic.models.LightGCN={embedding_dim=8,num_layers=1,l2=0.1}',
    'dataset.synthetic.models.PromptMM={embedding_dim=8,num_layers=1,l2=0.1}',
    'dataset.synthetic.students={MatrixFactorization={embedding_dim=4,l2=0.1}}',
]


def tiny(name, *overrides, seeds=(0, 1), models=SMALL_MODELS):
    """A committed configuration on tiny data."""
    return load_config(
        f'{CONFIGS}/{name}.toml',
        datasets=['synthetic'],
        seeds=seeds,
        overrides=[*TINY, *models, *overrides],
    )


def run(config, folder, jobs=0):
    """The result of a configuration, with its cache in the folder."""
    (path,) = run_benchmark(config, out=folder, work=folder / 'work', jobs=jobs)
    return load_result(path)


def tiny_dataset(**more):
    """A data set with hyper-parameters."""
    return Dataset(
        'synthetic',
        synthetic={'num_users': 60, 'num_items': 110, 'num_clusters': 4, 'seed': 0},
        prompt_channels=4,
        training={'epochs': 1, 'batch_size': 128},
        models={'PromptMM': {'embedding_dim': 8, 'num_layers': 1, 'l2': 0.1}},
        **more,
    )


def tiny_bench(work, seeds=(0, 1), **options):
    """A data set with a cache."""
    return Bench(tiny_dataset(), seeds, work, **options)


def rows_of(result):
    """The rows by name and factors."""
    keys = ('name', 'width', 'start', 'share', 'group')
    return {
        tuple(row[key] for key in keys if key in row): row for row in result['rows']
    }
