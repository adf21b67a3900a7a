"""The exact gradient of E_q[f(z)], where mathematics gives it.

The oracle `exact_gradient` differentiates the expectation under the integral,

    ∇ E_q[f(z)] = ∫ f(z) ∇q(z) dz,

so the cost itself need not have a derivative. The density is the one that q's own `log_prob` gives, whatever
q's class is called. The integral is a sum where q is discrete; for continuous q of one to three variables it
is taken by rules of different kinds, which have to agree (see `quadrature`). Where none applies or they do
not agree, the answer is `NotApplicable`, never a Monte Carlo value.

A rule sees the cost at its points only. What happens within less than about a thousandth of a deviation, in
several dimensions a hundredth, none of them can know if much else happens, too.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Beta, Dirichlet, Distribution

from ..clock import counts_as
from ..estimators.copies import directional_scores, score_terms, varied
from ..estimators.costs import CheckedCost, Cost, CostError, NotApplicable, Separable, is_stochastic
from ..estimators.families import certain, discrete, empty, is_law, kind, parameters, rebuild, support, unwrap
from ..estimators.family import Family
from ..settings import Positive, Whole, check
from .charts import chart, trimmed
from .enumeration import counts, values_of
from .lines import Nodes
from .quadrature import EVALUATIONS, MASS, UNDERFLOW, agreed, attempt

SAMPLED = 512  # points whose scores are taken one by one
TRIED, STEP = 4096, 0.01  # draws, and deviations to each side, to see along which axes a cost varies

Gradient = dict[str, Tensor]


@counts_as("gradients")
def exact_gradient(
    cost: Cost, q: Distribution, tolerance: float = 1e-7, evaluations: int = EVALUATIONS
) -> Gradient:
    """∇ E_q[cost(z)] with respect to each of `parameters(q)`: name -> float64 tensor of its shape.

    Covers: finite support (up to about four million points); Poisson and other counts of one variable;
    continuous distributions of one to three variables whose support does not depend on their parameters; in
    any dimension a `Separable` cost under independent coordinates or a Dirichlet distribution. `tolerance` is
    the difference at which two rules agree, relative to each element of the gradient as it would be if
    nothing cancelled; for smooth costs the error is near rounding. The cost is evaluated for at most
    `evaluations` draws; elements of q's batch are independent problems, which share them.

    Raises `NotApplicable` where no rule applies or rules do not agree, and `CostError`.

    >>> from torch.distributions import Normal
    >>> from vae_lab.estimators.costs import quadratic
    >>> q = Normal(torch.tensor(0.5), torch.tensor(2.0))
    >>> {name: round(g.item(), 6) for name, g in exact_gradient(quadratic(1.0), q).items()}
    {'loc': -1.0, 'scale': 4.0}
    """
    tolerance = check("tolerance", Positive, tolerance)
    evaluations = check("evaluations", Whole, evaluations)
    try:
        given = {name: p.detach().double() for name, p in parameters(q).items()}
        exact, term = _one_coordinate(cost, rebuild(q, **given))
    except TypeError as error:
        raise NotApplicable(f"no exact gradient: {error}") from error
    try:
        if why := empty(exact) or certain(exact):
            raise NotApplicable(why)
        if type(unwrap(exact)).log_prob is Distribution.log_prob:
            raise NotApplicable(f"{kind(q)} has no log_prob")
        if is_stochastic(cost):
            raise NotApplicable("the cost is stochastic, and only estimates average over its randomness")
        problem = _Problem(term, exact)
        values = values_of(exact) if problem.discrete else None
        if values is not None:
            gradient = problem.weighted(values)
        elif problem.discrete:
            gradient = problem.counted(tolerance)
        else:
            gradient = _Continuous(problem).gradient(tolerance, evaluations)
    except NotApplicable as error:
        raise NotApplicable(f"no exact gradient of {kind(q)} with this cost: {error}") from error
    if not all(g.isfinite().all() for g in gradient.values()):
        raise NotApplicable("no exact gradient: the expectation or its gradient is infinite")
    return gradient


def _one_coordinate(cost: Cost, q: Distribution) -> tuple[Distribution, Cost]:
    """The distribution of one coordinate, and its cost, where the cost is a sum over coordinates that have
    distributions of their own; else q and cost as they are."""
    alone = unwrap(q).batch_shape == (*q.batch_shape, *q.event_shape) or is_law(unwrap(q), Dirichlet)
    if not (isinstance(cost, Separable) and len(q.event_shape) == 1 and alone):
        return q, cost

    def build(**values: Tensor) -> Distribution:
        whole = unwrap(rebuild(q, **values))
        if isinstance(whole, Dirichlet):  # each coordinate is a beta variable
            alpha = whole.concentration
            return Beta(alpha, alpha.sum(-1, keepdim=True) - alpha, validate_args=False)
        return whole

    return Family(build, **parameters(q)), cost.term


class _Problem:
    """∇ E_q[cost] with respect to q's parameters, q in float64."""

    def __init__(self, cost: Cost, q: Distribution) -> None:
        self.q, self.cost = q, CheckedCost(cost, len(q.event_shape))
        self.discrete = discrete(q)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            self.typical = attempt(lambda: varied(q.sample(torch.Size((512,))).double(), 32))
            attempt(lambda: self.cost.probe(self.typical[:16], self.typical[16:]))

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log q, the cost, and where it is NaN, at z. Where log q underflows no draw would ever be, and the
        cost may be infinite or NaN: there it is the cost of a typical draw."""
        with torch.no_grad():
            log_q = self.log_prob(z)
            near = (log_q > UNDERFLOW)[(..., *[None] * len(self.q.event_shape))]
            f = attempt(lambda: self.cost.values(torch.where(near, z, self.typical[:1])))
            return log_q, f.nan_to_num(0.0, torch.inf, -torch.inf), f.isnan()

    def log_prob(self, z: Tensor) -> Tensor:
        """log q, minus infinity outside the support and where torch answers NaN or infinity, at the very ends
        of one."""
        log_q = attempt(lambda: self.q.log_prob(z))
        if self.discrete:
            log_q = log_q.where(support(self.q).check(z), -torch.inf) if self.q.event_shape == () else log_q
        return log_q.nan_to_num(-torch.inf, -torch.inf, -torch.inf)

    def weighted(self, z: Tensor, factor: Tensor | None = None) -> Gradient:
        """Σ_m factor_m ∇log q(z_m), by default with the factor f(z_m) q(z_m)."""
        if factor is None:
            log_q, f, unknown = self.evaluate(z)
            self.check_known((log_q.exp() * unknown).sum(0))
            factor = f * log_q.exp()
        leaves = {name: p.detach().clone().requires_grad_() for name, p in parameters(self.q).items()}
        totals = [torch.zeros_like(leaf) for leaf in leaves.values()]
        z = self.where_it_counts(z, factor)
        for z_part, part in zip(z.split(2**18), factor.split(2**18), strict=True):
            log_q = rebuild(self.q, **leaves).log_prob(z_part)
            # Infinite where q has no mass, and then of no weight.
            total = (part * log_q.where(part != 0, 0.0)).sum()
            parts = torch.autograd.grad(
                total, list(leaves.values()), allow_unused=True, materialize_grads=True
            )
            totals = [a + b for a, b in zip(totals, parts, strict=True)]
        return dict(zip(leaves, totals, strict=True))

    def scores(self, z: Tensor, density: Tensor) -> list[Tensor]:
        """The score along directions, where the density is not zero."""
        return directional_scores(self.q, self.where_it_counts(z, density))

    def where_it_counts(self, z: Tensor, factor: Tensor) -> Tensor:
        """z, and a typical draw where the factor (M, *batch) is zero and the score might be infinite."""
        return torch.where((factor != 0)[(..., *[None] * len(self.q.event_shape))], z, self.typical[:1])

    def check_known(self, share: Tensor) -> None:
        """Raise `CostError` if the cost is NaN on a part of q's mass that draws would meet."""
        if (share > MASS).any():
            raise CostError(f"the cost is NaN on a share of {float(share.max()):.2g} of q's mass")

    def counted(self, tolerance: float) -> Gradient:
        """The gradient for q of counts, by the first sum that agrees with a shorter one."""
        last: Gradient | None = None
        for z in counts(self.q):
            if (self.log_prob(z).exp().sum(0) - 1).abs().max() > MASS:
                continue  # these counts miss part of q
            gradient = self.weighted(z)
            if last is not None and all(
                ((g - last[name]).abs() <= tolerance * g.abs() + 1e-12).all() for name, g in gradient.items()
            ):
                return gradient
            last = gradient
        raise NotApplicable("sums over ever more counts do not settle")


class _Continuous:
    """The integrals of one problem over the cube, as `quadrature.agreed` asks for them.

    Rows, for each element of q's batch: q, f q with f from its typical value, q where f is NaN, and q and f q
    times the score along some directions.
    Numbers: those of the gradient, and of the gradient of E_q[1], which is 0.
    """

    def __init__(self, problem: _Problem) -> None:
        self.problem, self.dims = problem, problem.q.event_shape.numel()
        if not 1 <= self.dims <= 3:
            raise NotApplicable(
                f"with event shape {tuple(problem.q.event_shape)} it needs finite support, at most three "
                "dimensions, or costs.Separable(term)"
            )
        self.chart = trimmed(chart(problem.q), problem.log_prob, self.dims)
        self.elements = problem.q.batch_shape.numel()
        self.watched = slice(self.elements, 2 * self.elements)
        self.centre = self.typical_cost()
        self.axes = torch.eye(self.dims, dtype=torch.float64)
        if self.chart.even:
            self.axes = self.turned()
        try:
            problem.scores(problem.typical, problem.log_prob(problem.typical))
            self.guided = True
        except RuntimeError:  # torch cannot differentiate q forwards
            self.guided = False

    def typical_cost(self) -> Tensor:
        """The median cost of draws, (*batch), and 0 where all cost the same.

        Since ∫ ∇q = 0, the cost may be taken from there; else what is equal everywhere would have to cancel.
        """
        f = self.problem.evaluate(self.problem.typical)[1]
        median = f.median(0).values
        return median.where(median.isfinite() & (f != median).any(0), 0.0)

    def turned(self) -> Tensor:
        """Orthogonal axes (dims, dims), the cost varying most along the last: there a rule looks closest."""
        u = torch.randn(TRIED, self.dims, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        steps = STEP * torch.cat([self.axes, -self.axes])
        z, _ = self.chart.place((u + steps[:, None]).flatten(0, 1).to(self.problem.typical.device))
        f = self.problem.evaluate(z)[1].reshape(2, self.dims, TRIED, -1).cpu()
        change = (f[0] - f[1]).movedim(0, -1)  # (TRIED, elements, dims)
        squares = torch.einsum("mbi,mbj->bij", change, change)
        traces = squares.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
        return torch.linalg.eigh((squares / traces.where(traces > 0, 1.0)).nan_to_num().sum(0)).eigenvectors

    def place(self, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """u, z, and the volume of z per volume of the cube."""
        u, bend = self.chart.along(at)
        z, stretch = self.chart.place((u @ self.axes.T).to(self.problem.typical.device))
        return u, z, stretch * bend.to(stretch.device).view(-1, *[1] * (stretch.ndim - 1))

    def rows(self, at: Tensor) -> Tensor:
        return self._rows(*self.place(at))

    def _rows(self, u: Tensor, z: Tensor, volume: Tensor) -> Tensor:
        log_q, f, unknown = self.problem.evaluate(z)
        density = (log_q.exp() * volume).nan_to_num(0.0)
        weighed = ((f - self.centre) * density).nan_to_num(0.0, torch.inf, -torch.inf)
        parts = [density, weighed, density * unknown]
        # What is wanted has the score in it, whose jumps and bends may lie elsewhere than those of q and f.
        for score in self.problem.scores(z, density) if self.guided else (u**2).T:
            score = score.nan_to_num(0.0).view(len(u), *[1] * (density.ndim - score.ndim), *score.shape[1:])
            parts += [density * score, weighed * score]
        return torch.stack(parts, 1).flatten(1).cpu()

    def numbers(self, nodes: Nodes) -> Tensor:
        _, z, _ = self.place(nodes.at)
        factors = (
            (nodes.weight[:, None] * nodes.values).view(len(z), -1, *self.problem.q.batch_shape).to(z.device)
        )
        parts = [self.problem.weighted(z, factors[:, k]) for k in (1, 0)]
        return torch.cat(
            [*(g.flatten().cpu() for part in parts for g in part.values()), self._totals(nodes)[0]]
        )

    def sizes(self, nodes: Nodes) -> Tensor:
        totals = self._totals(nodes)
        self.problem.check_known(totals[2])
        self.check_ends(self._totals(Nodes(nodes.at, nodes.weight, nodes.values.abs())))
        chosen = torch.randperm(len(nodes.at), generator=torch.Generator().manual_seed(0))[:SAMPLED]
        _, z, _ = self.place(nodes.at[chosen])
        share = nodes.weight[chosen] * len(nodes.at) / len(chosen)
        factors = (
            (share[:, None] * nodes.values[chosen]).view(len(z), -1, *self.problem.q.batch_shape).to(z.device)
        )
        terms = [
            term
            for f in (factors[:, 1], factors[:, 0])
            for term in score_terms(self.problem.q, self.problem.where_it_counts(z, f), f)
        ]
        return torch.cat(
            [*(term.abs().sum(0).flatten().cpu() for term in terms), totals.new_ones(self.elements)]
        )

    def _totals(self, nodes: Nodes) -> Tensor:
        return nodes.totals().view(-1, self.elements)

    def check_ends(self, sizes: Tensor) -> None:
        """Refuse what lies beyond the ends of the chart and counts: how fast the integrands (…, elements)
        fall there tells how much it is. `sizes` are those of the integrals."""
        if self.chart.closed:  # a circle has no ends
            return
        ends = torch.tensor([self.chart.low, self.chart.high], dtype=torch.float64)
        beyond = torch.zeros_like(sizes)
        for axis in range(self.dims):
            u = torch.zeros(2, 2, self.dims, dtype=torch.float64)
            u[..., axis] = torch.stack([ends, ends - ends.sign()])
            z, stretch = self.chart.place(u.flatten(0, 1).to(self.problem.typical.device))
            last, before = self._rows(u.flatten(0, 1), z, stretch).abs().view(2, 2, *sizes.shape)
            tail = last / (before / last).log().clamp_min(0) / sizes.where(sizes > 0, 1.0)
            beyond = torch.maximum(beyond, tail.nan_to_num(0.0, torch.inf).amax(0))
        if not sizes.isfinite().all() or beyond.isinf().any():
            raise NotApplicable(
                "it has too heavy a tail for this cost, whose expectation or its gradient is infinite, or "
                "torch's density fails far out"
            )
        if (beyond > MASS).any():
            raise NotApplicable(
                f"up to {float(beyond.max()):.0e} of the integral is out of reach, in a heavy tail"
            )

    def gradient(self, tolerance: float, evaluations: int) -> Gradient:
        """The gradient, once the rules agree."""
        given = parameters(self.problem.q)
        count = sum(p.numel() for p in given.values())
        numbers, sizes = agreed(self, tolerance, evaluations)
        gradient, of_one, mass = numbers.split([count, count, self.elements])
        if (off := mass - 1).abs().max() > MASS:
            raise NotApplicable(f"the density integrates to {float(mass[off.abs().argmax()]):.9f}")
        if (of_one.abs() > 10 * MASS * sizes[count : 2 * count]).any():
            raise NotApplicable(
                "the integral of its density changes with the parameters: does its support move?"
            )
        parts = gradient.split([p.numel() for p in given.values()])
        return {
            name: part.view_as(p).to(p.device) for (name, p), part in zip(given.items(), parts, strict=True)
        }
