"""What must hold of the mathematics, as checks that can also be run on ruined code.

Each check looks the package's functions up when it runs, so that a test may replace one of them by a wrong
variant and see that the check notices.
"""

import math

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from vae_lab import VAE, evaluate, reparameterization
from vae_lab.measure.statistics import deviation_limit, moments
from vae_lab.vae import objectives


def linear_vae(data: Tensor, latents: int, seed: int = 0) -> VAE:
    """A VAE without hidden layers and with a normal likelihood, in float64: all of it has closed forms."""
    return VAE(data.shape[1], latents, hidden=(), likelihood="gaussian", seed=seed).double()


def items(count: int, features: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, features, generator=generator, dtype=torch.float64)


def check_same_distribution() -> None:
    """mu + sigma * eps is distributed as N(mu, sigma²) (KS test, one false alarm in a million)."""
    generator = torch.Generator().manual_seed(0)
    for mu, log_sigma in ((0.0, 0.0), (-1.5, 0.9), (3.0, -1.1)):
        parameters = torch.tensor([[mu], [log_sigma]], dtype=torch.float64)
        q = reparameterization.DiagonalNormal(parameters[0], parameters[1])
        eps = torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
        z = q.reparameterize(eps).squeeze(-1).numpy()
        assert stats.kstest(z, "norm", (mu, math.exp(log_sigma))).pvalue > 1e-6 / 3


def check_pathwise_gradient() -> None:
    """The gradient of f(z) at fixed eps equals finite differences with the same eps, to rounding."""
    parameters = items(2, 4).requires_grad_()
    eps = items(3, 4, seed=1)

    def cost(values: Tensor) -> Tensor:
        z = reparameterization.DiagonalNormal(values[0], values[1]).reparameterize(eps)
        return (z.sin() + z**2).sum()

    assert torch.autograd.gradcheck(cost, parameters)
    z = reparameterization.DiagonalNormal(parameters[0], parameters[1]).reparameterize(eps)
    by_mu, by_log_sigma = torch.autograd.grad(z.sum(), parameters)[0]
    torch.testing.assert_close(by_mu, torch.full_like(by_mu, 3.0))
    torch.testing.assert_close(by_log_sigma, eps.sum(0) * parameters[1].detach().exp())


def check_elbo_closed_form() -> None:
    """The ELBO of a linear VAE equals its closed form, at one false alarm in a million.

    With decoder N(zW + b, s²) and q = N(mu, diag(sigma²)),
    E_q[log p(x|z)] = −½ [D log 2πs² + (‖x − muW − b‖² + Σ_j sigma_j² ‖W_j‖²) / s²].
    """
    x = items(6, 5)
    vae = linear_vae(x, latents=3)
    assert vae.decoder.log_scale is not None
    with torch.no_grad():
        vae.decoder.log_scale.fill_(-0.4)
        q = vae.encoder(x)
        layer = vae.decoder.stack.layers[0]
        weight, bias, variance = layer.weight[0], layer.bias[0], math.exp(-0.8)
        mu, sigma = q.mu[0], q.log_sigma[0].exp()
        distance = ((x - mu @ weight - bias) ** 2).sum(1) + sigma**2 @ (weight**2).sum(1)
        reconstruction = -0.5 * (x.shape[1] * math.log(2 * math.pi * variance) + distance / variance)
        kl = 0.5 * (mu**2 + sigma**2 - 1 - 2 * sigma.log()).sum(1)

        # Many samples of each item are so many more items.
        samples, generator = 50_000, torch.Generator().manual_seed(0)
        eps = torch.randn(1, samples * len(x), 3, generator=generator, dtype=torch.float64)
        terms = objectives.elbo(vae, x.repeat(samples, 1), eps)
        torch.testing.assert_close(terms.kl[0, : len(x)], kl)
        estimates = terms.elbo[0].unflatten(0, (samples, len(x)))
    limit = deviation_limit(comparisons=len(x))
    for item, exact in enumerate(reconstruction - kl):
        estimate = moments(estimates[:, item].numpy())
        assert estimate.mean_se < 0.1, "the comparison must have power"
        assert abs(estimate.mean - exact) < limit * estimate.mean_se


def check_exact_posterior() -> None:
    """With the exact posterior as q, ELBO and importance-weighted bound equal log p(x), whatever eps is.

    In the linear model p(x) = N(b, WᵀW + s²I), and the posterior is diagonal when the rows of W are
    orthogonal: mean xWᵀ / (‖w_j‖² + s²) and variance s² / (‖w_j‖² + s²).
    """
    x = items(50, 5)
    vae = linear_vae(x, latents=2)
    assert vae.decoder.log_scale is not None
    gains, variance = torch.tensor([1.3, 0.6], dtype=torch.float64), 0.49
    rows = torch.linalg.qr(items(5, 2, seed=3)).Q.T * gains.unsqueeze(-1)
    with torch.no_grad():
        vae.decoder.log_scale.fill_(0.5 * math.log(variance))
        decoder, encoder = vae.decoder.stack.layers[0], vae.encoder.stack.layers[0]
        decoder.weight[0], decoder.bias[0] = rows, 0.0
        precision = gains**2 + variance
        encoder.weight[0] = torch.cat([rows.T / precision, torch.zeros(5, 2, dtype=torch.float64)], dim=1)
        encoder.bias[0] = torch.cat([torch.zeros(2).double(), 0.5 * (variance / precision).log()])
    covariance = rows.T @ rows + variance * torch.eye(5, dtype=torch.float64)
    exact = stats.multivariate_normal(np.zeros(5), covariance.numpy()).logpdf(x.numpy()).mean()
    scores = evaluate(vae, x, importance_samples=7).iloc[0]
    np.testing.assert_allclose(scores["log_likelihood"], exact, rtol=1e-12)
    # The reconstruction is estimated by samples, the KL is exact: only their sum's mean is log p(x).
    many = moments(np.array([evaluate(vae, x, importance_samples=1, seed=s)["elbo"][0] for s in range(200)]))
    assert many.mean_se < 0.05
    assert abs(many.mean - exact) < deviation_limit() * many.mean_se


CHECKS = (check_same_distribution, check_pathwise_gradient, check_elbo_closed_form, check_exact_posterior)
