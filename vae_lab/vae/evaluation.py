"""The honest evaluation of whatever was trained, as the VAE that it claims to be."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, kl_divergence

from ..estimators.families import unwrap
from .model import VAE, as_items


def _shared_draws(q: Any, n: int, generator: Generator) -> Tensor:
    """n draws (n, R, B, Z), with the same noise for every replica, so that they differ as the models do."""
    base = unwrap(q)
    binary = isinstance(base, Bernoulli)
    like = base.logits if binary else q.mu
    shape, kind = (n, 1, *like.shape[1:]), {"device": like.device, "dtype": like.dtype}
    if binary:
        return (torch.rand(shape, generator=generator, **kind) < base.probs).to(like)
    return q.reparameterize(torch.randn(shape, generator=generator, **kind))


@torch.no_grad()
def evaluate_items(
    vae: VAE, x: Tensor, importance_samples: int = 100, seed: int = 0, prior: Any = None
) -> dict[str, Tensor]:
    """The honest scores of `evaluate` for each item: name -> (R, items), float64, nats.

    `prior` takes the place of N(0, I): a distribution over z with batch shape () or (R, 1). Where torch knows
    no KL to it, the same draws estimate the KL.
    """
    x = as_items(vae, x)
    if importance_samples < 1:
        raise ValueError(f"importance_samples is at least 1, got {importance_samples}")
    prior = vae.prior if prior is None else prior
    generator = Generator(x.device).manual_seed(int(seed))
    # Chunks bound the memory: about a million decoder outputs per replica at a time. Their size must not
    # depend on the number of replicas, so that a replica draws the same eps in any company.
    samples = max(1, 2**20 // (vae.features * 64))
    found: list[Tensor] = []
    for items in x.split(64):
        q = vae.encoder(items)
        reconstruction = torch.zeros(q.batch_shape, dtype=x.dtype, device=x.device)
        sampled_kl, log_weight = reconstruction.clone(), torch.full_like(reconstruction, -math.inf)
        for start in range(0, importance_samples, samples):
            n = min(samples, importance_samples - start)
            z = _shared_draws(q, n, generator)
            log_x, log_ratio = vae.decoder(z).log_prob(items), prior.log_prob(z) - q.log_prob(z)
            reconstruction += log_x.sum(0)
            sampled_kl -= log_ratio.sum(0)
            log_weight = torch.logaddexp(log_weight, (log_x + log_ratio).logsumexp(0))
        try:
            kl = kl_divergence(q, prior.expand(q.batch_shape))
        except NotImplementedError:
            kl = sampled_kl / importance_samples
        terms = (reconstruction / importance_samples, kl, log_weight - math.log(importance_samples))
        found.append(torch.stack(terms).double())
    reconstruction, kl, log_likelihood = torch.cat(found, dim=-1)
    return {
        "elbo": reconstruction - kl,
        "reconstruction": reconstruction,
        "kl": kl,
        "log_likelihood": log_likelihood,
    }


def evaluate(
    vae: VAE, x: Tensor, importance_samples: int = 100, seed: int = 0, prior: Any = None
) -> pd.DataFrame:
    """Score every replica on items `x` (items, D) as the VAE that it claims to be.

    q = N(mu, sigma²) with fresh Gaussian eps (or the encoder's Bernoulli variables) and beta = 1, however the
    model was trained: a model trained without noise gets no credit for a loss that is not a bound.
    One row per replica: `replica, elbo, reconstruction, kl, log_likelihood`, nats per item; the
    reconstruction is the mean over the same `importance_samples` that give `log_likelihood`, the
    importance-weighted bound. `evaluate_items` has the values of each item, and says what `prior` may be.
    Source: burda2016importance.
    """
    scores = evaluate_items(vae, x, importance_samples, seed, prior)
    means = {name: values.mean(1).cpu().numpy() for name, values in scores.items()}
    return pd.DataFrame({"replica": range(vae.replicas), **means})
