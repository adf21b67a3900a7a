"""Measures of diversity, against closed forms and public packages."""

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contracts import items
from prdc import compute_prdc
from sklearn.metrics.pairwise import polynomial_kernel
from torch import Tensor
from vendi_score import vendi

from vae_lab import NOISES, VAE, load
from vae_lab.measure import diversity
from vae_lab.measure.classifier import Classifier, image_scores
from vae_lab.measure.diversity import (
    active_units,
    kid,
    kl_per_latent,
    manifold_scores,
    mutual_information,
    same_input_spread,
    vendi_score,
)
from vae_lab.measure.statistics import deviation_limit, moments
from vae_lab.registry import UnknownName
from vae_lab.reparameterization import DiagonalNormal
from vae_lab.vae.noise import presentations

UNCHANGING = {"none", "ones", "frozen"}
# Of the laws of variance 1. Those of HEAVY have too heavy tails for a standard error.
HEAVY = {"student_t", "contaminated"}
EXCESS_KURTOSIS = {
    "gaussian": 0.0,
    "shared": 0.0,
    "antithetic": 0.0,
    "sobol": 0.0,
    "rademacher": -2.0,
    "uniform": -1.2,
    "laplace": 3.0,
    "arcsine": -1.5,
    "exponential": 6.0,
    "smeared_coin": 0.99**2 + 6 * 0.99 * 0.01 + 3 * 0.01**2 - 3,
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
    assert set(NOISES) == UNCHANGING | set(EXCESS_KURTOSIS) | HEAVY


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
        ({"samples": 1}, ValueError, "samples should be greater than or equal to 2, got 1"),
        ({"samples": 0}, ValueError, "samples should be greater than or equal to 2, got 0"),
        ({"noise": "gausian"}, UnknownName, "did you mean 'gaussian'"),
        ({"noise": ["none"] * 3}, ValueError, "noise: expected 1 value or one for each of 2 replicas, got 3"),
        ({"noise_scale": [1.0]}, ValueError, "noise_scale: expected 1 value or one for each of 2"),
        ({"seed": [1, 2, 3]}, ValueError, "seed: expected 1 value or one for each of 2 replicas, got 3"),
        ({"x": items(7, 4)}, ValueError, "features=5, but the items have 4"),
    ],
)
def test_bad_input_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        same_input_spread(**({"vae": linear(replicas=2), "x": items(7, 5)} | changes))


def posterior(replicas: int, count: int, latents: int, sigma: float = 0.5, seed: int = 0) -> DiagonalNormal:
    """Of differing mu and sigma, in float64."""
    mu, log_sigma = items(2 * replicas * count, latents, seed).view(2, replicas, count, latents)
    return DiagonalNormal(mu, math.log(sigma) + 0.3 * log_sigma)


def test_active_units_count_the_latents_whose_mean_varies() -> None:
    mu = items(200, 4).expand(2, 200, 4) * torch.tensor(
        [[1.0, 0.2, 0.05, 0.0], [0.05, 0.0, 1.0, 1.0]]
    ).unsqueeze(1)
    q = DiagonalNormal(mu + 3, torch.zeros(2, 200, 4))
    assert active_units(q).tolist() == [2, 2]
    assert active_units(q, threshold=0.1).tolist() == [1, 2]
    assert active_units(q, threshold=1e-4).tolist() == [3, 3]


def test_active_units_follow_the_scale_and_the_information_does_not() -> None:
    q = posterior(1, 50, 3)
    for scale, active in ((100, 3), (0.01, 0)):
        scaled = DiagonalNormal(q.mu * scale, q.log_sigma + math.log(scale))
        assert active_units(scaled).tolist() == [active]
        torch.testing.assert_close(mutual_information(scaled), mutual_information(q), rtol=1e-9, atol=0)
    shifted = DiagonalNormal(q.mu + 1e6, q.log_sigma)
    torch.testing.assert_close(mutual_information(shifted), mutual_information(q), rtol=1e-6, atol=0)


def test_kl_per_latent_is_torchs() -> None:
    q = posterior(2, 30, 3)
    prior = DiagonalNormal(torch.zeros(2, 30, 3), torch.zeros(2, 30, 3))
    expected = torch.distributions.kl_divergence(q.base_dist, prior.base_dist).mean(1)
    torch.testing.assert_close(kl_per_latent(q), expected, rtol=1e-12, atol=0)


def test_information_is_nothing_for_equal_posteriors_and_ln_n_for_distant_ones() -> None:
    prior = DiagonalNormal(torch.zeros(2, 40, 3), torch.zeros(2, 40, 3))
    torch.testing.assert_close(mutual_information(prior).numpy(), np.zeros(2), rtol=0, atol=1e-13)
    for sigma in (0.1, 1e-8):  # the second is far below what the squares resolve
        apart = DiagonalNormal(
            5e3 + 5.0 * torch.arange(40.0).view(1, 40, 1), torch.full((1, 40, 1), math.log(sigma))
        )
        torch.testing.assert_close(
            mutual_information(apart).exp().numpy(), np.array([40.0]), rtol=1e-12, atol=0
        )


@pytest.mark.parametrize(("spread", "sigma"), [(1e3, 1e-6), (1.0, 1e-8), (1e10, 1e-8)])
def test_information_of_sharp_posteriors_is_ln_n(spread: float, sigma: float) -> None:
    """Items lie so far apart that no other can be meant. A replica that is not sharp is none the wiser."""
    mu = spread * items(160, 2).view(2, 80, 2)
    sharp, soft = DiagonalNormal(mu, torch.full_like(mu, math.log(sigma))), posterior(1, 80, 2)
    both = [torch.cat(pair) for pair in ((sharp.mu, soft.mu), (sharp.log_sigma, soft.log_sigma))]
    found = mutual_information(DiagonalNormal(*both))
    torch.testing.assert_close(found[:2].exp(), torch.full((2,), 80.0).double(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found[2:], mutual_information(soft), rtol=1e-9, atol=0)


def test_information_of_linear_gaussian_latents_has_a_closed_form() -> None:
    """z_k = x_k + noise, with a variance s_k of x and 1 of the noise: Σ_k ½ ln(1 + s_k).

    That is the information of all x. For N drawn items it is less by the divergence of the mixture of N from
    the marginal, whose mean is (Π_k (1 + s_k) − 1) / 2N to first order: half the mean χ² over N.
    """
    s, n, runs = torch.tensor([1.0, 0.25], dtype=torch.float64), 400, 300
    log_sigma = torch.zeros(1, n, 2)
    estimates = [
        mutual_information(DiagonalNormal(items(n, 2, i) * s.sqrt(), log_sigma), seed=runs + i).item()
        for i in range(runs)
    ]
    found, loss = moments(estimates), (float((1 + s).prod()) - 1) / (2 * n)
    truth = 0.5 * float((1 + s).log().sum())
    limit = deviation_limit() * found.mean_se
    assert limit < 0.05 * truth, "the comparison must have power"
    assert abs(found.mean - (truth - loss)) < limit + loss / 10  # the next order is smaller by 1/N


def by_definition(q: DiagonalNormal, samples: int, seed: int) -> Tensor:
    """The information by torch's log densities, all pairs at once: (R,)."""
    n, latents = q.mu.shape[1:]
    generator = torch.Generator().manual_seed(seed)
    found = torch.zeros(len(q.mu), dtype=torch.float64)
    each = DiagonalNormal(q.mu.unsqueeze(1), q.log_sigma.unsqueeze(1))
    for _ in range(samples):
        z = q.reparameterize(torch.randn(n, latents, generator=generator, dtype=torch.float64))
        mixture = each.log_prob(z.unsqueeze(2)).logsumexp(-1) - math.log(n)
        found += (q.log_prob(z) - mixture).mean(1) / samples
    return found


def test_information_is_its_definition_for_shared_draws() -> None:
    q = posterior(3, 40, 2)
    found = mutual_information(q, samples=4, seed=5)
    torch.testing.assert_close(found, by_definition(q, 4, 5), rtol=1e-9, atol=0)
    for r in range(3):  # a replica has the value that it has alone
        alone = DiagonalNormal(q.mu[r : r + 1], q.log_sigma[r : r + 1])
        torch.testing.assert_close(mutual_information(alone, 4, 5), found[r : r + 1], rtol=1e-9, atol=0)


def test_information_follows_its_seed_and_leaves_the_callers_generator() -> None:
    q, state = posterior(1, 20, 2), torch.get_rng_state()
    first, same, other = (mutual_information(q, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


MEAN_A, MEAN_B, SIGMA_A, SIGMA_B = torch.tensor([0.5, -0.2, 0.3]), torch.tensor([-0.3, 0.4, 0.1]), 0.8, 1.3


def exact_kid(sigma_b: float, mean_b: Tensor) -> float:
    """(t + 1)³ = 1 + 3t + 3t² + t³, and the mean of t^p is the product of the p-th moments over D^p."""

    def moment_tensors(m: Tensor, s: float) -> list[Tensor]:
        eye, cube = s**2 * torch.eye(3), torch.einsum("i,j,k->ijk", m, m, m)
        mixed = sum(torch.einsum(f"i,jk->{order}", m, eye) for order in ("ijk", "jik", "jki"))
        return [m, torch.outer(m, m) + eye, cube + mixed]

    a, b = moment_tensors(MEAN_A, SIGMA_A), moment_tensors(mean_b, sigma_b)

    def kernel_mean(x: list[Tensor], y: list[Tensor]) -> float:
        return sum(c * float((x[p] * y[p]).sum()) / 3 ** (p + 1) for p, c in enumerate((3, 3, 1)))

    return kernel_mean(a, a) + kernel_mean(b, b) - 2 * kernel_mean(a, b)


@pytest.mark.parametrize(("mean", "sigma"), [(MEAN_B, SIGMA_B), (MEAN_A, SIGMA_A)], ids=["apart", "equal"])
def test_kernel_distances_of_normals_are_unbiased(mean: Tensor, sigma: float) -> None:
    truth = exact_kid(sigma, mean)
    found, biased = [], []
    for i in range(2000):
        x = items(21, 3, seed=i)
        a, b = MEAN_A + SIGMA_A * x[:12], mean + sigma * x[12:]
        found.append(kid(a, b))
        if i < 100:  # with k(x, x), whose mean over the others is 1/n of the difference
            means = [polynomial_kernel(*pair).mean() for pair in ((a, a), (b, b), (a, b))]
            biased.append(means[0] + means[1] - 2 * means[2])
    result = moments(found)
    limit = deviation_limit(comparisons=2) * result.mean_se
    assert limit < (np.mean(biased) - truth) / 2, "the comparison must tell it from the biased statistic"
    assert abs(result.mean - truth) < limit
    assert min(found) < 0, "unbiased near 0, it must be negative at times"


def test_kernel_distances_are_sums_of_the_public_kernels() -> None:
    a, b = 1 + items(9, 4), 2 * items(7, 4, seed=1)

    def expected(kernel: Callable[..., Any]) -> float:
        within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(a, a), kernel(b, b))]
        return float(sum(within) - 2 * kernel(a, b).mean())

    assert kid(a, b) == pytest.approx(expected(polynomial_kernel), rel=1e-12)  # its defaults are KID's


def distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cat([block for _, block in diversity._squared_distances(a, b)])


def test_equal_items_have_a_distance_of_exactly_zero() -> None:
    for features in (1, 2, 784):
        x = items(50, features)
        assert not distances(x, x.repeat(3, 1)).view(50, 3, 50).diagonal(dim1=0, dim2=2).any()


def test_vendi_is_the_public_packages() -> None:
    for shape in ((40, 7), (7, 40), (6, 6)):
        x = 0.5 + items(*shape)
        assert vendi_score(x) == pytest.approx(vendi.score_dual(x.numpy()), rel=1e-10)


def test_vendi_counts_the_different_items() -> None:
    one = items(1, 6)
    for n in (3, 50):  # by either Gram matrix; an item's length does not count
        assert vendi_score(one * torch.arange(1.0, n + 1).unsqueeze(1)) == pytest.approx(1, abs=1e-12)
    for features in (6, 20):
        orthogonal = torch.eye(6, features)
        assert vendi_score(orthogonal) == pytest.approx(6, rel=1e-12)
        assert vendi_score(orthogonal.repeat(5, 1)) == pytest.approx(6, rel=1e-12)


def test_vendi_rewards_junk() -> None:
    """Images of noise have more of it than any that share something; the known trap."""
    data = items(1, 20) + 0.3 * items(500, 20, seed=1)
    assert vendi_score(items(500, 20, seed=2)) > 3 * vendi_score(data)


@pytest.mark.parametrize(("n", "m", "features", "k"), [(60, 45, 4, 5), (30, 80, 2, 1), (50, 50, 30, 3)])
def test_manifold_scores_are_the_public_packages(n: int, m: int, features: int, k: int) -> None:
    real, generated = items(n, features), 0.3 + 0.7 * items(m, features, seed=1)
    expected = compute_prdc(real.numpy(), generated.numpy(), k)
    for offset in (0, 1e7):
        found = manifold_scores(real + offset, generated + offset, k)
        assert found == pytest.approx(expected, rel=1e-12)
    assert 0 < expected["recall"] < 1, "the comparison must have something to see"


@pytest.mark.parametrize("m", [30, 60])
def test_coverage_and_density_of_a_distribution_with_itself(m: int) -> None:
    """Exact means for any continuous distribution; for n = m → ∞ the coverage tends to 1 − 2^−k.

    A real item is missed if its k nearest of all n − 1 + m others are real, and these may be any k of them. A
    generated item is in the ball of a real one with probability k/n, as it may rank anywhere among the n.
    The items of one pair of samples share their neighbours, so that a binomial standard error would not hold;
    the replicates of the pair are independent, and theirs does.
    """
    n, k, runs = 30, 3, 1500
    scores = []
    for i in range(runs):
        x = items(n + m, 2, seed=i)
        scores.append(manifold_scores(x[:n], x[n:], k))
    missed = math.prod((n - 1 - t) / (n + m - 1 - t) for t in range(k))
    for name, truth, other in (("coverage", 1 - missed, 1 - 2**-k), ("density", 1.0, (n - 1) / n)):
        found = moments([score[name] for score in scores])
        limit = deviation_limit(comparisons=4) * found.mean_se
        assert limit < abs(truth - other), "the comparison must tell it from the limit, or from n − 1 for n"
        assert abs(found.mean - truth) < limit


def test_copies_score_1_and_one_repeated_item_has_no_recall() -> None:
    """Ties to rounding, whatever the order of the items and however far the data lie from 0."""
    real = 30 + items(80, 50).float()
    copies = real[torch.randperm(80, generator=torch.Generator().manual_seed(0))]
    assert manifold_scores(real, copies) == dict.fromkeys(("precision", "recall", "density", "coverage"), 1.0)
    collapsed = manifold_scores(real, real[:1].expand(80, 50))
    assert collapsed["precision"] == 1 and collapsed["recall"] == 0 and collapsed["coverage"] <= 0.5


@pytest.mark.parametrize("huge", [1e10, 1e200])
def test_one_huge_value_moves_the_scores_of_one_item(huge: float) -> None:
    real, generated = items(200, 6), items(180, 6, seed=1)
    whole = manifold_scores(real, generated)
    for which in range(2):
        pair = [real.clone(), generated.clone()]
        pair[which][0, 0] = huge
        found = manifold_scores(pair[0], pair[1])
        # The item itself, and those in whose balls, or whose balls', it was; density counts 5 of each.
        assert all(abs(found[name] - whole[name]) < 0.05 for name in whole), found


@pytest.mark.parametrize("scale", [1e-300, 1e-10, 1e200, 1e300])
def test_the_scale_of_the_samples_does_not_matter(scale: float) -> None:
    a, b = items(60, 6), items(50, 6, seed=1)
    assert manifold_scores(scale * a, scale * b) == manifold_scores(a, b)
    assert vendi_score(scale * a) == pytest.approx(vendi_score(a), rel=1e-12)


def test_clusters_far_apart_have_the_scores_of_each() -> None:
    """Whatever the centre, a product of rows would cancel in one of the two."""
    a, b, far = items(60, 6), items(50, 6, seed=1), 2.0**40
    near = manifold_scores(a, b)
    assert manifold_scores(torch.cat([a, a + far]), torch.cat([b, b + far])) == pytest.approx(near, abs=1e-12)


def test_one_outlier_inflates_recall() -> None:
    real, generated = items(200, 2), 0.01 * items(200, 2, seed=1)
    outlier = torch.tensor([[50.0, 0.0]], dtype=torch.float64)
    assert manifold_scores(real, generated)["recall"] < 0.05
    with_outlier = manifold_scores(real, torch.cat((generated, outlier)))
    assert with_outlier["recall"] > 0.3 and with_outlier["coverage"] < 0.2


MEASURES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "kid": kid,
    "vendi": lambda a, b: vendi_score(a),
    "manifold": manifold_scores,
    "active_units": lambda a, b: active_units(DiagonalNormal(a.unsqueeze(0), a.unsqueeze(0))).item(),
    "kl": lambda a, b: kl_per_latent(DiagonalNormal(a.unsqueeze(0), a.unsqueeze(0))).sum().item(),
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_the_order_of_the_items_does_not_matter(measure: Callable[[Tensor, Tensor], Any]) -> None:
    a, b = items(700, 5), 0.8 * items(650, 5, seed=1)  # the median distance is of part of the items
    generator = torch.Generator().manual_seed(0)
    shuffled = [x[torch.randperm(len(x), generator=generator)] for x in (a, b)]
    assert measure(*shuffled) == pytest.approx(measure(a, b), rel=1e-9)


def test_the_order_of_the_items_moves_the_information_no_more_than_its_draws_do() -> None:
    q = posterior(1, 60, 2)
    turned = DiagonalNormal(q.mu.flip(1), q.log_sigma.flip(1))
    a = moments([mutual_information(q, seed=1000 + i).item() for i in range(300)])
    b = moments([mutual_information(turned, seed=2000 + i).item() for i in range(300)])
    limit = deviation_limit() * math.hypot(a.mean_se, b.mean_se)
    assert limit < 0.05 * a.mean, "the comparison must have power"
    assert abs(a.mean - b.mean) < limit


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, q = items(23, 4), 0.9 * items(17, 4, seed=1), posterior(2, 23, 3)

    def scores() -> list[float]:
        return [kid(a, b), *manifold_scores(a, b).values(), *mutual_information(q, 2).tolist()]

    whole = scores()
    for block in (1, 50, 200):  # one row at a time, and several with a smaller last chunk
        monkeypatch.setattr(diversity, "_BLOCK", block)
        assert scores() == pytest.approx(whole, rel=1e-10)


def test_results_are_detached_and_leave_the_samples_alone() -> None:
    a, b = items(20, 3).float().requires_grad_(), items(20, 3, seed=1).float()
    before = a.detach().clone(), b.clone()
    for measure in MEASURES.values():
        measure(a, b)
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])
    mu = items(20, 3).view(1, 20, 3).requires_grad_()
    for measure in (kl_per_latent, mutual_information):
        assert not measure(DiagonalNormal(mu, mu)).requires_grad


GOOD = items(8, 3)
BROKEN = GOOD.clone()
BROKEN[[2, 5], 1] = math.nan


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: kid(GOOD[0], GOOD),
            r"a: expected a float tensor .* 2 items or more, got .* \(3,\); images are",
        ),
        (lambda: kid(GOOD, GOOD[:1]), r"b: expected a float tensor .* 2 items or more, got .* \(1, 3\)"),
        (lambda: kid(GOOD, GOOD.long()), r"b: expected a float tensor .* got torch.int64 \(8, 3\)"),
        (lambda: kid(GOOD.numpy(), GOOD), "a: expected .* got ndarray; torch.as_tensor converts an array"),
        (
            lambda: kid(GOOD, GOOD[:, :2]),
            "a and b must have the same features .* got 3 on cpu and 2 on cpu; take",
        ),
        (lambda: kid(1e200 * GOOD, GOOD), "the distance is not finite: .* scale the samples"),
        (lambda: mutual_information(posterior(1, 4, 2), seed=1.5), "seed should be a valid integer"),  # type: ignore[arg-type]
        (lambda: active_units(posterior(1, 4, 2), math.nan), "threshold should be a finite number"),
        (lambda: kl_per_latent(DiagonalNormal(GOOD[None] * 1e200, GOOD[None])), "out of all proportion"),
        (lambda: kid(GOOD, BROKEN), "b holds NaN or infinity in 2 items, the first is item 2"),
        (
            lambda: vendi_score(GOOD * (GOOD[:, :1] > 0)),
            "needs non-zero items, but . of 8 are zero; leave them out",
        ),
        (
            lambda: vendi_score(torch.ones(3, 0)),
            r"x: expected .* 1 items or more, got torch.float32 \(3, 0\)",
        ),
        (
            lambda: manifold_scores(GOOD, GOOD[:5]),
            r"generated: expected .* with 6 items or more, got .* \(5, 3\)",
        ),
        (lambda: manifold_scores(BROKEN, GOOD), "real holds NaN or infinity in 2 items"),
        (lambda: manifold_scores(GOOD, GOOD, 0), "k should be greater than or equal to 1, got 0"),
        (
            lambda: mutual_information(posterior(1, 4, 2), samples=0),
            "samples should be greater than or equal to 1, got 0",
        ),
        (lambda: active_units(posterior(1, 1, 2)), r"2 items or more, got DiagonalNormal \(1, 1, 2\)"),
        (
            lambda: kl_per_latent(DiagonalNormal(GOOD, GOOD)),
            r"\(replicas, items, latents\) .* DiagonalNormal \(8, 3\)",
        ),
        (lambda: mutual_information(torch.zeros(2)), "expected a DiagonalNormal .* got Tensor; vae.encoder"),
        (
            lambda: kl_per_latent(DiagonalNormal(BROKEN[None], GOOD[None], validate_args=False)),
            "a mean or a log sigma that is NaN, infinite",
        ),
    ],
)
def test_bad_samples_are_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


LARGE = """
import re, torch
from pathlib import Path
from vae_lab import DiagonalNormal
from vae_lab.measure.diversity import kid, manifold_scores, mutual_information, vendi_score

torch.set_num_threads(1)
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
before = peak()
a, b = torch.rand(2, 10_000, 32)
vendi_score(a)
mutual_information(DiagonalNormal(a[None, :, :20], b[None, :, :20]))
kid(a, b)
manifold_scores(a, b)
print(peak() - before)
"""


# Not by getrusage: on Linux a child's maximum starts from that of the process that started it.
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_ten_thousand_images_take_far_less_than_all_pairs_at_once() -> None:
    """Measured: 0.1 to 1.1 GB, by how much the system takes back meanwhile, and 1.9 GB without blocks."""
    run = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 1.5e9


def test_scores_of_images_are_averages_over_whole_sets() -> None:
    """Two sets, each as if alone, and what is left over does not count; training images are real in all."""
    data = load("digits", None)
    judge, real = Classifier(data), data.test[:100]
    found = image_scores(judge, real, data.train[:250])
    halves = [image_scores(judge, real, data.train[part]) for part in (slice(100), slice(100, 200))]
    assert found == pytest.approx({name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]})
    assert found["KID"] == pytest.approx(
        np.mean([kid(judge.features(real), judge.features(x)) for x in data.train[:200].split(100)])
    )
    noise = torch.rand(100, 64, generator=torch.Generator().manual_seed(0))
    assert image_scores(judge, real, noise)["pixel precision"] < 0.1 < 0.8 < found["pixel precision"]
    assert image_scores(judge, real, real)["coverage"] == 1
    with pytest.raises(ValueError, match="at least as many images as real ones, got 99 and 100"):
        image_scores(judge, real, data.train[:99])


def test_the_classifier_says_what_its_features_say() -> None:
    """The last layer, by hand, on the features gives its probabilities; it knows most of the digits."""
    data = load("digits", None)
    classifier = Classifier(data)
    network = classifier.network
    last, bias = (torch.as_tensor(c[1]).double() for c in (network.coefs_, network.intercepts_))
    features = classifier.features(data.test)
    assert features.shape == (300, 128) and (features >= 0).all()
    probabilities = classifier.probabilities(data.test)
    torch.testing.assert_close(
        (features @ last + bias).softmax(1), probabilities.double(), rtol=1e-4, atol=1e-6
    )
    assert torch.equal(classifier.features(data.test.view(3, 100, -1)), features.view(3, 100, -1))
    right = probabilities.argmax(1) == data.test_labels
    # A tenth is chance; that 300 coins of one half fall so has a probability below 1e-6.
    assert right.sum() > 195
    assert torch.equal(Classifier(data).features(data.test), features), "the seed decides"
    # Certain of most, whatever the seed: stopped early, after 9 passes, this one's was certain of none.
    unlucky = Classifier(data, seed=206000).probabilities(data.test)
    assert (unlucky.amax(1) > 0.9).sum() > 150
    half = classifier.probabilities(data.test[:3].bfloat16().requires_grad_())
    assert half.shape == (3, 10) and not half.requires_grad
    for images, message in (
        (data.test[:, :3], r"float images \(…, 64\), .* got torch.float32 \(300, 3\)"),
        (data.test.numpy(), "got ndarray"),
        (data.test[:0], "got none"),
        (data.test * math.nan, "the images hold NaN or infinity"),
    ):
        for read in (classifier.features, classifier.probabilities):
            with pytest.raises(ValueError, match=message):
                read(images)  # type: ignore[arg-type]


def test_a_classifier_needs_classes() -> None:
    data = load("digits", None)
    alike = replace(data, train_labels=data.train_labels * 0)
    with pytest.raises(ValueError, match=r"a classifier needs 2 classes or more; 'digits' has \[0\]"):
        Classifier(alike)
    for n, classes in ((2, 2), (5, 5), (90, 10)):  # few will do, and so will one of each
        few = replace(data, train=data.train[:n], train_labels=torch.arange(n) % classes)
        assert Classifier(few).probabilities(data.test[:4]).shape == (4, classes)
    with pytest.raises(ValueError, match="expected a Dataset, whose labels name the classes, got Tensor"):
        Classifier(data.train)  # type: ignore[arg-type]
