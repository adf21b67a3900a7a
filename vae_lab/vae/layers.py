"""Layers for R replicas at once: dense and convolutional, and stacks of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent

from ..registry import Registry
from .streams import Streams, standard_uniform

ACTIVATIONS: Registry[Callable[[Tensor], Tensor]] = Registry(
    {"gelu": nn.functional.gelu, "tanh": torch.tanh, "relu": torch.relu}, kind="activation"
)


def at_least_single(precision: torch.dtype) -> torch.dtype:
    """The precision in which numbers from layers of `precision` are worked with."""
    return torch.promote_types(precision, torch.float32)


def _uniform(streams: Streams, inputs: int, *shape: int) -> nn.Parameter:
    """Weights (R, *shape) uniform on ±1/√inputs, for outputs that see so many `inputs` each."""
    return nn.Parameter(streams.draw(standard_uniform, *shape).sub_(0.5).mul_(2 / math.sqrt(inputs)))


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


def halved(size: tuple[int, int]) -> tuple[int, int]:
    """The height and width that a `Convolution` makes of these: half, and 1 of 1."""
    height, width = (max(1, n // 2) for n in size)
    return height, width


class Convolution(Linear):
    """4 x 4 kernels at every second pixel of images, which halve their height and width; R replicas at once.

    From `inputs` channels of `size` (height, width) to `outputs` channels of the `halved` size; an image is
    one row of features, channel after channel. The transpose, `up`, leads from the halved size to `size`.
    weight (R, outputs, inputs · 16), or (R, inputs, outputs · 16) where `up`; bias (R, 1, outputs).
    Initialised uniformly on ±1/√(number of inputs that an output sees).
    """

    def __init__(
        self, inputs: int, outputs: int, size: tuple[int, int], streams: Streams, up: bool = False
    ) -> None:
        nn.Module.__init__(self)
        first, second = (inputs, outputs) if up else (outputs, inputs)
        seen = inputs * (4 if up else 16)
        self.weight = _uniform(streams, seen, first, second * 16)
        self.bias = _uniform(streams, seen, 1, outputs)
        self.seen, self.up = halved(size) if up else size, up
        self.padding = [1 if n > 1 else 2 for n in size]
        # What half of an odd number leaves out is put back on the way up.
        small = zip(size, halved(size), self.padding, strict=True)
        self.missing = [n - (2 * half + 2 - 2 * pad) for n, half, pad in small]

    def product(self, x: Tensor) -> Tensor:
        """(R, B, inputs · height · width) -> (R, B, outputs · their halves), or from these to `size`."""
        replicas, rows = x.shape[:2]
        # Replicas are groups of channels, which do not mix.
        images = x.movedim(0, 1).reshape(rows, -1, *self.seen)
        kernels, bias = self.weight.reshape(-1, self.weight.shape[-1] // 16, 4, 4), self.bias.flatten()
        if self.up:
            out = nn.functional.conv_transpose2d(
                images, kernels, bias, 2, self.padding, self.missing, groups=replicas
            )
        else:
            out = nn.functional.conv2d(images, kernels, bias, 2, self.padding, groups=replicas)
        return out.reshape(rows, replicas, -1).movedim(1, 0)


def dense(widths: Sequence[int], streams: Streams, last: type[Linear] = Linear) -> list[Linear]:
    """Layers from each of the `widths` to the next; `last` is the type of the last one."""
    *hidden, head = pairwise(widths)
    return [*(Linear(a, b, streams) for a, b in hidden), last(*head, streams)]


class Stack(nn.Module):
    """Layers with an activation between them, none after the last.

    Layers of half precision (float16, bfloat16) take and give float32: what is made of their output, log
    probabilities and their sums over features, would have two digits.
    """

    def __init__(self, layers: Sequence[Linear], activation: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        *hidden, head = self.layers
        x = x.to(next(head.parameters()).dtype)
        for layer in hidden:
            x = self.activation(layer(x))
        out = head(x)
        return out.to(at_least_single(out.dtype))


def independent_bernoulli(logits: Tensor) -> Independent:
    """Independent Bernoulli variables along the last axis, by their `logits` (…, D).

    Grey values in [0, 1] are allowed, and their log_prob is minus the cross-entropy.
    """
    return Independent(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)
