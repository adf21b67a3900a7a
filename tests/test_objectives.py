import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
import pytest
import torch
from contracts import items
from scipy.special import logsumexp
from torch import Tensor

from vae_lab import ESTIMATORS, VAE, NotApplicable, elbo, evaluate
from vae_lab.measure.statistics import deviation_limit, moments
from vae_lab.registry import UnknownName
from vae_lab.vae.decoder import Likelihood
from vae_lab.vae.encoder import Latent
from vae_lab.vae.evaluation import evaluate_items
from vae_lab.vae.model import as_items
from vae_lab.vae.objectives import OBJECTIVES, Draws, Terms


def test_samples_are_averaged() -> None:
    vae, x = VAE(5, 2, replicas=3), torch.rand(4, 5)
    eps = torch.randn(6, 3, 4, 2)
    mean = torch.stack([elbo(vae, x, e).elbo for e in eps]).mean(0)
    torch.testing.assert_close(elbo(vae, x, eps).elbo, mean)


def test_without_eps_a_fresh_gaussian_sample_is_drawn() -> None:
    vae, x = VAE(5, 2), torch.rand(4, 5)
    torch.manual_seed(1)
    drawn = elbo(vae, x)
    torch.manual_seed(1)
    torch.testing.assert_close(drawn.elbo, elbo(vae, x, torch.randn(1, 4, 2)).elbo)
    assert not torch.equal(drawn.elbo, elbo(vae, x).elbo)


def test_beta_weighs_the_kl() -> None:
    terms = Terms(torch.tensor([[-3.0]]), torch.tensor([[2.0]]))
    assert terms.elbo.item() == -5
    assert terms.weighted(0.5).item() == -4
    assert terms.weighted(torch.tensor([[2.0], [1.0]])).flatten().tolist() == [-7, -5]


def test_a_single_sample_gradient_equals_the_hand_formula() -> None:
    """Linear decoder, normal likelihood: ∂/∂mu = (x − zW − b)Wᵀ/s² − mu and ∂/∂sigma has the factor eps."""
    vae = VAE(5, 2, (), "gaussian").double()
    x, eps = torch.randn(3, 5).double(), torch.randn(1, 3, 2).double()
    q = vae.encoder(x)
    encoder = vae.encoder.stack.layers[0]
    loss = elbo(vae, x, eps).elbo.sum()
    by_bias = torch.autograd.grad(loss, encoder.bias)[0].flatten()
    layer = vae.decoder.stack.layers[0]
    with torch.no_grad():
        by_z = (x - q.reparameterize(eps)[0] @ layer.weight[0] - layer.bias[0]) @ layer.weight[0].T
        by_mu = by_z - q.mu[0]
        by_log_sigma = (by_z * eps[0] - q.sigma[0] + 1 / q.sigma[0]) * q.sigma[0]
    torch.testing.assert_close(
        by_bias, torch.cat([by_mu.sum(0), by_log_sigma.sum(0)]), rtol=1e-10, atol=1e-10
    )


def test_evaluation_has_one_honest_row_per_replica() -> None:
    vae, x = VAE(5, 2, replicas=3), torch.rand(130, 5).round()
    scores = evaluate(vae, x, importance_samples=20)
    assert list(scores) == ["replica", "elbo", "reconstruction", "kl", "log_likelihood"]
    assert list(scores["replica"]) == [0, 1, 2]
    np.testing.assert_allclose(scores["elbo"], scores["reconstruction"] - scores["kl"])
    assert (scores["log_likelihood"] >= scores["elbo"]).all()
    assert scores.equals(evaluate(vae, x, importance_samples=20))
    assert not scores.equals(evaluate(vae, x, importance_samples=20, seed=1))


@pytest.mark.parametrize("latent", get_args(Latent))
def test_a_replica_scores_the_same_in_any_company(latent: Latent) -> None:
    x = torch.rand(130, 5).round()
    together = evaluate(VAE(5, 2, replicas=3, latent=latent), x, importance_samples=9)
    alone = evaluate(VAE(5, 2, seed=2, latent=latent), x, importance_samples=9)
    np.testing.assert_allclose(together.loc[2], [2, *alone.loc[0][1:]], rtol=1e-6)


def test_bound_of_one_sample_is_an_elbo_sample_and_more_samples_tighten_it() -> None:
    vae, x = VAE(64, 2, seed=5), torch.rand(200, 64).round()
    one, many = (evaluate(vae, x, importance_samples=k).iloc[0] for k in (1, 1000))
    assert many["log_likelihood"] > one["log_likelihood"]
    q = vae.encoder(x[:64])
    eps = torch.randn(1, 1, 64, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z = q.reparameterize(eps)
        log_w = vae.decoder(z).log_prob(x[:64]) + vae.prior.log_prob(z) - q.log_prob(z)
    first = evaluate(vae, x[:64], importance_samples=1).iloc[0]
    assert first["log_likelihood"] == pytest.approx(log_w.mean().item(), rel=1e-6)


def test_evaluation_does_not_depend_on_the_noise_that_was_trained_with() -> None:
    """The score uses only encoder and decoder: what the model claims to be."""
    vae, x = VAE(5, 2), torch.rand(20, 5).round()
    with torch.no_grad():
        vae.encoder.stack.layers[-1].bias[..., 2:] = 2.0  # a large sigma, which dropped eps would hide
        vae.decoder.stack.layers[0].weight.mul_(10)  # a decoder that heeds its code
    wide = evaluate(vae, x).iloc[0]
    with torch.no_grad():
        vae.encoder.stack.layers[-1].bias[..., 2:] = -20.0
    narrow = evaluate(vae, x).iloc[0]
    assert wide["kl"] != narrow["kl"]
    assert wide["reconstruction"] < narrow["reconstruction"], "eps reaches the decoder"


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(4, 6), r"features=5, but the items have 6; make it with VAE\(features=6"),
        (torch.rand(5), r"expected a float tensor \(items, 5\), got torch.float32 \(5,\)"),
        (torch.rand(0, 5), r"got torch.float32 \(0, 5\)"),
        (torch.ones(4, 5, dtype=torch.int64), "got torch.int64"),
        (torch.tensor([[0.0] * 5, [math.nan] * 5, [math.inf] * 5]), "in 2 items, the first is item 1"),
        (
            2 * torch.ones(4, 5),
            r"values in \[0, 1\], got \[2, 2\]; scale the data, which span 2 to 2: x / 2, or standardise",
        ),
    ],
)
def test_data_that_do_not_fit_are_refused(x: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_items(VAE(5, 2), x)
    with pytest.raises(ValueError, match=message):
        evaluate(VAE(5, 2), x)


def test_a_normal_likelihood_takes_any_finite_value() -> None:
    as_items(VAE(5, 2, likelihood="gaussian"), 7 * torch.randn(4, 5))


def test_items_take_the_models_precision() -> None:
    x = torch.rand(4, 5, dtype=torch.float64).round()
    assert as_items(VAE(5, 2), x).dtype == torch.float32
    single, double = evaluate(VAE(5, 2), x), evaluate(VAE(5, 2).double(), x.float())
    assert single["kl"][0] == pytest.approx(double["kl"][0], rel=1e-5)
    assert single["kl"][0] != double["kl"][0]


def diverged(log_sigma: float) -> VAE:
    vae = VAE(5, 2, replicas=2)
    with torch.no_grad():
        vae.encoder.stack.layers[-1].weight[1, :, 2:] = 0
        vae.encoder.stack.layers[-1].bias[1, :, 2:] = log_sigma
    return vae


def test_scores_of_a_vanishing_sigma_are_those_of_double_precision() -> None:
    """In float32 its square is 0, and what it adds to mu is lost; the KL has a closed form."""
    vae, x, n = diverged(-60.0), torch.rand(4, 5), 20
    with torch.no_grad():
        mu = vae.encoder(x).mu[1].double()
    kl = (0.5 * mu.square() - 0.5 + 60).sum(1)
    scores = {name: values[1] for name, values in evaluate_items(vae, x, n).items()}
    torch.testing.assert_close(scores["kl"], kl, rtol=1e-6, atol=0)
    # z is mu to all digits, so that each log weight is that of mu, but for its own ½ eps².
    low = scores["reconstruction"] - 0.5 * mu.square().sum(1) - 120
    assert (scores["log_likelihood"] > low).all() and (scores["log_likelihood"] < low + 30).all()


@pytest.mark.parametrize("log_sigma", [-400.0, -800.0, 800.0, math.nan])
def test_scores_that_are_not_finite_name_replica_and_item(log_sigma: float) -> None:
    with pytest.raises(FloatingPointError, match="not finite for 4 items of replica 1, the first is item 0"):
        evaluate(diverged(log_sigma), torch.rand(4, 5))


def test_importance_samples_are_positive() -> None:
    with pytest.raises(ValueError, match="importance_samples should be greater than or equal to 1, got 0"):
        evaluate(VAE(5, 2), torch.rand(4, 5), importance_samples=0)


# Objectives: checks that can also be run on ruined code, as in contracts.py


class ByHand(NamedTuple):
    """Log weights (N, B) and their derivatives (N, B, Z), of one replica of a linear VAE."""

    log_w: Tensor
    by_z: Tensor  # also through log q
    score_mu: Tensor  # ∂log q/∂mu at fixed z
    score_log_sigma: Tensor
    spread: Tensor  # ∂z/∂log sigma; ∂z/∂mu = 1

    def by_output(self, path: Tensor, score: Tensor) -> Tensor:
        """Σ_k path_k ∂log w/∂z ∂z/∂· − score_k ∂log q/∂· for the encoder's output, (B, 2Z)."""
        path, score = path.unsqueeze(-1), score.unsqueeze(-1)
        by_mu = path * self.by_z - score * self.score_mu
        by_log_sigma = path * self.by_z * self.spread - score * self.score_log_sigma
        return torch.cat([by_mu, by_log_sigma], dim=-1).sum(0)


def by_hand(vae: VAE, x: Tensor, eps: Tensor, r: int) -> ByHand:
    """For replica r: p(x|z) = N(zW + b, s²), p(z) = N(0, 1), q = N(mu, sigma²) and z = mu + sigma·eps."""
    with torch.no_grad():
        encoder, decoder = vae.encoder.stack.layers[0], vae.decoder.stack.layers[0]
        mu, log_sigma = (x @ encoder.weight[r] + encoder.bias[r]).chunk(2, dim=-1)
        eps, sigma, weight = eps[:, r], log_sigma.exp(), decoder.weight[r]
        log_scale = vae.decoder.log_scale[r].squeeze()  # type: ignore[index]
        z = mu + sigma * eps
        error = x - z @ weight - decoder.bias[r]
        log_p = -0.5 * (error**2).sum(-1) / (2 * log_scale).exp() - vae.features * log_scale
        log_p = log_p - 0.5 * (z**2).sum(-1) - 0.5 * vae.features * math.log(2 * math.pi)
        log_q = -0.5 * (eps**2).sum(-1) - log_sigma.sum(-1)
        by_z = error @ weight.T / (2 * log_scale).exp() - z + eps / sigma
        return ByHand(log_p - log_q, by_z, eps / sigma, eps**2 - 1, sigma * eps)


def some_linear_vae() -> tuple[VAE, Tensor, Tensor]:
    """Two replicas in float64, three items and four draws of eps for each."""
    vae = VAE(5, 2, (), "gaussian", replicas=2, seed=3).double()
    with torch.no_grad():
        vae.decoder.log_scale.copy_(torch.tensor([[[-0.4]], [[0.2]]]))  # type: ignore[union-attr]
    return vae, items(3, 5), items(4 * 2 * 3, 2, seed=1).view(4, 2, 3, 2)


def check_values() -> None:
    """Each objective is the mean, or the log of the mean exponential, of log weights."""
    vae, x, eps = some_linear_vae()
    for r in range(2):
        log_w = by_hand(vae, x, eps, r).log_w.numpy()
        tight = logsumexp(log_w, axis=0) - math.log(4)
        for name, expected in {
            "sticking_the_landing": log_w.mean(0),
            "iwae": tight,
            "iwae_stl": tight,
            "dreg": tight,
        }.items():
            value = OBJECTIVES[name](vae, x, eps)
            assert value.shape == (2, 3)
            np.testing.assert_allclose(value[r].detach(), expected, rtol=1e-12, err_msg=name)
    torch.testing.assert_close(OBJECTIVES["elbo"](vae, x, eps), elbo(vae, x, eps).elbo)


def check_single_gradients() -> None:
    """With the same eps, gradients of encoder weights equal the formulas, with normalised weights v:
    Σ v² ∂log w/∂z ∂z/∂φ (doubly reparameterized); Σ v (∂log w/∂z ∂z/∂φ − ∂log q/∂φ) (IWAE); the latter
    without the score; and the means of both kinds over samples (the ELBO by log weights)."""
    vae, x, eps = some_linear_vae()
    layer = vae.encoder.stack.layers[0]
    for name in ("sticking_the_landing", "iwae", "iwae_stl", "dreg"):
        loss = OBJECTIVES[name](vae, x, eps).sum()
        by_weight, by_bias = torch.autograd.grad(loss, [layer.weight, layer.bias])
        for r in range(2):
            hand = by_hand(vae, x, eps, r)
            v, none = hand.log_w.softmax(0), torch.zeros_like(hand.log_w)
            by_output = {
                "sticking_the_landing": hand.by_output(none + 1 / 4, none),
                "iwae": hand.by_output(v, v),
                "iwae_stl": hand.by_output(v, none),
                "dreg": hand.by_output(v**2, none),
            }[name]
            close = {"rtol": 1e-10, "atol": 1e-10}
            torch.testing.assert_close(by_weight[r], x.T @ by_output, **close)
            torch.testing.assert_close(by_bias[r, 0], by_output.sum(0), **close)


def check_decoder_gradients() -> None:
    """All the tighter bounds train the decoder alike: by Σ v ∇log p(x, z)."""
    vae, x, eps = some_linear_vae()
    weights = list(vae.decoder.parameters())
    right = torch.autograd.grad(OBJECTIVES["iwae"](vae, x, eps).sum(), weights)
    assert all(g.abs().max() > 0.1 for g in right)
    for name in ("dreg", "iwae_stl"):
        other = torch.autograd.grad(OBJECTIVES[name](vae, x, eps).sum(), weights)
        for a, b in zip(right, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def head_gradients(name: str, vae: VAE, x: Tensor, head: Tensor, eps: Tensor) -> Tensor:
    """Gradients (M, 2Z) by the encoder's output, held at `head` (2Z,), for eps (N, 1, M, Z): replicates."""
    leaf = head.expand(1, eps.shape[2], -1).clone().requires_grad_()
    draws = Draws(vae, vae.encoder.posterior(leaf), x, eps)
    return torch.autograd.grad(OBJECTIVES[name].function(draws).sum(), leaf)[0][0]


def line() -> tuple[VAE, Tensor, float, float]:
    """One latent, one feature: a VAE, an item, and mean and variance of its exact posterior, a normal."""
    vae, (weight, variance) = VAE(1, 1, (), "gaussian").double(), (1.3, 0.49)
    x = torch.tensor([[0.8]], dtype=torch.float64)
    with torch.no_grad():
        vae.decoder.stack.layers[0].weight.fill_(weight)
        vae.decoder.stack.layers[0].bias.zero_()
        vae.decoder.log_scale.fill_(0.5 * math.log(variance))  # type: ignore[union-attr]
    precision = weight**2 + variance
    return vae, x, 0.8 * weight / precision, variance / precision


def check_variances() -> None:
    """Variance of the gradient by the mean, where the posterior is N(m, s0²) and q = N(mu, sigma²).

    Sticking the landing: (1/sigma − sigma/s0²)², which is nothing at the posterior, where the gradient is
    zero whatever eps. The ELBO by log weights (IWAE with one sample): sigma²/s0⁴. With its KL in closed form:
    sigma² (1/s0² − 1)².
    """
    vae, x, m, s0_squared = line()
    eps = items(100_000, 1, seed=2).view(1, 1, -1, 1)
    ratios = (0.6, 0.85, 1.0, 1.5)
    limit = deviation_limit(comparisons=3 * len(ratios))
    for ratio in ratios:
        sigma = ratio * math.sqrt(s0_squared)
        head = torch.tensor([m, math.log(sigma)], dtype=torch.float64)
        exact = {
            "sticking_the_landing": (1 / sigma - sigma / s0_squared) ** 2,
            "iwae": sigma**2 / s0_squared**2,
            "elbo": sigma**2 * (1 / s0_squared - 1) ** 2,
        }
        for name, variance in exact.items():
            gradients = head_gradients(name, vae, x, head, eps)
            if ratio == 1 and name == "sticking_the_landing":
                assert gradients.abs().max() < 1e-12, "to rounding"
                continue
            measured = moments(gradients[:, 0].numpy())
            assert measured.variance_se < 0.01 * variance, "the comparison must have power"
            assert abs(measured.variance - variance) < limit * measured.variance_se, (name, ratio)


def check_expectations() -> None:
    """DReG has IWAE's expected gradient, and leaving out the score has another (three samples, same eps)."""
    vae, x, m, s0_squared = line()
    head = torch.tensor([m + 0.4, 0.5 * math.log(s0_squared) + 0.5], dtype=torch.float64)
    eps = items(3 * 200_000, 1, seed=3).view(3, 1, -1, 1)
    iwae, dreg, left_out = (head_gradients(k, vae, x, head, eps) for k in ("iwae", "dreg", "iwae_stl"))
    limit = deviation_limit(comparisons=2)
    for coordinate in range(2):
        same = moments((dreg - iwae)[:, coordinate].numpy())
        other = moments((left_out - iwae)[:, coordinate].numpy())
        assert 3 * limit * same.mean_se < abs(other.mean), "the comparison must have power"
        assert abs(same.mean) < limit * same.mean_se
        assert abs(other.mean) > limit * other.mean_se


CHECKS = (
    check_values,
    check_single_gradients,
    check_decoder_gradients,
    check_variances,
    check_expectations,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_objectives(check: Callable[[], None]) -> None:
    check()


def dreg_with_one_factor(draws: Draws) -> Tensor:
    log_w = draws.log_weights(score=False)
    v = log_w.detach().softmax(0)
    return log_w.detach().logsumexp(0) - math.log(len(v)) + (v * (log_w - log_w.detach())).sum(0)


def dreg_with_two_factors_for_the_decoder(draws: Draws) -> Tensor:
    log_w = draws.log_weights(score=False)
    v = log_w.detach().softmax(0)
    return log_w.detach().logsumexp(0) - math.log(len(v)) + (v**2 * (log_w - log_w.detach())).sum(0)


def dreg_with_weights_normalised_over_items(draws: Draws) -> Tensor:
    log_w = draws.log_weights(score=False)
    v = log_w.detach().softmax(-1)
    draws.z.register_hook(lambda gradient: v.unsqueeze(-1) * gradient)
    return log_w.detach().logsumexp(0) - math.log(len(v)) + (v * (log_w - log_w.detach())).sum(0)


def stl_that_detaches_z(draws: Draws) -> Tensor:
    log_q = draws.q.log_prob(draws.z.detach())
    return (draws.log_x + draws.vae.prior.log_prob(draws.z) - log_q).mean(0)


def stl_with_the_score(draws: Draws) -> Tensor:
    return draws.log_weights(score=True).mean(0)


def iwae_without_the_score(draws: Draws) -> Tensor:
    return OBJECTIVES["iwae_stl"].function(draws)


def iwae_stl_with_the_score(draws: Draws) -> Tensor:
    return OBJECTIVES["iwae"].function(draws)


def iwae_without_the_mean(draws: Draws) -> Tensor:
    return draws.log_weights().logsumexp(0)


def iwae_of_the_likelihood_alone(draws: Draws) -> Tensor:
    return draws.log_x.logsumexp(0) - math.log(len(draws.eps))


def elbo_by_log_weights(draws: Draws) -> Tensor:
    return draws.log_weights().mean(0)


@pytest.mark.parametrize(
    ("name", "ruined"),
    [
        ("dreg", dreg_with_one_factor),
        ("dreg", dreg_with_two_factors_for_the_decoder),
        ("dreg", dreg_with_weights_normalised_over_items),
        ("sticking_the_landing", stl_that_detaches_z),
        ("sticking_the_landing", stl_with_the_score),
        ("iwae", iwae_without_the_score),
        ("iwae_stl", iwae_stl_with_the_score),
        ("iwae", iwae_without_the_mean),
        ("iwae", iwae_of_the_likelihood_alone),
        ("elbo", elbo_by_log_weights),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_ruined_objective_breaks_a_check(
    name: str, ruined: Callable[[Draws], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OBJECTIVES, name, replace(OBJECTIVES[name], function=ruined))
    assert any(fails(check) for check in CHECKS), "no check noticed"


def fails(check: Callable[[], None]) -> bool:
    try:
        check()
    except AssertionError:
        return True
    return False


# The ELBO by other estimators


def estimates(vae: VAE, x: Tensor, name: str, n: int, replicates: int) -> tuple[Tensor, Terms]:
    """Gradients (M, R, B, P) of `elbo` by the encoder's output, and the terms, of M independent calls.

    Copies of an item are further items, so one call stands for all.
    """
    heads: list[Tensor] = []

    def keep(module: torch.nn.Module, args: object, output: Tensor) -> None:
        output.retain_grad()
        heads.append(output)

    hook = vae.encoder.stack.register_forward_hook(keep)
    try:
        terms = elbo(vae, x.repeat(replicates, 1), estimator=name, n=n)
    finally:
        hook.remove()
    terms.elbo.sum().backward()
    shape = (replicates, len(x))
    assert heads[0].grad is not None
    return heads[0].grad.unflatten(1, shape).movedim(1, 0), Terms(*(t.unflatten(1, shape) for t in terms))


def expected_elbo_of_linear(vae: VAE, x: Tensor, head: Tensor) -> Terms:
    """Closed forms for a linear decoder with normal likelihood: terms (R, B), differentiable by `head`."""
    mu, log_sigma = head.chunk(2, dim=-1)
    layer, log_scale = vae.decoder.stack.layers[0], vae.decoder.log_scale
    assert log_scale is not None
    error = ((x - mu @ layer.weight - layer.bias) ** 2).sum(-1)
    error = error + ((2 * log_sigma).exp() @ (layer.weight**2).sum(-1, keepdim=True)).squeeze(-1)
    constant = vae.features * (0.5 * math.log(2 * math.pi) + log_scale.squeeze(-1))
    kl = 0.5 * (mu**2 + (2 * log_sigma).exp() - 1 - 2 * log_sigma).sum(-1)
    return Terms(-0.5 * error / (2 * log_scale).exp().squeeze(-1) - constant, kl)


def all_codes(latents: int) -> Tensor:
    """(2^Z, Z)."""
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * latents).double()


def expected_elbo_by_enumeration(vae: VAE, x: Tensor, head: Tensor) -> Terms:
    """Sums over all values of binary z: terms (R, B), differentiable by `head`."""
    z = all_codes(vae.latents)  # (2^Z, Z)
    log_q = (z[:, None, None] * head - torch.nn.functional.softplus(head)).sum(-1)
    log_x = vae.decoder(z[:, None, None].expand(-1, *head.shape)).log_prob(x)
    kl = (log_q.exp() * (log_q + vae.latents * math.log(2))).sum(0)
    return Terms((log_q.exp() * log_x).sum(0), kl)


@pytest.mark.parametrize("latent", ["normal", "bernoulli"])
def test_the_elbo_by_every_estimator_has_the_exact_gradient(latent: Latent) -> None:
    """Whatever the registry holds that applies: all expected gradients and values, at one false alarm in a
    million; and a biased estimator is noticed."""
    replicates, x = 10_000, items(2, 4)
    likelihood: Likelihood = "gaussian" if latent == "normal" else "bernoulli"
    vae = VAE(4, 3, (), likelihood, replicas=2, seed=1, latent=latent).double()
    if latent == "bernoulli":
        x = (x > 0).double()
    with torch.no_grad():
        vae.decoder.stack.layers[0].weight.mul_(3)  # a decoder that heeds its code
    head = vae.encoder.stack(x).detach().requires_grad_()
    expected = (expected_elbo_of_linear if latent == "normal" else expected_elbo_by_enumeration)(vae, x, head)
    (exact,) = torch.autograd.grad(expected.elbo.sum(), head)
    applied, errors = set(), {}
    torch.manual_seed(0)
    for name in ESTIMATORS:
        try:
            gradients, terms = estimates(vae, x, name, 2, replicates)
        except NotApplicable:
            continue
        applied.add(name)
        torch.testing.assert_close(terms.kl, expected.kl.unsqueeze(1).expand_as(terms.kl))
        sides = [(gradients, exact), (terms.reconstruction.movedim(1, 0), expected.reconstruction)]
        sides = sides if ESTIMATORS[name].unbiased else sides[:1]
        errors[name] = []
        for sample, truth in sides:
            error = (sample.var(0) / replicates).sqrt()
            assert (error < 0.05 * truth.abs().max()).all(), f"{name}: the comparison must have power"
            floor = 1e-9 * truth.abs().max()
            errors[name].append(((sample.mean(0) - truth).abs() / (error + floor)).max().item())
    limit = deviation_limit(comparisons=len(ESTIMATORS) * (exact.numel() + expected.kl.numel()))
    assert {k for k, v in errors.items() if max(v) > limit and ESTIMATORS[k].unbiased} == set()
    if latent == "normal":
        assert {"pathwise", "score_function", "rloo", "measure_valued", "antithetic"} <= applied
        assert "arm" not in applied
        assert max(errors["frozen_epsilon"]) > limit
    else:
        assert {"score_function", "rloo", "arm", "disarm", "rebar", "relax"} <= applied
        assert "pathwise" not in applied
        assert max(errors["gumbel_softmax"]) > limit


def test_samples_of_an_estimator_are_averaged() -> None:
    vae, x = VAE(5, 2, (), "gaussian").double(), items(1, 5)
    one, four = (estimates(vae, x, "score_function", n, 20_000)[0][:, 0, 0] for n in (1, 4))
    ratio = one.var(0) / four.var(0)
    assert ((ratio - 4).abs() < 1).all()


def test_what_to_draw_is_said_once() -> None:
    vae, x, eps = VAE(5, 2), torch.rand(4, 5), torch.zeros(1, 4, 2)
    for wrong in ({"estimator": "rloo"}, {"n": 2}):
        with pytest.raises(ValueError, match="eps says what to draw, so it goes with neither"):
            elbo(vae, x, eps, **wrong)  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="did you mean 'rloo'"):
        elbo(vae, x, estimator="rlo")
    with pytest.raises(ValueError, match=r"expected \(N, 1, 4, 2\), got \(1, 4, 2\)"):
        OBJECTIVES["iwae"](vae, x, eps)
    binary = VAE(5, 2, latent="bernoulli")
    with pytest.raises(NotApplicable, match="this VAE's are Bernoulli; use objective='elbo'"):
        elbo(binary, x, eps)
    for name in OBJECTIVES:
        with pytest.raises(NotApplicable, match="such as 'disarm'"):
            OBJECTIVES[name](binary, x, eps.unsqueeze(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": torch.zeros(3, 4, 2)}, r"eps: expected \(2, 4, 2\), with or without .* got \(3, 4, 2\)"),
        ({"eps": torch.zeros(1, 1, 2, 4, 2)}, r"eps: expected \(2, 4, 2\)"),
        ({"eps": torch.zeros(2, 4, 2), "detached": torch.ones(2, 1, 1)}, "detached: expected truth values"),
        ({"n": 2.0}, "n should be a valid integer, got 2.0"),
        ({"x": torch.rand(4, 6)}, r"expected float items \(…, 5\), got torch.float32 \(4, 6\)"),
        ({"x": torch.ones(4, 5, dtype=torch.int64)}, "got torch.int64"),
    ],
)
def test_what_does_not_fit_the_bound_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        elbo(**({"vae": VAE(5, 2, replicas=2), "x": torch.rand(4, 5)} | changes))


def test_replicates_of_q_are_no_samples() -> None:
    """Three replicates of q with one eps each have three bounds."""
    vae, x, eps = VAE(5, 2, replicas=2), torch.rand(4, 5), torch.randn(3, 2, 4, 2)
    terms = elbo(vae, x, eps, q=vae.encoder(x).expand((3, 2, 4)))
    for s in range(3):
        torch.testing.assert_close(terms.elbo[s], elbo(vae, x, eps[s]).elbo)


def test_binary_latents_are_scored_as_enumeration_does() -> None:
    """Importance-weighted bound of 2,000 samples, whose bias is far below the error here, and ELBO."""
    x = (items(6, 5) > 0).double()
    vae = VAE(5, 3, (4,), replicas=2, latent="bernoulli").double()
    with torch.no_grad():
        vae.encoder.stack.layers[-1].weight.mul_(4)
        vae.decoder.stack.layers[0].weight.mul_(4)
        exact = expected_elbo_by_enumeration(vae, x, vae.encoder.stack(x))
        log_x = vae.decoder(all_codes(3)[:, None, None].expand(-1, 2, 6, -1)).log_prob(x)
        log_likelihood = (log_x.logsumexp(0) - 3 * math.log(2)).mean(-1)
    scores = pd.concat([evaluate(vae, x, importance_samples=2000, seed=s) for s in range(20)])
    limit = deviation_limit(comparisons=4)
    for r, rows in scores.groupby("replica"):
        np.testing.assert_allclose(rows["kl"], exact.kl[r].mean().item(), rtol=1e-12)
        for column, truth in {"elbo": exact.elbo[r].mean(), "log_likelihood": log_likelihood[r]}.items():
            measured = moments(rows[column])
            assert measured.mean_se < 0.005, "the comparison must have power"
            assert abs(measured.mean - truth) < limit * measured.mean_se
        assert log_likelihood[r] - exact.elbo[r].mean() > 0.05, "the bounds are not the same"
