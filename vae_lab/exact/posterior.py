"""What the best q(z|x) of an item would be, were there no encoder in the way.

For a decoder as it is and one item, let (mu, sigma) maximise reconstruction − beta · KL.

* For any frozen eps: the decoder sees z = mu + sigma · eps and nothing else of (mu, sigma). So the best pair
  is the one of least KL among those with its z, where sigma − 1/sigma = eps · mu, whatever decoder, data and
  beta; the decoder needs no derivative.
* For eps ~ N(0, 1): the slope of an expectation with respect to sigma² is half its curvature with respect to
  mu, which rezende2014stochastic attributes to Bonnet and Price. Hence
  sigma² = beta / (beta − ∂²E[log p(x|z)]/∂mu²). If log p(x|z) can be differentiated twice this is
  beta / (beta + E[∂²(−log p(x|z))/∂z²]); the kinks of a ReLU count in the first, and not in the second.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..clock import counts_as
from ..reparameterization import DiagonalNormal, reparameterize
from ..settings import Count, check
from ..vae.model import VAE, as_items
from ..vae.objectives import check_broadcasts, check_moves, elbo_terms


def frozen_posterior(z: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """(mu, sigma) of least KL to N(0, 1) among those with mu + sigma · eps = z.

    The positive solution of sigma − 1/sigma = eps · mu. Shapes broadcast.

    >>> mu, sigma = frozen_posterior(torch.tensor(2.0), torch.tensor(1.0))
    >>> torch.isclose(sigma - 1 / sigma, mu)
    tensor(True)
    """
    square, shift = 1 + eps**2, eps * z
    root = (shift**2 + 4 * square).sqrt()
    # Of two forms of one number, the one that does not subtract.
    sigma = torch.where(shift < 0, 2 / (root - shift), (root + shift) / (2 * square))
    return z - sigma * eps, sigma


@counts_as("training")
@torch.enable_grad()
def fit_posterior(
    vae: VAE,
    x: Tensor,
    eps: Tensor,
    *,
    weights: Tensor | None = None,
    seen: Tensor | None = None,
    beta: Tensor | float = 1.0,
    steps: int = 500,
) -> DiagonalNormal:
    """The q that maximises reconstruction − beta · KL for each item `x` (B, D) of each replica: (R, B).

    The reconstruction is a mean over given eps (N, R, B, Z), R and B may be 1: a frozen one, or the points of
    a quadrature with `weights` (N,) that sum to 1; `beta` is a number, or (R, 1). Features where `seen`
    (B, D) is 0 do not count: the likelihood is that of the others, given z. Starts at the encoder's q,
    and goes by at most `steps` iterations of L-BFGS in the precision of `vae`: `vae.double()` where digits
    count. Raises ValueError for arguments that do not fit, and FloatingPointError if the search is lost.
    """
    x, steps = as_items(vae, x), check("steps", Count, steps)
    check_moves(vae)
    with torch.no_grad():
        start = vae.encoder(x)
    check_broadcasts("eps", eps, start.mu.shape, samples=True)
    if seen is not None:
        check_broadcasts("seen", seen, tuple(x.shape))
        if vae.context:
            raise ValueError("seen is for a VAE without context: a conditional one models the other features")
    eps = eps if eps.ndim > start.mu.ndim else eps.unsqueeze(0)
    mu, log_sigma = start.mu.clone().requires_grad_(), start.log_sigma.clone().requires_grad_()
    share = (x.new_ones(len(eps)) / len(eps) if weights is None else weights.to(x)).view(-1, 1, 1)
    optimizer = torch.optim.LBFGS(
        [mu, log_sigma],
        max_iter=steps,
        max_eval=2 * steps,
        history_size=50,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-10,
        tolerance_change=0.0,
    )

    def loss() -> Tensor:
        q = DiagonalNormal(mu, log_sigma, validate_args=False)
        p = vae.decoder(reparameterize(mu, q.sigma, eps))
        log_x = p.log_prob(x) if seen is None else (p.base_dist.log_prob(x) * seen).sum(-1)
        value = -elbo_terms(vae, q, (share * log_x).sum(0)).weighted(beta).sum()
        mu.grad, log_sigma.grad = torch.autograd.grad(value, [mu, log_sigma])
        return value.detach()

    optimizer.step(loss)
    if not (mu.isfinite().all() and log_sigma.isfinite().all()):
        raise FloatingPointError("the search for q ended at parameters that are not finite; try vae.double()")
    return DiagonalNormal(mu.detach(), log_sigma.detach())


@torch.enable_grad()
def curvature(vae: VAE, x: Tensor, z: Tensor) -> Tensor:
    """Diagonal of the Hessian of −log p(x|z) with respect to z, for items `x` (B, D) at `z` (..., R, B, Z):
    z's shape."""
    z = z.detach().requires_grad_()
    (slope,) = torch.autograd.grad(vae.decoder(z).log_prob(x).sum(), z, create_graph=True)
    rows = [
        torch.autograd.grad(slope[..., k].sum(), z, retain_graph=True)[0][..., k].neg()
        for k in range(z.shape[-1])
    ]
    return torch.stack(rows, dim=-1)
