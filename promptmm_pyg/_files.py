"""Files that appear whole or not at all; imports the standard library only."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``, and renames it to ``path`` when the
    block ends well. After an error the former file is as it was, and no other is
    left behind.

    Missing folders are made. Who may read the file is as for any new file, also where
    a library, as safetensors does, would keep it to its owner.

    Args:
        path: The file to write.

    Example:
        >>> folder = getfixture('tmp_path')
        >>> with replacing(folder / 'answer.txt') as temporary:
        ...     _ = temporary.write_text('42')
        >>> [file.name for file in folder.iterdir()]
        ['answer.txt']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    temporary.touch()
    mode = temporary.stat().st_mode
    temporary.unlink()
    try:
        yield temporary
        if temporary.is_file():
            temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
