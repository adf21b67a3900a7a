"""Deterministic rules over (−1, 1)^d: even grids, and lines that settle one inside the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

Integrand = Callable[[Tensor], Tensor]  # points (M, d) -> values (M, K)

INTERVALS = {1: 2048, 2: 64, 3: 16}  # of the innermost lines, that halving starts from ...
AROUND, OUTER_INTERVALS = 24, 6  # ... and points of an even grid, or intervals, of the lines around them
FINE, COARSE = 16, 4  # degrees of the rule on wide and on narrow intervals
NARROW, NARROWEST = 2.0**-9, 2.0**-46
GOLDEN = (math.sqrt(5) - 1) / 2


class Nodes(NamedTuple):
    """A rule: points `at` (M, d) and their weights (M,), with the integrand's `values` there (M, K)."""

    at: Tensor
    weight: Tensor
    values: Tensor

    def totals(self) -> Tensor:
        """The integrals, (K,)."""
        return self.weight @ self.values


def interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """The piecewise linear function through (knots, values), at x."""
    i = torch.searchsorted(knots, x, right=True).clamp(1, len(knots) - 1)
    width = (knots[i] - knots[i - 1]).clamp_min(1e-300)
    return values[i - 1] + (values[i] - values[i - 1]) * ((x - knots[i - 1]) / width).clamp(0, 1)


@cache
def clenshaw_curtis(degree: int) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes (degree + 1,) of (−1, 1), the weights of the rule, and of the one on every other node.

    Source: clenshaw1960method.
    """

    def weights(n: int) -> Tensor:
        k, j = torch.arange(n + 1.0).double(), torch.arange(1.0, n // 2 + 1).double()
        terms = torch.where(j == n / 2, 1.0, 2.0) / (4 * j**2 - 1) * (2 * math.pi * j * k[:, None] / n).cos()
        w = (1 - terms.sum(1)) * 2 / n
        w[[0, -1]] /= 2
        return w

    nodes = -(math.pi * torch.arange(degree + 1.0).double() / degree).cos()
    every_other = torch.zeros_like(nodes)
    every_other[::2] = weights(degree // 2)
    return nodes, weights(degree), every_other


def even_grid(integrand: Integrand, dims: int, count: int, shift: float) -> Nodes:
    """The trapezoidal rule, which converges faster than any power of the distance for smooth integrands that
    vanish at the ends (trefethen2014exponentially)."""
    at = torch.empty(1, 0, dtype=torch.float64)
    for _ in range(dims):
        # Lines differ in where their points begin, or they would all miss the same.
        begin = (shift + GOLDEN * torch.arange(len(at)).double()).remainder(1)
        line = -1 + 2 * (begin[:, None] + torch.arange(count).double()) / count
        at = torch.cat([at.repeat_interleave(count, 0), line.view(-1, 1)], dim=1)
    return Nodes(at, torch.full((len(at),), (2 / count) ** dims, dtype=torch.float64), integrand(at))


class Lines:
    """An integral as one integral inside the other, the innermost settled along each line of its own.

    Around them runs an even grid of `around` points along each axis, or, where that is None, all lines have
    to settle. `goal` (K,) is the error allowed to an interval of the outermost line; what has to settle
    inside another is held to a part of it, so that its errors do not act as noise. The innermost lines run
    along the last of `order`.
    """

    def __init__(
        self,
        integrand: Integrand,
        knots: Sequence[Tensor],
        order: Sequence[int],
        goal: Tensor,
        shift: float,
        around: int | None = None,
    ) -> None:
        self.integrand, self.goal, self.shift, self.dims = integrand, goal, shift, len(knots)
        self.around = around
        self.back = torch.tensor(order).argsort()  # to the places of the axes
        counts = [OUTER_INTERVALS] * (self.dims - 1) + [INTERVALS[self.dims]]
        self.starts = [_partition(knots[axis], n, shift) for axis, n in zip(order, counts, strict=True)]

    def nodes(self) -> Nodes:
        """The rule that settled."""
        return self._settle(torch.empty(1, 0, dtype=torch.float64)).nodes

    def _settle(self, prefix: Tensor) -> _Settled:
        """The integrals along the lines that begin with `prefix` (P, level)."""
        kept, lines = _Settled.none(len(prefix), len(self.goal)), torch.arange(len(prefix))
        if self.around and prefix.shape[1] < self.dims - 1:
            begin = (self.shift + GOLDEN * lines.double()).remainder(1)
            x = -1 + 2 * (begin[:, None] + torch.arange(self.around).double()) / self.around
            found = self._along(prefix, lines, x)
            kept.add(lines, torch.full(x.shape, 2 / self.around, dtype=torch.float64), lines >= 0, found)
        else:
            self._halve(prefix, lines, kept)
        return kept

    def _halve(self, prefix: Tensor, lines: Tensor, kept: _Settled) -> None:
        """Adaptive quadrature of the `lines` (L,): intervals that have not settled are halved."""
        edges = self.starts[prefix.shape[1]]
        line = lines.repeat_interleave(len(edges) - 1)
        low, high = edges[:-1].repeat(len(lines)), edges[1:].repeat(len(lines))
        while len(line):
            rest = []
            for chosen, degree in (((high - low) > NARROW, FINE), ((high - low) <= NARROW, COARSE)):
                unit, rule, coarse = clenshaw_curtis(degree)
                at, start, half = line[chosen], low[chosen], ((high - low) / 2)[chosen]
                if not len(at):
                    continue
                weight = half[:, None] * rule
                found = self._along(prefix, at, start[:, None] + half[:, None] * (1 + unit))
                settled = self._is_settled(found.values, rule - coarse, half, prefix) | (half < NARROWEST)
                kept.add(at, weight, settled, found)
                middle = (start + half)[~settled]
                rest += [
                    (at[~settled], start[~settled], middle),
                    (at[~settled], middle, high[chosen][~settled]),
                ]
            line, low, high = (torch.cat(parts) for parts in zip(*rest, strict=True))

    def _is_settled(self, values: Tensor, difference: Tensor, half: Tensor, prefix: Tensor) -> Tensor:
        """Whether two rules, of which `difference` (m,) is the difference, agree on each of I intervals."""
        error = half[:, None] * torch.einsum(
            "m,imk->ik", difference, values.view(len(half), -1, len(self.goal))
        )
        inside = min(prefix.shape[1], 1) if self.around else prefix.shape[1]
        return (error.abs() <= self.goal / 16**inside).all(1)

    def _along(self, prefix: Tensor, line: Tensor, x: Tensor) -> _Settled:
        """The integrals over what follows the points x (I, m) of the lines (I,)."""
        points = torch.cat([prefix[line].repeat_interleave(x.shape[1], 0), x.reshape(-1, 1)], dim=1)
        if points.shape[1] < self.dims:
            return self._settle(points)
        place = points[:, self.back]
        values = self.integrand(place)
        return _Settled(
            values, [torch.arange(len(place))], [Nodes(place, torch.ones(len(place)).double(), values)]
        )


class _Settled:
    """Integrals `values` (P, K) along lines, and the nodes of their rules, each with the line it belongs
    to."""

    def __init__(self, values: Tensor, owners: list[Tensor], kept: list[Nodes]) -> None:
        self.values, self.owners, self.kept = values, owners, kept

    @classmethod
    def none(cls, lines: int, integrals: int) -> _Settled:
        """Nothing yet."""
        return cls(torch.zeros(lines, integrals, dtype=torch.float64), [], [])

    @property
    def nodes(self) -> Nodes:
        """Those of all lines."""
        return Nodes(*(torch.cat(parts) for parts in zip(*self.kept, strict=True)))

    def add(self, line: Tensor, weight: Tensor, settled: Tensor, found: _Settled) -> None:
        """Add what has been `found` at points with `weight` (I, m) of the lines (I,), where it has
        settled."""
        count = weight.shape[1]
        sums = torch.einsum("im,imk->ik", weight, found.values.view(*weight.shape, -1))
        self.values.index_add_(0, line[settled], sums[settled])
        owner, nodes = torch.cat(found.owners), found.nodes
        keep = settled.repeat_interleave(count)[owner]
        by = owner[keep]
        self.owners.append(line.repeat_interleave(count)[by])
        self.kept.append(Nodes(nodes.at[keep], nodes.weight[keep] * weight.flatten()[by], nodes.values[keep]))


def _partition(knots: Tensor, count: int, shift: float) -> Tensor:
    """(−1, 1) in about `count` intervals, between any two of which lie as many knots."""
    place = (torch.arange(1, count, dtype=torch.float64) + shift - 0.5) / count * (len(knots) - 1)
    inner = interpolate(place, torch.arange(len(knots), dtype=torch.float64), knots)
    return torch.cat([inner.new_tensor([-1.0]), inner, inner.new_tensor([1.0])]).unique()
