"""vae_lab: the reparameterization trick in variational autoencoders, measured."""

from .data import load
from .distributions import DiagonalNormal, reparameterize
from .networks import VAE
from .noise import NOISES, noise
from .objectives import elbo, evaluate
from .training import fit

__all__ = ["NOISES", "VAE", "DiagonalNormal", "elbo", "evaluate", "fit", "load", "noise", "reparameterize"]
