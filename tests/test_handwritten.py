"""The step without autograd against autograd, and when it is taken."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.optim import optimizer

from vae_lab import NOISES, VAE, fit, load
from vae_lab.exact.linear import LinearVAE
from vae_lab.vae import training
from vae_lab.vae.handwritten import BY_HAND, covers
from vae_lab.vae.layers import ACTIVATIONS
from vae_lab.vae.recipe import Recipe
from vae_lab.vae.training import Training

DIGITS = load("digits")
NAMES = {function: name for name, function in ACTIVATIONS.items()}
MODELS = list(product([NAMES[function] for function in BY_HAND], ["bernoulli", "gaussian"]))


def each(replicas: int, values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, min_size=replicas, max_size=replicas)


@st.composite
def trainings(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of a VAE, and a recipe, that are covered."""
    n = draw(st.integers(1, 3))
    activation, likelihood = draw(st.sampled_from(MODELS))
    limits = st.none() | st.just(0.7) | st.just((0.5, 1.01))
    model = {
        "latents": draw(st.integers(1, 3)),
        "hidden": draw(st.lists(st.integers(1, 5), max_size=2)),
        "activation": activation,
        "likelihood": likelihood,
        "replicas": n,
        "sigma": draw(st.none() | each(n, limits)),
        "seed": draw(st.integers(0, 99)),
    }
    recipe = {
        "noise": draw(each(n, st.sampled_from(list(NOISES)))),
        "noise_scale": draw(each(n, st.sampled_from([0.0, 0.5, 1.0]))),
        "beta": draw(each(n, st.sampled_from([0.0, 0.5, 1.0, 4.0]))),
        "detach_sigma": draw(each(n, st.booleans())),
        "decoder_l2": draw(each(n, st.sampled_from([0.0, 0.0, 0.3]))),
    }
    return model, recipe


@settings(deadline=None)
@given(trainings(), st.integers(1, 6))
def test_the_gradient_is_that_of_autograd(setting: tuple[dict[str, Any], dict[str, Any]], items: int) -> None:
    """Relative to the largest entry of each weight's gradient, in float64; and the terms of the ELBO."""
    model, how = setting
    vae = VAE(64, **model).double()
    recipe = Recipe(replicas=vae.replicas, epochs=1, batch_size=6, **how)
    run = Training(vae, DIGITS.train[:6], recipe)
    assert run.handwritten
    order = torch.stack([torch.randperm(6)[:items] for _ in range(vae.replicas)])
    buffers = run.handwritten.buffers(items)
    x = run.batch(order, out=buffers.x)
    eps = run.noise.epoch(order if items == 6 else order[:, [0] * 6])[:, :items].double()
    terms = x.new_empty(2, vae.replicas, items)
    run.handwritten(buffers, eps, run.beta.unsqueeze(-1), *terms)
    expected = run.step(x, eps)
    for found, term in zip(terms, expected, strict=True):
        torch.testing.assert_close(found, term.detach(), rtol=1e-12, atol=1e-12)
    for found, p in zip(run.handwritten.gradients, vae.parameters(), strict=True):
        assert p.grad is not None
        assert (found - p.grad).abs().max() <= 1e-12 * p.grad.abs().max()


def trained(monkeypatch: pytest.MonkeyPatch, by_hand: bool, **arguments: Any) -> tuple[VAE, Any]:
    """A model and its history after 20 steps in float32."""
    with monkeypatch.context() as patch:
        if not by_hand:
            patch.setattr(training, "covers", lambda *_: False)
        vae = VAE(64, 4, (16, 12), replicas=3, **arguments)
        settings = {"noise": ["gaussian", "frozen", "rademacher"], "beta": [1.0, 0.5, 2.0], "batch_size": 78}
        history = fit(vae, DIGITS, epochs=1, **settings, progress=False)
        assert all((p.grad is None) == by_hand for p in vae.parameters())
        return vae, history


@pytest.mark.parametrize(("activation", "likelihood"), MODELS)
def test_twenty_steps_end_where_autograd_does(
    monkeypatch: pytest.MonkeyPatch, activation: str, likelihood: str
) -> None:
    """The same batches, pixels and noise; the last batch is smaller."""
    assert -(-len(DIGITS.train) // 78) == 20
    (ours, mine), (theirs, other) = (
        trained(monkeypatch, by_hand, activation=activation, likelihood=likelihood)
        for by_hand in (True, False)
    )
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    columns = ["elbo", "reconstruction", "kl"]
    np.testing.assert_allclose(mine[columns], other[columns], rtol=1e-5)


def test_logits_of_any_size_have_a_likelihood() -> None:
    """Where a sigmoid rounds to 0 or 1, too."""
    vae = VAE(64, 2, ()).double()
    with torch.no_grad():
        for layer in vae.decoder.stack.layers:
            layer.weight *= 1e4  # type: ignore[operator]
    run = Training(vae, DIGITS.train[:50], Recipe(replicas=1, epochs=1))
    assert run.handwritten
    buffers, eps = run.handwritten.buffers(50), torch.randn(1, 50, 2).double()
    x = run.batch(torch.arange(50)[None], out=buffers.x)
    terms = x.new_empty(2, 1, 50)
    run.handwritten(buffers, eps, run.beta.unsqueeze(-1), *terms)
    expected = run.objective(x, eps)[1].reconstruction
    assert expected.min() < -1e4
    torch.testing.assert_close(terms[0], expected.detach(), rtol=1e-12, atol=1e-12)


def test_the_model_keeps_its_weights_where_they_are() -> None:
    vae = VAE(64, 2, replicas=2)
    before = [(id(p), p.data_ptr(), p.clone()) for p in vae.parameters()]
    fit(vae, DIGITS.train[:100], epochs=1, progress=False)
    for p, (name, place, value) in zip(vae.parameters(), before, strict=True):
        assert (id(p), p.data_ptr()) == (name, place) and p.requires_grad and p.grad is None
        assert not torch.equal(p, value)


# When it is taken


def hooked(vae: VAE) -> None:
    vae.encoder.register_forward_hook(lambda *_: None)


def tied(vae: VAE) -> None:
    vae.decoder.stack.layers[1].bias = vae.encoder.stack.layers[0].bias  # type: ignore[assignment]
    vae.decoder.stack.layers[0].bias = vae.encoder.stack.layers[0].bias  # type: ignore[assignment]


def frozen(vae: VAE) -> None:
    vae.decoder.stack.layers[0].weight.requires_grad_(False)  # type: ignore[union-attr]


def watched(vae: VAE) -> None:
    next(vae.parameters()).register_hook(lambda gradient: gradient * 2)


def clipped(vae: VAE) -> None:
    next(vae.parameters()).register_post_accumulate_grad_hook(lambda p: p.grad.clamp_(-1, 1))  # type: ignore[union-attr]


def patched(vae: VAE) -> None:
    vae.decoder.stack.forward = lambda x: x  # type: ignore[method-assign, assignment]


def renormalised(vae: VAE) -> None:
    weight_norm(vae.encoder.stack.layers[0])


def another_activation(vae: VAE) -> None:
    vae.encoder.stack.activation = nn.functional.silu


def another_decoder(vae: VAE) -> None:
    vae.decoder.stack = nn.Sequential(nn.Linear(2, 64))  # type: ignore[assignment]


def more_weights(vae: VAE) -> None:
    vae.scale = nn.Parameter(torch.ones(()))  # type: ignore[assignment]


def half(vae: VAE) -> None:
    vae.half()


@pytest.mark.parametrize(
    "change",
    [
        hooked,
        tied,
        frozen,
        watched,
        clipped,
        patched,
        renormalised,
        another_activation,
        another_decoder,
        more_weights,
        half,
    ],
)
def test_a_changed_model_takes_the_general_way(change: Callable[[VAE], None]) -> None:
    recipe, vae = Recipe(replicas=1, epochs=1), VAE(64, 2, (64,))
    assert covers(vae, recipe)
    change(vae)
    assert not covers(vae, recipe)


class Own(VAE):
    """A model of your own."""


@pytest.mark.parametrize(
    "vae",
    [
        Own(64, 2),
        LinearVAE(64, 2),
        VAE(64, 2, channels=(2,)),
        VAE(64, 2, context=10),
        VAE(64, 2, latent="bernoulli"),
    ],
    ids=["subclass", "linear", "channels", "context", "bits"],
)
def test_other_models_take_the_general_way(vae: VAE) -> None:
    assert not covers(vae, Recipe(replicas=1, epochs=1))


@pytest.mark.parametrize(
    "settings",
    [
        {"samples": 2},
        {"objective": "iwae"},
        {"objective": "sticking_the_landing"},
        {"estimator": "score_function"},
        {"free_bits": 0.1},
    ],
    ids=str,
)
def test_other_recipes_take_the_general_way(settings: dict[str, Any]) -> None:
    assert not covers(VAE(64, 2), Recipe(replicas=1, epochs=1, **settings))


@pytest.mark.parametrize(
    "register",
    [
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_full_backward_hook,
        optimizer.register_optimizer_step_pre_hook,
        optimizer.register_optimizer_step_post_hook,
    ],
)
def test_whoever_watches_everything_sees_it(register: Callable[..., Any]) -> None:
    recipe, vae = Recipe(replicas=1, epochs=1), VAE(64, 2)
    handle = register(lambda *_: None)
    assert not covers(vae, recipe)
    handle.remove()
    assert covers(vae, recipe)


@pytest.mark.parametrize(
    "mode", [lambda: torch.autograd.set_detect_anomaly(True), lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_modes_of_torch_hold_in_training(mode: Callable[[], Any]) -> None:
    recipe, vae = Recipe(replicas=1, epochs=1), VAE(64, 2)
    with mode():
        assert not covers(vae, recipe)
    assert covers(vae, recipe)


def test_the_default_precision_is_not_that_of_the_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor of Adam's count of steps, which torch wants in float32."""
    torch.set_default_dtype(torch.float64)
    try:
        (ours, mine), (theirs, other) = (trained(monkeypatch, by_hand) for by_hand in (True, False))
    finally:
        torch.set_default_dtype(torch.float32)
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(mine["elbo"], other["elbo"], rtol=1e-9)


def test_an_interrupted_training_leaves_the_weights_where_it_got_to(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, steps = VAE(64, 2), []
    before = [p.clone() for p in vae.parameters()]

    def interrupt(self: Training, index: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        steps.append(len(index))
        if len(steps) == 3:
            raise KeyboardInterrupt
        return batch(self, index, out)

    batch = Training.batch
    monkeypatch.setattr(Training, "batch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(vae, DIGITS.train[:100], epochs=1, batch_size=10, progress=False)
    assert not any(torch.equal(*pair) for pair in zip(vae.parameters(), before, strict=True))


def test_a_registered_activation_takes_the_general_way() -> None:
    ACTIVATIONS["silu"] = nn.functional.silu
    try:
        assert not covers(VAE(64, 2, activation="silu"), Recipe(replicas=1, epochs=1))
    finally:
        del ACTIVATIONS["silu"]


def test_an_activation_is_named_once() -> None:
    """All that the package has are written by hand."""
    assert {ACTIVATIONS[name] for name in ("gelu", "tanh", "relu")} == set(BY_HAND)
