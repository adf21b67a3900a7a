"""vae_lab: the reparameterization trick in variational autoencoders, measured."""

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
