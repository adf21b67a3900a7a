"""What the time of a run goes to."""

import threading

import pytest

from vae_lab import VAE, clock, fit, load


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds, which passes only if a test says so; nothing is counted yet."""
    monkeypatch.setattr(clock, "spent", dict.fromkeys(clock.spent, 0.0))
    time = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: time[0])
    return time


def test_each_kind_counts_its_own_time_only(now: list[float]) -> None:
    @clock.counts_as("evaluation")
    def score() -> None:
        now[0] += 3

    @clock.counts_as("training")
    def train(epochs: int) -> int:
        for _ in range(epochs):
            now[0] += 10
            score()
        return epochs

    assert train(2) == 2
    now[0] += 100
    score()
    assert clock.spent == {"training": 20, "evaluation": 9, "gradients": 0, "plotting": 0}


def test_time_up_to_an_error_counts(now: list[float]) -> None:
    @clock.counts_as("gradients")
    def diverges() -> None:
        now[0] += 1
        raise FloatingPointError

    @clock.counts_as("gradients")
    def retries() -> None:
        for _ in range(2):
            with pytest.raises(FloatingPointError):
                diverges()

    retries()
    assert clock.spent["gradients"] == 2


def test_threads_do_not_take_each_others_time(now: list[float]) -> None:
    @clock.counts_as("evaluation")
    def score() -> None:
        now[0] += 3

    @clock.counts_as("training")
    def train() -> None:
        other = threading.Thread(target=score)
        other.start()
        other.join()
        now[0] += 10

    train()
    assert clock.spent["training"] == 13  # while it waits, its time passes, too
    assert clock.spent["evaluation"] == 3


def test_scores_within_a_training_are_evaluation() -> None:
    before = dict(clock.spent)
    data = load("digits")
    fit(VAE(64, 2, (8,)), data, epochs=2, test_every=1, progress=False)
    assert all(clock.spent[kind] > before[kind] for kind in ("training", "evaluation"))
    assert all(clock.spent[kind] == before[kind] for kind in ("gradients", "plotting"))
    clock.restart()
    assert not any(clock.spent.values())
