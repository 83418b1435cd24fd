"""``promptmm data check``: what a data set holds and what is wrong with it."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from promptmm_pyg.cli.data_options import add_data_options, data_config
from promptmm_pyg.cli.data_source import findings, load_split
from promptmm_pyg.cli.parsing import UserError
from promptmm_pyg.cli.tables import table
from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    Split,
    modality_mask_dict,
    modality_x_dict,
)

_DESCRIPTION = """\
Read a data set, say what was found, and list everything that is wrong with it or
odd about it, with what to do: leaks between training and what is held out, also
through a graph among items; repeated pairs; ids that nothing is known of; broken,
missing or constant features, or such that seem to be in another order than the items.

The exit status is 1 if there is an error; warnings alone give 0."""
_EXAMPLE = """\
example:
  promptmm data check data/tiktok
  promptmm data check clicks.csv --user-column user --item-column movie \\
      --features text=plots.csv --split leave-one-out
  promptmm data check data/tiktok --item-graph bought_together.npy"""


def add_command(commands: Any, **kwargs: Any) -> None:
    """Adds ``data check`` to the program."""
    data = commands.add_parser('data', **kwargs)
    inner = data.add_subparsers(title='commands', metavar='COMMAND', required=True)
    parser = inner.add_parser(
        'check',
        help='what is wrong',
        usage='promptmm data check PATH [options]',
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
    )
    add_data_options(parser)
    parser.add_argument(
        '--item-graph',
        metavar='FILE',
        help='also check a graph among items for leaks: .npy with two rows of whole '
        'numbers, the items (counted from zero) that each edge joins',
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the report; returns 1 if the data have errors."""
    config = data_config(args)
    split = load_split(config)
    if args.item_graph is not None:
        split.train[ITEM, 'given', ITEM].edge_index = _read_edges(args.item_graph)
    print(f"'{args.path}' read as {config['format']}")
    print(describe(split))
    errors, warnings = findings(split)
    for finding in [*errors, *warnings]:
        print(f'\n{finding.level}: {finding.where}: {finding.problem}')
        print(f'  what to do: {finding.fix}')
    print(f'\n{len(errors)} errors, {len(warnings)} warnings')
    return 1 if errors else 0


def describe(split: Split) -> str:
    """The counts of a split and a table of its modalities."""
    counts = split.train.num_nodes_dict
    parts = {'train': split.train[INTERACTS].edge_index}
    parts |= {name: getattr(split, name)[INTERACTS].edge_label_index for name in _HELD}
    lines = [f'{count} {node_type}s' for node_type, count in counts.items()]
    lines.append(
        'interactions: ' + ', '.join(f'{x.size(1)} {name}' for name, x in parts.items())
    )
    masks = modality_mask_dict(split.train)
    rows = []
    for modality, x_of in modality_x_dict(split.train).items():
        for node_type, x in x_of.items():
            mask = masks.get(modality, {}).get(node_type)
            missing = 0.0 if mask is None else 1 - float(mask.float().mean())
            rows.append([modality, f'{node_type}s', x.size(1), f'{missing:.1%}'])
    if not rows:
        return '\n'.join([*lines, 'no modalities'])
    return '\n'.join([*lines, table(['modality', 'of', 'width', 'missing'], rows)])


def _read_edges(path: str) -> torch.Tensor:
    if not Path(path).is_file():
        raise UserError(f"--item-graph names a file that is not there: '{path}'")
    try:
        edges = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(
            f"--item-graph requires a whole .npy file of numbers (got '{path}', which "
            f'cannot be read as such). Objects are never loaded: write it again'
        ) from error
    is_array = isinstance(edges, np.ndarray)
    if not is_array or edges.dtype.kind not in 'iu' or edges.shape[:-1] != (2,):
        what = f'{edges.dtype} {list(edges.shape)}' if is_array else 'several arrays'
        raise UserError(f"'{path}' requires whole numbers of shape [2, E] (got {what})")
    return torch.from_numpy(edges.astype(np.int64))


_HELD = ('val', 'test')
