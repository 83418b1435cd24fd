"""The commands that `tests.torture.kills` ends, on tiny data."""

import contextlib
import csv
import functools
import io
import shutil
from pathlib import Path

import torch

from promptmm_pyg.cli import main
from promptmm_pyg.data import INTERACTS, make_synthetic_dataset, split_per_user
from promptmm_pyg.models import PromptMM
from promptmm_pyg.nn import load_prompt, save_prompt
from promptmm_pyg.runs import Run
from promptmm_pyg.serving import Recommender
from promptmm_pyg.targets import SoftTargets, load_targets, save_targets
from tests.torture.kills import Scenario, digest

SIZES = {'num_users': 30, 'num_items': 40, 'num_clusters': 4}
COMMON = ['--epochs', '2', '--batch-size', '512', '--quiet']
TRAIN = [*COMMON, '--embedding-dim', '8']
DISTILL = [*COMMON, '--embedding-dim', '4']


def write_csv(path, rows):
    with path.open('w', newline='') as file:
        csv.writer(file).writerows(rows)


def write_tables(folder):
    """Interactions, features, features of new items, and new interactions."""
    graph = make_synthetic_dataset(**SIZES)
    users, items = graph['user'].raw_id, graph['item'].raw_id
    pairs = graph[INTERACTS].edge_index.t().tolist()
    rows = [(users[u], items[i]) for u, i in pairs]
    write_csv(folder / 'clicks.csv', [('user_id', 'item_id'), *rows])
    head = ['item_id', *(f'c{n}' for n in range(4))]
    x = graph['item'].x_text[:, :4].tolist()
    text = [(item, *row) for item, row in zip(items, x, strict=True)]
    write_csv(folder / 'text.csv', [head, *text])
    write_csv(folder / 'new.csv', [head, ('n1', *x[0]), ('n2', *x[1])])
    known = set(rows)
    new = [(u, i) for u in users[:9] for i in items[:9] if (u, i) not in known]
    write_csv(
        folder / 'more.csv', [('user_id', 'item_id'), *new[:8], ('new', items[0])]
    )


def served(recommender):
    tables = (recommender.user_x, recommender.item_x, recommender.seen.col)
    return digest(*tables, recommender.user_ids, recommender.item_ids)


def run_state(folder):
    """What the public loaders read of a run."""
    run = Run(folder)
    if not run.has('teacher'):
        return 'nothing'
    run.check()
    parts = [
        f'{digest(*getattr(run, name)().state_dict().values())}'
        f'/{run.metrics(name)["num_epochs"]}'
        for name in ('teacher', 'student', 'baseline')
        if run.has(name) and (name == 'teacher' or run.has('student'))
    ]
    if run.has('student'):
        parts += [served(run.recommender()), served(run.recommender(final=False))]
        parts.append(digest(*run.embeddings()['truncated_teacher'].values()))
    files = [run.evaluation_file(split) for split in ('val', 'test')]
    evaluated = [file.name for file in files if file.is_file()]
    return ' '.join([*parts, *evaluated, str(run.final.get('made_by'))])


def command(*words):
    """Runs the program; ``RUN`` is the folder."""

    def call(folder):
        return main(
            [
                str(folder) if x == 'RUN' else x.replace('RUN/', f'{folder}/')
                for x in map(str, words)
            ]
        )

    return call


def recommender(value):
    x = torch.full((30, 4), float(value))
    ids = [f'{value}-{row}' for row in range(30)]
    return Recommender(x, x, user_ids=ids, item_ids=ids, seen=None)


def scenarios(work, *, fast):
    """All scenarios, or those of less than a tenth of a second."""
    folders = {name: work / name for name in ('saved', 'prompt', 'targets')}
    for folder in folders.values():
        folder.mkdir()
    yield from _files(folders)
    yield from _recommenders(folders)
    if not fast:
        yield from _runs(work)


def _files(folders):
    graph = split_per_user(make_synthetic_dataset(**SIZES), 0.2, 0.2).train
    torch.manual_seed(0)
    sizes = graph.num_nodes_dict
    x_dicts = [{k: torch.randn(n, 4) for k, n in sizes.items()} for _ in range(2)]

    def save(folder, number=1):
        targets = SoftTargets(x_dicts[number], {})
        save_targets(folder / 'targets.safetensors', targets, graph)

    def state(folder):
        return digest(
            *load_targets(folder / 'targets.safetensors', graph).x_dict.values()
        )

    save(folders['targets'], 0)
    yield Scenario('targets', folders['targets'], save, state)

    split = split_per_user(make_synthetic_dataset(**SIZES), 0.2, 0.2)
    model = PromptMM.from_data(split, embedding_dim=4)
    prompt = model.prompt
    values = {key: x.clone() for key, x in prompt.state_dict().items()}
    save_prompt(folders['prompt'] / 'p.safetensors', prompt)

    def save_changed(folder):
        prompt.load_state_dict({k: x + 1 for k, x in values.items()})
        save_prompt(folder / 'p.safetensors', prompt)

    def loaded(folder):
        load_prompt(folder / 'p.safetensors', prompt)
        return digest(*prompt.state_dict().values())

    yield Scenario('prompt', folders['prompt'], save_changed, loaded)


def _recommenders(folders):
    recommender(1).save(folders['saved'] / 'served')

    def save(folder):
        recommender(2).save(folder / 'served')

    def state(folder):
        return served(Recommender.load(folder / 'served'))

    yield Scenario('save', folders['saved'], save, state)


def resumed(make):
    """The same command, or with ``--resume`` if it is refused."""

    def call(folder):
        return make()(folder) and make('--resume')(folder)

    return call


def done(folder, *words):
    """Runs the program, which must succeed, without its output."""
    with contextlib.redirect_stdout(io.StringIO()):
        assert command(*words)(folder) == 0


def _runs(work):
    tables, student, refit = (work / name for name in ('tables', 'student', 'refit'))
    tables.mkdir()
    write_tables(tables)
    data = [tables / 'clicks.csv', '--features', f'text={tables / "text.csv"}']
    teacher = functools.partial(command, 'train', *data, '--out', 'RUN', *TRAIN)
    done(student, 'train', *data, '--out', 'RUN', *TRAIN)
    (work / 'empty').mkdir()
    trained = shutil.copytree(student, work / 'trained')
    done(student, 'distill', 'RUN', *DISTILL)
    done(student, 'evaluate', 'RUN', '--eval-split', 'test')
    done(student, 'evaluate', 'RUN')
    shutil.copytree(student, refit)
    done(refit, 'refit', 'RUN', '--quiet')
    new = ['--features', f'text={tables / "new.csv"}']
    yield Scenario(
        'add-items', refit, command('add-items', 'RUN', *new), run_state, once=True
    )
    update = command('update', 'RUN', tables / 'more.csv', *new)
    yield Scenario('update', refit, update, run_state, once=True)
    yield _report(student)
    yield _lists(student)
    other = ['--seed', '3', '--overwrite']
    yield Scenario('train --overwrite', refit, teacher(*other), run_state)
    distill = functools.partial(command, 'distill', 'RUN', *DISTILL)
    yield Scenario('distill --overwrite', refit, distill(*other), run_state)
    yield Scenario('refit', student, command('refit', 'RUN', '--quiet'), run_state)
    yield Scenario(
        'train', work / 'empty', teacher(), run_state, again=resumed(teacher), once=True
    )
    yield Scenario(
        'distill', trained, distill(), run_state, again=resumed(distill), once=True
    )
    longer = ['--epochs', '3', '--resume']
    yield Scenario('distill --resume', student, distill(*longer), run_state, once=True)
    yield _finish(work, refit)


def _report(run):
    def state(folder):
        file = folder / 'report.html'
        text = file.read_text() if file.is_file() else 'none'
        assert text == 'none' or text.rstrip().endswith('</html>')
        return run_state(folder) + (' report' if text != 'none' else '')

    return Scenario('report', run, command('report', 'RUN'), state)


def _lists(run):
    def state(folder):
        return digest((folder / 'lists.csv').read_text())

    words = ('recommend', 'RUN', '--out', 'RUN/lists.csv', '--all-users', '--quiet')
    template = run.with_name('listed')
    shutil.copytree(run, template)
    done(template, *words, '-k', '3')
    return Scenario('recommend --out', template, command(*words, '--overwrite'), state)


def _finish(work, run):
    """A student in training beside a former one."""
    template = work / 'interrupted'
    shutil.copytree(run, template)
    stage = template / '.new-student'
    stage.mkdir()
    shutil.copytree(template / 'student', stage / 'student')
    (stage / 'student' / 'model.safetensors').unlink()

    def state(folder):
        return f'{run_state(folder)} {Path(folder, ".new-student").exists()}'

    return Scenario('finish', template, command('finish', 'RUN'), state, once=True)
