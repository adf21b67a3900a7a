"""The VAE: encoder q(z|x), prior p(z) and decoder p(x|z), R replicas of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli

from ..data.contract import image_shape, scaled
from ..device import Device, choose_device
from ..estimators.families import unwrap
from ..reparameterization import DiagonalNormal
from ..settings import Count, Positive, Seed, Whole, check
from .decoder import Decoder, Likelihood
from .encoder import Encoder, Latent
from .layers import Convolution, Linear, at_least_single, dense, halved, independent_bernoulli
from .streams import Streams, per_replica, replica_seeds, standard_normal, standard_uniform


class VAE(nn.Module):
    """Encoder q(z|x), prior p(z) = N(0, I) and decoder p(x|z), R replicas of each.

    `features` is the size of an item, `latents` that of z; `hidden` gives the encoder's hidden widths,
    mirrored in the decoder. With `channels` the features are the pixels of an image, and one `Convolution` to
    each number of channels comes before the hidden layers, mirrored in the decoder. `shape` is that of the
    image, (height, width) or (channels, height, width); a square of one channel unless given.
    With `latent="bernoulli"` z is binary, and the prior a fair coin for each
    coordinate; such z has no path for gradients, so `fit` needs one of the estimators for discrete q.
    `sigma` makes the posterior's standard deviation a constant, one for all replicas or one for each, instead
    of the encoder's (None); a replica's may also be a pair, between which the encoder's is clamped.
    With `context` the VAE is conditional (sohn2015learning): the last `context` features of an item, such as
    a label as zeros and a one, are given to encoder and decoder and not modelled.
    `seed` is the first replica's (the others follow by one) or a sequence with one seed per replica; equal
    seeds give equal weights. Raises ValueError for arguments that are not such values, or do not fit each
    other. Source: kingma2014auto.

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
        sigma: float | Sequence[float | tuple[float, float] | None] | None = None,
        channels: Sequence[int] = (),
        shape: Sequence[int] | None = None,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.features = check("features", Count, features)
        self.latents = check("latents", Count, latents)
        self.replicas = check("replicas", Count, replicas)
        self.hidden = check("hidden", tuple[Count, ...], hidden)
        self.channels = check("channels", tuple[Count, ...], channels)
        self.likelihood = check("likelihood", Likelihood, likelihood)
        self.latent = check("latent", Latent, latent)
        self.activation = check("activation", str, activation)
        self.context = check("context", Whole, context)
        if self.context >= self.features or (self.context and self.channels):
            raise ValueError(
                f"context is a part of the features, and goes with no channels; got {context=}, "
                f"{features=} and {channels=}"
            )
        self.shape = None if shape is None else image_shape(shape, self.features - self.context)
        self.sigma = per_replica("sigma", sigma, self.replicas, Positive | tuple[Positive, Positive] | None)
        for pair in self.sigma:
            if isinstance(pair, tuple) and pair[0] > pair[1]:
                raise ValueError(f"sigma is clamped between a smaller and a larger number, got {pair}")
        if latent != "normal" and any(value is not None for value in self.sigma):
            raise ValueError(f"sigma is for normal latents only, got {sigma!r} with {latent=}")
        self.seeds = replica_seeds(seed, self.replicas)
        down, up = self._layers(Streams(self.seeds, "weights", torch.get_default_device()))
        self.encoder = Encoder(down, self.activation, self.latent, self.sigma)
        self.decoder = Decoder(up, self.activation, self.likelihood, self.replicas, self.context)
        self.register_buffer("_origin", torch.zeros(self.latents), persistent=False)
        self._origin: Tensor

    def _layers(self, streams: Streams) -> tuple[list[Linear], list[Linear]]:
        """The layers of the encoder and of the decoder, with fresh weights."""
        steps, flat = [], self.features
        if self.channels:
            colours, *size = self.shape or _square(self.features)
            sizes = [(size[0], size[1])]
            for _ in self.channels:
                sizes.append(halved(sizes[-1]))
            steps = list(zip(pairwise((colours, *self.channels)), sizes[:-1], strict=True))
            flat = self.channels[-1] * math.prod(sizes[-1])
        head = 2 * self.latents if self.latent == "normal" else self.latents
        down: list[Linear] = [Convolution(a, b, size, streams) for (a, b), size in steps]
        down += dense([flat, *self.hidden, head], streams, self._last_layer)
        up = dense([self.latents + self.context, *reversed(self.hidden), flat - self.context], streams)
        up += [Convolution(b, a, size, streams, up=True) for (a, b), size in reversed(steps)]
        return down, up

    @property
    def config(self) -> dict[str, Any]:
        """The constructor arguments that make this model again (before training)."""
        names = ["features", "latents", "hidden", "likelihood", "replicas"]
        names += ["activation", "latent", "sigma", "channels", "shape", "context"]
        return {name: getattr(self, name) for name in names} | {"seed": self.seeds}

    @property
    def prior(self) -> Any:
        """p(z): event shape (Z,), no batch shape."""
        if self.latent == "bernoulli":
            return independent_bernoulli(self._origin)
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

    @torch.no_grad()
    def generate(self, n: int, seed: int = 0, context: Tensor | None = None) -> Tensor:
        """Means of p(x|z) for `n` draws of z from the `prior`, the same for all replicas: (R, n, features).

        A conditional VAE needs the `context` of each draw, (n, C), and returns the other features.
        A prior of a subclass is drawn from by its own `sample`; with batch shape (R, 1), each replica has its
        own.
        """
        n, prior = check("n", Count, n), self.prior
        streams = Streams([check("seed", Seed, seed)], "prior", self._origin.device)
        if isinstance(prior, DiagonalNormal):
            z = prior.reparameterize(streams.draw(standard_normal, n, self.latents).to(self._origin))
        elif isinstance(coin := unwrap(prior), Bernoulli):
            z = (streams.draw(standard_uniform, n, self.latents) < coin.probs).to(self._origin)
        else:
            with torch.random.fork_rng():
                torch.manual_seed(streams.generators[0].initial_seed())
                z = prior.sample((n,))  # n, or n, R, 1
            z = z.squeeze(2).movedim(0, 1) if prior.batch_shape else z
        if (context is not None) != (self.context > 0) or (
            context is not None and context.shape != (n, self.context)
        ):
            got = None if context is None else tuple(context.shape)
            raise ValueError(f"expected context {(n, self.context) if self.context else None}, got {got}")
        return self.decoder(z, context).mean


def _square(features: int) -> tuple[int, int, int]:
    side = math.isqrt(features)
    if side**2 != features:
        raise ValueError(
            f"channels need the shape of an image, and {features=} is not a square: give "
            "shape=(height, width) or (channels, height, width), or leave channels out"
        )
    return 1, side, side


def as_items(vae: VAE, x: Tensor) -> Tensor:
    """Items `x` (items, D) in the precision (float32 at least) and on the device of `vae`, without a graph.

    Raises TypeError for what is not a VAE, and a ValueError that says what is wrong with items that `vae`
    cannot model.
    """
    if not isinstance(vae, VAE):
        raise TypeError(f"expected a VAE, got {type(vae).__name__}; models of another kind train by `elbo`")
    if not isinstance(x, Tensor):
        raise ValueError(
            f"expected a float tensor (items, {vae.features}), got {type(x).__name__}; "
            "torch.as_tensor converts an array, and a Dataset has .train and .test"
        )
    if x.ndim != 2 or x.shape[0] == 0 or not x.is_floating_point() or x.layout != torch.strided:
        came = f"{x.dtype} {tuple(x.shape)}" + (f" {x.layout}" if x.layout != torch.strided else "")
        raise ValueError(f"expected a float tensor (items, {vae.features}), got {came}")
    if x.shape[1] != vae.features:
        raise ValueError(
            f"this VAE has features={vae.features}, but the items have {x.shape[1]}; "
            f"make it with VAE(features={x.shape[1]}, …) or flatten the items"
        )
    x = x.detach().to(vae._origin.device)
    low, high = x.aminmax()  # one pass; NaN and infinity come through
    if not (low.isfinite() and high.isfinite()):
        bad = (~x.isfinite()).any(1).nonzero()
        raise ValueError(
            f"the data hold NaN or infinity in {len(bad)} items, the first is item {int(bad[0])}"
        )
    if vae.likelihood == "bernoulli" and (low < 0 or high > 1):
        raise ValueError(
            f"a Bernoulli likelihood needs values in [0, 1], got [{low:g}, {high:g}]; {scaled(low, high)}, "
            "or standardise them and use likelihood='gaussian'"
        )
    precision = at_least_single(vae._origin.dtype)
    if max(-low, high) > torch.finfo(precision).max:
        raise ValueError(f"{precision} cannot hold data in [{low:g}, {high:g}]; standardise them")
    return x.to(precision)
