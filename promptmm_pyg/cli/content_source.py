"""The options for an item's own text and pictures, and what is made of them."""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptmm_pyg.cli.parsing import Group, UserError
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
from promptmm_pyg.data import Split, read_recbole_texts

HASHING = 'hashing'


def add_content_options(group: Group) -> None:
    """Adds ``--text``, ``--images`` and how to encode them."""
    group.add_argument(
        '--text',
        metavar='SOURCE',
        help="the items' texts: a folder of files <item id>.txt, a column of the "
        'table (RecBole: of the .item file), or FILE.csv:COLUMN with the item column',
    )
    group.add_argument(
        '--images',
        metavar='FOLDER',
        help="the items' pictures: a folder of files <item id>.jpg, .png, ...",
    )
    group.add_argument(
        '--text-encoder',
        default=HASHING,
        metavar='NAME',
        help="'hashing', which needs nothing, or a model or folder of "
        f'sentence-transformers (default: {HASHING})',
    )
    group.add_argument(
        '--image-encoder',
        default='vgg16',
        metavar='NAME',
        help="a classifier of torchvision, or 'timm:NAME' (default: vgg16)",
    )
    group.add_argument(
        '--content-cache',
        metavar='FOLDER',
        help='where encoded contents are kept, for all runs (default: '
        'promptmm_pyg/content in the cache folder of the user; nothing is kept of '
        f"'{HASHING}')",
    )


def content_config(args: argparse.Namespace, data: Mapping[str, Any]) -> list[Any]:
    """What is needed to encode the same contents again, as plain values.

    Args:
        args: What was typed.
        data: The configuration of the data set so far.

    Raises:
        UserError: If a source is not there.
    """
    found: list[dict[str, Any]] = []
    if args.text is not None:
        config = {'modality': 'text', 'encoder': args.text_encoder}
        found.append(config | _text_source(args.text, data, args.item_column))
    if args.images is not None:
        config = {'modality': 'image', 'encoder': args.image_encoder}
        found.append(config | named_folder('images', args.images))
    for config in found:
        if data['features'].get(config['modality']) is not None:
            raise UserError(
                f"--features names '{config['modality']}', which is what the contents "
                f'are called. Choose another name for the features'
            )
        keep = args.content_cache or (
            None if config['encoder'] == HASHING else _cache_of_the_user()
        )
        config['cache'] = keep and str(Path(keep).resolve())
    return found


def _text_source(
    text: str, data: Mapping[str, Any], item: str
) -> dict[str, str | None]:
    named = named_text(text, item)
    if named is not None:
        return named
    if '/' in text or os.sep in text:
        raise UserError(f"--text names a folder that is not there: '{text}'")
    if data['format'] not in ('table', 'recbole'):
        raise UserError(
            f"--text requires a folder or FILE.csv:COLUMN for '{data['path']}', which has "
            f"no columns of its own (got '{text}')"
        )
    kind = data['format']
    return {'kind': kind, 'path': data['path'], 'column': text, 'item': item}


def named_text(text: str, item: str) -> dict[str, str | None] | None:
    """Where ``--text`` points to if it is a folder or ``FILE.csv:COLUMN``.

    Raises:
        UserError: If the file is not there.
    """
    if Path(text).is_dir():
        return named_folder('text', text)
    file, mark, column = text.rpartition(':')
    if not mark or Path(file).suffix not in ('.csv', '.parquet'):
        return None
    if not Path(file).is_file():
        raise UserError(f"--text names a file that is not there: '{file}'")
    path = str(Path(file).resolve())
    return {'kind': 'table', 'path': path, 'column': column, 'item': item}


def named_folder(option: str, path: str) -> dict[str, str | None]:
    """Where ``--text`` or ``--images`` points to.

    Raises:
        UserError: If it is no folder.
    """
    if not Path(path).is_dir():
        raise UserError(f"--{option} must name a folder (got '{path}')")
    return {'kind': option, 'path': str(Path(path).resolve())}


def _cache_of_the_user() -> Path:
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(home) / 'promptmm_pyg' / 'content'


def join_contents(split: Split, configs: list[dict[str, Any]]) -> Split:
    """The split with the encoded contents; what is missing is counted on stderr."""
    for config in configs:
        rows = encoded(config, contents_of(config))
        split = join_content(split, rows, config['modality'])
    return split


def encoded(
    config: dict[str, Any], contents: Mapping[Any, str | Path | None]
) -> ContentRows:
    """A row for each content; those that cannot be read are counted on stderr."""
    rows = encode_content(
        contents,
        _encoder(config),
        cache=config['cache'],
        progress=sys.stderr.isatty(),
    )
    broken = {name: why for name, why in rows.problems.items() if why != 'is missing'}
    if broken:
        name, why = next(iter(broken.items()))
        print(
            f'warning: {len(broken)} of {len(contents)} contents for '
            f"'{config['modality']}' are taken for missing; the first: '{name}' {why}",
            file=sys.stderr,
        )
    return rows


def contents_of(config: dict[str, Any]) -> Mapping[Any, str | Path | None]:
    """The contents that a configuration names, by id."""
    if config['kind'] in ('text', 'images'):
        return folder_contents(config['path'], config['kind'])
    if config['kind'] == 'recbole':
        return read_recbole_texts(config['path'], [config['column']])
    return table_contents(config['path'], config['column'], item=config['item'])


def _encoder(config: dict[str, Any]) -> ContentEncoder:
    name = config['encoder']
    if config['modality'] == 'text':
        return (
            HashingTextEncoder()
            if name == HASHING
            else SentenceTransformerEncoder(name)
        )
    if name.startswith('timm:'):
        return timm_encoder(name.removeprefix('timm:'))
    return torchvision_encoder(name)
