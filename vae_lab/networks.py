"""Encoder, decoder and VAE with a replica axis: R independently trained models in one program.

Every weight has a leading axis R and every layer is one batched matrix product, so that models with
different seeds, noise or beta train together several times faster than one after the other. Replicas
never mix: the sum of their losses has a block-diagonal gradient.

Axes, in this order: N samples (optional), R replicas, B batch, then features. Items shared by all
replicas come as (B, features); the results always have the replica axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from operator import index
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from .device import Device, choose_device
from .distributions import DiagonalNormal
from .noise import Streams, standard_normal, standard_uniform
from .registry import Registry

Likelihood = Literal["bernoulli", "gaussian"]
Latent = Literal["normal", "bernoulli"]

ACTIVATIONS: Registry[Callable[[Tensor], Tensor]] = Registry(
    {"gelu": nn.functional.gelu, "tanh": torch.tanh, "relu": torch.relu}, kind="activation"
)


def per_replica(name: str, value: Any, replicas: int) -> list[Any]:
    """One value per replica from a single one or a sequence of them."""
    values = [value] * replicas if np.ndim(value) == 0 else list(value)
    if len(values) != replicas:
        raise ValueError(
            f"{name}: expected 1 value or one for each of {replicas} replicas, got {len(values)}"
        )
    return values


def replica_seeds(seed: int | Sequence[int], replicas: int) -> list[int]:
    """One seed per replica: `seed, seed + 1, …` for an integer, or the given ones."""
    if isinstance(seed, int | np.integer):
        seeds = list(range(index(seed), index(seed) + replicas))
    else:
        seeds = [index(s) for s in seed]
    if len(seeds) != replicas:
        raise ValueError(f"expected 1 seed or one for each of {replicas} replicas, got {len(seeds)}")
    if min(seeds) < 0:
        raise ValueError(f"seeds are not negative, got {seeds}")
    return seeds


def _uniform(streams: Streams, inputs: int, *shape: int) -> nn.Parameter:
    """Weights (R, *shape) uniform on ±1/√inputs, for outputs that see so many `inputs` each."""
    return nn.Parameter(streams.draw(standard_uniform, *shape).sub_(0.5) * (2 / math.sqrt(inputs)))


class Linear(nn.Module):
    """x @ weight + bias for R replicas at once: weight (R, in, out), bias (R, 1, out).

    Initialised like `torch.nn.Linear`: uniform on ±1/√in.
    """

    def __init__(self, inputs: int, outputs: int, streams: Streams) -> None:
        super().__init__()
        self.weight = _uniform(streams, inputs, inputs, outputs)
        self.bias = _uniform(streams, inputs, 1, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in) or (..., R, B, in) -> (R, B, out) or (..., R, B, out)."""
        replicas = self.weight.shape[0]
        if x.ndim > 3:
            # Samples are more rows for the same weights: one product, not N.
            samples = x.flatten(0, -4)
            rows = samples.movedim(1, 0).reshape(replicas, -1, x.shape[-1])
            out = self(rows).unflatten(1, (len(samples), x.shape[-2])).movedim(1, 0)
            return out.unflatten(0, x.shape[:-3])
        return self.product(x.expand(replicas, *x.shape[-2:]))

    def product(self, x: Tensor) -> Tensor:
        """(R, B, in) -> (R, B, out)."""
        return torch.baddbmm(self.bias, x, self.matrix())

    def matrix(self) -> Tensor:
        """What x is multiplied by."""
        return self.weight


class Convolution(Linear):
    """4 x 4 kernels at every second pixel of square images, which halve their sides; R replicas at once.

    From `inputs` channels of `side` x `side` pixels to `outputs` channels; an image is one row of features,
    channel after channel. The transpose, `up`, doubles the sides. weight (R, outputs, inputs · 16), or (R,
    inputs, outputs · 16) where `up`; bias (R, 1, outputs).
    Initialised uniformly on ±1/√(number of inputs that an output sees).
    """

    def __init__(self, inputs: int, outputs: int, side: int, streams: Streams, up: bool = False) -> None:
        nn.Module.__init__(self)
        first, second = (inputs, outputs) if up else (outputs, inputs)
        seen = inputs * (4 if up else 16)
        self.weight = _uniform(streams, seen, first, second * 16)
        self.bias = _uniform(streams, seen, 1, outputs)
        self.side, self.up = side, up

    def product(self, x: Tensor) -> Tensor:
        """(R, B, inputs · side²) -> (R, B, outputs · (side/2)²), or (2 side)²."""
        replicas, rows = x.shape[:2]
        # Replicas are groups of channels, which do not mix.
        images = x.movedim(0, 1).reshape(rows, -1, self.side, self.side)
        kernels, bias = self.weight.reshape(-1, self.weight.shape[-1] // 16, 4, 4), self.bias.flatten()
        convolve = nn.functional.conv_transpose2d if self.up else nn.functional.conv2d
        out = convolve(images, kernels, bias, stride=2, padding=1, groups=replicas)
        return out.reshape(rows, replicas, -1).movedim(1, 0)


def _dense(widths: Sequence[int], streams: Streams, last: type[Linear] = Linear) -> list[Linear]:
    *hidden, head = pairwise(widths)
    return [*(Linear(a, b, streams) for a, b in hidden), last(*head, streams)]


class _Stack(nn.Module):
    """Layers with an activation between them, none after the last."""

    def __init__(self, layers: Sequence[Linear], activation: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        *hidden, head = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        return head(x)


def _bits(logits: Tensor) -> Independent:
    """Independent Bernoulli variables along the last axis; unvalidated."""
    return Independent(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)


class Encoder(nn.Module):
    """q(z|x): items (…, features) -> a distribution over z, batch shape (R, B).

    A `DiagonalNormal`: one merged head gives mu and log sigma side by side. Nothing but the loss tells the
    halves apart: one enters z as it is, the other through exp. A replica whose `sigma` is not None has that
    constant instead. Or independent Bernoulli variables, by their logits.
    """

    def __init__(
        self,
        layers: Sequence[Linear],
        activation: str,
        latent: Latent,
        sigma: Sequence[float | None],
    ) -> None:
        super().__init__()
        self.stack = _Stack(layers, activation)
        self.latent = latent
        constants = [math.nan if value is None else math.log(value) for value in sigma]
        # In float64, so that a model in double precision has all digits.
        table = torch.tensor(constants, dtype=torch.float64).view(-1, 1, 1)
        self.register_buffer("_constants", table, persistent=False)
        self._constants: Tensor
        self._some = any(value is not None for value in sigma)

    def forward(self, x: Tensor) -> Any:
        return self.posterior(self.stack(x))

    def posterior(self, head: Tensor) -> Any:
        """The distribution whose parameters the last layer's output (…, 2Z) or (…, Z) holds."""
        if self.latent == "bernoulli":
            return _bits(head)
        mu, log_sigma = head.chunk(2, dim=-1)
        if self._some:
            log_sigma = self.held(log_sigma)
        return DiagonalNormal(mu, log_sigma, validate_args=False)

    def held(self, log_sigma: Tensor) -> Tensor:
        """`log_sigma` (..., R, B, Z), with the constant in the replicas that have one."""
        return torch.where(self._constants.isnan(), log_sigma, self._constants.to(log_sigma))


class Decoder(nn.Module):
    """p(x|z): codes (…, Z) -> an independent Bernoulli or normal over the features.

    The normal has one learned standard deviation per replica.
    """

    def __init__(
        self, layers: Sequence[Linear], activation: str, likelihood: Likelihood, replicas: int
    ) -> None:
        super().__init__()
        self.stack = _Stack(layers, activation)
        self.log_scale: nn.Parameter | None = None
        if likelihood == "gaussian":
            self.log_scale = nn.Parameter(torch.zeros(replicas, 1, 1))

    def forward(self, z: Tensor) -> Distribution:
        out = self.stack(z)
        if self.log_scale is None:
            return _bits(out)  # grey values in [0, 1] are allowed and give the cross-entropy
        return Independent(Normal(out, self.log_scale.exp(), validate_args=False), 1, validate_args=False)


class VAE(nn.Module):
    """Encoder q(z|x), prior p(z) = N(0, I) and decoder p(x|z), R replicas of each.

    `features` is the size of an item, `latents` that of z; `hidden` gives the encoder's hidden widths,
    mirrored in the decoder. With `channels` the features are the pixels of a square image, and one
    `Convolution` to each number of channels comes before the hidden layers, mirrored in the decoder.
    With `latent="bernoulli"` z is binary, and the prior a fair coin for each
    coordinate; such z has no path for gradients, so `fit` needs one of the estimators for discrete q.
    `sigma` makes the posterior's standard deviation a constant, one for all replicas or one for each, instead
    of the encoder's (None).
    `seed` is the first replica's (the others follow by one) or a sequence with one seed per replica; equal
    seeds give equal weights. Source: kingma2014auto.

    >>> vae = VAE(64, latents=2, replicas=3)
    >>> q = vae.encoder(torch.zeros(10, 64))
    >>> q.mu.shape, vae.decoder(q.mu).mean.shape
    (torch.Size([3, 10, 2]), torch.Size([3, 10, 64]))
    """

    _last_layer: ClassVar[type[Linear]] = Linear  # of the encoder

    def __init__(
        self,
        features: int,
        latents: int = 8,
        hidden: Sequence[int] = (128,),
        likelihood: Likelihood = "bernoulli",
        replicas: int = 1,
        seed: int | Sequence[int] = 0,
        activation: str = "gelu",
        latent: Latent = "normal",
        sigma: float | Sequence[float | None] | None = None,
        channels: Sequence[int] = (),
    ) -> None:
        super().__init__()
        # Plain integers: numpy's would train and then not be saved.
        features, latents, replicas = index(features), index(latents), index(replicas)
        hidden, channels = tuple(map(index, hidden)), tuple(map(index, channels))
        for name, choice, kinds in (("likelihood", likelihood, Likelihood), ("latent", latent, Latent)):
            if choice not in get_args(kinds):
                raise ValueError(f"{name} is one of {', '.join(get_args(kinds))}, got {choice!r}")
        sizes = {
            "features": features,
            "latents": latents,
            "replicas": replicas,
            "hidden": min(hidden, default=1),
            "channels": min(channels, default=1),
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} is at least 1, got {size}")
        side = math.isqrt(features)
        if channels and (side**2 != features or side % 2 ** len(channels)):
            raise ValueError(
                f"channels={channels} halve the sides of a square image {len(channels)} times, and "
                f"features={features} is not the square of a multiple of {2 ** len(channels)}; "
                "leave channels out, or pad the images"
            )
        self.features, self.latents, self.hidden, self.channels = features, latents, hidden, channels
        self.likelihood, self.latent = likelihood, latent
        self.sigma = [None if v is None else float(v) for v in per_replica("sigma", sigma, replicas)]
        given = [value for value in self.sigma if value is not None]
        if not all(0 < value < math.inf for value in given) or (given and latent != "normal"):
            raise ValueError(
                f"sigma is positive and finite, or None, and for normal latents only; got {self.sigma}"
            )
        self.replicas, self.activation = replicas, activation
        self.seeds = replica_seeds(seed, replicas)
        streams = Streams(self.seeds, "weights")
        head = 2 * latents if latent == "normal" else latents
        sides = [side >> i for i in range(len(channels) + 1)]
        steps = list(zip(pairwise((1, *channels)), pairwise(sides), strict=True))
        flat = channels[-1] * sides[-1] ** 2 if channels else features
        down: list[Linear] = [Convolution(a, b, large, streams) for (a, b), (large, _) in steps]
        down += _dense([flat, *hidden, head], streams, self._last_layer)
        up = _dense([latents, *reversed(hidden), flat], streams)
        up += [Convolution(b, a, small, streams, up=True) for (a, b), (_, small) in reversed(steps)]
        self.encoder = Encoder(down, activation, latent, self.sigma)
        self.decoder = Decoder(up, activation, likelihood, replicas)
        self.register_buffer("_origin", torch.zeros(latents), persistent=False)
        self._origin: Tensor

    @property
    def config(self) -> dict[str, Any]:
        """The constructor arguments that make this model again (before training)."""
        names = ["features", "latents", "hidden", "likelihood", "replicas"]
        names += ["activation", "latent", "sigma", "channels"]
        return {name: getattr(self, name) for name in names} | {"seed": self.seeds}

    @property
    def prior(self) -> Any:
        """p(z): event shape (Z,), no batch shape."""
        if self.latent == "bernoulli":
            return _bits(self._origin)
        return DiagonalNormal(self._origin, self._origin, validate_args=False)

    @contextmanager
    def on(self, device: Device) -> Iterator[Self]:
        """The model on a device for the length of a block, and back where it was after it.

        `fit`, `evaluate` and all else that takes a model and items compute where the model is. "auto" is CUDA
        where torch finds it, and the CPU elsewhere. Random numbers are those of the device: runs on another
        one agree as runs with another seed do. Raises ValueError for "cuda" where there is none.
        """
        home = self._origin.device
        self.to(choose_device(device))
        try:
            yield self
        finally:
            self.to(home)

    def generate(self, n: int, seed: int = 0) -> Tensor:
        """Means of p(x|z) for `n` draws of z from the prior, the same for all replicas: (R, n, features)."""
        streams = Streams([seed], "prior", self._origin.device)
        if self.latent == "bernoulli":
            z = streams.draw(standard_uniform, n, self.latents) < 0.5
        else:
            z = streams.draw(standard_normal, n, self.latents)
        with torch.no_grad():
            return self.decoder(z.to(self._origin)).mean
