import json
import os
import pickle
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import f

from vae_lab import ESTIMATORS, VAE, DiagonalNormal, NotApplicable, elbo, evaluate, fit, load
from vae_lab.data import Dataset
from vae_lab.registry import UnknownName
from vae_lab.vae import files
from vae_lab.vae.encoder import Latent
from vae_lab.vae.files import load_model, save_model
from vae_lab.vae.objectives import OBJECTIVES

DIGITS = load("digits")


def small(items: int = 200, binarize: str | None = "dynamic") -> Dataset:
    data = load("digits", binarize)  # type: ignore[arg-type]
    labels = data.train_labels[:items], data.test_labels
    return Dataset("small", data.train[:items], data.test, *labels, data.shape, data.binarize)


SETTINGS = {
    "noise": ["gaussian", "frozen", "none", "ones", "gaussian"],
    "noise_scale": [1.0, 0.5, 1.0, 1.0, 2.0],
    "beta": [1.0, 2.0, 0.5, 1.0, 1.0],
    "seed": [5, 6, 5, 8, 5],
}


@pytest.mark.parametrize("channels", [(), (3, 2)])
def test_a_replica_equals_the_model_trained_alone(channels: tuple[int, ...]) -> None:
    """20 steps, each replica with its own seed, law, scale and beta: equal to float32 rounding."""
    data, settings = small(500), {"epochs": 4, "batch_size": 100, "progress": False}
    together = VAE(64, 4, (16,), replicas=5, seed=3, channels=channels)
    history = fit(together, data, **SETTINGS, **settings)  # type: ignore[arg-type]
    for r in range(5):
        alone = VAE(64, 4, (16,), seed=3 + r, channels=channels)
        own = fit(alone, data, **{k: v[r] for k, v in SETTINGS.items()}, **settings)  # type: ignore[arg-type, index]
        for several, one in zip(together.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(several[r], one[0])
        columns = ["elbo", "reconstruction", "kl"]
        torch.testing.assert_close(
            torch.tensor(history[history.replica == r][columns].to_numpy()),
            torch.tensor(own[columns].to_numpy()),
            rtol=1e-5,
            atol=1e-5,
        )


@pytest.mark.parametrize(("objective", "samples"), [("elbo", 3), ("iwae", 3), ("dreg", 3)])
def test_a_replica_equals_the_model_trained_alone_on_any_objective(objective: str, samples: int) -> None:
    settings = {"objective": objective, "samples": samples, "epochs": 2, "batch_size": 50, "progress": False}
    together = VAE(64, 4, (16,), replicas=2, seed=3)
    history = fit(together, small(), seed=[6, 5], noise=["frozen", "gaussian"], **settings)  # type: ignore[arg-type]
    alone = VAE(64, 4, (16,), seed=4)
    own = fit(alone, small(), seed=5, noise="gaussian", **settings)  # type: ignore[arg-type]
    for several, one in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(several[1], one[0])
    np.testing.assert_allclose(history[history.replica == 1]["elbo"], own["elbo"], rtol=1e-5)


def test_objectives_train_to_different_models_and_report_the_elbo() -> None:
    """Of frozen weights, all objectives report the same ELBO: that of the draws trained with."""
    data = small(binarize=None)
    weights, reports = {}, {}
    for name in OBJECTIVES:
        settings = {"objective": name, "samples": 4, "batch_size": 50, "progress": False}
        vae = VAE(64, 4, (16,), replicas=2)
        before = evaluate(vae, data.test)["log_likelihood"]
        fit(vae, data, epochs=5, learning_rate=1e-2, **settings)  # type: ignore[arg-type]
        assert (evaluate(vae, data.test)["log_likelihood"] > before + 5).all()
        weights[name] = vae.encoder.stack.layers[0].weight.detach()
        frozen = fit(VAE(64, 4, (16,)), data, epochs=1, learning_rate=1e-12, **settings)  # type: ignore[arg-type]
        reports[name] = frozen["elbo"][0]
    for first, second in combinations(OBJECTIVES, 2):
        assert not torch.allclose(weights[first], weights[second], rtol=1e-3)
        assert reports[first] == pytest.approx(reports[second], rel=1e-6)


def test_more_samples_see_more_noise() -> None:
    """Samples are independent draws: with frozen weights, the variance of the report falls as their number.

    By an F test with one false alarm in a million.
    """
    vae = VAE(64, 4, (16,))
    with torch.no_grad():
        vae.decoder.stack.layers[0].weight.mul_(10)  # a decoder that heeds its code
    spread = []
    for samples in (1, 16):
        reports = [
            fit(
                vae, DIGITS.train[:20], epochs=1, samples=samples, learning_rate=1e-12, seed=s, progress=False
            )
            for s in range(40)
        ]
        spread.append(np.var([report["reconstruction"][0] for report in reports]))
    low, high = f.ppf([5e-7, 1 - 5e-7], 39, 39)
    assert low < spread[0] / spread[1] / 16 < high
    assert low * 16 > 1, "the comparison must have power"


def binary(**changes: object) -> VAE:
    return VAE(**({"features": 64, "latents": 6, "hidden": (16,), "latent": "bernoulli"} | changes))  # type: ignore[arg-type]


def applies(name: str) -> bool:
    try:
        elbo(binary(), DIGITS.test[:2], estimator=name, n=2)
    except NotApplicable:
        return False
    return True


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if applies(name)])
def test_binary_latents_train_by_every_estimator_for_them(name: str) -> None:
    data, state = small(), torch.get_rng_state()
    runs = []
    for seed in (0, 0, 1):
        vae = binary(replicas=2)
        before = evaluate(vae, data.test)["elbo"]
        history = fit(
            vae, data, epochs=4, learning_rate=1e-2, estimator=name, samples=2, seed=seed, progress=False
        )
        assert (evaluate(vae, data.test)["elbo"] > before + 5).all()
        runs.append((history.drop(columns="seconds"), [p.detach() for p in vae.parameters()]))
    assert torch.equal(state, torch.get_rng_state()), "the caller's generator is left as it was"
    (first, weights), (same, equal), (other, _) = runs
    assert first.equals(same)
    assert all(torch.equal(a, b) for a, b in zip(weights, equal, strict=True))
    assert not first.equals(other)
    assert first["elbo"][0] != first["elbo"][1], "replicas have draws of their own"


def test_every_estimator_for_binary_latents_was_trained_by() -> None:
    names = {name for name in ESTIMATORS if applies(name)}
    assert {"score_function", "rloo", "arm", "disarm", "rebar", "relax", "gumbel_softmax"} <= names
    assert "pathwise" not in names


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "pathwise is not applicable: Bernoulli has no rsample"),
        (
            {"objective": "iwae"},
            "eps moves normal latents, and this VAE's are Bernoulli; use objective='elbo'",
        ),
        ({"objective": "dreg"}, "such as 'disarm' or 'rebar'"),
        ({"estimator": "rloo"}, "n must be at least 2; got 1"),
        ({"estimator": "measure_valued", "noise": "none"}, "'measure_valued' draws z by itself"),
    ],
)
def test_binary_latents_refuse_a_path_before_any_step(settings: dict[str, str], message: str) -> None:
    vae, state = binary(), torch.get_rng_state()
    before = [parameter.clone() for parameter in vae.parameters()]
    with pytest.raises(ValueError, match=message):
        fit(vae, small(), epochs=1, progress=False, **settings)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())


def test_training_is_repeatable_and_seeds_matter() -> None:
    def train(seed: int) -> tuple[VAE, pd.DataFrame]:
        vae = VAE(64, 4, (16,))
        history = fit(vae, small(), epochs=2, seed=seed, progress=False)
        return vae, history.drop(columns="seconds")

    (first, history), (second, same), (_, other) = train(0), train(0), train(1)
    assert history.equals(same)
    assert not history.equals(other)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_history_is_tidy() -> None:
    history = fit(VAE(64, 4, (16,), replicas=2), small(), epochs=3, test_every=2, progress=False)
    assert list(history)[:6] == ["epoch", "replica", "elbo", "reconstruction", "kl", "seconds"]
    assert history["epoch"].tolist() == [1, 1, 2, 2, 3, 3]
    assert history["replica"].tolist() == [0, 1] * 3
    pd.testing.assert_series_equal(
        history["elbo"], history["reconstruction"] - history["kl"], check_names=False
    )
    assert history["test_elbo"].notna().tolist() == [False, False, True, True, True, True]


def test_scoring_the_test_items_does_not_change_the_training() -> None:
    with_scores, without = (
        fit(VAE(64, 4, (16,)), small(), epochs=2, test_every=every, progress=False) for every in (1, 0)
    )
    assert with_scores["elbo"].equals(without["elbo"])


def test_history_is_the_mean_over_items_not_over_batches() -> None:
    """A last batch of one item must not count like a full one: with frozen weights, both sizes agree."""
    data = small(101, binarize=None)
    means = [
        fit(
            VAE(64, 4, (16,)), data, epochs=1, batch_size=b, learning_rate=1e-12, noise="none", progress=False
        )
        for b in (100, 101)
    ]
    assert means[0]["elbo"][0] == pytest.approx(means[1]["elbo"][0], rel=1e-5)


def test_learns_digits_from_a_tensor_and_from_a_data_set() -> None:
    """Both beat the independent pixels, by more than the spread over seeds."""
    frequency = DIGITS.train.mean(0).clamp(1e-3, 1 - 1e-3)
    pixels = torch.distributions.Bernoulli(frequency).log_prob(DIGITS.test).sum(-1).mean().item()
    for data in (DIGITS, DIGITS.train):
        vae = VAE(64, 8, (64,), replicas=3)
        fit(vae, data, epochs=20, learning_rate=5e-3, progress=False)
        elbo = evaluate(vae, DIGITS.test)["elbo"]
        assert elbo.min() - pixels > 5 * elbo.std()


def test_digits_reach_the_reference_score() -> None:
    """64-128-8-128-64, Adam 1e-3, batch 100: at most 23.04 nats after 150 epochs, mean over seeds.

    The test items are binarised afresh 20 times: one draw of 300 items moves the score by 0.15 nats.
    """
    vae = VAE(64, 8, (128,), replicas=5)
    fit(vae, DIGITS, epochs=150, batch_size=100, progress=False)
    generator = torch.Generator().manual_seed(0)
    draws = torch.bernoulli(load("digits", None).test.repeat(20, 1), generator=generator)
    assert evaluate(vae, draws, importance_samples=5)["elbo"].mean() >= -23.04


def test_without_noise_the_report_is_better_and_the_honest_score_worse() -> None:
    vae = VAE(64, 8, (64,), replicas=3, seed=[0] * 3)
    history = fit(vae, DIGITS, epochs=30, noise=["gaussian", "none", "ones"], seed=[0] * 3, progress=False)
    reported = history[history.epoch == 30]["reconstruction"].to_numpy()
    honest = evaluate(vae, DIGITS.test)["elbo"].to_numpy()
    assert (reported[1:] > reported[0]).all()
    assert (honest[1:] < honest[0] - 5).all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"noise": "gausian"}, UnknownName, "did you mean 'gaussian'"),
        ({"noise": ["gaussian"]}, ValueError, "noise: expected 1 value or one for each of 2 replicas, got 1"),
        (
            {"beta": [1.0, 2.0, 3.0]},
            ValueError,
            "beta: expected 1 value or one for each of 2 replicas, got 3",
        ),
        ({"seed": [1, 2, 3]}, ValueError, "seed: expected 1 value or one for each of 2 replicas, got 3"),
        ({"epochs": 0}, ValueError, "epochs should be greater than or equal to 1, got 0"),
        ({"batch_size": 0}, ValueError, "batch_size should be greater than or equal to 1, got 0"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate should be greater than 0, got -1.0"),
        ({"learning_rate": float("inf")}, ValueError, "learning_rate should be a finite number, got inf"),
        ({"test_every": -1}, ValueError, "test_every should be greater than or equal to 0"),
        ({"beta": float("nan")}, ValueError, "beta should be a finite number, got nan"),
        ({"noise_scale": -1.0}, ValueError, "noise_scale should be greater than or equal to 0"),
        ({"seed": -1}, ValueError, "seed should be greater than or equal to 0, got -1"),
        ({"objective": "iwea"}, UnknownName, "unknown objective 'iwea'; did you mean 'iwae'"),
        ({"estimator": "rlo"}, UnknownName, "unknown estimator 'rlo'; did you mean 'rloo'"),
        ({"samples": 0}, ValueError, "samples should be greater than or equal to 1, got 0"),
        ({"objective": "iwae", "estimator": "rloo"}, ValueError, "objective='iwae' has its own gradient"),
        ({"objective": "iwae", "beta": [1.0, 2.0]}, ValueError, "beta weighs the KL of objective='elbo'"),
        ({"estimator": "rloo", "noise": "none"}, ValueError, "'rloo' draws z by itself"),
        ({"estimator": "rloo", "noise_scale": 0.5}, ValueError, "'rloo' draws z by itself"),
        ({"estimator": "rloo"}, NotApplicable, "n must be at least 2; got 1"),
        ({"estimator": "arm"}, NotApplicable, "needs a Bernoulli, got Normal"),
        ({"epochs": 2.0}, ValueError, "epochs should be a valid integer, got 2.0"),
        ({"samples": 2.0}, ValueError, "samples should be a valid integer, got 2.0"),
        ({"batch_size": "64"}, ValueError, "batch_size should be a valid integer, got '64'"),
        ({"seed": None}, ValueError, "seed should be a valid integer, got None"),
        ({"seed": [0, 1.5]}, ValueError, r"seed\[1\] should be a valid integer"),
        ({"detach_sigma": "False"}, ValueError, "detach_sigma should be a valid boolean, got 'False'"),
        ({"detach_sigma": [True, 0]}, ValueError, r"detach_sigma\[1\] should be a valid boolean"),
        ({"beta": True}, ValueError, "beta should be a valid number, got True"),
        ({"noise": None}, ValueError, "noise should be a valid string, got None"),
        ({"progress": "no"}, ValueError, "progress should be a valid boolean, got 'no'"),
        ({"vae": torch.nn.Linear(64, 4)}, TypeError, "expected a VAE, got Linear"),
        ({"data": np.zeros((9, 64))}, ValueError, "got ndarray; torch.as_tensor converts"),
        ({"data": torch.rand(9, 64), "test_every": 1}, ValueError, "a Dataset has them, else give test="),
        ({"data": DIGITS.train.to_sparse()}, ValueError, r"got torch.float32 \(1497, 64\) torch.sparse_coo"),
        ({"data": DIGITS.train > 0.5}, ValueError, r"expected a float tensor \(items, 64\), got torch.bool"),
        ({"data": torch.rand(9, 63)}, ValueError, "features=64, but the items have 63"),
        ({"data": torch.full((9, 64), 1.5)}, ValueError, "a Bernoulli likelihood needs values in"),
        ({"data": DIGITS.train * 255}, ValueError, "the data, which span 0 to 255: x / 255, or standardise"),
    ],
)
def test_bad_input_stops_before_any_compute(
    changes: dict[str, object], error: type[Exception], message: str
) -> None:
    vae = VAE(64, 4, (16,), replicas=2)
    before = [parameter.clone() for parameter in vae.parameters()]
    with pytest.raises(error, match=message):
        fit(**({"vae": vae, "data": small(), "epochs": 1, "progress": False} | changes))  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))


def test_data_of_another_scale_are_to_be_standardised() -> None:
    with pytest.raises(FloatingPointError, match="standardise the data: they span 0 to 25500"):
        fit(VAE(64, 4, (16,), "gaussian"), DIGITS.train * 25500, epochs=5, progress=False)


@pytest.mark.parametrize("block", [torch.no_grad, torch.inference_mode])
def test_a_block_without_gradients_does_not_stop_training(block: Callable[[], Any]) -> None:
    vae, same = VAE(64, 4, (16,)), VAE(64, 4, (16,))
    with block():
        inside = fit(vae, small(), epochs=1, progress=False)
    assert inside["elbo"].equals(fit(same, small(), epochs=1, progress=False)["elbo"])


def test_what_cannot_be_trained_says_so() -> None:
    with pytest.raises(ValueError, match="no weight of the VAE wants a gradient"):
        fit(VAE(64).requires_grad_(False), small(), epochs=1, progress=False)
    with torch.inference_mode():
        vae = VAE(64)
    with pytest.raises(ValueError, match=r"made under torch\.inference_mode, where nothing trains"):
        fit(vae, small(), epochs=1, progress=False)


def test_training_leaves_the_network_that_made_the_items_alone() -> None:
    network = torch.nn.Linear(64, 64)
    fit(VAE(64, 4, (16,)), network(DIGITS.train[:20]).sigmoid(), epochs=1, progress=False)
    assert network.weight.grad is None


def half(precision: torch.dtype) -> VAE:
    return VAE(64, 4, (16,)).to(precision)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_half_precision_costs_no_more_than_its_rounding(precision: torch.dtype) -> None:
    """Of one step's 1,497 items, whose sum float16 cannot hold; weights and sums of rows are rounded.

    So is each logit, by eps times its size: below 10 for weights of the start. And 64 of them make an item.
    """
    rounding = 64 * 10 * torch.finfo(precision).eps
    reports, scores = [], []
    for vae in (half(precision), half(precision).float()):
        reports.append(fit(vae, DIGITS, epochs=1, batch_size=1497, progress=False)["elbo"][0])
        scores.append(evaluate(vae, DIGITS.test, 5)["log_likelihood"][0])
        assert vae.decoder.stack.layers[0].weight.isfinite().all()
    assert abs(reports[0] - reports[1]) < rounding / 10 and abs(scores[0] - scores[1]) < rounding / 10


def test_adam_in_half_precision_does_not_lose_its_squares() -> None:
    """Squares of gradients below 2⁻²⁴ are 0 in float16, and a step divided by them is infinite."""
    histories = [
        fit(vae, DIGITS, epochs=3, progress=False)["elbo"].to_numpy()
        for vae in (half(torch.float16), half(torch.float32))
    ]
    np.testing.assert_allclose(*histories, rtol=64 * torch.finfo(torch.float16).eps)


def test_items_of_ones_own_are_scored() -> None:
    settings = {"epochs": 2, "test_every": 1, "progress": False}
    scored = fit(VAE(64, 4, (16,)), DIGITS.train[:200], test=DIGITS.test, **settings)  # type: ignore[arg-type]
    data = small(binarize=None)
    known = fit(VAE(64, 4, (16,)), data, test=DIGITS.test, **settings)  # type: ignore[arg-type]
    assert scored["test_elbo"].notna().all() and scored["test_elbo"].equals(known["test_elbo"])


@pytest.mark.parametrize("noise", ["shared", "gaussian"])
def test_a_batch_larger_than_the_data_is_all_of_them(noise: str) -> None:
    """A batch of 10⁸ items would be given gigabytes of noise."""
    huge, whole = (
        fit(VAE(64, 4, (16,)), DIGITS.train[:20], epochs=1, batch_size=n, noise=noise, progress=False)
        for n in (10**8, 20)
    )
    assert huge["elbo"].equals(whole["elbo"])


def test_a_loss_that_is_not_finite_names_epoch_replica_and_setting() -> None:
    vae = VAE(64, 4, (16,), replicas=2)
    with torch.no_grad():
        vae.encoder.stack.layers[-1].bias[1] = 200.0  # sigma = exp(200) overflows float32
    with pytest.raises(FloatingPointError) as caught:
        fit(vae, small(), epochs=3, beta=[1.0, 0.5], noise=["none", "gaussian"], seed=7, progress=False)
    for part in ("epoch 1, replica 1", "noise='gaussian'", "beta=0.5", "seed=8", "smaller learning rate"):
        assert part in str(caught.value)


@pytest.mark.parametrize("latent", get_args(Latent))
@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_nan_is_reported_whoever_draws(latent: Latent, part: str) -> None:
    """From the decoder it reaches the loss; from an encoder's NaN torch refuses to draw."""
    vae = VAE(64, 4, (16,), replicas=2, latent=latent)
    with torch.no_grad():
        getattr(vae, part).stack.layers[0].weight[1, 3] = torch.nan
    with pytest.raises(FloatingPointError) as caught:
        fit(vae, small(), epochs=3, estimator="score_function", samples=2, beta=0.5, progress=False)
    for words in ("epoch 1, replica 1", "estimator='score_function'", "samples=2", "beta=0.5"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("latent", "settings"),
    [
        ("normal", {}),
        ("normal", {"objective": "iwae"}),
        ("normal", {"estimator": "rloo"}),
        ("bernoulli", {"estimator": "rloo"}),
        ("bernoulli", {"estimator": "gumbel_softmax"}),
    ],
)
def test_a_learning_rate_that_ruins_the_weights_is_reported(latent: Latent, settings: dict[str, Any]) -> None:
    vae = VAE(64, 4, (16,), latent=latent)
    with pytest.raises(FloatingPointError, match=r"epoch 1, replica 0: .*learning_rate=1e"):
        fit(vae, small(), epochs=2, learning_rate=1e30, samples=2, progress=False, **settings)


def test_weights_that_the_last_step_ruins_are_noticed() -> None:
    with pytest.raises(FloatingPointError, match="epoch 1, replica 0"):
        fit(VAE(64, 4, (16,)), small(), epochs=1, batch_size=200, learning_rate=1e39, progress=False)


@pytest.mark.parametrize("channels", [(), (3, 2)])
def test_save_and_load(tmp_path: Path, channels: tuple[int, ...]) -> None:
    path = tmp_path / "a model.safetensors"
    vae = VAE(64, 4, (16,), "gaussian", replicas=2, seed=[4, 2], channels=channels)
    fit(vae, small(), epochs=1, progress=False)
    save_model(vae, path)
    again = load_model(path)
    assert again.config == vae.config
    for name, value in vae.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    save_model(VAE(64, np.int64(4), (np.int64(8),)).double(), path)  # type: ignore[arg-type]
    assert next(load_model(path).parameters()).dtype == torch.float64
    with pytest.raises(FileNotFoundError, match="no folder"):
        save_model(vae, tmp_path / "missing" / "model.safetensors")


def test_binary_latents_are_saved_and_files_from_before_them_still_load(tmp_path: Path) -> None:
    path, vae = tmp_path / "model.safetensors", binary(replicas=2)
    save_model(vae, path)
    again, x = load_model(path), DIGITS.test[:3]
    assert again.config == vae.config
    assert again.config["latent"] == "bernoulli"
    assert torch.equal(again.encoder(x).base_dist.logits, vae.encoder(x).base_dist.logits)

    old = VAE(64, 4, (16,))
    config = {key: value for key, value in old.config.items() if key not in ("latent", "channels")}
    save_file(old.state_dict(), path, metadata={"vae_lab": json.dumps(config)})
    assert load_model(path).config == old.config


class Shifted(VAE):
    """Its codes are looked for around 3."""

    @property
    def prior(self) -> DiagonalNormal:
        return DiagonalNormal(self._origin + 3, self._origin)


class Stranger(VAE):
    """Its config, a VAE's, does not make it again."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)


class Scaled(VAE):
    """Its config makes it again, but with another scale."""

    def __init__(self, features: int, *, scale: float = 1.0, **settings: Any) -> None:
        super().__init__(features, **settings)
        self.scale = scale


def test_a_subclass_is_loaded_as_what_it_is_or_not_at_all(tmp_path: Path) -> None:
    path, vae = tmp_path / "model.safetensors", Shifted(64, 4)
    save_model(vae, path)
    again = load_model(path)
    assert type(again) is Shifted
    assert evaluate(again, DIGITS.test, 1).equals(evaluate(vae, DIGITS.test, 1))
    path.write_bytes(path.read_bytes().replace(b".Shifted", b".Unknown"))
    with pytest.raises(ValueError, match=r"holds a .*\.Unknown; import or define this subclass of VAE first"):
        load_model(path)
    module, activation = VAE(64, 4), VAE(64, 4)
    module.decoder.stack = torch.nn.Identity()  # type: ignore[assignment]
    activation.decoder.stack.activation = torch.sin
    for vae, what in (
        (Stranger(64, 4), "it raises an error"),
        (module, "it has other modules"),
        (activation, "its decoder.stack.activation is another"),
        (Scaled(64, scale=7.0), "its scale is another"),
    ):
        with pytest.raises(ValueError, match=rf"could not be loaded as what it is \({what}\)"):
            save_model(vae, tmp_path / "other")
    save_model(Scaled(64), tmp_path / path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_model_is_saved_to_files_only(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    for name in ("folder", "pipe", "circle"):
        before = (tmp_path / name).lstat()
        with pytest.raises(ValueError, match="is a folder, a device or a link in a circle; give the name of"):
            save_model(VAE(64, 4), tmp_path / name)
        assert (tmp_path / name).lstat().st_ino == before.st_ino
    (tmp_path / "link").symlink_to("folder/model.safetensors")
    for seed in (1, 2):  # to a file that is not yet there, and to one that is
        save_model(VAE(64, 4, seed=seed), tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert load_model(tmp_path / "folder/model.safetensors").seeds == [seed]


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden": [10**8]},
        {"hidden": [128, 10**4, 10**4]},
        {"features": 10**9},
        {"replicas": 10**12},
        {"replicas": 10**30},
        {"sigma": [10**400]},
        {"seed": [None]},
        {"latents": "8"},
        {"channels": [10**6]},
        {"unheard": 1},
    ],
    ids=str,
)
def test_a_file_makes_no_model_larger_than_itself(tmp_path: Path, changes: dict[str, Any]) -> None:
    vae, path = VAE(64, 4), tmp_path / "model.safetensors"
    save_file(vae.state_dict(), path, metadata={"vae_lab": json.dumps(vae.config | changes)})
    with pytest.raises(ValueError, match="is not a model that save_model wrote"):
        load_model(path)


def test_a_failing_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_model(VAE(64, seed=1), path)
    content = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        save_model(VAE(64, seed=2), path)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("the file was executed",)


def test_load_refuses_what_save_did_not_write(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(VAE(64, 4), path)
    whole = path.read_bytes()
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    other_shapes = whole.replace(b'\\"latents\\": 4', b'\\"latents\\": 5')
    assert other_shapes != whole
    contents = {
        "empty": b"",
        "cut in its header": whole[:100],
        "cut in its tensors": whole[:-1],
        "pickle": pickle.dumps(Bomb()),
        "foreign": foreign.read_bytes(),
        "other shapes": other_shapes,
        "text": b"not a model at all",
    }
    for content in contents.values():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"is not a model that save_model wrote"):
            load_model(path)
    with pytest.raises(FileNotFoundError, match="no model file"):
        load_model(tmp_path / "missing")


def test_trains_in_the_precision_of_the_model_whatever_that_of_the_data() -> None:
    single, double = VAE(64, 4, (16,)), VAE(64, 4, (16,)).double()
    histories = [
        fit(vae, x, epochs=2, seed=np.int64(3), beta=np.float32(1), progress=False)  # type: ignore[arg-type]
        for vae, x in ((single, DIGITS.train[:200].double()), (double, DIGITS.train[:200]))
    ]
    assert next(single.parameters()).dtype == torch.float32
    assert next(double.parameters()).dtype == torch.float64
    np.testing.assert_allclose(histories[0]["elbo"], histories[1]["elbo"], rtol=1e-5)


def test_progress_is_shown_only_when_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    fit(VAE(64, 4, (16,)), small(), epochs=1, progress=False)
    assert capsys.readouterr().err == ""
    fit(VAE(64, 4, (16,)), small(), epochs=1)
    assert "training: 100%" in capsys.readouterr().err
