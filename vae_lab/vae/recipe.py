"""How to train: every setting with one value for each replica, checked once."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any

from pydantic import InstanceOf

from ..estimators import Estimator
from ..settings import Count, NotNegative, Positive, Whole, check
from .noise_registry import NOISES
from .objectives import check_objective
from .streams import per_replica, replica_seeds

KINDS: dict[str, Any] = {
    "replicas": Count,
    "epochs": Count,
    "batch_size": Count,
    "learning_rate": Positive,
    "objective": str,
    "estimator": str | InstanceOf[Estimator],
    "samples": Count,
    "test_every": Whole,
}
PER_REPLICA: dict[str, Any] = {
    "noise": str,
    "noise_scale": NotNegative,
    "beta": NotNegative | tuple[NotNegative, ...],
    "free_bits": NotNegative,
    "detach_sigma": bool,
    "decoder_l2": NotNegative,
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of a training of `replicas` models. `fit` builds one from its arguments.

    `epochs` counts passes over the data, `batch_size` items of a step; `learning_rate` is Adam's, `objective`
    a name in `OBJECTIVES`, `estimator` one in `ESTIMATORS` or an `Estimator` itself, and `samples` counts the
    draws of z for each item and step. `test_every` > 0 scores the test items of a `Dataset` after so many
    epochs, and after the last one, with one draw of z.

    These take one value or one for each replica, and hold one for each: `noise` (a name in `NOISES`) and
    `noise_scale`; `detach_sigma` (the reconstruction moves mu only); `beta`; `free_bits`, the nats up to
    which a latent's KL, averaged over a batch, costs the same (`with_free_bits`); and `decoder_l2`, half of
    which times the sum of the decoder's squared weights is a price in nats per item (ghosh2020variational).
    Any one replica's beta may also be a schedule: a sequence with a value for each epoch. The first three go
    with `pathwise`, detach_sigma, beta and free_bits with the ELBO. `seed` is the first replica's (the others
    follow by one) or a sequence.

    Raises ValueError or KeyError for values of another type, out of range, unknown, or that do not go
    together.
    """

    replicas: int
    epochs: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    objective: str = "elbo"
    estimator: str | Estimator = "pathwise"
    samples: int = 1
    noise: Any = "gaussian"
    noise_scale: Any = 1.0
    beta: Any = 1.0
    free_bits: Any = 0.0
    detach_sigma: Any = False
    decoder_l2: Any = 0.0
    seed: Any = 0
    test_every: int = 0

    def __post_init__(self) -> None:
        values = {name: check(name, kind, getattr(self, name)) for name, kind in KINDS.items()}
        for name, kind in PER_REPLICA.items():
            values[name] = tuple(per_replica(name, getattr(self, name), self.replicas, kind))
        values["seed"] = tuple(replica_seeds(self.seed, self.replicas))
        for name, value in values.items():
            object.__setattr__(self, name, value)
        for noise in self.noise:
            NOISES[noise]
        for r, beta in enumerate(self.beta):
            if isinstance(beta, tuple) and len(beta) != self.epochs:
                raise ValueError(
                    f"beta[{r}]: expected a number, or one for each of {self.epochs} epochs, got {len(beta)}"
                )
        self._check_combination()

    def betas(self, epoch: int) -> list[float]:
        """The beta of each replica in an epoch, counted from 1."""
        return [beta[epoch - 1] if isinstance(beta, tuple) else beta for beta in self.beta]

    @property
    def draws_by_itself(self) -> bool:
        """Whether the estimator draws z, rather than the trick from eps."""
        return self.estimator != "pathwise"

    def of(self, replica: int) -> str:
        """What one replica is trained with, in words."""
        several = {*PER_REPLICA, "seed"}
        named = ["objective", "estimator", "samples", *PER_REPLICA, "seed", "learning_rate"]
        values = {name: getattr(self, name) for name in named}
        own = {name: value[replica] if name in several else value for name, value in values.items()}
        short = {name: reprlib.repr(v) if isinstance(v, tuple) else repr(v) for name, v in own.items()}
        return ", ".join(f"{name}={value}" for name, value in short.items())

    @classmethod
    def check_names(cls, names: Collection[str]) -> None:
        """Raises TypeError without epochs, or for an unknown setting, with the one that is meant."""
        if "epochs" not in names:
            raise TypeError("a training needs epochs, the number of passes over the data")
        known = [field.name for field in fields(cls) if field.name != "replicas"]
        for name in names:
            if name not in known:
                nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
                raise TypeError(
                    f"no setting {name!r}; did you mean {nearest!r}? There are: {', '.join(known)}"
                )

    def _check_combination(self) -> None:
        check_objective(self.objective, self.estimator)
        if self.objective != "elbo":
            if any(value != 1 for value in self.beta):
                raise ValueError(
                    f"beta weighs the KL of objective='elbo'; with {self.objective!r} it is 1, "
                    f"got {list(self.beta)}"
                )
            if any(self.free_bits):
                raise ValueError(f"free_bits is for objective='elbo', not for {self.objective!r}")
            if any(self.detach_sigma):
                raise ValueError(f"detach_sigma is for objective='elbo', not for {self.objective!r}")
        plain = set(self.noise) == {"gaussian"} and set(self.noise_scale) == {1}
        if self.draws_by_itself and not (plain and not any(self.detach_sigma)):
            raise ValueError(
                f"{self.estimator!r} draws z by itself; a noise, its scale and detach_sigma are for "
                f"estimator='pathwise', got noise={list(self.noise)}, "
                f"noise_scale={list(self.noise_scale)} and detach_sigma={list(self.detach_sigma)}"
            )
