"""Models, training, scores and measures on inputs that nobody thought of, against loops in numpy."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from fuzzing import Inputs, fuzz
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erf, expit, log_expit, logsumexp

from vae_lab import VAE, evaluate, fit
from vae_lab.measure.diversity import active_units, kid, kl_per_latent, manifold_scores, vendi_score
from vae_lab.reparameterization import DiagonalNormal

inputs = Inputs()


def draws(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


# Models: what they compute, layer by layer

ACTIVATE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gelu": lambda x: x * (1 + erf(x / 2**0.5)) / 2,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
}
ODD = st.sampled_from([0, -1, 2.0, 1.5, "3", None, True, math.nan, 2**31, [1], (), "none"])
NOT_A = {  # of the odd values, those that are right all the same
    "hidden": [[1], ()],
    "channels": [()],
    "shape": [None],
    "sigma": [None, 2.0, 1.5, 2**31],
    "seed": [0, 2**31],
}


@st.composite
def models(draw: Any) -> tuple[dict[str, Any], str]:
    """Arguments of a VAE, and the one that is wrong, or ""."""
    replicas = draw(st.integers(1, 3))
    arguments = {
        "features": draw(st.integers(1, 5)),
        "latents": draw(st.integers(1, 3)),
        "hidden": draw(st.lists(st.integers(1, 4), max_size=2) | st.tuples(st.integers(1, 4))),
        "likelihood": draw(st.sampled_from(["bernoulli", "gaussian"])),
        "replicas": replicas,
        "activation": draw(st.sampled_from(sorted(ACTIVATE))),
        "seed": draw(
            st.integers(0, 2**32) | st.lists(st.integers(0, 9), min_size=replicas, max_size=replicas)
        ),
        "sigma": draw(
            st.none() | st.floats(0.1, 3) | st.lists(st.floats(0.1, 3), min_size=replicas, max_size=replicas)
        ),
    }
    if draw(st.integers(0, 2)):
        return arguments, ""
    wrong = draw(st.sampled_from([*sorted(arguments), "shape", "latent"]))
    value = draw(ODD.filter(lambda v: not any(type(v) is type(o) and v == o for o in NOT_A.get(wrong, []))))
    if value == [1] and wrong == "seed" and replicas == 1:
        value = [-1]
    if value == [1] and wrong == "sigma":
        value = [0.0]
    return arguments | {wrong: value}, wrong


def forward(layers: list[dict[str, np.ndarray]], x: np.ndarray, activation: str, r: int) -> np.ndarray:
    """Items through the layers of one replica."""
    for place, layer in enumerate(layers):
        x = x @ layer["weight"][r] + layer["bias"][r]
        x = ACTIVATE[activation](x) if place < len(layers) - 1 else x
    return x


def layers_of(stack: Any) -> list[dict[str, np.ndarray]]:
    return [{k: v.double().numpy() for k, v in layer.state_dict().items()} for layer in stack.layers]


@fuzz(250)
@given(models(), st.integers(1, 4), st.sampled_from([torch.float32, torch.float64]), st.integers(0, 2**31))
def test_models(model: tuple[dict[str, Any], str], items: int, precision: torch.dtype, seed: int) -> None:
    """Encoder, decoder and scores of each replica alone."""
    arguments, wrong = model
    vae, error = inputs.attempt(
        "models", (model, items, precision, seed), lambda: VAE(**arguments), ValueError, KeyError
    )
    assert bool(error) == bool(wrong), f"{arguments}: {error}"
    if error:
        assert wrong in error or wrong in ("latent", "sigma", "activation"), f"{arguments}: {error}"
        return
    vae = vae.to(precision)
    bits = arguments["likelihood"] == "bernoulli"
    x = draws(seed).random((items, arguments["features"])) * (1 if bits else 3)
    given = torch.as_tensor(x, dtype=precision)
    x = given.double().numpy()
    scores = evaluate(vae, given, importance_samples=3, seed=5)
    latents, close = arguments["latents"], {"rtol": 1e-3, "atol": 1e-3} if precision == torch.float32 else {}
    eps = torch.randn(3, 1, items, latents, generator=torch.Generator().manual_seed(5), dtype=precision)
    down, up = layers_of(vae.encoder.stack), layers_of(vae.decoder.stack)
    for r in range(arguments["replicas"]):
        head = forward(down, x, arguments["activation"], r)
        mu, log_sigma = head[:, :latents], head[:, latents:]
        if (constant := arguments["sigma"]) is not None:
            log_sigma = np.full_like(mu, math.log(constant[r] if isinstance(constant, list) else constant))
        noise = eps[:, 0].double().numpy()
        z = mu + np.exp(log_sigma) * noise
        out = forward(up, z, arguments["activation"], r)
        log_x = (
            (x * log_expit(out) + (1 - x) * log_expit(-out)).sum(-1)
            if bits
            else -((x - out) ** 2 + math.log(2 * math.pi)).sum(-1) / 2
        )
        kl = (mu**2 / 2 + np.exp(2 * log_sigma) / 2 - log_sigma - 0.5).sum(-1)
        weight = log_x + (-(z**2) / 2 + noise**2 / 2 + log_sigma).sum(-1)
        bound = (logsumexp(weight, 0) - math.log(3)).mean()
        row = scores.iloc[r]
        np.testing.assert_allclose(row["kl"], kl.mean(), **close or {"rtol": 1e-9, "atol": 1e-9})
        np.testing.assert_allclose(row["reconstruction"], log_x.mean(), **close or {"rtol": 1e-9})
        np.testing.assert_allclose(
            row["elbo"], log_x.mean() - kl.mean(), **close or {"rtol": 1e-9, "atol": 1e-9}
        )
        np.testing.assert_allclose(row["log_likelihood"], bound, **close or {"rtol": 1e-9, "atol": 1e-9})
        codes = torch.as_tensor(z, dtype=precision).unsqueeze(1).expand(-1, arguments["replicas"], -1, -1)
        found = vae.decoder(codes).mean[:, r].detach().numpy()
        np.testing.assert_allclose(found, expit(out) if bits else out, rtol=1e-4, atol=1e-5)


# Items and settings of a training

FAULTY: dict[str, Callable[[torch.Tensor], Any]] = {
    "NaN": lambda x: torch.cat([x, torch.full_like(x[:1], math.nan)]),
    "infinite": lambda x: x / 0,
    "above 1": lambda x: x + 1.5,
    "below 0": lambda x: x - 1.5,
    "integers": lambda x: x.long(),
    "no items": lambda x: x[:0],
    "one axis": lambda x: x.flatten(),
    "three axes": lambda x: x.unsqueeze(0),
    "another feature": lambda x: torch.cat([x, x[:, :1]], 1),
    "array": lambda x: x.numpy(),
    "list": lambda x: x.tolist(),
    "nothing": lambda x: None,
    "complex": lambda x: x + 1j,
}
SETTINGS: dict[str, list[Any]] = {
    "epochs": [0, -1, 1.5, "1", None, True],
    "batch_size": [0, -2, 2.5, None, "all"],
    "learning_rate": [0.0, -1e-3, math.nan, math.inf, "fast", None],
    "objective": ["elbow", None, 3],
    "estimator": ["pathwize", "", None],
    "samples": [0, -1, 1.5, None],
    "noise": ["gauss", None, ["gaussian"] * 5],
    "noise_scale": [-1.0, math.nan, "1", None],
    "beta": [-1.0, math.inf, [1.0] * 7, None],
    "seed": [-1, 2**64, 0.5, "0", None],
    "test_every": [-1, 0.5, 1],  # there is nothing to test on
    "epoch": [1],
}


@st.composite
def trainings(draw: Any) -> tuple[dict[str, Any], str, str]:
    """Settings of `fit`, the one that is wrong, and what is wrong with the items."""
    settings = {
        "epochs": draw(st.integers(1, 2)),
        "batch_size": draw(st.integers(1, 9)),
        "learning_rate": draw(st.floats(1e-5, 0.1)),
        "samples": draw(st.integers(1, 2)),
        "noise": draw(st.sampled_from(["gaussian", "antithetic", "none", "rademacher"])),
        "noise_scale": draw(st.floats(0, 2)),
        "beta": draw(st.floats(0, 2)),
        "seed": draw(st.integers(0, 2**32)),
    }
    kind = draw(st.sampled_from(["right", "right", "setting", "items"]))
    if kind == "setting":
        name = draw(st.sampled_from(sorted(SETTINGS)))
        return settings | {name: draw(st.sampled_from(SETTINGS[name]))}, name, ""
    return settings, "", draw(st.sampled_from(sorted(FAULTY))) if kind == "items" else ""


@fuzz(200)
@given(trainings(), st.integers(1, 7), st.integers(1, 3), st.sampled_from([torch.float32, torch.float64]))
def test_trainings(
    training: tuple[dict[str, Any], str, str], n: int, replicas: int, precision: torch.dtype
) -> None:
    """What is refused leaves the model as it was; and replicas train together as each trains alone."""
    settings, wrong, fault = training
    x = torch.as_tensor(draws(n).random((n, 3)), dtype=precision)
    items = FAULTY[fault](x) if fault else x
    vae = VAE(3, 2, (3,), replicas=replicas).to(precision)
    before = {name: weights.clone() for name, weights in vae.state_dict().items()}
    history, error = inputs.attempt(
        "trainings",
        (training, n, replicas, precision),
        lambda: fit(vae, items, progress=False, **settings),
        *(ValueError, TypeError, KeyError),
    )
    assert bool(error) == bool(wrong or fault), f"{training}: {error}"
    if error:
        assert all(torch.equal(weights, before[name]) for name, weights in vae.state_dict().items())
        return
    assert len(history) == settings["epochs"] * replicas and history.notna().all(axis=None)
    for r in range(replicas):
        alone = VAE(3, 2, (3,), seed=r).to(precision)
        own = fit(alone, x, progress=False, **settings | {"seed": settings["seed"] + r})
        together = history[history["replica"] == r]
        close = {"rtol": 2e-3, "atol": 2e-4} if precision == torch.float32 else {"rtol": 1e-8, "atol": 1e-10}
        np.testing.assert_allclose(together["elbo"], own["elbo"], **close)
        for name, weights in alone.state_dict().items():
            np.testing.assert_allclose(vae.state_dict()[name][r], weights[0], **close)


# Measures of diversity

SPOILT: dict[str, Callable[[torch.Tensor], Any]] = {
    "NaN": lambda x: x.index_put((torch.tensor(0),), torch.tensor(math.nan, dtype=x.dtype)),
    "infinite": lambda x: x / 0,
    "integers": lambda x: x.long(),
    "no items": lambda x: x[:0],
    "no features": lambda x: x[:, :0],
    "one axis": lambda x: x.flatten(),
    "array": lambda x: x.numpy(),
    "nothing": lambda x: None,
}
pairs = st.tuples(
    st.integers(2, 7),
    st.integers(2, 7),
    st.integers(1, 3),
    st.integers(0, 2**31),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([1e-3, 1.0, 1e3]),
    st.sampled_from([*[""] * 12, *sorted(SPOILT)]),
)


def kid_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    def within(x: np.ndarray) -> float:
        return float(np.mean([kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]))

    return within(a) + within(b) - 2 * float(np.mean([kernel(p, q) for p in a for q in b]))


def vendi_by_hand(x: np.ndarray) -> float:
    cosines = [[p @ q / np.linalg.norm(p) / np.linalg.norm(q) for q in x] for p in x]
    shares = np.linalg.eigvalsh(np.array(cosines) / len(x))
    return float(np.exp(-sum(s * math.log(s) for s in shares if s > 1e-15)))


def scores_by_hand(real: np.ndarray, made: np.ndarray, k: int) -> dict[str, float]:
    def radius(x: np.ndarray, i: int) -> float:
        return sorted(float(np.linalg.norm(x[i] - x[j])) for j in range(len(x)) if j != i)[k - 1]

    balls, own = [radius(real, i) for i in range(len(real))], [radius(made, j) for j in range(len(made))]
    near = np.array([[np.linalg.norm(p - q) for q in made] for p in real])
    inside = near < np.array(balls)[:, None]
    return {
        "precision": float(inside.any(0).mean()),
        "recall": float((near < np.array(own)).any(1).mean()),
        "density": float(inside.sum(0).mean() / k),
        "coverage": float(inside.any(1).mean()),
    }


@fuzz(300)
@given(pairs, st.integers(-1, 7))
def test_distances_of_samples(pair: Any, k: int) -> None:
    n, m, features, seed, precision, scale, fault = pair
    rng = draws(seed)
    a, b = (
        torch.as_tensor(rng.normal(0.3, 1, (count, features)) * scale, dtype=precision) for count in (n, m)
    )
    first = SPOILT[fault](a) if fault else a
    x, y = a.double().numpy(), b.double().numpy()
    measures: dict[str, tuple[Callable[[], Any], bool, Callable[[], Any]]] = {
        "kid": (lambda: kid(first, b), True, lambda: kid_by_hand(x, y)),
        "vendi": (lambda: vendi_score(first), True, lambda: vendi_by_hand(x)),
        "manifold": (
            lambda: manifold_scores(first, b, k),
            1 <= k < min(n, m),
            lambda: scores_by_hand(x, y, k),
        ),
    }
    for name, (measure, right, by_hand) in measures.items():
        found, error = inputs.attempt("samples", (pair, k, name), measure, ValueError)
        assert bool(error) == bool(fault or not right), f"{name}, {pair}, {k=}: {error}"
        if error:
            continue
        expected = by_hand()
        if name == "manifold":
            assert found == expected or all(math.isclose(found[key], expected[key]) for key in expected)
        else:
            size = max(1.0, scale**6) if name == "kid" else 1.0
            assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-10 * size), f"{name}, {pair}"


@fuzz(150)
@given(pairs, st.sampled_from([0.0, 0.01, 1.0, 1.0, -1.0, math.nan]))
def test_measures_of_posteriors(pair: Any, threshold: float) -> None:
    items, replicas, latents, seed, precision, scale, fault = pair
    rng = draws(seed)
    mu, log_sigma = (
        torch.as_tensor(rng.normal(size=(replicas, items, latents)) * size, dtype=precision)
        for size in (scale, 1.0)
    )
    mu = mu / 0 if fault else mu
    q = DiagonalNormal(mu, log_sigma, validate_args=False)
    m, s = mu.double().numpy(), np.exp(log_sigma.double().numpy())
    found, error = inputs.attempt("posteriors", (pair, "kl"), lambda: kl_per_latent(q), ValueError)
    assert bool(error) == bool(fault)
    if not error:
        for r, z in np.ndindex(replicas, latents):
            terms = [
                m[r, i, z] ** 2 / 2 + s[r, i, z] ** 2 / 2 - 0.5 - math.log(s[r, i, z]) for i in range(items)
            ]
            np.testing.assert_allclose(found[r, z], np.mean(terms), rtol=1e-9, atol=1e-12)
    found, error = inputs.attempt(
        "posteriors", (pair, threshold), lambda: active_units(q, threshold), ValueError
    )
    assert bool(error) == bool(fault or not threshold >= 0)
    if not error:
        active = [
            sum(np.var(m[r, :, z], ddof=1) > threshold for z in range(latents)) for r in range(replicas)
        ]
        assert found.tolist() == active


def test_the_figures_are_told(record_property: Callable[[str, object], None]) -> None:
    inputs.tell(record_property, least=1000)
