"""Every model of the library, tuned on one budget and compared user by user.

    python -m benchmarks.suite tiktok --data FOLDER --trials 5 --seeds 0 1 2 --jobs 2
    python -m benchmarks.suite folder --data FOLDER --format mmrec
    python -m benchmarks.suite tiktok ml100k synthetic --data FOLDER_OF_BOTH --jobs 2

Every model gets the same number of trials, judged by the best validation Recall@20 of
seed 0: one at its defaults (:mod:`benchmarks.spaces`), one at these with a strong
penalty, as nothing else decides as much, and then Optuna's TPE. (TPE draws its first
ten at random: fewer trials are a random search.) The choice is then trained with all
seeds; the test positives are read once a model and seed, by the state that was best on
validation. Finished trainings are kept under ``--work``, so an interrupted suite goes
on where it was; ``--models NAME --add`` adds models to a result that is finished.
Writes ``suite-<setting>.json`` and, with every test user's Recall@20,
``…-per-user.npz``.
"""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.command_line import command_line
from benchmarks.entry import WIDTH, Entry
from benchmarks.run import prepare, spread
from benchmarks.settings import SETTINGS, read
from benchmarks.spaces import ENTRIES
from benchmarks.suite_file import former_outs, write_suite
from benchmarks.trial import METRIC, Bench
from benchmarks.workers import end_with_parent
from promptmm_pyg.data import read_dataset
from promptmm_pyg.training import Schedule

METRICS = ('Recall@10', 'Recall@20', 'Recall@50', 'NDCG@20')
FOLDER = 'folder'
TUNING_SEED = 0


@dataclass(frozen=True)
class Job:
    """All that one model of the suite is run with."""

    setting: str
    data: Path | None
    format: str
    model: str
    trials: int
    seeds: tuple[int, ...]
    schedule: Schedule
    batch_size: int
    work: Path
    threads: int | None = None
    device: str = 'cpu'

    @property
    def dataset(self) -> str:
        """The name of the data."""
        folder = self.data.resolve().name if self.data else FOLDER
        return folder if self.setting == FOLDER else self.setting

    @property
    def protocol(self) -> dict[str, Any]:
        """What all models of one result have in common."""
        return {
            'dataset': self.dataset,
            'trials': self.trials,
            'seeds': list(self.seeds),
            'schedule': self.schedule._asdict(),
            'batch_size': self.batch_size,
            'width': WIDTH,
            'sampler': 'TPESampler(seed=0)',
            'device': self.device,
        }

    def bench(self) -> Bench:
        """The data, read and prepared."""
        if self.setting != FOLDER:
            setting = SETTINGS[self.setting]
            split = read(setting.dataset, self.data)
        else:
            assert self.data is not None
            # Of a setting, the preparation needs the prompt's width alone.
            setting = replace(SETTINGS['synthetic'], dataset=self.dataset)
            split = read_dataset(self.data, self.format)  # type: ignore[arg-type]
        train, channels = prepare(split.train, setting), setting.prompt_channels
        numbers = channels, self.schedule, self.batch_size, self.work, self.device
        return Bench(self.dataset, split, train, *numbers)


def tune(bench: Bench, entry: Entry, trials: int) -> list[dict[str, Any]]:
    """What was tried, in order: parameters and validation value.

    Finished trials are told to the study as if they had just run, so the parameters
    to try next are those of an uninterrupted study.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            "'tune' requires 'optuna'. Install it with 'pip install promptmm_pyg[dev]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=0)
    study = optuna.create_study(direction='maximize', sampler=sampler)
    for start in entry.starts:
        study.enqueue_trial(start)
    rows = []
    for _ in range(trials):
        trial = study.ask()
        params = entry.suggest(trial)
        outcome = bench.outcome(entry, params, TUNING_SEED)
        study.tell(trial, outcome['validation'])
        said = ('validation', 'seconds', 'error')
        rows.append({'params': params, **{k: outcome[k] for k in said if k in outcome}})
        print(f'{entry.name} {params} {outcome["validation"]:.4f}', flush=True)
    return rows


def run_model(job: Job) -> dict[str, Any]:
    """One model: its trials, and its choice with all seeds, tested once each."""
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    bench, entry = job.bench(), ENTRIES[job.model]
    trials = tune(bench, entry, job.trials)
    # Of equals, the first.
    chosen = max(trials, key=lambda row: row['validation'])['params']
    # What is not trained is the same for every seed.
    seeds = job.seeds if entry.trained else (TUNING_SEED,)
    outcomes = [bench.outcome(entry, chosen, seed) for seed in seeds]
    tests = [bench.test(entry, chosen, seed) for seed in seeds]
    means = [test.metrics for test in tests]
    # Of the tuning seed, the choice was trained as a trial.
    more = [
        out['seconds']
        for seed, out in zip(seeds, outcomes, strict=True)
        if seed != TUNING_SEED
    ]
    row = {
        'kind': entry.kind,
        'parameters': outcomes[0]['parameters'],
        'chosen': chosen,
        'trials': trials,
        'validation': spread([out['validation'] for out in outcomes]),
        'test': {name: spread([values[name] for values in means]) for name in METRICS},
        'epochs': [out.get('epoch') for out in outcomes],
        'seconds': [out['seconds'] for out in outcomes],
        'seconds_in_all': sum(trial['seconds'] for trial in trials) + sum(more),
        'seconds_per_epoch': [out.get('seconds_per_epoch') for out in outcomes],
        'peak_mib': [out['peak_mib'] for out in outcomes],
        'threads': [out['threads'] for out in outcomes],
    }
    if 'peak_gpu_mib' in outcomes[0]:
        row['peak_gpu_mib'] = [out['peak_gpu_mib'] for out in outcomes]
    return {
        'name': entry.name,
        'row': row,
        # Arrays, as tensors between processes would need the sender to stay.
        'users': tests[0].users.numpy(),
        'per_user': torch.stack([test.per_user[METRIC] for test in tests]).numpy(),
    }


def run_models(jobs: list[Job], processes: int) -> Iterator[dict[str, Any]]:
    """The models in order, each in a fresh process; with 0, all in this one, whose
    peak memory then holds what the models before have left.
    """
    if processes == 0:
        yield from map(run_model, jobs)
        return
    with ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context('spawn'),
        initializer=end_with_parent,
        max_tasks_per_child=1,
    ) as pool:
        yield from pool.map(run_model, jobs)


def folder_of(data: Path | None, setting: str, *, several: bool) -> Path | None:
    """Where a setting's files are; of several settings, in a folder of its name."""
    if data is None or not several:
        return data
    return data / setting if (data / setting).is_dir() else None


def main() -> None:
    parser = command_line(__doc__, [*sorted(SETTINGS), FOLDER], several=True)
    formats = ('auto', 'diffmm', 'mmssl', 'mmrec')
    parser.add_argument('--format', choices=formats, default='auto', help='of a folder')
    parser.add_argument('--models', nargs='+', choices=ENTRIES, default=list(ENTRIES))
    parser.add_argument('--trials', type=int, default=5, help='of every model')
    parser.add_argument('--epochs', type=int, default=300)
    parser.add_argument('--patience', type=int, default=10, help='validations')
    parser.add_argument('--batch-size', type=int, default=2048)
    parser.add_argument('--jobs', type=int, default=1, help='models side by side')
    parser.add_argument(
        '--device', default='cpu', help="where models are trained, such as 'cuda'"
    )
    parser.add_argument(
        '--add',
        action='store_true',
        help='to the result in --out, instead of replacing it',
    )
    args = parser.parse_args()
    schedule = Schedule(args.epochs, args.patience, validate_every=3, progress=False)
    common: dict[str, Any] = {
        name: getattr(args, name) for name in ('format', 'trials', 'batch_size', 'work')
    }
    common |= {'seeds': tuple(args.seeds), 'schedule': schedule, 'device': args.device}
    # Two processes of two threads each would wait for each other.
    common |= {'threads': 1 if args.jobs > 1 else None}
    models = list(dict.fromkeys(args.models))
    suites = []
    for setting in dict.fromkeys(args.setting):
        data = folder_of(args.data, setting, several=len(set(args.setting)) > 1)
        if data is None and setting != 'synthetic':
            parser.error(f"'--data' requires a folder of {setting!r} (got {args.data})")
        here = {**common, 'setting': setting, 'data': data}
        suites.append([Job(model=model, **here) for model in models])
    # Before any model is trained.
    others = [
        former_outs(args.out, jobs[0].protocol, set(models)) if args.add else []
        for jobs in suites
    ]
    done = run_models([job for jobs in suites for job in jobs], args.jobs)
    with tqdm(total=sum(map(len, suites)), unit='model') as bar:
        for jobs, outs in zip(suites, others, strict=True):
            for out in islice(done, len(jobs)):
                outs.append(out)
                bar.update()
            outs.sort(key=lambda out: list(ENTRIES).index(out['name']))
            write_suite(args.out, jobs[0].protocol, outs)


if __name__ == '__main__':
    main()
