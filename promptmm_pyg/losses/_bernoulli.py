"""The divergence of two beliefs in one event."""

import torch.nn.functional as F
from torch import Tensor


def bernoulli_divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the teacher's from the student's Bernoulli
    distribution, element by element, from logits.
    """
    gap = F.logsigmoid(teacher_logits) - F.logsigmoid(student_logits)
    other_gap = F.logsigmoid(-teacher_logits) - F.logsigmoid(-student_logits)
    return teacher_logits.sigmoid() * gap + (-teacher_logits).sigmoid() * other_gap
