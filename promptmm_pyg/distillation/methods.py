"""The distillation losses of papers, as lists for ``distill``."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch_geometric.typing import NodeType

from promptmm_pyg._utils import check_choice
from promptmm_pyg.data.schema import NODE_TYPES
from promptmm_pyg.distillation.adapters import (
    FUSED,
    Adapter,
    OnEmbeddings,
    OnLists,
    OnPairs,
    Views,
)
from promptmm_pyg.distillation.frequencies import OnFrequencies
from promptmm_pyg.losses import (
    DecoupledKDLoss,
    InfoNCELoss,
    PairwiseKDLoss,
    ScaledCosineLoss,
    UnitMSELoss,
    WassersteinKDLoss,
)


def promptmm_losses(
    *,
    pairwise_weight: float = 1.0,
    listwise_weight: float = 1.0,
    embedding_weight: float = 1.0,
    list_views: Views = 'all',
    view_weights: Literal['uniform', 'agreement'] | torch.nn.Module = 'uniform',
    embedding_views: Views = 'all',
    node_types: Sequence[NodeType] = NODE_TYPES,
    listwise: Literal['dkd', 'kl'] = 'dkd',
    alpha: float = 1.0,
    beta: float = 1.0,
    temperature: float = 1.0,
    gamma: float = 2.0,
    embedding_loss: Literal['scaled_cosine', 'unit_mse'] = 'scaled_cosine',
) -> list[Adapter]:
    r"""The three distillation losses of the `"PromptMM: Multi-Modal Knowledge
    Distillation for Recommendation with Prompt-Tuning"
    <https://arxiv.org/abs/2402.17188>`_ paper, the default of
    :func:`~promptmm_pyg.distillation.distill`.

    * ``pairwise``: :class:`~promptmm_pyg.losses.PairwiseKDLoss` on the margins of the
      fused teacher;
    * ``listwise``: :class:`~promptmm_pyg.losses.DecoupledKDLoss` on the candidate
      lists of each view;
    * ``embedding``: :class:`~promptmm_pyg.losses.ScaledCosineLoss` on the embeddings
      of each view, projected if widths differ.

    A *view* is the name of a modality or ``'fused'``, the final embeddings.

    Args:
        pairwise_weight: Weight of ``pairwise``. (default: ``1.0``)
        listwise_weight: Weight of ``listwise``. (default: ``1.0``)
        embedding_weight: Weight of ``embedding``. (default: ``1.0``)
        list_views: Views of ``listwise``. (default: ``'all'``)
        view_weights: How these are weighted, see
            :class:`~promptmm_pyg.distillation.OnLists`. (default: ``'uniform'``)
        embedding_views: Views of ``embedding``. (default: ``'all'``)
        node_types: Node types of ``embedding``. (default: both)
        listwise: ``'dkd'`` (decoupled) or ``'kl'``. (default: ``'dkd'``)
        alpha: Weight of the target part of ``'dkd'``. (default: ``1.0``)
        beta: Weight of its non-target part. (default: ``1.0``)
        temperature: Of ``pairwise`` and ``listwise``. (default: ``1.0``)
        gamma: Exponent of the scaled cosine error. (default: ``2.0``)
        embedding_loss: ``'scaled_cosine'`` or ``'unit_mse'``.
            (default: ``'scaled_cosine'``)

    Raises:
        ValueError: If an option is unknown.

    Example:
        >>> [loss.name for loss in promptmm_losses(listwise='kl')]
        ['pairwise', 'listwise', 'embedding']
    """
    check_choice('listwise', listwise, ('dkd', 'kl'))
    check_choice('embedding_loss', embedding_loss, ('scaled_cosine', 'unit_mse'))
    on_lists = DecoupledKDLoss(
        alpha=alpha,
        beta=beta,
        temperature=temperature,
        listwise=listwise,
        reduction='none',
    )
    on_rows = ScaledCosineLoss(gamma) if embedding_loss != 'unit_mse' else UnitMSELoss()
    return [
        OnPairs(PairwiseKDLoss(temperature), pairwise_weight),
        OnLists(on_lists, listwise_weight, list_views, view_weights),
        OnEmbeddings(on_rows, embedding_weight, embedding_views, node_types),
    ]


def tarec_losses(
    *,
    wasserstein_weight: float = 1.0,
    contrastive_weight: float = 1.0,
    distribution: Literal['logits', 'probabilities'] = 'logits',
    temperature: float = 1.0,
    contrastive_temperature: float = 0.2,
    views: Views = FUSED,
    node_types: Sequence[NodeType] = NODE_TYPES,
) -> list[Adapter]:
    r"""The distillation losses of the `"Bridging the Gap: Teacher-Assisted Wasserstein
    Knowledge Distillation for Efficient Multi-Modal Recommendation"
    <https://openreview.net/forum?id=ss9UXxbSys>`_ (TARec) paper.

    * ``wasserstein``: :class:`~promptmm_pyg.losses.WassersteinKDLoss` on the candidate
      lists;
    * ``contrastive``: :class:`~promptmm_pyg.losses.InfoNCELoss` of the student's
      embeddings with the teacher's, projected if widths differ; negatives are the
      other nodes of the batch.

    The paper distills twice: from the multi-modal teacher to a *teacher assistant*,
    closer to the student in its inputs and size, and from the assistant to a student on
    ids. Both are a call of :func:`~promptmm_pyg.distillation.distill`, see the example.

    The paper's parts are the assistant, the Wasserstein distance of logits and the
    contrastive loss. We have its abstract only: which assistant, which negatives, all
    weights and both temperatures are our reading.

    Args:
        wasserstein_weight: Weight of ``wasserstein``. (default: ``1.0``)
        contrastive_weight: Weight of ``contrastive``. (default: ``1.0``)
        distribution: ``'logits'`` or ``'probabilities'``. (default: ``'logits'``)
        temperature: Of ``wasserstein``. (default: ``1.0``)
        contrastive_temperature: Of ``contrastive``. (default: ``0.2``)
        views: Views of both. (default: ``'fused'``)
        node_types: Node types of ``contrastive``. (default: both)

    Raises:
        ValueError: If an option is unknown or out of range.

    Example:
        >>> from promptmm_pyg import LightGCN, MatrixFactorization, PromptMM, distill
        >>> from promptmm_pyg.data import make_synthetic_dataset, split_per_user
        >>> from promptmm_pyg.training import TrainingConfig
        >>> data = split_per_user(make_synthetic_dataset(60, 40, 4, seed=0))
        >>> config = TrainingConfig(epochs=1, validate_every=0, progress=False)
        >>> options = {'losses': tarec_losses(), 'config': config, 'baseline': False}
        >>> teacher = PromptMM.from_data(data, embedding_dim=64)
        >>> assistant = LightGCN.from_data(data, embedding_dim=64)
        >>> student = MatrixFactorization.from_data(data, embedding_dim=32)
        >>> result = distill(assistant, teacher, data, **options)
        >>> result = distill(student, assistant, data, **options)
        >>> list(result.history.records[0]['losses'])
        ['bpr', 'l2', 'wasserstein', 'contrastive']
    """
    on_lists = WassersteinKDLoss(temperature, distribution)
    on_rows = InfoNCELoss(contrastive_temperature)
    return [
        OnLists(on_lists, wasserstein_weight, views, name='wasserstein'),
        OnEmbeddings(
            on_rows, contrastive_weight, views, node_types, name='contrastive'
        ),
    ]


def fdrec_losses(
    *,
    low_weight: float = 1.0,
    high_weight: float = 1.0,
    wasserstein_weight: float = 1.0,
    num_hops: int = 1,
    distribution: Literal['logits', 'probabilities'] = 'logits',
    temperature: float = 1.0,
    contrastive_temperature: float = 0.2,
    views: Views = FUSED,
    node_types: Sequence[NodeType] = NODE_TYPES,
) -> list[Adapter]:
    r"""The distillation losses of the paper "Frequency-Decoupled Distillation for
    Efficient Multimodal Recommendation" (FDRec, CIKM 2025): low and high frequencies
    of the teacher are distilled apart, so that the strong low ones do not hide the
    fine-grained high ones.

    * ``low_embedding`` and ``high_embedding``:
      :class:`~promptmm_pyg.losses.InfoNCELoss` of the two parts of the student's
      embeddings with those of the teacher's
      (:class:`~promptmm_pyg.distillation.OnFrequencies`), projected if widths differ;
    * ``wasserstein``: :class:`~promptmm_pyg.losses.WassersteinKDLoss` on the candidate
      lists.

    The paper's part is the separation into two frequencies with a loss each. Our source
    was a summary by a third party, not the paper: frequencies of the interaction graph
    (not of channels, which have no order), the filter, the losses of the parts and all
    weights are our reading; the other two losses are those of the same authors' TARec
    (:func:`tarec_losses`).

    Args:
        low_weight: Weight of ``low_embedding``. (default: ``1.0``)
        high_weight: Weight of ``high_embedding``. (default: ``1.0``)
        wasserstein_weight: Weight of ``wasserstein``. (default: ``1.0``)
        num_hops: Hops of the filter. (default: ``1``)
        distribution: ``'logits'`` or ``'probabilities'``. (default: ``'logits'``)
        temperature: Of ``wasserstein``. (default: ``1.0``)
        contrastive_temperature: Of the two parts. (default: ``0.2``)
        views: Views of all. (default: ``'fused'``)
        node_types: Node types of the two parts. (default: both)

    Raises:
        ValueError: If an option is unknown or out of range.

    Example:
        >>> [loss.name for loss in fdrec_losses(high_weight=2.0)]
        ['low_embedding', 'high_embedding', 'wasserstein']
    """
    on_lists = WassersteinKDLoss(temperature, distribution)
    on_rows = InfoNCELoss(contrastive_temperature)
    low, high = (
        OnEmbeddings(on_rows, weight, views, node_types)
        for weight in (low_weight, high_weight)
    )
    return [
        OnFrequencies(low, 'low', num_hops),
        OnFrequencies(high, 'high', num_hops),
        OnLists(on_lists, wasserstein_weight, views, name='wasserstein'),
    ]
