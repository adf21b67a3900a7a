"""Free posteriors against their identities, a quadrature, and the exact posterior of a linear decoder."""

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from contracts import items
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.autograd.functional import hessian

from vae_lab import VAE, DiagonalNormal, fit, load, reparameterize
from vae_lab.exact.posterior import curvature, fit_posterior, frozen_posterior

DIGITS = load("digits", None)
X = DIGITS.test[:5].double()


@cache
def some_vae(epochs: int, likelihood: str = "bernoulli", latents: int = 2) -> VAE:
    vae = VAE(64, latents, (16,), likelihood, replicas=2)  # type: ignore[arg-type]
    if epochs:
        fit(vae, DIGITS.train[:300], epochs=epochs, batch_size=50, learning_rate=1e-2, progress=False)
    return vae.double()


def product_rule(order: int, latents: int) -> tuple[Tensor, Tensor]:
    """Points (order^Z, 1, 1, Z) and weights of Gauss and Hermite's rule for N(0, I)."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(order))
    points = torch.cartesian_prod(*[nodes] * latents).view(-1, 1, 1, latents)
    shares = torch.cartesian_prod(*[weights / weights.sum()] * latents).view(-1, latents).prod(-1)
    return points, shares


# Frozen eps


@given(z=st.floats(-20, 20), eps=st.floats(-3, 3))
def test_the_frozen_posterior_keeps_z_and_has_the_least_kl(z: float, eps: float) -> None:
    mu, sigma = (value.item() for value in frozen_posterior(*torch.tensor([z, eps], dtype=torch.float64)))

    def kl(log_sigma: float) -> float:
        return 0.5 * ((z - math.exp(log_sigma) * eps) ** 2 + math.exp(2 * log_sigma) - 1) - log_sigma

    least = minimize_scalar(kl, bounds=(-8, 6), method="bounded", options={"xatol": 1e-12})
    assert mu + sigma * eps == pytest.approx(z, rel=1e-14, abs=1e-13)
    assert sigma > 0
    assert kl(math.log(sigma)) <= least.fun + 1e-12 * (1 + z**2)
    # Near its minimum a function is flat: half of the digits.
    assert math.log(sigma) == pytest.approx(least.x, abs=1e-5)


def test_the_frozen_identity_holds_to_rounding() -> None:
    z, eps = items(7, 1), torch.tensor([0.0, 1.0, -0.3, 2.5], dtype=torch.float64)
    mu, sigma = frozen_posterior(z, eps)
    assert mu.shape == sigma.shape == (7, 4)
    torch.testing.assert_close(sigma - 1 / sigma, eps * mu, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(mu + sigma * eps, z.expand(7, 4), rtol=1e-14, atol=1e-14)
    assert (sigma[:, 0] == 1).all() and torch.equal(mu[:, 0], z[:, 0])


@pytest.mark.parametrize("z", [100.0, 1e3, 1e4])
def test_the_frozen_identity_holds_in_single_precision_far_from_the_origin(z: float) -> None:
    for eps in (1.0, -1.0):
        mu, sigma = frozen_posterior(torch.tensor([z, -z]), torch.tensor(eps))
        torch.testing.assert_close(sigma - 1 / sigma, eps * mu, rtol=1e-5, atol=0)


FROZEN = {
    "none": torch.zeros(1, 1, 1, 2),
    "ones": torch.ones(1, 1, 1, 2),
    "random": items(10, 2, seed=3).view(1, 2, 5, 2),
}


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("name", FROZEN)
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("epochs", [0, 20])
def test_what_a_frozen_eps_makes_of_sigma(epochs: int, likelihood: str, name: str, beta: float) -> None:
    """sigma − 1/sigma = eps · mu, whatever decoder, data and beta: the frozen posterior of its own z."""
    vae, eps = some_vae(epochs, likelihood), FROZEN[name]
    q = fit_posterior(vae, X, eps, beta=beta)
    assert (q.batch_shape, q.event_shape) == ((2, 5), (2,))
    eps = eps[0].double()
    assert (q.sigma - 1 / q.sigma - eps * q.mu).abs().max() < 1e-5
    for found, expected in zip((q.mu, q.sigma), frozen_posterior(q.reparameterize(eps), eps), strict=True):
        assert (found - expected).abs().max() < 1e-5
    if epochs:
        assert q.mu.abs().max() > 0.5, "not just the prior"


# Random eps


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("epochs", [0, 20])
def test_sigma_is_the_expected_curvature(epochs: int, beta: float) -> None:
    """sigma² = beta / (beta + E[curvature]), the expectation by the same quadrature of 24² points."""
    vae, (eps, weights) = some_vae(epochs), product_rule(24, 2)
    q = fit_posterior(vae, X, eps, weights=weights, beta=beta)
    expected = (weights.view(-1, 1, 1, 1) * curvature(vae, X, q.reparameterize(eps))).sum(0)
    assert (q.sigma.square() - beta / (beta + expected)).abs().max() < 1e-5
    if epochs:
        assert q.sigma.min() < 0.8, "the decoder heeds its code"


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_a_linear_decoder_gives_the_mean_field_posterior(beta: float) -> None:
    """Of precision WWᵀ/t + beta I: its mean, and sigma² = beta / diagonal, by points exact for quadratics."""
    vae, x = VAE(6, 3, (), "gaussian", replicas=2).double(), items(4, 6)
    with torch.no_grad():
        vae.decoder.log_scale.copy_(torch.tensor([[[-0.4]], [[0.2]]]))  # type: ignore[union-attr]
    q = fit_posterior(vae, x, *product_rule(3, 3)[:1], weights=product_rule(3, 3)[1], beta=beta)
    layer = vae.decoder.stack.layers[0]
    with torch.no_grad():
        t = vae.decoder.log_scale.mul(2).exp()  # type: ignore[union-attr]
        precision = layer.weight @ layer.weight.mT / t + beta * torch.eye(3)
        mean = torch.linalg.solve(precision, layer.weight @ (x - layer.bias).mT / t).mT
        variance = beta / precision.diagonal(dim1=-2, dim2=-1).unsqueeze(1).expand_as(mean)
    assert (q.mu - mean).abs().max() < 1e-6 and (q.sigma.square() - variance).abs().max() < 1e-6
    assert variance.min() < 0.9


def test_weights_default_to_the_mean() -> None:
    vae, eps = some_vae(20), items(4 * 5, 2, seed=5).view(4, 1, 5, 2)
    mean, same = (fit_posterior(vae, X, eps, weights=w) for w in (None, torch.full((4,), 0.25).double()))
    assert torch.equal(mean.mu, same.mu) and torch.equal(mean.sigma, same.sigma)
    first = fit_posterior(vae, X, eps, weights=torch.tensor([1.0, 0.0, 0.0, 0.0]))
    alone = fit_posterior(vae, X, eps[:1])
    assert (first.mu - alone.mu).abs().max() < 1e-5
    assert (first.mu - mean.mu).abs().max() > 0.1


def test_each_replica_and_item_has_the_posterior_that_it_has_alone() -> None:
    """Also with a beta for each replica."""
    vae, (eps, weights) = some_vae(20), product_rule(5, 2)
    beta = torch.tensor([[0.5], [2.0]])
    together = fit_posterior(vae, X, eps, weights=weights, beta=beta)
    for b in range(5):
        for r, value in enumerate(beta.flatten().tolist()):
            alone = fit_posterior(vae, X[b : b + 1], eps, weights=weights, beta=value)
            assert (alone.mu[r, 0] - together.mu[r, b]).abs().max() < 1e-5
            assert (alone.sigma[r, 0] - together.sigma[r, b]).abs().max() < 1e-5


def objective(vae: VAE, q: DiagonalNormal, eps: Tensor, weights: Tensor, beta: float) -> Tensor:
    log_x = vae.decoder(reparameterize(q.mu, q.sigma, eps)).log_prob(X)
    kl = 0.5 * (q.mu.square() + q.sigma.square() - 1 - 2 * q.sigma.log()).sum(-1)
    return (weights.view(-1, 1, 1) * log_x).sum(0) - beta * kl


def test_no_posterior_nearby_is_better_and_the_encoders_is_not() -> None:
    vae, (eps, weights) = some_vae(20), product_rule(8, 2)
    q = fit_posterior(vae, X, eps, weights=weights, beta=2.0)
    with torch.no_grad():
        best = objective(vae, q, eps, weights, 2.0)
        assert (objective(vae, vae.encoder(X), eps, weights, 2.0) < best - 1e-3).all()
        for seed in range(10):
            mu, log_sigma = items(20, 2, seed).view(2, 2, 5, 2) * 0.01
            other = DiagonalNormal(q.mu + mu, q.log_sigma + log_sigma)
            assert (objective(vae, other, eps, weights, 2.0) < best).all()


def test_the_model_is_left_as_it_was() -> None:
    vae = VAE(64, 2, (16,)).double()
    before = [parameter.clone() for parameter in vae.parameters()]
    q = fit_posterior(vae, X, torch.ones(1, 1, 1, 2))
    curvature(vae, X, q.mu)
    assert not q.mu.requires_grad and not q.sigma.requires_grad
    for parameter, old in zip(vae.parameters(), before, strict=True):
        assert parameter.grad is None and parameter.requires_grad and torch.equal(parameter, old)


# The curvature


@pytest.mark.parametrize("changes", [{}, {"likelihood": "gaussian"}, {"hidden": ()}, {"activation": "tanh"}])
def test_the_curvature_is_the_diagonal_of_the_hessian(changes: dict[str, Any]) -> None:
    vae = VAE(**({"features": 64, "latents": 3, "hidden": (8,), "replicas": 2} | changes)).double()
    z = items(2 * 2 * 5, 3).view(2, 2, 5, 3)
    found = curvature(vae, X, z)
    assert found.shape == z.shape and not found.requires_grad
    for n, r, b in np.ndindex(2, 2, 5):

        def cost(code: Tensor, r: int = r, b: int = b) -> Tensor:
            return -vae.decoder(code.unsqueeze(0)).log_prob(X[b : b + 1])[r, 0]

        expected = hessian(cost, z[n, r, b]).diagonal()
        torch.testing.assert_close(found[n, r, b], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_what_is_not_seen_does_not_count(likelihood: str) -> None:
    """Nothing seen: the prior. All seen: as without. In between: whatever the hidden features are."""
    vae, (eps, weights) = some_vae(20, likelihood), product_rule(8, 2)
    settings = {"weights": weights, "steps": 200}
    everything, nothing = torch.ones_like(X), torch.zeros_like(X)
    plain, full, empty = (fit_posterior(vae, X, eps, seen=s, **settings) for s in (None, everything, nothing))  # type: ignore[arg-type]
    torch.testing.assert_close(full.mu, plain.mu, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(full.sigma, plain.sigma, rtol=1e-5, atol=1e-5)
    assert empty.mu.abs().max() < 1e-4 and (empty.sigma - 1).abs().max() < 1e-4
    half = everything.clone()
    half[:, ::2] = 0
    changed = torch.where(half.bool(), X, 1 - X)
    first, second = (fit_posterior(vae, x, eps, seen=half, **settings) for x in (X, changed))  # type: ignore[arg-type]
    torch.testing.assert_close(first.mu, second.mu, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first.sigma, second.sigma, rtol=1e-4, atol=1e-4)
    assert (first.sigma.mean() > plain.sigma.mean()).all()


def test_what_is_seen_fits_the_items() -> None:
    with pytest.raises(ValueError, match=r"seen: expected \(5, 64\), got \(5, 63\)"):
        fit_posterior(some_vae(0), X, torch.zeros(1, 1, 1, 2), seen=torch.ones_like(X[:, 1:]))
    conditional = VAE(64, 2, (16,), context=10).double()
    with pytest.raises(ValueError, match="seen is for a VAE without context"):
        fit_posterior(conditional, X, torch.zeros(1, 1, 1, 2), seen=torch.ones_like(X))
    fit_posterior(conditional, X, torch.zeros(1, 1, 1, 2), steps=2)
