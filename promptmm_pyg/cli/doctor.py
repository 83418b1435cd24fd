"""``promptmm doctor``: checks of the machine and of the installed packages."""

import argparse
import importlib
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from promptmm_pyg._utils import how_to_install
from promptmm_pyg.cli.parsing import Parser, add_flags, print_json
from promptmm_pyg.cli.system import GIB, bytes_text
from promptmm_pyg.data import make_synthetic_dataset, split_per_user
from promptmm_pyg.limits import available_memory, cores
from promptmm_pyg.models.inference import get_embeddings
from promptmm_pyg.runs import prepare
from promptmm_pyg.runs.folder import load_tensors, save_tensors
from promptmm_pyg.runs.run import build_model
from promptmm_pyg.training import LastEpochWarning, TrainingConfig, train

DESCRIPTION = """\
Check what the program needs: versions, optional packages with the line that installs
them, cores, memory, GPUs, whether a folder can be written, and a small self test that
trains, saves and loads. Each problem comes with its fix.

The exit status is 1 if there is a problem; notes alone give 0.

--json prints one object: checks, a list of level ('ok', 'note' or 'problem'), about,
text and fix; and the numbers of problems and notes."""
EXAMPLE = """\
example:
  promptmm doctor
  promptmm doctor --out /data/runs
  promptmm doctor --json > machine.json"""
_PACKAGE = 'promptmm_pyg'
EXTRAS = {
    'frames': 'tables in .csv and .parquet',
    'viz': 'figures',
    'kernels': 'compiled sparse operators, a matter of speed',
    'ann': 'approximate ranking, faiss indices',
    'content': 'encoders of texts and images',
    'ica': '--prompt-start ica',
    'tune': 'promptmm tune',
    'tracking': '--track',
    'serve': 'promptmm serve',
    'hub': 'push_to_hub and from_pretrained',
    'ray': '--engine ray and promptmm_pyg.cluster',
    'export': 'promptmm export --onnx and --lancedb',
}
# Packages that are compiled against torch, by extra.
_COMPILED = {'kernels': ('torch_scatter', 'torch_sparse'), 'content': ('torchvision',)}
_FORM = re.compile(
    r'(?P<name>[\w.-]+)(\[[\w,]+\])?\s*>=\s*(?P<least>[\d.]+)'
    r'(\s*;\s*extra\s*==\s*["\'](?P<extra>[\w-]+)["\'])?'
)


class Check(NamedTuple):
    """The result of one check."""

    level: Literal['ok', 'note', 'problem']
    about: str
    text: str
    fix: str = ''


def add_arguments(parser: Parser) -> None:
    """Adds all options."""
    add_flags(
        parser,
        """
--out FOLDER [runs]  folder to check for writing; it need not exist
--json  print JSON""",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the checks; returns 1 if there is a problem."""
    checks: list[Check] = []
    groups: list[Callable[[], list[Check]]] = [
        check_versions,
        check_extras,
        check_threads,
        check_memory,
        check_gpus,
        lambda: [check_writing(Path(args.out))],
        check_self,
    ]
    for group in groups:
        for check in group():
            checks.append(check)
            if not args.json:
                print(f'{check.level:<8} {check.about}: {check.text}')
                if check.fix:
                    print(f'{"":<8} fix: {check.fix}')
    levels = [check.level for check in checks]
    counts = {name: levels.count(name) for name in ('problem', 'note')}
    if args.json:
        totals = {f'{name}s': count for name, count in counts.items()}
        print_json({'checks': [check._asdict() for check in checks], **totals})
    else:
        texts = [f'{n} {name}{"s" * (n != 1)}' for name, n in counts.items()]
        print('\n' + ', '.join(texts))
    return 1 if counts['problem'] else 0


def check_versions() -> list[Check]:
    """Python and the required packages."""
    python = '.'.join(map(str, sys.version_info[:3]))
    least = required_python()
    if least is None:
        fix = "Install the package: 'pip install -e .' in its folder"
        return [Check('problem', _PACKAGE, 'is not installed', fix)]
    checks = [Check('ok', 'python', python)]
    if is_older(python, least):
        fix = f'Make an environment with Python {least} or later'
        checks = [Check('problem', 'python', python, fix)]
    for name, least in requirements(None).items():
        current = installed(name)
        if current is None or is_older(current, least):
            text = 'is not installed' if current is None else f'{current} is too old'
            fix = f"pip install '{name}>={least}'"
            checks.append(Check('problem', name, text, fix))
        else:
            checks.append(Check('ok', name, current))
    return checks


def check_extras() -> list[Check]:
    """The optional packages."""
    checks = []
    for extra, use in EXTRAS.items():
        name, absent = f'extra {extra}', missing(extra)
        if not requirements(extra):
            text = 'unknown to the installed package: its code is newer'
            fix = "Install it again: 'pip install -e .' in its folder"
            checks.append(Check('note', name, text, fix))
        elif absent:
            text = f'{", ".join(absent)} not installed; only needed for {use}'
            checks.append(Check('note', name, text, install_line(extra)))
        elif error := _load_error(extra):
            fix = f'Install it for this torch: {install_line(extra)}'
            checks.append(Check('problem', name, error, fix))
        else:
            checks.append(Check('ok', name, f'installed ({use})'))
    return checks


def _load_error(extra: str) -> str:
    for module in _COMPILED.get(extra, ()):
        try:
            importlib.import_module(module)
        except Exception as error:  # Any error of a foreign package.
            return f'{module} does not load: {" ".join(str(error).split())[:200]}'
    return ''


def check_threads() -> list[Check]:
    """Cores, and the threads of torch."""
    num_cores, threads = cores(), torch.get_num_threads()
    text = f'{threads} threads of torch on {num_cores} cores'
    if threads > num_cores:
        fix = f'OMP_NUM_THREADS={num_cores} promptmm ...'
        return [Check('note', 'threads', f'{text}, which is slower', fix)]
    if threads < num_cores:
        fix = f'To use all cores, unset OMP_NUM_THREADS or set it to {num_cores}'
        return [Check('note', 'threads', text, fix)]
    if threads > 1 and os.environ.get('OMP_WAIT_POLICY', '').upper() != 'PASSIVE':
        fix = 'OMP_WAIT_POLICY=PASSIVE promptmm ..., or OMP_NUM_THREADS=1'
        text += ', which do not sleep while they wait: slow beside other programs'
        return [Check('note', 'threads', text, fix)]
    return [Check('ok', 'threads', text)]


def check_memory() -> list[Check]:
    """Memory that can still be used."""
    free = available_memory()
    text = f'{bytes_text(free)} free'
    if free < 2 * GIB:
        fix = "End other programs; 'promptmm train ... --dry-run' estimates your need"
        return [Check('note', 'memory', text, fix)]
    return [Check('ok', 'memory', text)]


def check_gpus() -> list[Check]:
    """GPUs, and whether they compute."""
    if not torch.cuda.is_available():
        return [Check('ok', 'gpu', 'none found; training runs on the CPU')]
    checks = []
    for number in range(torch.cuda.device_count()):
        name = f'gpu {number}'
        try:
            x = torch.ones(64, 64, device=f'cuda:{number}')
            works = bool((x @ x == 64).all())
            memory = torch.cuda.mem_get_info(number)[0]
            text = f'{torch.cuda.get_device_name(number)}, {bytes_text(memory)} free'
        except RuntimeError as error:
            works, text = False, ' '.join(str(error).split())[:200]
        if works:
            text = f'{text}; train on it with --device cuda:{number}'
            checks.append(Check('ok', name, text))
        else:
            fix = 'Install the build of torch for this GPU and its driver'
            checks.append(Check('note', name, f'does not compute: {text}', fix))
    return checks


def check_writing(folder: Path) -> Check:
    """Whether a folder, or its first existing parent, can be written."""
    parent = folder.absolute()
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    try:
        with tempfile.TemporaryDirectory(dir=parent):
            pass
    except OSError as error:
        fix = 'Choose another --out, or get the right to write there'
        text = f"'{folder}' cannot be written: {error.strerror or error}"
        return Check('problem', 'writing', text, fix)
    return Check('ok', 'writing', f"'{folder}' can be written")


def check_self() -> list[Check]:
    """Trains a tiny teacher for an epoch, saves it, loads it and compares."""
    started = time.perf_counter()
    try:
        _self_test()
    except Exception as error:  # Any error of a broken installation.
        if '--traceback' in sys.argv:
            raise
        fix = (
            'Install torch and torch_geometric again; if the error stays, report the '
            "output of 'promptmm --traceback doctor'"
        )
        text = f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
        return [Check('problem', 'self test', text, fix)]
    seconds = time.perf_counter() - started
    return [Check('ok', 'self test', f'trained, saved and loaded in {seconds:.1f} s')]


def _self_test() -> None:
    split = split_per_user(make_synthetic_dataset(40, 60, 4), 0.2, 0.2)
    prompt = {'out_channels': 4}
    data = prepare(split, prompt)
    config = {
        'model': 'PromptMM',
        'prompt': prompt,
        'teacher': {'embedding_dim': 8},
        'train': {'seed': 0},
    }
    teacher, loaded = (build_model(config, 'teacher', data.train) for _ in range(2))
    assert isinstance(teacher, torch.nn.Module)
    assert isinstance(loaded, torch.nn.Module)
    training = TrainingConfig(epochs=1, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', LastEpochWarning)
        train(teacher, data.split, inputs=data.inputs, config=training)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'model.safetensors'
        save_tensors(file, teacher.state_dict())
        loaded.load_state_dict(load_tensors(file, ''))
    result = get_embeddings(loaded, data.inputs)
    for node_type, x in get_embeddings(teacher, data.inputs).items():
        if not torch.equal(result[node_type], x) or not bool(x.isfinite().all()):
            raise RuntimeError(f'the embeddings of {node_type}s changed on disk')


def requirements(extra: str | None) -> dict[str, str]:
    """The lowest version of each package, by the metadata of this one."""
    matches = (_FORM.fullmatch(line.strip()) for line in requires(_PACKAGE) or ())
    return {x['name']: x['least'] for x in matches if x and x['extra'] == extra}


def required_python() -> str | None:
    """The lowest version of Python; ``None`` if the package is not installed."""
    try:
        text = metadata(_PACKAGE)['Requires-Python']
    except PackageNotFoundError:
        return None
    return str(text).strip().removeprefix('>=')


def installed(name: str) -> str | None:
    """The version of a package; ``None`` if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def is_older(current: str, least: str) -> bool:
    """Whether a version comes before another, by its leading numbers.

    Example:
        >>> is_older('2.10.0+cpu', '2.6'), is_older('2.5.1', '2.6')
        (False, True)
    """
    return _numbers(current) < _numbers(least)


def _numbers(text: str) -> list[int]:
    match = re.match(r'\d+(\.\d+)*', text)
    numbers = [int(part) for part in match[0].split('.')] if match else []
    while numbers and numbers[-1] == 0:  # 2.0 is 2.
        numbers.pop()
    return numbers


def missing(extra: str) -> list[str]:
    """The packages of an extra that are not installed or too old."""
    names = []
    for name, least in requirements(extra).items():
        current = installed(name)
        if current is None:
            names.append(name)
        elif is_older(current, least):
            names.append(f'{name} {least} or later (found {current})')
    return names


def install_line(extra: str) -> str:
    """The command that installs an extra."""
    if extra == 'kernels':  # Built from source with the installed torch.
        names = requirements(extra)
        packages = ' '.join(f"'{name}>={least}'" for name, least in names.items())
        return f'pip install --no-build-isolation {packages}'
    line = how_to_install(extra)
    if extra == 'content':
        line += ' (torchvision must match torch: install both from one index)'
    return line
