"""The reparameterization trick, and the diagonal normal that encoders return.

A sample z ~ N(mu, sigma²) written as

    z = mu + sigma * eps,    eps ~ N(0, 1),

has the same distribution, but is a differentiable function of mu and sigma: ∂z/∂mu = 1 and
∂z/∂sigma = eps. Sources: kingma2014auto, rezende2014stochastic.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Independent, Normal, constraints


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
