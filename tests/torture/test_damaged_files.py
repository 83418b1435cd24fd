"""Each reader of a damaged file returns its content or raises an error that names it.

Hypothesis draws the damage; ``python -m tests.torture.fuzz`` does the same for minutes.
"""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.torture._readers import READERS
from tests.torture._sandbox import GOOD
from tests.torture.fuzz import Target

# Others train or decode pictures, which takes longer.
QUICK = [name for name in READERS if not name.startswith('run-')]


@pytest.fixture(scope='module')
def targets():
    made = {name: Target(name) for name in QUICK}
    yield made
    for target in made.values():
        target.close()


@pytest.mark.filterwarnings('ignore')
@settings(
    max_examples=120,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(name=st.sampled_from(QUICK), seed=st.integers(0, 10**6))
def test_a_damaged_file_is_harmless_or_named(targets, name, seed):
    outcome = targets[name].case(seed)()
    assert outcome.kind in GOOD, outcome.text


@pytest.mark.parametrize('name', ['targets', 'prompt', 'checkpoint', 'recommender'])
def test_no_flipped_bit_of_an_artifact_is_read(targets, name):
    target, draw = targets[name], random.Random(0)
    for file in target.files:
        for _ in range(10):
            assert target.flip(file, draw).kind in GOOD
