"""Distillation of embeddings: by their direction, or by experts."""

import torch
import torch.nn.functional as F
from torch import Tensor

from promptmm_pyg._utils import check_positive, check_same_shape
from promptmm_pyg.functional import l2_normalize
from promptmm_pyg.losses._base import (
    Loss,
    Reduction,
    as_row_pair,
    at_least_float32,
    check_finite,
    reduce,
)


def scaled_cosine_loss(
    student_x: Tensor,
    teacher_x: Tensor,
    gamma: float = 2.0,
    reduction: Reduction = 'mean',
) -> Tensor:
    r"""Returns :math:`(1 - \cos(\mathbf{x}^S, \mathbf{x}^T))^{\gamma}`, see
    :class:`ScaledCosineLoss`.

    Example:
        >>> opposite = torch.tensor([[1.0, 0.0]]), torch.tensor([[-3.0, 0.0]])
        >>> scaled_cosine_loss(*opposite)
        tensor(4.)
    """
    _check_gamma(gamma)
    student, teacher = _unit_pair(student_x, teacher_x)
    cosine = (student * teacher).sum(dim=-1)
    # Rounding can make 1 - cos slightly negative, where powers are undefined.
    return reduce((1 - cosine).clamp_min(0) ** gamma, reduction)


def _unit_pair(student_x: Tensor, teacher_x: Tensor) -> tuple[Tensor, Tensor]:
    check_same_shape('student_x', student_x, 'teacher_x', teacher_x)
    check_finite('student_x', student_x)
    check_finite('teacher_x', teacher_x)
    student, teacher = at_least_float32(student_x), at_least_float32(teacher_x)
    return l2_normalize(student), l2_normalize(teacher)


def _check_gamma(gamma: float) -> None:
    if not gamma >= 1:
        raise ValueError(
            f"'gamma' must be at least 1 (got {gamma}). The gradient would have no "
            f'bound at equal directions'
        )


class ScaledCosineLoss(Loss):
    r"""The scaled cosine error of the `"GraphMAE: Self-Supervised Masked Graph
    Autoencoders" <https://arxiv.org/abs/2205.10803>`_ paper, with which the
    `"PromptMM" <https://arxiv.org/abs/2402.17188>`_ paper distills embeddings.

    .. math::
        \mathcal{L} = \left( 1 - \frac{\mathbf{x}^S \cdot \mathbf{x}^T}
        {\|\mathbf{x}^S\| \, \|\mathbf{x}^T\|} \right)^{\gamma}

    A zero vector has cosine 0 with all others. Where student and teacher have
    different widths, project the student first and drop the projection later.
    Gradients flow to both inputs.

    Args:
        gamma: :math:`\gamma \geq 1`; a larger one gives easy rows less weight.
            (default: ``2.0``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over rows. (default: ``'mean'``)

    Shapes:
        - **inputs:** ``student_x`` and ``teacher_x`` :math:`(N, D)`
        - **output:** scalar, or :math:`(N,)` with ``reduction='none'``
    """

    def __init__(self, gamma: float = 2.0, reduction: Reduction = 'mean') -> None:
        super().__init__(reduction)
        _check_gamma(gamma)
        self.gamma = gamma

    def forward(self, student_x: Tensor, teacher_x: Tensor) -> Tensor:
        return scaled_cosine_loss(student_x, teacher_x, self.gamma, self.reduction)


def unit_mse_loss(
    student_x: Tensor, teacher_x: Tensor, reduction: Reduction = 'mean'
) -> Tensor:
    """Returns the squared distance of the two vectors at unit length, summed over
    channels: twice one minus their cosine.
    """
    student, teacher = _unit_pair(student_x, teacher_x)
    return reduce((student - teacher).square().sum(dim=-1), reduction)


class UnitMSELoss(Loss):
    r"""The squared distance of unit vectors.

    .. math::
        \mathcal{L} = \left\| \frac{\mathbf{x}^S}{\|\mathbf{x}^S\|} -
        \frac{\mathbf{x}^T}{\|\mathbf{x}^T\|} \right\|^2

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over rows. (default: ``'mean'``)

    Shapes:
        - **inputs:** ``student_x`` and ``teacher_x`` :math:`(N, D)`
        - **output:** scalar, or :math:`(N,)` with ``reduction='none'``
    """

    def forward(self, student_x: Tensor, teacher_x: Tensor) -> Tensor:
        return unit_mse_loss(student_x, teacher_x, self.reduction)


class DistillationExperts(Loss):
    r"""Distillation experts after the `"DE-RRD: A Knowledge Distillation Framework
    for Recommender System" <https://arxiv.org/abs/2012.04357>`_ paper: small networks
    reconstruct the teacher's embedding from the student's, each for the rows that a
    router on the teacher's embedding assigns to it.

    .. math::
        \mathcal{L}_i = \left\| \mathbf{x}^T_i - \sum_e w_{ie} \, E_e(\mathbf{x}^S_i)
        \right\|^2, \qquad \mathbf{w}_i = \mathrm{softmax} \left( \frac{\mathbf{A}
        \mathbf{x}^T_i + \mathbf{b} + \mathbf{g}_i}{\tau} \right)

    with Gumbel noise :math:`\mathbf{g}_i` in training only, and two-layer experts
    :math:`E_e`. Similar rows share an expert, where a single mapping averages over all
    rows.

    The parameters are trained with the student and dropped afterwards. Gradients flow
    to both inputs. The noise is from torch's global generator.

    Args:
        student_channels: The width of the student.
        teacher_channels: The width of the teacher.
        num_experts: The number of experts. (default: ``5``)
        hidden_channels: The width between an expert's two layers. (default: the mean
            of the two widths)
        temperature: :math:`\tau` at the start. (default: ``1.0``)
        reduction: ``'none'``, ``'mean'`` or ``'sum'`` over rows. (default: ``'mean'``)

    Attributes:
        temperature: :math:`\tau`, to be lowered between epochs: from several experts
            per row (1 and above) to one (towards 0). Not part of the ``state_dict``.

    Shapes:
        - **inputs:** ``student_x`` :math:`(N, D_S)`, ``teacher_x`` :math:`(N, D_T)`
        - **output:** scalar, or :math:`(N,)` with ``reduction='none'``
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
        super().__init__(reduction)
        check_positive('student_channels', student_channels)
        check_positive('teacher_channels', teacher_channels)
        check_positive('num_experts', num_experts)
        if hidden_channels is None:
            hidden_channels = (student_channels + teacher_channels) // 2
        check_positive('hidden_channels', hidden_channels)
        self.student_channels = student_channels
        self.teacher_channels = teacher_channels
        self.num_experts = num_experts
        self.hidden_channels = hidden_channels
        self.temperature = temperature
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
        """Softens the assignment of rows to experts; above zero."""
        return self._temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        check_positive('temperature', value)
        self._temperature = value

    def reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.xavier_uniform_(module.weight)
                torch.nn.init.zeros_(module.bias)

    def forward(self, student_x: Tensor, teacher_x: Tensor) -> Tensor:
        student_x, teacher_x = as_row_pair(student_x, teacher_x)
        for name, x, width in (
            ('student_x', student_x, self.student_channels),
            ('teacher_x', teacher_x, self.teacher_channels),
        ):
            if x.size(-1) != width:
                raise ValueError(
                    f"'{name}' must have shape [N, {width}] (got {list(x.size())})"
                )
        # Under autocast, the experts' output could exceed the range of a half.
        with torch.autocast(device_type=student_x.device.type, enabled=False):
            dtype = self.router.weight.dtype
            weights = self._route(teacher_x.to(dtype)).unbind(dim=-1)
            student_x = student_x.to(dtype)
            rebuilt = torch.zeros_like(teacher_x)
            for weight, expert in zip(weights, self.experts, strict=True):
                rebuilt = rebuilt + weight.unsqueeze(-1) * expert(student_x)
        return reduce((teacher_x - rebuilt).square().sum(dim=-1), self.reduction)

    def _route(self, teacher_x: Tensor) -> Tensor:
        logits = at_least_float32(self.router(teacher_x))
        if self.training:
            return F.gumbel_softmax(logits, tau=self.temperature)
        return (logits / self.temperature).softmax(dim=-1)
