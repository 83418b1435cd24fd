"""Brings result files of the former scripts to the one schema, without a new number.

    python -m benchmarks.migrate_results OLD_FOLDER NEW_FOLDER

Names change (``control`` to ``baseline``, ``chosen`` to ``best_params``, ...), and
every table becomes ``rows``. The numbers of a file before and after are the same, each
as often: :func:`check` raises otherwise. It was run once, on 30 November.
"""

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from promptmm_pyg.benchmark.result import check_result

Json = dict[str, Any]
METRIC = 'Recall@20'
# Keys wherever they occur.
KEYS = {
    'self_weight': 'self_loop_weight',
    'num_random': 'num_uniform',
    'num_teacher': 'num_teacher_topk',
    'num_student': 'num_student_topk',
    'depth': 'top_k',
    'sharpness': 'score_scale',
    'share_of_teacher': 'retained_ratio',
    'over_control': 'diff_vs_baseline',
    'over_copy': 'diff_vs_truncated_teacher',
    'over_floor': 'diff_vs_baseline',
    'over_plain': 'diff_vs_baseline',
    'over_exact': 'diff_vs_baseline',
    'over_all': 'diff_vs_all_options',
    'over_LightGCN': 'diff_vs_LightGCN',
    'over_EASE': 'diff_vs_EASE',
    'absent': 'missing_ratio',
    'BPR-MF': 'MatrixFactorization',
    'mixture': 'ensemble',
    'control_trials': 'baseline_trials',
}
# Names of rows.
NAMES = {
    'control': 'baseline',
    'no teacher': 'baseline',
    'untrained': 'truncated teacher',
    'teacher cut, untrained': 'truncated teacher',
    'teacher copy': 'truncated teacher',
    'PromptMM teacher': 'PromptMM',
    'LightGCN control': 'LightGCN baseline',
    'MatrixFactorization control': 'MatrixFactorization baseline',
    'BPR-MF': 'MatrixFactorization',
    'mixture': 'ensemble',
    'mixture of all seeds': 'ensemble of all seeds',
    'teacher, cut and cached': 'truncated teacher, cached',
}


def name_of(text: str) -> str:
    """The present name of a row."""
    stem, comma, cut = text.rpartition(', cut')
    if comma and not cut:
        return f'{name_of(stem)}, truncated'
    if text.startswith('teacher cut to width'):
        return text.replace('teacher cut to', 'truncated teacher,')
    return NAMES.get(text, text)


def renamed(value: Any) -> Any:
    """A value with the present keys, without settings that no longer exist."""
    if isinstance(value, dict):
        return {KEYS.get(k, k): renamed(v) for k, v in value.items()}
    return [renamed(v) for v in value] if isinstance(value, list) else value


def seeds_of(values: list[Any]) -> Json:
    """A spread of which only the values of the seeds were written."""
    return {'seeds': values}


def training(schedule: Json, **more: Any) -> Json:
    """Fields of ``TrainingConfig``."""
    left_out = ('run_dir', 'resume', 'progress')
    return {**more, **{k: v for k, v in schedule.items() if k not in left_out}}


def dataset(setting: Json) -> Json:
    """The settings of a data set, as in ``configs/datasets.toml``."""
    fields = ('learning_rate', 'batch_size', 'epochs', 'patience', 'validate_every')
    l2 = setting['light_gcn_l2']
    students = {
        name: {
            **spec['arguments'],
            'l2': spec['l2'],
            'baseline_l2': spec['control_l2'],
        }
        for name, spec in setting['students'].items()
    }
    return {
        'name': setting['dataset'],
        'prompt_channels': setting['prompt_channels'],
        'training': {name: setting[name] for name in fields},
        'candidates': setting['candidates'],
        'models': {
            'LightGCN': {**setting['light_gcn'], 'l2': l2},
            'PromptMM': {**setting['teacher'], **setting['teacher_weights']},
        },
        'students': students,
    }


def head(kind: str, name: str, old: Json, protocol: Json, **more: Any) -> Json:
    """The keys that all results have."""
    if 'setting' in old:
        protocol = {'dataset': dataset(old['setting']), **protocol}
    out = {
        'kind': kind,
        'name': name,
        'dataset': old['setting']['dataset'] if 'setting' in old else 'synthetic',
        'seeds': old['seeds'],
        'protocol': protocol,
        **more,
        'versions': old.get('versions', {}),
    }
    if 'threads' in old:
        out['threads'] = old['threads']
    return out


def taken(old: Json, *names: str) -> Json:
    """The settings of these names."""
    return {name: old[name] for name in names if name in old}


def main_result(old: Json) -> Json:
    rows = {}
    for name, model in old['models'].items():
        row = {'name': name_of(name), **model}
        row['validation'] = seeds_of(model['validation'])
        for key in ('validation', 'epochs'):
            values = row[key]['seeds'] if key == 'validation' else row[key]
            if None in values:  # Nothing was trained.
                del row[key]
        rows[name] = row
    keys = {'PromptMM teacher': 'teacher'}
    for pair, gain in old['differences'].items():
        own, reference = pair.split(' - ')
        key = keys.get(reference, reference)
        if reference.endswith('control'):
            key = 'baseline'
        if reference.startswith('teacher cut'):
            key = 'truncated_teacher'
        rows[own][f'diff_vs_{key}'] = gain
    protocol = taken(old, 'ease_l2')
    seconds = [
        {name_of(k).replace(' control', ' baseline'): v for k, v in row.items()}
        for row in old['seconds']
    ]
    values = list(rows.values())
    return head('main', 'main', old, protocol, rows=values, seconds=seconds)


def suite_rows(old: Json) -> list[Json]:
    rows = []
    for name, model in old['models'].items():
        row = {'name': name_of(name), **model}
        row['kind'] = model['kind'].replace('untrained', 'closed form')
        row['best_params'] = row.pop('chosen')
        if 'seconds_in_all' in row:
            row['seconds_total'] = row.pop('seconds_in_all')
        if row['epochs'] == [None]:
            del row['epochs']
        for reference, gains in old['comparisons'].items():
            if name in gains:
                row[f'diff_vs_{name_of(reference)}'] = gains[name]
        rows.append(row)
    return rows


def suite_protocol(protocol: Json) -> Json:
    return {
        'trials': protocol['trials'],
        'training': training(protocol['schedule'], batch_size=protocol['batch_size']),
        **taken(protocol, 'width', 'sampler', 'device'),
    }


def suite_result(old: Json) -> Json:
    return {
        'kind': 'suite',
        'name': 'suite',
        'dataset': old['suite']['dataset'],
        'seeds': old['suite']['seeds'],
        'protocol': suite_protocol(old['suite']),
        'best': name_of(old['best']),
        'rows': suite_rows(old),
        'per_user': old['per_user'],
        'versions': old['versions'],
    }


def trained_row(old: Json, name: str, *without: str) -> Json:
    """A row of one metric; ``name`` is the key of its name."""
    row = {'name': name_of(old[name]), **{k: v for k, v in old.items() if k != name}}
    row = {KEYS.get(k, k): v for k, v in row.items() if k not in without}
    if 'trial' in row:
        row['best_params'] = row.pop('trial')
    if isinstance(row.get('validation'), list):
        row['validation'] = seeds_of(row['validation'])
    row['test'] = {METRIC: row['test']}
    return row


def distillation_result(old: Json, name: str) -> Json:
    rows = []
    for cell in old['losses'] if 'losses' in old else old['cells']:
        row = trained_row(cell, 'name' if 'losses' in old else 'distillation')
        start = name_of(row.pop('init', 'random'))
        if row['name'] == 'truncated teacher':
            start = row['name']
        row['start'] = start
        if 'difference' in row:
            row['diff_vs_baseline'] = row.pop('difference')
        rows.append(row)
    protocol = taken(old, 'trials', 'control_trials')
    if 'chosen_at' in old:
        protocol['tuned_width'] = old['chosen_at']
    rate = old['learning_rate']
    protocol['training'] = training(old['schedule'], learning_rate=rate)
    teacher = {
        'name': 'PromptMM',
        'width': old['teacher_width'],
        'test': {METRIC: old['teacher']},
    }
    more: Json = {'teachers': [teacher], 'rows': rows}
    if 'costs' in old:
        more['costs'] = [
            {
                'name': name_of(row['how']),
                **{k: v for k, v in row.items() if k != 'how'},
            }
            for row in old['costs']
        ]
    return head('distillation', name, old, protocol, **more)


def ensemble_result(old: Json, name: str) -> Json:
    teachers = []
    for row in old['teachers']:
        weights = [{name_of(k): v for k, v in w.items()} for w in row['weights']]
        teachers.append(
            {
                'name': name_of(row['name']),
                'width': row['width'],
                'weights': weights,
                'validation': row['val'],
                'test': {METRIC: row['test']},
            }
        )
    rate = old['learning_rate']
    protocol = taken(old, 'trials', 'teacher_width', 'filter_grid', 'ease_grid')
    protocol['training'] = training(old['schedule'], learning_rate=rate)
    for key, now in (('filter', 'GraphFilter'), ('ease', 'EASE')):
        if key in old:
            protocol[now] = old[key]
    if 'widths' in old:
        protocol['closed_form_widths'] = old['widths']
    if 'protocol' in old:
        seeds = old['protocol']['seeds']
        suite = {**suite_protocol(old['protocol']), 'seeds': seeds}
        protocol['suite_protocol'] = suite
        protocol['suite_params'] = {name_of(k): v for k, v in old['chosen'].items()}
    rows = [trained_row(row, 'name') for row in old['students']]
    return head('ensemble', name, old, protocol, teachers=teachers, rows=rows)


def ablation_result(old: Json) -> Json:
    rows = []
    for row in old['ablation']:
        out = trained_row(row, 'model', 'options', 'l2')
        out['best_params'] = {**row['options'], 'l2': row['l2']}
        rows.append(out)
    protocol = {
        'model': 'PromptMMPlus',
        'options': old['strengths'],
        'l2_factors': old['penalties'],
        'training': training(old['schedule']),
    }
    return head('ablation', 'ablation', old, protocol, rows=rows)


def missing_result(old: Json, name: str) -> Json:
    rows = []
    for row in old['missing']:
        out = trained_row(row, 'model', 'l2')
        rows.append({**out, 'best_params': {'l2': row['l2']}})
    protocol = {
        'corruption': 'missing',
        'corruption_seed': old['data_seed'],
        **taken(old, 'pattern', 'sizes', 'model', 'l2', 'teachers'),
        'training': _training_of(old),
    }
    return head('variants', name, old, protocol, rows=rows)


def noise_result(old: Json) -> Json:
    rows = [trained_row(row, 'model') for row in old['noise']]
    protocol = {
        'corruption': 'noise',
        'corruption_seed': old['data_seed'],
        **taken(old, 'sizes', 'teacher', 'trials', 'models'),
        'training': _training_of(old),
    }
    return head('variants', 'noise', old, protocol, rows=rows)


def _training_of(old: Json) -> Json:
    return training(old['schedule'], **taken(old, 'learning_rate', 'batch_size'))


def shortcuts_result(old: Json) -> Json:
    rows = []
    for row in old['shortcuts']:
        out = trained_row(row, 'way', 'model', 'learning_rate')
        out['group'] = name_of(row['model'])
        rows.append({**out, 'best_params': {'learning_rate': row['learning_rate']}})
    protocol = {
        'corruption': None,
        'learning_rates': {name_of(k): v for k, v in old['rates'].items()},
        'training': training(old['schedule']),
    }
    return head('variants', 'shortcuts', old, protocol, rows=rows)


def cold_result(old: Json) -> Json:
    rows = []
    for row in old['cold']:
        out = {'name': name_of(row['model']), 'best_params': {'l2': row['l2']}}
        out |= {'test_cold': row['cold'], 'test': row['all']}
        if 'over_control' in row:
            out['diff_vs_baseline'] = row['over_control']
        rows.append(out)
    protocol = {
        'trials': {'l2': old['l2']},
        **taken(old, 'note', 'sizes'),
        'training': training(old['schedule']),
    }
    cold_items = old['cold_items']
    return head('cold', 'cold', old, protocol, cold_items=cold_items, rows=rows)


def budget_results(old: Json) -> dict[str, Json]:
    """One result per data set."""
    return {
        f'budget-{part["dataset"]}': {
            'kind': 'budget',
            'name': 'budget',
            'dataset': part['dataset'],
            'protocol': {},
            'spearman': part['spearman'],
            **{size: _budget_part(part[size]) for size in ('small', 'large')},
            'rows': [
                {
                    'name': name_of(name),
                    **{
                        size: part[size]['models'][name]
                        for size in ('small', 'large')
                        if name in part[size]['models']
                    },
                }
                for name in dict.fromkeys(
                    [*part['large']['models'], *part['small']['models']]
                )
            ],
            'versions': old['versions'],
        }
        for part in old['budget']
    }


def _budget_part(part: Json) -> Json:
    seeds = part['suite']['seeds']
    return {
        'protocol': {**suite_protocol(part['suite']), 'seeds': seeds},
        'best': name_of(part['best']),
        'reference': part['reference'],
        'above': [name_of(name) for name in part['above']],
        'minutes': part['minutes'],
    }


def migrate(stem: str, old: Json) -> dict[str, Json]:
    """The results that a former file becomes, by the stems of their files."""
    kind, _, rest = stem.partition('-')
    if kind in ('tiktok', 'ml100k', 'synthetic'):
        return {f'main-{stem}': main_result(old)}
    if stem.startswith('mixture'):
        name = 'ensemble-suite' if stem.startswith('mixture-suite') else 'ensemble'
        data = old['setting']['dataset']
        return {f'{name}-{data}': ensemble_result(old, name)}
    if kind == 'missing':
        return {f'{stem}-synthetic': missing_result(old, stem)}
    if kind == 'noise':
        return {'noise-synthetic': noise_result(old)}
    if kind == 'budget':
        return budget_results(old)
    if kind in ('speed', 'scale'):
        return {stem: {'kind': kind, **old}}
    if kind in ('losses', 'widths'):
        return {stem: distillation_result(old, kind)}
    functions = {
        'suite': suite_result,
        'ablation': ablation_result,
        'shortcuts': shortcuts_result,
        'cold': cold_result,
    }
    assert rest
    return {stem: functions[kind](old)}


def numbers(value: Any) -> Counter[float]:
    """How often each number occurs in the values of a file."""
    if isinstance(value, bool):
        return Counter()
    if isinstance(value, int | float):
        return Counter([value])
    parts = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list):
        return Counter()
    return sum((numbers(part) for part in parts), Counter())


def check(old: Json, new: dict[str, Json]) -> None:
    """Raises unless both have the same numbers, each as often.

    Raises:
        ValueError: With the numbers that only one of them has.
    """
    before, after = numbers(old), numbers(list(new.values()))
    if before != after:
        raise ValueError(
            f'numbers must not change (only before: {before - after}, only after: '
            f'{after - before})'
        )


def migrate_file(path: Path, out: Path) -> list[Path]:
    """Migrates one file, checked, and the per-user values that it names."""
    old = json.loads(path.read_text())
    if 'kind' in old:
        raise ValueError(f"'{path}' must be a former result (it has a 'kind')")
    new = {stem: renamed(result) for stem, result in migrate(path.stem, old).items()}
    check(old, new)
    written = []
    for stem, result in new.items():
        check_result(result)
        written.append(out / f'{stem}.json')
        written[-1].write_text(json.dumps(result, indent=1) + '\n')
    if 'per_user' in old:
        with np.load(path.parent / old['per_user']) as tables:
            values = {name_of(name): tables[name] for name in tables}
        np.savez_compressed(out / old['per_user'], **values)
    return written


def main() -> None:
    old, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(old.glob('*.json')):
        print(path.name, '->', *(new.name for new in migrate_file(path, out)))
    for path in old.glob('*.png'):
        name = path.name
        if path.stem in ('missing', 'missing-modalities'):
            name = f'{path.stem}-synthetic.png'
        shutil.copyfile(path, out / name)


if __name__ == '__main__':
    main()
