"""What is wrong, or merely odd, with one modality's features."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

Found = tuple[Literal['error', 'warning'], str, str]  # level, problem, fix


def find_in_modality(x: object, mask: object, num_nodes: int) -> list[Found]:
    """Findings on features ``[num_nodes, width]`` and their mask."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() != 2:
        fix = "Build the graph with 'build_graph'"
        return [('error', 'is no matrix of floating point numbers', fix)]
    if x.size(0) != num_nodes:
        problem = f'has {x.size(0)} rows for {num_nodes} nodes'
        return [('error', problem, 'Give each node a row, in the order of the nodes')]
    if mask is not None and not _is_mask(mask, num_nodes):
        problem = f'has a mask that is not boolean of shape [{num_nodes}]'
        return [('error', problem, 'Mark each row as there or not')]
    bad = int((~x.isfinite().all(dim=-1)).sum())
    if bad:
        fix = 'Set those rows to zero, and to false in the mask'
        return [('error', f'holds NaN or infinity in {bad} rows', fix)]
    return list(_oddities(x, mask if isinstance(mask, Tensor) else None))


def _is_mask(mask: object, num_nodes: int) -> bool:
    return (
        isinstance(mask, Tensor)
        and mask.dtype == torch.bool
        and mask.size() == (num_nodes,)
    )


def _oddities(x: Tensor, mask: Tensor | None) -> Iterator[Found]:
    present = x if mask is None else x[mask]
    if present.numel() == 0:
        yield 'warning', 'has no row that is present', 'Leave the modality out'
        return
    zero = ~present.any(dim=-1)
    if bool(zero.any()):
        yield (
            'warning',
            f'holds {int(zero.sum())} rows of zeros that no mask marks as missing',
            "Set them to false in a mask ('masks' of the readers does)",
        )
    rows = present[~zero]
    repeated = rows.size(0) - _row_hashes(rows).unique().numel()
    if repeated:
        yield (
            'warning',
            f'holds {repeated} rows that repeat another row',
            'Placeholders (one picture for all that lack one) belong in a mask',
        )
    same = (present == present[0]).all(dim=0)
    if float((present == 0).float().mean()) > 0.5:
        # Counts, classes, hashed words: one that nobody has is to be expected.
        same &= present[0] != 0
    constant = int(same.sum())
    if constant and present.size(0) > 1:
        yield (
            'warning',
            f'holds {constant} constant columns of {x.size(1)}',
            'They tell nothing apart: leave them out',
        )


def _row_hashes(x: Tensor) -> Tensor:
    """Numbers ``[N]`` that are equal for equal rows and else, for 64 bits,
    different; whole-number arithmetic, so the order of summing is no matter.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(
        torch.iinfo(torch.long).max, (x.size(1),), generator=generator
    ).to(x.device)
    parts = [
        (part.float().contiguous().view(torch.int32).long() * weight).sum(dim=-1)
        for part in x.split(8192)
    ]
    return torch.cat(parts) if parts else weight[:0]
