"""``promptmm distill``: the student, its baseline, and a recommender."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from promptmm_pyg.cli.model_options import (
    add_model,
    add_model_options,
    model_arguments,
    model_of,
)
from promptmm_pyg.cli.parsing import (
    LENGTH,
    TRAIN,
    Parser,
    add_flags,
    add_loss_weights,
    add_options,
    add_training,
    check_device,
    config_text,
    loss_weights,
    selected_options,
    trackers,
)
from promptmm_pyg.cli.system import profile_student, without_cache
from promptmm_pyg.cli.train import metrics_text
from promptmm_pyg.data.schema import NODE_TYPES
from promptmm_pyg.distillation import CandidateSampling, distill, promptmm_losses
from promptmm_pyg.models._resolve import file_hash
from promptmm_pyg.runs import Run, distill_run
from promptmm_pyg.runs.stages import student_weights

DESCRIPTION = """\
Train a small student on the interactions and on the output of the teacher in RUN. The
baseline, the same student without a teacher on the same batches, is trained first. The
student starts from the teacher, truncated to its width, unless that is below 95 % of
the baseline on validation, and else at random; one that ends below the baseline is
trained again, from a random start. The difference of student and baseline is the effect
of the teacher; see it with 'promptmm evaluate RUN'. It is fair with --tune N, which
tries N learning rates and l2 penalties, the same for both, and costs N times as much;
else the baseline is not tuned.

RUN will also hold student/ (with baseline/) and recommender/, which serves without
training data. Ctrl-C loses at most one epoch: the same command with --resume
continues."""
EXAMPLE = """\
example:
  promptmm distill runs/tiktok
  promptmm distill runs/tiktok --overwrite --student MatrixFactorization \\
      --embedding-dim 16 --prompt joint
  promptmm distill runs/tiktok --overwrite --tune 8
  promptmm distill runs/tiktok --overwrite --teachers runs/ease runs/freedom
  promptmm distill runs/tiktok --dry-run
  promptmm distill --config runs/tiktok/student/config.json runs/other"""
DISTILL = {
    'start': 'the SVD-truncated teacher, random, the tables of a teacher of the same '
    'width, or the best of the first two by validation',
    'prompt': "keep the teacher's prompt frozen, or tune it with the student",
    'anchor_weight': "weight of the teacher's drift with --prompt joint",
    'baseline': 'also train the baseline, the student without distillation',
    'tune': 'settings to try for student and baseline, on validation',
}
LOSSES = {
    'listwise': 'list-wise loss: decoupled (dkd) or plain KL divergence',
    'alpha': 'weight of the target part of dkd',
    'beta': 'weight of the non-target part of dkd',
    'temperature': 'temperature of pair-wise and list-wise targets',
    'gamma': 'exponent of the scaled cosine error',
    'embedding_loss': 'how embeddings are compared',
}
CANDIDATES = {
    'num_uniform': 'items per list drawn from all unseen ones',
    'num_teacher_topk': "items per list drawn from the teacher's top K",
    'num_student_topk': "items per list drawn from the student's top K",
    'top_k': 'length of the top lists that these are drawn from',
    'refresh_every': 'epochs between two rankings by the student',
}
WEAK_TEACHER = (
    'note: the student without a teacher is better on validation: the teacher is weak '
    "on these data. Tune it with 'promptmm tune', or let 'promptmm auto' choose one"
)
_VIEWS = {'list_views': 'list-wise', 'embedding_views': 'embedding'}
DEFAULT = 'LightGCN'


def add_arguments(parser: Parser) -> None:
    """Adds all options."""
    parser.usage = 'promptmm distill RUN [options]'
    parser.add_argument('folder', metavar='RUN', help='folder of a trained teacher')
    add_flags(parser, '--resume  continue the student')
    add_flags(parser, '--overwrite  replace the student of RUN')
    add_flags(
        parser.add_argument_group('teachers'),
        """
--teachers RUN...  teach the student by the sum of the scores of RUN and of these runs
  on the same data, with weights that are fitted on validation
--teacher-scale X [3.0]  sum of these weights: higher values sharpen the targets""",
    )
    add_model(parser, 'student', DEFAULT, 'the student')
    losses = parser.add_argument_group('losses')
    add_options(losses, distill, DISTILL)
    add_options(losses, promptmm_losses, LOSSES)
    losses.add_argument(
        '--node-types',
        nargs='+',
        choices=NODE_TYPES,
        default=list(NODE_TYPES),
        help='node types of the embedding loss (default: user item)',
    )
    for name, loss in _VIEWS.items():
        losses.add_argument(
            f'--{name.replace("_", "-")}',
            nargs='+',
            metavar='VIEW',
            default=['all'],
            help=f'views of the teacher in the {loss} loss: names of modalities, '
            f"'fused', 'modalities' or 'all' (default: all)",
        )
    add_options(
        parser.add_argument_group('candidate lists'), CandidateSampling, CANDIDATES
    )
    add_training(parser)
    parser.add_more = _add_student_options


def _add_student_options(parser: Parser, argv: Sequence[str]) -> None:
    """Adds the options of the student that is named."""
    cls = model_of(argv, 'student', DEFAULT)
    add_model_options(parser, cls)
    weights = student_weights(cls)
    add_loss_weights(parser, weights)
    parser.set_defaults(student_weights=weights)


def run(args: argparse.Namespace) -> int:
    """Distills and prints the validation metrics."""
    config = student_config(args)
    if args.print_config:
        print(config_text(args))
        return 0
    device, callbacks = check_device(args.device), trackers(args)
    run = Run.open(args.folder)
    if args.dry_run:
        run.config['data'] = without_cache(run.config['data'])
        print(profile_student(run, config, device))
        return 0
    distill_run(
        run,
        config,
        overwrite=args.overwrite,
        resume=args.resume,
        progress=not args.quiet,
        device=device,
        callbacks=callbacks,
    )
    for name in ('student', 'baseline'):
        if run.has(name):
            print(metrics_text(run, name))
    if run.has('baseline'):
        values = [run.metrics(name)['best_value'] for name in ('student', 'baseline')]
        if values[0] < values[1]:
            print(WEAK_TEACHER, file=sys.stderr)
    print(f'next: promptmm evaluate {run.path}')
    return 0


def student_config(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that determines the student, given its teacher."""
    return {
        'teachers': [str(Path(path).resolve()) for path in args.teachers or ()],
        'teacher_scale': args.teacher_scale,
        'model': args.student,
        **file_hash(args.student),
        'student': model_arguments(args),
        'distill': selected_options(args, DISTILL),
        'train': selected_options(args, (*TRAIN, *LENGTH)),
        'loss_weights': loss_weights(args, args.student_weights),
        'losses': selected_options(args, (*LOSSES, 'node_types', *_VIEWS)),
        'candidates': selected_options(args, CANDIDATES),
    }
