"""The models of a run, built anew or read from its folder."""

import copy
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from promptmm_pyg.cli.damage import settings_of
from promptmm_pyg.cli.data_source import fingerprint, load_split
from promptmm_pyg.cli.parsing import UserError
from promptmm_pyg.cli.run_folder import MODEL, RunFolder, load_tensors, read_json
from promptmm_pyg.data import (
    ITEM,
    USER,
    Split,
    modality_mask_dict,
    modality_x_dict,
)
from promptmm_pyg.distillation import (
    CandidateSampling,
    promptmm_losses,
    truncate_embeddings,
)
from promptmm_pyg.models import LightGCN, MatrixFactorization, PromptMM
from promptmm_pyg.models.inference import get_embeddings, normalized_adj_dict
from promptmm_pyg.transforms import (
    AddModalityICA,
    AddModalityPCA,
    AddRandomPrompt,
    StandardizeModalities,
)

Tables = dict[str, Tensor]
"""Embeddings per node type."""


class Prepared(NamedTuple):
    """The graphs of a run, the training graph ready for the models."""

    train: HeteroData
    val: HeteroData
    test: HeteroData
    inputs: tuple[Any, ...]
    """What every model is called with."""

    def to(self, device: torch.device) -> 'Prepared':
        """The same with what is trained on moved; these graphs stay where they are."""
        # A graph moves in place, and a shallow copy is not the graph.
        train = copy.copy(self.train).to(str(device))
        inputs = tuple(
            {key: adj.to(device) for key, adj in operators.items()}
            for operators in self.inputs
        )
        return self._replace(train=train, inputs=inputs)


def prepare(split: Split, prompt: dict[str, Any] | None) -> Prepared:
    """Standardizes the features and, where there is a prompt, finds its start.

    Raises:
        UserError: If there is a prompt and nothing to make it of.
    """
    train = StandardizeModalities()(split.train)
    if prompt is not None:
        if not any(ITEM in x_of for x_of in modality_x_dict(train).values()):
            raise UserError(
                'the data have no item features, so there is no prompt. Pass '
                '--features NAME=FILE, --text SOURCE or --images FOLDER, or '
                '--no-prompt for ids alone'
            )
        train = _prompt_start(**prompt)(train)
    return Prepared(train, split.val, split.test, (normalized_adj_dict(train),))


def _prompt_start(
    out_channels: int,
    combine: Literal['concat', 'mean'] = 'concat',
    start: str = 'pca',
) -> BaseTransform:
    if start == 'random':
        return AddRandomPrompt(out_channels)
    if start == 'ica':
        return AddModalityICA(out_channels, combine)
    return AddModalityPCA(out_channels, combine)


def reload(run: RunFolder, config: dict[str, Any]) -> Prepared:
    """The graphs that a run was trained on.

    Raises:
        UserError: If the data are not what they were.
    """
    with settings_of(run.config_file):
        split = load_split(config['data'])
    if fingerprint(split) != config['data_sha256']:
        raise UserError(
            f"the data have changed since '{run.path}' was trained. Put them back, or "
            f'train again'
        )
    with settings_of(run.config_file):
        return prepare(split, config['prompt'])


def build_teacher(config: dict[str, Any], train: HeteroData) -> PromptMM:
    """The teacher of a configuration, with random parameters."""
    torch.manual_seed(config['train']['seed'])
    starts = None
    if config['prompt'] is not None:
        starts = {key: train[key].prompt_start for key in (USER, ITEM)}
    features = modality_x_dict(train)
    return PromptMM(
        train.num_nodes_dict,
        features,
        prompt_start_dict=starts,
        modality_mask_dict=modality_mask_dict(train),
        **config['teacher'],
    )


def load_teacher(run: RunFolder, config: dict[str, Any], train: HeteroData) -> PromptMM:
    """The trained teacher of a run.

    Raises:
        UserError: If it is not trained yet.
    """
    what = "Finish its training: 'promptmm train ... --resume'"
    state = load_tensors(run.teacher / MODEL, what)
    with settings_of(run.config_file, RuntimeError):
        teacher = build_teacher(config, train)
        teacher.load_state_dict(state)
    return teacher.eval()


def build_student(config: dict[str, Any], train: HeteroData) -> torch.nn.Module:
    """The student of a configuration, with random parameters."""
    torch.manual_seed(config['distill']['seed'])
    counts, width = train.num_nodes_dict, config['width']
    if config['student'] == 'mf':
        return MatrixFactorization(counts, embedding_dim=width)
    return LightGCN(counts, embedding_dim=width, num_layers=config['num_layers'])


def new_student(run: RunFolder, train: HeteroData) -> torch.nn.Module:
    """The student of a run, with random parameters.

    Raises:
        UserError: If its settings are damaged.
    """
    file = run.student / 'config.json'
    with settings_of(file, RuntimeError):
        return build_student(read_json(file), train)


def load_student(
    run: RunFolder, train: HeteroData, name: str = 'student'
) -> torch.nn.Module:
    """The trained student of a run, or its control.

    Raises:
        UserError: If it is not trained yet, or damaged.
    """
    folder = run.student if name == 'student' else run.control
    what = f"Make one with 'promptmm distill {run.path}'"
    state = load_tensors(folder / MODEL, what)
    model = new_student(run, train)
    with settings_of(run.student / 'config.json', RuntimeError):
        model.load_state_dict(state)
    return model.eval()


def distill_arguments(config: dict[str, Any], data: Prepared) -> dict[str, Any]:
    """The arguments of :func:`~promptmm_pyg.distillation.distill` in the configuration
    of a student, and as ``train`` those of its training.
    """
    weights, options = dict(config['weights']), dict(config['distill'])
    names = {'pairwise', 'listwise', 'embedding'}
    losses = promptmm_losses(
        **{f'{name}_weight': weights.pop(name) for name in names},
        **config['objective'],
    )
    own = {'prompt', 'teacher_bpr_weight', 'baseline'}
    return {
        'losses': losses,
        'loss_weights': weights,
        'candidates': CandidateSampling(**config['candidates']),
        'inputs': data.inputs,
        'teacher_inputs': data.inputs,
        **{name: options.pop(name) for name in own & set(options)},
        'train': options,
    }


def load_tables(
    run: RunFolder, config: dict[str, Any], data: Prepared
) -> dict[str, Tables]:
    """The embeddings of every model that a run holds, by name."""
    tables = {
        'teacher': get_embeddings(load_teacher(run, config, data.train), data.inputs)
    }
    if not (run.student / MODEL).is_file():
        return tables
    for name, folder in {'student': run.student, 'control': run.control}.items():
        if (folder / MODEL).is_file():
            model = load_student(run, data.train, name)
            tables[name] = get_embeddings(model, data.inputs)
    targets = load_tensors(run.student / 'targets.safetensors', 'Distill again')
    tables['copied'] = truncate_embeddings(targets, tables['student'][ITEM].size(1))
    return tables
