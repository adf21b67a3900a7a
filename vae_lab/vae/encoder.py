"""The encoder q(z|x)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..reparameterization import DiagonalNormal
from .layers import Linear, Stack, independent_bernoulli

Latent = Literal["normal", "bernoulli"]


class Encoder(nn.Module):
    """q(z|x): items (…, features) -> a distribution over z, batch shape (R, B).

    A `DiagonalNormal`: one merged head gives mu and log sigma side by side. Nothing but the loss tells the
    halves apart: one enters z as it is, the other through exp. A replica whose `sigma` is a number has that
    constant instead, and one whose `sigma` is a pair has sigma clamped between the two. Or independent
    Bernoulli variables, by their logits.
    """

    def __init__(
        self,
        layers: Sequence[Linear],
        activation: str,
        latent: Latent,
        sigma: Sequence[float | tuple[float, float] | None],
    ) -> None:
        super().__init__()
        self.stack = Stack(layers, activation)
        self.latent = latent
        ends = [(0.0, math.inf) if value is None else value for value in sigma]
        ends = [value if isinstance(value, tuple) else (value, value) for value in ends]
        # In float64, so that a model in double precision has all digits.
        self.register_buffer("_limits", torch.tensor(ends, dtype=torch.float64).log(), persistent=False)
        self._limits: Tensor
        self._some = any(value is not None for value in sigma)

    def forward(self, x: Tensor) -> Any:
        return self.posterior(self.stack(x))

    def posterior(self, head: Tensor) -> Any:
        """The distribution whose parameters the last layer's output (…, 2Z) or (…, Z) holds."""
        if self.latent == "bernoulli":
            return independent_bernoulli(head)
        mu, log_sigma = head.chunk(2, dim=-1)
        if self._some:
            log_sigma = self.within_limits(log_sigma)
        return DiagonalNormal(mu, log_sigma, validate_args=False)

    def within_limits(self, log_sigma: Tensor) -> Tensor:
        """`log_sigma` (..., R, B, Z), clamped or constant in the replicas whose `sigma` asks for that."""
        low, high = self._limits.to(log_sigma).view(-1, 2, 1, 1).unbind(1)
        return torch.where(low == high, low, log_sigma.clamp(low, high))
