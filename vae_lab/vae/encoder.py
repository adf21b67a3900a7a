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
        self.stack = Stack(layers, activation)
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
            return independent_bernoulli(head)
        mu, log_sigma = head.chunk(2, dim=-1)
        if self._some:
            log_sigma = self.with_constants(log_sigma)
        return DiagonalNormal(mu, log_sigma, validate_args=False)

    def with_constants(self, log_sigma: Tensor) -> Tensor:
        """`log_sigma` (..., R, B, Z), with the constant in the replicas that have one."""
        return torch.where(self._constants.isnan(), log_sigma, self._constants.to(log_sigma))
