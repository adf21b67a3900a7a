import math

import numpy as np
import pytest
import torch

from vae_lab import VAE, elbo, evaluate
from vae_lab.objectives import Terms, as_items


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


def test_a_replica_scores_the_same_in_any_company() -> None:
    x = torch.rand(130, 5).round()
    together = evaluate(VAE(5, 2, replicas=3), x, importance_samples=9)
    alone = evaluate(VAE(5, 2, seed=2), x, importance_samples=9)
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
        (2 * torch.ones(4, 5), r"values in \[0, 1\], got \[2, 2\]; rescale the data, or use likelihood='gau"),
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


def test_importance_samples_are_positive() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        evaluate(VAE(5, 2), torch.rand(4, 5), importance_samples=0)
