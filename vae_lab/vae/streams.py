"""Random streams, one for each replica, and settings with one value for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from ..settings import Seed, check, plain

Sampler = Callable[[Sequence[int], Generator], Tensor]


def per_replica(name: str, value: Any, replicas: int, kind: Any) -> list[Any]:
    """One value of a `kind` per replica, from a single one or a sequence of them."""
    values = plain(value)
    if not isinstance(values, tuple):
        return [check(name, kind, values)] * replicas
    if len(values) != replicas:
        raise ValueError(
            f"{name}: expected 1 value or one for each of {replicas} replicas, got {len(values)}"
        )
    return list(check(name, tuple[kind, ...], values))


def replica_seeds(seed: int | Sequence[int], replicas: int) -> list[int]:
    """One seed per replica: `seed, seed + 1, …` for an integer, or the given ones."""
    seeds = per_replica("seed", seed, replicas, Seed)
    return seeds if isinstance(plain(seed), tuple) else list(range(seeds[0], seeds[0] + replicas))


def standard_normal(shape: Sequence[int], generator: Generator) -> Tensor:
    """N(0, 1) draws on the generator's device."""
    return torch.randn(tuple(shape), generator=generator, device=generator.device)


def standard_uniform(shape: Sequence[int], generator: Generator) -> Tensor:
    """Uniform draws on [0, 1) on the generator's device."""
    return torch.rand(tuple(shape), generator=generator, device=generator.device)


def permutation(shape: Sequence[int], generator: Generator) -> Tensor:
    """The integers below shape[0] in random order, on the generator's device."""
    return torch.randperm(shape[0], generator=generator, device=generator.device)


class Streams:
    """Independent, reproducible random streams: one for each distinct seed.

    A stream depends on its seed and its purpose alone, never on how many others run beside it. That is
    what makes replica r of a batched training equal to the same model trained alone. Torch has no
    batched seeded sampler, so the one loop over seeds of the package is here, at one call per
    draw, not per item.
    """

    def __init__(self, seeds: Sequence[int], purpose: str, device: torch.device | str = "cpu") -> None:
        self.count = len(seeds)
        self.device = torch.device(device)
        distinct = sorted(set(seeds))
        # On the meta device numbers have no values, and nothing draws them.
        drawn = [] if self.device.type == "meta" else distinct
        self.generators = [_generator(seed, purpose, device) for seed in drawn]
        # Replicas that share a seed share its draws; None when there is nothing to rearrange.
        position = [distinct.index(seed) for seed in seeds]
        self._select = (
            None if position == list(range(len(distinct))) else torch.tensor(position, device=device)
        )

    def draw(self, sample: Sampler, *shape: int) -> Tensor:
        """`sample(shape, generator)` of each stream, stacked: (R, *shape)."""
        if not self.generators:
            return torch.empty(self.count, *shape, device=self.device)
        each = [sample(shape, generator) for generator in self.generators]
        drawn = torch.stack(each) if len(each) > 1 else each[0].unsqueeze(0)
        return drawn if self._select is None else drawn.index_select(0, self._select)


def _generator(seed: int, purpose: str, device: torch.device | str) -> Generator:
    # SeedSequence turns neighbouring seeds and different purposes into unrelated states.
    state = np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1)  # 32 bits: torch's own size
    return Generator(device).manual_seed(int(state[0]))
