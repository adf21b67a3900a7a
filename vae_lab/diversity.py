"""How different are the outputs? Pure functions of models and samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .networks import VAE, per_replica, replica_seeds
from .noise import presentations
from .objectives import as_items


@torch.no_grad()
def same_input_spread(
    vae: VAE,
    x: Tensor,
    samples: int = 16,
    *,
    noise: str | Sequence[str] = "gaussian",
    noise_scale: float | Sequence[float] = 1.0,
    seed: int | Sequence[int] = 0,
) -> Tensor:
    """Standard deviation of a decoded feature when one input is encoded again and again: (R,).

    Items `x` (B, D) are shown `samples` times, with the noise of a law in `NOISES` and a scale, one for all
    replicas or one for each. The variance of the decoder's mean over the presentations, averaged over items
    and features; its root has the data's units. Exactly 0 where the noise does not change between
    presentations. Raises ValueError for fewer than 2 samples.
    """
    if samples < 2:
        raise ValueError(f"a spread needs at least 2 samples, got {samples}")
    x, r = as_items(vae, x), vae.replicas
    names, scales = per_replica("noise", noise, r), per_replica("noise_scale", noise_scale, r)
    seeds = replica_seeds(seed, r)
    eps = presentations(
        names, scales, seeds, items=len(x), latents=vae.latents, count=samples, device=x.device
    )
    q = vae.encoder(x)
    outputs = (vae.decoder(q.reparameterize(one)).mean for one in eps.to(x))
    first = next(outputs)
    total, squares = torch.zeros_like(first), torch.zeros_like(first)
    for output in outputs:  # deviations from the first, so that equal outputs have a spread of exactly 0
        total += output - first
        squares += (output - first).square()
    variance = (squares - total**2 / samples) / (samples - 1)
    return variance.clamp_min(0).mean((1, 2)).sqrt()
