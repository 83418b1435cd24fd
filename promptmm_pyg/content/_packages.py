"""What to say of an optional package that does not load."""

# A torchvision for another torch fails with whatever it stumbles over, and takes
# what imports it along.
BROKEN = (ImportError, OSError, RuntimeError, AttributeError)


def not_loaded(what: str, package: str, error: Exception) -> ImportError:
    """The error to raise where ``what`` needs a package that is missing or broken."""
    how = "'pip install promptmm_pyg[content]'"
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        name = package.replace('_', '-')
        return ImportError(f"'{what}' requires '{name}'. Install it with {how}")
    return ImportError(
        f"'{what}' requires a '{package}' that loads (got: {error}). Install one that "
        f'fits this torch, both from one index: {how}'
    )
