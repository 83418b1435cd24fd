"""A suite on a smaller budget beside the one in the output folder; trains nothing."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from promptmm_pyg.benchmark.config import Dataset
from promptmm_pyg.benchmark.experiments import (
    Experiment,
    suite_minutes,
    suite_reference,
)
from promptmm_pyg.benchmark.report import Result, markdown, mean_std
from promptmm_pyg.benchmark.result import load_result, result_path, rows_by_name
from promptmm_pyg.benchmark.runner import METRIC
from promptmm_pyg.benchmark.stats import mean

LEVEL = 0.05  # Of significance.


@dataclass(frozen=True, kw_only=True)
class Budget(Experiment):
    """A suite on a smaller budget beside the one in the output folder."""

    small: str = ''
    """Folder of the suite's results on the smaller budget."""
    level: float = LEVEL

    def check(self, dataset: Dataset, out: Path) -> None:
        for folder in (Path(self.small), out):
            path = result_path(folder, 'suite', dataset.name)
            if not path.is_file():
                raise ValueError(
                    f"'small' must be a folder with results of the suite, as '{out}' "
                    f"(got no '{path}')"
                )

    def bench(self, *args: Any) -> None:
        """Nothing is trained."""

    def run(self, bench: None, dataset: Dataset, out: Path) -> dict[str, Any]:  # noqa: ARG002
        from scipy.stats import spearmanr

        results = {
            size: load_result(result_path(folder, 'suite', dataset.name))
            for size, folder in (('small', Path(self.small)), ('large', out))
        }
        rows = {size: rows_by_name(result) for size, result in results.items()}
        names = [name for name in rows['large'] if name in rows['small']]
        if len(names) < 2:
            raise ValueError(
                f"'small' and the large budget must have two models in common (got "
                f'{names}). Run the suite with the same models'
            )
        test = {
            size: [mean(own[name]['test'][METRIC]) for name in names]
            for size, own in rows.items()
        }
        return {
            'protocol': asdict(self),
            'spearman': float(spearmanr(test['small'], test['large']).statistic),
            **{size: self._summary(result) for size, result in results.items()},
            'rows': [
                {
                    'name': name,
                    **{
                        size: {
                            'validation': own[name]['validation'],
                            'test': own[name]['test'][METRIC],
                        }
                        for size, own in rows.items()
                        if name in own
                    },
                }
                for name in dict.fromkeys([*rows['large'], *rows['small']])
            ],
        }

    def _summary(self, result: Result) -> dict[str, Any]:
        reference = suite_reference(result)
        key = f'diff_vs_{reference}'
        return {
            'protocol': {**result['protocol'], 'seeds': result['seeds']},
            'best': result['best'],
            'reference': reference,
            'above': [
                row['name']
                for row in result['rows']
                if key in row
                and row[key]['difference'] > 0
                and row[key]['holm_p'] < self.level
            ],
            'minutes': suite_minutes(result),
        }

    @classmethod
    def table(cls, result: Result) -> str:
        """Every model under both budgets, sorted by the larger one's validation."""
        small, large = result['small'], result['large']
        title = (
            f'**{result["dataset"]}**, test {METRIC}, mean ± standard deviation of '
            f'{len(small["protocol"]["seeds"])} and {len(large["protocol"]["seeds"])} '
            f'seeds; marked: above {large["reference"]}, Holm p below '
            f'{result["protocol"].get("level", LEVEL)}. Rank correlation of the two '
            f'columns: {result["spearman"]:.2f}'
        )
        both = [row for row in result['rows'] if 'small' in row and 'large' in row]
        both.sort(key=lambda row: -mean(row['large']['validation']))
        rows = [
            [row['name']]
            + [
                mean_std(row[size]['test']) + ' *' * (row['name'] in part['above'])
                for size, part in (('small', small), ('large', large))
            ]
            for row in both
        ]
        head = ['model', _budget(small), _budget(large)]
        return '\n'.join([title, '', *markdown(head, rows)])


def _budget(part: Mapping[str, Any]) -> str:
    protocol, minutes = part['protocol'], part['minutes']
    cost = '' if minutes is None else f', {minutes:.0f} min of trainings'
    patience = protocol['training']['patience']
    return f'{protocol["trials"]} trials, patience {patience}{cost}'
