"""``--device``: where models are trained."""

import argparse

import torch

from promptmm_pyg.cli.parsing import UserError


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds ``--device``: how something is trained, not what, so no run keeps it."""
    parser.add_argument(
        '--device',
        type=_device_name,
        default='cpu',
        metavar='DEVICE',
        help="where to train: 'cpu', 'cuda' or, of several GPUs, 'cuda:1'; what is "
        'written can be used anywhere (default: cpu)',
    )


def existing_device(name: str) -> torch.device:
    """The device of a name.

    Raises:
        UserError: If this machine has none, told before any work is lost.
    """
    device = torch.device(name)
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f'--device requires a device that there is, and torch finds '
            f'{torch.cuda.device_count()} GPUs (got {name!r}). Leave it out to train '
            f'on the CPU'
        )
    return device


def _device_name(text: str) -> str:
    try:
        known = torch.device(text).type in ('cpu', 'cuda')
    except RuntimeError:
        known = False
    if not known:
        raise argparse.ArgumentTypeError(
            f"must be 'cpu', 'cuda' or 'cuda:N' (got {text!r})"
        )
    return text
