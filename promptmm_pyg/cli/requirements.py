"""What the package asks for, read from its own metadata."""

import re
from importlib.metadata import PackageNotFoundError, metadata, requires, version

_PACKAGE = 'promptmm_pyg'
EXTRAS = {
    'frames': 'tables in .csv and .parquet',
    'viz': 'figures',
    'kernels': 'compiled sparse operators, a matter of speed',
    'ann': 'approximate ranking, faiss indices',
    'content': 'encoders of texts and pictures',
    'ica': '--prompt-start ica',
}
# Source-only packages need the torch that is there; a wheel has to fit it.
_KERNELS = 'pip install --no-build-isolation {packages}'
_FITTING = ' (torchvision has to fit torch: get both from one index)'
_FORM = re.compile(
    r'(?P<name>[\w.-]+)\s*>=\s*(?P<least>[\d.]+)'
    r'(\s*;\s*extra\s*==\s*["\'](?P<extra>[\w-]+)["\'])?'
)


def requirements(extra: str | None) -> dict[str, str]:
    """The least version of each package.

    Args:
        extra: The extra that asks for it; ``None`` for what is always needed.
    """
    found = {}
    for line in requires(_PACKAGE) or ():
        match = _FORM.fullmatch(line.strip())
        if match and match['extra'] == extra:
            found[match['name']] = match['least']
    return found


def required() -> str | None:
    """The least version of Python; ``None`` if the package is not installed."""
    try:
        text = metadata(_PACKAGE)['Requires-Python']
    except PackageNotFoundError:
        return None
    return str(text).strip().removeprefix('>=')


def installed(name: str) -> str | None:
    """The version of a package, if it is there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def older(found: str, least: str) -> bool:
    """Whether a version comes before another, by its leading numbers.

    Example:
        >>> older('2.10.0+cpu', '2.6'), older('2.5.1', '2.6')
        (False, True)
    """
    return _numbers(found) < _numbers(least)


def _numbers(text: str) -> list[int]:
    match = re.match(r'\d+(\.\d+)*', text)
    numbers = [int(part) for part in match[0].split('.')] if match else []
    while numbers and numbers[-1] == 0:  # 2.0 is 2.
        numbers.pop()
    return numbers


def missing(extra: str) -> list[str]:
    """The packages of an extra that are not there or too old."""
    found = []
    for name, least in requirements(extra).items():
        have = installed(name)
        if have is None:
            found.append(name)
        elif older(have, least):
            found.append(f'{name} {least} or later (here {have})')
    return found


def install_line(extra: str) -> str:
    """What to type to get an extra."""
    if extra == 'kernels':
        names = requirements(extra)
        packages = ' '.join(f"'{name}>={least}'" for name, least in names.items())
        return _KERNELS.format(packages=packages)
    line = f"pip install '{_PACKAGE}[{extra}]'"
    return line + (_FITTING if extra == 'content' else '')
