"""Distillation of embeddings through experts that share the work."""

import torch
import torch.nn.functional as F
from torch import Tensor

from promptmm_pyg._utils import check_positive
from promptmm_pyg.losses._precision import at_least_float32
from promptmm_pyg.losses._reduction import Reduction, check_reduction, reduce
from promptmm_pyg.losses._rows import as_row_pair


class DistillationExperts(torch.nn.Module):
    r"""Distillation experts after the `"DE-RRD: A Knowledge Distillation Framework
    for Recommender System" <https://arxiv.org/abs/2012.04357>`_ paper: a few small
    networks rebuild the teacher's embedding from the student's, each for the rows
    that a router on the teacher's embedding sends to it.

    .. math::
        \mathcal{L}_i = \left\| \mathbf{x}^T_i - \sum_e w_{ie} \, E_e(\mathbf{x}^S_i)
        \right\|^2, \qquad \mathbf{w}_i = \mathrm{softmax} \left( \frac{\mathbf{A}
        \mathbf{x}^T_i + \mathbf{b} + \mathbf{g}_i}{\tau} \right)

    with Gumbel noise :math:`\mathbf{g}_i` while training and none in evaluation, and
    two-layer experts :math:`E_e`. One mapping for all rows has to average over
    unlike ones; with experts, rows that are alike share theirs.

    Its parameters are trained along with the student's and dropped afterwards.
    Gradients flow to both inputs. The noise comes from torch's generator of the
    device (:func:`torch.manual_seed`).

    Args:
        student_channels: The width of the student.
        teacher_channels: The width of the teacher.
        num_experts: How many experts share the rows. (default: ``5``)
        hidden_channels: The width between an expert's two layers. (default: half way
            between student and teacher)
        temperature: :math:`\tau` to begin with. (default: ``1.0``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over rows.
            (default: ``'mean'``)

    Attributes:
        temperature: :math:`\tau`, for the caller to lower between epochs: from shared
            work (1 and above) to one expert a row (towards 0). It is not part of the
            ``state_dict``: set it from the epoch.

    Shapes:
        - **inputs:** embeddings :math:`(N, D_S)` and :math:`(N, D_T)`
        - **output:** scalar, or :math:`(N,)` with ``reduction='none'``

    Raises:
        ValueError: If a size or the temperature is not positive, a width is not the
            one announced, the numbers of rows differ, a value is not finite or the
            reduction is unknown.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        num_experts: int = 5,
        hidden_channels: int | None = None,
        temperature: float = 1.0,
        reduction: Reduction = 'mean',
    ) -> None:
        super().__init__()
        check_positive('student_channels', student_channels)
        check_positive('teacher_channels', teacher_channels)
        check_positive('num_experts', num_experts)
        if hidden_channels is None:
            hidden_channels = (student_channels + teacher_channels) // 2
        check_positive('hidden_channels', hidden_channels)
        check_reduction(reduction)
        self.student_channels = student_channels
        self.teacher_channels = teacher_channels
        self.num_experts = num_experts
        self.hidden_channels = hidden_channels
        self.temperature = temperature
        self.reduction = reduction
        self.router = torch.nn.Linear(teacher_channels, num_experts)
        self.experts = torch.nn.ModuleList(
            torch.nn.Sequential(
                torch.nn.Linear(student_channels, hidden_channels),
                torch.nn.ReLU(),
                torch.nn.Linear(hidden_channels, teacher_channels),
            )
            for _ in range(num_experts)
        )
        self.reset_parameters()

    @property
    def temperature(self) -> float:
        """Softens the choice of an expert; above zero."""
        return self._temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        check_positive('temperature', value)
        self._temperature = value

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        for module in self.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.xavier_uniform_(module.weight)
                torch.nn.init.zeros_(module.bias)

    def forward(self, student_x: Tensor, teacher_x: Tensor) -> Tensor:
        student_x, teacher_x = as_row_pair(student_x, teacher_x)
        _check_width('student_x', student_x, self.student_channels)
        _check_width('teacher_x', teacher_x, self.teacher_channels)
        # Under autocast, what experts say would end at the range of a half.
        with torch.autocast(device_type=student_x.device.type, enabled=False):
            rebuilt = self._rebuild(student_x, teacher_x)
        return reduce((teacher_x - rebuilt).square().sum(dim=-1), self.reduction)

    def _rebuild(self, student_x: Tensor, teacher_x: Tensor) -> Tensor:
        dtype = self.router.weight.dtype
        weight = self._route(teacher_x.to(dtype))
        student_x = student_x.to(dtype)
        rebuilt = torch.zeros_like(teacher_x)
        for share, expert in zip(weight.unbind(dim=-1), self.experts, strict=True):
            rebuilt = rebuilt + share.unsqueeze(-1) * expert(student_x)
        return rebuilt

    def _route(self, teacher_x: Tensor) -> Tensor:
        logits = at_least_float32(self.router(teacher_x))
        if self.training:
            return F.gumbel_softmax(logits, tau=self.temperature)
        return (logits / self.temperature).softmax(dim=-1)

    def extra_repr(self) -> str:
        """What stands between the brackets of the printed module."""
        return (
            f'{self.student_channels}, {self.teacher_channels}, '
            f"temperature={self.temperature}, reduction='{self.reduction}'"
        )


def _check_width(name: str, x: Tensor, channels: int) -> None:
    if x.size(-1) != channels:
        raise ValueError(
            f"'{name}' must have shape [N, {channels}] (got {list(x.size())})"
        )
