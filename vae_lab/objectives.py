"""Bounds on the log-likelihood as training objectives, and the honest evaluation of whatever was trained.

For a posterior q(z|x) and the prior p(z)

    ELBO(x) = E_q[log p(x|z)] − KL(q(z|x) ‖ p(z)) ≤ log p(x),

the first term by any gradient estimator, the second in closed form. The importance-weighted bound
E[log 1/K Σ_k w_k], w_k = p(x, z_k) / q(z_k|x), lies between the ELBO and log p(x) and tightens with K.
Objectives are functions of `Draws` in one registry, `OBJECTIVES`; one's own joins by the decorator.
Sources: kingma2014auto, higgins2017beta, burda2016importance. All values are nats per item.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, kl_divergence

from .costs import NotApplicable
from .distributions import reparameterize, unwrap
from .estimators import ESTIMATORS
from .networks import VAE
from .registry import Registry


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


def terms_by(estimator: Callable[..., Tensor], vae: VAE, q: Any, x: Tensor, n: int) -> Terms:
    """Terms of the ELBO of items `x` for a given `q`, by n draws of `estimator`: each q's batch shape."""
    surrogate = estimator(q, lambda z: vae.decoder(z).log_prob(x), n)
    return terms_of(vae, q, surrogate.mean(0))


def terms_of(vae: VAE, q: Any, reconstruction: Tensor) -> Terms:
    """The given reconstruction (*batch) beside the KL of `q` to the prior, each q's batch shape."""
    return Terms(reconstruction, kl_divergence(q, vae.prior.expand(q.batch_shape)))


def elbo(
    vae: VAE,
    x: Tensor,
    eps: Tensor | None = None,
    estimator: str = "pathwise",
    n: int = 1,
    detached: Tensor | None = None,
) -> Terms:
    """Terms of the ELBO of items `x` (B, D) or (R, B, D), with gradients by the trick or another estimator.

    With `eps` (R, B, Z), or (N, R, B, Z) to average N samples, the draws are those of the trick. Without it,
    `n` samples are drawn from torch's global generator by `estimator`, a name in `ESTIMATORS`, and averaged.
    Where `detached` (R, 1, 1) is true, the reconstruction's gradient stops at sigma and moves mu only.
    Raises ValueError if both are given, and what the estimator raises (`NotApplicable`, `CostError`).
    Source: kingma2014auto.
    """
    q = vae.encoder(x)
    if eps is None:
        return terms_by(ESTIMATORS[estimator], vae, q, x, n)
    if estimator != "pathwise" or n != 1:
        raise ValueError(f"eps says what to draw, so it goes with neither {estimator=} nor {n=}")
    _check_moves(vae)
    sigma = q.sigma if detached is None else torch.where(detached, q.sigma.detach(), q.sigma)
    log_x = vae.decoder(reparameterize(q.mu, sigma, eps)).log_prob(x)
    return terms_of(vae, q, log_x.mean(0) if eps.ndim == 4 else log_x)


def _check_moves(vae: VAE) -> None:
    if vae.latent != "normal":
        raise NotApplicable(
            "eps moves normal latents, and this VAE's are Bernoulli; use objective='elbo' with one of the "
            "estimators for discrete q, such as 'disarm' or 'rebar'"
        )


@dataclass
class Draws:
    """What an objective is made of: N draws of z for each item, and the log probabilities at them.

    `q` is vae.encoder(x), with batch shape (*S, R, B), and `eps` (N, *S, R, B, Z) standard normal. The axes S
    are optional: replicates of q. Raises ValueError if q and eps do not fit each other, and
    `NotApplicable` for Bernoulli latents.
    """

    vae: VAE
    q: Any
    x: Tensor
    eps: Tensor

    def __post_init__(self) -> None:
        _check_moves(self.vae)
        expected = (*self.q.batch_shape, *self.q.event_shape)
        if self.eps.shape[1:] != expected:
            raise ValueError(
                f"eps has one leading axis of samples: expected (N, {', '.join(map(str, expected))}), "
                f"got {tuple(self.eps.shape)}"
            )

    @cached_property
    def z(self) -> Tensor:
        """Reparameterized draws, the shape of `eps`."""
        return self.q.reparameterize(self.eps)

    @cached_property
    def log_x(self) -> Tensor:
        """log p(x|z), (N, *S, R, B)."""
        return self.vae.decoder(self.z).log_prob(self.x)

    @property
    def terms(self) -> Terms:
        """The terms of the ELBO by the same draws, each (*S, R, B)."""
        return terms_of(self.vae, self.q, self.log_x.mean(0))

    def log_weights(self, score: bool = True) -> Tensor:
        """log w = log p(x, z) − log q(z|x), (N, *S, R, B); without `score`, q counts as known in log q."""
        q = self.q if score else self.q.detach()
        return self.log_x + self.vae.prior.log_prob(self.z) - q.log_prob(self.z)


@dataclass(frozen=True)
class Objective:
    """A registered objective. Called as `(vae, x, eps)`, eps (N, R, B, Z), it returns (R, B).

    The value is the bound of each item in nats, the gradient is the one to train by. Weights of the decoder
    get theirs, too.
    """

    name: str
    function: Callable[[Draws], Tensor]
    reference: str
    summary: str

    def __call__(self, vae: VAE, x: Tensor, eps: Tensor) -> Tensor:
        return self.function(Draws(vae, vae.encoder(x), x, eps))


OBJECTIVES: Registry[Objective] = Registry(kind="objective")


def objective(reference: str) -> Callable[[Callable[[Draws], Tensor]], Objective]:
    """Register the decorated function of `Draws` in `OBJECTIVES` under its own name.

    >>> @objective(reference="burda2016importance")
    ... def best_of(draws):
    ...     return draws.log_weights().amax(0)
    >>> best_of(VAE(5, 2), torch.rand(4, 5), torch.randn(10, 1, 4, 2)).shape
    torch.Size([1, 4])
    >>> del OBJECTIVES["best_of"]
    """

    def register(function: Callable[[Draws], Tensor]) -> Objective:
        name, summary = function.__name__, (function.__doc__ or "").partition("\n")[0]
        OBJECTIVES[name] = Objective(name, function, reference, summary)
        return OBJECTIVES[name]

    return register


OBJECTIVES["elbo"] = Objective(
    "elbo", lambda draws: draws.terms.elbo, "kingma2014auto", "The ELBO with its KL in closed form."
)


@objective(reference="roeder2017sticking")
def sticking_the_landing(draws: Draws) -> Tensor:
    """The ELBO by sampled log weights, without the score of q: no variance where q is the posterior.

    Unbiased, because the score that is left out has mean zero.
    """
    return draws.log_weights(score=False).mean(0)


def _log_mean(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(0) - math.log(len(log_weights))


@objective(reference="burda2016importance")
def iwae(draws: Draws) -> Tensor:
    """The importance-weighted bound log 1/N Σ w, differentiated as it stands."""
    return _log_mean(draws.log_weights())


@objective(reference="tucker2019doubly")
def iwae_stl(draws: Draws) -> Tensor:
    """The same bound, but the score of q left out as if N were 1: biased for N > 1.

    Proposed in roeder2017sticking. Weighted, the score's mean is not zero (tucker2019doubly).
    """
    return _log_mean(draws.log_weights(score=False))


@objective(reference="tucker2019doubly")
def dreg(draws: Draws) -> Tensor:
    """The same bound with doubly reparameterized gradients.

    With normalised weights v, the decoder's gradient is Σ v ∇log w and the encoder's Σ v² (∂log w/∂z) ∇z.
    Whatever else is differentiated through the same draws gets the second factor v, too.
    """
    log_weights = draws.log_weights(score=False)
    v = log_weights.detach().softmax(0)
    if draws.z.requires_grad:
        draws.z.register_hook(lambda gradient: v.unsqueeze(-1) * gradient)  # the second factor v
    surrogate = (v * log_weights).sum(0)
    return _log_mean(log_weights.detach()) + (surrogate - surrogate.detach())


def check_objective(name: str, estimator: str) -> None:
    """Raise `UnknownName`, or ValueError where the two do not go together."""
    OBJECTIVES[name], ESTIMATORS[estimator]
    if name != "elbo" and estimator != "pathwise":
        raise ValueError(
            f"objective={name!r} has its own gradient, by the trick; {estimator=} goes with objective='elbo'"
        )


def bound(vae: VAE, q: Any, x: Tensor, objective: str, estimator: str, n: int) -> Tensor:
    """The named objective of items `x` (B, D) by n fresh draws of a given `q`: its batch shape, (*S, R, B).

    Draws from torch's global generator. Raises as `check_objective` and the estimator do.
    """
    check_objective(objective, estimator)
    if objective == "elbo":
        return terms_by(ESTIMATORS[estimator], vae, q, x, n).elbo
    eps = torch.randn(n, *q.batch_shape, *q.event_shape, dtype=x.dtype, device=x.device)
    return OBJECTIVES[objective].function(Draws(vae, q, x, eps))


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
    x = x.to(vae.prior.mean)
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
def score(
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
    importance-weighted bound. `score` has the values of each item, and says what `prior` may be.
    Source: burda2016importance.
    """
    scores = score(vae, x, importance_samples, seed, prior)
    means = {name: values.mean(1).cpu().numpy() for name, values in scores.items()}
    return pd.DataFrame({"replica": range(vae.replicas), **means})
