"""One model with one choice of numbers: trained now or before, kept on disk."""

import hashlib
import json
import resource
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import HeteroData

from benchmarks.entry import Entry, Model, Params
from promptmm_pyg.data import INTERACTS, Split, fingerprint, modality_x_dict
from promptmm_pyg.evaluation import Evaluation, evaluate
from promptmm_pyg.ranking import ScoreFn
from promptmm_pyg.training import (
    Schedule,
    get_embeddings,
    load_state,
    normalized_adj_dict,
    save_state,
    train_teacher,
)

METRIC = 'Recall@20'
KS = (10, 20, 50)


@dataclass(frozen=True)
class Bench:
    """One data set, and how every model is trained on it."""

    dataset: str
    split: Split
    train: HeteroData  # That of the split, prepared.
    prompt_channels: int
    schedule: Schedule
    batch_size: int
    work: Path
    device: str = 'cpu'

    def outcome(self, entry: Entry, params: Params, seed: int) -> dict[str, Any]:
        """Validation value, cost and, of trained models, the best state's tables. The
        test positives are not read.
        """
        path = self.path(entry, params, seed)
        if not path.is_file():
            run = self._train if entry.trained else self._fit
            torch.manual_seed(seed)
            self._reset_peak()
            started = time.perf_counter()
            state = run(entry, params, seed)
            seconds = time.perf_counter() - started
            threads = torch.get_num_threads()
            about = {'seconds': seconds, 'threads': threads, **self._peak()}
            save_state(path, {**state, **about})
        return load_state(path)

    def _reset_peak(self) -> None:
        _reset_peak()
        if self.device != 'cpu':
            torch.cuda.reset_peak_memory_stats(self.device)

    def _peak(self) -> dict[str, float]:
        if self.device == 'cpu':
            return {'peak_mib': _peak_mib()}
        there = torch.cuda.max_memory_allocated(self.device) / 2**20
        return {'peak_mib': _peak_mib(), 'peak_gpu_mib': there}

    def test(self, entry: Entry, params: Params, seed: int) -> Evaluation:
        """What the test positives say of the state that was best on validation."""
        if not entry.trained:
            score = self._score(entry.make(self.train, params))
            return evaluate(score, self.split.test, ks=KS)
        state = self.outcome(entry, params, seed)
        if 'error' in state:
            raise RuntimeError(
                f'{entry.name} with {dict(params)} and seed {seed} has no state to '
                f'test: {state["error"]}'
            )
        return evaluate(state['x_dict'], self.split.test, ks=KS)

    def path(self, entry: Entry, params: Params, seed: int) -> Path:
        """Where an outcome is kept, named after every number it depends on."""
        key = [
            [self.dataset, _digest(self.split), self.prompt_channels],
            [entry.name, dict(params), seed],
            [self.schedule, self.batch_size],
        ]
        # What is in closed form stays on the CPU.
        if self.device != 'cpu' and entry.trained:
            key.append([self.device])
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        name = f'{self.dataset}-{entry.name}-{seed}-{digest}.safetensors'
        return self.work / 'suite' / name

    def _train(self, entry: Entry, params: Params, seed: int) -> dict[str, Any]:
        model = entry.make(self.train, params)
        assert isinstance(model, torch.nn.Module)
        model, train = model.to(self.device), self.train.clone().to(self.device)
        size = sum(p.numel() for p in model.parameters() if p.requires_grad)
        terms, weights = entry.objective(model, params)
        operators = normalized_adj_dict(train)
        try:
            history = train_teacher(
                model,
                train,
                self.split.val,
                inputs=(operators,),
                terms=terms,
                weights=weights,
                learning_rate=params['learning_rate'],
                batch_size=self.batch_size,
                seed=seed,
                schedule=self.schedule,
            )
        except FloatingPointError as error:
            # A choice that diverges is a trial like another, and the worst.
            return {'validation': 0.0, 'parameters': size, 'error': str(error)}
        times = [record['seconds'] for record in history.records]
        return {
            'validation': history.best_value,
            'parameters': size,
            'epoch': history.best_epoch,
            'seconds_per_epoch': sum(times) / len(times),
            'x_dict': {
                key: x.float().cpu()
                for key, x in get_embeddings(model, (operators,)).items()
            },
        }

    def _fit(self, entry: Entry, params: Params, seed: int) -> dict[str, Any]:  # noqa: ARG002
        score = self._score(entry.make(self.train, params))
        metrics = evaluate(score, self.split.val, ks=(20,)).metrics
        return {'validation': metrics[METRIC], 'parameters': 0}

    def _score(self, model: Model) -> dict[str, torch.Tensor] | ScoreFn:
        if isinstance(model, torch.nn.Module):
            return get_embeddings(model, (normalized_adj_dict(self.train),))
        return model.scores


def _digest(split: Split) -> str:
    """What was trained on and chosen by: interactions, features, validation."""
    digest = hashlib.sha256(fingerprint(split.train).encode())
    for name, x_dict in sorted(modality_x_dict(split.train).items()):
        for node_type, x in sorted(x_dict.items()):
            digest.update(f'{name} {node_type} {list(x.size())}'.encode())
            digest.update(x.contiguous().numpy().tobytes())
    digest.update(split.val[INTERACTS].edge_label_index.numpy().tobytes())
    return digest.hexdigest()


_STATUS, _CLEAR = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def _reset_peak() -> None:
    """Lets the peak of this process start anew, where the system can."""
    with suppress(OSError):
        _CLEAR.write_text('5')


def _peak_mib() -> float:
    """The most memory this process held since the reset, interpreter and data
    included; where the system cannot reset, since its start.
    """
    if _STATUS.exists():
        # Unlike `ru_maxrss`, knows nothing of the process that started this one.
        for line in _STATUS.read_text().splitlines():
            if line.startswith('VmHWM:'):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
