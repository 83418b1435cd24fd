"""The data of a run: what training requires of them, and the inputs of the models."""

import copy
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch_geometric.data import HeteroData

from promptmm_pyg._utils import counted
from promptmm_pyg.content import (
    ContentEncoder,
    ContentRows,
    HashingTextEncoder,
    SentenceTransformerEncoder,
    encode_content,
    folder_contents,
    join_content,
    table_contents,
    timm_encoder,
    torchvision_encoder,
)
from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    USER,
    Issue,
    Split,
    make_synthetic_dataset,
    modality_mask_dict,
    modality_x_dict,
    read_recbole_texts,
    validate,
)
from promptmm_pyg.data.interactions import id_column, read_lines
from promptmm_pyg.data.load import apply_split, read_resolved
from promptmm_pyg.data.split import held_out
from promptmm_pyg.data.tables import read_file
from promptmm_pyg.models.inference import normalized_adj_dict
from promptmm_pyg.transforms import (
    AddModalityICA,
    AddModalityPCA,
    AddRandomPrompt,
    StandardizeModalities,
)

HASHING = 'hashing'
_PROMPT_STARTS: dict[str, Callable[..., Any]] = {
    'pca': AddModalityPCA,
    'ica': AddModalityICA,
    'random': lambda out_channels, _: AddRandomPrompt(out_channels),
}


class RunError(ValueError):
    """A run, its data or its settings cannot be used; the message names the fix."""


class Prepared(NamedTuple):
    """The graphs of a run; the training graph is ready for the models."""

    train: HeteroData
    val: HeteroData
    test: HeteroData
    inputs: tuple[Any, ...]
    """The arguments of every model."""

    @property
    def split(self) -> Split:
        """The three graphs."""
        return Split(self.train, self.val, self.test)

    def to(self, device: torch.device) -> 'Prepared':
        """Moves a copy of the training graph and the inputs to a device."""
        # A graph moves in place, and a shallow copy is not the graph.
        train = copy.copy(self.train).to(str(device))
        inputs = tuple(
            {key: adj.to(device) for key, adj in operators.items()}
            for operators in self.inputs
        )
        return self._replace(train=train, inputs=inputs)


def prepare(split: Split, prompt: Mapping[str, Any] | None) -> Prepared:
    """Standardizes the features and computes the start of the prompt.

    Args:
        split: The graphs as they were read.
        prompt: ``start`` (``'pca'``, ``'ica'`` or ``'random'``), ``out_channels`` and
            ``combine``; ``None`` for no prompt.

    Raises:
        RunError: If there is a prompt, but no item features.
    """
    train = StandardizeModalities()(split.train)
    if prompt is not None:
        if not any(ITEM in x_dict for x_dict in modality_x_dict(train).values()):
            raise RunError(
                'a prompt requires item features (got none). Pass --features '
                'NAME=FILE, --text SOURCE or --images FOLDER, or --no-prompt to train '
                'on ids alone'
            )
        transform = _PROMPT_STARTS[prompt.get('start', 'pca')]
        train = transform(prompt['out_channels'], prompt.get('combine', 'concat'))(
            train
        )
    return Prepared(train, split.val, split.test, (normalized_adj_dict(train),))


def load_split(config: Mapping[str, Any]) -> Split:
    """Reads the data set of a configuration and encodes its texts and images."""
    split = _load(config)
    for content in config.get('content', []):
        rows = encode(content, contents_of(content))
        node_type = content.get('node_type', ITEM)
        split = join_content(split, rows, content['modality'], node_type=node_type)
    return split


def _load(config: Mapping[str, Any]) -> Split:
    if config['format'] == 'synthetic':
        graph = make_synthetic_dataset(**config['synthetic'])
        return apply_split(config['split'], graph)
    options = {key: value for key, value in config.items() if key != 'content'}
    for name in ('user', 'item', 'split') if config['format'] == 'table' else ():
        _ = config[name]  # Nothing of a damaged configuration is guessed.
    return read_resolved(options)


def hash_split(split: Split) -> str:
    """A hash of all that a model learns from or is evaluated on."""
    digest = hashlib.sha256()
    tensors = {
        name: graph[INTERACTS].edge_label_index
        for name, graph in split._asdict().items()
    }
    tensors['edges'] = split.train[INTERACTS].edge_index
    for read in (modality_x_dict, modality_mask_dict):
        for modality, x_dict in read(split.train).items():
            for node_type, x in x_dict.items():
                tensors[f'{read.__name__}/{modality}/{node_type}'] = x
    for name, x in sorted(tensors.items()):
        digest.update(f'{name}{list(x.shape)}{x.dtype}'.encode())
        digest.update(x.contiguous().numpy().tobytes())
    for node_type in (USER, ITEM):
        digest.update(json.dumps(split.train[node_type].raw_id.tolist()).encode())
    return digest.hexdigest()


def read_ids(path: str | Path, encoding: str | None = None) -> list[str]:
    """The ids of a file, one per line, as written; empty lines are none.

    Raises:
        RunError: If there is no such file.
        ValueError: If it is not text in the encoding.
    """
    if not Path(path).is_file():
        raise RunError(f"there is no file '{path}' of ids, one per line")
    return read_lines(Path(path), encoding)


def read_titles(
    path: str | Path, item: str | None, title: str, encoding: str | None = None
) -> dict[str, str]:
    """Titles by the text of the raw item id, from a table with both columns.

    Args:
        path: The table.
        item: The column of item ids. (``None``: recognized by its name)
        title: The column of titles.
        encoding: The encoding of the file. (default: ``'utf-8'``)

    Raises:
        RunError: If the file is missing.
        ValueError: If it is damaged, or a column is missing.
    """
    if not Path(path).is_file():
        raise RunError(f"there is no file '{path}' of titles")
    table = read_file(path, encoding=encoding, caller='--titles')
    table.check_column(title, '--title-column')
    ids = table.ids(id_column(table, item), '--item-column')
    names = [str(raw) for raw in ids.values.to_pylist()]
    titles = table.texts(title).to_pylist()
    pairs = zip(ids.codes.tolist(), titles, strict=True)
    return {names[code]: text for code, text in pairs if text}


def warn_titles(
    path: str | Path, titles: Mapping[str, str], ids: Iterable[Any]
) -> None:
    """Warns on stderr of titles that match no item where items lack one.

    Raises:
        RunError: If the ids are those of the items but shifted by one: the titles would
            be those of other items.
    """
    items = {str(raw) for raw in ids}
    _check_not_shifted(path, titles, items)
    unknown = [raw for raw in titles if raw not in items]
    without = [raw for raw in items if raw not in titles]
    if not without or (titles and not unknown):
        return
    example = f', such as {unknown[0]!r}' if unknown else ''
    print(
        f"warning: --titles '{path}': {len(unknown)} of {len(titles)} titles match no "
        f'item{example}, and {len(without)} of {len(items)} items have no title, such '
        f'as {min(without)!r}. Compare how ids are written',
        file=sys.stderr,
    )


def _check_not_shifted(
    path: str | Path, titles: Mapping[str, str], items: set[str]
) -> None:
    if not all(raw.isdecimal() for raw in (*titles, *items)):
        return
    named, known = ({int(raw) for raw in ids} for ids in (titles, items))
    for shift in (1, -1):
        if not known <= named and {raw + shift for raw in known} <= named:
            raise RunError(
                f"--titles '{path}' must have the ids of the items (got {min(named)} "
                f'to {max(named)} for items {min(known)} to {max(known)}). They seem '
                f'to be shifted by one, and each title would be that of another item'
            )


def contents_of(config: Mapping[str, Any]) -> Mapping[Any, str | Path | None]:
    """The texts, or the paths of the images, by raw item id."""
    if config['kind'] in ('text', 'images'):
        return folder_contents(config['path'], config['kind'])
    if config['kind'] == 'recbole':
        return read_recbole_texts(config['path'], [config['column']])
    return table_contents(
        config['path'],
        config['column'],
        item=config['item'],
        separator=config.get('separator'),
        encoding=config.get('encoding'),
    )


def encode(
    config: Mapping[str, Any], contents: Mapping[Any, str | Path | None]
) -> ContentRows:
    """One row per content; those that cannot be read are counted on stderr."""
    rows = encode_content(
        contents,
        _encoder(config['modality'], config['encoder']),
        cache=config['cache'],
        progress=sys.stderr.isatty(),
    )
    broken = {name: why for name, why in rows.problems.items() if why != 'is missing'}
    if broken:
        name, why = next(iter(broken.items()))
        print(
            f'warning: {len(broken)} of {len(contents)} contents for '
            f"'{config['modality']}' are treated as missing; the first: '{name}' {why}",
            file=sys.stderr,
        )
    return rows


def _encoder(modality: str, name: str) -> ContentEncoder:
    if modality in ('text', 'user_text'):
        is_hashing = name == HASHING
        return HashingTextEncoder() if is_hashing else SentenceTransformerEncoder(name)
    if name.startswith('timm:'):
        return timm_encoder(name.removeprefix('timm:'))
    return torchvision_encoder(name)


_TOLERANCE = 0.01  # Shares that differ by less from those requested are as requested.


def data_issues(split: Split, config: Mapping[str, Any]) -> list[Issue]:
    """All issues of data to train on, errors first: those of
    :func:`~promptmm_pyg.data.validate`, an empty validation part, shares that differ
    from those requested, and random held-out interactions in place of the latest.

    Args:
        split: The data as they were read.
        config: The settings of the data, with ``split``.
    """
    issues = [*validate(split), *_split_issues(split, config.get('split'))]
    if split.val[INTERACTS].edge_label_index.size(1) == 0:
        where = 'val: edge_label_index'
        problem = (
            'contains no positives: the data must hold out interactions for '
            'validation, which chooses the epoch'
        )
        issues = [issue for issue in issues if issue.where != where]
        fix = 'Hold some out (--val-ratio, --val-file)'
        issues.append(Issue('error', where, problem, fix))
    return sorted(issues, key=lambda issue: issue.level)


def _split_issues(split: Split, method: Any) -> list[Issue]:
    options = method if isinstance(method, Mapping) else {}
    issues = []
    if options.get('by') == 'random':
        problem = (
            'leave-one-out without times holds out random interactions, not the latest'
        )
        fix = 'Name the column of times (--time-column), if there is one'
        issues.append(Issue('warning', 'split', problem, fix))
    if options.get('method') not in ('per-user', 'time'):
        return issues
    shares = held_out(split)
    val, test = options.get('val_ratio', 0.1), options.get('test_ratio', 0.1)
    if max(abs(shares.val - val), abs(shares.test - test)) > _TOLERANCE:
        problem = f'{shares}; requested {val:.1%} and {test:.1%}'
        fix = (
            'Users with few interactions have at least one in each part, and at least '
            'one in training: metrics are those of this split'
        )
        issues.append(Issue('warning', 'split', problem, fix))
    return issues


def check_data(split: Split, config: Mapping[str, Any]) -> None:
    """Shows the warnings about the data of a run on stderr.

    Raises:
        RunError: If the data have errors.
    """
    issues = data_issues(split, config)
    errors = [issue for issue in issues if issue.level == 'error']
    if errors:
        path = config['path']
        raise RunError(
            f'the data have {counted(len(errors), "error")}; the first: {errors[0]}. '
            f"List all with 'promptmm data check {path}'"
        )
    for issue in issues:
        print(f'warning: {issue}', file=sys.stderr)
