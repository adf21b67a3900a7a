"""The honest evaluation of whatever was trained, as the VAE that it claims to be."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Distribution, kl_divergence

from ..clock import counts_as
from ..estimators.families import unwrap
from ..reparameterization import DiagonalNormal
from ..settings import Count, Seed, check
from .model import VAE, as_items


def _shared_draws(q: Any, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """n draws z (n, R, B, Z) and their log q (n, R, B), the latter in float64.

    The noise is the same for every replica, so that they differ as the models do. The log q of the encoder's
    normal is read off the noise: z − mu has no digits left where sigma is small beside mu.
    """
    base = unwrap(q)
    binary = isinstance(base, Bernoulli)
    like = base.logits if binary else q.mu
    shape, kind = (n, 1, *like.shape[1:]), {"device": like.device, "dtype": like.dtype}
    if binary:
        z = (torch.rand(shape, generator=generator, **kind) < base.probs).to(like)
        return z, q.log_prob(z).double()
    eps = torch.randn(shape, generator=generator, **kind)
    if type(q) is not DiagonalNormal:  # one derived from it may have another density
        z = q.reparameterize(eps)
        return z, q.log_prob(z).double()
    log_eps = -0.5 * (eps.double().square() + math.log(2 * math.pi)).sum(-1)
    return q.reparameterize(eps), log_eps - q.log_sigma.double().sum(-1)


def _double(q: Any) -> Any:
    """`q` in float64, whose KL is finite for log sigma from −370 to 350."""
    if type(q) is not DiagonalNormal:
        return q
    return DiagonalNormal(q.mu.double(), q.log_sigma.double(), validate_args=False)


@counts_as("evaluation")
@torch.no_grad()
def evaluate_items(
    vae: VAE, x: Tensor, importance_samples: int = 100, seed: int = 0, prior: Any = None
) -> dict[str, Tensor]:
    """The honest scores of `evaluate` for each item: name -> (R, items), float64, nats.

    `prior` takes the place of N(0, I): a distribution over z with batch shape () or (R, 1). Where torch knows
    no KL to it, the same draws estimate the KL. Raises ValueError for items or settings that do not fit, and
    FloatingPointError, naming replica and item, for scores that are not finite.
    """
    x = as_items(vae, x)
    importance_samples = check("importance_samples", Count, importance_samples)
    prior = vae.prior if prior is None else prior
    if not isinstance(prior, Distribution):
        raise ValueError(f"prior: expected a distribution over z, got {type(prior).__name__}")
    generator = Generator(x.device).manual_seed(check("seed", Seed, seed))
    # Chunks bound the memory: about a million decoder outputs per replica at a time. Their size must not
    # depend on the number of replicas, so that a replica draws the same eps in any company.
    samples = max(1, 2**20 // (vae.features * 64))
    # A processor is done sooner with parts that stay in its cache, if its products do not get too small.
    cached = max(4, 2**17 // (vae.replicas * 64 * vae.features))
    found: list[Tensor] = []
    for items in x.split(64):
        q = vae.encoder(items)
        reconstruction = torch.zeros(q.batch_shape, dtype=torch.float64, device=x.device)
        sampled_kl, log_weight = reconstruction.clone(), torch.full_like(reconstruction, -math.inf)
        for start in range(0, importance_samples, samples):
            n = min(samples, importance_samples - start)
            z, log_q = _shared_draws(q, n, generator)
            parts = z.split(cached if x.device.type == "cpu" else n)
            log_x = torch.cat([vae.decoder(part).log_prob(items) for part in parts]).double()
            log_ratio = prior.log_prob(z) - log_q
            reconstruction += log_x.sum(0)
            sampled_kl -= log_ratio.sum(0)
            log_weight = torch.logaddexp(log_weight, (log_x + log_ratio).logsumexp(0))
        try:
            kl = kl_divergence(_double(q), prior.expand(q.batch_shape)).double()
        except NotImplementedError:
            kl = sampled_kl / importance_samples
        found.append(
            torch.stack((reconstruction / importance_samples, kl, log_weight - math.log(importance_samples)))
        )
    scores = torch.cat(found, dim=-1)
    if not (finite := scores.isfinite().all(0)).all():
        r, item = (~finite).nonzero()[0].tolist()
        values = dict(
            zip(("reconstruction", "kl", "log_likelihood"), scores[:, r, item].tolist(), strict=True)
        )
        raise FloatingPointError(
            f"scores are not finite for {int((~finite[r]).sum())} items of replica {r}, the first is item "
            f"{item}: {values}; look for where its training diverged"
        )
    reconstruction, kl, log_likelihood = scores
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
