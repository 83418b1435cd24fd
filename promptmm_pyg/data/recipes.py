"""Raw files of public data sets as tables with ids, and a checked download."""

import csv
import hashlib
import shutil
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from promptmm_pyg._files import replacing
from promptmm_pyg._reading import check_file
from promptmm_pyg.data.table_files import json_rows
from promptmm_pyg.data.tables import require_arrow

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK = 1 << 20


class RawData(NamedTuple):
    """What a recipe reads: columns for :func:`load_dataset`, and contents by item for
    :func:`~promptmm_pyg.content.encode_content`.
    """

    interactions: 'pa.Table'
    """``user_id``, ``item_id``, ``time`` and, where there are any, ``rating``."""
    texts: dict[str, str | None]
    """Text by raw item id; ``None`` where there is none."""
    titles: dict[str, str]
    """Title by raw item id."""
    images: dict[str, Path | str | None]
    """Path, or address where the data set has addresses only, by raw item id."""


def fetch(
    url: str, path: str | Path, sha256: str, *, mirror: str | None = None
) -> Path:
    """Downloads a file unless it is there, and checks its SHA-256. Returns the path.

    Args:
        url: The address.
        path: The file to write. It appears only when its content is checked.
        sha256: The SHA-256 of the content, 64 hexadecimal digits.
        mirror: An address of a folder that has the file under the same name, used in
            place of the address; also ``file:``. (default: none)

    Raises:
        ValueError: If the content has another SHA-256.
        OSError: If the address cannot be read.
    """
    path = Path(path)
    name = url.rpartition('/')[2]
    address = url if mirror is None else f'{mirror.rstrip("/")}/{name}'
    if not path.is_file():
        with replacing(path) as temporary:
            with (
                urllib.request.urlopen(address, timeout=60) as response,
                temporary.open('wb') as out,
            ):
                shutil.copyfileobj(response, out, _CHUNK)
            _check_sha256(temporary, sha256, address, 'Try another mirror')
    _check_sha256(path, sha256, str(path), 'Delete it and fetch it again')
    return path


def _check_sha256(path: Path, expected: str, name: str, fix: str) -> None:
    with path.open('rb') as file:
        found = hashlib.file_digest(file, 'sha256').hexdigest()
    if found != expected.lower():
        raise ValueError(
            f"'{name}' must have the SHA-256 {expected} (got {found}). {fix}"
        )


def read_amazon(reviews: str | Path, metadata: str | Path) -> RawData:
    """Reads a category of the Amazon reviews of 2018 or 2023, JSON lines, also
    compressed: reviews and metadata.

    2018 has ``reviewerID``, ``asin``, ``overall``, ``unixReviewTime``, in seconds; 2023
    has ``user_id``, ``parent_asin``, ``rating``, ``timestamp``, in milliseconds. Items
    without metadata have no text. A text is title, categories, features and
    description. Only items with reviews have contents.

    Args:
        reviews: The file of reviews.
        metadata: The file of metadata.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or lacks a field.
    """
    columns: dict[str, list[Any]] = {
        key: [] for key in ('user_id', 'item_id', 'rating', 'time')
    }
    for row in _json(reviews):
        keys = _AMAZON_2023 if 'user_id' in row else _AMAZON_2018
        for column, key in zip(columns, keys, strict=True):
            if key not in row:
                raise ValueError(
                    f"'{reviews}' must have the field '{key}' in each line (got "
                    f'{sorted(row)}). Name a file of reviews'
                )
            columns[column].append(row[key])
    items = dict.fromkeys(columns['item_id'])
    texts: dict[str, str | None] = dict.fromkeys(items)
    images: dict[str, Path | str | None] = dict.fromkeys(items)
    titles = {}
    for row in _json(metadata):
        item = str(row.get('parent_asin') or row.get('asin'))
        if item not in items:
            continue
        titles[item] = str(row.get('title') or '')
        texts[item] = _amazon_text(row) or None
        images[item] = _amazon_image(row)
    known = {item: title for item, title in titles.items() if title}
    return _raw_data(columns, texts, known, images)


_AMAZON_2018 = ('reviewerID', 'asin', 'overall', 'unixReviewTime')
_AMAZON_2023 = ('user_id', 'parent_asin', 'rating', 'timestamp')


def _json(path: str | Path) -> Iterator[dict[str, Any]]:
    check_file(Path(path))
    return json_rows(Path(path), 'utf-8')


def _amazon_text(row: Mapping[str, Any]) -> str:
    parts: list[str] = []
    for key in (
        'title',
        'category',
        'categories',
        'feature',
        'features',
        'description',
    ):
        value = row.get(key) or []
        parts += [value] if isinstance(value, str) else map(str, value)
    return ' '.join(' '.join(parts).split())


def _amazon_image(row: Mapping[str, Any]) -> str | None:
    """The first image in the largest size: ``images`` of 2023 are objects."""
    for key in ('images', 'imageURLHighRes', 'imageURL'):
        first = next(iter(row.get(key) or []), None)
        if isinstance(first, dict):
            first = first.get('hi_res') or first.get('large')
        if first:
            return str(first)
    return None


def read_microlens(folder: str | Path) -> RawData:
    """Reads a folder of MicroLens: ``*_pairs.csv`` (``user,item,timestamp``),
    ``*_titles.csv`` (``item,title``) and the folder ``*_covers`` of ``<item>.jpg``.

    Raises:
        FileNotFoundError: If pairs or titles are missing.
        ValueError: If a file is damaged or lacks a column.
    """
    pairs = list(_fields(_only(folder, '*_pairs.csv'), ',', 'utf-8', 3))
    columns: dict[str, list[Any]] = {
        'user_id': [row[0] for row in pairs],
        'item_id': [row[1] for row in pairs],
        'time': [int(row[2]) for row in pairs],
    }
    table = _fields(_only(folder, '*_titles.csv'), ',', 'utf-8', 2)
    titles = {row[0]: row[1] for row in table if row[1]}
    items = list(dict.fromkeys(columns['item_id']))
    texts = {item: titles.get(item) for item in items}
    known = {item: text for item, text in texts.items() if text}
    return _raw_data(columns, texts, known, _pictures(folder, '*_covers', items))


def read_movielens(folder: str | Path, posters: str = 'posters') -> RawData:
    """Reads a folder of MovieLens, as GroupLens publishes it: 100K (``u.data``,
    ``u.item``), 1M (``ratings.dat``, ``movies.dat``), or later ones (``ratings.csv``,
    ``movies.csv``); and a folder of posters ``<movie>.jpg``, if there is one. The text
    of a movie is its title and, but for 100K, its genres.

    Args:
        folder: The folder.
        posters: The name of the folder of posters in it. (default: ``'posters'``)

    Raises:
        FileNotFoundError: If there are no such files.
        ValueError: If a line has too few fields.
    """
    folder = Path(folder)
    layouts = [layout for layout in _MOVIELENS if (folder / layout[0]).is_file()]
    if not layouts:
        names = ', '.join(layout[0] for layout in _MOVIELENS)
        raise FileNotFoundError(f"'{folder}' must contain one of {names} (got none)")
    ratings, movies, separators, encoding = layouts[0]
    rows = list(_fields(folder / ratings, separators[0], encoding, 4))
    columns: dict[str, list[Any]] = {
        'user_id': [row[0] for row in rows],
        'item_id': [row[1] for row in rows],
        'rating': [float(row[2]) for row in rows],
        'time': [int(row[3]) for row in rows],
    }
    items = list(dict.fromkeys(columns['item_id']))
    titles: dict[str, str] = {}
    texts: dict[str, str | None] = dict.fromkeys(items)
    for movie, title, *rest in _fields(folder / movies, separators[1], encoding, 3):
        if movie in texts:
            genres = '' if ratings == 'u.data' else rest[0].replace('|', ' ')
            titles[movie], texts[movie] = title, f'{title} {genres}'.strip()
    return _raw_data(columns, texts, titles, _pictures(folder, posters, items))


_MOVIELENS = (  # Ratings, movies, separators and encoding.
    ('u.data', 'u.item', ('\t', '|'), 'latin-1'),
    ('ratings.dat', 'movies.dat', ('::', '::'), 'latin-1'),
    ('ratings.csv', 'movies.csv', (',', ','), 'utf-8'),
)


def _raw_data(
    columns: dict[str, list[Any]],
    texts: dict[str, str | None],
    titles: dict[str, str],
    images: dict[str, Any],
) -> RawData:
    require_arrow('RawData')
    import pyarrow as pa

    return RawData(pa.table(columns), texts, titles, images)


def _fields(
    path: Path, separator: str, encoding: str, least: int
) -> Iterator[list[str]]:
    """The cells of each line; a file with commas has a header, which is left out."""
    check_file(path)
    with path.open(encoding=encoding, newline='') as file:
        rows: Iterator[list[str]] = (
            line.rstrip('\r\n').split(separator) for line in file
        )
        if separator == ',':
            rows = csv.reader(file)
            next(rows, None)
        for number, row in enumerate(rows, 1 + (separator == ',')):
            if len(row) < least:
                raise ValueError(
                    f"'{path}' must have {least} fields or more in each line (got "
                    f'{len(row)} in line {number}). Fetch the file again'
                )
            yield row


def _only(folder: str | Path, pattern: str) -> Path:
    matches = sorted(Path(folder).glob(pattern))
    if len(matches) != 1:
        raise FileNotFoundError(
            f"'{folder}' must contain one '{pattern}' (got {len(matches)})"
        )
    return matches[0]


def _pictures(
    folder: str | Path, pattern: str, items: Iterable[str]
) -> dict[str, Path | None]:
    """The picture of each item in a folder of ``<item>.jpg``."""
    paths = {x.stem: x for x in sorted(Path(folder).glob(f'{pattern}/*.jpg'))}
    return {item: paths.get(item) for item in items}
