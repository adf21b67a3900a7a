"""The evidence lower bound, and the honest evaluation of whatever was trained.

For q(z|x) = N(mu, sigma²) and the prior p(z) = N(0, I)

    ELBO(x) = E_q[log p(x|z)] − KL(q(z|x) ‖ p(z)) ≤ log p(x).

The first term is estimated with reparameterized samples, the second is closed. The importance-weighted
bound E[log 1/K Σ_k p(x, z_k) / q(z_k|x)] lies between the ELBO and log p(x) and tightens with K.
Sources: kingma2014auto, higgins2017beta, burda2016importance. All values are nats per item.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd
import torch
from torch import Generator, Tensor
from torch.distributions import kl_divergence

from .networks import VAE


class Terms(NamedTuple):
    """The two terms of the bound per item, each (R, B), in nats."""

    reconstruction: Tensor
    kl: Tensor

    @property
    def elbo(self) -> Tensor:
        """reconstruction − KL: a lower bound on log p(x), so higher is better."""
        return self.reconstruction - self.kl

    def weighted(self, beta: Tensor | float) -> Tensor:
        """reconstruction − beta · KL, the beta-VAE's objective (higgins2017beta)."""
        return self.reconstruction - beta * self.kl


def elbo(vae: VAE, x: Tensor, eps: Tensor | None = None) -> Terms:
    """Terms of the ELBO of items `x` (B, D) or (R, B, D), with gradients by the trick.

    `eps` (R, B, Z), or (N, R, B, Z) to average N samples; None draws one fresh Gaussian sample from
    torch's global generator. Source: kingma2014auto.
    """
    q = vae.encoder(x)
    eps = torch.randn_like(q.mu) if eps is None else eps
    reconstruction = vae.decoder(q.reparameterize(eps)).log_prob(x)
    if eps.ndim == 4:
        reconstruction = reconstruction.mean(0)
    return Terms(reconstruction, kl_divergence(q, vae.prior))


def as_items(vae: VAE, x: Tensor) -> Tensor:
    """Items `x` (items, D) in the precision and on the device of `vae`.

    Raises a ValueError that says what is wrong if they cannot be modelled by `vae`.
    """
    if not isinstance(x, Tensor):
        raise ValueError(
            f"expected a float tensor (items, {vae.features}), got {type(x).__name__}; "
            "torch.as_tensor converts an array, and a Dataset has .train and .test"
        )
    if x.ndim != 2 or x.shape[0] == 0 or not x.is_floating_point():
        raise ValueError(f"expected a float tensor (items, {vae.features}), got {x.dtype} {tuple(x.shape)}")
    if x.shape[1] != vae.features:
        raise ValueError(
            f"this VAE has features={vae.features}, but the items have {x.shape[1]}; "
            f"make it with VAE(features={x.shape[1]}, …) or flatten the items"
        )
    x = x.to(vae.prior.mu)
    low, high = x.aminmax()  # one pass; NaN and infinity come through
    if not (low.isfinite() and high.isfinite()):
        bad = (~x.isfinite()).any(1).nonzero()
        raise ValueError(
            f"the data hold NaN or infinity in {len(bad)} items, the first is item {int(bad[0])}"
        )
    if vae.likelihood == "bernoulli" and (low < 0 or high > 1):
        raise ValueError(
            f"a Bernoulli likelihood needs values in [0, 1], got [{low:g}, {high:g}]; "
            "rescale the data, or use likelihood='gaussian'"
        )
    return x


@torch.no_grad()
def evaluate(vae: VAE, x: Tensor, importance_samples: int = 100, seed: int = 0) -> pd.DataFrame:
    """Score every replica on items `x` (items, D) as the VAE that it claims to be.

    q = N(mu, sigma²) with fresh Gaussian eps and beta = 1, however the model was trained: a model that
    was trained without noise gets no credit for a loss that is not a bound. One row per replica:
    `replica, elbo, reconstruction, kl, log_likelihood`, nats per item; the reconstruction is the mean
    over the same `importance_samples` that give `log_likelihood`, the importance-weighted bound.
    Source: burda2016importance.
    """
    x = as_items(vae, x)
    if importance_samples < 1:
        raise ValueError(f"importance_samples is at least 1, got {importance_samples}")
    generator = Generator(x.device).manual_seed(int(seed))
    totals = torch.zeros(3, vae.replicas, dtype=torch.float64, device=x.device)
    # Chunks bound the memory: about a million decoder outputs per replica at a time. Their size must not
    # depend on the number of replicas, so that a replica draws the same eps in any company.
    samples = max(1, 2**20 // (vae.features * 64))
    for items in x.split(64):
        q = vae.encoder(items)
        reconstruction = torch.zeros_like(q.mu[..., 0])
        log_weight = torch.full_like(reconstruction, -math.inf)
        for start in range(0, importance_samples, samples):
            n = min(samples, importance_samples - start)
            eps = torch.randn(n, *q.mu.shape[1:], generator=generator, device=x.device, dtype=x.dtype)
            # The same eps for every replica: their differences are then those of the models.
            z = q.reparameterize(eps.unsqueeze(1))
            log_x = vae.decoder(z).log_prob(items)
            log_w = log_x + vae.prior.log_prob(z) - q.log_prob(z)
            reconstruction += log_x.sum(0)
            log_weight = torch.logaddexp(log_weight, log_w.logsumexp(0))
        kl = kl_divergence(q, vae.prior)
        terms = (reconstruction / importance_samples, kl, log_weight - math.log(importance_samples))
        totals += torch.stack(terms).sum(-1)
    reconstruction, kl, log_likelihood = (totals / len(x)).cpu().numpy()
    return pd.DataFrame(
        {
            "replica": range(vae.replicas),
            "elbo": reconstruction - kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "log_likelihood": log_likelihood,
        }
    )
