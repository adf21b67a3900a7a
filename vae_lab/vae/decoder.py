"""The decoder p(x|z)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from .layers import Linear, Stack, independent_bernoulli

Likelihood = Literal["bernoulli", "gaussian"]


class Decoder(nn.Module):
    """p(x|z): codes (…, Z) -> an independent Bernoulli or normal over the features.

    The normal has one learned standard deviation per replica. With `context` > 0 it is p(x|z, c), for a
    context c (B, C) or (…, R, B, C); without one given, `forward` returns a `Conditional`.
    """

    def __init__(
        self,
        layers: Sequence[Linear],
        activation: str,
        likelihood: Likelihood,
        replicas: int,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.context = context
        self.stack = Stack(layers, activation)
        self.log_scale: nn.Parameter | None = None
        if likelihood == "gaussian":
            self.log_scale = nn.Parameter(torch.zeros(replicas, 1, 1))

    def forward(self, z: Tensor, context: Tensor | None = None) -> Any:
        if context is not None:
            z = torch.cat([z, context.to(z).expand(*z.shape[:-1], self.context)], dim=-1)
        elif self.context:
            return Conditional(self, z)
        out = self.stack(z)
        if self.log_scale is None:
            return independent_bernoulli(out)
        scale = self.log_scale.to(out.dtype).exp()
        return Independent(Normal(out, scale, validate_args=False), 1, validate_args=False)


class Conditional:
    """p(x|z, c) whose context c is not known yet: `log_prob` finds it in the last features of each item."""

    def __init__(self, decoder: Decoder, z: Tensor) -> None:
        self.decoder, self.z = decoder, z

    def log_prob(self, items: Tensor) -> Tensor:
        """log p(x|z, c) of items (…, B, D), which hold x and c side by side."""
        size = self.decoder.context
        return self.decoder(self.z, items[..., -size:]).log_prob(items[..., :-size])

    @property
    def mean(self) -> Tensor:
        raise ValueError(
            f"the mean depends on the context: decoder(z, context), with {self.decoder.context} numbers each"
        )
