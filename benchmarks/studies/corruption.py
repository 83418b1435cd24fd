"""Models on data with missing or wrong content, and what the prompt adds there."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch_geometric.data import HeteroData

from benchmarks.studies.main import TEACHER, hyperparameters
from promptmm_pyg._utils import check_choice
from promptmm_pyg.benchmark.config import Dataset, Params, grid
from promptmm_pyg.benchmark.entries import PROMPTMM, Arm, Entry, Variant
from promptmm_pyg.benchmark.experiments import BASELINE, Experiment, Variants
from promptmm_pyg.benchmark.report import (
    Result,
    interval,
    markdown,
    recall,
    save_plot,
    seeds_of,
    title,
)
from promptmm_pyg.benchmark.runner import METRIC, Bench
from promptmm_pyg.benchmark.stats import mean
from promptmm_pyg.data import (
    INTERACTS,
    ITEM,
    USER,
    Split,
    modality_mask_dict,
    modality_x_dict,
)
from promptmm_pyg.models import get_model
from promptmm_pyg.transforms import (
    AddBipartiteNorm,
    AddModalityICA,
    AddModalityPCA,
    AddRandomPrompt,
    ImputeFromNeighbors,
    StandardizeModalities,
)
from promptmm_pyg.transforms.features import is_standardized
from promptmm_pyg.transforms.prompt_start import with_prompt_start
from promptmm_pyg.viz.figure import new_axes

Pattern = Literal['items', 'modalities']
TITLES = {
    ('missing', 'items'): 'of items without content',
    ('missing', 'modalities'): 'of each modality missing',
    ('noise', 'items'): 'of items with wrong content',
}


def mask_content(
    data: HeteroData, share: float, seed: int, pattern: Pattern = 'items'
) -> HeteroData:
    """A copy in which content of a share of the items is missing: zeros, and false in
    the mask. With the same seed, a larger share contains the items of a smaller one.

    Args:
        data: Graph with features on items.
        share: Share of the items, in [0, 1].
        seed: Seed of the draw.
        pattern: ``'items'`` masks all modalities of the same items, ``'modalities'``
            draws the items of each modality separately. (default: ``'items'``)

    Raises:
        ValueError: If ``share`` or ``pattern`` does not fit.
    """
    _check_share(share)
    check_choice('pattern', pattern, ('items', 'modalities'))
    num_items = int(data[ITEM].num_nodes)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(num_items, generator=generator)
    out, masks = data.clone(), modality_mask_dict(data)
    for modality, x_dict in modality_x_dict(data).items():
        if ITEM in x_dict:
            hidden = order[: round(share * num_items)]
            every = torch.ones(num_items, dtype=torch.bool)
            mask = masks.get(modality, {}).get(ITEM, every)
            out[ITEM][f'x_{modality}'] = x_dict[ITEM].index_fill(0, hidden, 0.0)
            out[ITEM][f'mask_{modality}'] = mask.index_fill(0, hidden, False)
            if pattern == 'modalities':
                order = torch.randperm(num_items, generator=generator)
    return out


def missing_ratio(data: HeteroData) -> float:
    """The missing share of all pairs of item and modality."""
    masks = [mask[ITEM] for mask in modality_mask_dict(data).values()]
    return 1 - float(torch.stack(masks).float().mean()) if masks else 0.0


def swap_content(data: HeteroData, share: float, seed: int) -> HeteroData:
    """A copy in which a share of the items has the content of other items.

    Each modality of such an item, with its mask, is that of another item, drawn
    separately for each modality. Items are drawn without replacement, donors with.

    Args:
        data: Graph with features on items.
        share: Share of the items, in [0, 1].
        seed: Seed of the draw.

    Raises:
        ValueError: If ``share`` does not fit, or there is no other item.
    """
    _check_share(share)
    num_items = int(data[ITEM].num_nodes)
    if num_items < 2:
        raise ValueError(f"'data' requires at least two items (got {num_items})")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(num_items, generator=generator)
    noisy = order[: round(share * num_items)]
    out = data.clone()
    masks = modality_mask_dict(data)
    for modality, x_dict in modality_x_dict(data).items():
        steps = torch.randint(1, num_items, noisy.size(), generator=generator)
        donor = (noisy + steps) % num_items  # Never the item itself.
        tables = {f'x_{modality}': x_dict.get(ITEM)}
        tables[f'mask_{modality}'] = masks.get(modality, {}).get(ITEM)
        for name, table in tables.items():
            if table is not None:
                out[ITEM][name] = table.index_copy(0, noisy, table[donor])
    return out


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"'share' must be in [0, 1] (got {share})")


def prepare_imputed(data: HeteroData, prompt_channels: int) -> HeteroData:
    """The prepared graph with missing features imputed from neighbors, without masks:
    the prompt starts from the imputed features, too.
    """
    data = ImputeFromNeighbors()(StandardizeModalities()(data))
    for modality in modality_mask_dict(data):
        del data[ITEM][f'mask_{modality}']
    return AddModalityPCA(prompt_channels)(AddBipartiteNorm()(data))


@dataclass(frozen=True, kw_only=True)
class Corruption(Variants):
    """Variants of models, at several shares of items with corrupted content.

    With ``impute``, an arm has missing features imputed from neighbors.
    """

    keys: ClassVar[tuple[str, ...]] = (*Variants.keys, 'impute')
    corruption: str = 'missing'
    """``'missing'`` or ``'noise'``."""
    shares: tuple[float, ...] = (0.0,)
    pattern: str = 'items'
    corruption_seed: int = 0

    def check(self, dataset: Dataset, out: Path) -> None:
        super().check(dataset, out)
        check_choice('corruption', self.corruption, ('missing', 'noise'))
        check_choice('pattern', self.pattern, ('items', 'modalities'))

    def corrupted(self, data: HeteroData, share: float) -> HeteroData:
        """The training graph with the content of a share of the items corrupted."""
        if self.corruption == 'noise':
            return swap_content(data, share, self.corruption_seed)
        pattern: Any = self.pattern
        return mask_content(data, share, self.corruption_seed, pattern)

    def _variant(self, dataset: Dataset, share: float, arm: Params) -> Variant | None:
        if not get_model(arm['model']).reads_features:
            return None
        impute = arm.get('impute', False)
        key = [self.corruption, share, self.pattern, self.corruption_seed, impute]

        def make(split: Split) -> HeteroData:
            train = self.corrupted(split.train, share)
            if impute:
                return prepare_imputed(train, dataset.prompt_channels)
            return dataset.prepare(train)

        return Variant(key, make)

    def entries(self, bench: Bench) -> list[Entry]:
        entries = []
        for share in self.shares:
            factors = {'share': share}
            if self.corruption == 'missing':
                graph = self.corrupted(bench.split.train, share)
                factors['missing_ratio'] = missing_ratio(graph)
            variant = partial(self._variant, bench.dataset, share)
            entries += self.compared(bench, factors, variant)
        return entries

    @classmethod
    def table(cls, result: Result) -> str:
        """Variants by the share of corrupted items."""
        if 'share' not in result['rows'][0]:
            return super().table(result)
        rows = {(row['name'], row['share']): row for row in result['rows']}
        shares = sorted({share for _, share in rows})
        protocol = result['protocol']
        what = TITLES[protocol['corruption'], protocol.get('pattern', 'items')]
        first = result['rows'][0]['name'].partition(',')[0]
        head = ['model']
        for share in shares:
            head += [f'{share:.0%} {what}', f'vs. {first} (95 %)']
        body = []
        for name in dict.fromkeys(name for name, _ in rows):
            cells = [name]
            for share in shares:
                row = rows[name, share]
                cells += [recall(row), interval(row.get('diff_vs_baseline'))]
            body.append(cells)
        return '\n'.join([*title(result), *markdown(head, body)])

    @classmethod
    def plot(cls, result: Result, path: str | Path) -> None:
        """Test values by the share of corrupted items."""
        rows, protocol = result['rows'], result['protocol']
        names = list(dict.fromkeys(row['name'] for row in rows))
        axes = new_axes('plot', 7.0, 4.0)
        for number, name in enumerate(names):
            own = sorted(
                (row for row in rows if row['name'] == name), key=lambda r: r['share']
            )
            # Side by side, so that no error bar covers another.
            offset = 0.6 * (number - (len(names) - 1) / 2)
            axes.errorbar(
                [100 * row['share'] + offset for row in own],
                [row['test'][METRIC]['mean'] for row in own],
                [row['test'][METRIC]['std'] for row in own],
                label=name,
                capsize=3,
                color='0.5' if number == 0 else None,
                linestyle='-' if number else '--',
                marker='o' if number else None,
            )
        start = min(row.get('missing_ratio', 0.0) for row in rows)
        more = f' (at 0 %, {100 * start:.0f} % of the content is missing)'
        by_modality = protocol.get('pattern') == 'modalities'
        what = '% of each modality missing' if by_modality else '% of items corrupted'
        axes.set_xlabel(what + (more if start else ''))
        axes.set_ylabel(f'{METRIC}, {seeds_of(result)}')
        axes.set_title(f'{result["dataset"]}: {protocol["corruption"]} content')
        axes.legend()
        save_plot(axes, path)


def rescale_columns(data: HeteroData, seed: int = 0) -> HeteroData:
    """A copy whose standardized feature columns are multiplied by factors between 1/10
    and 10, log-uniformly drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    out = StandardizeModalities()(data.clone())
    for modality, x_dict in modality_x_dict(out).items():
        for node_type, x in x_dict.items():
            power = 2 * torch.rand(x.size(1), generator=generator) - 1
            out[node_type][f'x_{modality}'] = x * 10**power
    return out


def add_noise_columns(data: HeteroData, num: int = 1024, seed: int = 0) -> HeteroData:
    """A copy in which each modality has further columns of normal random numbers."""
    generator = torch.Generator().manual_seed(seed)
    out = data.clone()
    for modality, x_dict in modality_x_dict(data).items():
        for node_type, x in x_dict.items():
            noise = torch.randn(x.size(0), num, generator=generator)
            out[node_type][f'x_{modality}'] = torch.cat([x.float(), noise], dim=1)
    return out


def drop_interactions(
    data: HeteroData, share: float = 0.7, seed: int = 0
) -> HeteroData:
    """A copy without a share of the interactions, drawn at random."""
    _check_share(share)
    generator = torch.Generator().manual_seed(seed)
    out, edges = data.clone(), data[INTERACTS].edge_index
    order = torch.randperm(edges.size(1), generator=generator)
    kept = order[round(share * edges.size(1)) :].sort().values
    for name, value in data[INTERACTS].items():
        if value.size(-1) == edges.size(1):
            out[INTERACTS][name] = value[..., kept]
    return out


def add_interaction_start(data: HeteroData, channels: int) -> HeteroData:
    """Starts the prompt from the items' singular vectors of the interactions."""
    num_users, num_items = (int(data[key].num_nodes) for key in (USER, ITEM))
    user, item = data[INTERACTS].edge_index
    weight = (user.bincount()[user] * item.bincount()[item]).double().rsqrt().float()
    adj = torch.sparse_coo_tensor(
        torch.stack([user, item]), weight, (num_users, num_items), check_invariants=True
    )
    torch.manual_seed(0)
    # More than needed: the last vectors of a random search are inexact.
    rank = min(2 * channels + 10, num_users, num_items)
    _, values, right = torch.svd_lowrank(adj, rank, niter=6)
    return with_prompt_start(data, (right * values)[:, :channels])


CONDITIONS: dict[str, Callable[[HeteroData], HeteroData]] = {
    'as given': lambda data: data,
    'columns on other scales': rescale_columns,
    '1,024 noise columns': add_noise_columns,
    'half of the items with wrong content': partial(swap_content, share=0.5, seed=0),
    '30 % of the interactions': drop_interactions,
}
NO_PROMPT = 'no prompt'
STARTS: dict[str, Callable[[HeteroData, int], HeteroData]] = {
    NO_PROMPT: lambda data, _: data,
    'PCA': lambda data, channels: AddModalityPCA(channels)(data),
    'ICA': lambda data, channels: AddModalityICA(channels)(data),
    'random': lambda data, channels: AddRandomPrompt(channels)(data),
    'interactions': add_interaction_start,
}


@dataclass(frozen=True, kw_only=True)
class Prompts(Experiment):
    """PromptMM's teacher without a prompt and with prompts of several starts, on data
    in several conditions; and a student that has a prompt of its own.

    Every row is tuned by the same trials.
    """

    conditions: tuple[str, ...] = tuple(CONDITIONS)
    starts: tuple[str, ...] = tuple(STARTS)
    few_starts: tuple[str, ...] = (NO_PROMPT, 'PCA')
    """Starts under all conditions but the first."""
    l2: tuple[float, ...] = (0.3, 1.0)
    """Trials of the penalty, times the data set's."""

    def check(self, dataset: Dataset, out: Path) -> None:  # noqa: ARG002
        for condition in self.conditions:
            check_choice('conditions', condition, CONDITIONS)
        for start in (*self.starts, *self.few_starts):
            check_choice('starts', start, STARTS)
        check_choice(f'dataset.{dataset.name}.students', 'LightGCN', dataset.students)

    def entries(self, bench: Bench) -> list[Entry]:
        dataset = bench.dataset
        rows: list[Entry] = []
        params = hyperparameters(dataset, TEACHER)
        trials = grid({'l2': [factor * params['l2'] for factor in self.l2]})
        del params['l2']
        for condition in self.conditions:
            starts = self.few_starts if rows else self.starts
            references: dict[str, Entry] = {}
            for start in starts:
                arm = Arm(
                    TEACHER,
                    {**params, 'prompt': start != NO_PROMPT},
                    self.config(dataset),
                    variant=_condition(dataset, condition, start),
                )
                factors = {'condition': condition}
                row = Entry(start, arm, trials, factors=factors, references=references)
                references = references or {BASELINE: row}
                rows.append(row)
        return [*rows, *self._students(bench, rows[self.starts.index('PCA')])]

    def _students(self, bench: Bench, teacher: Entry) -> list[Entry]:
        """LightGCN, and the same with a prompt: PromptMM without encoders."""
        dataset = bench.dataset
        params = dict(dataset.students['LightGCN'])
        l2 = params.pop('l2')
        params.pop('baseline_l2', None)
        arm = Arm(
            'LightGCN',
            params,
            self.config(dataset),
            losses=PROMPTMM,
            teacher=bench.teacher(teacher.arm, bench.best_params(teacher)[0]),
            candidates=dataset.candidates,
        )
        own = {'modality_x_dict': {}, 'isolated_features': False}
        prompted = replace(arm, model=TEACHER, params={**params, **own})
        trials = grid({'l2': [factor * l2 for factor in self.l2]})
        factors = {'condition': 'student'}
        plain = Entry(NO_PROMPT, arm, trials, factors=factors)
        compared = {BASELINE: plain}
        return [plain, Entry('PCA', prompted, trials, None, None, factors, compared)]

    @classmethod
    def table(cls, result: Result) -> str:
        """Every start by condition, with its difference to no prompt."""
        rows = [
            [
                row['condition'],
                row['name'],
                f'{mean(row["validation"]):.4f}',
                recall(row),
                interval(row.get('diff_vs_baseline')),
            ]
            for row in result['rows']
        ]
        head = ['data', 'prompt', 'validation', METRIC, 'vs. no prompt (95 %)']
        return '\n'.join([*title(result), *markdown(head, rows)])


def _condition(dataset: Dataset, condition: str, start: str) -> Variant:
    def make(split: Split) -> HeteroData:
        data = CONDITIONS[condition](split.train)
        if not is_standardized(data):
            data = StandardizeModalities()(data)
        return STARTS[start](AddBipartiteNorm()(data), dataset.prompt_channels)

    return Variant([condition, start], make)
