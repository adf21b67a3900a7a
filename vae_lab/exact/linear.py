"""The linear Gaussian VAE and its exact solutions: the ground truth for everything else.

With encoder mu = Vᵀx + b, a sigma that is the same for all items, and decoder N(Wᵀz + c, t I), the ELBO is a
function of the data's mean and covariance S alone. Its best value is the log-likelihood of probabilistic
principal component analysis (tipping1999probabilistic, lucas2019dont). With S's eigenvalues l, in descending
order, a latent's gain w² (the squared length of its row of W) is l − t, its posterior variance t/l and its KL
½ ln(l/t); t is the mean of the eigenvalues left out.

Everything that noise does here enters by the mean and the variance of eps. For a fixed t, the optimum of
reconstruction − beta · KL, one eigenvalue at a time:

    eps of variance τ²        w² = ½ [l + √(l² − 4 l beta t (1 − 1/τ²))] − beta t
    sigma constant c          w² = √(l beta t) / (c τ) − beta t
    no eps, decoder_l2 = λ    w² = √(l beta / λ) − beta t

where that is positive and better than w = 0, else w = 0. The last two are one and the same for λ = c² τ² / t.
Without eps and λ there is no optimum: w grows without bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal

from ..clock import counts_as
from ..reparameterization import DiagonalNormal, reparameterize
from ..settings import Count, Finite, NotNegative, Positive, check
from ..vae.layers import Linear
from ..vae.model import VAE, as_items
from ..vae.objectives import Terms
from ..vae.streams import per_replica

Setting = Tensor | Sequence[float] | float


@dataclass(frozen=True)
class PPCA:
    """Probabilistic principal component analysis of items (N, D) with k components, in float64.

    `mean` (D,), `eigenvalues` (D,) of the covariance in descending order, `noise_variance` t,
    `log_likelihood` of the items in nats per item; per latent (k,): `gains` l − t, `posterior_variance` t/l
    and `kl` ½ ln(l/t) in nats; `weights` (k, D), the decoder's up to a rotation. `active` counts the
    eigenvalues above t among the first k.
    """

    mean: Tensor
    eigenvalues: Tensor
    noise_variance: float
    log_likelihood: float
    gains: Tensor
    posterior_variance: Tensor
    kl: Tensor
    weights: Tensor

    @property
    def distribution(self) -> LowRankMultivariateNormal:
        """p(x) = N(mean, WᵀW + t I): samples new items, and gives log p(x) of any in nats."""
        noise = torch.full_like(self.mean, self.noise_variance)
        return LowRankMultivariateNormal(self.mean, self.weights.mT, noise)

    @property
    def active(self) -> int:
        """Latents that carry information at the optimum: eigenvalues above t by more than rounding."""
        return int((self.gains > 1e-12 * self.eigenvalues[0]).sum())


def _mean_and_covariance(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean(0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    if not covariance.isfinite().all():
        raise ValueError("the squares of the items are more than float64 can hold; standardise the items")
    return mean, covariance


def ppca(x: Tensor, k: int) -> PPCA:
    """The exact maximum-likelihood solution for items `x` (N, D) and `k` < D latents.

    Raises ValueError where k is out of range, or where k components leave no variance for the noise.
    Source: tipping1999probabilistic.
    """
    k = check("k", int, k)
    if not isinstance(x, Tensor) or x.ndim != 2 or x.is_complex():
        got = (
            f"{x.dtype} {tuple(x.shape)}"
            if isinstance(x, Tensor)
            else f"{type(x).__name__}; see torch.as_tensor"
        )
        raise ValueError(f"expected items (N, D) as a tensor, got {got}")
    if not len(x) or not 1 <= k < x.shape[1]:
        raise ValueError(
            f"expected items (N, D), N at least 1, and 1 <= k < D, got shape {tuple(x.shape)} and k={k}"
        )
    x = x.detach().double()
    if not x.isfinite().all():
        raise ValueError("the items hold NaN or infinity")
    features = x.shape[1]
    mean, covariance = _mean_and_covariance(x)
    ascending, axes = torch.linalg.eigh(covariance)
    eigenvalues = ascending.flip(0)
    kept, t = eigenvalues[:k], eigenvalues[k:].mean().item()
    if t <= torch.finfo(x.dtype).eps * eigenvalues[0]:
        raise ValueError(f"{k} components explain all of the variance, so the likelihood has no maximum")
    log_determinant = kept.log().sum().item() + (features - k) * math.log(t)
    return PPCA(
        mean=mean,
        eigenvalues=eigenvalues,
        noise_variance=t,
        log_likelihood=-0.5 * (features * (math.log(2 * math.pi) + 1) + log_determinant),
        gains=kept - t,
        posterior_variance=t / kept,
        kl=0.5 * (kept / t).log(),
        weights=(axes.flip(1)[:, :k] * (kept - t).clamp_min(0).sqrt()).mT,
    )


def optimal_gains(
    eigenvalues: Tensor,
    noise_variance: float,
    *,
    eps_variance: float = 1.0,
    sigma: float | None = None,
    beta: float = 1.0,
    decoder_l2: float = 0.0,
) -> Tensor:
    """Gains w² of the linear VAE's optimum for `eigenvalues` l, same shape, at a fixed noise variance t.

    `eps_variance` is τ², and `sigma` a constant standard deviation c of the posterior, or None for a learned
    one. The module's docstring has the formulas. Raises ValueError where there is no finite optimum, and for
    decoder_l2 beside noise with a learned sigma, which has no formula.
    """
    t, spread = noise_variance, eigenvalues.double()
    if not spread.isfinite().all():
        raise ValueError("the eigenvalues hold NaN or infinity")
    if not (t > 0 and beta > 0 and eps_variance >= 0 and decoder_l2 >= 0 and (sigma is None or sigma > 0)):
        raise ValueError(
            "noise_variance, beta and sigma are positive, eps_variance and decoder_l2 at least 0, got "
            f"{noise_variance=}, {beta=}, {sigma=}, {eps_variance=}, {decoder_l2=}"
        )
    if sigma is not None or eps_variance == 0:
        price = decoder_l2 + (0.0 if sigma is None else sigma**2 * eps_variance / t)  # of w²
        if price == 0:
            raise ValueError("no finite optimum: without noise and decoder_l2 the gains grow without bound")
        return ((spread * beta / price).sqrt() - beta * t).clamp_min(0)
    if decoder_l2:
        raise ValueError("decoder_l2 beside noise with a learned sigma has no formula; give sigma")
    root = spread**2 - 4 * spread * beta * t * (1 - 1 / eps_variance)
    w2 = 0.5 * (spread + root.clamp_min(0).sqrt()) - beta * t
    # Both are stationary. What is minimised, over beta/2, without what they share:
    active = spread / (w2 + beta * t) + (w2 * eps_variance / (beta * t)).log1p()
    better = (root >= 0) & (w2 > 0) & (active < spread / (beta * t))
    return torch.where(better, w2, torch.zeros_like(w2))


def _each(name: str, value: Setting, like: Tensor) -> Tensor:
    """One number, or one for each replica, as (R, 1, 1), for weights `like` (R, ...)."""
    kind = Finite if name == "eps_mean" else NotNegative
    return like.new_tensor(per_replica(name, value, len(like), kind)).view(-1, 1, 1)


def _closed_form(
    covariance: Tensor,
    gap: Tensor,
    middle: DiagonalNormal,
    v: Tensor,
    w: Tensor,
    log_scale: Tensor,
    eps_variance: Tensor,
) -> Terms:
    """Mean terms of the ELBO, each (R,), from q of the mean item (R, 1, Z), what the decoder misses of it at
    the mean z, `gap` (R, 1, D), and the weights V (R, D, Z) and W (R, Z, D)."""
    features, variance, log_t = len(covariance), middle.sigma.square(), 2 * log_scale.flatten()
    missed = torch.eye(features, dtype=v.dtype, device=v.device) - v @ w
    error = (missed * (covariance @ missed)).sum((-2, -1)) + gap.square().sum((-2, -1))
    error = error + (eps_variance * variance @ w.square()).sum((-2, -1))
    reconstruction = -0.5 * (features * (math.log(2 * math.pi) + log_t) + error * (-log_t).exp())
    squares = (v * (covariance @ v)).sum((-2, -1)) + middle.mu.square().sum((-2, -1))
    return Terms(reconstruction, 0.5 * (squares + (variance - 1 - 2 * middle.log_sigma).sum((-2, -1))))


class _SharedSigma(Linear):
    """A head whose second half, log sigma, does not depend on x: it has a bias and no weights."""

    def matrix(self) -> Tensor:
        mu, log_sigma = self.weight.chunk(2, dim=-1)
        return torch.cat([mu, torch.zeros_like(log_sigma)], dim=-1)


class LinearVAE(VAE):
    """A VAE without hidden layers, in float64, whose sigma is the same for all items.

    `noise_variance` fixes the decoder's variance t, which is otherwise learned; the other arguments are
    those of `VAE`. It trains by `fit` like any VAE, and to the last digit by `maximise`.
    """

    _last_layer = _SharedSigma

    def __init__(
        self,
        features: int,
        latents: int,
        replicas: int = 1,
        seed: int | Sequence[int] = 0,
        sigma: float | Sequence[float | None] | None = None,
        noise_variance: float | None = None,
    ) -> None:
        super().__init__(features, latents, (), "gaussian", replicas, seed, sigma=sigma)
        self.noise_variance = check("noise_variance", Positive | None, noise_variance)
        self.double()
        with torch.no_grad():
            self._head.weight[..., latents:] = 0
            self._head.bias[..., latents:] = 0  # sigma starts at 1
            if self.noise_variance is not None:
                self._log_scale.fill_(0.5 * math.log(self.noise_variance))
        self._log_scale.requires_grad_(self.noise_variance is None)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor arguments that make this model again (before training)."""
        names = ["features", "latents", "replicas", "sigma", "noise_variance"]
        return {name: getattr(self, name) for name in names} | {"seed": self.seeds}

    @property
    def _head(self) -> Linear:
        return self.encoder.stack.layers[0]  # type: ignore[return-value]

    @property
    def _layer(self) -> Linear:
        return self.decoder.stack.layers[0]  # type: ignore[return-value]

    @property
    def _log_scale(self) -> Tensor:
        return self.decoder.log_scale  # type: ignore[return-value]

    @property
    def gains(self) -> Tensor:
        """The squared singular values of the decoder, (R, Z), in descending order."""
        return torch.linalg.svdvals(self._layer.weight.detach()).square()

    def expected_terms(self, x: Tensor, eps_mean: Setting = 0.0, eps_variance: Setting = 1.0) -> Terms:
        """The terms of the ELBO of items `x` (N, D) in closed form, their mean over items: each (R,).

        For noise with the given mean and variance, whatever its distribution: numbers, or one for each
        replica (R,).
        """
        mean, covariance = _mean_and_covariance(as_items(self, x))
        first = _each("eps_mean", eps_mean, self._layer.weight)
        second = _each("eps_variance", eps_variance, self._layer.weight)
        middle = self.encoder(mean.unsqueeze(0))  # q of the mean item, R, 1, Z
        output = self._layer(middle.reparameterize(first))
        v, w = self._head.weight[..., : self.latents], self._layer.weight
        return _closed_form(covariance, mean - output, middle, v, w, self._log_scale, second)

    @torch.no_grad()
    def log_likelihood(self, x: Tensor) -> Tensor:
        """The exact mean of log p(x) over items `x` (N, D), in nats: (R,)."""
        w, t = self._layer.weight, (2 * self._log_scale).exp()
        covariance = w.mT @ w + t * torch.eye(self.features, dtype=w.dtype, device=w.device)
        normal = MultivariateNormal(self._layer.bias.squeeze(1), covariance)
        return normal.log_prob(as_items(self, x).unsqueeze(1)).mean(0)

    @counts_as("training")
    @torch.enable_grad()
    def maximise(
        self,
        x: Tensor,
        *,
        eps_mean: Setting = 0.0,
        eps_variance: Setting = 1.0,
        beta: Setting = 1.0,
        decoder_l2: Setting = 0.0,
        steps: int = 4000,
    ) -> Tensor:
        """Train all replicas on `expected_terms` by L-BFGS; the objective's final values (R,), in nats.

        The settings are those of `fit`, with eps by its mean and variance; each is one number, or
        one for each replica. A step is one iteration for all replicas together; one that has no optimum holds
        up the others. Raises ValueError, and leaves the model as it was, for settings out of range, for items
        without variance, and where the search does not end at finite weights.
        """
        settings = {
            "eps_mean": eps_mean,
            "eps_variance": eps_variance,
            "beta": beta,
            "decoder_l2": decoder_l2,
        }
        values = {name: _each(name, value, self._layer.weight) for name, value in settings.items()}
        problem = _Conditioned(self, as_items(self, x), **values)
        problem.maximise(check("steps", Count, steps))
        return problem.write_back()


class _Conditioned:
    """The objective of a `LinearVAE` in variables along which its curvatures are of one size, as L-BFGS wants
    them.

    So data are whitened, the encoder's bias is given by its output for the mean item, `centre`, and the
    decoder's by its own output for that, `output`.
    """

    LEAST_SPREAD = 1e-3  # of the mean eigenvalue: what has less variance is not stretched any further
    HISTORY = 50  # steps that L-BFGS remembers
    TOLERANCE_GRADIENT, TOLERANCE_CHANGE = 1e-9, 1e-13
    # What the objective is multiplied by: torch's L-BFGS learns nothing from a step whose product with the
    # change of slope along it is below 1e-10, and so would stay where it is on a long plateau.
    SCALE = 1e6

    def __init__(
        self,
        vae: LinearVAE,
        x: Tensor,
        eps_mean: Tensor,
        eps_variance: Tensor,
        beta: Tensor,
        decoder_l2: Tensor,
    ) -> None:
        self.vae, self.eps_mean, self.eps_variance = vae, eps_mean, eps_variance
        self.beta, self.price = beta.flatten(), decoder_l2.flatten()
        self.mean, self.covariance = _mean_and_covariance(x)
        spread, axes = torch.linalg.eigh(self.covariance)
        self._check(spread)
        self.whiten = axes / spread.clamp_min(self.LEAST_SPREAD * spread.mean()).sqrt() @ axes.T
        middle = vae.encoder(self.mean.unsqueeze(0))
        output = vae._layer(middle.reparameterize(eps_mean))
        if (self.mean - output).square().sum(-1).max() > 1e4 * spread.sum():
            # So far from the data, the search would be lost at once: it starts at their mean.
            middle, output = DiagonalNormal(0 * middle.mu, middle.log_sigma), self.mean.expand_as(output)
        v = torch.linalg.solve(self.whiten, vae._head.weight[..., : vae.latents])
        leaves = [v, middle.mu, middle.log_sigma, vae._layer.weight, output, vae._log_scale]
        leaves = [leaf.detach().clone(memory_format=torch.contiguous_format) for leaf in leaves]
        self.v, self.centre, self.log_sigma, self.w, self.output, self.log_scale = leaves
        self.free = leaves if vae._log_scale.requires_grad else leaves[:-1]

    def _check(self, spread: Tensor) -> None:
        """Raises ValueError where items of such variances, in ascending order, have no optimum."""
        eps = torch.finfo(spread.dtype).eps
        rounding = (16 * eps * self.mean).square().sum()  # of the mean, which the items are taken from
        if spread[-1] <= rounding:
            raise ValueError("the items do not vary (all are equal, or there is one): nothing can be learned")
        left_out = spread[: -self.vae.latents].sum()
        unbounded = self.vae.noise_variance is None and None in self.vae.sigma
        if unbounded and left_out <= rounding + len(spread) * eps * spread.sum():
            raise ValueError(
                f"{self.vae.latents} latents explain all of the variance, so the likelihood has no maximum; "
                "give a noise_variance, or take fewer latents"
            )

    def objective(self) -> Tensor:
        """Reconstruction − beta · KL − decoder_l2 / 2 · |W|², (R,)."""
        q = DiagonalNormal(self.centre, self.vae.encoder.within_limits(self.log_sigma), validate_args=False)
        gap, v = self.mean - self.output, self.whiten @ self.v
        terms = _closed_form(self.covariance, gap, q, v, self.w, self.log_scale, self.eps_variance)
        return terms.weighted(self.beta) - 0.5 * self.price * self.w.square().sum((-2, -1))

    def maximise(self, steps: int) -> None:
        for leaf in self.free:
            leaf.requires_grad_()
        optimizer = torch.optim.LBFGS(
            self.free,
            max_iter=steps,
            max_eval=2 * steps,
            history_size=self.HISTORY,
            line_search_fn="strong_wolfe",
            tolerance_grad=self.SCALE * self.TOLERANCE_GRADIENT,
            tolerance_change=self.TOLERANCE_CHANGE,
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = -self.SCALE * self.objective().sum()
            value.backward()
            return value

        optimizer.step(loss)

    @torch.no_grad()
    def write_back(self) -> Tensor:
        """Give the model these values; the objective's, (R,)."""
        vae, v = self.vae, self.whiten @ self.v
        if not all(leaf.isfinite().all() for leaf in self.free):
            raise ValueError("the search ended at weights that are not finite; there may be no optimum")
        vae._head.weight[..., : vae.latents] = v
        vae._head.bias.copy_(torch.cat([self.centre - self.mean.unsqueeze(0) @ v, self.log_sigma], dim=-1))
        vae._layer.weight.copy_(self.w)
        sigma = vae.encoder.within_limits(self.log_sigma).exp()
        z = reparameterize(self.centre, sigma, self.eps_mean)
        vae._layer.bias.copy_(self.output - z @ self.w)
        vae._log_scale.copy_(self.log_scale)
        return self.objective()
