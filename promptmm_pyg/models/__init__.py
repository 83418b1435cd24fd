"""Recommendation models: baselines, students and teachers."""

from typing import Any

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

MODELS: dict[str, type[GraphRecommender] | type[ClosedForm[Any]]] = {
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
]
