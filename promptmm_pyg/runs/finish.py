"""The end of an interrupted training with its best epoch so far."""

from pathlib import Path
from typing import Any

from promptmm_pyg.runs.data import RunError
from promptmm_pyg.runs.folder import MODEL, exclusive, staged, where
from promptmm_pyg.runs.run import Run
from promptmm_pyg.runs.stages import (
    load_data,
    make_recommender,
    save_student,
    titles_of,
    train_student,
    train_teacher,
    training_config,
)
from promptmm_pyg.runs.teachers import student_teacher
from promptmm_pyg.training.loop import CHECKPOINT


def finish_run(run: Run | str | Path) -> str:
    """Ends an interrupted training with its best epoch so far, as if patience had run
    out; without a validated epoch, with the last. A student whose baseline was
    interrupted is trained for one epoch. The checkpoint stays, so that ``resume`` can
    still continue it.

    Args:
        run: A run whose training was interrupted.

    Returns:
        ``'teacher'`` or ``'student'``, whichever was interrupted.

    Raises:
        RunError: If no training was interrupted.
    """
    run = Run.open(run)
    with exclusive(run.path):
        part = next((x for x in ('student', 'teacher') if _is_unfinished(run, x)), None)
        if part is None:
            raise RunError(
                f"'{run.path}' must have an interrupted training with a complete "
                f"epoch (got none). See 'promptmm evaluate {run.path}'"
            )
        with staged(run.path, part, resume=True) as folder:
            target = Run(folder)
            if part == 'teacher':
                _finish_teacher(target)
            else:
                _finish_student(run, target)
    run.check()
    return part


def _is_unfinished(run: Run, part: str) -> bool:
    folder = where(run.path, part) / part
    in_place = folder.parent == run.path and (folder / MODEL).is_file()
    return any(folder.rglob(CHECKPOINT)) and not in_place


def _finish_teacher(target: Run) -> None:
    config = target.read_config()
    data, digest = load_data(config)
    target.check_data(digest)
    # Every checkpoint has an epoch: none is added, and the best one is restored.
    how = training_config(config, target.teacher_dir, True, False, epochs=1)
    served = target.teacher_recommender_dir
    train_teacher(target, config, data, how, recommender=served)


def _finish_student(run: Run, target: Run) -> None:
    config, options = target.student_config, dict[str, Any]()
    trials = [
        folder
        for folder in target.student_dir.glob('trials/*')
        if any(folder.rglob(CHECKPOINT))
    ]
    if trials:
        options['tune'] = len(trials)
    baselines = [target.baseline_dir, *target.student_dir.glob('trials/*/baseline')]
    if not any((folder / CHECKPOINT).is_file() for folder in baselines):
        options['baseline'] = False
    how = training_config(config, target.student_dir, True, False, epochs=1)
    teacher = student_teacher(run, config)
    result = train_student(config, teacher, run.data, how, **options)
    recommender = make_recommender(
        run.data, result.student, titles_of(run.config, run.data, None)
    )
    save_student(target, config, result, recommender)
