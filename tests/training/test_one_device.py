"""What trains together has to lie on one device, and is told so before it trains."""

import pytest
import torch

from promptmm_pyg.nn import LightGCN, MatrixFactorization
from promptmm_pyg.outputs import SoftTargets
from promptmm_pyg.ranking import Ranking
from promptmm_pyg.training import bpr_terms, distill, train_teacher
from tests.training.setting import make_split

SIZES = {'user': 60, 'item': 40}


def tables():
    return {key: torch.ones(num, 4) for key, num in SIZES.items()}


def test_graph_and_teacher():
    train, val, _ = make_split()
    model = LightGCN(SIZES, 4).to('meta')
    with pytest.raises(ValueError, match=r"'train' needs.*'teacher', meta \(got cpu\)"):
        train_teacher(model, train, val, terms=bpr_terms)


def test_graph_and_student():
    train, val, _ = make_split()
    student = MatrixFactorization(SIZES, 4).to('meta')
    targets = SoftTargets(tables(), {})
    with pytest.raises(ValueError, match=r"'train' needs.*'student', meta \(got cpu\)"):
        distill(student, targets, train, val)


def test_teacher_and_student():
    train, val, _ = make_split()
    targets = SoftTargets(tables(), {}).to('meta')
    with pytest.raises(ValueError, match=r"'teacher' needs.*'student', cpu \(got meta"):
        distill(MatrixFactorization(SIZES, 4), targets, train, val)


def test_soft_targets_move_whole():
    top = Ranking(torch.zeros(60, 2, dtype=torch.long), torch.zeros(60, 2))
    targets = SoftTargets(tables(), {'text': tables()}, top).to('meta')
    views = [targets.x_dict, targets.modality_x_dict['text']]
    for view in views:
        assert {x.device.type for x in view.values()} == {'meta'}
    assert {x.device.type for x in targets.top} == {'meta'}
    assert SoftTargets(tables(), {}).to('cpu').top is None
