"""Recommendation models: baselines, students and teachers."""

from promptmm_pyg.models._resolve import ModelClass, find_model, installed_models
from promptmm_pyg.models.base import GraphRecommender
from promptmm_pyg.models.bm3 import BM3
from promptmm_pyg.models.clcrec import CLCRec
from promptmm_pyg.models.closed_form import ClosedForm
from promptmm_pyg.models.dragon import DRAGON
from promptmm_pyg.models.dual_gnn import DualGNN
from promptmm_pyg.models.ease import EASE
from promptmm_pyg.models.fast_mmrec import FastMMRec
from promptmm_pyg.models.freedom import FREEDOM
from promptmm_pyg.models.graph_filter import GraphFilter
from promptmm_pyg.models.grcn import GRCN
from promptmm_pyg.models.item_knn import ItemKNN
from promptmm_pyg.models.lattice import LATTICE
from promptmm_pyg.models.layer_gcn import LayerGCN
from promptmm_pyg.models.lgmrec import LGMRec
from promptmm_pyg.models.light_gcn import LightGCN
from promptmm_pyg.models.light_gcn_m import LightGCNM
from promptmm_pyg.models.matrix_factorization import MatrixFactorization
from promptmm_pyg.models.mgcn import MGCN
from promptmm_pyg.models.mmgcf import MMGCF
from promptmm_pyg.models.mmgcn import MMGCN
from promptmm_pyg.models.mmssl import MMSSL
from promptmm_pyg.models.ngcf import NGCF
from promptmm_pyg.models.pgl import PGL
from promptmm_pyg.models.popularity import Popularity
from promptmm_pyg.models.promptmm import PromptMM
from promptmm_pyg.models.promptmm_plus import PromptMMPlus
from promptmm_pyg.models.slmrec import SLMRec
from promptmm_pyg.models.smore import SMORE
from promptmm_pyg.models.vbpr import VBPR

MODELS: dict[str, ModelClass] = {
    cls.__name__: cls
    for cls in (
        Popularity,
        ItemKNN,
        EASE,
        GraphFilter,
        MatrixFactorization,
        LightGCN,
        LayerGCN,
        NGCF,
        VBPR,
        LightGCNM,
        MMGCN,
        GRCN,
        LATTICE,
        DualGNN,
        CLCRec,
        SLMRec,
        MMSSL,
        BM3,
        FREEDOM,
        DRAGON,
        MGCN,
        LGMRec,
        PGL,
        SMORE,
        MMGCF,
        FastMMRec,
        PromptMM,
        PromptMMPlus,
    )
}
"""Every model of the library by the name of its class."""


def get_model(
    name: str, *, option: str = 'model', sha256: str | None = None, allow: bool = True
) -> ModelClass:
    """The class of a model: one of ``MODELS``, one of an installed package, by the name
    of its entry point in the group ``promptmm_pyg.models``, or one of a file, as
    ``'path/to/file.py:Class'``.

    A model of a file is a subclass of :class:`GraphRecommender` or
    :class:`~promptmm_pyg.models.ClosedForm`. Its file is Python code that is run here.
    With ``allow=False``, as for names that a run recorded, it is run only if the same
    content was named before with ``allow=True``, in this or an earlier process of this
    user (recorded in ``~/.config/promptmm_pyg/allowed_models``).

    Args:
        name: The name.
        option: The name of the option or argument, for messages.
            (default: ``'model'``)
        sha256: The hash that the file must have. (default: any)
        allow: Whether the user named the file, so its code may run.
            (default: ``True``)

    Raises:
        ValueError: If there is no such model, the file does not run, was altered or is
            not allowed, or the class is not a model.

    Example:
        >>> get_model('EASE').__name__
        'EASE'
    """
    return find_model(name, MODELS, option=option, sha256=sha256, allow=allow)


def model_names() -> list[str]:
    """The names of the models of the library and of installed packages."""
    return [*MODELS, *(name for name in installed_models() if name not in MODELS)]


__all__ = [
    'BM3',
    'DRAGON',
    'EASE',
    'FREEDOM',
    'GRCN',
    'LATTICE',
    'MGCN',
    'MMGCF',
    'MMGCN',
    'MMSSL',
    'MODELS',
    'NGCF',
    'PGL',
    'SMORE',
    'VBPR',
    'CLCRec',
    'ClosedForm',
    'DualGNN',
    'FastMMRec',
    'GraphFilter',
    'GraphRecommender',
    'ItemKNN',
    'LGMRec',
    'LayerGCN',
    'LightGCN',
    'LightGCNM',
    'MatrixFactorization',
    'Popularity',
    'PromptMM',
    'PromptMMPlus',
    'SLMRec',
    'get_model',
    'model_names',
]
