"""``promptmm distill``: the student, its control, and a recommender."""

import argparse
from contextlib import nullcontext
from typing import Any

from promptmm_pyg.cli.config_file import add_config_options, config_text
from promptmm_pyg.cli.device import add_device, existing_device
from promptmm_pyg.cli.dry_run import add_dry_run, try_student, without_cache
from promptmm_pyg.cli.models import reload
from promptmm_pyg.cli.old_parts import kept_on_mistake
from promptmm_pyg.cli.parsing import (
    SCHEDULE,
    UserError,
    add_options,
    add_progress,
    add_schedule,
    add_weights,
    chosen,
    weights,
)
from promptmm_pyg.cli.resumed import check_resumed
from promptmm_pyg.cli.run_folder import RunFolder, read_json
from promptmm_pyg.cli.stages import distill_run
from promptmm_pyg.data.schema import NODE_TYPES
from promptmm_pyg.distillation import CandidateSampling, distill, promptmm_losses
from promptmm_pyg.models import LightGCN
from promptmm_pyg.training import TrainingConfig

_DESCRIPTION = """\
Train a small student on the interactions and on the teacher of RUN. Beside it the
same student is trained, from the same start on the same batches, without the teacher:
the control. What the teacher is good for is the difference of the two; see it with
'promptmm evaluate RUN'.

RUN then also holds student/ (with the control in it) and recommender/, which serves
without training data. Ctrl-C loses one epoch at most: the same command with --resume
goes on."""
_EXAMPLE = """\
example:
  promptmm distill runs/tiktok
  promptmm distill runs/tiktok --overwrite --student mf --width 16 --prompt joint
  promptmm distill runs/tiktok --dry-run
  promptmm distill --config runs/tiktok/student/config.json runs/other"""
STUDENT_WEIGHTS = {
    'bpr': 1.0,
    'l2': 1e-3,
    'pairwise': 1.0,
    'listwise': 1.0,
    'embedding': 1.0,
}
DISTILL = {
    'prompt': "whether the teacher's prompt stays as it is or is tuned along",
    'teacher_bpr_weight': "weight of the teacher's own loss with --prompt joint",
    'baseline': 'train the baseline, too: the student without its teacher',
}
TRAIN = {
    'learning_rate': 'step size of the optimizer',
    'weight_decay': 'decay of all parameters by the optimizer',
    'batch_size': 'interactions a step',
    'optimizer': "update all rows of tables at each step, or ('lazy', for --student "
    "mf) a batch's only",
    'seed': 'seed of everything random in training',
}
OBJECTIVE = {
    'listwise': 'list-wise loss: decoupled, its two parts weighted apart, or plain KL',
    'alpha': 'weight of the part about the positive, with dkd',
    'beta': 'weight of the part about the others, with dkd',
    'temperature': 'softness of pair-wise and list-wise targets',
    'gamma': 'exponent of the scaled cosine error',
    'embedding_loss': 'how embeddings are compared',
}
CANDIDATES = {
    'num_uniform': 'items of a list drawn from all unseen ones',
    'num_teacher_topk': "items of a list drawn from the teacher's best",
    'num_student_topk': "items of a list drawn from the student's best",
    'top_k': 'how many best items are drawn from',
    'refresh_every': 'epochs between two rankings by the student',
}
_VIEWS = {'list_views': 'list-wise', 'embedding_views': 'embedding'}


def add_command(commands: Any, **kwargs: Any) -> None:
    """Adds ``distill`` to the program."""
    parser = commands.add_parser(
        'distill',
        **kwargs,
        usage='promptmm distill RUN [options]',
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
    )
    parser.add_argument('folder', metavar='RUN', help='folder of a trained teacher')
    parser.add_argument('--resume', action='store_true', help='go on with the student')
    parser.add_argument(
        '--overwrite', action='store_true', help='replace the student of RUN'
    )
    group = parser.add_argument_group('student')
    group.add_argument(
        '--student',
        choices=('lightgcn', 'mf'),
        default='lightgcn',
        help='embeddings smoothed over the graph in training, or plain ones '
        '(default: lightgcn)',
    )
    width = {'embedding_dim': 'width of the embeddings, in numbers a user or item'}
    add_options(group, LightGCN, width, {'embedding_dim': 'width'})
    add_options(group, LightGCN, {'num_layers': 'layers of lightgcn'})
    training = parser.add_argument_group('training')
    add_options(training, distill, DISTILL)
    add_options(training, TrainingConfig, TRAIN)
    add_weights(training, STUDENT_WEIGHTS)
    objective = parser.add_argument_group('distillation losses')
    add_options(objective, promptmm_losses, OBJECTIVE)
    objective.add_argument(
        '--node-types',
        nargs='+',
        choices=NODE_TYPES,
        default=list(NODE_TYPES),
        help='whose embeddings follow the teacher (default: user item)',
    )
    for name, what in _VIEWS.items():
        objective.add_argument(
            f'--{name.replace("_", "-")}',
            nargs='+',
            metavar='VIEW',
            default=['all'],
            help=f'views of the teacher for the {what} loss: names of modalities, '
            f"'fused', 'modalities' or 'all' (default: all)",
        )
    add_options(parser.add_argument_group('lists'), CandidateSampling, CANDIDATES)
    add_schedule(parser)
    add_device(parser)
    add_progress(parser)
    add_config_options(parser)
    add_dry_run(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Distills and prints the validation metrics."""
    student = student_config(args)
    if args.print_config:
        print(config_text(args))
        return 0
    device = existing_device(args.device)
    run = RunFolder(args.folder)
    config = run.read_whole_config()
    if args.dry_run:
        data = reload(run, {**config, 'data': without_cache(config['data'])})
        print(try_student(run, config, student, data, device))
        return 0
    with nullcontext() if args.resume else kept_on_mistake(run, run.student):
        _begin(run, student, resume=args.resume, overwrite=args.overwrite)
        data = reload(run, config)
        result = distill_run(
            run,
            config,
            student,
            data,
            resume=args.resume,
            progress=not args.quiet,
            device=device,
        )
    for name, history in {
        'student': result.history,
        'baseline': result.baseline_history,
    }.items():
        if history is not None:
            print(
                f'{name}: validation {history.monitor} {history.best_value:.4f} at '
                f'epoch {history.best_epoch} of {history.num_epochs}'
            )
    print(f'next: promptmm evaluate {run.path}')
    return 0


def student_config(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that determines the student, given its teacher."""
    return {
        **chosen(args, ('student', 'width', 'num_layers')),
        'distill': chosen(args, (*DISTILL, *TRAIN)),
        'weights': weights(args, STUDENT_WEIGHTS),
        'objective': chosen(args, (*OBJECTIVE, 'node_types', *_VIEWS)),
        'candidates': chosen(args, CANDIDATES),
        'schedule': chosen(args, SCHEDULE),
    }


def _begin(
    run: RunFolder, student: dict[str, Any], *, resume: bool, overwrite: bool
) -> None:
    file = run.student / 'config.json'
    if resume:
        if not file.is_file():
            raise UserError(f"'{run.path}' has no student to go on with")
        check_resumed(
            student,
            read_json(file),
            begun='options the student was',
            fix=f". See '{file}', or pass --overwrite to begin again",
        )
    elif file.is_file() and not overwrite:
        raise UserError(
            f"'{run.path}' has a student. Pass --resume to go on with it or "
            f'--overwrite to begin again'
        )
    else:
        run.forget_student()
