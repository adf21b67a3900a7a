"""Variants of the VAE: constant or detached sigma, a penalty on the decoder, other priors."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contracts import items
from scipy.special import logsumexp
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from vae_lab import VAE, DiagonalNormal, NotApplicable, elbo, evaluate, fit, load
from vae_lab.measure.statistics import deviation_limit
from vae_lab.vae.evaluation import evaluate_items
from vae_lab.vae.files import load_model, save_model

DIGITS = load("digits")
X = load("digits", None).train[:200]


def small(**changes: Any) -> VAE:
    return VAE(**({"features": 64, "latents": 4, "hidden": (16,)} | changes))


# A constant sigma

SIGMA = [None, 0.3, 2.0]


def test_a_constant_sigma_is_the_same_for_every_item() -> None:
    vae, free = small(replicas=3, sigma=SIGMA), small(replicas=3)
    q, learned = vae.encoder(X), free.encoder(X)
    assert torch.equal(q.mu, learned.mu) and torch.equal(q.sigma[0], learned.sigma[0])
    assert learned.sigma[0].std() > 0.001
    for r in (1, 2):
        assert q.sigma[r].unique().numel() == 1
        assert q.sigma[r, 0, 0].item() == pytest.approx(SIGMA[r], rel=1e-6)
    assert (small(replicas=2, sigma=0.5).encoder(X).sigma == 0.5).all()


def test_a_constant_sigma_has_the_precision_of_the_model() -> None:
    sigma = small(sigma=0.3).double().encoder(X.double()).sigma
    torch.testing.assert_close(sigma, torch.full_like(sigma, 0.3), rtol=1e-15, atol=0)


def test_a_constant_sigma_has_its_kl_and_no_gradient() -> None:
    vae, x = small(replicas=3, sigma=SIGMA).double(), X.double()
    terms = elbo(vae, x, items(200, 4).view(1, 200, 4))
    mu = vae.encoder(x).mu
    for r, sigma in enumerate(SIGMA[1:], start=1):
        assert sigma is not None
        kl = 0.5 * (mu[r].square() + sigma**2 - 1 - 2 * math.log(sigma)).sum(-1)
        torch.testing.assert_close(terms.kl[r], kl, rtol=1e-6, atol=1e-6)
    head = vae.encoder.stack.layers[-1]
    for gradient in torch.autograd.grad(terms.elbo.sum(), [head.weight, head.bias]):
        by_mu, by_log_sigma = gradient.abs().amax((1, 2)), gradient[..., 4:].abs().amax((1, 2))
        assert (by_mu > 0).all() and by_log_sigma[0] > 0 and (by_log_sigma[1:] == 0).all()


def test_training_and_files_keep_a_constant_sigma(tmp_path: Path) -> None:
    vae = small(replicas=3, sigma=SIGMA)
    before = vae.encoder(X).sigma
    fit(vae, X, epochs=2, progress=False)
    after = vae.encoder(X).sigma
    assert torch.equal(before[1:], after[1:]) and not torch.equal(before[0], after[0])
    assert vae.config["sigma"] == SIGMA
    save_model(vae, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert again.config == vae.config
    assert torch.equal(again.encoder(X).sigma, after)
    assert VAE(**small(sigma=0.5).config).encoder(X).sigma.unique().tolist() == [0.5]


@pytest.mark.parametrize(
    "changes",
    [
        *({"sigma": value} for value in (0.0, -1.0, math.nan, math.inf)),
        {"sigma": [0.5, 0.0], "replicas": 2},
        {"sigma": 0.5, "latent": "bernoulli"},
    ],
)
def test_a_bad_sigma_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"sigma(\[1\])? (should be|is for normal latents only)"):
        small(**changes)


def test_one_sigma_or_one_for_each_replica() -> None:
    with pytest.raises(ValueError, match="sigma: expected 1 value or one for each of 3 replicas, got 2"):
        small(replicas=3, sigma=[0.5, None])
    assert small(latent="bernoulli").sigma == [None]


# A sigma that the reconstruction does not move


def gradients(vae: VAE, value: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value.sum(), list(vae.encoder.parameters()), retain_graph=True))


def test_detached_the_reconstruction_moves_mu_only() -> None:
    """The head's gradient by log sigma is that of −KL alone; values, and gradients by mu, are the same."""
    vae, x, eps = small(replicas=2).double(), X.double(), items(400, 4).view(2, 200, 4)
    detached = torch.tensor([True, False]).view(-1, 1, 1)
    plain, cut = elbo(vae, x, eps), elbo(vae, x, eps, detached=detached)
    for one, other in zip(plain, cut, strict=True):
        assert torch.equal(one, other)
    for whole, part, stopped, kl in zip(
        gradients(vae, plain.reconstruction)[-2:],
        gradients(vae, cut.reconstruction)[-2:],
        gradients(vae, cut.elbo)[-2:],
        gradients(vae, cut.kl)[-2:],
        strict=True,
    ):
        assert (part[0, :, 4:] == 0).all() and (whole[0, :, 4:].abs() > 0).all()
        assert torch.equal(stopped[0, :, 4:], -kl[0, :, 4:])
        assert (kl[0, :, 4:].abs() > 0).all()
        torch.testing.assert_close(part[0, :, :4], whole[0, :, :4], rtol=1e-12, atol=1e-12)
        assert torch.equal(part[1], whole[1])


def test_detached_the_layers_below_learn_of_the_data_by_mu_only() -> None:
    """All of the encoder's gradient is that of the reconstruction with sigma held, and of −KL."""
    vae, x, eps = small().double(), X.double(), items(200, 4).view(1, 200, 4)
    cut = elbo(vae, x, eps, detached=torch.tensor([[[True]]]))
    q = vae.encoder(x)
    held = vae.decoder(q.mu + q.sigma.detach() * eps).log_prob(x)
    kl = 0.5 * (q.mu.square() + q.sigma.square() - 1 - 2 * q.log_sigma).sum(-1)
    for one, other in zip(gradients(vae, cut.weighted(2.0)), gradients(vae, held - 2.0 * kl), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_detached_trained_alone_the_sigma_falls_to_that_of_the_prior() -> None:
    """Nothing but the KL moves it, and that is least at 1."""
    vae = small(replicas=2, seed=[0, 0])
    fit(vae, X, epochs=60, learning_rate=0.01, detach_sigma=[True, False], seed=[0, 0], progress=False)
    off = (vae.encoder(X).sigma - 1).abs().mean((1, 2))
    assert off[0] < 0.05 and off[1] > 0.2


# A penalty on the decoder


@pytest.mark.parametrize("channels", [(), (3,)])
def test_the_penalty_is_that_of_the_written_out_loss(channels: tuple[int, ...]) -> None:
    """Steps of Adam by fit, on all items at once, and by hand; all layers of a decoder have its λ.

    Adam's first step has one size whatever the gradient; so there are several.
    """
    penalties, x = [0.3, 0.0, 5.0], X[:50].double()
    by_fit, by_hand, without = (
        small(hidden=(8, 7), replicas=3, channels=channels).double() for _ in range(3)
    )
    settings: dict[str, Any] = {"epochs": 6, "batch_size": 50, "noise": "ones", "progress": False}
    fit(by_fit, x, learning_rate=0.01, decoder_l2=penalties, **settings)
    fit(without, x, learning_rate=0.01, **settings)
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=0.01)
    for _ in range(6):
        optimizer.zero_grad()
        loss = -elbo(by_hand, x, torch.ones(1, 50, 4).double()).elbo.mean(-1)
        for layer in by_hand.decoder.stack.layers:
            loss = loss + 0.5 * torch.tensor(penalties) * layer.weight.square().sum((1, 2))
        loss.sum().backward()
        optimizer.step()
    for one, other, free in zip(*(vae.parameters() for vae in (by_fit, by_hand, without)), strict=True):
        # Adam divides by a gradient plus 1e-8: in six steps of 0.01, a rounding of 1e-14 may grow to 6e-8.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)
        assert torch.equal(one[1], free[1])
    sizes = [vae.decoder.stack.layers[0].weight.square().sum((1, 2)) for vae in (by_fit, without)]
    assert (sizes[0] < 0.99 * sizes[1])[[0, 2]].all()


def test_the_penalty_goes_with_every_objective_estimator_and_likelihood() -> None:
    for changes, settings in (
        ({}, {"objective": "iwae", "samples": 2}),
        ({}, {"estimator": "rloo", "samples": 2}),
        ({"latent": "bernoulli"}, {"estimator": "rloo", "samples": 2}),
        ({"likelihood": "gaussian"}, {}),
    ):
        sizes = []
        for penalty in (0.0, 50.0):
            vae = small(**changes)
            fit(vae, X, epochs=20, learning_rate=0.01, decoder_l2=penalty, progress=False, **settings)  # type: ignore[arg-type]
            sizes.append(vae.decoder.stack.layers[0].weight.square().sum().item())
        assert sizes[1] < 0.3 * sizes[0], settings


# All together

MIXED: dict[str, list[Any]] = {
    "noise": ["gaussian", "none", "ones", "frozen", "rademacher", "gaussian"],
    "noise_scale": [1.0, 1.0, 0.5, 2.0, 1.0, 0.7],
    "beta": [1.0, 2.0, 0.5, 1.0, 3.0, 1.0],
    "detach_sigma": [True, False, False, True, False, False],
    "decoder_l2": [0.0, 0.5, 0.1, 0.0, 0.0, 2.0],
    "seed": [5, 6, 5, 8, 5, 7],
}
MIXED_SIGMA = [None, None, 0.5, None, 0.1, 1.0]


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_a_replica_of_mixed_settings_equals_the_model_trained_alone(likelihood: str) -> None:
    """20 steps: equal to float32 rounding."""
    settings: dict[str, Any] = {"epochs": 4, "batch_size": 40, "progress": False}
    together = small(replicas=6, seed=3, sigma=MIXED_SIGMA, likelihood=likelihood)
    history = fit(together, X, **MIXED, **settings)
    for r in range(6):
        alone = small(seed=3 + r, sigma=MIXED_SIGMA[r], likelihood=likelihood)
        own = fit(alone, X, **{name: values[r] for name, values in MIXED.items()}, **settings)
        for several, one in zip(together.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(several[r], one[0])
        columns = ["elbo", "reconstruction", "kl"]
        np.testing.assert_allclose(history[history.replica == r][columns], own[columns], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("changed", ["noise", "noise_scale", "beta", "detach_sigma", "decoder_l2"])
def test_every_setting_makes_a_difference(changed: str) -> None:
    """Two replicas of one seed, that differ in nothing else."""
    values = {
        "noise": ["gaussian", "uniform"],
        "noise_scale": [1.0, 0.5],
        "beta": [1.0, 2.0],
        "detach_sigma": [False, True],
        "decoder_l2": [0.0, 0.5],
    }
    vae = small(replicas=2, seed=[0, 0])
    fit(vae, X, epochs=2, seed=[0, 0], progress=False, **{changed: values[changed]})  # type: ignore[arg-type]
    weights = vae.encoder.stack.layers[-1].weight
    assert (weights[0] - weights[1]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"detach_sigma": True, "objective": "iwae"}, "detach_sigma is for objective='elbo', not for 'iwae'"),
        ({"detach_sigma": [False, True], "objective": "dreg"}, "not for 'dreg'"),
        (
            {"detach_sigma": True, "estimator": "rloo", "samples": 2},
            "'rloo' draws z by itself; .*detach_sigma",
        ),
        ({"decoder_l2": -0.1}, "decoder_l2 should be greater than or equal to 0, got -0.1"),
        ({"decoder_l2": [0.0, math.nan]}, r"decoder_l2\[1\] should be a finite number"),
        ({"decoder_l2": math.inf}, "decoder_l2 should be a finite number"),
        ({"decoder_l2": [0.1]}, "decoder_l2: expected 1 value or one for each of 2 replicas, got 1"),
        ({"detach_sigma": [True] * 3}, "detach_sigma: expected 1 value or one for each of 2 replicas, got 3"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_step(changes: dict[str, Any], message: str) -> None:
    vae = small(replicas=2)
    before = [parameter.clone() for parameter in vae.parameters()]
    with pytest.raises(ValueError, match=message):
        fit(vae, X, **({"epochs": 1, "progress": False} | changes))
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))


def test_binary_latents_have_no_sigma_to_detach() -> None:
    vae = small(latent="bernoulli")
    with pytest.raises(NotApplicable, match="pathwise is not applicable"):
        fit(vae, X, epochs=1, detach_sigma=True, progress=False)
    with pytest.raises(ValueError, match="'rloo' draws z by itself"):
        fit(vae, X, epochs=1, detach_sigma=True, estimator="rloo", samples=2, progress=False)


def test_a_loss_that_is_not_finite_names_the_penalty() -> None:
    vae = small(replicas=2)
    with torch.no_grad():
        vae.decoder.stack.layers[0].weight[1, 3] = torch.nan
    with pytest.raises(FloatingPointError, match=r"replica 1: .*decoder_l2=0\.5, seed=1"):
        fit(vae, X, epochs=1, decoder_l2=[0.0, 0.5], progress=False)


# Scores of items, and other priors

COLUMNS = ["elbo", "reconstruction", "kl", "log_likelihood"]


def trained() -> VAE:
    """Of three replicas, one with a constant sigma; in float64."""
    vae = small(replicas=3, sigma=[None, 0.5, None])
    fit(vae, X, epochs=20, learning_rate=0.01, beta=[1.0, 1.0, 0.2], progress=False)
    return vae.double()


@pytest.mark.parametrize("latent", ["normal", "bernoulli"])
def test_scores_of_items_average_to_those_of_the_replica(latent: str) -> None:
    vae = small(replicas=2, latent=latent)
    scores, means = evaluate_items(vae, X, 30, seed=4), evaluate(vae, X, 30, seed=4)
    assert list(scores) == COLUMNS and list(means) == ["replica", *COLUMNS]
    for name, values in scores.items():
        assert values.shape == (2, 200) and values.dtype == torch.float64 and not values.requires_grad
        np.testing.assert_allclose(means[name], values.mean(1), rtol=1e-14)
    assert torch.equal(scores["elbo"], scores["reconstruction"] - scores["kl"])
    assert all(torch.equal(scores[k], v) for k, v in evaluate_items(vae, X, 30, 4, vae.prior).items())
    assert evaluate(vae, X, 30, 4, vae.prior).equals(means)


def test_the_score_of_an_item_is_that_of_its_own_draws() -> None:
    """The first 64 items, from the seed's generator: two chunks of samples would be other draws."""
    vae, x = trained(), X[:64].double()
    eps = torch.randn(9, 1, 64, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    with torch.no_grad():
        q = vae.encoder(x)
        z = q.reparameterize(eps)
        log_x = vae.decoder(z).log_prob(x)
        log_w = log_x + Normal(0, 1).log_prob(z).sum(-1) - Normal(q.mu, q.sigma).log_prob(z).sum(-1)
    scores = evaluate_items(vae, X, 9, seed=4)
    np.testing.assert_allclose(scores["reconstruction"][:, :64], log_x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(
        scores["log_likelihood"][:, :64], logsumexp(log_w, axis=0) - math.log(9), rtol=1e-12
    )
    sampled = evaluate_items(vae, X, 9, seed=4, prior=standard())
    np.testing.assert_allclose(sampled["kl"][:, :64], (log_x - log_w).mean(0), rtol=1e-12, atol=1e-12)


def standard(*batch: int) -> MixtureSameFamily:
    """N(0, I) as a mixture of one component, to which torch knows no KL."""
    zeros = torch.zeros(*batch, 1, 4, dtype=torch.float64)
    return MixtureSameFamily(Categorical(logits=zeros[..., 0]), Independent(Normal(zeros, zeros + 1), 1))


@pytest.mark.parametrize("batch", [(), (3, 1)])
def test_a_mixture_of_one_component_scores_as_that_component(batch: tuple[int, ...]) -> None:
    """Its KL is estimated: log q − log p at mu + sigma eps, which is ½ (sigma² − 1) eps² + mu sigma eps and a
    constant, of variance ½ (sigma² − 1)² + mu² sigma²."""
    vae, n = trained(), 400
    expected, found = evaluate_items(vae, X, n), evaluate_items(vae, X, n, prior=standard(*batch))
    for name in ("reconstruction", "log_likelihood"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12)
    q = vae.encoder(X.double())
    variance = (0.5 * (q.sigma.square() - 1).square() + (q.mu * q.sigma).square()).sum(-1).detach()
    error = (variance.sum(-1) / n).sqrt() / len(X)
    assert (error < 0.01).all(), "the comparison must have power"
    off = (found["elbo"] - expected["elbo"]).mean(-1).abs()
    assert (off > 0).all() and (off < deviation_limit(comparisons=2 * 3) * error).all()


def test_a_prior_for_each_replica() -> None:
    """N(m, s²): torch's KL, and importance weights, that an equal scaling of z brings back to N(0, 1)."""
    vae, x = trained(), X.double()
    m, s = items(12, 1).view(3, 1, 4), items(12, 1, seed=1).view(3, 1, 4).exp()
    prior = DiagonalNormal(m, s.log())
    scores = evaluate_items(vae, x, 50, prior=prior)
    q = vae.encoder(x)
    kl = ((s / q.sigma).log() + (q.sigma.square() + (q.mu - m).square()) / (2 * s.square()) - 0.5).sum(-1)
    torch.testing.assert_close(scores["kl"], kl.detach(), rtol=1e-10, atol=1e-10)
    equal = small(replicas=3).double()
    with torch.no_grad():  # codes (z − m) / s
        for own, other in zip(vae.parameters(), equal.parameters(), strict=True):
            other.copy_(own)
        head, layer = equal.encoder.stack.layers[-1], equal.decoder.stack.layers[0]
        head.weight[..., :4] /= s
        head.bias[..., :4] = (head.bias[..., :4] - m) / s
        head.bias[..., 4:] -= s.log()
        head.bias[1, 0, 4:] = q.log_sigma[1, 0] - s[1, 0].log()
        head.weight[1, :, 4:] = 0
        layer.bias += m @ layer.weight
        layer.weight *= s.mT
    for name, values in evaluate_items(equal, x, 50).items():
        torch.testing.assert_close(scores[name], values, rtol=1e-10, atol=1e-10)
