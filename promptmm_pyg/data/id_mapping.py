"""MMRec's tables from raw ids to the numbers in its files."""

from collections.abc import Sequence
from pathlib import Path

from promptmm_pyg.data.schema import ITEM, USER

FILES = {USER: 'u_id_mapping.csv', ITEM: 'i_id_mapping.csv'}
# Users and items of Amazon's reviews, which MMRec began with.
_HEADS = {USER: ('user_id', 'userID'), ITEM: ('asin', 'itemID')}


def write_mapping(path: Path, node_type: str, ids: Sequence[str]) -> None:
    """Writes ids by number, tab-separated.

    Raises:
        ValueError: If an id holds a tab or a line break.
    """
    bad = [name for name in ids if '\t' in name or name.splitlines() != [name]]
    if bad:
        raise ValueError(
            f"'raw_id' of the {node_type}s must be text without tabs and line "
            f'breaks (got {bad[0]!r})'
        )
    lines = [_HEADS[node_type], *((name, str(i)) for i, name in enumerate(ids))]
    text = ''.join('\t'.join(line) + '\n' for line in lines)
    path.write_text(text, encoding='utf-8', newline='\n')


def read_mapping(folder: Path, node_type: str, count: int) -> list[str]:
    """Raw ids by number: of the folder's table, else the numbers themselves.

    Args:
        folder: The folder of a data set.
        node_type: Whose ids.
        count: How many nodes there are at least; more in a table are nodes too.

    Raises:
        ValueError: If the table is damaged, or not one id for each number.
    """
    path = folder / FILES[node_type]
    if not path.is_file():
        return [str(i) for i in range(count)]
    try:
        # Not by `splitlines`, which takes more than line feeds for breaks.
        head, *lines = path.read_text(encoding='utf-8').split('\n')
        column = _HEADS[node_type][1]
        names = head.rstrip('\r').replace(',', '\t').split('\t')
        mark = '\t' if '\t' in head else ','
        rows = [line.rstrip('\r').split(mark) for line in lines if line.strip()]
        if len(names) != 2 or column not in names:
            raise ValueError(f'the columns {names}')
        at = names.index(column)
        ids = {int(row[at]): row[1 - at] for row in rows if len(row) == 2}
    except ValueError as error:
        raise ValueError(
            f"'{path}' must be a table of an id and its '{_HEADS[node_type][1]}' "
            f'(got {error})'
        ) from error
    if sorted(ids) != list(range(len(rows))) or len(ids) < count:
        raise ValueError(
            f"'{path}' must contain an id for each number from 0 to {count - 1} or "
            f'more (got {len(ids)} in {len(rows)} rows). If it is truncated, fetch the '
            f'file again'
        )
    return [ids[i] for i in range(len(ids))]
