"""``promptmm doctor``: can this machine do the work?"""

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from promptmm_pyg.cli.machine import GIB, available_memory, bytes_text, cores
from promptmm_pyg.cli.models import build_teacher, prepare
from promptmm_pyg.cli.requirements import (
    EXTRAS,
    install_line,
    installed,
    missing,
    older,
    required,
    requirements,
)
from promptmm_pyg.cli.run_folder import load_tensors, save_tensors
from promptmm_pyg.data import Split, make_synthetic_dataset, split_per_user
from promptmm_pyg.models.inference import get_embeddings
from promptmm_pyg.training import TrainingConfig, train

_DESCRIPTION = """\
Look at what the program needs: versions, optional packages with the line that installs
them, cores, memory, GPUs, whether a folder can be written, and a small self test that
trains, saves and loads. Each problem comes with its fix.

The exit status is 1 if there is a problem; notes alone give 0."""
_EXAMPLE = """\
example:
  promptmm doctor
  promptmm doctor --out /data/runs"""
_LITTLE = 2 * GIB


class Check(NamedTuple):
    """What was found about one thing."""

    level: Literal['ok', 'note', 'problem']
    about: str
    text: str
    fix: str = ''


def add_command(commands: Any, **kwargs: Any) -> None:
    """Adds ``doctor`` to the program."""
    parser = commands.add_parser(
        'doctor',
        **kwargs,
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
    )
    parser.add_argument(
        '--out',
        default='runs',
        metavar='FOLDER',
        help='folder that is to be written; it need not be there (default: runs)',
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the checks; returns 1 if there is a problem."""
    checks: list[Check] = []
    parts: list[Callable[[], list[Check]]] = [
        check_versions,
        check_extras,
        check_threads,
        check_memory,
        check_gpus,
        lambda: [check_writing(Path(args.out))],
        check_self,
    ]
    for part in parts:
        for check in part():
            checks.append(check)
            print(f'{check.level:<8} {check.about}: {check.text}')
            if check.fix:
                print(f'{"":<8} what to do: {check.fix}')
    problems = sum(check.level == 'problem' for check in checks)
    notes = sum(check.level == 'note' for check in checks)
    print(f'\n{_count(problems, "problem")}, {_count(notes, "note")}')
    return 1 if problems else 0


def _count(number: int, what: str) -> str:
    return f'{number} {what}' if number == 1 else f'{number} {what}s'


def check_versions() -> list[Check]:
    """Python and the packages that are always needed."""
    python = '.'.join(map(str, sys.version_info[:3]))
    least = required()
    if least is None:
        fix = "Install the package: 'pip install -e .' in its folder"
        return [Check('problem', 'promptmm_pyg', 'is not installed', fix)]
    fix = f'Make an environment with Python {least} or later'
    level: Literal['ok', 'problem'] = 'problem' if older(python, least) else 'ok'
    found = [Check(level, 'python', python, fix if level == 'problem' else '')]
    for name, least in requirements(None).items():
        version = installed(name)
        if version is None or older(version, least):
            text = 'is not installed' if version is None else f'{version} is too old'
            fix = f"pip install '{name}>={least}'"
            found.append(Check('problem', name, text, fix))
        else:
            found.append(Check('ok', name, version))
    return found


def check_extras() -> list[Check]:
    """What some options need, and how to get it."""
    found = []
    for extra, use in EXTRAS.items():
        lacking = missing(extra)
        if not requirements(extra):
            text = 'the installed package does not know it: its code is newer'
            fix = "Install it again: 'pip install -e .' in its folder"
            found.append(Check('note', f'extra {extra}', text, fix))
        elif not lacking:
            text, broken = f'there ({use})', _broken(extra)
            if broken:
                fix = f'Install it for this torch: {install_line(extra)}'
                found.append(Check('problem', f'extra {extra}', broken, fix))
            else:
                found.append(Check('ok', f'extra {extra}', text))
        else:
            text = f'{", ".join(lacking)} not there; only needed for {use}'
            found.append(Check('note', f'extra {extra}', text, install_line(extra)))
    return found


def _broken(extra: str) -> str:
    """Why packages that are compiled against torch do not load, if so."""
    bound = {'kernels': ('torch_scatter', 'torch_sparse'), 'content': ('torchvision',)}
    for module in bound.get(extra, ()):
        try:
            importlib.import_module(module)
        except Exception as error:  # Whatever a foreign package fails with.
            return f'{module} does not load: {" ".join(str(error).split())[:200]}'
    return ''


def check_threads() -> list[Check]:
    """Cores, and the threads that torch uses."""
    have, used = cores(), torch.get_num_threads()
    text = f'{used} threads of torch on {have} cores'
    if used > have:
        fix = f'OMP_NUM_THREADS={have} promptmm ...'
        return [Check('note', 'threads', f'{text}, which slows it down', fix)]
    if used < have:
        fix = (
            f'Nothing if you want that, else unset OMP_NUM_THREADS or set it to {have}'
        )
        return [Check('note', 'threads', text, fix)]
    return [Check('ok', 'threads', text)]


def check_memory() -> list[Check]:
    """Memory that can still be used."""
    free = available_memory()
    if free is None:
        return [Check('ok', 'memory', 'this system does not tell how much is free')]
    text = f'{bytes_text(free)} free'
    if free < _LITTLE:
        fix = "End other programs; ask 'promptmm train ... --dry-run' what yours needs"
        return [Check('note', 'memory', text, fix)]
    return [Check('ok', 'memory', text)]


def check_gpus() -> list[Check]:
    """GPUs, and whether they compute. The program itself trains on the CPU."""
    if not torch.cuda.is_available():
        mps = getattr(torch.backends, 'mps', None)
        kind = 'an Apple GPU' if mps is not None and mps.is_available() else 'none'
        return [Check('ok', 'gpu', f'{kind} seen; the program trains on the CPU')]
    found = []
    for number in range(torch.cuda.device_count()):
        name = f'gpu {number}'
        try:
            x = torch.ones(64, 64, device=f'cuda:{number}')
            fine = bool((x @ x == 64).all())
            memory = torch.cuda.mem_get_info(number)[0]
            text = f'{torch.cuda.get_device_name(number)}, {bytes_text(memory)} free'
        except RuntimeError as error:
            fine, text = False, ' '.join(str(error).split())[:200]
        if fine:
            more = 'for the library; the program trains on the CPU'
            found.append(Check('ok', name, f'{text}, {more}'))
        else:
            fix = 'Install the build of torch for this GPU and its driver'
            found.append(Check('note', name, f'does not compute: {text}', fix))
    return found


def check_writing(folder: Path) -> Check:
    """Whether a folder, or the first one above it that is there, can be written."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryDirectory(dir=place):
            pass
    except OSError as error:
        fix = 'Choose another --out, or get the right to write there'
        why = error.strerror or str(error)
        return Check('problem', 'writing', f"'{folder}' cannot be written: {why}", fix)
    return Check('ok', 'writing', f"'{folder}' can be written")


def check_self() -> list[Check]:
    """Trains a tiny teacher for an epoch, saves it, loads it and compares."""
    started = time.perf_counter()
    fix = (
        "Install torch and torch_geometric again; if it stays, report what 'promptmm "
        "--traceback doctor' shows"
    )
    try:
        _self_test()
    except Exception as error:  # Whatever a broken installation fails with.
        if '--traceback' in sys.argv:
            raise
        why = f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
        return [Check('problem', 'self test', why, fix)]
    spent = time.perf_counter() - started
    return [Check('ok', 'self test', f'trained, saved and loaded in {spent:.1f} s')]


def _self_test() -> None:
    split = split_per_user(make_synthetic_dataset(40, 60, 4), 0.2, 0.2)
    prompt = {'out_channels': 4, 'combine': 'concat', 'start': 'pca'}
    data = prepare(split, prompt)
    config = {'prompt': prompt, 'teacher': {'embedding_dim': 8}, 'train': {'seed': 0}}
    teacher, again = (build_teacher(config, data.train) for _ in range(2))
    train(
        teacher,
        Split(data.train, data.val, data.test),
        inputs=data.inputs,
        config=TrainingConfig(epochs=1, progress=False),
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'model.safetensors'
        save_tensors(file, teacher.state_dict())
        again.load_state_dict(load_tensors(file, ''))
    found, expected = (
        get_embeddings(again, data.inputs),
        get_embeddings(teacher, data.inputs),
    )
    for node_type, x in expected.items():
        if not torch.equal(found[node_type], x) or not bool(x.isfinite().all()):
            raise RuntimeError(f'the embeddings of {node_type}s did not come back')
