"""The noise that replicas see, in training and when the same items are shown again and again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .noise_registry import NOISES, Noise
from .streams import Streams


class TrainingNoise:
    """The eps that R replicas see, epoch by epoch, each of its own kind, scale and seed.

    `names`, `scales`, `seeds` have one entry per replica (R); a training set has `items` items, shown in
    batches of `batch_size`, with `samples` draws of size `latents` for each presentation of an item.
    """

    def __init__(
        self,
        names: Sequence[str],
        scales: Sequence[float],
        seeds: Sequence[int],
        *,
        items: int,
        batch_size: int,
        latents: int,
        samples: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.items, self.batch_size, self.device = items, min(batch_size, items), device
        self.shape = (latents,) if samples == 1 else (samples, latents)
        self.scales = torch.tensor(scales, dtype=torch.float64, device=device).float()
        self.kinds: list[tuple[Noise, Tensor, Streams]] = []
        self.kept: dict[str, Tensor] = {}
        for name in dict.fromkeys(names):
            kind = NOISES[name]
            members = [r for r, other in enumerate(names) if other == name]
            streams = Streams([seeds[r] for r in members], f"noise {name}", device)
            self.kinds.append((kind, torch.tensor(members, device=device), streams))
            if kind.per == "item":
                self.kept[name] = streams.draw(kind.sample, items, *self.shape)

    def epoch(self, order: Tensor) -> Tensor:
        """eps (R, items, Z), or (N, R, items, Z) of several samples, for one epoch that presents the items in
        `order` (R, items)."""
        eps = torch.empty(*order.shape, *self.shape, device=self.device)
        for kind, members, streams in self.kinds:
            if kind.per == "item":
                chosen = order[members].view(len(members), -1, *[1] * len(self.shape))
                drawn = self.kept[kind.name].take_along_dim(chosen, dim=1)
            elif kind.per == "batch":
                batches = -(-self.items // self.batch_size)
                drawn = streams.draw(kind.sample, batches, *self.shape)
                drawn = drawn.repeat_interleave(self.batch_size, dim=1)[:, : self.items]
            else:
                drawn = streams.draw(kind.sample, self.items, *self.shape)
            eps[members] = drawn.to(eps)
        eps *= self.scales.view(-1, *[1] * (eps.ndim - 1))
        return eps if len(self.shape) == 1 else eps.movedim(2, 0)


def presentations(
    names: Sequence[str],
    scales: Sequence[float],
    seeds: Sequence[int],
    *,
    items: int,
    latents: int,
    count: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """eps of the same items in `count` presentations, each replica with its own noise: (count, R, items, Z).

    For a noise that is kept per item, or constant, the presentations are equal.
    """
    source = TrainingNoise(
        names, scales, seeds, items=items, batch_size=items, latents=latents, device=device
    )
    order = torch.arange(items, device=device).expand(len(names), items)
    return torch.stack([source.epoch(order) for _ in range(count)])
