"""The folder of a run: its files, its settings and its trained models."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from promptmm_pyg._files import NEXT, current, locked
from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    USER,
    Split,
)
from promptmm_pyg.data.schema import node_features
from promptmm_pyg.distillation import truncate_embeddings
from promptmm_pyg.models import get_model
from promptmm_pyg.models._resolve import ModelClass
from promptmm_pyg.models.closed_form import ClosedForm
from promptmm_pyg.models.inference import get_embeddings
from promptmm_pyg.runs.data import Prepared, RunError, hash_split, load_split, prepare
from promptmm_pyg.runs.folder import (
    MODEL,
    exclusive,
    is_leftover,
    load_tensors,
    read_json,
)
from promptmm_pyg.serving import FeatureMapper, Recommender, place_cold

if TYPE_CHECKING:
    from promptmm_pyg.evaluation import Evaluation

FORMAT = 'promptmm_pyg.run.v1'
AUTO = 'auto.json'  # The state of a search.
XDict = dict[str, Tensor]
Trained = torch.nn.Module | ClosedForm[Any]
_SECTIONS: dict[str, tuple[type, ...]] = {
    'data': (dict,),
    'data_sha256': (str,),
    'titles': (dict, type(None)),
    'model': (str,),
    'prompt': (dict, type(None)),
    'teacher': (dict,),
    'train': (dict,),
    'loss_weights': (dict,),
    'versions': (dict,),
}
# Raised where a setting is missing or of another type.
_SYMPTOMS = (KeyError, AttributeError, TypeError, IndexError)


class Run:
    """What ``promptmm train`` and ``promptmm distill`` wrote into a folder.

    Models are rebuilt from the settings and the data of the run, which are read on
    first use; :meth:`recommender` needs neither.

    Args:
        path: The folder. It need not exist; :meth:`open` also checks it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._read: tuple[int, ...] = ()

    @property
    def config_file(self) -> Path:
        """The file of the settings of data and teacher."""
        return current(self.path, 'config.json')

    @property
    def teacher_dir(self) -> Path:
        """The folder of the teacher."""
        return current(self.path, 'teacher')

    @property
    def student_dir(self) -> Path:
        """The folder of the student."""
        return current(self.path, 'student')

    @property
    def baseline_dir(self) -> Path:
        """The folder of the baseline."""
        return self.student_dir / 'baseline'

    @property
    def teacher_recommender_dir(self) -> Path:
        """The folder of the teacher's recommender."""
        return self.teacher_dir / 'recommender'

    @property
    def recommender_dir(self) -> Path:
        """The folder of the evaluated student's recommender."""
        return current(self.path, 'recommender')

    @property
    def final_dir(self) -> Path:
        """The folder of the final model."""
        return current(self.path, 'final')

    @contextmanager
    def reading(self) -> Iterator[None]:
        """No file of the run is replaced meanwhile. Settings and data of a version that
        was replaced since are read again.
        """
        with locked(self.path, shared=True):
            if 'config' in self.__dict__ and self._read != _identity(self.config_file):
                self.__dict__.pop('config')
                self.__dict__.pop('data', None)
            yield

    @classmethod
    def open(cls, path: 'str | Path | Run') -> 'Run':
        """Opens an existing run, or checks an open one.

        Raises:
            RunError: If the folder is not a run, or its settings are damaged.
        """
        run = path if isinstance(path, Run) else cls(path)
        run.check()
        return run

    def check(self) -> None:
        """Reads the settings.

        Raises:
            RunError: If the folder is not a run, or its settings are damaged.
        """
        if (self.path / NEXT).is_dir():  # A process was killed while it replaced.
            with suppress(RunError, OSError), exclusive(self.path):
                pass
        self.__dict__.pop('config', None)
        _ = self.config

    @cached_property
    def config(self) -> dict[str, Any]:
        """The settings of data and teacher, as in ``config.json``."""
        self._read = _identity(self.config_file)
        config = self.read_config()
        for key, types in _SECTIONS.items():
            if not isinstance(config.get(key, ...), types):
                got = repr(config[key])[:40] if key in config else 'none'
                raise RunError(
                    f"'{self.config_file}' is damaged: '{key}' must be what 'promptmm "
                    f"train' wrote (got {got}). Restore the file, or train again"
                )
        return config

    @property
    def student_config(self) -> dict[str, Any]:
        """The settings of the student; empty if there is none."""
        file = self.student_dir / 'config.json'
        return read_json(file) if file.is_file() else {}

    @cached_property
    def data(self) -> Prepared:
        """The graphs that the run was trained on.

        Raises:
            RunError: If the data have changed since.
        """
        split = self.read_split()
        with settings_of(self.config_file):
            return prepare(split, self.config['prompt'])

    def read_split(self) -> Split:
        """The data as they were read, without standardization and prompt.

        Raises:
            RunError: If the data have changed since training.
        """
        with settings_of(self.config_file):
            split = load_split(self.config['data'])
        self.check_data(hash_split(split))
        return split

    def check_data(self, digest: str) -> None:
        """Raises a ``RunError`` unless the hash of data is that of training."""
        if digest != self.config['data_sha256']:
            raise RunError(
                f"the data have changed since '{self.path}' was trained. Restore them, "
                f'or train again'
            )

    def folders(self) -> dict[str, Path]:
        """The folder of each model by name; the demo also trains a LightGCN."""
        folders = {
            'LightGCN': self.path / 'lightgcn',
            'teacher': self.teacher_dir,
            'student': self.student_dir,
            'baseline': self.baseline_dir,
        }
        if not folders['LightGCN'].is_dir():
            del folders['LightGCN']
        return folders

    def has(self, name: str) -> bool:
        """Whether a model (``'teacher'``, ``'student'``, ``'baseline'``) is trained."""
        return (self.folders()[name] / MODEL).is_file()

    def metrics(self, name: str) -> dict[str, Any]:
        """Validation metrics of a model's best epoch; empty if there are none."""
        file = self.folders()[name] / 'metrics.json'
        return read_json(file) if file.is_file() else {}

    def teacher(self) -> 'Trained':
        """The trained teacher, in eval mode; one in closed form is fitted again.

        Raises:
            RunError: If it is not trained yet, or damaged.
        """
        _ = self.data  # First: a replacement waits for readers.
        with self.reading():
            fix = "Finish its training: 'promptmm train ... --resume'"
            state = load_tensors(self.teacher_dir / MODEL, fix)
            with settings_of(self.config_file, RuntimeError):
                model = build_model(self.config, 'teacher', self.data.train)
                if isinstance(model, ClosedForm):
                    return model.fit(self.data.train[INTERACTS].edge_index)
                model.load_state_dict(state)
        return model.eval()

    def student(self) -> torch.nn.Module:
        """The trained student, in eval mode.

        Raises:
            RunError: If it is not trained yet, or damaged.
        """
        return self._student('student')

    def baseline(self) -> torch.nn.Module:
        """The student that was trained without distillation, in eval mode.

        Raises:
            RunError: If it is not trained yet, or damaged.
        """
        return self._student('baseline')

    def _student(self, name: str) -> torch.nn.Module:
        fix = f"Train it with 'promptmm distill {self.path}'"
        _ = self.data
        with self.reading():
            state = load_tensors(self.folders()[name] / MODEL, fix)
            model = self.new_student()
            with settings_of(self.student_dir / 'config.json', RuntimeError):
                model.load_state_dict(state)
        return model.eval()

    def new_student(self) -> torch.nn.Module:
        """The student with its initial parameters.

        Raises:
            RunError: If its settings are damaged.
        """
        with settings_of(self.student_dir / 'config.json', RuntimeError):
            return build_student(self.student_config, self.data.train)

    @property
    def final(self) -> dict[str, Any]:
        """How the final model was made; empty if there is none."""
        file = self.final_dir / 'config.json'
        return read_json(file) if file.is_file() else {}

    def describe_final(self) -> str:
        """One line about the final model."""
        with settings_of(self.final_dir / 'config.json'):
            final = self.final
            count, updates = final['updates'], ''
            if count:
                updates = f', {count} update{"s" * (count > 1)} included'
            return (
                f'final model: {final["made_by"]} of {final["date"]} on '
                f'{final["interactions"]} interactions{updates}'
            )

    @property
    def served_dir(self) -> Path:
        """The folder of the recommender that is served: the final one, if ``refit`` or
        ``update`` made one, else that of the evaluated student, else the teacher's.
        """
        final = self.final_dir / 'recommender'
        folders = (final, self.recommender_dir, self.teacher_recommender_dir)
        return next((x for x in folders if x.is_dir()), self.recommender_dir)

    def recommender(self, *, final: bool = True) -> Recommender:
        """The student, or a teacher without one, as it is served; reads neither data
        nor settings.

        Args:
            final: Whether to prefer the final model of :meth:`refit` and
                :meth:`update` to the evaluated student. (default: ``True``)

        Raises:
            RunError: If nothing is trained yet.
        """
        with self.reading():
            folder = self.served_dir if final else self.recommender_dir
            if not folder.is_dir():
                raise RunError(
                    f"'{self.path}' has no recommender. Finish its training with "
                    f"'promptmm train ... --resume', or 'promptmm distill {self.path}'"
                )
            return Recommender.load(folder)

    def embeddings(self) -> dict[str, XDict]:
        """The embeddings of every trained model, by name and node type; those of a
        teacher in closed form, also as ``'low_rank_teacher'``, are its scores at the
        rank at which it is served. ``'ensemble'`` is the teacher of a student of
        several runs, ``'truncated_teacher'`` has the teacher's at the width of the
        student, and ``'served'`` the student's with users and items placed that have no
        training interactions, if there are any.
        """
        _ = self.data
        with self.reading():
            x_dicts = {'teacher': self._teacher_embeddings()}
            if self.is_closed_form:
                x_dicts['low_rank_teacher'] = x_dicts['teacher']
            if not self.has('student'):
                return x_dicts
            models = {'student': self.student()}
            if self.has('baseline'):
                models['baseline'] = self.baseline()
            targets = load_tensors(
                self.student_dir / 'targets.safetensors', 'Distill again'
            )
        x_dicts |= {
            name: get_embeddings(model, self.data.inputs)
            for name, model in models.items()
        }
        width = x_dicts['student'][ITEM].size(1)
        if self.student_config.get('teachers'):
            x_dicts['ensemble'] = targets
        x_dicts['truncated_teacher'] = truncate_embeddings(targets, width)
        # The features of the training graph are standardized.
        placed = placed_embeddings(x_dicts['student'], self.data.val)
        return x_dicts if placed is None else {**x_dicts, 'served': placed}

    def _teacher_embeddings(self) -> XDict:
        if self.is_closed_form:
            fix = "Train it again with 'promptmm train'"
            return load_tensors(self.teacher_dir / MODEL, fix)
        teacher: Any = self.teacher()
        return get_embeddings(teacher, self.data.inputs)

    @property
    def search(self) -> dict[str, Any]:
        """What ``promptmm auto`` tried; empty for other runs."""
        file = self.path / AUTO
        return read_json(file) if file.is_file() else {}

    def references(self) -> 'dict[str, Run]':
        """The tuned models of a search that its result is compared with, by name."""
        runs = {
            name: Run(self.path / folder)
            for name, folder in self.search.get('references', {}).items()
        }
        for run in runs.values():
            run.data = self.data  # Read once.
        return {name: run for name, run in runs.items() if run.has('teacher')}

    @property
    def is_closed_form(self) -> bool:
        """Whether the teacher is fitted, not trained in steps."""
        return issubclass(model_class(self.config), ClosedForm)

    def evaluate(
        self, split: Literal['val', 'test'] = 'val', **options: Any
    ) -> 'dict[str, Evaluation]':
        """Evaluates every model by full ranking and writes ``evaluation-<split>.json``.

        Every evaluation on test is counted in that file.

        Args:
            split: ``'val'`` or ``'test'``. (default: ``'val'``)
            **options: ``metrics`` and ``groups`` of
                :func:`~promptmm_pyg.runs.evaluate_run`.

        Raises:
            RunError: If nothing is held out for ``split``.
        """
        from promptmm_pyg.runs.evaluation import evaluate_run

        return evaluate_run(self, split, **options)

    def refit(self, **options: Any) -> None:
        """Trains the final model on all interactions, those of validation and test and
        of earlier updates included, for the epochs that validation chose. From then on
        :meth:`recommender` returns it; evaluations are those of the run's own models.

        Args:
            **options: ``resume``, ``progress`` and ``device`` of
                :func:`~promptmm_pyg.runs.train_run`.

        Raises:
            RunError: If a model is not trained yet, or the data have changed.
        """
        from promptmm_pyg.runs.refit import refit_run

        refit_run(self, **options)

    def update(self, new: Any, **options: Any) -> Any:
        """Continues the served model with new interactions, users and items, in a
        short training. From then on :meth:`recommender` returns the result.

        Args:
            new: A table of interactions, as path or as frame, with the columns of the
                run's data. Known pairs are ignored.
            **options: The arguments of :func:`~promptmm_pyg.runs.update_run`.

        Returns:
            The counts of the update.

        Raises:
            RunError: If the run has no recommender, or ``new`` has nothing new.
        """
        from promptmm_pyg.runs.final import update_run

        return update_run(self, new, **options)

    def add_items(self, ids: Any, features: Mapping[str, Any], **options: Any) -> Any:
        """Adds new items to the served recommender from their features, without
        training, and records them for the next :meth:`refit`.

        Args:
            ids: Raw ids that are not in the catalogue.
            features: ``[N, F_m]`` by modality.
            **options: ``modality_mask`` and ``titles`` of
                :meth:`~promptmm_pyg.serving.Recommender.add_items`.

        Returns:
            The recommender with the new items.

        Raises:
            RunError: If the run has no recommender.
            ValueError: As :meth:`~promptmm_pyg.serving.Recommender.add_items`.
        """
        from promptmm_pyg.runs.final import add_items_run

        return add_items_run(self, ids, features, **options)

    def finish(self) -> str:
        """Ends an interrupted training with its best epoch so far, as if patience had
        run out, and returns what was interrupted, ``'teacher'`` or ``'student'``.

        Raises:
            RunError: If no training was interrupted, or no epoch was validated.
        """
        from promptmm_pyg.runs.finish import finish_run

        return finish_run(self)

    def evaluation_file(self, split: str) -> Path:
        """The file of an evaluation."""
        return current(self.path, f'evaluation-{split}.json')

    def version(self) -> list[tuple[int, ...]]:
        """What differs after a model was replaced."""
        names = ('teacher', 'student', 'baseline')
        return [_identity(self.folders()[name] / MODEL) for name in names]

    def read_config(self) -> dict[str, Any]:
        """The settings without a check of their sections.

        Raises:
            RunError: If the folder is not a run.
        """
        config = read_json(self.config_file) if self.config_file.is_file() else {}
        if config.get('format') != FORMAT:
            raise RunError(
                f"'{self.path}' is not a run. Make one with 'promptmm train PATH --out "
                f"{self.path}'"
            )
        return config

    def check_writable(self, *, overwrite: bool) -> None:
        """Raises unless the folder can hold a new run.

        Raises:
            RunError: If the folder holds something else, or a run without
                ``overwrite``.
        """
        if not self.path.exists():
            return
        if self.path.is_dir() and all(is_leftover(x) for x in self.path.iterdir()):
            return
        if not self.config_file.is_file():
            raise RunError(
                f"'{self.path}' exists and is not a run. Choose another folder"
            )
        self.read_config()
        if not overwrite:
            raise RunError(
                f"'{self.path}' contains a run. Choose another --out, or pass --resume "
                f'to continue it or --overwrite to replace it'
            )


def _identity(file: Path) -> tuple[int, ...]:
    """What differs after a file was replaced."""
    try:
        status = file.stat()
    except OSError:
        return ()
    return (status.st_ino, status.st_mtime_ns, status.st_size)


@contextmanager
def settings_of(path: Path, *symptoms: type[Exception]) -> Iterator[None]:
    """Reports errors that come from missing or changed settings as damage of a file.

    Args:
        path: The file of the settings.
        symptoms: Further errors to report so, such as the ``RuntimeError`` of
            parameters of another shape. (default: none)

    Raises:
        RunError: In place of the error.
    """
    all_symptoms: tuple[type[Exception], ...] = (*_SYMPTOMS, *symptoms)
    try:
        yield
    except all_symptoms as error:
        what = ' '.join(f'{type(error).__name__}: {error}'.split())[:160]
        raise RunError(
            f"'{path}' is damaged, or of another version than the files beside it "
            f'({what}). Restore the file, or train again'
        ) from error


def placed_embeddings(x_dict: XDict, graph: HeteroData) -> XDict | None:
    """The embeddings with users and items placed that have no training interactions,
    as :meth:`~promptmm_pyg.serving.Recommender.from_model` does, but from training
    interactions alone; ``None`` if there are none.

    Args:
        x_dict: The embeddings of a model.
        graph: The graph of validation, with the training interactions as message edges
            and features as they were read.
    """
    train = graph[INTERACTS].edge_index.cpu()
    counts = (
        torch.bincount(ids, minlength=n)
        for ids, n in zip(
            train, (graph[USER].num_nodes, graph[ITEM].num_nodes), strict=True
        )
    )
    if all(bool(count.all()) for count in counts):
        return None
    features, masks = node_features(graph, ITEM)
    mapper = None
    user_x, item_x = x_dict[USER], x_dict[ITEM]
    with suppress(ValueError):  # Too few items to fit on.
        mapper = FeatureMapper.fit(
            features, item_x, user_x=user_x, seen=train, modality_mask=masks
        )
    placed = place_cold(
        user_x,
        item_x,
        train,
        validation=graph[INTERACTS].edge_label_index.cpu(),
        feature_mapper=mapper,
        modality_x=features,
        modality_mask=masks,
    )
    return {USER: placed.user_x, ITEM: placed.item_x}


def build_model(config: Mapping[str, Any], part: str, train: HeteroData) -> 'Trained':
    """The model of a configuration, with its initial parameters; one in closed form is
    not fitted.

    Args:
        config: The settings.
        part: The section of its arguments, ``'teacher'`` or ``'student'``.
        train: The prepared training graph.
    """
    options = dict(config[part])
    torch.manual_seed(config['train'].get('seed', 0))
    cls: Any = model_class(config)
    if cls.reads_prompt and config.get('prompt') is None:
        options['prompt_start_dict'] = None
    model: Trained = cls.from_data(train, **options)
    return model


def build_student(config: Mapping[str, Any], train: HeteroData) -> torch.nn.Module:
    """The student of a configuration, with its initial parameters.

    Raises:
        ValueError: If it is a model in closed form.
    """
    student_class(config)
    model: Any = build_model({'prompt': 'pca', **config}, 'student', train)
    student: torch.nn.Module = model
    return student


def model_class(config: Mapping[str, Any]) -> ModelClass:
    """The class of the model of a configuration. A file must be that of the training,
    and be allowed to run.

    Raises:
        ValueError: If there is no such model, or its file is another or not allowed.
    """
    digest = config.get('model_sha256')
    return get_model(config['model'], sha256=digest, allow=False)


def student_class(config: Mapping[str, Any]) -> ModelClass:
    """The class of the student of a configuration.

    Raises:
        ValueError: As :func:`model_class`, or if it is a model in closed form.
    """
    cls = model_class(config)
    if issubclass(cls, ClosedForm):
        raise ValueError(
            f"'model' of a student must be trained in steps (got {config['model']!r}, "
            f'which is fitted). Train it as a teacher'
        )
    return cls
