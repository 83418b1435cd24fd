"""Contents by id, from folders and tables."""

from pathlib import Path
from typing import Any, Literal

from promptmm_pyg._utils import check_choice

_SUFFIXES = {
    'text': ('.txt', '.md'),
    'images': ('.jpg', '.jpeg', '.png', '.webp', '.gif', '.bmp', '.tif', '.tiff'),
}


def folder_contents(
    folder: str | Path, kind: Literal['text', 'images']
) -> dict[str, Path]:
    """Returns ``{id: path}`` of the files of a folder that are named by raw id:
    ``42.txt`` is the text of ``'42'``.

    Folders inside, hidden files and files of other kinds are left out.

    Args:
        folder: The folder.
        kind: ``'text'`` (.txt, .md) or ``'images'`` (.jpg, .jpeg, .png, .webp,
            .gif, .bmp, .tif, .tiff).

    Raises:
        FileNotFoundError: If there is no such folder, or nothing of that kind.
        ValueError: If two files are named by one id.
    """
    check_choice('kind', kind, _SUFFIXES)
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"'folder' must be a folder (got '{folder}')")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        hidden = path.name.startswith('.')
        if hidden or path.suffix.lower() not in _SUFFIXES[kind] or not path.is_file():
            continue
        if path.stem in found:
            raise ValueError(
                f"'{folder}' must contain one file for each id (got "
                f"'{found[path.stem].name}' and '{path.name}'). Keep one"
            )
        found[path.stem] = path
    if not found:
        raise FileNotFoundError(
            f"'{folder}' must contain files named by raw id that end in "
            f'{", ".join(_SUFFIXES[kind])} (got none)'
        )
    return found


def table_contents(
    path: str | Path, column: str, *, item: str = 'item_id'
) -> dict[Any, str | None]:
    """Returns ``{id: text}`` of a column of a ``.csv`` or ``.parquet`` table, of
    items or of interactions: an id keeps the first text that is not empty.

    Args:
        path: The table.
        column: The column of texts; other values are read as they are printed.
        item: The column of ids. (default: ``'item_id'``)

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, of another kind, or lacks a column.
        ImportError: If pandas (for Parquet, pyarrow too) is not installed.
    """
    path = Path(path)
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            "'table_contents' requires 'pandas'. Install it with "
            "'pip install promptmm_pyg[frames]'"
        ) from error
    if path.suffix not in ('.csv', '.parquet'):
        raise ValueError(f"'{path}' must end in .csv or .parquet")
    if not path.is_file():
        raise FileNotFoundError(f"'{path}' must be a file (got none)")
    reader = pd.read_csv if path.suffix == '.csv' else pd.read_parquet
    try:
        frame: pd.DataFrame = reader(path)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"'{path}' must be a whole {path.suffix} table (got {error})"
        ) from error
    missing = [name for name in (item, column) if name not in frame.columns]
    if missing:
        raise ValueError(
            f"'{path}' must have the columns {missing} (got {list(frame.columns)})"
        )
    # One text an id; pandas takes an empty cell for missing.
    texts = frame[[item, column]].dropna(subset=[item])
    said = texts.dropna().drop_duplicates(item).set_index(item)[column]
    found: dict[Any, str | None] = dict.fromkeys(texts[item].tolist())
    return found | {name: str(text) for name, text in said.to_dict().items()}
