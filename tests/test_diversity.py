"""How far apart the outputs of one input lie, against a closed form."""

from typing import Any

import numpy as np
import pytest
import torch
from contracts import items
from torch import Tensor

from vae_lab import NOISES, VAE
from vae_lab.diversity import same_input_spread
from vae_lab.noise import presentations
from vae_lab.registry import UnknownName
from vae_lab.statistics import deviation_limit

UNCHANGING = {"none", "ones", "frozen"}
# Of the laws of variance 1. Student's t with 5 degrees of freedom has too heavy a tail for a standard error.
EXCESS_KURTOSIS = {
    "gaussian": 0.0,
    "shared": 0.0,
    "antithetic": 0.0,
    "sobol": 0.0,
    "rademacher": -2.0,
    "uniform": -1.2,
    "laplace": 3.0,
}


def linear(**changes: Any) -> VAE:
    """Gaussian, in float64, with a sigma that depends on item and latent."""
    vae = VAE(**({"features": 5, "latents": 3, "hidden": (), "likelihood": "gaussian"} | changes)).double()
    with torch.no_grad():
        vae.decoder.stack.layers[0].weight.mul_(3)
    return vae


@pytest.mark.parametrize("name", NOISES)
def test_a_spread_is_nothing_or_positive(name: str) -> None:
    """Exactly nothing where eps does not change, also in single precision and through hidden layers."""
    x = items(7, 5).float()
    for vae in (linear(), VAE(5, 3, (8,), "gaussian"), VAE(5, 3, (8,))):
        spread = same_input_spread(vae, x if vae.likelihood == "gaussian" else x.sigmoid(), noise=name)
        assert spread.shape == (1,) and not spread.requires_grad
        assert spread.item() == 0 if name in UNCHANGING else spread.item() > 1e-3


def exact(vae: VAE, x: Tensor, scale: float, samples: int, kurtosis: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of the square of each item's spread, both (items,).

    With A = diag(sigma) W Wᵀ diag(sigma) / D and the sample covariance C of `samples` independent eps of
    variance τ², the square is tr(A C). Its mean is τ² tr A, and its variance

        τ⁴ [2 tr(A²) / (samples − 1) + kurtosis Σ A_kk² / samples].
    """
    weight = vae.decoder.stack.layers[0].weight[0].detach()
    sigma = vae.encoder(x).sigma[0].detach()
    a = sigma.unsqueeze(-1) * (weight @ weight.T) * sigma.unsqueeze(-2) / vae.features
    diagonal = a.diagonal(dim1=-2, dim2=-1)
    variance = 2 * a.square().sum((-2, -1)) / (samples - 1) + kurtosis * diagonal.square().sum(-1) / samples
    return scale**2 * diagonal.sum(-1), scale**4 * variance


@pytest.mark.parametrize("name", EXCESS_KURTOSIS)
def test_of_a_linear_decoder_it_has_a_closed_form(name: str) -> None:
    """The variance of feature d is τ² Σ_k W_kd² sigma_k²; then the mean over features and items."""
    vae, x, samples, scale = linear(), items(6, 5), 8000, 0.7
    squares, variances = exact(vae, x, scale, samples, EXCESS_KURTOSIS[name])
    truth = squares.mean().item()
    error = variances.sqrt().mean().item()  # no more, whatever noise the items share
    limit = deviation_limit(comparisons=len(EXCESS_KURTOSIS)) * error
    assert limit < 0.15 * truth, "the comparison must have power"
    spread = same_input_spread(vae, x, samples, noise=name, noise_scale=scale, seed=3).item()
    assert abs(spread**2 - truth) < limit


def test_every_law_is_either_tested_or_named() -> None:
    assert set(NOISES) == UNCHANGING | set(EXCESS_KURTOSIS) | {"student_t"}


def test_the_square_is_unbiased_for_few_samples() -> None:
    vae, x = linear(), items(20_000, 5)
    for samples in (2, 3):
        squares, variances = exact(vae, x, 1.0, samples, 0.0)
        limit = deviation_limit(comparisons=2) * variances.sum().sqrt().item() / len(x)
        truth = squares.mean().item()
        assert limit < 0.1 * truth, "the comparison must have power"
        assert abs(same_input_spread(vae, x, samples).item() ** 2 - truth) < limit


def test_of_a_linear_decoder_it_is_proportional_to_the_scale() -> None:
    vae, x = linear(), items(7, 5)
    one = same_input_spread(vae, x)
    for scale in (0.0, 0.25, 2.0):  # powers of two, so that eps is scaled without rounding
        found = same_input_spread(vae, x, noise_scale=scale)
        torch.testing.assert_close(found, scale * one, rtol=1e-12, atol=0)


def test_it_is_the_standard_deviation_of_the_outputs_for_the_noise_of_training() -> None:
    vae, x = VAE(5, 3, (8,), replicas=2).double(), items(7, 5).sigmoid()
    names, scales = ["antithetic", "shared"], [1.0, 2.0]
    eps = presentations(names, scales, [4, 9], items=7, latents=3, count=6).double()
    with torch.no_grad():
        outputs = vae.decoder(vae.encoder(x).reparameterize(eps)).mean.numpy()  # type: ignore[attr-defined]
    spread = same_input_spread(vae, x, 6, noise=names, noise_scale=scales, seed=[4, 9])
    np.testing.assert_allclose(spread, np.sqrt(outputs.var(0, ddof=1).mean((1, 2))), rtol=1e-10)


def test_a_replica_has_the_spread_that_it_has_alone() -> None:
    names, scales, seeds = ["gaussian", "none", "sobol", "gaussian"], [1.0, 1.0, 0.5, 2.0], [5, 5, 6, 5]
    together, x = linear(replicas=4, seed=1), items(7, 5)
    spreads = same_input_spread(together, x, noise=names, noise_scale=scales, seed=seeds)
    for r in range(4):
        alone = same_input_spread(linear(seed=1 + r), x, noise=names[r], noise_scale=scales[r], seed=seeds[r])
        torch.testing.assert_close(spreads[r : r + 1], alone, rtol=1e-12, atol=0)
    assert spreads[1] == 0 and spreads[[0, 2, 3]].unique().numel() == 3


def test_it_follows_its_seed_and_leaves_the_callers_generator() -> None:
    vae, x, state = linear(), items(7, 5), torch.get_rng_state()
    first, same, other = (same_input_spread(vae, x, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"samples": 1}, ValueError, "at least 2 samples, got 1"),
        ({"samples": 0}, ValueError, "at least 2 samples, got 0"),
        ({"noise": "gausian"}, UnknownName, "did you mean 'gaussian'"),
        ({"noise": ["none"] * 3}, ValueError, "noise: expected 1 value or one for each of 2 replicas, got 3"),
        ({"noise_scale": [1.0]}, ValueError, "noise_scale: expected 1 value or one for each of 2"),
        ({"seed": [1, 2, 3]}, ValueError, "expected 1 seed or one for each of 2 replicas, got 3"),
        ({"x": items(7, 4)}, ValueError, "features=5, but the items have 4"),
    ],
)
def test_bad_input_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        same_input_spread(**({"vae": linear(replicas=2), "x": items(7, 5)} | changes))
