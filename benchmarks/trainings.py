"""Trainings to be timed: the usual loop in PyTorch, and `fit`, on the same work.

A row is a dense VAE with a Bernoulli likelihood, trained in batches of 128 by the ELBO with one draw of ε,
and by Adam. Every side shuffles the items, takes each batch by index, draws ε, and keeps the means of the two
terms of the ELBO over the epoch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vae_lab import VAE, fit

BATCH = 128
FASTER = {(784, 1): 1.25, (64, 1): 2.5, (64, 16): 3.5}  # than the loop, at least; by features and replicas


class Row(NamedTuple):
    """A model, and how many replicas of it are trained on how many `items`, for `epochs` in a timed call."""

    features: int
    hidden: int
    latents: int
    activation: str
    items: int
    epochs: int
    replicas: int = 1

    @property
    def title(self) -> str:
        several = "one model" if self.replicas == 1 else f"{self.replicas} replicas"
        return f"{self.features}-{self.hidden}-{self.latents} {self.activation}, {several}"

    @property
    def steps(self) -> int:
        """Steps of one epoch, counted once for each replica."""
        return self.replicas * (self.items // BATCH)

    def images(self) -> Tensor:
        """Grey values, (items, features)."""
        return torch.rand(self.items, self.features, generator=torch.Generator().manual_seed(0))


def rows() -> list[Row]:
    """A large model, a small one, and many small ones; the number of items is a multiple of the batch."""
    sizes = [
        ((784, 400, 20), 50 * BATCH, 3, 1),
        ((64, 128, 8), 11 * BATCH, 50, 1),
        ((64, 128, 8), 11 * BATCH, 10, 16),
    ]
    return [
        Row(*size, activation, items, epochs, replicas)
        for size, items, epochs, replicas in sizes
        for activation in ("relu", "gelu")
    ]


class PlainVAE(nn.Module):
    """The usual modules, with two heads."""

    def __init__(self, row: Row) -> None:
        super().__init__()
        activation = {"relu": nn.ReLU, "gelu": nn.GELU}[row.activation]
        self.encoder = nn.Sequential(nn.Linear(row.features, row.hidden), activation())
        self.mean, self.log_sigma = (nn.Linear(row.hidden, row.latents) for _ in range(2))
        self.decoder = nn.Sequential(
            nn.Linear(row.latents, row.hidden), activation(), nn.Linear(row.hidden, row.features)
        )


def plain_epoch(model: PlainVAE, optimizer: torch.optim.Optimizer, images: Tensor) -> tuple[float, float]:
    """One epoch as most code has it; the means of reconstruction and KL. It calls nothing of the package."""
    totals = torch.zeros(2)
    for index in torch.randperm(len(images)).split(BATCH):
        x = images[index]
        hidden = model.encoder(x)
        mu, log_sigma = model.mean(hidden), model.log_sigma(hidden)
        logits = model.decoder(torch.addcmul(mu, log_sigma.exp(), torch.randn_like(mu)))
        bce = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = 0.5 * (mu**2 + (2 * log_sigma).exp() - 1 - 2 * log_sigma).sum()
        optimizer.zero_grad()
        ((bce + kl) / len(x)).backward()
        optimizer.step()
        totals += torch.stack([-bce, kl]).detach()
    reconstruction, divergence = (totals / len(images)).tolist()
    return reconstruction, divergence


class Plain:
    """A plain loop with the fused Adam for one model of a row; a call is some epochs."""

    def __init__(self, row: Row) -> None:
        self.model, self.images, self.epochs = PlainVAE(row), row.images(), row.epochs
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True)

    def __call__(self) -> None:
        for _ in range(self.epochs):
            plain_epoch(self.model, self.optimizer, self.images)


class Ours:
    """`fit` for the replicas of a row; a call is some epochs."""

    def __init__(self, row: Row) -> None:
        self.vae = VAE(
            row.features, row.latents, (row.hidden,), replicas=row.replicas, activation=row.activation
        )
        self.images, self.epochs = row.images(), row.epochs

    def __call__(self) -> None:
        fit(self.vae, self.images, epochs=self.epochs, batch_size=BATCH, progress=False)
