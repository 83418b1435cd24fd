"""The runs that the tests of the command line train."""

from tests.cli.conftest import copy_of, distilled, fails, files, trained

__all__ = ['copy_of', 'distilled', 'fails', 'files', 'trained']
