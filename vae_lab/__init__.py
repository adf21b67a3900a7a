"""vae_lab: the reparameterization trick in variational autoencoders, measured."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import load as load
    from .estimators import ESTIMATORS as ESTIMATORS
    from .estimators import estimator as estimator
    from .estimators.costs import NotApplicable as NotApplicable
    from .estimators.family import Family as Family
    from .exact.oracle import exact_gradient as exact_gradient
    from .measure.benchmarking import benchmark as benchmark
    from .reparameterization import DiagonalNormal as DiagonalNormal
    from .reparameterization import reparameterize as reparameterize
    from .vae.evaluation import evaluate as evaluate
    from .vae.model import VAE as VAE
    from .vae.noise_registry import NOISES as NOISES
    from .vae.noise_registry import noise as noise
    from .vae.objectives import elbo as elbo
    from .vae.training import fit as fit

# The module of each name, which is loaded when the name is first asked for: the command line need not wait
# for torch.
HOMES = {
    "ESTIMATORS": "estimators",
    "Family": "estimators.family",
    "NOISES": "vae.noise_registry",
    "VAE": "vae.model",
    "DiagonalNormal": "reparameterization",
    "NotApplicable": "estimators.costs",
    "benchmark": "measure.benchmarking",
    "elbo": "vae.objectives",
    "estimator": "estimators",
    "evaluate": "vae.evaluation",
    "exact_gradient": "exact.oracle",
    "fit": "vae.training",
    "load": "data",
    "noise": "vae.noise_registry",
    "reparameterize": "reparameterization",
}

__all__ = [*HOMES]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
