"""The configuration of a benchmark: a TOML file, and the data sets that it names."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from inspect import signature
from itertools import product
from pathlib import Path
from typing import Any

from torch_geometric.data import HeteroData

from promptmm_pyg._reading import DAMAGE, read_toml
from promptmm_pyg.benchmark.registry import check_keys, check_params
from promptmm_pyg.data import (
    Split,
    load_dataset,
    make_synthetic_dataset,
    split_per_user,
)
from promptmm_pyg.distillation import CandidateSampling
from promptmm_pyg.limits import TOML_BYTES
from promptmm_pyg.transforms import (
    AddBipartiteNorm,
    AddModalityPCA,
    StandardizeModalities,
)
from promptmm_pyg.tuning.tune import TRAINING

Params = Mapping[str, Any]
_COMMON = ('kind', 'name', 'extends', 'datasets', 'dataset', 'seeds')


@dataclass(frozen=True)
class Dataset:
    """A data set and its hyper-parameters, all chosen on validation.

    Hyper-parameters are flat: arguments of the constructor, loss weights (by the names
    in ``loss_weights`` of the class) and fields of ``TrainingConfig`` side by side.
    """

    name: str
    load: Params = field(default_factory=dict)
    """Arguments of ``load_dataset``; ``file`` is a table in the folder."""
    synthetic: Params | None = None
    """Arguments of ``make_synthetic_dataset``, for data that need no files."""
    prompt_channels: int = 32
    """Number of principal components that the prompt starts from."""
    training: Params = field(default_factory=dict)
    """Fields of ``TrainingConfig`` for every model."""
    candidates: Params = field(default_factory=dict)
    """Fields of ``CandidateSampling`` for every student."""
    models: Mapping[str, Params] = field(default_factory=dict)
    """Hyper-parameters per model."""
    students: Mapping[str, Params] = field(default_factory=dict)
    """Hyper-parameters per student; ``baseline_l2`` is the penalty of its baseline,
    which is tuned separately."""
    folder: Path | None = None
    """Folder of its files."""

    def read(self) -> Split:
        """The split, without transforms.

        Raises:
            ValueError: If a data set that is not synthetic has no folder.
        """
        if self.synthetic is not None:
            return split_per_user(self.read_graph())
        if self.folder is None:
            raise ValueError(
                f"'data' must be the folder of {self.name!r} (got none). Name it with "
                f'--data'
            )
        options = dict(self.load)
        return load_dataset(self.folder / options.pop('file', ''), **options)

    def read_graph(self) -> HeteroData:
        """The synthetic graph before it is split."""
        assert self.synthetic is not None
        return make_synthetic_dataset(**self.synthetic)

    def prepare(self, train: HeteroData) -> HeteroData:
        """Standardized features, edge weights and the start of the prompt."""
        train = AddBipartiteNorm()(StandardizeModalities()(train))
        return AddModalityPCA(self.prompt_channels)(train)

    def protocol(self) -> dict[str, Any]:
        """All settings, for the result file."""
        return {k: v for k, v in asdict(self).items() if k != 'folder' and v}


@dataclass(frozen=True)
class BenchmarkConfig:
    """The content of a configuration file."""

    kind: str
    name: str
    datasets: tuple[Dataset, ...]
    seeds: tuple[int, ...]
    options: Params
    """Fields of the kind of experiment."""


def load_config(
    path: str | Path,
    *,
    data: str | Path | None = None,
    datasets: Sequence[str] = (),
    seeds: Sequence[int] = (),
    overrides: Sequence[str] = (),
) -> BenchmarkConfig:
    """Reads a configuration.

    Args:
        path: The TOML file. With ``extends``, the tables of that file (relative to this
            one) are read first.
        data: Folder of the data set, or a folder of folders named as the data sets.
        datasets: Names in place of those in the file; one without settings has the
            defaults of :class:`~promptmm_pyg.benchmark.Dataset`. (default: those in
            the file)
        seeds: Training seeds in place of those in the file.
        overrides: ``'key=value'``, with the value in TOML and dots for keys of tables.

    Raises:
        ValueError: If a key is missing or unknown, or an override cannot be read.
    """
    path = Path(path)
    table = _read(path)
    for text in overrides:
        _override(table, text)
    try:
        selected = _datasets(table, datasets)
        names = [dataset.name for dataset in selected]
        for name in names if 'kind' in table else ():
            _check_exists(name, data, table.get('dataset', {}))
    except DAMAGE as error:
        raise ValueError(f"'{path}': {error}") from error
    for key, value in (('kind', table.get('kind')), ('datasets', selected)):
        if not value:
            raise ValueError(f"'{path}' must have the key {key!r} (got {list(table)})")
    return BenchmarkConfig(
        table['kind'],
        table.get('name', path.stem),
        tuple(replace(d, folder=_folder(data, d.name, names)) for d in selected),
        tuple(seeds or table.get('seeds', range(5))),
        {k: v for k, v in table.items() if k not in _COMMON},
    )


_TYPES: dict[str, type] = {
    'kind': str,
    'name': str,
    'extends': str,
    'datasets': list,
    'seeds': list,
}
_TYPES |= {'dataset': dict}
_ENTRIES = {'datasets': str, 'seeds': int}


def _read(path: Path, extended: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path in extended:
        raise ValueError(f"'{path}' must not extend itself (got {extended[-1].name!r})")
    table = read_toml(path, TOML_BYTES)
    for key, kind in _TYPES.items():
        value: Any = table.get(key, kind())
        entries = value if isinstance(value, list) else []
        wrong = [x for x in entries if type(x) is not _ENTRIES[key]]
        if wrong or not isinstance(value, kind):
            raise ValueError(
                f"'{path}' must have {kind.__name__} as {key!r} (got {value!r:.200})"
            )
    for name, values in table.get('dataset', {}).items():
        if not isinstance(values, dict):
            raise ValueError(f"'{path}' must have a table [dataset.{name}] (got none)")
    if 'extends' in table:
        base = _read(path.parent / table['extends'], (*extended, path))
        table = _merge(base, table)
    return table


def _merge(base: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in other.items():
        if isinstance(out.get(key), dict) and isinstance(value, dict):
            value = _merge(out[key], value)
        out[key] = value
    return out


def _override(table: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition('=')
    *parents, last = key.strip().split('.')
    if not equals or not last:
        raise ValueError(f"'overrides' must be key=value (got {text!r})")
    try:
        parsed = tomllib.loads(f'value = {value}')['value']
    except tomllib.TOMLDecodeError:
        parsed = value  # A bare word.
    for parent in parents:
        table = table.setdefault(parent, {})
    table[last] = parsed


def _datasets(table: Mapping[str, Any], names: Sequence[str]) -> list[Dataset]:
    known = {f.name for f in fields(Dataset)} - {'name', 'folder'}
    settings = table.get('dataset', {})
    for name, values in settings.items():
        check_keys(f'dataset.{name}', values, known)
        _check_dataset(f'dataset.{name}', values)
    names = list(dict.fromkeys(names or table.get('datasets', ())))
    return [Dataset(name, **settings.get(name, {})) for name in names]


def _check_dataset(name: str, values: Mapping[str, Any]) -> None:
    """Raises unless all names in the settings of a data set are known."""
    check_keys(f'{name}.training', values.get('training', ()), TRAINING)
    known = CandidateSampling._fields
    check_keys(f'{name}.candidates', values.get('candidates', ()), known)
    for model, params in values.get('models', {}).items():
        check_params(f'{name}.models', model, params)
    for model, params in values.get('students', {}).items():
        check_params(f'{name}.students', model, params, ('baseline_l2',))
    if values.get('synthetic') is not None:
        parameters = signature(make_synthetic_dataset).parameters
        check_keys(f'{name}.synthetic', values['synthetic'], parameters)


def _check_exists(
    name: str, data: str | Path | None, settings: Mapping[str, Any]
) -> None:
    """Raises if a data set has neither settings nor a folder."""
    if data is None:
        if name not in settings:
            raise ValueError(
                f"'datasets' must be among {sorted(settings)}, which have settings, or "
                f'have a folder (got {name!r}). Name the folder with --data'
            )
        return
    if not Path(data).exists():
        raise ValueError(f"'data' must be a folder (got '{data}', which is missing)")
    if Path(data).is_file():
        return
    folders = {x.name for x in Path(data).iterdir() if x.is_dir()}
    if settings.get(name, {}).get('synthetic') is None and name not in folders:
        others = sorted(folders & set(settings))
        if others:
            raise ValueError(
                f"'datasets' must be among the folders in '{data}', such as {others} "
                f'(got {name!r})'
            )


def _folder(data: str | Path | None, name: str, names: Sequence[str]) -> Path | None:
    if data is None:
        return None
    inner = Path(data) / name
    if inner.is_dir():
        return inner
    return Path(data) if len(names) == 1 else None


def grid(trials: Params | Sequence[Params]) -> tuple[dict[str, Any], ...]:
    """Trials as a tuple of hyper-parameters: a list as it is; a table of lists as their
    product, whose first key changes slowest.

    Example:
        >>> grid({'l2': [0.1, 0.2], 'k': [5]})
        ({'l2': 0.1, 'k': 5}, {'l2': 0.2, 'k': 5})
    """
    if isinstance(trials, Mapping):
        values = product(*trials.values())
        return tuple(dict(zip(trials, row, strict=True)) for row in values)
    return tuple(dict(trial) for trial in trials)
