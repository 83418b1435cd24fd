"""``promptmm train``: the teacher."""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from promptmm_pyg.cli.config_file import add_config_options, config_text
from promptmm_pyg.cli.data_options import add_data_options, data_config
from promptmm_pyg.cli.data_source import (
    findings,
    fingerprint,
    load_split,
    read_titles,
)
from promptmm_pyg.cli.device import add_device, existing_device
from promptmm_pyg.cli.dry_run import add_dry_run, try_teacher, without_cache
from promptmm_pyg.cli.models import prepare
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
from promptmm_pyg.cli.run_folder import FORMAT, RunFolder
from promptmm_pyg.cli.stages import train
from promptmm_pyg.data import INTERACTS, Split
from promptmm_pyg.models import PromptMM
from promptmm_pyg.training import TrainingConfig
from promptmm_pyg.transforms import AddModalityPCA

_DESCRIPTION = """\
Train PromptMM's teacher, a graph model that reads the items' features, and keep the
epoch that was best on validation. Test data are not touched.

RUN then holds config.json (everything needed to train again), teacher/
(model.safetensors, log.jsonl with a line an epoch, a checkpoint) and metrics.
Ctrl-C loses one epoch at most: the same command with --resume goes on."""
_EXAMPLE = """\
example:
  promptmm train data/tiktok --out runs/tiktok --learning-rate 0.002
  promptmm train clicks.parquet --out runs/clicks --features text=text.parquet \\
      --split time --time-column day --val-ratio 0.1 --test-ratio 0.1
  promptmm train data/tiktok --out runs/tiktok --dry-run
  promptmm train --config runs/tiktok/config.json --out runs/wide --embedding-dim 128"""
TEACHER = {
    'embedding_dim': 'width of the embeddings, in numbers a user or item',
    'num_layers': 'layers of the propagation of ids',
    'num_modality_layers': 'hop pairs of the propagation of features',
    'modality_weight': 'weight of the features in the final embeddings',
    'self_loop_weight': "weight of a node's own features beside its neighbours'; above "
    '0 lets items without interactions be recommended',
    'prompt_id_weight': 'weight of the prompt in the id embeddings',
    'prompt_feature_weight': 'weight of the prompt in the reduction of features',
    'num_prompt_tokens': 'linear maps of the prompt among which every node chooses',
    'missing': 'what stands for a modality that a node lacks: zeros or a trained token',
    'modality_dropout': 'share of modality vectors hidden in training, 0 to 1',
    'dropout': 'share of the features dropped in training, 0 to 1',
    'init_std': 'standard deviation of the random start of the id embeddings',
}
TRAIN = {
    'learning_rate': 'step size of the optimizer',
    'weight_decay': 'decay of all parameters by the optimizer',
    'batch_size': 'interactions a step',
    'optimizer': "update all rows of tables at each step, or ('lazy', for models that "
    "return their tables as they are) a batch's only",
    'propagate_every': 'batches that share one pass over the graph and one step',
    'seed': 'seed of everything random in training',
}
PROMPT = {
    'out_channels': "components of the items' features that the prompt starts from",
    'combine': 'decompose all modalities together, or average those of each',
}
_PROMPT_NAMES = {'out_channels': 'prompt_dim', 'combine': 'prompt_combine'}


def add_command(commands: Any, **kwargs: Any) -> None:
    """Adds ``train`` to the program."""
    parser = commands.add_parser(
        'train',
        **kwargs,
        usage='promptmm train PATH --out RUN [options]',
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
    )
    add_data_options(parser)
    parser.add_argument('--out', required=True, metavar='RUN', help='folder to write')
    parser.add_argument('--resume', action='store_true', help='go on with RUN')
    parser.add_argument(
        '--overwrite', action='store_true', help='replace what RUN holds'
    )
    parser.add_argument(
        '--titles',
        metavar='FILE',
        help='.csv with the item column and a column of titles, shown beside '
        'recommendations (default: none)',
    )
    parser.add_argument(
        '--title-column', default='title', metavar='NAME', help='(default: title)'
    )
    add_options(parser.add_argument_group('teacher'), PromptMM, TEACHER)
    prompt = parser.add_argument_group('prompt')
    add_options(prompt, AddModalityPCA, PROMPT, _PROMPT_NAMES)
    prompt.add_argument(
        '--prompt-start',
        choices=('pca', 'ica', 'random'),
        default='pca',
        help='principal or independent components of the features, or random numbers '
        '(default: pca)',
    )
    prompt.add_argument('--no-prompt', action='store_true', help='go without')
    training = parser.add_argument_group('training')
    add_options(training, TrainingConfig, TRAIN)
    add_weights(training, PromptMM.loss_weights)
    add_schedule(parser)
    add_device(parser)
    add_progress(parser)
    add_config_options(parser)
    add_dry_run(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trains and prints the validation metrics."""
    config = run_config(args)
    if args.print_config:
        print(config_text(args))
        return 0
    device = existing_device(args.device)
    run = RunFolder(args.out)
    if not args.resume and not args.dry_run:
        run.holds_run(overwrite=args.overwrite)  # Before contents are encoded.
    split = load_split(
        without_cache(config['data']) if args.dry_run else config['data']
    )
    sound(split, args.path)
    config['data_sha256'] = fingerprint(split)
    data = prepare(split, config['prompt'])
    if args.dry_run:
        print(try_teacher(run, config, data, device))
        return 0
    if args.resume:
        check_resumed(config, run.read_config(), begun='options and data the run was')
    with nullcontext() if args.resume else kept_on_mistake(run, run.teacher):
        if not args.resume:
            run.begin(overwrite=args.overwrite)
        history = train(
            run,
            config,
            data,
            resume=args.resume,
            progress=not args.quiet,
            device=device,
        )
    print(
        f'teacher: validation {history.monitor} {history.best_value:.4f} at epoch '
        f'{history.best_epoch} of {history.num_epochs}, in {run.teacher}'
    )
    print(f'next: promptmm distill {run.path}')
    return 0


def run_config(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that determines the teacher, as plain values."""
    titles = None
    if args.titles is not None:
        file = str(Path(args.titles).resolve())
        titles = {'path': file, 'item': args.item_column, 'title': args.title_column}
        read_titles(**titles)  # Before any work is lost.
    prompt = None
    if not args.no_prompt:
        prompt = {'start': args.prompt_start, **chosen(args, PROMPT, _PROMPT_NAMES)}
    return {
        'format': FORMAT,
        'data': data_config(args),
        'titles': titles,
        'prompt': prompt,
        'teacher': chosen(args, TEACHER),
        'train': chosen(args, TRAIN),
        'weights': weights(args, PromptMM.loss_weights),
        'schedule': chosen(args, SCHEDULE),
    }


def sound(split: Split, path: str) -> None:
    """Shows the warnings about a split on stderr.

    Raises:
        UserError: If there is an error in it, or nothing to validate on.
    """
    errors, warnings = findings(split)
    if errors:
        raise UserError(
            f'the data have {len(errors)} errors; the first: {errors[0]}. See all with '
            f"'promptmm data check {path}'"
        )
    for finding in warnings:
        print(f'warning: {finding}', file=sys.stderr)
    if split.val[INTERACTS].edge_label_index.size(1) == 0:
        raise UserError(
            'the data hold no validation interactions, so there is no telling when to '
            'stop. Hold some out with --val-ratio'
        )
