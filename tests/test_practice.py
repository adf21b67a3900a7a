"""What people do to a VAE in practice: schedules of beta, free bits, clamped sigma, a context."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily

from vae_lab import VAE, DiagonalNormal, NotApplicable, elbo, evaluate, fit, load
from vae_lab.data import Dataset
from vae_lab.vae.files import load_model, save_model
from vae_lab.vae.objectives import Terms, with_free_bits

GREY = load("digits", None, items=100)


def weights(vae: VAE, replica: int) -> Tensor:
    return torch.cat([p[replica].detach().flatten() for p in vae.parameters()])


def test_a_constant_schedule_is_the_constant_to_the_last_bit() -> None:
    vae = VAE(64, 4, (16,), replicas=3, seed=[3, 3, 3])
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 30, "progress": False}
    history = fit(vae, load("digits", items=100), beta=[2.0, [2.0] * 3, [2.0, 2.0, 1.0]], seed=5, **settings)
    assert not torch.equal(weights(vae, 0), weights(vae, 1)), "seeds 5 and 6"
    vae = VAE(64, 4, (16,), replicas=3, seed=[3, 3, 3])
    fit(vae, GREY, beta=[2.0, [2.0] * 3, [2.0, 2.0, 1.0]], seed=[5, 5, 5], **settings)
    assert torch.equal(weights(vae, 0), weights(vae, 1))
    assert not torch.equal(weights(vae, 0), weights(vae, 2))
    assert list(history["epoch"]) == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_schedule_gives_each_epoch_its_beta_and_adam_its_memory() -> None:
    """Against Adam by hand: all items in one batch, and z = μ, so that nothing is random."""
    schedule = [4.0, 0.5, 0.0, 2.0]
    vae, twin = (VAE(64, 4, (16,)).double() for _ in range(2))
    fit(vae, GREY, epochs=4, batch_size=100, noise="none", beta=[schedule], progress=False)
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3)
    x = GREY.train.double()
    for beta in schedule:
        terms = elbo(twin, x, torch.zeros(1, 100, 4).double())
        optimizer.zero_grad()
        (beta * terms.kl - terms.reconstruction).mean().backward()
        optimizer.step()
    torch.testing.assert_close(weights(vae, 0), weights(twin, 0), rtol=1e-9, atol=1e-12)


def hand_kl(q: DiagonalNormal) -> np.ndarray:
    """KL of each latent to N(0, 1), (R, B, Z)."""
    mu, sigma = q.mu.detach().numpy(), q.sigma.detach().numpy()
    return (mu**2 + sigma**2 - 1 - 2 * np.log(sigma)) / 2


def test_free_bits_are_a_floor_under_the_mean_kl_of_each_latent() -> None:
    torch.manual_seed(0)
    vae, nats = VAE(64, 5, replicas=2).double(), torch.tensor([[0.3], [0.02]]).double()
    q = DiagonalNormal(torch.randn(2, 7, 5).double() * torch.arange(5), torch.randn(2, 7, 5).double() / 9)
    paid = with_free_bits(vae, q, elbo(vae, torch.rand(7, 64).double(), q.mu * 0, q=q), nats)
    expected = np.maximum(hand_kl(q).mean(1), nats.numpy()).sum(-1)
    np.testing.assert_allclose(paid.kl.mean(1).numpy(), expected, rtol=1e-12)
    assert (hand_kl(q).mean(1) < nats.numpy()).any() and (hand_kl(q).mean(1) > nats.numpy()).any()


def test_below_its_free_bits_a_latent_has_no_slope_and_above_it_the_usual_one() -> None:
    vae, mu = VAE(64, 2), torch.tensor([[[0.1, 2.0], [0.2, -1.0]]], requires_grad=True)
    q = DiagonalNormal(mu, torch.zeros(1, 2, 2))
    terms = with_free_bits(vae, q, Terms(torch.zeros(1, 2), (mu**2 / 2).sum(-1)), 0.25)
    (slope,) = torch.autograd.grad(terms.kl.sum(), mu)
    torch.testing.assert_close(slope, mu.detach() * torch.tensor([0.0, 1.0]))


def test_free_bits_are_each_replica_s_own_and_none_change_nothing() -> None:
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 30, "seed": [5, 5], "progress": False}
    plain, mixed = (VAE(64, 4, (16,), replicas=2, seed=[3, 3]) for _ in range(2))
    fit(plain, GREY, **settings)
    fit(mixed, GREY, free_bits=[0.0, 0.5], **settings)
    torch.testing.assert_close(weights(plain, 0), weights(mixed, 0))
    assert not torch.allclose(weights(mixed, 0), weights(mixed, 1))
    coins = VAE(64, 4, (16,), latent="bernoulli")
    kl = [
        fit(coins, GREY, epochs=3, estimator="disarm", samples=2, free_bits=free, progress=False)["kl"]
        for free in (0.0, 1.0)
    ]
    assert kl[1].iloc[-1] != kl[0].iloc[-1]


class TwoHills(VAE):
    """Its prior is a mixture, which has no KL for each latent."""

    @property
    def prior(self) -> Any:
        hills = DiagonalNormal(torch.tensor([[-1.0], [1.0]]).expand(2, self.latents), torch.zeros(2, 1))
        return MixtureSameFamily(Categorical(torch.ones(2)), hills)


def test_free_bits_need_a_prior_that_factorises() -> None:
    vae = TwoHills(64, 3)
    q = vae.encoder(GREY.train)
    with pytest.raises(NotApplicable, match="MixtureSameFamily does not factorise"):
        with_free_bits(vae, q, Terms(q.mu[..., 0], q.mu[..., 0]), 0.1)


def test_a_pair_clamps_sigma() -> None:
    plain = VAE(64, 4, (16,), seed=[3])
    vae = VAE(64, 4, (16,), replicas=4, seed=[3] * 4, sigma=[None, (0.9, 1.05), (1e-9, 1e9), 0.5])
    sigma, own = vae.encoder(GREY.train).sigma, plain.encoder(GREY.train).sigma[0]
    torch.testing.assert_close(sigma[1], own.clamp(0.9, 1.05))
    assert torch.equal(sigma[0], own) and torch.equal(sigma[2], own)
    assert sigma[1].unique().numel() > 2 and sigma[1].min() == sigma.new_tensor(0.9)
    assert torch.equal(sigma[3], torch.full_like(own, 0.5))


def test_where_sigma_is_clamped_it_does_not_learn() -> None:
    vae = VAE(64, 2, (), sigma=[(0.2, 0.3)])
    terms = elbo(vae, GREY.train, torch.randn(1, len(GREY.train), 2))
    terms.elbo.sum().backward()
    gradient = vae.encoder.stack.layers[0].weight.grad
    assert (gradient[..., 2:] == 0).all() and (gradient[..., :2] != 0).any()


def with_labels(data: Dataset) -> Dataset:
    """Items with their label beside them, as zeros and a one."""
    parts = {
        part: torch.cat([getattr(data, part), torch.eye(10)[getattr(data, f"{part}_labels")]], dim=1)
        for part in ("train", "test")
    }
    return replace(data, **parts, shape=(1, 74))


def test_a_conditional_model_models_the_pixels_given_the_context() -> None:
    """A linear decoder by hand: logits [z, c] W + b of the pixels, and no term for the context."""
    vae, data = VAE(74, 3, (), replicas=2, context=10), with_labels(GREY)
    eps = torch.randn(2, len(data.train), 3)
    q = vae.encoder(data.train)
    z, (layer,) = q.reparameterize(eps).detach(), vae.decoder.stack.layers
    for r in range(2):
        given = torch.cat([z[r], data.train[:, 64:]], dim=1)
        p = torch.sigmoid(given @ layer.weight[r] + layer.bias[r])
        expected = (GREY.train * p.log() + (1 - GREY.train) * (1 - p).log()).sum(1)
        torch.testing.assert_close(elbo(vae, data.train, eps).reconstruction[r], expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(vae.decoder(z, data.train[:, 64:]).mean[1], p)


def test_a_conditional_model_trains_scores_draws_and_is_saved(tmp_path: Path) -> None:
    data = with_labels(load("digits", items=300))
    vae = VAE(74, 3, (16,), replicas=2, context=10)
    before = evaluate(vae, data.test, 5)["elbo"]
    fit(vae, data, epochs=5, progress=False)
    assert (evaluate(vae, data.test, 5)["elbo"] > before + 0.5).all()
    fit(vae, data, epochs=1, objective="iwae", samples=3, progress=False)
    label = torch.eye(10)[[3, 7]]
    images = vae.generate(2, context=label)
    assert images.shape == (2, 2, 64)
    assert not torch.allclose(images, vae.generate(2, context=label.flip(0)))
    save_model(vae, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert torch.equal(again.generate(2, context=label), images)


def test_the_context_is_not_binarised_and_pixels_are_as_without_it() -> None:
    """Learned from contexts of ½, which a coin would turn into 0 or 1."""
    from vae_lab.vae.recipe import Recipe
    from vae_lab.vae.training import Training

    plain = load("digits", items=100)
    half = replace(
        plain,
        train=torch.cat([plain.train, torch.full((100, 1), 0.5)], dim=1),
        test=torch.cat([plain.test, torch.full((len(plain.test), 1), 0.5)], dim=1),
        shape=(1, 65),
    )
    index = torch.arange(100).unsqueeze(0)
    with_context, without = (
        Training(vae, data, Recipe(replicas=1, epochs=1)).batch(index)
        for vae, data in ((VAE(65, 2, context=1), half), (VAE(64, 2), plain))
    )
    assert torch.equal(with_context[..., :64], without)
    assert (with_context[..., 64:] == 0.5).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VAE(64, context=64), "context is a part of the features"),
        (lambda: VAE(74, context=10, channels=[4]), "goes with no channels"),
        (lambda: VAE(64, context=-1), "context should be greater than or equal to 0"),
        (lambda: VAE(64, sigma=[(0.5, 0.1)]), "between a smaller and a larger number"),
        (lambda: VAE(64, sigma=[(0.0, 0.1)]), r"sigma\[0"),
        (lambda: VAE(74, context=10).generate(3), r"expected context \(3, 10\), got None"),
        (lambda: VAE(64).generate(3, context=torch.ones(3, 2)), r"expected context None, got \(3, 2\)"),
        (lambda: VAE(74, context=10).decoder(torch.zeros(1, 3, 8)).mean, r"decoder\(z, context\), with 10"),
        (lambda: fit(VAE(64), GREY, epochs=3, beta=[[1.0, 2.0]]), r"beta\[0\]: .* each of 3 epochs, got 2"),
        (lambda: fit(VAE(64), GREY, epochs=2, beta=[[1.0, -2.0]]), r"beta\[0"),
        (lambda: fit(VAE(64), GREY, epochs=2, free_bits=-1.0), "free_bits should be greater"),
        (lambda: fit(VAE(64), GREY, epochs=2, free_bits=1.0, objective="iwae"), "free_bits is for objective"),
        (lambda: fit(VAE(64), GREY, epochs=1, beta=[[2.0]], objective="iwae"), "beta weighs the KL"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
