import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from vae_lab import VAE, evaluate, fit, load, training
from vae_lab.data import Dataset
from vae_lab.registry import UnknownName

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


def test_a_replica_equals_the_model_trained_alone() -> None:
    """20 steps, each replica with its own seed, law, scale and beta: equal to float32 rounding."""
    data, settings = small(500), {"epochs": 4, "batch_size": 100, "progress": False}
    together = VAE(64, 4, (16,), replicas=5, seed=3)
    history = fit(together, data, **SETTINGS, **settings)  # type: ignore[arg-type]
    for r in range(5):
        alone = VAE(64, 4, (16,), seed=3 + r)
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
        ({"seed": [1, 2, 3]}, ValueError, "expected 1 seed or one for each of 2 replicas, got 3"),
        ({"epochs": 0}, ValueError, "epochs and batch_size are at least 1"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate is positive, got .*learning_rate=-1.0"),
        ({"learning_rate": float("inf")}, ValueError, "learning_rate=inf"),
        ({"test_every": -1}, ValueError, "test_every=-1"),
        ({"beta": float("nan")}, ValueError, "beta is finite and not negative, got"),
        ({"noise_scale": -1.0}, ValueError, "noise_scale is finite and not negative"),
        ({"seed": -1}, ValueError, "seeds are not negative"),
        ({"data": np.zeros((9, 64))}, ValueError, "got ndarray; torch.as_tensor converts"),
        ({"data": torch.rand(9, 64), "test_every": 1}, ValueError, "test_every needs a Dataset"),
        ({"data": torch.rand(9, 63)}, ValueError, "features=64, but the items have 63"),
        ({"data": torch.full((9, 64), 1.5)}, ValueError, "a Bernoulli likelihood needs values in"),
    ],
)
def test_bad_input_stops_before_any_compute(
    changes: dict[str, object], error: type[Exception], message: str
) -> None:
    vae = VAE(64, 4, (16,), replicas=2)
    before = [parameter.clone() for parameter in vae.parameters()]
    with pytest.raises(error, match=message):
        fit(vae, **({"data": small(), "epochs": 1, "progress": False} | changes))  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))


def test_a_loss_that_is_not_finite_names_epoch_replica_and_setting() -> None:
    vae = VAE(64, 4, (16,), replicas=2)
    with torch.no_grad():
        vae.encoder.stack.layers[-1].bias[1] = 200.0  # sigma = exp(200) overflows float32
    with pytest.raises(FloatingPointError) as caught:
        fit(vae, small(), epochs=3, beta=[1.0, 0.5], noise=["none", "gaussian"], seed=7, progress=False)
    for part in ("epoch 1, replica 1", "noise='gaussian'", "beta=0.5", "seed=8", "smaller learning rate"):
        assert part in str(caught.value)


def test_weights_that_the_last_step_ruins_are_noticed() -> None:
    with pytest.raises(FloatingPointError, match="epoch 1, replica 0"):
        fit(VAE(64, 4, (16,)), small(), epochs=1, batch_size=200, learning_rate=1e39, progress=False)


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "a model.safetensors"
    vae = VAE(64, 4, (16,), "gaussian", replicas=2, seed=[4, 2])
    fit(vae, small(), epochs=1, progress=False)
    training.save(vae, path)
    again = training.load(path)
    assert again.config == vae.config
    for name, value in vae.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    training.save(VAE(64, np.int64(4), (np.int64(8),)).double(), path)  # type: ignore[arg-type]
    assert next(training.load(path).parameters()).dtype == torch.float64
    with pytest.raises(FileNotFoundError, match="no folder"):
        training.save(vae, tmp_path / "missing" / "model.safetensors")


def test_a_failing_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    training.save(VAE(64, seed=1), path)
    content = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training.os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        training.save(VAE(64, seed=2), path)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("the file was executed",)


def test_load_refuses_what_save_did_not_write(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    training.save(VAE(64, 4), path)
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
        with pytest.raises(ValueError, match=r"is not a model that vae_lab\.training\.save wrote"):
            training.load(path)
    with pytest.raises(FileNotFoundError, match="no model file"):
        training.load(tmp_path / "missing")


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
