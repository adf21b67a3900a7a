"""The decoder p(x|z)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from .layers import Linear, Stack, independent_bernoulli

Likelihood = Literal["bernoulli", "gaussian"]


class Decoder(nn.Module):
    """p(x|z): codes (…, Z) -> an independent Bernoulli or normal over the features.

    The normal has one learned standard deviation per replica.
    """

    def __init__(
        self, layers: Sequence[Linear], activation: str, likelihood: Likelihood, replicas: int
    ) -> None:
        super().__init__()
        self.stack = Stack(layers, activation)
        self.log_scale: nn.Parameter | None = None
        if likelihood == "gaussian":
            self.log_scale = nn.Parameter(torch.zeros(replicas, 1, 1))

    def forward(self, z: Tensor) -> Distribution:
        out = self.stack(z)
        if self.log_scale is None:
            return independent_bernoulli(out)
        scale = self.log_scale.to(out.dtype).exp()
        return Independent(Normal(out, scale, validate_args=False), 1, validate_args=False)
