"""All values of discrete distributions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor
from torch.distributions import Distribution, Multinomial

from ..estimators.costs import NotApplicable
from ..estimators.families import kind, support, support_bounds, unwrap

MOST_VALUES, MOST_NUMBERS = 2**22, 2**25  # of a finite support: the most that fit into memory
# How many counts of an unbounded distribution are tried, until two agree.
COUNTS = (2**8, 2**12, 2**16, 2**20)


def values_of(q: Distribution) -> Tensor | None:
    """All values of a q with finite support, (M, *batch, *event), or None where it is not finite.

    Raises `NotApplicable` where they are too many.
    """
    base = unwrap(q)
    if isinstance(base, Multinomial):
        values = _compositions(base.total_count, base.event_shape[-1]).to(base.probs)
        values = values.view(len(values), *[1] * len(base.batch_shape), -1).expand(
            len(values), *base.batch_shape, -1
        )
    elif base.has_enumerate_support and not _uneven(base):
        values = base.enumerate_support()  # (K, *batch and independent axes, *event of one)
    else:
        bounds = support_bounds(base) or ({"lower_bound": 0, "upper_bound": 1} if _is_boolean(base) else {})
        if base.event_shape or len(bounds) < 2:
            return None
        values = _range(base, bounds)
    return _products(q, values)


def _is_boolean(base: Distribution) -> bool:
    return type(support(base)).__name__ == "_Boolean"


def _uneven(base: Distribution) -> bool:
    """Whether torch refuses to enumerate, since elements of the batch have supports of different sizes."""
    total = getattr(base, "total_count", None)
    return isinstance(total, Tensor) and total.numel() > 1 and bool((total != total.flatten()[0]).any())


def _range(base: Distribution, bounds: dict[str, Tensor | float]) -> Tensor:
    """From the lowest to the highest of all elements; those beyond an element's own end have no mass
    there."""
    low, high = (torch.as_tensor(bounds[k]).double() for k in ("lower_bound", "upper_bound"))
    count = int((high.max() - low.min()).item()) + 1
    if count > MOST_VALUES:
        raise NotApplicable(f"{kind(base)} has {count} values: too many to enumerate")
    values = low.min() + torch.arange(count, dtype=torch.float64, device=low.device)
    return values.view(-1, *[1] * len(base.batch_shape)).expand(count, *base.batch_shape)


def _products(q: Distribution, values: Tensor) -> Tensor:
    """Values (K, *batch and independent axes, *event of one) of one coordinate, all their combinations."""
    base = unwrap(q)
    own = values.ndim - 1 - len(base.event_shape)
    shared = len(q.batch_shape)
    dims = q.event_shape[: own - shared].numel()
    if values.numel() * len(values) ** (dims - 1) > MOST_NUMBERS or len(values) ** dims > MOST_VALUES:
        raise NotApplicable(
            f"q has {len(values)}^{dims} values per element of its batch: too many to enumerate"
        )
    flat = values.flatten(1 + shared, own).movedim(1 + shared, 0) if own > shared else values.unsqueeze(0)
    choice = torch.cartesian_prod(*[torch.arange(len(values))] * dims).view(-1, dims)
    z = torch.stack([flat[d][choice[:, d]] for d in range(dims)], dim=1 + shared)
    return z.reshape(len(choice), *q.batch_shape, *q.event_shape)


def _compositions(total: int, parts: int) -> Tensor:
    """All ways to write `total` as a sum of `parts` counts, in order: (M, parts)."""
    ways = math.comb(total + parts - 1, parts - 1)
    if ways > MOST_VALUES:
        raise NotApplicable(f"Multinomial has {ways} values: too many to enumerate")
    bars = torch.tensor(list(combinations(range(total + parts - 1), parts - 1))).view(ways, parts - 1)
    ends = torch.cat([torch.full((ways, 1), -1), bars, torch.full((ways, 1), total + parts - 1)], dim=1)
    return ends.diff(dim=1) - 1


def counts(q: Distribution) -> Iterator[Tensor]:
    """Ever more of the first values of a q of counts: (M, *batch, *event) each."""
    first = torch.as_tensor(support_bounds(unwrap(q)).get("lower_bound", 0)).double()
    shape = (*q.batch_shape, *q.event_shape)
    for size in COUNTS:
        z = torch.arange(size, dtype=torch.float64).view(-1, *[1] * len(shape)).to(first.device)
        yield (z + first).expand(size, *shape)
