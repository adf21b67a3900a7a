"""The VAE: encoder q(z|x), prior p(z) and decoder p(x|z), R replicas of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from operator import index
from typing import Any, ClassVar, Self, get_args

import torch
from torch import Tensor, nn

from ..device import Device, choose_device
from ..reparameterization import DiagonalNormal
from .decoder import Decoder, Likelihood
from .encoder import Encoder, Latent
from .layers import Convolution, Linear, dense, independent_bernoulli
from .streams import Streams, per_replica, replica_seeds, standard_normal, standard_uniform


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
        down += dense([flat, *hidden, head], streams, self._last_layer)
        up = dense([latents, *reversed(hidden), flat], streams)
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

    def generate(self, n: int, seed: int = 0) -> Tensor:
        """Means of p(x|z) for `n` draws of z from the prior, the same for all replicas: (R, n, features)."""
        streams = Streams([seed], "prior", self._origin.device)
        if self.latent == "bernoulli":
            z = streams.draw(standard_uniform, n, self.latents) < 0.5
        else:
            z = streams.draw(standard_normal, n, self.latents)
        with torch.no_grad():
            return self.decoder(z.to(self._origin)).mean


def as_items(vae: VAE, x: Tensor) -> Tensor:
    """Items `x` (items, D) in the precision and on the device of `vae`.

    Raises a ValueError that says what is wrong if they cannot be modelled by `vae`.
    """
    if not isinstance(x, Tensor):
        raise ValueError(
            f"expected a float tensor (items, {vae.features}), got {type(x).__name__}; "
            "torch.as_tensor converts an array, and a Dataset has .train and .test"
        )
    if x.ndim != 2 or x.shape[0] == 0 or not x.is_floating_point():
        raise ValueError(f"expected a float tensor (items, {vae.features}), got {x.dtype} {tuple(x.shape)}")
    if x.shape[1] != vae.features:
        raise ValueError(
            f"this VAE has features={vae.features}, but the items have {x.shape[1]}; "
            f"make it with VAE(features={x.shape[1]}, …) or flatten the items"
        )
    x = x.to(vae.prior.mean)
    low, high = x.aminmax()  # one pass; NaN and infinity come through
    if not (low.isfinite() and high.isfinite()):
        bad = (~x.isfinite()).any(1).nonzero()
        raise ValueError(
            f"the data hold NaN or infinity in {len(bad)} items, the first is item {int(bad[0])}"
        )
    if vae.likelihood == "bernoulli" and (low < 0 or high > 1):
        raise ValueError(
            f"a Bernoulli likelihood needs values in [0, 1], got [{low:g}, {high:g}]; "
            "rescale the data, or use likelihood='gaussian'"
        )
    return x
