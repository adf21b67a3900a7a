"""The linear Gaussian VAE against scipy, against quadratures and against its own training."""

import copy
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from contracts import items
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor

from vae_lab import elbo, fit
from vae_lab.exact.linear import LinearVAE, optimal_gains, ppca
from vae_lab.vae.files import load_model, save_model

DIGITS = torch.tensor(load_digits().data / 16)
EIGENVALUES = torch.tensor([8.0, 5.0, 3.0, 1.6, 0.8, 0.3], dtype=torch.float64)
T = 0.7


def rotated(eigenvalues: Tensor) -> Tensor:
    """Twice as many items as features, whose covariance has exactly these eigenvalues, about some mean."""
    d = len(eigenvalues)
    axes = torch.linalg.qr(items(d, d)).Q
    half = (d * eigenvalues).sqrt().diag() @ axes
    return torch.cat([half, -half]) + torch.arange(d) / 2


def some_vae(**changes: Any) -> LinearVAE:
    """Weights of size one, and a different sigma for each latent."""
    vae = LinearVAE(**({"features": 6, "latents": 2, "replicas": 3} | changes))
    with torch.no_grad():
        for parameter, seed in zip(vae.decoder.parameters(), (1, 2, 3), strict=True):
            parameter.copy_(items(parameter.numel(), 1, seed).view_as(parameter) / 2)
        vae.encoder.stack.layers[0].bias.copy_(items(vae.replicas, 2 * vae.latents, 4).unsqueeze(1))
    return vae


# Probabilistic principal component analysis


@cache
def by_scipy(k: int) -> dict[str, Any]:
    """The solution from scipy's eigenvectors; likelihood, posterior and KL from the model they make."""
    x = DIGITS.numpy()
    mean, covariance = x.mean(0), np.cov(x.T, bias=True)
    eigenvalues, axes = (a[..., ::-1] for a in scipy.linalg.eigh(covariance))
    t = eigenvalues[k:].mean()
    w = (axes[:, :k] * np.sqrt(eigenvalues[:k] - t)).T
    posterior = np.linalg.inv(np.eye(k) + w @ w.T / t)
    codes = (x - mean) @ w.T @ posterior / t
    variance = posterior.diagonal()
    return {
        "mean": mean,
        "eigenvalues": eigenvalues,
        "noise_variance": t,
        "log_likelihood": multivariate_normal(mean, w.T @ w + t * np.eye(64)).logpdf(x).mean(),
        "gains": np.linalg.norm(w, axis=1) ** 2,
        "posterior_variance": variance,
        "kl": 0.5 * ((codes**2).mean(0) + variance - 1 - np.log(variance)),
    }


def test_the_distribution_of_ppca_scores_and_samples_items() -> None:
    """log p(x) of each item as scikit-learn's, whose covariance has the divisor N − 1."""
    solution = ppca(DIGITS, 5)
    p = solution.distribution
    assert p.log_prob(DIGITS).mean().item() == pytest.approx(solution.log_likelihood, abs=1e-9)
    torch.testing.assert_close(solution.weights.square().sum(1), solution.gains)
    theirs = PCA(5).fit(DIGITS.numpy())
    shrink = (len(DIGITS) - 1) / len(DIGITS)
    theirs.explained_variance_ *= shrink
    theirs.noise_variance_ *= shrink
    torch.testing.assert_close(p.log_prob(DIGITS), torch.as_tensor(theirs.score_samples(DIGITS.numpy())))
    assert p.sample((7,)).shape == (7, DIGITS.shape[1])


@pytest.mark.parametrize("k", [2, 5, 10])
def test_ppca_against_scipy(k: int) -> None:
    solution = ppca(DIGITS, k)
    for name, expected in by_scipy(k).items():
        np.testing.assert_allclose(getattr(solution, name), expected, rtol=1e-10, atol=1e-10, err_msg=name)
    assert solution.active == k
    assert ppca(DIGITS.float(), k).log_likelihood == pytest.approx(solution.log_likelihood, abs=1e-9)


def test_a_latent_without_gain_is_not_active() -> None:
    half = torch.tensor([4.0, 2.0, 2.0, 2.0]).diag()
    solution = ppca(torch.cat([half, -half]), 3)
    assert (solution.gains.tolist(), solution.active) == ([3.0, 0.0, 0.0], 1)
    assert solution.kl[1:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("k", [-1, 0, 64, 65])
def test_ppca_refuses_k_out_of_range(k: int) -> None:
    with pytest.raises(ValueError, match=rf"1 <= k < D, got shape \(1797, 64\) and k={k}"):
        ppca(DIGITS, k)


@pytest.mark.parametrize(
    ("x", "k", "message"),
    [
        (DIGITS[:0], 2, r"N at least 1, and 1 <= k < D, got shape \(0, 64\)"),
        (DIGITS.numpy(), 2, "as a tensor, got ndarray; see torch.as_tensor"),
        (DIGITS, 2.0, "k should be a valid integer, got 2.0"),
        (DIGITS * 1e200, 2, "more than float64 can hold; standardise the items"),
        (DIGITS * torch.nan, 2, "the items hold NaN or infinity"),
    ],
    ids=str,
)
def test_ppca_refuses_what_are_no_items(x: Any, k: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ppca(x, k)


def test_ppca_refuses_what_has_no_solution() -> None:
    for wrong in (DIGITS[0], DIGITS[None]):
        with pytest.raises(ValueError, match=r"expected items \(N, D\)"):
            ppca(wrong, 2)
    flat = torch.cat([items(20, 2), torch.zeros(20, 3)], dim=1)
    ppca(flat, 1)
    with pytest.raises(ValueError, match="2 components explain all of the variance"):
        ppca(flat, 2)
    with pytest.raises(ValueError, match="1 components explain all"):
        ppca(DIGITS[:1], 1)


# The model


def test_maximise_leaves_a_long_plateau() -> None:
    """One of these starts comes near a saddle point, 5e-4 nats below, and its steps there are tiny."""
    vae, exact = LinearVAE(64, 2, replicas=5, seed=1000), ppca(DIGITS, 2)
    assert (exact.log_likelihood - vae.maximise(DIGITS, steps=2000)).max() < 1e-9


@pytest.mark.parametrize("k", [2, 10])
def test_maximise_reaches_the_exact_likelihood_of_the_digits(k: int) -> None:
    """From three starts: as ELBO and as likelihood, so that the bound is tight. The latents are rotated."""
    vae, exact = LinearVAE(64, k, replicas=3), ppca(DIGITS, k)
    assert (vae.log_likelihood(DIGITS) < exact.log_likelihood - 1).all(), "a start far from the optimum"
    reached = vae.maximise(DIGITS, steps=2000)
    assert reached.shape == (3,)
    for value in (reached, vae.log_likelihood(DIGITS), vae.expected_terms(DIGITS).elbo.detach()):
        assert (value - exact.log_likelihood).abs().max() < 1e-6
        assert value.max() < exact.log_likelihood + 1e-9, "no model is better"
    assert (vae.gains - exact.gains).abs().max() < 1e-4
    assert vae.expected_terms(DIGITS).kl.sub(exact.kl.sum()).abs().max() < 1e-4


@pytest.mark.parametrize("offset", [1e3, 1e8])
def test_maximise_finds_data_far_from_zero(offset: float) -> None:
    x = rotated(EIGENVALUES)
    reached = LinearVAE(6, 2).maximise(x + offset)
    # The items keep 16 digits of their offset, and so their covariance.
    tolerance = 1e-6 + 6 * offset * torch.finfo(x.dtype).eps / float(EIGENVALUES.min().sqrt())
    assert reached.item() == pytest.approx(ppca(x, 2).log_likelihood, abs=tolerance)


@pytest.mark.parametrize(
    ("x", "settings", "message"),
    [
        (torch.full((9, 6), 3.0), {}, "the items do not vary"),
        (torch.full((9, 6), 1e8 + 0.1), {}, "the items do not vary"),
        (items(1, 6), {}, "the items do not vary"),
        (items(9, 6) * (torch.arange(6) < 2), {}, "2 latents explain all of the variance"),
        (items(9, 6) * 1e200, {}, "more than float64 can hold"),
        (items(9, 6), {"eps_mean": math.nan}, "eps_mean should be a finite number, got nan"),
        (items(9, 6), {"eps_variance": -1.0}, "eps_variance should be greater than or equal to 0"),
        (items(9, 6), {"beta": [1.0, math.inf]}, r"beta\[1\] should be a finite number"),
        (items(9, 6), {"decoder_l2": "0"}, "decoder_l2 should be a valid number, got '0'"),
        (items(9, 6), {"steps": 0}, "steps should be greater than or equal to 1"),
    ],
)
def test_what_has_no_optimum_changes_nothing(x: Tensor, settings: dict[str, Any], message: str) -> None:
    vae = LinearVAE(6, 2, replicas=2)
    before = copy.deepcopy(vae.state_dict())
    with pytest.raises(ValueError, match=message):
        vae.maximise(x, **settings)
    assert all(torch.equal(before[name], value) for name, value in vae.state_dict().items())


def test_likelihood_and_gains_against_scipy() -> None:
    vae, x = some_vae(), items(9, 6)
    weight, bias, log_scale = (p.detach().numpy() for p in _decoder(vae))
    for r in range(3):
        covariance = weight[r].T @ weight[r] + np.exp(2 * log_scale[r]) * np.eye(6)
        expected = multivariate_normal(bias[r, 0], covariance).logpdf(x).mean()
        assert vae.log_likelihood(x)[r].item() == pytest.approx(expected, rel=1e-12)
        squares = scipy.linalg.eigh(weight[r] @ weight[r].T, eigvals_only=True)[::-1]
        np.testing.assert_allclose(vae.gains[r], squares, rtol=1e-12)


def _decoder(vae: LinearVAE) -> tuple[Tensor, Tensor, Tensor]:
    layer, log_scale = vae.decoder.stack.layers[0], vae.decoder.log_scale
    assert isinstance(layer.weight, Tensor) and isinstance(layer.bias, Tensor) and log_scale is not None
    return layer.weight, layer.bias, log_scale


def sigma_points(latents: int) -> Tensor:
    """Points (2Z, Z) of mean 0 and covariance I: their mean is exact for quadratics."""
    axes = math.sqrt(latents) * torch.eye(latents, dtype=torch.float64)
    return torch.cat([axes, -axes])


def skew_points(latents: int) -> Tensor:
    """Points (3^Z, Z) of independent coordinates with mean 0, variance 1 and a third moment of 1/√2."""
    values = torch.tensor([2.0, -1.0, -1.0], dtype=torch.float64) / math.sqrt(2)
    return torch.cartesian_prod(*[values] * latents)


@pytest.mark.parametrize("points", [sigma_points, skew_points])
@pytest.mark.parametrize("sigma", [None, 0.4, [0.3, None, 2.0]])
@pytest.mark.parametrize(
    ("mean", "variance"), [(0.0, 1.0), (0.5, 2.0), (1.0, 0.0), ([0.0, -1.0, 0.3], [0.5, 1.5, 4.0])]
)
def test_expected_terms_are_those_of_any_noise_with_that_mean_and_variance(
    points: Any, sigma: Any, mean: Any, variance: Any
) -> None:
    vae, x = some_vae(sigma=sigma), items(9, 6)
    mean, variance = (torch.as_tensor(value, dtype=torch.float64) for value in (mean, variance))
    eps = mean.view(-1, 1, 1) + variance.view(-1, 1, 1).sqrt() * points(2)[:, None, None]
    found, expected = vae.expected_terms(x, mean, variance), elbo(vae, x, eps)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.mean(1), rtol=1e-10, atol=1e-10)


def test_expected_terms_have_the_gradients_of_the_mean_elbo() -> None:
    """So that what `maximise` climbs is what `fit` climbs."""
    vae, x, eps = some_vae(), items(9, 6), 0.5 + 2**0.5 * sigma_points(2)[:, None, None]
    weights = list(vae.parameters())
    exact = torch.autograd.grad(vae.expected_terms(x, 0.5, 2.0).weighted(1.7).sum(), weights)
    sampled = torch.autograd.grad(elbo(vae, x, eps).weighted(1.7).mean(1).sum(), weights)
    for one, other in zip(exact, sampled, strict=True):
        assert one.abs().max() > 0.01
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


# The optimum


def loss(
    w2: Any,
    spread: Any,
    t: float = T,
    *,
    eps_variance: float = 1.0,
    sigma: float | None = None,
    beta: float = 1.0,
    decoder_l2: float = 0.0,
) -> Any:
    """What one latent of gain w² costs on an axis of variance `spread`, with its best encoder and sigma.

    z = v x + sigma eps and output w z: squared error spread (1 − vw)² + sigma² eps_variance w², code of mean
    square v² spread. Both minimisers are roots of a linear equation.
    """
    w = np.sqrt(w2)
    v = w / (w2 + beta * t)
    variance = beta / (beta + eps_variance * w2 / t) if sigma is None else sigma**2
    error = spread * (1 - v * w) ** 2 + variance * eps_variance * w2
    kl = 0.5 * (v**2 * spread + variance - 1 - np.log(variance))
    return error / (2 * t) + beta * kl + 0.5 * decoder_l2 * w2


def objective(gains: Tensor, **setting: Any) -> float:
    """The objective of latents with these gains (k,) on the first axes of `EIGENVALUES`."""
    kept, left = EIGENVALUES[: len(gains)], EIGENVALUES[len(gains) :]
    costs = loss(gains.numpy(), kept.numpy(), **setting).sum() + left.sum().item() / (2 * T)
    return -0.5 * len(EIGENVALUES) * math.log(2 * math.pi * T) - costs


LEARNED: list[dict[str, float]] = [
    *({"eps_variance": variance} for variance in (0.25, 1.0, 1.5, 3.0, 4.0)),
    *({"beta": beta} for beta in (0.5, 2.0, 4.0)),
    {"eps_variance": 3.0, "beta": 0.5, "eps_mean": 1.0},
    *(
        {"eps_variance": 0.0, "decoder_l2": penalty, "eps_mean": mean}
        for penalty in (0.2, 2.0)
        for mean in (0.0, 1.0)
    ),
]
CONSTANT: list[dict[str, float]] = [
    *({"sigma": sigma} for sigma in (0.3, 0.5, 1.0)),
    {"sigma": 0.5, "eps_variance": 2.0, "beta": 2.0, "decoder_l2": 0.3, "eps_mean": -1.0},
    {"sigma": 0.5, "eps_variance": 0.0, "decoder_l2": 0.2},
]


def check_training(settings: list[dict[str, float]]) -> None:
    """One replica for each setting: gains, objective and the model's own terms at the optimum."""
    k, x = 4, rotated(EIGENVALUES)
    sigma = [setting.get("sigma") for setting in settings]
    vae = LinearVAE(6, k, replicas=len(settings), sigma=sigma, noise_variance=T)

    def each(name: str, default: float) -> Tensor:
        return torch.tensor([setting.get(name, default) for setting in settings], dtype=torch.float64)

    mean, variance = each("eps_mean", 0.0), each("eps_variance", 1.0)
    beta, penalty = each("beta", 1.0), each("decoder_l2", 0.0)
    reached = vae.maximise(x, eps_mean=mean, eps_variance=variance, beta=beta, decoder_l2=penalty)
    own = vae.expected_terms(x, mean, variance).weighted(beta) - 0.5 * penalty * vae.gains.sum(-1)
    torch.testing.assert_close(own.detach(), reached, rtol=0, atol=1e-9)
    assert all(p.grad is None for p in vae.parameters())
    for r, setting in enumerate(settings):
        known = {name: value for name, value in setting.items() if name != "eps_mean"}
        gains = optimal_gains(EIGENVALUES[:k], T, **known)  # type: ignore[arg-type]
        assert gains.max() > 0.5, "the setting is not collapsed"
        np.testing.assert_allclose(vae.gains[r], gains, atol=1e-4, rtol=0, err_msg=str(setting))
        best = objective(gains, **known)
        assert reached[r].item() == pytest.approx(best, abs=1e-6), setting


@pytest.mark.parametrize("settings", [LEARNED, CONSTANT], ids=["learned sigma", "constant sigma"])
def test_training_reaches_the_optimum_of_every_variant(settings: list[dict[str, float]]) -> None:
    check_training(settings)


def test_learned_and_constant_sigmas_train_side_by_side() -> None:
    check_training([LEARNED[0], CONSTANT[0], LEARNED[6]])


positive = st.floats(0.05, 4.0)


@given(
    spread=st.floats(0.01, 20.0),
    t=st.floats(0.05, 2.0),
    setting=st.one_of(
        st.fixed_dictionaries({"eps_variance": st.floats(0.05, 8.0), "beta": positive}),
        st.fixed_dictionaries(
            {"sigma": positive, "eps_variance": positive, "beta": positive},
            optional={"decoder_l2": positive},
        ),
        st.fixed_dictionaries({"eps_variance": st.just(0.0), "decoder_l2": positive, "beta": positive}),
    ),
)
def test_no_other_gain_costs_less(spread: float, t: float, setting: dict[str, float]) -> None:
    gain = optimal_gains(torch.tensor([spread]), t, **setting).item()  # type: ignore[arg-type]
    assert gain >= 0
    grid = np.concatenate([np.linspace(0, 2 * gain + spread, 5001), gain * np.linspace(0.99, 1.01, 101)])
    least = loss(grid, spread, t, **setting).min()
    assert loss(gain, spread, t, **setting) <= least + 1e-12 * (1 + spread / t)


@pytest.mark.parametrize("eps_variance", [0.25, 1.0, 1.5, 2.0])
def test_a_latent_of_little_noise_starts_from_nothing(eps_variance: float) -> None:
    start = eps_variance * 0.5 * T
    near = start * torch.tensor([1 - 1e-9, 1 + 1e-9, 1 + 1e-6, 1.01], dtype=torch.float64)
    gains = optimal_gains(near, T, eps_variance=eps_variance, beta=0.5)
    assert gains[0] == 0 < gains[2] < gains[3]
    assert gains[1] < 1e-3


@pytest.mark.parametrize("eps_variance", [2.5, 3.0, 4.0, 20.0])
def test_a_latent_of_much_noise_starts_with_a_jump(eps_variance: float) -> None:
    """Where the square root is real, w² ≥ ½l − beta t ≥ beta t (1 − 2/τ²): at least so much, or nothing."""
    spread = torch.linspace(0.01, 1.0, 1000, dtype=torch.float64) * eps_variance * 0.5 * T
    setting = {"eps_variance": eps_variance, "beta": 0.5}
    gains = optimal_gains(spread, T, **setting)  # type: ignore[arg-type]
    assert (gains.diff() >= 0).all()
    assert gains[0] == 0 < gains[-1]
    assert gains[gains > 0].min() >= 0.5 * T * (1 - 2 / eps_variance)
    others = np.linspace(0, spread[-1].item(), 1000)[:, None]
    best, least = (loss(w2, spread.numpy(), **setting) for w2 in (gains.numpy(), others))
    assert (best <= least.min(0) + 1e-14).all(), "also where both nothing and a gain are stationary"


def test_a_penalty_on_the_decoder_is_a_constant_sigma() -> None:
    for c, eps_variance in ((0.3, 1.0), (0.5, 2.0), (1.0, 0.25)):
        by_noise = optimal_gains(EIGENVALUES, T, sigma=c, eps_variance=eps_variance, beta=0.5)
        penalty = c**2 * eps_variance / T
        by_penalty = optimal_gains(EIGENVALUES, T, eps_variance=0, decoder_l2=penalty, beta=0.5)
        torch.testing.assert_close(by_noise, by_penalty, rtol=1e-12, atol=1e-12)
        assert by_noise[0] > 0.5


def test_settings_without_formula_are_refused() -> None:
    for sigma in (None, 0.5):
        with pytest.raises(ValueError, match="the gains grow without bound"):
            optimal_gains(EIGENVALUES, T, eps_variance=0, sigma=sigma)
    with pytest.raises(ValueError, match="decoder_l2 beside noise with a learned sigma has no formula"):
        optimal_gains(EIGENVALUES, T, decoder_l2=0.2)


def test_without_noise_and_penalty_the_gains_grow_without_bound() -> None:
    """Towards the error of principal component analysis, and a KL of nothing."""
    x = rotated(EIGENVALUES)
    best = -3 * math.log(2 * math.pi * T) - EIGENVALUES[2:].sum().item() / (2 * T)
    gains, short = torch.zeros(2, 2), torch.full((2,), math.inf)
    for steps in (10, 20, 40, 80):
        vae = LinearVAE(6, 2, replicas=2, noise_variance=T)
        closer = best - vae.maximise(x, eps_variance=0.0, steps=steps)
        assert (closer > 0).all() and (closer < short).all()
        assert (vae.gains > 2 * gains).all()
        gains, short = vae.gains, closer
    assert (vae.expected_terms(x, 0.0, 0.0).kl < 0.01).all()


def test_without_noise_the_codes_of_principal_components_may_be_as_small_as_one_likes() -> None:
    """With the axes as weights, multiplied by s and by 1/s, and sigma = 1: a KL of Σ l / 2s²."""
    x, vae = rotated(EIGENVALUES), LinearVAE(6, 2, noise_variance=T)
    axes = torch.linalg.eigh(torch.cov(x.T, correction=0)).eigenvectors[:, [5, 4]]
    weight, bias, _ = _decoder(vae)
    best = -3 * math.log(2 * math.pi * T) - EIGENVALUES[2:].sum().item() / (2 * T)
    for s in (1.0, 10.0, 1e4):
        with torch.no_grad():
            head = vae.encoder.stack.layers[0]
            head.weight[0, :, :2] = axes / s
            head.bias[0, 0] = torch.cat([-x.mean(0) @ axes / s, torch.zeros(2)])
            weight[0] = s * axes.T
            bias[0, 0] = x.mean(0)
        reconstruction, kl = vae.expected_terms(x, eps_variance=0.0)
        assert reconstruction.item() == pytest.approx(best, rel=1e-12)
        assert kl.item() == pytest.approx(6.5 / s**2, rel=1e-12)


# Training by fit


def test_fit_keeps_sigma_the_same_for_all_items_and_a_given_noise_variance() -> None:
    x, names = rotated(EIGENVALUES), ["gaussian", "rademacher", "none"]
    for noise_variance in (0.5, None):
        vae = LinearVAE(6, 2, replicas=3, noise_variance=noise_variance)
        log_scale = _decoder(vae)[2].detach().clone()
        assert (2 * log_scale).exp().flatten().tolist() == pytest.approx([noise_variance or 1.0] * 3)
        before = vae.expected_terms(x).elbo.detach()
        fit(vae, x, epochs=20, batch_size=4, learning_rate=0.05, noise=names, progress=False)
        log_sigma = vae.encoder(x).log_sigma.detach()
        assert torch.equal(log_sigma, log_sigma[:, :1].expand_as(log_sigma))
        assert (vae.encoder.stack.layers[0].weight[..., 2:] == 0).all()
        assert (log_sigma[:2] != 0).all() and (log_sigma[2] == 0).all()
        assert (vae.expected_terms(x).elbo > before + 1).all()
        fixed = log_scale == _decoder(vae)[2]
        assert fixed.all() if noise_variance else not fixed.any()


def test_a_saved_linear_vae_comes_back_as_one(tmp_path: Path) -> None:
    vae, x = some_vae(sigma=[0.3, None, 2.0], noise_variance=0.5), items(9, 6)
    vae.maximise(x, steps=5)
    save_model(vae, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert type(again) is LinearVAE and again.config == vae.config
    assert not again.decoder.log_scale.requires_grad, "its noise variance is still fixed"  # type: ignore[union-attr]
    q, same = vae.encoder(x), again.encoder(x)
    assert torch.equal(q.mu, same.mu) and torch.equal(q.sigma, same.sigma)
    for name in ("mean", "stddev"):
        assert torch.equal(getattr(vae.decoder(q.mu), name), getattr(again.decoder(q.mu), name))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "beta and sigma are positive"),
        ({"eps_variance": -1.0}, "eps_variance and decoder_l2 at least 0"),
        ({"sigma": -0.5}, "beta and sigma are positive"),
    ],
)
def test_settings_without_meaning_have_no_optimum(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimal_gains(EIGENVALUES, T, **settings)


def test_one_setting_or_one_for_each_replica() -> None:
    vae, x = LinearVAE(6, 2, replicas=2), items(9, 6)
    for settings in ({"beta": torch.ones(3)}, {"eps_variance": [1.0]}, {"decoder_l2": [0.1] * 4}):
        with pytest.raises(ValueError, match="expected 1 value or one for each of 2 replicas"):
            vae.maximise(x, **settings)
    with pytest.raises(ValueError, match="noise_variance should be greater than 0, got 0"):
        LinearVAE(6, 2, noise_variance=0)


def test_a_copy_keeps_sigma_apart_from_the_data() -> None:
    vae = copy.deepcopy(LinearVAE(6, 2))
    fit(vae, items(20, 6), epochs=2, progress=False)
    sigma = vae.encoder(items(20, 6)).sigma
    assert torch.equal(sigma, sigma[:, :1].expand_as(sigma))
    assert not torch.equal(sigma, torch.ones_like(sigma))
