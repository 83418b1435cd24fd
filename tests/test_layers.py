"""Who may import whom, read from every import of the package."""

import ast
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import promptmm_pyg

ROOT = Path(promptmm_pyg.__file__).parent
NAME = 'promptmm_pyg'

PYG = {'torch', 'torch_geometric'}
CORE = {'numpy', 'psutil', 'safetensors', 'tqdm'}
# Extras: inside the function that uses them, and not in the lightest layers.
OPTIONAL = {'faiss', 'matplotlib', 'narwhals', 'pandas', 'pyarrow', 'scipy', 'sklearn'}
OPTIONAL |= {'torch_scatter', 'torch_sparse'}
OPTIONAL |= {'huggingface_hub', 'lancedb', 'onnx', 'ray'}
OPTIONAL |= {'fastapi', 'prometheus_client', 'pydantic', 'uvicorn'}
OPTIONAL |= {'PIL', 'sentence_transformers', 'timm', 'torchvision'}
READING = {'_files', '_reading', 'limits'}
MODELS = {'_utils', 'targets', 'functional', 'ranking', 'losses', 'data', 'transforms'}
MODELS |= {*READING, 'loader', 'nn', 'evaluation'}


class May(NamedTuple):
    """What a layer may import."""

    layers: set[str]
    packages: set[str]
    optional: set[str] = OPTIONAL
    deferred_layers: frozenset[str] = frozenset()
    """Layers that only functions may import."""
    deferred_packages: frozenset[str] = frozenset()


LAYERS = {
    '__init__': May(
        {*MODELS, 'models', 'training', 'distillation', 'serving', 'runs'}, set()
    ),
    '__main__': May({'cli'}, set(), set()),
    'limits': May(set(), set(), set(), deferred_packages=frozenset({'psutil'})),
    '_reading': May(
        {'limits'},
        set(),
        set(),
        deferred_packages=frozenset({'safetensors', 'torch'}),
    ),
    '_files': May(
        {'_reading'},
        set(),
        set(),
        deferred_packages=frozenset({'safetensors', 'torch'}),
    ),
    '_utils': May(set(), {'torch'}, set()),
    'search_space': May(set(), set(), set(), deferred_packages=frozenset({'optuna'})),
    '_distributed': May(set(), {'torch'}, set()),
    'hub': May({'_utils'}, set(), {'huggingface_hub'}),
    'functional': May({'_utils'}, {'torch'}, set()),
    'losses': May({'_utils', 'functional'}, {'torch'}, set()),
    'ranking': May({'_utils', 'functional'}, {'torch'}, {'faiss'}),
    'serving': May(
        {*READING, '_utils', 'functional', 'hub', 'ranking'},
        {'torch', 'numpy', 'safetensors'},
        deferred_layers=frozenset(
            {'data.schema', 'data.split', 'models.inference', 'targets'}
        ),
        deferred_packages=frozenset({'torch_geometric'}),
    ),
    'data': May({*READING, '_utils'}, {*PYG, 'numpy', 'safetensors'}),
    '_progress': May(set(), {'tqdm'}),
    'content': May(
        {
            *(
                '_progress',
                *READING,
                '_utils',
                'data.interactions',
                'data.schema',
                'data.split',
                'data.tables',
            )
        },
        {*PYG, *CORE},
    ),
    'transforms': May({'_utils', 'data.schema'}, PYG),
    'loader': May({'_utils', 'data.schema'}, PYG),
    'targets': May(
        {*READING, '_utils', 'data.schema', 'ranking'},
        {*PYG, 'safetensors'},
    ),
    'nn': May(
        {*READING, '_distributed', '_utils', 'functional', 'targets', 'ranking'},
        {*PYG, 'safetensors'},
    ),
    'models': May(
        {'_utils', 'targets', 'functional', 'losses', 'nn', 'loader', 'transforms'}
        | {'data', 'limits', 'search_space'},
        PYG,
    ),
    'evaluation': May(
        {'_utils', '_distributed', 'functional', 'ranking', 'models', 'data.schema'},
        PYG,
    ),
    'training': May(
        {*MODELS, '_distributed', '_progress', 'models'}, {*PYG, 'safetensors'}
    ),
    'distillation': May({*MODELS, '_distributed', 'models', 'training'}, PYG),
    'tuning': May(
        {*MODELS, '_progress', 'search_space', 'models', 'training'},
        {'torch', 'tqdm'},
        {'optuna'},
    ),
    'explain': May(
        {'_utils', 'data.schema', 'nn', 'models', 'targets', 'functional'}, PYG
    ),
    'report': May(
        {'data.schema', 'evaluation', 'ranking', 'serving'}, {*PYG, 'jinja2'}, set()
    ),
    # What is run from a shell may use every core dependency.
    'viz': May({'_files', '_utils', 'explain.pca_map'}, {'torch'}),
    'runs': May(
        {NAME, *MODELS, 'models', 'content', 'training', 'distillation', 'serving'}
        | {'search_space', 'tuning'},
        {*PYG, 'filelock', 'numpy', 'safetensors'},
    ),
    'benchmark': May(
        {NAME, *MODELS, 'models', 'content', 'training', 'distillation', 'serving'}
        | {'_progress', 'search_space', 'tuning', 'viz'},
        {*PYG, *CORE},
    ),
    'adapters': May({*MODELS, 'models', 'serving', 'training'}, {*PYG, 'numpy'}),
    'auto': May({*MODELS, 'models', 'distillation', 'training', 'runs', 'tuning'}, PYG),
    'cluster': May(
        {*READING, '_distributed', '_utils', 'content', 'serving', 'training'}, set()
    ),
    'cli': May(
        {NAME, *MODELS, 'models', 'content', 'training', 'distillation', 'serving'}
        | {'_progress', 'viz', 'explain', 'report', 'runs', 'benchmark', 'tuning'}
        | {'auto', 'cluster'},
        {*PYG, *CORE},
    ),
}
LIGHT = ['functional', 'losses', 'ranking', 'serving']


def present() -> list[str]:
    """The modules and subpackages that stand directly in the package."""
    folders = {path.parent.name for path in ROOT.glob('*/*.py')}
    return sorted(folders | {path.stem for path in ROOT.glob('*.py')})


def files(layer: str) -> list[Path]:
    folder = ROOT / layer
    return sorted(folder.rglob('*.py')) if folder.is_dir() else [ROOT / f'{layer}.py']


def walk(node: ast.AST, deferred: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node, and whether it is run later than the import of its module."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield child, deferred
        later = isinstance(child, functions) or (
            isinstance(child, ast.If) and 'TYPE_CHECKING' in ast.unparse(child.test)
        )
        yield from walk(child, deferred or later)


def is_module(name: str) -> bool:
    path = ROOT.parent.joinpath(*name.split('.'))
    return path.is_dir() or path.with_suffix('.py').is_file()


def imports(source: str, package: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    """Full names of what a file of ``package`` imports, and whether later."""
    for node, deferred in walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, deferred
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = '.'.join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f'{module}.{alias.name}'
                yield (name if is_module(name) else module), deferred


def violations(source: str, layer: str, package: tuple[str, ...]) -> list[str]:
    """The imports that the table does not list for ``layer``."""
    may = LAYERS[layer]
    found = []
    for name, deferred in imports(source, package):
        top, *inside = name.split('.')
        if top == NAME:
            target = '.'.join(inside) or NAME
            parts = target.split('.')
            prefixes = {'.'.join(parts[:n]) for n in range(1, len(parts) + 1)}
            layers = may.layers | (may.deferred_layers if deferred else set())
            fine = bool(prefixes & {*layers, layer})
        else:
            late = may.optional | may.deferred_packages
            allowed = may.packages | (late if deferred else set())
            fine = top in allowed or top in sys.stdlib_module_names
        if not fine:
            found.append(name)
    return found


@pytest.mark.parametrize('layer', [name for name in present() if name in LAYERS])
def test_a_layer_imports_only_what_it_may(layer):
    for path in files(layer):
        package = path.relative_to(ROOT.parent).parent.parts
        extra = violations(path.read_text(), layer, package)
        assert not extra, f'{path.relative_to(ROOT)} imports {extra}'


def test_every_module_has_its_place_in_the_table():
    assert set(present()) <= set(LAYERS)


def test_the_light_layers_load_neither_pyg_nor_pandas():
    # In a process of its own; an import hidden from the table shows here.
    heavy = ['torch_geometric', *sorted(OPTIONAL), 'torchmetrics', 'scipy', 'faiss']
    heavy += [f'{NAME}.nn', f'{NAME}.data']
    code = (
        'import sys, time, torch\n'
        'start = time.process_time()\n'
        f'from {NAME} import Recommender\n'
        'print(time.process_time() - start)\n'
        f'import {", ".join(f"{NAME}.{layer}" for layer in LIGHT)}\n'
        f'print([name for name in {heavy} if name in sys.modules])\n'
        f'import {NAME}.viz as viz\n'
        "print('matplotlib' in sys.modules)\n"
        "viz.plot_metric_bars({'a': viz.Bar(1, 1, 1)})\n"
        "print('matplotlib.pyplot' in sys.modules)\n"
    )
    out = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    seconds, *loaded = out.stdout.splitlines()
    assert loaded == ['[]', 'False', 'False']
    assert float(seconds) <= 0.5


def test_the_table_has_no_cycles():
    graph = {
        layer: {target.split('.')[0] for target in may.layers | may.deferred_layers}
        - {NAME}
        for layer, may in LAYERS.items()
    }
    while graph:
        leaves = {layer for layer, below in graph.items() if not below & set(graph)}
        assert leaves, f'a circle among {sorted(graph)}'
        graph = {layer: below for layer, below in graph.items() if layer not in leaves}


@pytest.mark.parametrize(
    ('source', 'expected'),
    [
        ('import numpy.linalg as la', [('numpy.linalg', False)]),
        ('import promptmm_pyg.nn', [('promptmm_pyg.nn', False)]),
        ('from promptmm_pyg import nn', [('promptmm_pyg.nn', False)]),
        ('from promptmm_pyg import __version__', [('promptmm_pyg', False)]),
        ('from promptmm_pyg.data import schema', [('promptmm_pyg.data.schema', False)]),
        ('from promptmm_pyg.data import INTERACTS', [('promptmm_pyg.data', False)]),
        ('from . import ranking', [('promptmm_pyg.losses.ranking', False)]),
        ('from ..nn.csr import CSRPair', [('promptmm_pyg.nn.csr', False)]),
        ('from .. import data', [('promptmm_pyg.data', False)]),
        ('class A:\n    import pandas', [('pandas', False)]),
        ('try:\n    import pandas\nexcept ImportError: pass', [('pandas', False)]),
        ('def f():\n    if 1:\n        import pandas', [('pandas', True)]),
        ('if TYPE_CHECKING:\n    import pandas', [('pandas', True)]),
    ],
)
def test_every_form_of_import_is_read(source, expected):
    assert list(imports(source, (NAME, 'losses'))) == expected


@pytest.mark.parametrize(
    ('layer', 'source'),
    [
        ('losses', 'import torch_geometric'),
        ('losses', 'def f():\n    import pandas'),
        ('serving', 'from promptmm_pyg.nn import CSRPair'),
        ('serving', 'import pandas'),
        ('serving', 'import torch_geometric'),
        ('serving', 'from promptmm_pyg.models.inference import get_embeddings'),
        ('serving', 'def f():\n    from promptmm_pyg.training import train'),
        ('nn', 'from promptmm_pyg.data.schema import USER'),
        ('evaluation', 'from promptmm_pyg.data.build import build_graph'),
        ('loader', 'from promptmm_pyg.data import USER'),
        ('training', 'from promptmm_pyg import serving'),
        ('data', 'import pandas'),
        ('data', 'import promptmm_pyg'),
    ],
)
def test_an_import_that_is_not_in_the_table_is_found(layer, source):
    assert violations(source, layer, (NAME, layer))


@pytest.mark.parametrize(
    ('layer', 'source'),
    [
        ('serving', 'def f():\n    import pandas'),
        ('serving', 'def f():\n    from promptmm_pyg.data.schema import USER'),
        ('evaluation', 'from promptmm_pyg.data.schema import USER'),
        ('nn', 'from .csr import CSRPair'),
        ('training', 'from promptmm_pyg.data import build_graph'),
        ('losses', 'import math, torch.nn.functional'),
    ],
)
def test_an_import_of_the_table_passes(layer, source):
    assert not violations(source, layer, (NAME, layer))


PICTURE = runpy.run_path(str(ROOT.parent / 'docs' / '_ext' / 'architecture.py'))


def imported_layers(layer: str) -> set[str]:
    """The other layers that a layer imports, now or later."""
    names = {
        tuple(name.split('.'))
        for path in files(layer)
        for name, _ in imports(
            path.read_text(), path.relative_to(ROOT.parent).parent.parts
        )
    }
    return {parts[1] for parts in names if parts[0] == NAME and len(parts) > 1}


@pytest.mark.parametrize(
    'arrow', PICTURE['ARROWS'], ids=lambda x: f'{x.source}-{x.target}'
)
def test_an_arrow_of_the_picture_is_an_import(arrow):
    ends = [end for end in arrow[:2] if PICTURE['STAGES'][end].package]
    uses = {end: imported_layers(end) for end in ends}
    if arrow.data_only:
        assert arrow.source not in uses.get(arrow.target, ())
        assert arrow.target not in uses.get(arrow.source, ())
    else:
        assert arrow.source in uses[arrow.target]


def test_the_picture_shows_existing_packages():
    stages = PICTURE['STAGES'].items()
    assert {name for name, stage in stages if stage.package} <= set(LAYERS)


def test_the_committed_picture_is_the_drawn_one():
    assert PICTURE['FILE'].read_text() == PICTURE['draw']()
