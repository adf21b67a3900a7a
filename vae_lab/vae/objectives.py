"""Bounds on the log-likelihood as training objectives.

For a posterior q(z|x) and the prior p(z)

    ELBO(x) = E_q[log p(x|z)] − KL(q(z|x) ‖ p(z)) ≤ log p(x),

the first term by any gradient estimator, the second in closed form. The importance-weighted bound
E[log 1/K Σ_k w_k], w_k = p(x, z_k) / q(z_k|x), lies between the ELBO and log p(x) and tightens with K.
Objectives are functions of `Draws` in one registry, `OBJECTIVES`; your own joins by the decorator.
Sources: kingma2014auto, higgins2017beta, burda2016importance. All values are nats per item.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from ..estimators import Estimator, find_estimator
from ..estimators.costs import NotApplicable
from ..estimators.families import unwrap
from ..registry import Registry, first_sentence
from ..reparameterization import reparameterize
from ..settings import Count, check
from .model import VAE


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


def elbo_terms(vae: VAE, q: Any, reconstruction: Tensor) -> Terms:
    """A `reconstruction` (*batch) beside the KL of `q` to the prior, each q's batch shape.

    Raises `NotApplicable` for a prior to which torch knows no KL.
    """
    prior = vae.prior
    try:
        return Terms(reconstruction, kl_divergence(q, prior.expand(q.batch_shape)))
    except NotImplementedError:
        raise NotApplicable(
            f"torch knows no KL from the encoder's {type(q).__name__} to a prior {type(prior).__name__}: "
            "register one by torch.distributions.register_kl, or give such a prior to `evaluate` only"
        ) from None


def with_free_bits(vae: VAE, q: Any, terms: Terms, nats: Tensor | float) -> Terms:
    """The `terms` (R, B) of `q`, where no latent of a replica costs less than `nats`, a number or (R, 1).

    What counts is the KL of a latent averaged over the batch: below `nats` it is no longer pushed down, and
    its gradient is zero. Raises `NotApplicable` for a prior that does not factorise over latents.
    Source: kingma2016improved.
    """
    prior = vae.prior
    kl = terms.kl
    if isinstance(prior, Independent):
        kl = kl_divergence(unwrap(q), unwrap(prior.expand(q.batch_shape)))
    if kl.shape != (*q.batch_shape, *q.event_shape):
        raise NotApplicable(
            f"free bits are for each latent by itself, and a prior {type(prior).__name__} does not factorise"
        )
    missing = (torch.as_tensor(nats, device=kl.device) - kl.mean(-2)).clamp_min(0).sum(-1, keepdim=True)
    return terms._replace(kl=terms.kl + missing)


def elbo(
    vae: VAE,
    x: Tensor,
    eps: Tensor | None = None,
    estimator: str | Callable[..., Tensor] = "pathwise",
    n: int = 1,
    *,
    q: Any = None,
    detached: Tensor | None = None,
) -> Terms:
    """Terms of the ELBO of items `x` (B, D) or (R, B, D), with gradients by the trick or another
    estimator.

    With `eps` (R, B, Z), or (N, R, B, Z) to average N samples, the draws are those of the trick. Without it,
    `n` samples are drawn from torch's global generator by `estimator`, a name in `ESTIMATORS` or a function
    that keeps their contract, and averaged. `q` is vae.encoder(x) unless given; its batch may have axes in
    front, for replicates. Where `detached` (R, 1, 1) is true, the reconstruction's gradient stops at sigma
    and moves mu only. Raises ValueError if both eps and an estimator are given, and what the estimator raises
    (`NotApplicable`, `CostError`). Source: kingma2014auto.
    """
    if x.shape[-1:] != (vae.features,) or not x.is_floating_point():
        raise ValueError(f"expected float items (…, {vae.features}), got {x.dtype} {tuple(x.shape)}")
    q = vae.encoder(x) if q is None else q
    if eps is None:
        n = check("n", Count, n)
        by = find_estimator(estimator) if isinstance(estimator, str) else estimator
        return elbo_terms(vae, q, by(q, lambda z: vae.decoder(z).log_prob(x), n).mean(0))
    if estimator != "pathwise" or n != 1:
        raise ValueError(f"eps says what to draw, so it goes with neither {estimator=} nor {n=}")
    check_moves(vae)
    check_broadcasts("eps", eps, (*q.batch_shape, *q.event_shape), samples=True)
    if detached is not None:
        if detached.dtype != torch.bool:
            raise ValueError(f"detached: expected truth values, got {detached.dtype}")
        check_broadcasts("detached", detached, (*q.batch_shape, *q.event_shape))
    sigma = q.sigma if detached is None else torch.where(detached, q.sigma.detach(), q.sigma)
    log_x = vae.decoder(reparameterize(q.mu, sigma, eps)).log_prob(x)
    return elbo_terms(vae, q, log_x.mean(0) if eps.ndim > q.mu.ndim else log_x)


def check_broadcasts(name: str, value: Tensor, shape: tuple[int, ...], samples: bool = False) -> None:
    """Raises ValueError for a `value` that does not broadcast to `shape`, with an axis of samples before."""
    own = value.shape[1:] if samples and value.ndim > len(shape) else value.shape
    if len(own) > len(shape) or any(a not in (1, b) for a, b in zip(own[::-1], shape[::-1], strict=False)):
        more = ", with or without an axis of samples before" if samples else ""
        raise ValueError(f"{name}: expected {shape}{more}, got {tuple(value.shape)}")


def check_moves(vae: VAE) -> None:
    """Raises `NotApplicable` for a VAE whose latents eps does not move."""
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
        check_moves(self.vae)
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
        return elbo_terms(self.vae, self.q, self.log_x.mean(0))

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
        name, summary = function.__name__, first_sentence(function)
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
    """The importance-weighted bound log 1/N Σ w, differentiated as it is."""
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


def check_objective(name: str, estimator: str | Estimator) -> None:
    """Raise `UnknownName`, or ValueError where the two do not go together."""
    OBJECTIVES[name], find_estimator(estimator)
    if name != "elbo" and estimator != "pathwise":
        raise ValueError(
            f"objective={name!r} has its own gradient, by the trick; {estimator=} goes with objective='elbo'"
        )


def bound(vae: VAE, q: Any, x: Tensor, objective: str, estimator: str | Estimator, n: int) -> Tensor:
    """The named objective of items `x` (B, D) by n fresh draws of a given `q`: its batch shape, (*S, R, B).

    Draws from torch's global generator. Raises as `check_objective` and the estimator do.
    """
    check_objective(objective, estimator)
    if objective == "elbo":
        return elbo(vae, x, None, estimator, n, q=q).elbo
    eps = torch.randn(n, *q.batch_shape, *q.event_shape, dtype=x.dtype, device=x.device)
    return OBJECTIVES[objective].function(Draws(vae, q, x, eps))
