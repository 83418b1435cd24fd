"""What a recommender is, for those who have to decide whether to use it."""

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

CARD = 'card.json'
README = 'README.md'
ABOUT = 'about'
"""The section that is written by :meth:`Recommender.save` itself."""
_DEFAULTS = {
    'name': 'Recommender',
    'description': 'Ranks items for users by the inner product of their embeddings, '
    'trained with promptmm_pyg. Raw ids in, raw ids out.',
    'intended_use': 'Lists of items for the users it was trained on, for new users by '
    'the items they took, and of items that are alike.',
    'limits': 'It knows nothing that happened after training. A score orders the items '
    'of one list; scores of two users, or of a known and a new user, are not '
    'comparable. What was popular in training is favored. An item added from its '
    'features is scored as the average item with such features would be.',
}


def build_card(given: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """The card that is saved: what is said of it, over the defaults, and the facts.

    Args:
        given: Sections by name, of anything JSON can hold.
        about: Counts and widths.

    Raises:
        ValueError: If JSON cannot hold a section.
    """
    facts = {
        **about,
        'created': datetime.now(UTC).isoformat(timespec='seconds'),
        'versions': _versions(),
    }
    card = {**_DEFAULTS, **given, ABOUT: facts}
    try:
        copy: dict[str, Any] = json.loads(json.dumps(card, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"'card' must contain text, finite numbers, lists and mappings ({error})"
        ) from error
    return copy


def markdown(card: Mapping[str, Any]) -> str:
    """The card as a page."""
    lines = [f'# {card["name"]}']
    for key, value in card.items():
        if key != 'name':
            title = str(key).replace('_', ' ').capitalize()
            lines += ['', f'## {title}', '', *_lines(value)]
    return '\n'.join([*lines, ''])


def _lines(value: Any, indent: str = '') -> list[str]:
    if isinstance(value, Mapping):
        lines = []
        for key, inner in value.items():
            name = f'{indent}- {str(key).replace("_", " ")}'
            if isinstance(inner, Mapping | list):
                lines += [f'{name}:', *_lines(inner, indent + '  ')]
            else:
                lines.append(f'{name}: {_text(inner)}')
        return lines
    if isinstance(value, list):
        return [f'{indent}- {_text(inner)}' for inner in value]
    return [f'{indent}{_text(value)}']


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _versions() -> dict[str, str]:
    found = {'python': platform.python_version()}
    for package in ('promptmm_pyg', 'torch', 'numpy', 'safetensors'):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # Run from its sources.
            found[package] = 'unknown'
    return found
