"""The trick itself, the diagonal normal that encoders return, and what torch's distributions lack.

A sample z ~ N(mu, sigma²) written as

    z = mu + sigma * eps,    eps ~ N(0, 1),

has the same distribution, but is a differentiable function of mu and sigma: ∂z/∂mu = 1 and
∂z/∂sigma = eps. Sources: kingma2014auto, rezende2014stochastic.

Any torch distribution can be taken apart into the arguments of its constructor (`parameters`) and put
together again from others (`rebuild`); estimators and oracles need no more than that.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Size, Tensor
from torch.distributions import Distribution, Independent, Normal, constraints
from torch.distributions import VonMises as _VonMises


def reparameterize(mu: Tensor, sigma: Tensor, eps: Tensor) -> Tensor:
    """z = mu + sigma * eps, the reparameterization trick (kingma2014auto).

    Shapes: `mu`, `sigma` (*batch, Z) and `eps` (..., *batch, Z) broadcast; the result has their
    broadcast shape. `sigma` is the standard deviation, not its logarithm and not the variance.

    >>> import torch
    >>> reparameterize(torch.tensor(1.0), torch.tensor(2.0), torch.tensor(0.5))
    tensor(2.)
    """
    return mu + sigma * eps


class DiagonalNormal(Independent):
    """N(mu, diag(sigma²)) over the last axis, with sigma = exp(log_sigma).

    Shapes: `mu` and `log_sigma` (*batch, Z); batch shape (*batch), event shape (Z,). It *is* a
    `torch.distributions.Independent(Normal)`, so `log_prob`, `rsample` and `kl_divergence` are torch's.
    The logarithm is what a network can output freely: any real number gives sigma > 0, as far as exp
    neither underflows nor overflows (log_sigma from -103 to 88 in float32).

    >>> import torch
    >>> q = DiagonalNormal(torch.zeros(5, 2), torch.zeros(5, 2))
    >>> q.reparameterize(torch.ones(5, 2)).shape
    torch.Size([5, 2])
    """

    base_dist: Normal
    arg_constraints = {"mu": constraints.real_vector, "log_sigma": constraints.real_vector}  # noqa: RUF012

    def __init__(self, mu: Tensor, log_sigma: Tensor, validate_args: bool | None = None) -> None:
        mu, log_sigma = torch.broadcast_tensors(mu, log_sigma)
        self.log_sigma = log_sigma
        normal = Normal(mu, log_sigma.exp(), validate_args=validate_args)
        super().__init__(normal, 1, validate_args=validate_args)

    @property
    def mu(self) -> Tensor:
        """Mean, (*batch, Z)."""
        return self.base_dist.loc

    @property
    def sigma(self) -> Tensor:
        """Standard deviation, (*batch, Z)."""
        return self.base_dist.scale

    def reparameterize(self, eps: Tensor) -> Tensor:
        """z = mu + sigma * eps for given `eps` (..., *batch, Z)."""
        return reparameterize(self.mu, self.sigma, eps)

    def detach(self) -> DiagonalNormal:
        """The same distribution, cut from the graph."""
        return DiagonalNormal(self.mu.detach(), self.log_sigma.detach(), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> DiagonalNormal:
        """The same distribution with its parameters expanded to `batch_shape`."""
        shape = (*batch_shape, *self.event_shape)
        return DiagonalNormal(self.mu.expand(shape), self.log_sigma.expand(shape), validate_args=False)


def unwrap(q: Distribution) -> Any:
    """The distribution of one coordinate: what stands inside `Independent`, or `q` itself."""
    while isinstance(q, Independent):
        q = q.base_dist
    return q


# Constructors take one of each group. Torch computes the others when they are first asked for.
_ALTERNATIVES = ({"probs", "logits"}, {"covariance_matrix", "precision_matrix", "scale_tril"})


def parameters(q: Distribution) -> dict[str, Tensor]:
    """The real-valued arguments that `q` was constructed from: name -> tensor, with its graph.

    Those of what stands inside, where `q` is torch's `Independent`. Counts, such as a binomial's
    `total_count`, are not differentiated and so left out. Raises TypeError where there are none.

    >>> sorted(parameters(Normal(torch.zeros(3), torch.ones(3))))
    ['loc', 'scale']
    """
    if type(q) is Independent:
        return parameters(q.base_dist)
    holder = vars(getattr(q, "_categorical", q))  # where torch's one-hot categorical keeps its argument
    names = [name for name, constraint in q.arg_constraints.items() if not constraint.is_discrete]
    for group in _ALTERNATIVES:
        if group & set(names):
            given = next((name for name in holder if name in group), "logits")  # the first that was set
            names = [name for name in names if name not in group - {given}]
    if not names:
        raise TypeError(f"{type(q).__name__} names no real-valued constructor arguments (arg_constraints)")
    return {name: getattr(q, name) for name in names}


def rebuild(q: Distribution, **values: Tensor) -> Distribution:
    """A distribution like `q` from other constructor arguments: all those that `parameters(q)` names.

    New leading axes of the values become new batch axes. Above the diagonal of a triangular argument there is
    nothing to differentiate by, so that its gradient there is zero.
    """
    if type(q) is Independent:
        return Independent(rebuild(q.base_dist, **values), q.reinterpreted_batch_ndims, validate_args=False)
    alternatives = set().union(*(group for group in _ALTERNATIVES if group & set(values)))
    for name, argument in inspect.signature(type(q)).parameters.items():
        if name in values or name in alternatives or name == "validate_args":
            continue
        given = getattr(q, name, getattr(q, f"_{name}", argument.default))
        if given is inspect.Parameter.empty:
            raise TypeError(f"{type(q).__name__} does not keep its constructor's argument {name!r}")
        values[name] = given
    for name, constraint in q.arg_constraints.items():
        if constraint is constraints.lower_cholesky and name in values:
            values[name] = values[name].tril()
    return type(q)(**values, validate_args=False)  # type: ignore[arg-type]


def support_bounds(base: Any) -> dict[str, Any]:
    """`lower_bound` and `upper_bound` of the support of a distribution of one coordinate, those it has."""
    support = base.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return {name: v for name, v in vars(support).items() if name in ("lower_bound", "upper_bound")}


def moving_with(base: Any) -> list[str]:
    """The real-valued arguments of a distribution of one coordinate that move the ends of its support."""
    real = [name for name, constraint in base.arg_constraints.items() if not constraint.is_discrete]
    return [name for name in real if any(getattr(base, name) is v for v in support_bounds(base).values())]


def certain(q: Distribution) -> str | None:
    """What keeps the mass function of `q` from having a derivative by its probabilities, in words, or None.

    Torch keeps given probabilities a rounding error away from 0 and 1, where its derivative is then zero.
    """
    try:
        given = parameters(q)["probs"]
    except (KeyError, TypeError):  # q was not made from them, or names no parameters
        return None
    margin = torch.finfo(given.dtype).eps
    if not ((given < margin) | (given > 1 - margin)).any():
        return None
    return f"a probability of {type(unwrap(q)).__name__} is 0 or 1 to rounding, where torch has no derivative"


@cache
def _legendre(order: int) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return torch.as_tensor((nodes + 1) / 2), torch.as_tensor(weights / 2)


def von_mises_path(z: Tensor, loc: Tensor, concentration: Tensor) -> Tensor:
    """Draws `z` (N, *batch) from a von Mises distribution, now with their derivatives.

    dz/dloc = 1 and dz/dconcentration = −(∂F/∂concentration) / q(z), the implicit reparameterization
    (figurnov2018implicit). With A = I₁/I₀ the numerator is the integral of (cos t − A) q(t) from the mean to
    z, which Gauss and Legendre's rule gives to rounding. The result equals `z`, in [−π, π).
    """
    with torch.no_grad():
        kappa = concentration.double().unsqueeze(-1)
        angle = torch.remainder((z - loc).double() + math.pi, 2 * math.pi).sub(math.pi).unsqueeze(-1)
        nodes, weights = (rule.to(z.device) for rule in _legendre(64))
        t = angle * nodes
        mean_cosine = torch.special.i1e(kappa) / torch.special.i0e(kappa)
        integrand = (t.cos() - mean_cosine) * (kappa * (t.cos() - angle.cos())).exp()
        slope = -(angle * weights * integrand).sum(-1).to(z.dtype)
    return z + (loc - loc.detach()) + slope * (concentration - concentration.detach())


class VonMises(_VonMises):
    """Torch's von Mises distribution on the circle, with the `rsample` that torch lacks, and a `log_prob` to
    rounding, where torch's has an error of about 1e-7.

    A cost must have equal values at −π and π: elsewhere a draw that wraps around would jump.
    """

    has_rsample = True

    def rsample(self, sample_shape: Size | Sequence[int] = Size()) -> Tensor:  # noqa: B008 (torch's own)
        """Draws (*sample_shape, *batch) with derivatives; see `von_mises_path`."""
        return von_mises_path(super().sample(torch.Size(sample_shape)), self.loc, self.concentration)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q, (*sample_shape, *batch)."""
        height = self.concentration * ((value - self.loc).cos() - 1)
        return height - (2 * math.pi * torch.special.i0e(self.concentration)).log()
