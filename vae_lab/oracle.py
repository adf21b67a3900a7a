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
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Beta, Dirichlet, Distribution, MultivariateNormal, Normal
from torch.distributions import VonMises as _VonMises

from .costs import CheckedCost, Cost, NotApplicable, Separable
from .distributions import (
    certain,
    moving_with,
    parameters,
    rebuild,
    reparameterize,
    support_bounds,
    unwrap,
)


def exact_gradient(cost: Cost, q: Distribution, tolerance: float = 1e-7) -> dict[str, Tensor]:
    """∇ E_q[cost(z)] with respect to each of `parameters(q)`: name -> float64 tensor of its shape.

    Covers: finite support (up to about four million points); Poisson and other counts of one variable;
    normals in up to three dimensions; any other continuous distribution of one variable whose support does
    not depend on its parameters; in any dimension a `Separable` cost under independent coordinates or a
    Dirichlet distribution. `tolerance` is the difference at which two rules agree, relative to each element
    of the gradient or, where that cancels, to what cancels; for smooth costs the error is near rounding.
    Elements of q's batch are independent problems.

    Raises `NotApplicable` where no rule applies or none reaches the tolerance, and `CostError`.

    >>> from vae_lab.costs import quadratic
    >>> q = Normal(torch.tensor(0.5), torch.tensor(2.0))
    >>> {name: round(g.item(), 6) for name, g in exact_gradient(quadratic(1.0), q).items()}
    {'loc': -1.0, 'scale': 4.0}
    """
    try:
        leaves = {name: p.detach().double().requires_grad_() for name, p in parameters(q).items()}
    except TypeError as error:
        raise NotApplicable(f"no exact gradient: {error}") from error

    def build(**values: Tensor) -> Distribution:
        """q, or the distribution of one coordinate where that is all the cost asks for."""
        whole = rebuild(q, **values)
        if not one_by_one:
            return whole
        if isinstance(whole, Dirichlet):  # each coordinate is a beta variable
            alpha = whole.concentration
            return Beta(alpha, alpha.sum(-1, keepdim=True) - alpha, validate_args=False)
        return unwrap(whole)

    alone = unwrap(q).batch_shape == (*q.batch_shape, *q.event_shape) or isinstance(q, Dirichlet)
    one_by_one = isinstance(cost, Separable) and len(q.event_shape) == 1 and alone
    term = cost.term if isinstance(cost, Separable) and one_by_one else cost
    problem = _Problem(term, build, leaves, tolerance)
    base, dims = unwrap(problem.q), problem.q.event_shape.numel()
    gradient = None
    if why := certain(problem.q):
        raise NotApplicable(f"no exact gradient: {why}")
    numbers = problem.q.batch_shape.numel() * dims
    if numbers > _MOST.get(dims, math.inf) and not base.has_enumerate_support:
        raise NotApplicable(
            f"no exact gradient: q's batch has {problem.q.batch_shape.numel()} elements, too many for memory "
            "at once; ask for fewer"
        )
    if base.has_enumerate_support:
        gradient = problem.weighted(support(problem.q))
    elif isinstance(base, Normal | MultivariateNormal) and dims <= 3:
        steps = {1: (0.02, 0.004), 2: (0.25, 0.125, 0.0625), 3: (0.5, 0.35, 0.25)}[dims]
        # The finest grid of one dimension need not reach far: if what it leaves out counts, the two disagree.
        gradient = problem.refined(
            lambda step: normal_grid(problem.q, step, 9.0 if step < 0.01 else None), steps
        )
    if gradient is None and dims == 1 and base.support.is_discrete:
        gradient = problem.refined(
            lambda size: (_counts(problem.q, int(size)), None), (2**8, 2**12, 2**16, 2**20)
        )
    elif gradient is None and dims == 1:
        gradient = problem.adaptive()
    if gradient is None:
        raise NotApplicable(
            f"no exact gradient for {type(unwrap(q)).__name__} with event shape {tuple(q.event_shape)} and "
            "this cost: beyond finite support it needs one dimension, a smooth cost of a normal in at most "
            "three, or costs.Separable(term)"
        )
    if not all(g.isfinite().all() for g in gradient.values()):
        raise NotApplicable("no exact gradient: the expectation or its gradient is infinite")
    return gradient


# Numbers of z in q's batch that some 10,000 points, or those of a grid in several dimensions, may repeat.
_MOST = {1: 4096, 2: 512, 3: 128}

Gradient = dict[str, Tensor]
T = TypeVar("T")


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
            self.asked(lambda: self.cost.probe(*self.q.sample(torch.Size((2, 8)))))

    def evaluate(self, z: Tensor, spare: Tensor) -> tuple[Tensor, Tensor]:
        """log q and the cost at z. Where log q underflows no draw would ever be, and the cost may be infinite
        or NaN: there it is the cost of `spare`."""
        with torch.no_grad():
            log_q = self.q.log_prob(z)
            near = (log_q > -745.0)[(..., *[None] * len(self.q.event_shape))]
            return log_q, self.asked(lambda: self.cost(torch.where(near, z, spare)))

    @staticmethod
    def asked(ask: Callable[[], T]) -> T:
        """What `ask` answers, where the cost can be evaluated."""
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
                edge = slice(-2, None) if weights is None else _edge(weights, self.q.event_shape.numel())
                if any(
                    (term[edge].sum(0) > self.tolerance * mass).any()
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

    def adaptive(self) -> Gradient:
        """∫ f ∇q for one variable by adaptive Gauss–Kronrod quadrature, all elements of q's batch at once."""
        from scipy.integrate import cubature

        batch, event = self.q.batch_shape, self.q.event_shape
        place, low, high = _chart(self.q)
        device = next(iter(self.leaves.values())).device
        spare = place(torch.zeros((), dtype=torch.float64, device=device))[0]

        def along(u: Tensor) -> Tensor:
            # Density and f ∇density by the chart's coordinate: (M,) -> (M, numbers) on the CPU.
            z, stretch = place(u.to(device).view(-1, *[1] * len(batch + event)))
            z, stretch = (a.expand(len(u), *batch, *event) for a in (z, stretch))
            log_q, f = self.evaluate(z, spare)
            density = log_q.exp() * stretch.reshape(log_q.shape)
            parts = [density, *self.each(z, f * density)]
            return torch.cat([part.reshape(len(u), -1) for part in parts], dim=1).nan_to_num(0.0).cpu()

        def integrand(points: np.ndarray, skew: float) -> np.ndarray:
            # From (−1, 1), with most of the points near the middle, so that none starts by missing q.
            v = torch.as_tensor(points)
            t = v + skew * (1 - v**2)
            reach = torch.full_like(t, high).masked_fill_(t < 0, -low)
            return (along((reach * t**3).squeeze(1)) * 3 * reach * t**2 * (1 - 2 * skew * v)).numpy()

        # Each number is measured by its own size, roughly known from the first points.
        rough = torch.as_tensor(integrand(np.linspace(-1, 1, 4001)[:, None], 0.0)) * 2
        size = rough.abs().mean(0)
        size = size.where(size > 0, 1.0)
        rough = rough.mean(0) / size
        ends = torch.tensor([low, high], dtype=torch.float64)
        last, before = (along(u).abs() / size for u in (ends, ends - ends.sign()))
        # What lies beyond the ends of the chart, from how fast the integrand falls there.
        beyond = float((last / (before / last).log().clamp_min(0)).nan_to_num(0.0, posinf=math.inf).max())
        beyond = 0.0 if isinstance(unwrap(self.q), _VonMises) else beyond  # a circle has no ends
        if beyond == math.inf or not size.isfinite().all():
            raise NotApplicable(
                f"no exact gradient: {type(unwrap(self.q)).__name__} has too heavy a tail for this cost, "
                "whose expectation or its gradient is infinite, or torch's density fails far out"
            )

        def scaled(points: np.ndarray, skew: float) -> np.ndarray:
            return integrand(points, skew) / size.numpy()

        # The rule's own estimate of its error misses a jump close to the end of an interval, so two
        # partitions have to agree.
        found: list[Tensor] = []
        count, goal = batch.numel(), self.tolerance / 10_000
        for skew in (0.0, 0.17, -0.23):
            done = cubature(scaled, [-1.0], [1.0], args=(skew,), rtol=goal, atol=goal, max_subdivisions=500)
            values = torch.as_tensor(done.estimate)
            mass, gradient = (values * size).split([count, len(values) - count])
            # A narrow feature that the rule's first points miss shows in the even ones.
            whole = (mass - 1).abs().max() < 1e-7 and beyond <= self.tolerance
            whole = whole and (values - rough).abs().max() < 0.05
            if whole and any((values - other).abs().max() <= self.tolerance for other in found):
                parts = gradient.split([leaf.numel() for leaf in self.leaves.values()])
                pairs = zip(self.leaves.items(), parts, strict=True)
                return {n: part.view_as(leaf).to(device) for (n, leaf), part in pairs}
            found.append(values)
        raise NotApplicable(
            f"no exact gradient: quadrature of {type(unwrap(self.q)).__name__} with this cost does not "
            f"settle (the density integrates to {float(mass[(mass - 1).abs().argmax()]):.9f}, and up to "
            f"{beyond:.0e} of the integral is out of reach)"
        )


def support(q: Distribution) -> Tensor:
    """All values of a q with finite support: (M, *batch, *event)."""
    base = unwrap(q)
    values = base.enumerate_support()  # (K, *batch and independent axes, *event of one)
    own = values.ndim - 1 - len(base.event_shape)
    shared = len(q.batch_shape)
    dims = q.event_shape[: own - shared].numel()
    if values.numel() * len(values) ** (dims - 1) > 2**25 or len(values) ** dims > 2**22:
        raise NotApplicable(
            f"q has {len(values)}^{dims} values per element of its batch: too many to enumerate"
        )
    flat = values.flatten(1 + shared, own).movedim(1 + shared, 0) if own > shared else values.unsqueeze(0)
    choice = torch.cartesian_prod(*[torch.arange(len(values))] * dims).view(-1, dims)
    z = torch.stack([flat[d][choice[:, d]] for d in range(dims)], dim=1 + shared)
    return z.reshape(len(choice), *q.batch_shape, *q.event_shape)


# How many deviations an even grid reaches to each side, by the number of dimensions.
_REACH = {1: 20.0, 2: 10.0, 3: 9.0}


def _edge(weights: Tensor, dims: int) -> Tensor:
    """The outermost points of `normal_grid`, by their weights."""
    return weights < weights.max() * math.exp(-0.5 * (_REACH[dims] - 1) ** 2)


def normal_grid(q: Distribution, step: float, reach: float | None = None) -> tuple[Tensor, Tensor]:
    """Points (M, *batch, *event) and weights (M,) to integrate against a normal q, `step` deviations apart.

    `reach` is how many deviations to each side, by default many enough for costs that grow.
    For smooth costs this trapezoidal rule converges faster than any power of the step
    (trefethen2014exponentially).
    """
    dims, base = q.event_shape.numel(), unwrap(q)
    reach = reach or _REACH[dims]
    line = torch.arange(-reach, reach + step / 2, step, dtype=torch.float64, device=base.loc.device)
    x = torch.cartesian_prod(*[line] * dims).view(-1, dims)
    weights = (-0.5 * x.square().sum(-1)).exp()
    x = x.view(-1, *[1] * len(q.batch_shape), *q.event_shape)
    with torch.no_grad():
        if isinstance(base, MultivariateNormal):
            z = base.loc + (base.scale_tril @ x.unsqueeze(-1)).squeeze(-1)
        else:
            z = reparameterize(base.loc, base.scale, x)
    return z, weights / weights.sum()


def _counts(q: Distribution, size: int) -> Tensor:
    first = getattr(unwrap(q).support, "lower_bound", 0)
    z = torch.arange(size, dtype=torch.float64, device=q.mean.device).view(
        -1, *[1] * len(q.batch_shape + q.event_shape)
    )
    return (z + first).expand(size, *q.batch_shape, *q.event_shape)


def _chart(q: Distribution) -> tuple[Callable[[Tensor], tuple[Tensor, Tensor]], float, float]:
    """u -> (z, dz/du) onto the support of q, and the range of u. Typical z have u near 0.

    Exponential stretching takes care of heavy tails and of densities that are infinite at an end.
    """
    base = unwrap(q)
    bounds = support_bounds(base)
    if moving := moving_with(base):
        raise NotApplicable(
            f"no exact gradient: the support of {type(base).__name__} moves with {', '.join(moving)}, so "
            "differentiating the density alone is not enough"
        )
    if isinstance(base, _VonMises):
        return (lambda u: (u, torch.ones_like(u))), -math.pi, math.pi
    if len(bounds) == 2:
        low, width = bounds["lower_bound"], bounds["upper_bound"] - bounds["lower_bound"]
        return (lambda u: (low + width * u.sigmoid(), width * u.sigmoid() * (-u).sigmoid())), -700.0, 36.0
    try:
        spread = base.stddev.nan_to_num(1.0, 1.0).clamp_min(1e-300)
    except NotImplementedError as error:
        raise NotApplicable(f"no exact gradient: torch knows no stddev of {type(base).__name__}") from error
    if len(bounds) == 1 and "lower_bound" in bounds:
        low = bounds["lower_bound"]
        middle = (base.mean - low).nan_to_num(1.0, 1.0)
        return (lambda u: (low + middle * u.exp(), middle * u.exp())), -700.0, 60.0
    centre = getattr(base, "loc", base.mean)
    if isinstance(base, Normal):
        return (lambda u: (centre + spread * u, spread)), -38.0, 38.0
    return (lambda u: (centre + spread * u.sinh(), spread * u.cosh())), -40.0, 40.0
