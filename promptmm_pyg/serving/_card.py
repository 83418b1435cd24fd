"""The model card of a saved recommender."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from promptmm_pyg._utils import versions
from promptmm_pyg.serving._tables import Tables
from promptmm_pyg.serving.feature_mapper import FeatureMapper

CARD = 'card.json'
README = 'README.md'
ABOUT = 'about'
"""The section that :meth:`Recommender.save` adds."""
_DEFAULTS = {
    'name': 'Recommender',
    'description': 'Ranks items for users by the inner product of their embeddings, '
    'trained with promptmm_pyg. Input and output are raw ids.',
    'intended_use': 'Top-K lists for the users of the training data, for new users '
    'given the items they interacted with, and of similar items.',
    'limits': 'Interactions after training are not reflected. Scores are comparable '
    'within one list only, not between users, nor between known and new users. Items '
    'that were popular in training are favored. An item that was added from its '
    'features has the expected embedding of an item with these features.',
}


def build_card(sections: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """The card to save: the sections, defaults for the others, and facts.

    Args:
        sections: Sections by name, as JSON values.
        about: Counts and widths.

    Raises:
        ValueError: If a section is not a JSON value.
    """
    facts = {
        **about,
        'created': datetime.now(UTC).isoformat(timespec='seconds'),
        'versions': versions('promptmm_pyg', 'torch', 'numpy', 'safetensors'),
    }
    card = {**_DEFAULTS, **sections, ABOUT: facts}
    try:
        copy: dict[str, Any] = json.loads(json.dumps(card, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"'card' must contain text, finite numbers, lists and mappings ({error})"
        ) from error
    return copy


def about(tables: Tables, feature_mapper: FeatureMapper | None) -> dict[str, Any]:
    """The facts of a model card."""
    facts: dict[str, Any] = {
        'users': len(tables.users),
        'items': tables.num_items,
        'items_added_from_features': tables.num_added,
        'interactions': int(tables.seen.col.numel()),
        'channels': tables.user_x.size(1),
        'precision': str(tables.item_x.dtype).removeprefix('torch.'),
    }
    if feature_mapper is not None:
        facts['feature_mapper'] = {
            ' + '.join(part.modalities): {
                'held_out_ndcg': part.gain,
                'held_out_ndcg_of_the_average_item': part.baseline,
                'penalty': part.penalty,
            }
            for part in feature_mapper.maps
        }
    return facts


def markdown(card: Mapping[str, Any]) -> str:
    """The card as a Markdown page."""
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
