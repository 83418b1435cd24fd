"""``promptmm export``: embeddings, rankings and data for other programs."""

import argparse
import copy
from pathlib import Path

from promptmm_pyg._files import replacing
from promptmm_pyg.cli.parsing import UserError, add_flags
from promptmm_pyg.cli.recommend import FOLDER, check_k, load_recommender
from promptmm_pyg.data import (
    ITEM,
    Split,
    modality_mask_dict,
    modality_x_dict,
    write_mmrec,
)
from promptmm_pyg.runs import Run
from promptmm_pyg.serving import (
    Recommender,
    export_embeddings,
    export_lancedb,
    export_onnx,
    export_program,
    faiss_index,
)

DESCRIPTION = """\
Write the recommender of RUN for other programs: ids and embeddings, a faiss index of
the items by inner product (its positions are those of 'item_ids' among the embeddings),
a program of torch.export or ONNX that maps rows of users to their best items, or tables
of items and users for LanceDB. Or write the data of RUN in the layout of MMRec.

Files are written atomically; existing files are kept unless --overwrite is given."""
EXAMPLE = """\
example:
  promptmm export runs/tiktok --embeddings tiktok.npz --faiss items.index
  promptmm export runs/tiktok --torch-export top20.pt2 --onnx top20.onnx -k 20
  promptmm export runs/tiktok --lancedb tiktok.lancedb
  promptmm export runs/tiktok --mmrec data/tiktok-mmrec"""
_SUFFIXES = {
    'embeddings': ('.npz', '.parquet'),
    'faiss': (),
    'torch_export': ('.pt2',),
    'onnx': ('.onnx',),
    'lancedb': (),
    'mmrec': (),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds all options."""
    parser.add_argument('folder', metavar='RUN', help=FOLDER)
    add_flags(
        parser.add_argument_group('what to write'),
        """
--embeddings FILE  ids and embeddings: NAME.npz, or NAME.parquet, which becomes
  NAME.users.parquet and NAME.items.parquet
--faiss FILE  a faiss index of the items
--torch-export FILE  rankings as a program, .pt2
--onnx FILE  rankings as a program of ONNX, .onnx
--lancedb FOLDER  the tables 'items' and 'users' in a database of LanceDB
--mmrec FOLDER  the data; the folder must be new or empty, its name becomes that of the
  data set. Needs no student""",
    )
    add_flags(
        parser.add_argument_group('how to write it'),
        """
--faiss-factory NAME [Flat]  description of the index for faiss, such as 'HNSW32'; Flat
  is exact
-k N  items per user of a program (default: 10, or all if there are fewer)
--include-seen  in a program: also items that the user has interacted with
--overwrite  replace files and tables""",
    )


def run(args: argparse.Namespace) -> int:
    """Writes each output and prints its path."""
    _check(args)
    if args.mmrec is not None:
        data = Run.open(args.folder).read_split()
        log(write_mmrec(_with_masks(data), args.mmrec))
    if all(getattr(args, name) is None for name in _SUFFIXES if name != 'mmrec'):
        return 0
    recommender = load_recommender(args.folder)
    if args.torch_export is not None or args.onnx is not None:
        args.k = check_k(args.k, recommender)
    if args.embeddings is not None:
        for path in export_embeddings(recommender, args.embeddings):
            log(path)
    if args.faiss is not None:
        _write_faiss(recommender, args.faiss, args.faiss_factory)
        log(args.faiss)
    programs = ((args.torch_export, export_program), (args.onnx, export_onnx))
    for path, export in programs:
        if path is not None:
            seen = not args.include_seen
            log(export(recommender, path, args.k, exclude_seen=seen))
    if args.lancedb is not None:
        log(export_lancedb(recommender, args.lancedb, overwrite=args.overwrite))
    return 0


def log(path: str | Path) -> None:
    """Prints the path of a file."""
    print(f'written: {path}')


def _check(args: argparse.Namespace) -> None:
    """Raises before any work is done."""
    paths = {name: getattr(args, name) for name in _SUFFIXES}
    paths = {name: path for name, path in paths.items() if path is not None}
    if not paths:
        options = ', '.join(_option(name) for name in _SUFFIXES)
        raise UserError(f'nothing to write. Pass one or more of {options}')
    for name, path in paths.items():
        if _SUFFIXES[name] and Path(path).suffix not in _SUFFIXES[name]:
            suffixes = ' or '.join(_SUFFIXES[name])
            raise UserError(f"{_option(name)} must end in {suffixes} (got '{path}')")
        if name not in ('mmrec', 'lancedb'):  # Folders are checked by who writes.
            for file in _files(Path(path)):
                _check_file(name, file, overwrite=args.overwrite)


def _check_file(name: str, file: Path, *, overwrite: bool) -> None:
    if file.is_dir():
        raise UserError(f"{_option(name)} must be a file (got the folder '{file}')")
    if file.exists() and not overwrite:
        raise UserError(
            f"'{file}' exists already. Choose another {_option(name)}, or pass "
            f'--overwrite'
        )


def _option(name: str) -> str:
    return f'--{name.replace("_", "-")}'


def _files(path: Path) -> list[Path]:
    if path.suffix != '.parquet':
        return [path]
    return [path.with_suffix(f'.{part}.parquet') for part in ('users', 'items')]


def _write_faiss(recommender: Recommender, path: str, factory: str) -> None:
    try:
        index = faiss_index(recommender, factory)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1]
        raise UserError(f"faiss cannot build '{factory}': {reason}") from error
    import faiss

    with replacing(path) as temporary:
        faiss.write_index(index, str(temporary))


def _with_masks(split: Split) -> Split:
    """Masks rows of zeros, which MMRec treats as missing."""
    graphs = []
    for graph in split:
        graph = copy.copy(graph)
        for modality, x_of in modality_x_dict(graph).items():
            if ITEM in x_of:
                non_zero = x_of[ITEM].any(dim=-1)
                mask = modality_mask_dict(graph).get(modality, {}).get(ITEM, non_zero)
                graph[ITEM][f'mask_{modality}'] = mask & non_zero
        graphs.append(graph)
    return Split(*graphs)
