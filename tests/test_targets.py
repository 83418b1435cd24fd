import pytest
import torch

from promptmm_pyg.targets import SoftTargets, TeacherOutput, eval_mode, soft_targets


class TableTeacher(torch.nn.Module):
    """Returns its own table, with dropout on its one modality."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(64, 4))
        self.drop = torch.nn.Dropout(0.5)
        self.calls = 0

    def forward(self, scale=1.0, *, shift=0.0):
        self.calls += 1
        image = self.drop(self.weight) * scale + shift
        return TeacherOutput({'item': self.weight}, {'image': {'item': image}})


def test_an_output_needs_no_prompt():
    assert TeacherOutput({}, {}).prompt_dict == {}


def test_from_output_detaches_and_copies_the_values():
    output = TableTeacher().eval()()
    targets = SoftTargets.from_output(output)

    assert not targets.x_dict['item'].requires_grad
    assert not targets.modality_x_dict['image']['item'].requires_grad
    torch.testing.assert_close(targets.x_dict['item'], output.x_dict['item'].detach())
    torch.testing.assert_close(
        targets.modality_x_dict['image']['item'],
        output.modality_x_dict['image']['item'].detach(),
    )


def test_an_output_has_gradients():
    output = TableTeacher()()
    SoftTargets.from_output(output)
    assert output.x_dict['item'].requires_grad


def test_targets_stay_when_the_teacher_trains_on():
    teacher = TableTeacher()
    targets = soft_targets(teacher)
    with torch.no_grad():
        teacher.weight.add_(1.0)
    torch.testing.assert_close(targets.x_dict['item'], torch.ones(64, 4))


def test_dropout_does_not_reach_the_targets():
    targets = soft_targets(TableTeacher().train())
    torch.testing.assert_close(
        targets.modality_x_dict['image']['item'], torch.ones(64, 4)
    )


def test_the_teacher_is_called_once_with_the_given_arguments():
    teacher = TableTeacher()
    targets = soft_targets(teacher, 2.0, shift=3.0)
    assert teacher.calls == 1
    torch.testing.assert_close(
        targets.modality_x_dict['image']['item'], torch.full((64, 4), 5.0)
    )


def test_no_graph_is_built_while_the_teacher_runs():
    class Recorder(TableTeacher):
        def forward(self):
            output = super().forward()
            self.recorded = output.modality_x_dict['image']['item'].requires_grad
            return output

    teacher = Recorder()
    soft_targets(teacher)
    assert teacher.recorded is False


@pytest.mark.parametrize(('outer', 'inner'), [(True, False), (False, True)])
def test_every_part_gets_its_former_mode_back(outer, inner):
    teacher = TableTeacher().train(outer)
    teacher.drop.train(inner)
    soft_targets(teacher)
    assert (teacher.training, teacher.drop.training) == (outer, inner)


def test_modes_come_back_after_an_error():
    teacher = TableTeacher().train()
    with pytest.raises(TypeError, match='unexpected keyword'):
        soft_targets(teacher, unknown=1)
    assert teacher.training
    assert teacher.drop.training


def test_evaluating_reaches_every_part():
    teacher = TableTeacher().train()
    with eval_mode(teacher):
        assert not teacher.training
        assert not teacher.drop.training


def test_a_teacher_must_return_its_output():
    with pytest.raises(TypeError, match=r"'teacher' must .* \(got 'Tensor'\). Wrap"):
        soft_targets(torch.nn.Identity(), torch.ones(1))


def test_embeddings_by_node_type_are_an_output_without_modalities():
    class Plain(TableTeacher):
        def forward(self):
            return super().forward().x_dict

    teacher = Plain()
    targets = soft_targets(teacher)
    torch.testing.assert_close(targets.x_dict, teacher())
    assert targets.modality_x_dict == {}


def test_a_plain_tuple_is_no_output():
    class Plain(TableTeacher):
        def forward(self):
            return tuple(super().forward())

    with pytest.raises(TypeError, match=r"'teacher' must .* \(got 'tuple'\). Wrap"):
        soft_targets(Plain())
