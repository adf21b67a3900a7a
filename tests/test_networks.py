import math
from typing import get_args

import pytest
import torch
from scipy import stats
from torch.distributions import Bernoulli, Categorical, Independent, MixtureSameFamily, Normal

from vae_lab import VAE, DiagonalNormal, NotApplicable, elbo
from vae_lab.device import choose_device
from vae_lab.registry import UnknownName
from vae_lab.vae.encoder import Latent
from vae_lab.vae.layers import ACTIVATIONS, Convolution, Linear
from vae_lab.vae.streams import Streams


def test_linear_equals_torchs_for_every_replica_and_shape() -> None:
    linear = Linear(4, 3, Streams([0, 1], "weights"))
    x = torch.randn(5, 2, 6, 4)
    for r in range(2):
        for n in range(5):
            expected = torch.nn.functional.linear(x[n, r], linear.weight[r].T, linear.bias[r, 0])
            torch.testing.assert_close(linear(x)[n, r], expected)
    torch.testing.assert_close(linear(x[0]), linear(x)[0])
    torch.testing.assert_close(linear(x[0, 0])[0], linear(x)[0, 0])
    torch.testing.assert_close(linear(torch.stack([x, -x])), torch.stack([linear(x), linear(-x)]))
    assert linear(x[:1, :, :1]).shape == (1, 2, 1, 3), "axes of length one stay"


def test_linear_starts_like_torchs() -> None:
    weight = Linear(400, 500, Streams([0], "weights")).weight
    assert weight.abs().max() <= 400**-0.5
    # Variance of a uniform on ±a is a²/3; its relative standard error here is 0.2 %.
    assert weight.var().item() == pytest.approx(1 / 400 / 3, rel=0.01)


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("size", [(6, 6), (12, 8), (5, 7)])
def test_convolution_equals_torchs_for_every_replica_and_shape(up: bool, size: tuple[int, int]) -> None:
    layer = Convolution(2, 3, size, Streams([0, 1], "weights"), up=up)
    small = size[0] // 2, size[1] // 2
    seen, made = (small, size) if up else (size, small)
    x = torch.randn(5, 2, 4, 2 * seen[0] * seen[1])
    odd = {"output_padding": [n % 2 for n in size]} if up else {}
    single = torch.nn.functional.conv_transpose2d if up else torch.nn.functional.conv2d
    shape = (2, 3, 4, 4) if up else (3, 2, 4, 4)
    for r in range(2):
        for n in range(5):
            images, kernels = x[n, r].unflatten(1, (2, *seen)), layer.weight[r].reshape(shape)
            expected = single(images, kernels, layer.bias[r, 0], stride=2, padding=1, **odd)
            assert expected.shape == (4, 3, *made)
            torch.testing.assert_close(layer(x)[n, r], expected.flatten(1))
    torch.testing.assert_close(layer(x[0]), layer(x)[0])
    torch.testing.assert_close(layer(x[0, 0])[0], layer(x)[0, 0])
    # Every output sees 4 inputs of a channel on the way up, 16 on the way down (fewer at the edge).
    assert layer.weight.abs().max() <= (2 * (4 if up else 16)) ** -0.5


@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 8), (5, 7), (1, 12), (3, 2, 5), (1, 1, 1)])
def test_images_of_any_shape_go_through_convolutions(shape: tuple[int, ...]) -> None:
    features = math.prod(shape)
    vae = VAE(features, 2, (7,), replicas=3, channels=(3, 2), shape=shape)
    x = torch.rand(4, features)
    p = vae.decoder(vae.encoder(x).rsample((6,)))
    assert (p.batch_shape, p.event_shape) == ((6, 3, 4), (features,))
    p.log_prob(x).sum().backward()
    assert all(parameter.grad.any() for parameter in vae.parameters())
    assert VAE(**vae.config).config == vae.config


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("channels", [(3,), (3, 2)])
@pytest.mark.parametrize("hidden", [(), (7,)])
def test_convolutional_shapes(likelihood: str, channels: tuple[int, ...], hidden: tuple[int, ...]) -> None:
    vae = VAE(64, 2, hidden, likelihood, replicas=3, channels=channels)  # type: ignore[arg-type]
    q = vae.encoder(torch.rand(4, 64))
    assert (q.batch_shape, q.event_shape) == ((3, 4), (2,))
    p = vae.decoder(q.rsample((6, 5)))
    assert (p.batch_shape, p.event_shape) == ((6, 5, 3, 4), (64,))
    p.mean[..., 1, :, :].sum().backward()
    for parameter in vae.parameters():
        if parameter is not vae.decoder.log_scale:
            assert parameter.grad is not None
            assert (parameter.grad[[0, 2]] == 0).all(), "replicas do not mix"
            assert parameter.grad[1].any()


@pytest.mark.parametrize("shift", [2, 4])
def test_an_encoding_convolution_moves_with_the_image(shift: int) -> None:
    """Pixels are laid out as rows of an image: moved by 2 pixels, the features move by 1."""
    layer = Convolution(1, 1, (12, 12), Streams([0], "weights"))
    image = torch.zeros(12, 12)
    image[3:5, 3:5] = 1
    before, after = (layer(m.reshape(1, -1)).reshape(6, 6) for m in (image, image.roll(shift, dims=1)))
    assert not torch.equal(before, after)
    torch.testing.assert_close(before.roll(shift // 2, dims=1), after)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("hidden", [(), (7,), (7, 6)])
def test_shapes(likelihood: str, hidden: tuple[int, ...]) -> None:
    vae = VAE(5, 2, hidden, likelihood, replicas=3)  # type: ignore[arg-type]
    q = vae.encoder(torch.rand(4, 5))
    assert isinstance(q, DiagonalNormal)
    assert (q.batch_shape, q.event_shape) == ((3, 4), (2,))
    p = vae.decoder(q.rsample((6,)))
    assert (p.batch_shape, p.event_shape) == ((6, 3, 4), (5,))
    assert isinstance(p.base_dist, Bernoulli if likelihood == "bernoulli" else Normal)  # type: ignore[attr-defined]
    assert vae.prior.event_shape == (2,)
    assert vae.generate(9).shape == (3, 9, 5)


@pytest.mark.parametrize("hidden", [(), (7,)])
def test_binary_latents(hidden: tuple[int, ...]) -> None:
    vae = VAE(5, 3, hidden, replicas=2, latent="bernoulli")
    x = torch.rand(4, 5)
    q = vae.encoder(x)
    assert isinstance(q.base_dist, Bernoulli)
    assert torch.equal(q.base_dist.logits, vae.encoder.stack(x)), "one output for each bit"
    assert (q.batch_shape, q.event_shape) == ((2, 4), (3,))
    z = q.sample((6,))
    assert set(z.unique().tolist()) == {0, 1}
    assert vae.decoder(z).batch_shape == (6, 2, 4)
    assert (vae.prior.batch_shape, vae.prior.event_shape) == ((), (3,))
    torch.testing.assert_close(vae.prior.log_prob(z), torch.full((6, 2, 4), -3 * math.log(2)))


def test_binary_codes_are_generated_by_fair_coins() -> None:
    """Each of the eight codes as often as the others (chi-squared test, one false alarm in a million)."""
    vae = VAE(5, 3, (4,), replicas=2, latent="bernoulli").double()
    codes = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 3)
    with torch.no_grad():
        means = vae.decoder(codes).mean  # type: ignore[attr-defined]
    made = vae.generate(4000)
    assert made.shape == (2, 4000, 5)
    nearest = torch.cdist(made, means).min(-1)
    assert nearest.values.max() < 1e-6, "nothing but binary codes"
    assert torch.equal(nearest.indices[0], nearest.indices[1]), "the same for all replicas"
    assert stats.chisquare(nearest.indices[0].bincount(minlength=8)).pvalue > 1e-6
    assert torch.equal(made, vae.generate(4000))
    assert not torch.equal(made, vae.generate(4000, seed=1))


def test_equal_seeds_give_equal_weights_whatever_their_company() -> None:
    together = VAE(5, 2, replicas=3, seed=[4, 9, 4])
    alone = VAE(5, 2, seed=9)
    for several, one in zip(together.parameters(), alone.parameters(), strict=True):
        assert torch.equal(several[1], one[0])
        assert torch.equal(several[0], several[2])
        assert not torch.equal(several[0], several[1])
    assert VAE(5, 2, replicas=3, seed=4).seeds == [4, 5, 6]


def test_replicas_do_not_mix() -> None:
    vae = VAE(5, 2, replicas=3)
    vae.decoder(vae.encoder(torch.rand(4, 5)).rsample()).mean[1].sum().backward()
    for parameter in vae.parameters():
        assert parameter.grad is not None
        assert (parameter.grad[[0, 2]] == 0).all()


def test_generate_is_the_same_prior_draw_for_all_replicas() -> None:
    same = VAE(5, 2, replicas=2, seed=[1, 1]).generate(3, seed=2)
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same, VAE(5, 2, replicas=2, seed=[1, 1]).generate(3, seed=3))


class Elsewhere(VAE):
    """Codes from two clusters, by a distribution of torch's that has no eps."""

    @property
    def prior(self) -> MixtureSameFamily:
        means = Independent(Normal(torch.tensor([[-9.0, 0.0], [9.0, 5.0]]), torch.ones(2, 2)), 1)
        return MixtureSameFamily(Categorical(torch.ones(2)), means)


def test_generate_draws_from_the_prior_of_the_model() -> None:
    vae, state = Elsewhere(5, 2, replicas=2), torch.get_rng_state()
    made = vae.generate(200)
    assert torch.equal(made, vae.generate(200)) and torch.equal(state, torch.get_rng_state())
    with torch.no_grad():
        clusters = vae.decoder(torch.tensor([[-9.0, 0.0], [9.0, 5.0]])).mean  # type: ignore[attr-defined]
    assert made.shape == (2, 200, 5)
    assert set(torch.cdist(made[0], clusters[0]).argmin(1).tolist()) == {0, 1}
    assert not torch.equal(made, VAE(5, 2, replicas=2).generate(200))
    with pytest.raises(NotApplicable, match=r"no KL from .* to a prior MixtureSameFamily: register one"):
        elbo(vae, torch.rand(4, 5), torch.randn(2, 4, 2))


@pytest.mark.parametrize("latent", get_args(Latent))
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_config_makes_the_model_again(activation: str, latent: Latent) -> None:
    own = {"activation": activation, "latent": latent, "channels": (3,)}
    vae = VAE(16, 2, (4, 3), "gaussian", replicas=2, seed=[3, 8], **own)  # type: ignore[arg-type]
    again = VAE(**vae.config)
    assert again.config == vae.config
    for first, second in zip(vae.parameters(), again.parameters(), strict=True):
        assert torch.equal(first, second)


def test_bad_arguments_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match="likelihood should be 'bernoulli' or 'gaussian', got 'poisson'"):
        VAE(5, likelihood="poisson")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="latent should be 'normal' or 'bernoulli', got 'binary'"):
        VAE(5, latent="binary")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="latents should be greater than or equal to 1, got 0"):
        VAE(5, latents=0)
    with pytest.raises(ValueError, match=r"hidden\[1\] should be greater than or equal to 1"):
        VAE(5, hidden=(4, -3))
    with pytest.raises(ValueError, match=r"channels\[1\] should be greater than or equal to 1"):
        VAE(64, channels=(2, 0))
    with pytest.raises(ValueError, match=r"features=60 is not a square: give shape=\(height, width\)"):
        VAE(60, channels=(2, 2))
    with pytest.raises(ValueError, match=r"whose product is the number of features, 60; got \(3, 5\)"):
        VAE(60, shape=(3, 5))
    with pytest.raises(ValueError, match="seed: expected 1 value or one for each of 3 replicas, got 2"):
        VAE(5, replicas=3, seed=[1, 2])
    with pytest.raises(UnknownName, match="did you mean 'relu'"):
        VAE(5, activation="rellu")
    for name, value, kind in (
        ("features", 5.0, "integer"),
        ("hidden", 128, "tuple"),
        ("replicas", True, "integer"),
        ("seed", None, "integer"),
        ("sigma", "1", "number"),
        ("channels", 3, "tuple"),
        ("activation", None, "string"),
    ):
        with pytest.raises(ValueError, match=f"{name} should be a valid {kind}, got {value!r}"):
            VAE(**({"features": 5} | {name: value}))  # type: ignore[arg-type]


def test_a_model_is_on_a_device_for_a_block_and_back_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = VAE(4, 1)
    for device in ("auto", "cpu"):
        with vae.on(device) as same:  # type: ignore[arg-type]
            assert same is vae
    moves: list[str] = []
    monkeypatch.setattr(VAE, "to", lambda self, device: moves.append(str(device)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device in ("auto", "cuda", "cpu"):
        with pytest.raises(RuntimeError, match="inside"), vae.on(device):  # type: ignore[arg-type]
            raise RuntimeError("inside")
    assert moves == ["cuda", "cpu", "cuda", "cpu", "cpu", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with (
        pytest.raises(ValueError, match="torch finds no CUDA here; 'auto' takes the CPU then"),
        vae.on("cuda"),
    ):
        pass
    with pytest.raises(ValueError, match="device is one of 'auto', 'cpu', 'cuda', got 'gpu'"):
        choose_device("gpu")  # type: ignore[arg-type]
