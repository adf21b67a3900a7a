"""Integrals over (−1, 1)^d that are given only where rules of different kinds agree.

A rule sees a function at its points only, and two rules of one kind that miss the same narrow feature agree
on a wrong answer. So there are two kinds. *Deterministic*: in each dimension an even grid, or, where the grid
has not settled, Clenshaw and Curtis's rule on intervals that are halved until they do; along each line anew,
one dimension inside the other. *Random*: a Sobol sequence, scrambled at random several times, whose mean has
an error bar (owen1997scrambled). An answer needs two deterministic rules with different points that agree to
the tolerance, and a random one that does not contradict them and is fine enough to contradict a rule that
missed something. Both look where a first random search found that something happens, as VEGAS does
(lepage1978adaptive).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from ..estimators.costs import NotApplicable
from .lines import AROUND, Integrand, Lines, Nodes, even_grid, interpolate

T = TypeVar("T")

EVALUATIONS = 2**22  # of the cost that an answer may take, unless the caller says otherwise
MASS = 1e-7  # how far from 1 a density may integrate, and how much of it may lie where nothing is known
UNDERFLOW = -745.0  # exp of less is 0 in float64
FALSE_ALARM = 1e-6  # how often a random rule may contradict a right answer
FEWEST = 8  # points of a random rule
SCRAMBLES = 32  # random rules, whose spread is the error bar
KNOTS = 67  # pieces of each axis; no power of two, or Sobol points would fall into them too evenly
SEARCH_STEP = 0.01  # so that it finds jumps
EVENLY = 0.2  # of the pieces are equally long, whatever the search found
WITNESS = 0.2  # the widest error bar of a random rule, as a share of what may cancel
SEEN = 100  # points of random rules that must have met what the cost does
SHIFTS = (0.5, 0.13, 0.81)  # of deterministic rules, in units of their points' distance: two have to agree
CHUNK = 2**21  # numbers at once


def attempt(ask: Callable[[], T]) -> T:
    """The result of `ask`; `NotApplicable` if it cannot be had in float64, in which integrals are taken."""
    try:
        return ask()
    except NotImplementedError as error:
        raise NotApplicable(f"torch lacks a method that this takes: {error}") from error
    except RuntimeError as error:
        raise NotApplicable(
            f"it is computed in float64, where the cost or the density fails: {error}; if it holds float32 "
            "weights, .double() them"
        ) from error


class Sizes(NamedTuple):
    """How many points: of each round of the first search, of each random rule, at first, and of an even grid
    along each axis."""

    searched: int
    drawn: int
    even: int


THOROUGH = {1: Sizes(2**13, 2**11, 2**14), 2: Sizes(2**12, 2**11, 144), 3: Sizes(2**13, 2**13, 48)}


def sizes_for(dims: int, evaluations: int) -> Sizes:
    """The thorough sizes, or smaller ones, of which the budget leaves at least half for rules that have to
    settle.

    Raises `NotApplicable` where so few would tell nothing.
    """
    full = THOROUGH[dims]
    fixed = full.searched * (2 + dims) + full.drawn * SCRAMBLES + 2 * full.even**dims
    share = min(1.0, 2.0 ** math.floor(math.log2(max(evaluations, 1) / 2 / fixed)))
    even = 2 * int(full.even * share ** (1 / dims) / 2)
    sizes = Sizes(int(full.searched * share), int(full.drawn * share), even)
    if sizes.drawn < FEWEST:
        raise NotApplicable(
            f"{evaluations} evaluations of the cost for each element of q's batch are too few; ask for "
            "fewer elements at once, or raise `evaluations`"
        )
    return sizes


class Budget:
    """Counts evaluations of the cost, as many at each point as there are elements, and refuses more than
    `most`."""

    def __init__(self, integrand: Integrand, elements: int, most: int) -> None:
        self.integrand, self.elements, self.most, self.spent = integrand, elements, most, 0
        self.numbers = elements  # at each point, as far as known

    def __call__(self, at: Tensor) -> Tensor:
        if self.spent + len(at) * self.elements > self.most:
            raise NotApplicable(
                f"more than the {self.most} evaluations of the cost that the oracle may spend would be "
                "needed (its argument `evaluations`)"
            )
        self.spent += len(at) * self.elements
        parts = [self.integrand(part) for part in at.split(max(1, CHUNK // self.numbers))]
        self.numbers = max(self.elements, parts[0].shape[1])
        return torch.cat(parts)


# Where something happens


def search(integrand: Integrand, dims: int, count: int) -> tuple[list[Tensor], list[int]]:
    """Knots of each dimension between which about equally much happens, and the dimensions in order, the one
    along which the integrand varies most at the end."""
    knots = [torch.linspace(-1, 1, KNOTS + 1, dtype=torch.float64)] * dims
    for last in (False, True):  # first where something is, then, with points there, where it changes
        at, weight = _spread(_sobol(count, dims, seed=0), knots)
        values = integrand(at)
        present = _relative(values.abs() * weight[:, None])
        changes = [_change(integrand, at, axis, values) * weight if last else present for axis in range(dims)]
        knots = [_quantiles(at[:, i], present + change / change.sum()) for i, change in enumerate(changes)]
    rough = [float(change.sum()) for change in changes]
    return knots, sorted(range(dims), key=rough.__getitem__)


def _relative(values: Tensor) -> Tensor:
    """The shares (M,) of the points in K sums of `values` (M, K), on average."""
    return (values / values.sum(0).clamp_min(1e-300)).mean(1)


def _change(integrand: Integrand, at: Tensor, axis: int, values: Tensor) -> Tensor:
    """By how much K integrands change at a small step along an axis, on average, in units of their size:
    (M,)."""
    moved = at.clone()
    moved[:, axis] -= SEARCH_STEP * at[:, axis].sign()
    size = values.abs().sum(0)
    return ((integrand(moved) - values).abs() / size.where(size > 0, 1.0)).mean(1)


def _quantiles(at: Tensor, weight: Tensor) -> Tensor:
    """Knots of (−1, 1): a part of them even, the others where the weight is."""
    order = at.argsort()
    mass = weight[order].cumsum(0) / weight.sum().clamp_min(1e-300)
    place = torch.cat([at.new_tensor([-1.0]), at[order], at.new_tensor([1.0])])
    level = torch.cat([at.new_zeros(1), mass, at.new_ones(1)])
    level = (1 - EVENLY) * level + EVENLY * (place + 1) / 2
    return interpolate(torch.linspace(0, 1, KNOTS + 1, dtype=torch.float64), level, place)


# Random rules


def _sobol(count: int, dims: int, seed: int) -> Tensor:
    engine = torch.quasirandom.SobolEngine(dims, scramble=True, seed=seed)
    return engine.draw(count, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)


def random_rules(integrand: Integrand, knots: Sequence[Tensor], count: int) -> list[Nodes]:
    """`SCRAMBLES` independent rules of `count` points each, as many between any two knots."""
    points = torch.cat([_sobol(count, len(knots), seed=1 + k) for k in range(SCRAMBLES)])
    at, weight = _spread(points, knots)
    parts = (part.split(count) for part in (at, weight / count, integrand(at)))
    return [Nodes(*part) for part in zip(*parts, strict=True)]


def _spread(points: Tensor, knots: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Points (M, d) of (0, 1)^d, as many between any two knots, and the volume per volume there (M,)."""
    at, weight = torch.empty_like(points), torch.ones(len(points), dtype=torch.float64)
    for axis, edges in enumerate(knots):
        pieces = len(edges) - 1
        piece = (points[:, axis] * pieces).long().clamp(0, pieces - 1)
        width = edges.diff()[piece]
        weight = weight * width * pieces
        at[:, axis] = edges[piece] + (points[:, axis] * pieces - piece) * width
    return at, weight


# Agreement


class Problem(Protocol):
    """Numbers that are integrals: what the rules are guided by, and what is wanted."""

    dims: int
    elements: int  # independent problems, whose costs are evaluated at each point
    watched: slice  # of the integrands, those with the cost in them

    def rows(self, at: Tensor) -> Tensor:
        """The integrands (M, K) at points (M, dims), which decide where a rule needs more of them."""
        ...

    def numbers(self, nodes: Nodes) -> Tensor:
        """What is wanted (N,), by a rule."""
        ...

    def sizes(self, nodes: Nodes) -> Tensor:
        """About how large each number (N,) would be if nothing cancelled."""
        ...


def agreed(problem: Problem, tolerance: float, evaluations: int) -> tuple[Tensor, Tensor]:
    """The numbers (N,) of `problem`, to `tolerance` relative to their sizes (N,), and those, from at most
    `evaluations` of the cost.

    Raises `NotApplicable` where rules do not settle, or contradict each other.
    """
    counts = sizes_for(problem.dims, evaluations // problem.elements)
    integrand = Budget(problem.rows, problem.elements, evaluations)
    knots, order = search(integrand, problem.dims, counts.searched)
    rules = random_rules(integrand, knots, counts.drawn)
    whole = Nodes(*(torch.cat(parts) for parts in zip(*rules, strict=True)))
    scale = (whole.weight @ whole.values.abs()) / SCRAMBLES
    sizes = problem.sizes(Nodes(whole.at, whole.weight / SCRAMBLES, whole.values))
    if not (scale.isfinite().all() and sizes.isfinite().all()):
        raise NotApplicable("the expectation or its gradient is infinite")

    def deterministic() -> Iterator[Nodes]:
        yield from (even_grid(integrand, problem.dims, counts.even, shift) for shift in SHIFTS[:2])
        goal = tolerance / 4 * scale
        ways = [(AROUND, shift) for shift in SHIFTS[:2] if problem.dims > 1] + [(None, s) for s in SHIFTS]
        for around, shift in ways:
            yield Lines(integrand, knots, order, goal, shift, around).nodes()

    found: list[Tensor] = []
    for answer in map(problem.numbers, deterministic()):
        if any(((answer - other).abs() <= tolerance * sizes).all() for other in found):
            break
        found.append(answer)
    else:
        raise NotApplicable("rules of adaptive quadrature do not agree")

    count = counts.drawn
    while True:
        means = torch.stack([problem.numbers(rule) for rule in rules])
        error = _limit(len(sizes)) * means.std(0) / SCRAMBLES**0.5
        contradicted = ((answer - means.mean(0)).abs() > error + tolerance * sizes).any()
        if contradicted and count > counts.drawn:
            raise NotApplicable("adaptive quadrature and randomised quasi-Monte Carlo contradict each other")
        seen = _effective(rules, problem.watched)
        if (seen == 0).any():
            raise NotApplicable(
                f"the cost is 0 at all {integrand.spent} points, and what it is elsewhere counts"
            )
        if not contradicted and (error <= WITNESS * sizes).all() and (seen >= SEEN).all():
            return answer, sizes
        count *= 4  # few points are no witness, neither for nor against
        rules = random_rules(integrand, knots, count)


def _effective(rules: Sequence[Nodes], watched: slice) -> Tensor:
    """How many points make up what random rules see of some integrands: few, where only few have met it."""
    parts = torch.cat([(rule.weight[:, None] * rule.values[:, watched]).abs() for rule in rules])
    return parts.sum(0) ** 2 / (parts**2).sum(0).clamp_min(1e-300)


def _limit(numbers: int) -> float:
    """Student's t quantile for all numbers of an answer together."""
    from scipy.special import stdtrit

    return float(stdtrit(SCRAMBLES - 1, 1 - FALSE_ALARM / (2 * numbers)))
