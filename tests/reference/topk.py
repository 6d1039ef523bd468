"""The greatest numbers of a row, by a full stable sort."""

import torch
from torch import Tensor


def order(row: Tensor) -> Tensor:
    """Indices of a row from its greatest number down: NaN first, equal numbers by index. torch's sort knows
    NaN as the greatest and -0.0 as equal to 0.0, and a stable one keeps the order of equal numbers."""
    return row.float().sort(dim=-1, descending=True, stable=True).indices


def topk(row: Tensor, k: int, *, sorted: bool) -> tuple[Tensor, Tensor]:
    """Values and indices of the `k` greatest numbers along the last axis."""
    indices = order(row)[..., :k]
    if not sorted:
        indices = indices.sort(dim=-1).values
    return row.gather(-1, indices), indices


def topp(row: Tensor, p: float, floor: int, cap: int) -> Tensor:
    """Indices, ascending, of the fewest numbers of a row whose sum is at least `p` of all: sums in float64,
    so for weights that have few bits."""
    by_size = order(row)
    mass = row.double()[by_size].cumsum(0)
    wanted = p * float(row.double().sum())
    count = 0 if wanted <= 0 else int((mass < wanted).sum()) + 1
    count = min(max(count, floor), cap, len(row))
    return by_size[:count].sort().values


def product(a: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` greatest of all sums of a row's pair of tables (Lample et al. 2019), by index."""
    return topk((a.float()[..., :, None] + b.float()[..., None, :]).flatten(-2), k, sorted=False)


def tucker(a: Tensor, b: Tensor, core: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` greatest of all ``a[:, i] @ core @ b[:, j]`` (Huang et al. 2024), in float64, by index."""
    grid = torch.einsum("...ri,...rs,...sj->...ij", a.double(), core.double(), b.double())
    return topk(grid.flatten(-2).float(), k, sorted=False)


def blocks(row: Tensor, block: int, k: int) -> tuple[Tensor, Tensor]:
    """The `k` blocks of a row with the greatest maximum, by index."""
    maxima = torch.stack([part.max() for part in row.split(block)])
    return topk(maxima, k, sorted=False)
