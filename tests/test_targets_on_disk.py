"""Soft targets on disk."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from promptmm_pyg.data import Split, make_synthetic_dataset, split_per_user
from promptmm_pyg.data.schema import INTERACTS
from promptmm_pyg.distillation import CandidateSampling, distill
from promptmm_pyg.distillation.candidates import CandidateSampler
from promptmm_pyg.models.inference import normalized_adj_dict
from promptmm_pyg.ranking import SeenItems
from promptmm_pyg.targets import (
    SoftTargets,
    load_targets,
    save_targets,
    soft_targets,
    topk_targets,
)
from tests.training.setting import QUICK, make_split, make_student, make_teacher


@pytest.fixture
def saved(tmp_path):
    train, val, _ = make_split()
    targets = soft_targets(make_teacher(train), normalized_adj_dict(train))
    save_targets(tmp_path / 'deep' / 'targets', targets, train, top_k=7)
    return tmp_path / 'deep' / 'targets', targets, train, val


def test_what_is_saved_is_loaded_bit_for_bit(saved):
    path, targets, train, _ = saved
    loaded = load_targets(path, train)
    for mine, theirs in (
        (loaded.x_dict, targets.x_dict),
        *(
            (loaded.modality_x_dict[m], targets.modality_x_dict[m])
            for m in targets.modality_x_dict
        ),
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    assert loaded.modality_x_dict.keys() == targets.modality_x_dict.keys()


def test_the_best_items_are_the_exact_unseen_ones(saved):
    path, targets, train, _ = saved
    top = load_targets(path, train).top
    scores = targets.x_dict['user'] @ targets.x_dict['item'].t()
    seen = SeenItems.from_edge_index(train[INTERACTS].edge_index, 60, 40)
    seen.mask_(scores, torch.arange(60))
    values, index = scores.topk(7, dim=1)
    assert torch.equal(top.item_index.long(), index)
    torch.testing.assert_close(top.scores, values)


def test_a_student_of_saved_targets_is_the_student_of_the_teacher(saved):
    path, targets, train, val = saved
    states = []
    lists = CandidateSampling(
        num_uniform=3, num_teacher_topk=3, num_student_topk=2, top_k=7
    )
    for source in (targets, load_targets(path, train)):
        student = make_student(train)
        distill(
            student,
            source,
            Split(train, val, val),
            candidates=lists,
            baseline=False,
            config=QUICK,
        )
        states.append(student.state_dict())
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.parametrize('top_k', [7, 5])
def test_saved_best_items_are_not_ranked_again(saved, monkeypatch, top_k):
    path, targets, train, _ = saved
    candidates = CandidateSampling(num_teacher_topk=2, top_k=top_k)
    fresh = CandidateSampler(candidates, train, targets, seed=0)
    monkeypatch.setattr(
        CandidateSampler, '_best', lambda *_: pytest.fail('ranked again')
    )
    selected = CandidateSampler(candidates, train, load_targets(path, train), seed=0)
    assert torch.equal(fresh._teacher_top, selected._teacher_top.long())


def test_lists_deeper_than_what_is_saved_are_ranked_again(saved):
    path, targets, train, _ = saved
    candidates = CandidateSampling(num_teacher_topk=2, top_k=9)
    selected = CandidateSampler(candidates, train, load_targets(path, train), seed=0)
    assert torch.equal(
        selected._teacher_top, topk_targets(targets, train, 9).item_index
    )


def test_loading_maps_the_file_and_writing_leaves_it_as_it_is(saved):
    path, targets, train, _ = saved
    loaded = load_targets(path, train)
    maps = Path('/proc/self/maps')
    if maps.is_file():  # Linux only.
        assert str(path) in maps.read_text()
    loaded.x_dict['user'].zero_()
    again = load_targets(path, train)
    torch.testing.assert_close(again.x_dict, targets.x_dict, rtol=0, atol=0)


def test_no_best_items_are_saved_at_depth_zero(saved):
    path, targets, train, _ = saved
    save_targets(path, targets, train, top_k=0)
    assert load_targets(path, train).top is None


def test_a_catalogue_smaller_than_the_depth_is_ranked_whole(saved):
    path, targets, train, _ = saved
    save_targets(path, targets, train, top_k=1000)
    assert load_targets(path, train).top.item_index.shape == (60, 40)


def test_targets_without_modalities_are_saved_too(saved):
    path, targets, train, _ = saved
    save_targets(path, SoftTargets(targets.x_dict, {}), train)
    assert load_targets(path, train).modality_x_dict == {}


def test_targets_of_other_data_are_an_error(saved):
    path, _, train, _ = saved
    other = split_per_user(make_synthetic_dataset(60, 40, 4, seed=1)).train
    with pytest.raises(
        ValueError, match=r"'data' must be the graph of the targets .* Run"
    ):
        load_targets(path, other)
    edges = train[INTERACTS].edge_index
    train[INTERACTS].edge_index = edges[:, 1:]
    with pytest.raises(ValueError, match='targets of'):
        load_targets(path, train)


def test_targets_that_do_not_fit_the_data_are_not_saved(saved):
    path, targets, train, _ = saved
    short = SoftTargets({k: x[1:] for k, x in targets.x_dict.items()}, {})
    with pytest.raises(ValueError, match=r"'targets' must have one row per node, 60"):
        save_targets(path, short, train)


def test_a_missing_file_is_an_error(saved):
    _, _, train, _ = saved
    with pytest.raises(FileNotFoundError, match="'path' must be saved targets"):
        load_targets('nowhere', train)


def test_a_truncated_file_is_an_error(saved):
    path, _, train, _ = saved
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match='truncated or no safetensors file'):
        load_targets(path, train)


def test_a_file_of_another_format_is_an_error(saved):
    path, _, train, _ = saved
    save_file({'a': torch.zeros(1)}, path)
    with pytest.raises(ValueError, match='of format None'):
        load_targets(path, train)
