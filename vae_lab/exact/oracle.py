"""The exact gradient of E_q[f(z)], where mathematics gives it.

The oracle `exact_gradient` differentiates the expectation under the integral,

    ∇ E_q[f(z)] = ∫ f(z) ∇q(z) dz,

so the cost itself need not have a derivative. The integral is a finite sum where q has finite support, an
even grid for smooth costs of normals, and adaptive quadrature for other distributions of one
variable. Each rule is refined until it no longer moves; where none applies or none settles, the answer
is `NotApplicable`, never a Monte Carlo value.

A rule sees the cost at its points only. What happens between them, such as a spike much narrower than 1/250
of a standard deviation, it cannot know of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Beta, Dirichlet, Distribution, MultivariateNormal, Normal
from torch.distributions import VonMises as _VonMises

from ..estimators.costs import CheckedCost, Cost, NotApplicable, Separable
from ..estimators.families import certain, kind, parameters, rebuild, unwrap
from .quadrature import chart, counts, edge, normal_grid, support

# Numbers of z in q's batch that some 10,000 points, or those of a grid in several dimensions, may repeat.
_MOST = {1: 4096, 2: 512, 3: 128}
# Deviations between the points of the grids for normals, by the number of dimensions, and how many counts are
# tried. The finest grid of one dimension need not reach far: if what it leaves out counts, the two disagree.
_NEAR = {0.004: 9.0}
_STEPS = {1: (0.02, 0.004), 2: (0.25, 0.125, 0.0625), 3: (0.5, 0.35, 0.25)}
_COUNTS = (2**8, 2**12, 2**16, 2**20)
UNDERFLOW = -745.0  # exp of less is 0 in float64

Gradient = dict[str, Tensor]
T = TypeVar("T")


def exact_gradient(cost: Cost, q: Distribution, tolerance: float = 1e-7) -> dict[str, Tensor]:
    """∇ E_q[cost(z)] with respect to each of `parameters(q)`: name -> float64 tensor of its shape.

    Covers: finite support (up to about four million points); Poisson and other counts of one variable;
    normals in up to three dimensions; any other continuous distribution of one variable whose support does
    not depend on its parameters; in any dimension a `Separable` cost under independent coordinates or a
    Dirichlet distribution. `tolerance` is the difference at which two rules agree, relative to each element
    of the gradient or, where that cancels, to what cancels; for smooth costs the error is near rounding.
    Elements of q's batch are independent problems.

    Raises `NotApplicable` where no rule applies or none reaches the tolerance, and `CostError`.

    >>> from vae_lab.estimators.costs import quadratic
    >>> q = Normal(torch.tensor(0.5), torch.tensor(2.0))
    >>> {name: round(g.item(), 6) for name, g in exact_gradient(quadratic(1.0), q).items()}
    {'loc': -1.0, 'scale': 4.0}
    """
    try:
        leaves = {name: p.detach().double().requires_grad_() for name, p in parameters(q).items()}
    except TypeError as error:
        raise NotApplicable(f"no exact gradient: {error}") from error

    term, build = _one_coordinate(cost, q)
    problem = _Problem(term, build, leaves, tolerance)
    gradient = problem.solved()
    if gradient is None:
        raise NotApplicable(
            f"no exact gradient for {kind(q)} with event shape {tuple(q.event_shape)} and "
            "this cost: beyond finite support it needs one dimension, a smooth cost of a normal in at most "
            "three, or costs.Separable(term)"
        )
    if not all(g.isfinite().all() for g in gradient.values()):
        raise NotApplicable("no exact gradient: the expectation or its gradient is infinite")
    return gradient


def _one_coordinate(cost: Cost, q: Distribution) -> tuple[Cost, Callable[..., Distribution]]:
    """The cost of one coordinate, and how to build its distribution, where the cost is a sum over coordinates
    that have distributions of their own; else `cost`, and how to build q."""
    alone = unwrap(q).batch_shape == (*q.batch_shape, *q.event_shape) or isinstance(q, Dirichlet)
    if not (isinstance(cost, Separable) and len(q.event_shape) == 1 and alone):
        return cost, partial(rebuild, q)

    def build(**values: Tensor) -> Distribution:
        whole = rebuild(q, **values)
        if isinstance(whole, Dirichlet):  # each coordinate is a beta variable
            alpha = whole.concentration
            return Beta(alpha, alpha.sum(-1, keepdim=True) - alpha, validate_args=False)
        return unwrap(whole)

    return cost.term, build


class _Problem:
    """∇ E_q[cost] with respect to `leaves`, from which `build` makes q, and rules to integrate it by."""

    def __init__(
        self, cost: Cost, build: Callable[..., Distribution], leaves: Gradient, tolerance: float
    ) -> None:
        self.build, self.leaves, self.tolerance = build, leaves, tolerance
        self.q = build(**{name: leaf.detach() for name, leaf in leaves.items()})
        self.cost = CheckedCost(cost, len(self.q.event_shape))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.attempt(lambda: self.cost.probe(*self.q.sample(torch.Size((2, 8)))))

    def solved(self) -> Gradient | None:
        """The gradient by the rule for this q, or None if no rule applies or the rule does not settle."""
        q, base, dims = self.q, unwrap(self.q), self.q.event_shape.numel()
        if why := certain(q):
            raise NotApplicable(f"no exact gradient: {why}")
        if base.has_enumerate_support:
            return self.weighted(support(q))
        if q.batch_shape.numel() * dims > _MOST.get(dims, math.inf):
            raise NotApplicable(
                f"no exact gradient: q's batch has {q.batch_shape.numel()} elements, too many for memory "
                "at once; ask for fewer"
            )
        if isinstance(base, Normal | MultivariateNormal) and dims <= 3:
            gradient = self.refined(lambda step: normal_grid(q, step, _NEAR.get(step)), _STEPS[dims])
            if gradient is not None:
                return gradient
        if dims != 1:
            return None
        if base.support.is_discrete:
            return self.refined(lambda size: (counts(q, int(size)), None), _COUNTS)
        return _Line(self).gradient()

    def evaluate(self, z: Tensor, spare: Tensor) -> tuple[Tensor, Tensor]:
        """log q and the cost at z. Where log q underflows no draw would ever be, and the cost may be infinite
        or NaN: there it is the cost of `spare`."""
        with torch.no_grad():
            log_q = self.q.log_prob(z)
            near = (log_q > UNDERFLOW)[(..., *[None] * len(self.q.event_shape))]
            return log_q, self.attempt(lambda: self.cost(torch.where(near, z, spare)))

    @staticmethod
    def attempt(ask: Callable[[], T]) -> T:
        """The result of `ask`; `NotApplicable` if the cost cannot be evaluated in float64."""
        try:
            return ask()
        except RuntimeError as error:
            raise NotApplicable(
                f"no exact gradient: it is computed in float64, where the cost fails: {error}; "
                "if it holds float32 weights, .double() them"
            ) from error

    def each(self, z: Tensor, factor: Tensor) -> list[Tensor]:
        """factor_m ∇log q(z_m) for each of M points: one tensor (M, *shape) for each leaf."""
        copies = {
            name: leaf.detach().expand(len(z), *leaf.shape).clone().requires_grad_()
            for name, leaf in self.leaves.items()
        }
        # Infinite where q has no mass, and then of no weight.
        total = (factor * self.build(**copies).log_prob(z).nan_to_num(neginf=0.0)).sum()
        return list(
            torch.autograd.grad(total, list(copies.values()), allow_unused=True, materialize_grads=True)
        )

    def weighted(self, z: Tensor, weights: Tensor | None = None) -> Gradient:
        """Σ_m w_m f(z_m) ∇log q(z_m), the weights being q's own probabilities where None."""
        factor = self.factor(z, weights)
        total = (factor * self.build(**self.leaves).log_prob(z).nan_to_num(neginf=0.0)).sum()
        leaves = list(self.leaves.values())
        gradients = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
        return dict(zip(self.leaves, gradients, strict=True))

    def factor(self, z: Tensor, weights: Tensor | None) -> Tensor:
        log_q, f = self.evaluate(z, z[:1])
        return f * (log_q.exp() if weights is None else weights.view(-1, *[1] * (f.ndim - 1)))

    def refined(
        self, rule: Callable[[float], tuple[Tensor, Tensor | None]], sizes: tuple[float, ...]
    ) -> Gradient | None:
        """The gradient by the first rule that agrees with a coarser one, or None."""
        last: Gradient | None = None
        for size in sizes:
            z, weights = rule(size)
            if weights is None and (self.q.log_prob(z).exp().sum(0) - 1).abs().max() > 1e-7:
                continue  # these counts miss part of q
            gradient = self.weighted(z, weights)
            if last is None:  # all points apart, of the coarsest rule only
                terms = [term.abs() for term in self.each(z, self.factor(z, weights))]
                masses = [term.sum(0) for term in terms]  # of what may cancel
                outer = slice(-2, None) if weights is None else edge(weights, self.q.event_shape.numel())
                if any(
                    (term[outer].sum(0) > self.tolerance * mass).any()
                    for term, mass in zip(terms, masses, strict=True)
                ):
                    return None  # the cost grows so fast that what lies beyond the points counts
            elif all(
                # Where all of it cancels, rounding is left.
                ((g - last[name]).abs() <= self.tolerance * g.abs() + 1e-12 * mass).all()
                for (name, g), mass in zip(gradient.items(), masses, strict=True)
            ):
                return gradient
            last = gradient
        return None


class _Line:
    """∫ q and ∫ f ∇q over the line of one variable, by adaptive Gauss–Kronrod quadrature along the chart of
    its support: all elements of q's batch, and all parameters, at once."""

    EVEN = 4001  # evenly spaced points, for the size of each integral and against what adaptive points miss
    NEAR_EVEN = 0.05  # how far, in units of that size, the even and the adaptive points may be apart
    SKEWS = (0.0, 0.17, -0.23)  # partitions of the line: incommensurate shifts, two of which have to agree
    SHARE = 1e-4  # of the tolerance, which the rule is asked for: its own estimate of its error is optimistic
    SUBDIVISIONS = 500
    MASS = 1e-7  # how far from 1 a density may integrate

    def __init__(self, problem: _Problem) -> None:
        self.problem, self.chart = problem, chart(problem.q)
        self.device = next(iter(problem.leaves.values())).device
        self.spare = self.chart.place(torch.zeros((), dtype=torch.float64, device=self.device))[0]

    def along(self, u: Tensor) -> Tensor:
        """Density and f ∇density with respect to the chart's coordinate: (M,) -> (M, numbers) on the CPU."""
        batch, event = self.problem.q.batch_shape, self.problem.q.event_shape
        z, stretch = self.chart.place(u.to(self.device).view(-1, *[1] * len(batch + event)))
        z, stretch = (a.expand(len(u), *batch, *event) for a in (z, stretch))
        log_q, f = self.problem.evaluate(z, self.spare)
        density = log_q.exp() * stretch.reshape(log_q.shape)
        parts = [density, *self.problem.each(z, f * density)]
        return torch.cat([part.reshape(len(u), -1) for part in parts], dim=1).nan_to_num(0.0).cpu()

    def integrand(self, points: np.ndarray, skew: float) -> np.ndarray:
        """The same from (−1, 1), with most of the points near the middle, so that none starts by missing
        q."""
        v = torch.as_tensor(points)
        t = v + skew * (1 - v**2)
        reach = torch.full_like(t, self.chart.high).masked_fill_(t < 0, -self.chart.low)
        return (self.along((reach * t**3).squeeze(1)) * 3 * reach * t**2 * (1 - 2 * skew * v)).numpy()

    def beyond(self, size: Tensor) -> float:
        """What lies beyond the ends of the chart, from how fast the integrand falls there, in units of
        `size`."""
        if isinstance(unwrap(self.problem.q), _VonMises):  # a circle has no ends
            return 0.0
        ends = torch.tensor([self.chart.low, self.chart.high], dtype=torch.float64)
        last, before = (self.along(u).abs() / size for u in (ends, ends - ends.sign()))
        return float((last / (before / last).log().clamp_min(0)).nan_to_num(0.0, posinf=math.inf).max())

    def gradient(self) -> Gradient:
        from scipy.integrate import cubature

        name, count = kind(self.problem.q), self.problem.q.batch_shape.numel()
        tolerance = self.problem.tolerance
        # Each number is measured by its own size, roughly known from the even points.
        rough = torch.as_tensor(self.integrand(np.linspace(-1, 1, self.EVEN)[:, None], 0.0)) * 2
        size = rough.abs().mean(0)
        size = size.where(size > 0, 1.0)
        rough, beyond = rough.mean(0) / size, self.beyond(size)
        if beyond == math.inf or not size.isfinite().all():
            raise NotApplicable(
                f"no exact gradient: {name} has too heavy a tail for this cost, "
                "whose expectation or its gradient is infinite, or torch's density fails far out"
            )

        def scaled(points: np.ndarray, skew: float) -> np.ndarray:
            return self.integrand(points, skew) / size.numpy()

        # The rule's own estimate of its error misses a jump close to the end of an interval, so two
        # partitions have to agree.
        found: list[Tensor] = []
        goal = tolerance * self.SHARE
        options = {"rtol": goal, "atol": goal, "max_subdivisions": self.SUBDIVISIONS}
        for skew in self.SKEWS:
            values = torch.as_tensor(cubature(scaled, [-1.0], [1.0], args=(skew,), **options).estimate)
            mass, gradient = (values * size).split([count, len(values) - count])
            # A narrow feature that the rule's first points miss shows in the even ones.
            whole = (mass - 1).abs().max() < self.MASS and beyond <= tolerance
            whole = whole and (values - rough).abs().max() < self.NEAR_EVEN
            if whole and any((values - other).abs().max() <= tolerance for other in found):
                return self.apart(gradient)
            found.append(values)
        raise NotApplicable(
            f"no exact gradient: quadrature of {name} with this cost does not "
            f"settle (the density integrates to {float(mass[(mass - 1).abs().argmax()]):.9f}, and up to "
            f"{beyond:.0e} of the integral is out of reach)"
        )

    def apart(self, gradient: Tensor) -> Gradient:
        """The numbers of all parameters, one after the other, as one tensor for each."""
        parts = gradient.split([leaf.numel() for leaf in self.problem.leaves.values()])
        pairs = zip(self.problem.leaves.items(), parts, strict=True)
        return {name: part.view_as(leaf).to(self.device) for (name, leaf), part in pairs}
