import tomllib
from importlib.metadata import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import promptmm_pyg
from promptmm_pyg.cli.doctor import (
    EXTRAS,
    install_line,
    installed,
    is_older,
    required_python,
    requirements,
)

PROJECT = Path(promptmm_pyg.__file__).parents[1] / 'pyproject.toml'


@pytest.fixture(scope='module')
def project():
    return tomllib.loads(PROJECT.read_text())['project']


def read(lines):
    parsed = [Requirement(line) for line in lines]
    return {x.name: next(iter(x.specifier)).version for x in parsed}


def test_what_is_always_needed_is_read_whole(project):
    expected = read(project['dependencies'])
    if set(requirements(None)) != set(expected):
        pytest.skip('the package was installed before its dependencies changed')
    assert requirements(None) == expected
    assert f'>={required_python()}' == project['requires-python']


@pytest.mark.parametrize('extra', EXTRAS)
def test_an_extra_is_read_whole(project, extra):
    known = metadata('promptmm_pyg').get_all('Provides-Extra')
    if set(known) != set(project['optional-dependencies']):
        pytest.skip('the package was installed before its extras changed')
    assert requirements(extra) == read(project['optional-dependencies'][extra])


def test_every_extra_for_users_is_known(project):
    assert set(project['optional-dependencies']) - {'all', 'dev', 'docs'} == set(EXTRAS)


@pytest.mark.parametrize(
    ('found', 'least', 'expected'),
    [
        ('2.13.0+cpu', '2.6', False),
        ('2.6.0', '2.6', False),
        ('2.6', '2.6.1', True),
        ('2.6.0a0+git', '2.7', True),
        ('unknown', '1', True),
    ],
)
def test_versions_are_compared_number_by_number(found, least, expected):
    assert is_older(found, least) is expected


def test_a_package_that_is_not_there_has_no_version():
    assert installed('no-such-package-at-all') is None


def test_the_lines_can_be_typed():
    assert install_line('viz') == (
        '\'pip install ".[viz]"\' in the folder of promptmm_pyg'
    )
    assert install_line('kernels') == (
        "pip install --no-build-isolation 'torch-scatter>=2.1.2' 'torch-sparse>=0.6.18'"
    )
    assert install_line('content').startswith('\'pip install ".[content]"\'')
