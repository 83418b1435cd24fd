"""What the processes of a search do: fit, train, distill."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from promptmm_pyg.auto.ensemble import as_targets
from promptmm_pyg.auto.trials import is_closed_form
from promptmm_pyg.auto.workers import Watch
from promptmm_pyg.data import INTERACTS, ITEM, USER, modality_x_dict
from promptmm_pyg.distillation import ensemble_targets
from promptmm_pyg.distillation.ensemble import score_std
from promptmm_pyg.evaluation import evaluate
from promptmm_pyg.models import MODELS
from promptmm_pyg.models.inference import get_embeddings
from promptmm_pyg.runs import Prepared, Run, train_run
from promptmm_pyg.runs.folder import MODEL, load_tensors, save_tensors, write_json
from promptmm_pyg.runs.run import build_student
from promptmm_pyg.runs.stages import (
    load_data,
    make_recommender,
    save_student,
    student_card,
    titles_of,
    train_student,
    training_config,
)
from promptmm_pyg.training.validation import cutoff
from promptmm_pyg.transforms import AddModalityPCA

TABLES, ENSEMBLE = 'embeddings.safetensors', 'ensemble'
CLOSED_FORM_WIDTH = 128
PROMPT_DIM = 32
PROMPT = {'start': 'pca', 'out_channels': PROMPT_DIM, 'combine': 'concat'}


@dataclass
class Source:
    """The data of a search; a process that is not forked reads them again."""

    settings: dict[str, Any]
    """``data``, ``titles`` and ``train`` of a run's configuration."""
    device: str = 'cpu'
    _loaded: tuple[Prepared, str] | None = None

    @property
    def loaded(self) -> tuple[Prepared, str]:
        """The prepared data, and the hash of what was read."""
        if self._loaded is None:
            data, digest = load_data({**self.settings, 'prompt': None})
            if self.has_features(data):
                train = AddModalityPCA(PROMPT_DIM)(data.train)
                data = data._replace(train=train)
                self.settings['prompt'] = PROMPT
            self._loaded = data, digest
        return self._loaded

    @property
    def data(self) -> Prepared:
        """The prepared data."""
        return self.loaded[0]

    @staticmethod
    def has_features(data: Prepared) -> bool:
        """Whether items have features."""
        return any(ITEM in x for x in modality_x_dict(data.train).values())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_loaded': None}


def fit_closed_form(
    _: Path, watch: Watch, source: Source, model: str, params: Mapping[str, Any]
) -> dict[str, Any]:
    """The validation metric of a closed form, by its exact scores."""
    data = source.data
    cls: Any = MODELS[model]
    fitted = cls.from_data(data.train, **params)
    fitted.fit(data.train[INTERACTS].edge_index)
    watch.check()
    started = time.time()
    monitor = source.settings['train']['monitor']
    metrics = evaluate(fitted.scores, data.val, ks=(cutoff(monitor),)).metrics
    return {'value': metrics[monitor], 'evaluation': time.time() - started}


def train_trial(
    folder: Path, watch: Watch, source: Source, path: Path, config: dict[str, Any]
) -> dict[str, Any]:
    """Trains a trial into a run of its own, or goes on, and writes its embeddings."""
    if is_closed_form(config['model']):
        sizes = source.data.train.num_nodes_dict
        width = min(CLOSED_FORM_WIDTH, sizes[USER], sizes[ITEM])
        config = {**config, 'teacher': {**config['teacher'], 'embedding_dim': width}}
    tables: dict[str, Tensor] = {}

    def on_trained(model: Any) -> None:
        if isinstance(model, torch.nn.Module):
            tables.update(get_embeddings(model, source.data.inputs))

    run = train_run(
        path,
        config,
        resume=(path / 'config.json').is_file(),
        progress=False,
        device=source.device,
        loaded=source.loaded,
        callbacks=(watch,),
        on_trained=on_trained,
    )
    if not tables:  # Of a closed form, written with it.
        tables = run.embeddings()['teacher']
    save_tensors(folder / TABLES, {key: tables[key] for key in (USER, ITEM)})
    metrics = run.metrics('teacher')
    return {
        'value': metrics['best_value'],
        'epochs': metrics['num_epochs'],
        'stopped': watch.stopped,
    }


def distill_trial(
    folder: Path,
    watch: Watch,
    source: Source,
    config: dict[str, Any],
    tables: Path,
) -> dict[str, Any]:
    """Distills a student of the ensemble's embeddings into a folder."""
    data = source.data
    ensemble = load_tables(tables)
    # Scores are divided by their standard deviation; that of the ensemble is kept.
    scale = config['teacher_scale'] * score_std(ENSEMBLE, ensemble)
    targets = {ENSEMBLE: as_targets(ensemble)}
    teacher = ensemble_targets(targets, {ENSEMBLE: scale}, data.train)
    target = Run(folder / 'run')
    options = {'callbacks': (watch,)}
    how = training_config(config, target.student_dir, False, False, **options)
    result = train_student(config, teacher, data, how, torch.device(source.device))
    save_student(target, config, result, None)
    write_json(target.student_dir / 'config.json', config)
    return {
        'value': result.history.best_value,
        'epochs': result.history.num_epochs,
        'best_epoch': result.history.best_epoch,
    }


def save_recommender(path: Path, source: Source) -> None:
    """Makes the recommender of a student in a folder."""
    data, run = source.data, Run(path)
    config = run.student_config
    model = build_student(config, data.train)
    model.load_state_dict(load_tables(run.student_dir / MODEL))
    titles = titles_of({'titles': source.settings['titles']}, data, None)
    card = student_card(config, {'student': run.metrics('student')})
    recommender = make_recommender(data, model.eval(), titles)
    recommender.save(run.recommender_dir, card=card)


def load_tables(path: Path) -> dict[str, Tensor]:
    """The tensors that a trial wrote."""
    return load_tensors(path, "Train again with 'promptmm auto ... --overwrite'")
