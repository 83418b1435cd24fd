"""What ``--dry-run`` reports, as text."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from promptmm_pyg.cli.machine import (
    available_memory,
    bytes_text,
    peak_memory,
    seconds_text,
)
from promptmm_pyg.cli.models import Prepared
from promptmm_pyg.data import INTERACTS, ITEM, USER, modality_x_dict


class Cost(NamedTuple):
    """What a few steps cost."""

    name: str
    num_parameters: int
    parameter_bytes: int
    seconds_a_step: float
    steps_an_epoch: int
    seconds_a_validation: float

    def epochs_seconds(self, epochs: int, validate_every: int) -> float:
        """The time that so many epochs would take."""
        training = epochs * self.steps_an_epoch * self.seconds_a_step
        return training + -(-epochs // validate_every) * self.seconds_a_validation


def report(costs: list[Cost], schedule: Mapping[str, Any], data: Prepared) -> str:
    """What was measured and what follows from it, as text."""
    every, epochs = schedule['validate_every'], schedule['epochs']
    users, items = data.train[USER].num_nodes, data.train[ITEM].num_nodes
    interactions = data.train[INTERACTS].edge_index.size(1)
    lines = [f'data: {users} users, {items} items, {interactions} interactions']
    for cost in costs:
        epoch = cost.epochs_seconds(every, every) / every
        lines += [
            f'{cost.name}: {cost.num_parameters:,} parameters '
            f'({bytes_text(cost.parameter_bytes)})',
            f'  {cost.steps_an_epoch} steps an epoch of '
            f'{seconds_text(cost.seconds_a_step)}, a validation '
            f'{seconds_text(cost.seconds_a_validation)}: about {seconds_text(epoch)} '
            f'an epoch',
        ]
    least = min(epochs, (schedule['patience'] + 1) * every)
    low, high = (
        sum(cost.epochs_seconds(number, every) for cost in costs)
        for number in (least, epochs)
    )
    each = ' each' if len(costs) > 1 else ''
    if least < epochs:
        lines.append(
            f'time: {seconds_text(low)} to {seconds_text(high)}: from {least} epochs'
            f'{each}, the earliest that --patience ends training, to all {epochs}'
        )
    else:
        lines.append(f'time: {seconds_text(high)} for {epochs} epochs{each}')
    return '\n'.join([*lines, *_memory(costs, data), 'nothing was written'])


def _memory(costs: list[Cost], data: Prepared) -> list[str]:
    features = sum(
        x.nbytes for of in modality_x_dict(data.val).values() for x in of.values()
    )
    largest = max(cost.parameter_bytes for cost in costs)
    # The best state so far, which these steps did not yet keep.
    kept = sum(cost.parameter_bytes for cost in costs)
    lines = []
    peak = peak_memory()
    if peak is not None:
        lines.append(
            f'memory: about {bytes_text(peak + kept)} at most: {bytes_text(peak)} '
            f'measured, {bytes_text(kept)} for the best state'
        )
    lines.append(
        f'  in it features {bytes_text(features)}, parameters with gradients '
        f"and the optimizer's moments {bytes_text(4 * largest)}"
    )
    where = data.train[INTERACTS].edge_index.device
    if where.type == 'cuda':
        most = torch.cuda.max_memory_allocated(where)
        there = torch.cuda.get_device_properties(where).total_memory
        lines.append(f'  on the GPU {bytes_text(most)} of {bytes_text(there)}')
    free = available_memory()
    if free is not None:
        lines.append(f'  free now: {bytes_text(free)}')
    return lines
