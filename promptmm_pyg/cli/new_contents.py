"""Texts and pictures of new items, encoded as those of training were."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from promptmm_pyg.cli.content_source import (
    contents_of,
    encoded,
    named_folder,
    named_text,
)
from promptmm_pyg.cli.parsing import UserError
from promptmm_pyg.cli.run_folder import RunFolder

Array = np.ndarray[Any, Any]
_MODALITIES = {'text': 'text', 'images': 'image'}  # By option.


def add_new_contents(parser: argparse.ArgumentParser) -> None:
    """Adds ``--text`` and ``--images``."""
    parser.add_argument(
        '--text',
        metavar='SOURCE',
        help="the new items' texts, for a run trained with --text: a folder of files "
        '<item id>.txt, or FILE.csv:COLUMN with the item column; known items in it are '
        'left out',
    )
    parser.add_argument(
        '--images',
        metavar='FOLDER',
        help="the new items' pictures, for a run trained with --images: a folder of "
        'files <item id>.jpg, .png, ...; known items in it are left out',
    )


def encode_new(
    args: argparse.Namespace, known: list[Any]
) -> dict[str, tuple[list[Any], Array]]:
    """Ids and rows of the items that are new, by modality; zeros where a content
    cannot be read.

    Args:
        args: What was typed.
        known: The raw ids of the items there are.

    Raises:
        UserError: If the run was not trained on such contents, or a source is not
            there or holds no new item.
    """
    given = {x: getattr(args, x) for x in _MODALITIES if getattr(args, x) is not None}
    return {
        _MODALITIES[option]: _encode(option, source, args, known)
        for option, source in given.items()
    }


def _encode(
    option: str, source: str, args: argparse.Namespace, known: list[Any]
) -> tuple[list[Any], Array]:
    place: dict[str, str | None] | None
    if option == 'text':
        place = named_text(source, args.item_column)
        if place is None:
            raise UserError(
                f"--text requires a folder or FILE.csv:COLUMN (got '{source}')"
            )
    else:
        place = named_folder(option, source)
    config = {**_trained(option, args.folder), **place}
    old = {str(raw) for raw in known}
    contents = {
        raw: content
        for raw, content in contents_of(config).items()
        if str(raw) not in old
    }
    if not contents:
        raise UserError(
            f"--{option} must contain items that are new (got '{source}', where all "
            f'are known already)'
        )
    rows = encoded(config, contents)
    return [_like(raw, known) for raw in rows.ids], rows.x


def _trained(option: str, folder: str) -> dict[str, Any]:
    """How the contents of training were encoded."""
    if (Path(folder) / 'ids.json').is_file():
        raise UserError(
            f'--{option} requires RUN to be the folder of a run, whose config.json names '
            f"the encoder (got '{Path(folder)}'). Encode the contents and pass "
            f'--features'
        )
    used = RunFolder(folder).read_whole_config()['data'].get('content', [])
    for config in used:
        if config['modality'] == _MODALITIES[option]:
            return dict(config)
    raise UserError(
        f"--{option} requires a run that was trained with --{option} (got '{folder}', "
        f'which was trained with {[x["modality"] for x in used] or "none"}). Pass '
        f'--features'
    )


def _like(raw: Any, known: list[Any]) -> Any:
    """The id as a number if the known ones are: names of files are text."""
    if isinstance(raw, str) and raw.isdecimal() and type(known[0]) is int:
        return int(raw)
    return raw
