"""What trains together has to lie on one device, and is told so before it trains."""

import pytest
import torch

from promptmm_pyg.distillation import distill
from promptmm_pyg.models import LightGCN, MatrixFactorization
from promptmm_pyg.ranking import Ranking
from promptmm_pyg.targets import SoftTargets
from promptmm_pyg.training import (
    Schedule,
    bpr_terms,
    load_state,
    save_state,
    train_teacher,
)
from tests.training.setting import make_split

SIZES = {'user': 60, 'item': 40}


def tables():
    return {key: torch.ones(num, 4) for key, num in SIZES.items()}


def test_graph_and_teacher():
    train, val, _ = make_split()
    model = LightGCN(SIZES, embedding_dim=4).to('meta')
    with pytest.raises(ValueError, match=r"'train' must.*'teacher', meta \(got cpu\)"):
        train_teacher(model, train, val, terms=bpr_terms)


def test_graph_and_student():
    train, val, _ = make_split()
    student = MatrixFactorization(SIZES, embedding_dim=4).to('meta')
    targets = SoftTargets(tables(), {})
    with pytest.raises(ValueError, match=r"'train' must.*'student', meta \(got cpu\)"):
        distill(student, targets, train, val)


def test_teacher_and_student():
    train, val, _ = make_split()
    targets = SoftTargets(tables(), {}).to('meta')
    with pytest.raises(ValueError, match=r"'teacher' must.*'student', cpu \(got meta"):
        distill(MatrixFactorization(SIZES, embedding_dim=4), targets, train, val)


def test_soft_targets_move_whole():
    top = Ranking(torch.zeros(60, 2, dtype=torch.long), torch.zeros(60, 2))
    targets = SoftTargets(tables(), {'text': tables()}, top).to('meta')
    views = [targets.x_dict, targets.modality_x_dict['text']]
    for view in views:
        assert {x.device.type for x in view.values()} == {'meta'}
    assert {x.device.type for x in targets.top} == {'meta'}
    assert SoftTargets(tables(), {}).to('cpu').top is None


def test_a_run_that_was_begun_on_a_gpu(tmp_path):
    train, val, _ = make_split()
    schedule = Schedule(epochs=1, run_dir=tmp_path, progress=False)
    how = {'terms': bpr_terms, 'weights': {'bpr': 1.0, 'l2': 0.0}}
    train_teacher(
        LightGCN(SIZES, embedding_dim=4), train, val, schedule=schedule, **how
    )
    path = tmp_path / 'checkpoint.safetensors'
    state = load_state(path)
    # A GPU's generator has 16 bytes: a seed and how far it has come.
    state['loader']['generator'] = torch.zeros(16, dtype=torch.uint8)
    save_state(path, state)
    schedule = schedule._replace(epochs=2, resume=True)
    with pytest.raises(ValueError, match=r"'resume' requires.*CPU or GPU"):
        train_teacher(
            LightGCN(SIZES, embedding_dim=4), train, val, schedule=schedule, **how
        )
