"""Damaged checkpoints, prompts and targets are a clear error."""

import random

import pytest
import torch

from promptmm_pyg.data import make_synthetic_dataset, split_per_user
from promptmm_pyg.nn import SoftPrompt, load_prompt, save_prompt
from promptmm_pyg.targets import SoftTargets, load_targets, save_targets
from promptmm_pyg.training.checkpoint import load_state, save_state

DATA = split_per_user(make_synthetic_dataset(30, 20, 4)).train
PROMPT = SoftPrompt({'user': torch.ones(5, 2)}, 3)
X_DICT = {'user': torch.ones(30, 3), 'item': torch.ones(20, 3)}
TARGETS = SoftTargets(X_DICT, {'text': X_DICT})
FILES = {
    'checkpoint': (
        lambda path: save_state(path, {'a': torch.ones(3), 'b': {1: [None, 'x']}}),
        load_state,
    ),
    'prompt': (
        lambda path: save_prompt(path, PROMPT),
        lambda path: load_prompt(path, PROMPT),
    ),
    'targets': (
        lambda path: save_targets(path, TARGETS, DATA, top_k=3),
        lambda path: load_targets(path, DATA),
    ),
}


@pytest.mark.parametrize('kind', FILES)
def test_a_damaged_header_is_a_value_error_that_names_the_file(kind, tmp_path):
    save, load = FILES[kind]
    path, draw, errors = tmp_path / 'file', random.Random(0), []
    save(path)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], 'little')
    for _ in range(400):
        damaged = bytearray(content)
        damaged[draw.randrange(header)] = draw.randrange(32, 127)
        path.write_bytes(damaged)
        try:
            load(path)
        except ValueError as error:
            errors.append(str(error))
    assert len(errors) > 300
    assert all(str(path) in error for error in errors)
