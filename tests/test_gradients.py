"""Exact moments of encoder gradients against Jacobians and against many backward passes."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from contracts import items
from torch import Tensor
from torch.func import functional_call

from vae_lab import VAE, NotApplicable, elbo
from vae_lab.estimators.costs import CostError
from vae_lab.measure import gradient_moments as gradients
from vae_lab.measure.gradient_moments import encoder_gradients
from vae_lab.measure.statistics import deviation_limit
from vae_lab.registry import UnknownName
from vae_lab.vae.encoder import Latent
from vae_lab.vae.objectives import OBJECTIVES

FALSE_ALARM = 1e-6  # of all statistical comparisons of this file together

CASES: list[tuple[str, str, int, Latent]] = [
    ("elbo", "pathwise", 1, "normal"),
    ("elbo", "score_function", 2, "normal"),
    ("elbo", "measure_valued", 1, "normal"),
    ("sticking_the_landing", "pathwise", 1, "normal"),
    ("iwae", "pathwise", 5, "normal"),
    ("dreg", "pathwise", 5, "normal"),
    ("elbo", "disarm", 1, "bernoulli"),
    ("elbo", "relax", 2, "bernoulli"),
]


def model(latent: Latent = "normal", copies: int = 1, **settings: Any) -> VAE:
    """Two hidden layers and two different models, each `copies` times."""
    seeds = [s for s in (0, 1) for _ in range(copies)]
    return VAE(5, 2, (4, 3), replicas=2 * copies, seed=seeds, latent=latent, **settings)


def data() -> Tensor:
    return items(3, 5).sigmoid().float()


def by_backward(case: tuple[str, str, int, Latent], copies: int, passes: int) -> dict[str, Tensor]:
    """Independent gradients of the mean objective by the encoder's weights: name -> (2, M, *shape).

    By `backward` through the whole model. Replicas with equal weights and noise of their own are so many
    passes of a loop, so M = copies · passes.
    """
    objective, estimator, n, latent = case
    vae, x, found = model(latent, copies), data(), []
    torch.manual_seed(1)
    for _ in range(passes):
        vae.zero_grad()
        if objective == "elbo":
            value = elbo(vae, x, estimator=estimator, n=n).elbo
        else:
            value = OBJECTIVES[objective](vae, x, torch.randn(n, 2 * copies, len(x), vae.latents))
        value.mean(1).sum().backward()
        found.append({name: p.grad.unflatten(0, (2, copies)) for name, p in vae.encoder.named_parameters()})
    return {name: torch.cat([f[name] for f in found], 1).double() for name in found[0]}


def check_moments_of_many_backward_passes() -> None:
    """Mean and variance of every weight's gradient; the variance's standard error is by the fourth moment.

    The variance by exact moments has an error of its own, that of as many backward passes at most: the
    fourth cumulants of independent items add up, and the squares of their variances are less than those of
    the sum.
    """
    replicates = 6_000
    comparisons = 2 * len(CASES) * sum(p.numel() for p in model().encoder.parameters())
    limit = deviation_limit(comparisons, FALSE_ALARM)
    for case in CASES:
        objective, estimator, n, latent = case
        ours = encoder_gradients(model(latent), data(), objective, estimator, n, replicates)
        for name, sample in by_backward(case, 500, replicates // 500).items():
            centred = sample - sample.mean(1, keepdim=True)
            variance = centred.square().mean(1)
            error = ((centred**4).mean(1) - variance**2).clamp_min(0).div(replicates / 2).sqrt()
            assert (error / variance).median() < 0.1, "the comparison must have power"
            deviation = (ours.variance[name] - variance).abs() / error
            assert deviation.max() < limit, (case, name)
            deviation = (ours.mean[name] - sample.mean(1)).abs() / (2 * variance / replicates).sqrt()
            assert deviation.max() < limit, (case, name)


def check_push_back() -> None:
    """A given mean and covariance of the latent gradients, through the Jacobian of the encoder's output."""
    for latent, activation in (("normal", "gelu"), ("normal", "tanh"), ("bernoulli", "gelu")):
        vae, x = model(latent, activation=activation).double(), items(4, 5)  # type: ignore[arg-type]
        stack = vae.encoder.stack
        names, weights = zip(*stack.named_parameters(), strict=True)

        def output(*values: Tensor, stack: Any = stack, names: Any = names, x: Tensor = x) -> Tensor:
            return functional_call(stack, dict(zip(names, values, strict=True)), (x,))

        jacobians = torch.autograd.functional.jacobian(output, weights)
        replicas, count, size = output(*weights).shape
        mean = items(replicas * count, size).view(replicas, count, size)
        root = items(replicas * count * size, size, seed=1).view(replicas, count, size, size)
        root[0, 0] = 0  # no variance at all
        root[1, 2, :, 1:] = 0  # of rank one
        covariance = root @ root.mT
        found = gradients._push_back(vae, x, mean / count, covariance / count**2)
        for name, j in zip(names, jacobians, strict=True):
            expected = torch.einsum("rbp,rbp...->...", mean, j) / count
            close = {"rtol": 1e-10, "atol": 1e-10}
            torch.testing.assert_close(found.mean[f"stack.{name}"], expected, **close)
            variance = torch.einsum("rbp...,rbpq,rbq...->...", j, covariance, j) / count**2
            torch.testing.assert_close(found.variance[f"stack.{name}"], variance, **close)


CHECKS = (check_push_back, check_moments_of_many_backward_passes)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_moments(check: Callable[[], None]) -> None:
    check()


def no_slopes(patch: pytest.MonkeyPatch) -> None:
    right = gradients._forward

    def forward(vae: VAE, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        inputs, slopes = right(vae, x)
        return inputs, [torch.ones_like(slope) for slope in slopes]

    patch.setattr(gradients, "_forward", forward)


def slopes_of_the_wrong_layer(patch: pytest.MonkeyPatch) -> None:
    right = gradients._forward

    def forward(vae: VAE, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        inputs, slopes = right(vae, x)
        return inputs, [slope.mean(-1, keepdim=True) for slope in reversed(slopes)]

    patch.setattr(gradients, "_forward", forward)


def with_covariance(change: Callable[[Tensor], Tensor], patch: pytest.MonkeyPatch) -> None:
    right = gradients._push_back
    patch.setattr(gradients, "_push_back", lambda vae, x, m, c: right(vae, x, m, change(c)))


def divided_by_items_only_once(patch: pytest.MonkeyPatch) -> None:
    with_covariance(lambda c: c * c.shape[1], patch)


def no_covariance_of_outputs(patch: pytest.MonkeyPatch) -> None:
    with_covariance(lambda c: c.diagonal(dim1=-2, dim2=-1).diag_embed(), patch)


def no_covariance_of_mu_and_log_sigma(patch: pytest.MonkeyPatch) -> None:
    def change(c: Tensor) -> Tensor:
        half = torch.arange(c.shape[-1]) < c.shape[-1] // 2
        return c * (half == half.unsqueeze(-1))

    with_covariance(change, patch)


def items_share_their_noise(patch: pytest.MonkeyPatch) -> None:
    with_covariance(lambda c: c.mean(1, keepdim=True).expand_as(c) * c.shape[1], patch)


def second_moments_about_zero(patch: pytest.MonkeyPatch) -> None:
    right = gradients._moments

    def moments(draws: Any) -> tuple[Tensor, Tensor]:
        mean, covariance = right(draws)
        return mean, covariance + mean.unsqueeze(-1) * mean.unsqueeze(-2)

    patch.setattr(gradients, "_moments", moments)


def root_transposed(patch: pytest.MonkeyPatch) -> None:
    right = gradients._root
    patch.setattr(gradients, "_root", lambda covariance: right(covariance).mT)


@pytest.mark.parametrize(
    "ruin",
    [
        no_slopes,
        slopes_of_the_wrong_layer,
        divided_by_items_only_once,
        no_covariance_of_outputs,
        no_covariance_of_mu_and_log_sigma,
        items_share_their_noise,
        second_moments_about_zero,
        root_transposed,
    ],
    ids=lambda ruin: ruin.__name__,
)
def test_a_ruined_variant_breaks_a_check(
    ruin: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ruin(monkeypatch)
    for check in CHECKS:
        try:
            check()
        except AssertionError:
            return
    pytest.fail("no check noticed")


def test_moments_of_chunks() -> None:
    """Exact in chunks of any size, also where the mean is large against the deviation."""
    g = items(60, 4).view(30, 1, 2, 4) @ items(4, 4, seed=1) + 1e5
    mean, covariance = gradients._moments(g.split([1, 17, 12]))
    torch.testing.assert_close(mean, g.mean(0), rtol=1e-14, atol=0)
    for item in range(2):
        expected = torch.cov((g[:, 0, item] - 1e5).T)
        torch.testing.assert_close(covariance[0, item], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chunk", [1, 300, 2**20])
def test_without_noise_there_is_one_gradient(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """ε = 1, always: the mean is what backward gives, whatever the chunks, and the variance is nothing."""
    monkeypatch.setattr(gradients, "_CHUNK", chunk)
    vae, x = model().double(), data().double()
    moments = encoder_gradients(vae, x, estimator="frozen_epsilon", replicates=7)
    assert all(p.grad is None for p in vae.parameters()), "no gradient is left behind"
    elbo(vae, x, torch.ones(2, 3, 2, dtype=torch.float64)).elbo.mean(1).sum().backward()
    assert list(moments.mean) == list(moments.variance) == [k for k, _ in vae.encoder.named_parameters()]
    for name, p in vae.encoder.named_parameters():
        torch.testing.assert_close(moments.mean[name], p.grad, rtol=1e-12, atol=1e-12)
        assert moments.variance[name].abs().max() < 1e-28


def test_memory_is_bounded_by_chunks_of_items_and_replicates(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, right = [], gradients.latent_gradients

    def spy(vae: VAE, head: Tensor, x: Tensor, objective: str, estimator: str, n: int, count: int) -> Tensor:
        calls.append((len(x), count))
        return right(vae, head, x, objective, estimator, n, count)

    monkeypatch.setattr(gradients, "latent_gradients", spy)
    monkeypatch.setattr(gradients, "_CHUNK", 1000)
    vae, x = model(), torch.rand(40, 5).round()
    encoder_gradients(vae, x, estimator="rloo", n=3, replicates=50)
    # Two replicas, layers of five numbers at most, three evaluations of the decoder.
    assert max(rows * count for rows, count in calls) * 2 * 5 * 3 <= 1000
    assert sum(rows * count for rows, count in calls) == 40 * 50
    assert len({rows for rows, _ in calls}) > 1, "in several parts"


def test_chunks_have_draws_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, right = [], gradients.latent_gradients

    def spy(*arguments: Any) -> torch.Tensor:
        drawn.append(right(*arguments))
        return drawn[-1]

    monkeypatch.setattr(gradients, "latent_gradients", spy)
    monkeypatch.setattr(gradients, "_CHUNK", 500)
    encoder_gradients(model(), data(), replicates=50)
    assert len(drawn) > 2
    for first, second in pairwise(drawn):
        count = min(len(first), len(second))
        assert not torch.equal(first[:count], second[:count])


def test_draws_repeat_by_seed_and_leave_the_callers_generator() -> None:
    vae, x = model(), data()
    state = torch.get_rng_state()
    first, same, other = (encoder_gradients(vae, x, replicates=20, seed=s) for s in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    for name in first.mean:
        for a, b, c in zip(first, same, other, strict=True):
            assert torch.equal(a[name], b[name])
            assert not torch.equal(a[name], c[name])


def test_signal_and_noise_of_the_whole_gradient() -> None:
    mean = {"a": torch.tensor([[3.0], [0.0]]), "b": torch.tensor([[4.0], [1.0]])}
    variance = {"a": torch.tensor([[2.0], [30.0]]), "b": torch.tensor([[7.0], [6.0]])}
    moments = gradients.GradientMoments(mean, variance)
    torch.testing.assert_close(moments.noise, torch.tensor([3.0, 6.0]).double())
    torch.testing.assert_close(moments.signal(9), torch.tensor([24**0.5, 0.0]).double())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"replicates": 1}, ValueError, "replicates should be greater than or equal to 2, got 1"),
        ({"n": 0}, ValueError, "n should be greater than or equal to 1, got 0"),
        ({"n": 2.0}, ValueError, "n should be a valid integer, got 2.0"),
        ({"seed": None}, ValueError, "seed should be a valid integer, got None"),
        ({"objective": "iwea"}, UnknownName, "did you mean 'iwae'"),
        ({"estimator": "rlo"}, UnknownName, "did you mean 'rloo'"),
        ({"objective": "dreg", "estimator": "rloo"}, ValueError, "'dreg' has its own gradient"),
        ({"estimator": "rloo"}, NotApplicable, "n must be at least 2; got 1"),
        ({"estimator": "arm"}, NotApplicable, "needs a Bernoulli, got Normal"),
        ({"x": torch.rand(4, 6)}, ValueError, "the items have 6"),
        ({"vae": VAE(4, 2, channels=(3,)), "x": torch.rand(4, 4)}, ValueError, "this VAE has channels="),
        ({"vae": model("bernoulli")}, NotApplicable, "Bernoulli has no rsample"),
        ({"vae": model("bernoulli"), "objective": "dreg"}, NotApplicable, "such as 'disarm'"),
    ],
)
def test_bad_input_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        encoder_gradients(**({"vae": model(), "x": data(), "replicates": 5} | changes))


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_half_precision_costs_no_more_than_its_rounding(precision: torch.dtype) -> None:
    """The same draws through the same weights: each of six layers, there and back, rounds its sums once.

    A sum of five numbers may be ten times as small as they are.
    """
    vae, rounding = model().to(precision), 6 * 10 * torch.finfo(precision).eps
    with torch.no_grad():  # gradients are taken all the same
        rough = encoder_gradients(vae, data(), replicates=50)
        exact = encoder_gradients(vae.float(), data(), replicates=50)
    assert all(part.dtype == torch.float32 for part in rough.mean.values())
    torch.testing.assert_close(rough.noise, exact.noise, rtol=rounding, atol=0)


def test_squares_beyond_the_precision_are_an_error() -> None:
    vae = VAE(5, 2, (4,), "gaussian")
    assert vae.decoder.log_scale is not None
    with torch.no_grad():
        vae.decoder.log_scale.fill_(-25.0)  # gradients of 10²¹
    with pytest.raises(FloatingPointError, match=r"float32 cannot hold the squares .* use vae\.double"):
        encoder_gradients(vae, data(), replicates=5)
    assert encoder_gradients(vae.double(), data(), replicates=5).noise.isfinite().all()


def test_gradients_that_are_not_finite_are_reported() -> None:
    vae = model()
    with torch.no_grad():
        vae.decoder.stack.layers[0].weight.fill_(torch.nan)
    with pytest.raises(CostError, match="the cost is NaN"):
        encoder_gradients(vae, data(), replicates=5)
    with pytest.raises(
        FloatingPointError, match="not finite, with objective='iwae', estimator='pathwise', n=2"
    ):
        encoder_gradients(vae, data(), "iwae", n=2, replicates=5)
