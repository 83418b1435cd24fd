"""The options that give a run's configuration, which is what they were made into."""

from collections.abc import Mapping
from typing import Any

from promptmm_pyg.cli.parsing import UserError

# Sections whose entries are options of the same name.
_PLAIN = ('teacher', 'train', 'distill', 'objective', 'candidates', 'schedule')
_DATA = {
    'path': 'path',
    'format': 'format',
    'duplicates': 'duplicates',
    'min_rating': 'min-rating',
    'user': 'user-column',
    'item': 'item-column',
    'time': 'time-column',
    'item_ids': 'item-ids',
}
_SPLIT = {'method': 'split', 'val_ratio': 'val-ratio', 'test_ratio': 'test-ratio'}
_SPLIT |= {'seed': 'split-seed'}


def is_run(content: Mapping[str, Any]) -> bool:
    """Whether this was written by ``train`` or ``distill``, not by a person."""
    is_teacher = isinstance(content.get('data'), dict) and 'teacher' in content
    return is_teacher or isinstance(content.get('distill'), dict)


def flags_of_run(content: Mapping[str, Any]) -> dict[str, Any]:
    """The options, by long name, that lead to the configuration of a run.

    Args:
        content: What ``config.json`` of a run or of its student holds.

    Raises:
        UserError: If there are none, since the data were made up.
    """
    flags: dict[str, Any] = {}
    for section in _PLAIN:
        flags |= content.get(section, {})
    for name in ('student', 'width', 'num_layers'):
        if name in content:
            flags[name] = content[name]
    flags['weight'] = dict(content['weights'])
    if 'data' in content:
        flags |= _of_data(content['data'])
        flags |= _of_prompt(content['prompt'])
        titles = content.get('titles')
        if titles is not None:
            flags |= {'titles': titles['path'], 'title-column': titles['title']}
            flags['item-column'] = titles['item']
    return {name.replace('_', '-'): value for name, value in flags.items()}


def _of_data(config: Mapping[str, Any]) -> dict[str, Any]:
    if config['format'] == 'synthetic':
        raise UserError(
            'the run is one on made-up data, which no option reads. Name the '
            'config.json of a run on data of your own'
        )
    flags = {flag: config[key] for key, flag in _DATA.items() if key in config}
    flags['features'] = {k: file or '' for k, file in config['features'].items()}
    if 'masks' in config:
        flags['masks'] = config['masks'] or 'none'
    for key, flag in _SPLIT.items():
        if key in config.get('split', {}):
            flags[flag] = config['split'][key]
    for content in config.get('content', []):
        flags |= _of_content(content)
    return flags


def _of_content(config: Mapping[str, Any]) -> dict[str, Any]:
    flags = {}
    if config['modality'] == 'image':
        flags['images'] = config['path']
    elif config['kind'] == 'table':
        flags['text'] = f'{config["path"]}:{config["column"]}'
    else:
        flags['text'] = config['path' if config['kind'] == 'text' else 'column']
    flags[f'{config["modality"]}-encoder'] = config['encoder']
    if config['cache'] is not None:
        flags['content-cache'] = config['cache']
    return flags


def _of_prompt(config: Mapping[str, Any] | None) -> dict[str, Any]:
    if config is None:
        return {'no-prompt': True}
    return {
        'prompt-start': config['start'],
        'prompt-dim': config['out_channels'],
        'prompt-combine': config['combine'],
    }
