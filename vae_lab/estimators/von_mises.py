"""The von Mises distribution on the circle, with the derivatives of its draws that torch lacks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Size, Tensor
from torch.distributions import VonMises as _VonMises


@cache
def _legendre(order: int) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return torch.as_tensor((nodes + 1) / 2), torch.as_tensor(weights / 2)


def von_mises_path(z: Tensor, loc: Tensor, concentration: Tensor) -> Tensor:
    """Draws `z` (N, *batch) from a von Mises distribution, now with their derivatives.

    dz/dloc = 1 and dz/dconcentration = −(∂F/∂concentration) / q(z), the implicit reparameterization
    (figurnov2018implicit). With A = I₁/I₀ the numerator is the integral of (cos t − A) q(t) from the mean to
    z, which Gauss and Legendre's rule gives to rounding. The result equals `z`, in [−π, π).
    """
    with torch.no_grad():
        kappa = concentration.double().unsqueeze(-1)
        angle = torch.remainder((z - loc).double() + math.pi, 2 * math.pi).sub(math.pi).unsqueeze(-1)
        nodes, weights = (rule.to(z.device) for rule in _legendre(64))
        t = angle * nodes
        mean_cosine = torch.special.i1e(kappa) / torch.special.i0e(kappa)
        integrand = (t.cos() - mean_cosine) * (kappa * (t.cos() - angle.cos())).exp()
        slope = -(angle * weights * integrand).sum(-1).to(z.dtype)
    return z + (loc - loc.detach()) + slope * (concentration - concentration.detach())


class VonMises(_VonMises):
    """Torch's von Mises distribution on the circle, with the `rsample` that torch lacks, and a `log_prob` to
    rounding, where torch's has an error of about 1e-7.

    A cost must have equal values at −π and π: elsewhere a draw that wraps around would jump.
    """

    has_rsample = True

    def rsample(self, sample_shape: Size | Sequence[int] = Size()) -> Tensor:  # noqa: B008 (torch's own)
        """Draws (*sample_shape, *batch) with derivatives; see `von_mises_path`."""
        return von_mises_path(super().sample(torch.Size(sample_shape)), self.loc, self.concentration)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q, (*sample_shape, *batch)."""
        height = self.concentration * ((value - self.loc).cos() - 1)
        return height - (2 * math.pi * torch.special.i0e(self.concentration)).log()
