import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vae_lab.measure.statistics import deviation_limit, moments
from vae_lab.registry import UnknownName
from vae_lab.vae.noise import TrainingNoise, presentations
from vae_lab.vae.noise_registry import NOISES, noise
from vae_lab.vae.streams import Streams, standard_normal

CONSTANT = {"none": 0.0, "ones": 1.0}


@pytest.mark.parametrize("name", NOISES)
def test_every_law_has_mean_zero_and_variance_one_or_is_constant(name: str) -> None:
    eps = NOISES[name].sample((50_000, 4, 2), torch.Generator().manual_seed(0))
    assert eps.shape == (50_000, 4, 2)
    if name in CONSTANT:
        assert (eps == CONSTANT[name]).all()
        return
    limit = deviation_limit(comparisons=4 * len(NOISES))
    for points in (eps[:, 0], eps[:, 3]):  # sets are independent, the points of one need not be
        values = points.flatten().double().numpy()
        first, second = moments(values), moments(values**2)
        assert abs(first.mean) < limit * first.mean_se
        assert abs(second.mean - 1) < limit * second.mean_se + 1e-6  # a constant square has no error
        assert second.mean_se < 0.06


def test_laws_have_the_quantiles_of_scipy() -> None:
    from scipy import stats

    def mixture(parts: list[tuple[float, float, float]]) -> stats.Mixture:
        normals = [stats.Normal(mu=mean, sigma=sigma) for _, mean, sigma in parts]
        return stats.Mixture(normals, weights=[weight for weight, _, _ in parts])

    known = {
        "gaussian": stats.norm(),
        "shared": stats.norm(),
        "frozen": stats.norm(),
        "antithetic": stats.norm(),
        "sobol": stats.norm(),
        "uniform": stats.uniform(-(3**0.5), 2 * 3**0.5),
        "laplace": stats.laplace(scale=0.5**0.5),
        "student_t": stats.t(5, scale=(3 / 5) ** 0.5),
        "arcsine": stats.arcsine(-(2**0.5), 2 * 2**0.5),
        "exponential": stats.expon(-1),
        "smeared_coin": mixture([(0.5, 0.99**0.5, 0.1), (0.5, -(0.99**0.5), 0.1)]),
        "contaminated": mixture([(0.99, 0, 0.1), (0.01, 0, (100 - 0.99) ** 0.5)]),
    }
    assert set(NOISES) == {*known, *CONSTANT, "rademacher"}
    for name, law in known.items():
        draws = NOISES[name].sample((20_000, 2, 3), torch.Generator().manual_seed(1))[:, 1, 2]
        # One draw of each set: independent. Kolmogorov and Smirnov's distance, false alarm 1e-6 in all.
        assert stats.kstest(draws.double().numpy(), law.cdf).pvalue > 1e-6 / len(known), name
    assert set(NOISES["rademacher"].sample((100, 2), torch.Generator()).unique().tolist()) == {-1.0, 1.0}


def test_coupled_points() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = NOISES["antithetic"].sample((5, 4, 3), generator)
    assert torch.equal(pairs[:, 0::2], -pairs[:, 1::2])
    odd = NOISES["antithetic"].sample((5, 3), generator)
    assert odd.shape == (5, 3) and torch.equal(odd[0], -odd[1])
    spread = NOISES["sobol"].sample((200, 16, 2), generator)
    cells = (torch.special.ndtr(spread) * 16).floor().long()
    for coordinate in (0, 1):  # one point in each of 16 equal cells, up to the shift: two at most
        counts = torch.nn.functional.one_hot(cells[..., coordinate], 16).sum(1)
        assert counts.max() <= 2


@pytest.mark.parametrize("name", NOISES)
def test_every_law_follows_its_generator_and_says_what_it_is(name: str) -> None:
    law = NOISES[name]
    first, second = (law.sample((4, 3), torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert law.summary.startswith("eps")


def test_an_unknown_name_gets_the_nearest_valid_one() -> None:
    with pytest.raises(
        UnknownName, match="unknown noise 'gausian'; did you mean 'gaussian'\\? Known: antithetic"
    ):
        NOISES["gausian"]


def test_a_law_of_ones_own_joins_by_the_decorator() -> None:
    @noise(per="batch")
    def two(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        """eps = 2."""
        return torch.full(tuple(shape), 2.0)

    try:
        assert NOISES["two"].per == "batch"
        assert NOISES["two"].summary == "eps = 2."
    finally:
        del NOISES["two"]


def test_forgotten_brackets_are_noticed() -> None:
    with pytest.raises(ValueError, match="write @noise\\(\\), with brackets"):

        @noise  # type: ignore[arg-type]
        def wrong(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
            return torch.zeros(tuple(shape))


@given(seeds=st.lists(st.integers(0, 2**40), min_size=1, max_size=5), shape=st.tuples(st.integers(1, 5)))
def test_a_stream_depends_on_its_seed_alone(seeds: list[int], shape: tuple[int]) -> None:
    together = Streams(seeds, "test")
    first, second = (together.draw(standard_normal, *shape) for _ in range(2))
    for position, seed in enumerate(seeds):
        alone = Streams([seed], "test")
        assert torch.equal(alone.draw(standard_normal, *shape)[0], first[position])
        assert torch.equal(alone.draw(standard_normal, *shape)[0], second[position])


def test_streams_of_neighbouring_seeds_and_other_purposes_are_unrelated() -> None:
    draws = [Streams([seed], purpose).draw(standard_normal, 10_000) for seed in (0, 1) for purpose in "ab"]
    correlation = np.corrcoef(torch.cat(draws).numpy())[np.triu_indices(4, k=1)]
    assert np.abs(correlation).max() < deviation_limit(comparisons=6) / 100  # 1/√n, n = 10,000


def training_noise(names: list[str], seeds: list[int], scales: list[float] | None = None) -> TrainingNoise:
    return TrainingNoise(names, scales or [1.0] * len(names), seeds, items=10, batch_size=4, latents=3)


def test_lifetimes() -> None:
    source = training_noise(["gaussian", "frozen", "shared"], [0, 0, 0])
    forward, backward = torch.arange(10).expand(3, 10), torch.arange(9, -1, -1).expand(3, 10)
    first, second = source.epoch(forward), source.epoch(backward)
    assert first.shape == (3, 10, 3)
    assert not (first[0] == second[0]).any() and not (first[0] == second[0].flip(0)).any()
    assert torch.equal(first[1], second[1].flip(0)), "frozen noise follows its item"
    for batch in (slice(0, 4), slice(4, 8), slice(8, 10)):
        assert torch.equal(first[2][batch], first[2][batch][:1].expand_as(first[2][batch]))
    assert first[2].unique(dim=0).shape[0] == 3


def test_each_replica_has_its_own_law_scale_and_seed() -> None:
    order = torch.arange(10).expand(4, 10)
    mixed = training_noise(["gaussian", "none", "ones", "gaussian"], [0, 0, 1, 0], [1.0, 1.0, 0.5, 2.0])
    eps = mixed.epoch(order)
    assert (eps[1] == 0).all() and (eps[2] == 0.5).all()
    assert torch.equal(2 * eps[0], eps[3]), "equal seeds give equal draws"
    assert torch.equal(eps[:1], training_noise(["gaussian"], [0]).epoch(order[:1]))


def test_several_samples_of_an_item_are_one_set() -> None:
    names = ["gaussian", "antithetic", "frozen", "shared"]
    source = TrainingNoise(names, [1.0] * 4, [0] * 4, items=6, batch_size=4, latents=3, samples=2)
    order = torch.arange(6).expand(4, 6)
    first, second = source.epoch(order), source.epoch(order)
    assert first.shape == (2, 4, 6, 3)
    assert torch.equal(first[0, 1], -first[1, 1]) and not (first[0, 0] == first[1, 0]).any()
    assert torch.equal(first[:, 2], second[:, 2]) and not torch.equal(first[:, 1], second[:, 1])
    assert torch.equal(first[:, 3, :4], first[:, 3, :1].expand(2, 4, 3))


def test_presentations_are_what_training_shows() -> None:
    names = ["gaussian", "frozen", "none", "shared"]
    eps = presentations(names, [1.0, 1.0, 1.0, 0.5], [3] * 4, items=7, latents=2, count=5)
    assert eps.shape == (5, 4, 7, 2)
    assert torch.equal(eps[:, 1], eps[:1, 1].expand(5, 7, 2)) and (eps[:, 2] == 0).all()
    assert torch.equal(eps[:, 3], eps[:, 3, :1].expand(5, 7, 2)) and eps[:, 0].unique().numel() == 70
    source = TrainingNoise(names, [1.0, 1.0, 1.0, 0.5], [3] * 4, items=7, batch_size=7, latents=2)
    assert torch.equal(eps[0], source.epoch(torch.arange(7).expand(4, 7)))
