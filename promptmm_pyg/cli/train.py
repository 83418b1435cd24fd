"""``promptmm train``: the teacher."""

import argparse
from pathlib import Path
from typing import Any

from promptmm_pyg.cli.data import add_data_options, data_config
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
)
from promptmm_pyg.cli.system import profile_teacher, without_cache
from promptmm_pyg.models import PromptMM
from promptmm_pyg.runs import Run, train_run
from promptmm_pyg.runs.data import read_titles
from promptmm_pyg.runs.run import FORMAT
from promptmm_pyg.runs.stages import load_data
from promptmm_pyg.transforms import AddModalityPCA

DESCRIPTION = """\
Train the teacher PromptMM, a graph model of interactions and item features, and save
the epoch that was best on validation. Test data are not used.

RUN will hold config.json (all settings), teacher/ (model.safetensors, log.jsonl with
one line per epoch, a checkpoint) and metrics. Ctrl-C loses at most one epoch: the same
command with --resume continues."""
EXAMPLE = """\
example:
  promptmm train data/tiktok --out runs/tiktok --learning-rate 0.002
  promptmm train clicks.parquet --out runs/clicks --features text=text.parquet \\
      --split time --time-column day --val-ratio 0.1 --test-ratio 0.1
  promptmm train data/tiktok --out runs/tiktok --dry-run
  promptmm train --config runs/tiktok/config.json --out runs/wide --embedding-dim 128"""
TEACHER = {
    'embedding_dim': 'numbers per user or item embedding',
    'num_layers': 'graph layers of the id embeddings',
    'num_modality_layers': 'pairs of hops of the feature propagation',
    'modality_weight': 'weight of the features in the final embeddings',
    'self_loop_weight': "weight of a node's own features beside its neighbors'",
    'prompt_id_weight': 'weight of the prompt in the id embeddings',
    'prompt_feature_weight': 'weight of the prompt in the feature encoder',
    'num_prompt_tokens': 'number of prompt tokens',
    'missing': 'replacement of missing features: zeros or a trained token',
    'modality_dropout': 'share of modality vectors dropped in training, 0 to 1',
    'dropout': 'share of the features dropped in training, 0 to 1',
    'init_std': 'standard deviation of normal initial id embeddings; none: Xavier',
}
PROPAGATE = {'propagate_every': 'batches per graph propagation and optimizer step'}
PROMPT = {
    'out_channels': 'components of the item features that initialize the prompt',
    'combine': 'decompose all modalities together, or average the components of each',
}
_PROMPT_NAMES = {'out_channels': 'prompt_dim', 'combine': 'prompt_combine'}


def add_arguments(parser: Parser) -> None:
    """Adds all options."""
    parser.usage = 'promptmm train PATH --out RUN [options]'
    add_data_options(parser)
    parser.add_argument('--out', required=True, metavar='RUN', help='folder to write')
    add_flags(
        parser,
        """
--resume  continue RUN
--overwrite  replace a run in RUN
--titles FILE  table with the item column and a column of titles, printed beside
  recommendations (default: none)
--title-column NAME [title]  column of titles""",
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
    add_flags(prompt, '--no-prompt  train without one')
    add_loss_weights(parser.add_argument_group('losses'), PromptMM.loss_weights)
    add_training(parser, **PROPAGATE)


def run(args: argparse.Namespace) -> int:
    """Trains and prints the validation metrics."""
    config = run_config(args)
    if args.print_config:
        print(config_text(args))
        return 0
    device = check_device(args.device)
    if args.dry_run:
        config['data'] = without_cache(config['data'])
        data, _ = load_data(config)
        print(profile_teacher(Run(args.out), config, data, device))
        return 0
    trained = train_run(
        args.out,
        config,
        overwrite=args.overwrite,
        resume=args.resume,
        progress=not args.quiet,
        device=device,
    )
    print(f'{metrics_text(trained, "teacher")}, in {trained.teacher_dir}')
    print(f'next: promptmm distill {trained.path}')
    return 0


def metrics_text(run: Run, name: str) -> str:
    """One line about a model's best epoch."""
    metrics = run.metrics(name)
    text = (
        f'{name}: validation {metrics["monitor"]} {metrics["best_value"]:.4f} at epoch '
        f'{metrics["best_epoch"]} of {metrics["num_epochs"]}'
    )
    trials = metrics.get('trials')
    if trials:
        best = metrics['best_params']
        text += f', best of {len(trials)} settings: learning rate '
        text += f'{best["learning_rate"]:g}, l2 {best["l2"]:g}'
    elif name == 'baseline':
        text += '; not tuned (--tune 8 searches for both models)'
    return text


def run_config(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that determines the teacher, as plain values."""
    data, titles = data_config(args), None
    if args.titles is not None:
        titles = {
            'path': str(Path(args.titles).resolve()),
            'item': data.get('item') or args.item_column,
            'title': args.title_column,
            'encoding': args.encoding,
        }
        read_titles(**titles)  # Errors are raised before any work.
    prompt = None
    if not args.no_prompt:
        options = selected_options(args, PROMPT, _PROMPT_NAMES)
        prompt = {'start': args.prompt_start, **options}
    return {
        'format': FORMAT,
        'data': data,
        'titles': titles,
        'prompt': prompt,
        'teacher': selected_options(args, TEACHER),
        'train': selected_options(args, (*TRAIN, *PROPAGATE, *LENGTH)),
        'loss_weights': loss_weights(args, PromptMM.loss_weights),
    }
