"""What computes on an accelerator: the same values as on the CPU, where there is no chance in them."""

from typing import Any

import pytest
import torch
from torch.distributions import Bernoulli, Distribution, Gamma, Normal, Poisson

from vae_lab import NOISES, VAE, benchmark, elbo, evaluate, exact_gradient, fit
from vae_lab.exact.linear import LinearVAE, ppca
from vae_lab.exact.posterior import curvature, fit_posterior
from vae_lab.measure import diversity as measures
from vae_lab.measure.gradient_moments import encoder_gradients
from vae_lab.measure.statistics import deviation_limit
from vae_lab.vae.files import load_model, save_model
from vae_lab.vae.objectives import OBJECTIVES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
BOTH = ("cpu", "cuda")
X = torch.rand(300, 64, generator=torch.Generator().manual_seed(0))


def model(**changes: Any) -> VAE:
    return VAE(**({"features": 64, "latents": 4, "hidden": (16,), "replicas": 3} | changes)).to("cuda")


@pytest.mark.parametrize("channels", [(), (4, 8)])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_elbo_and_its_gradients_agree(likelihood: str, channels: tuple[int, ...]) -> None:
    """In float32, sums of some hundred terms: 1e-4 of the largest. cuDNN may use TF32, with ten
    bits of mantissa: 1e-2."""
    tolerance = 1e-2 if channels else 1e-4
    eps = torch.randn(3, 300, 4, generator=torch.Generator().manual_seed(1))
    found = []
    for device in BOTH:
        vae = model(likelihood=likelihood, channels=channels).to(device)
        value = elbo(vae, X.to(device), eps.to(device)).elbo
        value.mean().backward()
        gradients = [p.grad for p in vae.parameters() if p.grad is not None]
        found.append([a.detach().cpu() for a in (value, *gradients)])
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() <= tolerance * ours.abs().max()


@pytest.mark.parametrize(
    "make",
    [
        lambda t: Normal(t(0.5), t(1.2)),
        lambda t: Normal(t([0.5, 1.0]), t([1.2, 0.3])),
        lambda t: Bernoulli(logits=t(0.3)),
        lambda t: Gamma(t(2.0), t(1.5)),
        lambda t: Poisson(t(2.0)),
    ],
    ids=["normal", "normals", "bernoulli", "gamma", "poisson"],
)
def test_exact_gradients_agree_and_benchmarks_run(make: Any) -> None:
    def on(device: str) -> Distribution:
        return make(lambda value: torch.tensor(value, dtype=torch.float64, device=device))

    ours, theirs = (exact_gradient(torch.cos, on(device)) for device in BOTH)
    for name, value in ours.items():
        assert theirs[name].is_cuda
        torch.testing.assert_close(theirs[name].cpu(), value, rtol=1e-9, atol=1e-9)
    frame = benchmark(torch.cos, on("cuda"), n=2, replicates=2000)
    seen = frame[frame["unbiased"] & (frame["bias_se"] > 0)]
    assert (seen["bias"].abs() < deviation_limit(len(seen)) * seen["bias_se"] + 1e-6).all()


def test_every_law_objective_and_option_trains_there() -> None:
    x, settings = X.cuda(), {"epochs": 1, "progress": False}
    for noise in NOISES:
        fit(model(), x, noise=noise, **settings)  # type: ignore[arg-type]
    for objective in OBJECTIVES:
        fit(model(), x, objective=objective, samples=3, **settings)  # type: ignore[arg-type]
    for estimator in ("score_function", "rloo", "measure_valued"):
        fit(model(), x, estimator=estimator, samples=2, **settings)  # type: ignore[arg-type]
    for estimator in ("rloo", "disarm", "rebar"):
        fit(model(latent="bernoulli"), x, estimator=estimator, samples=2, **settings)  # type: ignore[arg-type]
    fit(model(), x, beta=[1, 2, 3], decoder_l2=0.1, detach_sigma=[True, False, True], **settings)  # type: ignore[arg-type]
    fit(model(sigma=[None, 0.5, 1.0], channels=(4, 8)), x, **settings)  # type: ignore[arg-type]


def test_what_is_measured_there_is_measured_here(tmp_path: Any) -> None:
    vae, x = model(), X.cuda()
    save_model(vae, tmp_path / "model.safetensors")
    same = load_model(tmp_path / "model.safetensors")
    here, there = evaluate(same, X, 200), evaluate(vae, x, 200)
    # Other draws: the KL has none, and the rest differs by what 300 · 200 of them leave, far below a nat.
    assert there["kl"].to_numpy() == pytest.approx(here["kl"].to_numpy(), rel=1e-4)
    assert there["elbo"].to_numpy() == pytest.approx(here["elbo"].to_numpy(), abs=0.1)
    q, p = vae.encoder(x), same.encoder(X)
    assert measures.active_units(q).tolist() == measures.active_units(p).tolist()
    torch.testing.assert_close(
        measures.kl_per_latent(q).cpu(), measures.kl_per_latent(p), rtol=1e-4, atol=1e-6
    )
    a, b = X[:100], X[100:]
    assert measures.kid(a.cuda(), b.cuda()) == pytest.approx(measures.kid(a, b), rel=1e-6, abs=1e-9)
    assert measures.vendi_score(x) == pytest.approx(measures.vendi_score(X), rel=1e-9)
    assert measures.manifold_scores(a.cuda(), b.cuda()) == pytest.approx(measures.manifold_scores(a, b))
    vae.generate(5)
    encoder_gradients(vae, x[:20], replicates=50)
    measures.same_input_spread(vae, x[:9])
    z = torch.randn(4, 1, 1, 4, device="cuda")
    fit_posterior(vae, x[:5], z, steps=5)
    curvature(vae, x[:5], torch.randn(3, 5, 4, device="cuda"))


def test_the_linear_model_reaches_the_same_optimum() -> None:
    x = X.double().cuda()
    vae = LinearVAE(64, 3).to("cuda")
    value = vae.maximise(x)
    assert value.item() == pytest.approx(ppca(x, 3).log_likelihood, abs=1e-6)
    assert vae.log_likelihood(x).item() == pytest.approx(value.item(), abs=1e-6)


def test_a_model_is_on_the_device_for_a_block() -> None:
    vae = VAE(64, 4, hidden=(16,), replicas=3)
    with vae.on("auto") as same:
        assert same is vae
        assert next(vae.parameters()).is_cuda
        fit(vae, X, epochs=2, progress=False)
        there = evaluate(vae, X, 200)
    assert not next(vae.parameters()).is_cuda
    here = evaluate(vae, X, 200)
    assert there["kl"].to_numpy() == pytest.approx(here["kl"].to_numpy(), rel=1e-4)
