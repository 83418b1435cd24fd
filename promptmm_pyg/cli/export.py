"""``promptmm export``: embeddings, rankings and data for other programs."""

import argparse
import copy
from pathlib import Path
from typing import Any

from promptmm_pyg._utils import replacing
from promptmm_pyg.cli.data_source import fingerprint, load_split
from promptmm_pyg.cli.parsing import UserError
from promptmm_pyg.cli.recommend import load_recommender
from promptmm_pyg.cli.run_folder import RunFolder
from promptmm_pyg.data import (
    ITEM,
    Split,
    modality_mask_dict,
    modality_x_dict,
    write_mmrec,
)
from promptmm_pyg.serving import Recommender

_DESCRIPTION = """\
Write what RUN serves for other programs: ids and embeddings, a faiss index of the items
by inner product (its positions are those of 'item_ids' among the embeddings), or a
program of torch.export from rows of users to their best items. And write the data of
RUN in the layout of MMRec.

Files appear whole or not at all; what is there is kept unless --overwrite is given."""
_EXAMPLE = """\
example:
  promptmm export runs/tiktok --embeddings tiktok.npz --faiss items.index
  promptmm export runs/tiktok --torch-export top20.pt2 -k 20
  promptmm export runs/tiktok --mmrec data/tiktok-mmrec"""
_ENDINGS = {
    'embeddings': ('.npz', '.parquet'),
    'faiss': (),
    'torch_export': ('.pt2',),
    'mmrec': (),
}


def add_command(commands: Any, **kwargs: Any) -> None:
    """Adds ``export`` to the program."""
    parser = commands.add_parser(
        'export', **kwargs, description=_DESCRIPTION, epilog=_EXAMPLE
    )
    parser.add_argument(
        'folder', metavar='RUN', help='folder of a run with a student, or a recommender'
    )
    what = parser.add_argument_group('what to write')
    what.add_argument(
        '--embeddings',
        metavar='FILE',
        help='ids and embeddings: NAME.npz, or NAME.parquet, which becomes '
        'NAME.users.parquet and NAME.items.parquet',
    )
    what.add_argument('--faiss', metavar='FILE', help='a faiss index of the items')
    what.add_argument(
        '--torch-export', metavar='FILE', help='rankings as a program, .pt2'
    )
    what.add_argument(
        '--mmrec',
        metavar='FOLDER',
        help='the data; the folder has to be new or empty, its name is that of the '
        'data set. Needs no student',
    )
    how = parser.add_argument_group('how')
    how.add_argument(
        '--faiss-factory',
        default='Flat',
        metavar='NAME',
        help="how faiss is to build it, such as 'HNSW32' (default: Flat, exact)",
    )
    how.add_argument(
        '-k',
        type=int,
        default=10,
        metavar='N',
        help='items a user of --torch-export (default: 10)',
    )
    how.add_argument(
        '--include-seen',
        action='store_true',
        help='--torch-export: also what the user knows',
    )
    how.add_argument('--overwrite', action='store_true', help='replace files')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes each thing asked for and prints its path."""
    _check(args)
    if args.mmrec is not None:
        _say(_write_data(args.folder, args.mmrec))
    if args.embeddings is None and args.faiss is None and args.torch_export is None:
        return 0
    recommender = load_recommender(args.folder)
    if args.torch_export is not None and not 1 <= args.k <= recommender.num_items:
        raise UserError(
            f'-k must lie between 1 and the {recommender.num_items} items there '
            f'are (got {args.k})'
        )
    if args.embeddings is not None:
        for path in recommender.export_embeddings(args.embeddings):
            _say(path)
    if args.faiss is not None:
        _say(_write_faiss(recommender, args.faiss, args.faiss_factory))
    if args.torch_export is not None:
        program = recommender.to_torch_export(
            args.torch_export, args.k, exclude_seen=not args.include_seen
        )
        _say(program)
    return 0


def _say(path: str | Path) -> None:
    print(f'written: {path}')


def _check(args: argparse.Namespace) -> None:
    """Raises before any work is done."""
    given = {name: getattr(args, name) for name in _ENDINGS}
    given = {name: path for name, path in given.items() if path is not None}
    if not given:
        options = ', '.join(_option(name) for name in _ENDINGS)
        raise UserError(f'nothing to write. Pass one or more of {options}')
    for name, path in given.items():
        ending = Path(path).suffix
        if _ENDINGS[name] and ending not in _ENDINGS[name]:
            endings = ' or '.join(_ENDINGS[name])
            raise UserError(f"{_option(name)} must end in {endings} (got '{path}')")
        if name == 'mmrec':
            continue  # Says so itself, and never replaces anything.
        for file in _files(Path(path)):
            if file.is_dir():
                raise UserError(
                    f"{_option(name)} requires a file (got the folder '{file}')"
                )
            if file.exists() and not args.overwrite:
                raise UserError(
                    f"'{file}' is there already. Choose another {_option(name)}, or "
                    f'pass --overwrite'
                )


def _option(name: str) -> str:
    return f'--{name.replace("_", "-")}'


def _files(path: Path) -> list[Path]:
    if path.suffix != '.parquet':
        return [path]
    return [path.with_suffix(f'.{part}.parquet') for part in ('users', 'items')]


def _write_faiss(recommender: Recommender, path: str, factory: str) -> str:
    try:
        index = recommender.to_faiss(factory)
    except RuntimeError as error:
        why = str(error).splitlines()[-1]
        raise UserError(f"faiss cannot build '{factory}': {why}") from error
    import faiss

    with replacing(path) as temporary:
        faiss.write_index(index, str(temporary))
    return path


def _write_data(folder: str, target: str) -> Path:
    run = RunFolder(folder)
    config = run.read_whole_config()
    split = load_split(config['data'])
    if fingerprint(split) != config['data_sha256']:
        raise UserError(
            f"the data have changed since '{folder}' was trained. Put them back, or "
            f'train again'
        )
    return write_mmrec(_marked(split), target)


def _marked(split: Split) -> Split:
    """The split with rows of zeros taken for missing, which is how MMRec takes them."""
    graphs = []
    for graph in split:
        graph = copy.copy(graph)
        for modality, x_of in modality_x_dict(graph).items():
            if ITEM in x_of:
                there = x_of[ITEM].any(dim=-1)
                mask = modality_mask_dict(graph).get(modality, {}).get(ITEM, there)
                graph[ITEM][f'mask_{modality}'] = mask & there
        graphs.append(graph)
    return Split(*graphs)
