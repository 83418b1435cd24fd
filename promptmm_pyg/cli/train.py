"""``promptmm train``: a teacher, or any other model."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from promptmm_pyg.cli.data import add_data_options, data_config
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
    UserError,
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
from promptmm_pyg.cli.system import profile_teacher, without_cache
from promptmm_pyg.models._resolve import file_hash, short_name
from promptmm_pyg.runs import Run, train_run
from promptmm_pyg.runs.data import read_titles
from promptmm_pyg.runs.run import FORMAT
from promptmm_pyg.runs.stages import load_data
from promptmm_pyg.transforms import AddModalityPCA
from promptmm_pyg.tuning.progress import params_text

DESCRIPTION = """\
Train a model and save the epoch that was best on validation: the teacher PromptMM, a
graph model of interactions and item features, or any other of the library (--model
NAME; its options are in 'promptmm train --model NAME --help'). Models in closed form,
such as EASE, are fitted. A model of yours is --model path/to/file.py:Class. Test data
are not used.

RUN will hold config.json (all settings), teacher/ (model.safetensors, log.jsonl with
one line per epoch, a checkpoint, metrics, and a recommender). Ctrl-C loses at most one
epoch: the same command with --resume continues."""
EXAMPLE = """\
example:
  promptmm train data/tiktok --out runs/tiktok --learning-rate 0.002
  promptmm train clicks.parquet --out runs/clicks --features text=text.parquet \\
      --split time --time-column day --val-ratio 0.1 --test-ratio 0.1
  promptmm train clicks.csv --out runs/ease --model EASE --l2 500
  promptmm train clicks.csv --out runs/mine --model net.py:Net --help
  promptmm train data/tiktok --out runs/tiktok --dry-run
  promptmm train --config runs/tiktok/config.json --out runs/wide --embedding-dim 128"""
DEFAULT = 'PromptMM'
PROPAGATE = {'propagate_every': 'batches per graph propagation and optimizer step'}
PROMPT = {
    'out_channels': 'components of the item features that initialize the prompt',
    'combine': 'decompose all modalities together, or average the components of each',
}
_PROMPT_NAMES = {'out_channels': 'prompt_dim', 'combine': 'prompt_combine'}


def add_arguments(parser: Parser) -> None:
    """Adds all options."""
    parser.usage = 'promptmm train PATH --out RUN [options]'
    add_run_options(parser)
    add_model(parser, 'model', DEFAULT, 'the model to train')
    add_training(parser, **PROPAGATE)
    parser.add_argument(
        '--edges-per-hop',
        nargs='+',
        type=_neighbors,
        default=['auto'],
        metavar='N',
        help='num_neighbors of PyG: edges per node in each hop of the neighborhood '
        "that a step is trained on, such as '10 10'; none trains on the whole graph, "
        'auto too where that fits into memory (default: auto)',
    )
    parser.add_more = _add_model_options


def add_run_options(parser: Parser) -> None:
    """Adds the options of data, of titles and of the folder that is written."""
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


def _add_model_options(parser: Parser, argv: Sequence[str]) -> None:
    """Adds the options of the model that is named."""
    cls: Any = model_of(argv, 'model', DEFAULT)
    add_model_options(parser, cls)
    parser.set_defaults(model_class=cls)
    if cls.loss_weights:
        add_loss_weights(parser.add_argument_group('losses'), cls.loss_weights)
    if not cls.reads_prompt:
        return
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


def run(args: argparse.Namespace) -> int:
    """Trains and prints the validation metrics."""
    config = run_config(args)
    if args.print_config:
        print(config_text(args))
        return 0
    device, callbacks = check_device(args.device), trackers(args)
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
        callbacks=callbacks,
    )
    text = metrics_text(trained, 'teacher').removeprefix('teacher')
    print(f'{short_name(args.model)}{text}, in {trained.teacher_dir}')
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
        best = params_text(metrics['best_params']).replace('_', ' ')
        text += f', best of {len(trials)} settings: {best}'
    elif name == 'baseline':
        text += '; not tuned (--tune 8 searches for both models)'
    return text


def run_config(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that determines the teacher, as plain values."""
    data = data_config(args)
    titles = titles_config(args, data)
    prompt, cls = None, args.model_class
    weights = cls.loss_weights
    if cls.reads_prompt and not args.no_prompt:
        options = selected_options(args, PROMPT, _PROMPT_NAMES)
        prompt = {'start': args.prompt_start, **options}
    return {
        'format': FORMAT,
        'data': data,
        'titles': titles,
        'model': args.model,
        **file_hash(args.model),
        'prompt': prompt,
        'teacher': model_arguments(args),
        'train': {
            **selected_options(args, (*TRAIN, *PROPAGATE, *LENGTH)),
            'num_neighbors': edges_per_hop(args.edges_per_hop),
        },
        'loss_weights': loss_weights(args, weights) if weights else {},
    }


def _neighbors(text: str) -> int | str:
    if text in ('auto', 'none'):
        return text
    if re.fullmatch(r'-1|0*[1-9]\d{0,8}', text):
        return int(text)
    raise argparse.ArgumentTypeError(
        f"must be 'auto', 'none', -1 (all edges) or a positive number (got '{text}')"
    )


def edges_per_hop(values: list[int | str]) -> list[int | str] | str:
    """The numbers of ``--edges-per-hop``, or its word."""
    if len(values) == 1 and isinstance(values[0], str):
        return values[0]
    if not all(isinstance(value, int) for value in values):
        raise UserError(
            f"--edges-per-hop must be 'auto', 'none' or numbers (got "
            f'{" ".join(map(str, values))})'
        )
    return values


def titles_config(
    args: argparse.Namespace, data: Mapping[str, Any]
) -> dict[str, Any] | None:
    """How to read ``--titles``; errors are raised before any work."""
    if args.titles is None:
        return None
    titles = {
        'path': str(Path(args.titles).resolve()),
        'item': data.get('item') or args.item_column,
        'title': args.title_column,
        'encoding': args.encoding,
    }
    read_titles(**titles)
    return titles
