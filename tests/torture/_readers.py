"""Every public reader with valid files that it reads."""

import contextlib
import hashlib
import io
import json
import pickle
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from promptmm_pyg import Recommender, load_dataset
from promptmm_pyg.benchmark.config import load_config
from promptmm_pyg.benchmark.result import load_result
from promptmm_pyg.cli import main
from promptmm_pyg.cli.parsing import read_settings
from promptmm_pyg.content import (
    HashingTextEncoder,
    encode_content,
    folder_contents,
    table_contents,
)
from promptmm_pyg.data import (
    MultiModalDataset,
    make_synthetic_dataset,
    open_features,
    read_recbole_texts,
    save_features,
    split_per_user,
    write_mmrec,
)
from promptmm_pyg.data.interactions import read_id_order
from promptmm_pyg.nn import SoftPrompt, load_prompt, save_prompt
from promptmm_pyg.nn.knn import cached_knn_graph
from promptmm_pyg.report.gather import read_log
from promptmm_pyg.runs import Run
from promptmm_pyg.runs.data import read_titles
from promptmm_pyg.runs.record import merge_all, updates_of
from promptmm_pyg.serving import FeatureMapper
from promptmm_pyg.targets import SoftTargets, load_targets, save_targets
from promptmm_pyg.training.checkpoint import load_state, save_state


class Reader(NamedTuple):
    """A reader, and files that it reads."""

    write: Callable[[Path], None]
    """Writes valid files into an empty folder."""
    load: Callable[[Path], Any]
    """Reads the files of a folder."""
    pattern: str = '**/*'
    """The files to damage."""
    same: bool = False
    """Whether what was read must be what was written, or an error."""


PAIRS = [(f'u{n % 11}', f'i{n % 25}', 1_600_000_000 + n, n % 5 + 1) for n in range(160)]
ITEMS = sorted({pair[1] for pair in PAIRS})
HEADER = ('user_id', 'item_id', 'timestamp', 'rating')


def _text(separator: str, rows: list[Any] = PAIRS, header: Any = HEADER) -> str:  # type: ignore[assignment]
    return ''.join(separator.join(map(str, row)) + '\n' for row in [header, *rows])


def _arrow(rows: list[Any] = PAIRS, header: Any = HEADER) -> Any:  # type: ignore[assignment]
    import pyarrow as pa

    return pa.table(dict(zip(header, map(list, zip(*rows, strict=True)), strict=True)))


def _interactions(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        path = folder / name
        if '.parquet' in name:
            parquet.write_table(_arrow(), path)
            return
        if '.jsonl' in name:
            text = ''.join(
                json.dumps(dict(zip(HEADER, row, strict=True))) + '\n' for row in PAIRS
            )
        else:
            text = _text('\t' if '.tsv' in name else ',')
        if name.endswith(('.gz', '.zst')):
            kind = 'gzip' if name.endswith('.gz') else 'zstd'
            with pa.CompressedOutputStream(str(path), kind) as file:
                file.write(text.encode())
        else:
            path.write_text(text)

    return write


def _load_table(name: str, **options: Any) -> Callable[[Path], Any]:
    return lambda folder: load_dataset(
        folder / name, time='timestamp', min_rating=1, **options
    )


def _features(kind: str) -> Reader:
    """Interactions beside a table or an array of features."""
    name = f'text.{kind}'

    def write(folder: Path) -> None:
        from pyarrow import parquet

        (folder / 'clicks.csv').write_text(_text(','))
        x = np.random.default_rng(0).normal(size=(len(ITEMS), 3)).astype(np.float32)
        rows = [(item, *map(float, row)) for item, row in zip(ITEMS, x, strict=True)]
        if kind == 'npy':
            np.save(folder / name, x)
        elif kind == 'parquet':
            lists = [(item, row[1:]) for item, row in zip(ITEMS, rows, strict=True)]
            parquet.write_table(_arrow(lists, ('item_id', 'x')), folder / name)
        else:
            (folder / name).write_text(_text(',', rows, ('item_id', 'a', 'b', 'c')))

    def load(folder: Path) -> Any:
        return load_dataset(
            folder / 'clicks.csv',
            features={'text': name},
            item_ids=ITEMS if kind == 'npy' else None,
        )

    return Reader(write, load, name)


def _columns() -> Reader:
    words = ('red', 'blue', 'green|red', '')
    rows = [(item, n, words[n % 4], f'{n}.5') for n, item in enumerate(ITEMS)]

    def write(folder: Path) -> None:
        (folder / 'clicks.csv').write_text(_text(','))
        header = ('item_id', 'size', 'color', 'price')
        (folder / 'items.csv').write_text(_text(',', rows, header))

    def load(folder: Path) -> Any:
        return load_dataset(
            folder / 'clicks.csv',
            item_table='items.csv',
            item_columns=['size', 'color', 'price'],
            list_separator='|',
        )

    return Reader(write, load, 'items.csv')


def _ids_and_texts() -> Reader:
    def write(folder: Path) -> None:
        (folder / 'ids.txt').write_text('\n'.join(ITEMS))
        rows = [(item, f'The title of {item}') for item in ITEMS]
        (folder / 'titles.csv').write_text(_text(',', rows, ('item_id', 'title')))

    def load(folder: Path) -> Any:
        titles = folder / 'titles.csv'
        return (
            read_id_order(folder / 'ids.txt', 'item', None),
            read_titles(titles, None, 'title'),
            table_contents(titles, 'title'),
        )

    return Reader(write, load)


def _edges(split: Any, part: str) -> Any:
    graph = getattr(split, part)['user', 'interacts', 'item']
    return graph.edge_index if part == 'train' else graph.edge_label_index


@cache
def _split() -> Any:
    return split_per_user(make_synthetic_dataset(12, 16, 2), 0.2, 0.2)


def _mmssl(folder: Path) -> None:
    for part in ('train', 'val', 'test'):
        lists: dict[str, list[int]] = {}
        for user, item in _edges(_split(), part).t().tolist():
            lists.setdefault(str(user), []).append(item)
        (folder / f'{part}.json').write_text(json.dumps(lists))
    np.save(folder / 'text_feat.npy', _split().train['item'].x_text.numpy())


def _diffmm(folder: Path) -> None:
    from scipy.sparse import coo_matrix, csr_matrix

    names = {'train': 'trnMat', 'val': 'valMat', 'test': 'tstMat'}
    for part, name in names.items():
        row, col = _edges(_split(), part).numpy()
        matrix = coo_matrix((np.ones(len(row)), (row, col)), shape=(12, 16))
        kind = csr_matrix if part == 'val' else coo_matrix
        (folder / f'{name}.pkl').write_bytes(pickle.dumps(kind(matrix)))
    np.save(folder / 'image_feat.npy', _split().train['item'].x_text.numpy())


def _mmrec(folder: Path) -> None:
    write_mmrec(_split(), folder / 'data', name='small')


def _recbole(folder: Path) -> None:
    header = ('user_id:token', 'item_id:token', 'timestamp:float', 'rating:float')
    (folder / 'small.inter').write_text(_text('\t', PAIRS, header))
    rows = [
        (item, f'title of {item}', '0.5 1.5 -2', f'a b{n % 3}', n)
        for n, item in enumerate(ITEMS)
    ]
    header = ('item_id:token', 'title:token_seq', 'x:float_seq', 'tags:token_seq')
    (folder / 'small.item').write_text(_text('\t', rows, (*header, 'price:float')))


def _load_recbole(folder: Path) -> Any:
    split = load_dataset(folder, item_columns=['x', 'tags', 'price'], min_rating=1)
    return split, read_recbole_texts(folder, ['title'])


def _pictures() -> Reader:
    from PIL import Image

    def write(folder: Path) -> None:
        for n, kind in enumerate(('png', 'jpg', 'webp', 'gif', 'bmp', 'tif')):
            picture = Image.new('RGB', (8, 8), (n * 20, 40, 80))
            picture.save(folder / f'i{n}.{kind}')

    def load(folder: Path) -> Any:
        from promptmm_pyg.content import ImageEncoder

        def mean(picture: Any) -> torch.Tensor:
            x = np.asarray(picture.resize((4, 4)), np.float32)
            return torch.from_numpy(x).permute(2, 0, 1)

        encoder = ImageEncoder(lambda x: x.mean((2, 3)), mean, width=3, name='mean')
        return encode_content(
            folder_contents(folder, 'images'), encoder, progress=False
        )

    return Reader(write, load)


def _texts() -> Reader:
    def write(folder: Path) -> None:
        for n in range(4):
            (folder / f'i{n}.txt').write_text(f'a text about {n}')

    def load(folder: Path) -> Any:
        return encode_content(folder_contents(folder, 'text'), progress=False)

    return Reader(write, load)


def _digest(value: Any) -> str:
    """A hash of nested tensors, arrays and JSON values."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous().numpy()
    if isinstance(value, np.ndarray):
        content = repr((value.dtype.str, value.shape)).encode() + (
            repr(value.tolist()).encode() if value.dtype == object else value.tobytes()
        )
        return hashlib.sha256(content).hexdigest()
    if isinstance(value, dict):
        return repr([(key, _digest(x)) for key, x in value.items()])
    if isinstance(value, list | tuple):
        return repr([_digest(x) for x in value])
    return repr(value)


def _content_cache() -> Reader:
    texts = {item: f'a text about {item}' for item in ITEMS}
    encoder = HashingTextEncoder(8)

    def load(folder: Path) -> Any:
        rows = encode_content(texts, encoder, cache=folder, progress=False)
        return rows.ids, rows.x, rows.mask

    return Reader(lambda folder: load(folder) and None, load, same=True)


def _dataset_cache() -> Reader:
    source = Path(tempfile.mkdtemp())
    _mmssl(source)

    def load(folder: Path) -> Any:
        return [
            [store.to_dict() for store in graph.stores]
            for graph in MultiModalDataset(folder, source).split
        ]

    return Reader(lambda folder: load(folder) and None, load, same=True)


def _knn_cache() -> Reader:
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))

    def load(folder: Path) -> Any:
        return cached_knn_graph(folder, x, 3)

    return Reader(lambda folder: load(folder) and None, load, same=True)


def _recommender(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 3, generator=generator)
    item_x = x @ torch.randn(3, 4, generator=generator)
    user_x = torch.randn(9, 4, generator=generator)
    seen = torch.stack([torch.arange(30) % 9, torch.arange(30)])
    mapper = FeatureMapper.fit({'text': x}, item_x, user_x=user_x, seen=seen)
    users, items = [f'u{n}' for n in range(9)], [f'i{n}' for n in range(30)]
    Recommender(
        user_x,
        item_x,
        user_ids=users,
        item_ids=items,
        seen=seen,
        titles={item: f'The {item}' for item in items},
        feature_mapper=mapper,
    ).save(folder / 'served')


def _load_recommender(folder: Path) -> Any:
    recommender = Recommender.load(folder / 'served')
    lists = recommender.recommend(['u0', 'u8'], k=5)
    new = recommender.feature_mapper({'text': torch.ones(1, 3)})
    titles = [recommender.titles.get(item) for item in lists.ids.ravel().tolist()]
    return lists.ids, lists.scores, titles, new


_TARGETS = {'user': torch.rand(12, 3), 'item': torch.rand(16, 3)}


def _save_targets(folder: Path) -> None:
    targets = SoftTargets(_TARGETS, {'text': _TARGETS})
    save_targets(folder / 'targets', targets, _split().train, top_k=3)


def _prompt() -> SoftPrompt:
    torch.manual_seed(0)
    return SoftPrompt({'user': torch.ones(5, 2), 'item': torch.rand(6, 2)}, 3)


def _load_prompt(folder: Path) -> Any:
    prompt = _prompt()
    load_prompt(folder / 'prompt', prompt)
    return dict(prompt.state_dict())


_STATE = {'a': torch.rand(3), 'b': {1: [None, 'x', 2.5]}, 'stop': True}
_RESULT = {
    'kind': 'quality',
    'name': 'x',
    'dataset': 'd',
    'protocol': {'seeds': [0]},
    'rows': [
        {
            'name': 'lightgcn',
            'best_params': {'l2': 0.1},
            'validation': {'mean': 0.1, 'std': 0.01, 'seeds': [0.1, 0.1]},
            'test': {'Recall@20': {'mean': 0.1, 'std': 0.01, 'seeds': [0.1, 0.1]}},
            'diff_vs_baseline': {'difference': 0.1, 'low': 0.0, 'high': 0.2},
        }
    ],
    'versions': {'torch': '2'},
}
_TOML = """\
kind = "promptmm_pyg.benchmark.experiments:Quality"
name = "small"
datasets = ["clicks"]
seeds = [0, 1]
extends = "base.toml"
[dataset.clicks]
prompt_channels = 8
training = {epochs = 3, learning_rate = 0.01}
[dataset.clicks.models.LightGCN]
num_layers = 2
"""


def _save_config(folder: Path) -> None:
    (folder / 'small.toml').write_text(_TOML)
    (folder / 'base.toml').write_text('[models]\nlightgcn = {l2 = [0.1, 0.2]}\n')


def _save_settings(folder: Path) -> None:
    (folder / 'a.toml').write_text('epochs = 3\nloss-weight = {bpr = 1.0}\n')
    (folder / 'b.json').write_text('{"epochs": 3, "features": {"text": "x.csv"}}')


@cache
def run_folder() -> Path:
    """A trained, distilled, evaluated and refitted run with an update."""
    folder = Path(tempfile.mkdtemp())
    (folder / 'clicks.csv').write_text(_text(','))
    x = np.random.default_rng(0).normal(size=(len(ITEMS), 3))
    rows = [(item, *row) for item, row in zip(ITEMS, x.tolist(), strict=True)]
    header = ('item_id', 'a', 'b', 'c')
    (folder / 'text.csv').write_text(_text(',', rows, header))
    titles = [(item, f'The {item}') for item in ITEMS]
    (folder / 'titles.csv').write_text(_text(',', titles, ('item_id', 'title')))
    new = [('u0', 'i9', 1_700_000_000, 3), ('u99', 'i1', 1_700_000_001, 4)]
    (folder / 'new.csv').write_text(_text(',', new))
    short = ['--epochs', '1', '--embedding-dim', '4', '--quiet']
    run = str(folder / 'run')
    data = [str(folder / 'clicks.csv'), '--features', f'text={folder / "text.csv"}']
    data += ['--titles', str(folder / 'titles.csv'), '--val-ratio', '0.2']
    commands = [
        ['train', *data, '--out', run, *short, '--prompt-dim', '2'],
        ['distill', run, *short],
        ['evaluate', run],
        ['evaluate', run, '--eval-split', 'test'],
        ['refit', run, '--quiet'],
        ['update', run, str(folder / 'new.csv')],
    ]
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        for words in commands:
            if main(words):
                raise RuntimeError(f'{words}: {output.getvalue()[-2000:]}')
    return folder


def _copy_run(folder: Path) -> None:
    shutil.copytree(run_folder() / 'run', folder / 'run')


def _load_models(folder: Path) -> Any:
    run = Run.open(folder / 'run')
    models = [run.teacher(), run.student(), run.baseline()]
    return [dict(model.state_dict()) for model in models]


def _load_records(folder: Path) -> Any:
    run = Run.open(folder / 'run')
    metrics = {name: run.metrics(name) for name in run.folders()}
    logs = [read_log(path) for path in sorted(run.path.rglob('log.jsonl'))]
    return metrics, run.student_config, run.describe_final(), logs


def _load_updates(folder: Path) -> Any:
    run = Run.open(folder / 'run')
    graph = merge_all(run.read_split(), updates_of(run))
    return [store.to_dict() for store in graph.stores]


def _load_served(folder: Path) -> Any:
    run = Run.open(folder / 'run')
    lists = [run.recommender(final=final).recommend(['u0']) for final in (True, False)]
    return [(x.ids, x.scores) for x in lists]


READERS: dict[str, Reader] = {
    'csv': Reader(_interactions('clicks.csv'), _load_table('clicks.csv')),
    'tsv': Reader(_interactions('clicks.tsv'), _load_table('clicks.tsv')),
    'jsonl': Reader(_interactions('clicks.jsonl'), _load_table('clicks.jsonl')),
    'parquet': Reader(_interactions('clicks.parquet'), _load_table('clicks.parquet')),
    'gzip': Reader(_interactions('clicks.csv.gz'), _load_table('clicks.csv.gz')),
    'zstd': Reader(_interactions('clicks.jsonl.zst'), _load_table('clicks.jsonl.zst')),
    'encoding': Reader(
        _interactions('clicks.txt'), _load_table('clicks.txt', encoding='cp1252')
    ),
    'features-csv': _features('csv'),
    'features-npy': _features('npy'),
    'features-parquet': _features('parquet'),
    'columns': _columns(),
    'ids': _ids_and_texts(),
    'mmssl': Reader(_mmssl, load_dataset),
    'diffmm': Reader(_diffmm, load_dataset),
    'mmrec': Reader(_mmrec, lambda folder: load_dataset(folder / 'data')),
    'recbole': Reader(_recbole, _load_recbole),
    'pictures': _pictures(),
    'texts': _texts(),
    'content-cache': _content_cache(),
    'dataset-cache': _dataset_cache(),
    'knn-cache': _knn_cache(),
    'recommender': Reader(_recommender, _load_recommender, same=True),
    'targets': Reader(
        _save_targets,
        lambda folder: load_targets(folder / 'targets', _split().train),
        same=True,
    ),
    'prompt': Reader(
        lambda folder: save_prompt(folder / 'prompt', _prompt()),
        _load_prompt,
        same=True,
    ),
    'checkpoint': Reader(
        lambda folder: save_state(folder / 'state', _STATE),
        lambda folder: load_state(folder / 'state'),
        same=True,
    ),
    'features-file': Reader(
        lambda folder: save_features(folder / 'x', torch.rand(9, 3)) and None,
        lambda folder: open_features(folder / 'x', verify=True),
        same=True,
    ),
    'result': Reader(
        lambda folder: (folder / 'r.json').write_text(json.dumps(_RESULT)) and None,
        lambda folder: load_result(folder / 'r.json'),
    ),
    'benchmark-config': Reader(
        _save_config, lambda folder: load_config(folder / 'small.toml')
    ),
    'settings': Reader(
        _save_settings,
        lambda folder: [read_settings(folder / name) for name in ('a.toml', 'b.json')],
    ),
    'run-models': Reader(_copy_run, _load_models, 'run/**/model.safetensors', True),
    'run-config': Reader(_copy_run, _load_models, 'run/**/config.json'),
    'run-records': Reader(_copy_run, _load_records, 'run/**/*.json*'),
    'run-updates': Reader(_copy_run, _load_updates, 'run/updates/*/*', True),
    'run-served': Reader(_copy_run, _load_served, 'run/**/recommender/*', True),
}
