"""vae_lab: the reparameterization trick in variational autoencoders, measured."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .benchmark import benchmark
    from .costs import NotApplicable
    from .data import load
    from .distributions import DiagonalNormal, reparameterize
    from .estimators import ESTIMATORS, estimator
    from .networks import VAE
    from .noise import NOISES, noise
    from .objectives import elbo, evaluate
    from .oracle import exact_gradient
    from .training import fit

__all__ = [
    "ESTIMATORS",
    "NOISES",
    "VAE",
    "DiagonalNormal",
    "NotApplicable",
    "benchmark",
    "elbo",
    "estimator",
    "evaluate",
    "exact_gradient",
    "fit",
    "load",
    "noise",
    "reparameterize",
]

_HOMES = {
    "benchmark": ["benchmark"],
    "costs": ["NotApplicable"],
    "data": ["load"],
    "distributions": ["DiagonalNormal", "reparameterize"],
    "estimators": ["ESTIMATORS", "estimator"],
    "networks": ["VAE"],
    "noise": ["NOISES", "noise"],
    "objectives": ["elbo", "evaluate"],
    "oracle": ["exact_gradient"],
    "training": ["fit"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


class _Package(ModuleType):
    """Loads a name's module when the name is first asked for: the command line does not wait for torch.

    A module's own `__getattr__` would not do. Two functions have the names of their modules, and once such a
    module is loaded, it would be found under the name.
    """

    def __getattribute__(self, name: str) -> Any:
        module = _HOME.get(name)
        return getattr(import_module(f"vae_lab.{module}"), name) if module else super().__getattribute__(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
