"""Training: all replicas in one batched program, and model files that are safe to open."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor
from tqdm import tqdm

from .data import Dataset
from .networks import VAE, replica_seeds
from .noise import NOISES, Streams, TrainingNoise, standard_uniform
from .objectives import as_items, elbo, evaluate

T = TypeVar("T", str, float)


def _per_replica(name: str, value: T | Sequence[T], replicas: int) -> list[T]:
    """One value per replica from a single one or a sequence of them."""
    values = [value] * replicas if isinstance(value, str | float | int | np.generic) else list(value)
    if len(values) != replicas:
        raise ValueError(
            f"{name}: expected 1 value or one for each of {replicas} replicas, got {len(values)}"
        )
    return values


def _permutation(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randperm(shape[0], generator=generator, device=generator.device)


def fit(
    vae: VAE,
    data: Dataset | Tensor,
    *,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    noise: str | Sequence[str] = "gaussian",
    noise_scale: float | Sequence[float] = 1.0,
    beta: float | Sequence[float] = 1.0,
    seed: int | Sequence[int] = 0,
    test_every: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Train every replica of `vae` in place by Adam on reconstruction − beta · KL.

    `data` is a `Dataset` or a float tensor (items, features). `noise` (a name in `NOISES`),
    `noise_scale` and `beta` take one value or one per replica. `seed` is the first replica's (the others
    follow by one) or a sequence; it decides batch order, binarisation and eps of its replica and nothing
    else does, so replica r equals the same model trained alone with the same seeds. `test_every` > 0
    scores the test items of a `Dataset` every so many epochs with one Gaussian sample.

    Returns one row per epoch and replica: `epoch, replica, elbo, reconstruction, kl, seconds` and, where
    scored, `test_elbo`. The bounds are means over the epoch's items in nats, with the noise that was
    trained with and beta = 1, as seen by the weights on their way; `seconds` counts from the start.

    Training can go on by another call, with a fresh optimiser and epochs counted from 1; give it another
    `seed`, or it repeats the order and the noise of the first.

    Raises ValueError or KeyError before any compute for data or settings that do not fit, and
    FloatingPointError naming epoch, replica and setting when loss or weights are no longer finite.
    Source: kingma2015adam for the optimiser.
    """
    train = as_items(vae, data.train if isinstance(data, Dataset) else data)
    dynamic = isinstance(data, Dataset) and data.binarize == "dynamic"
    if epochs < 1 or batch_size < 1 or test_every < 0 or not 0 < learning_rate < math.inf:
        raise ValueError(
            "epochs and batch_size are at least 1, test_every at least 0 and learning_rate is positive, "
            f"got {epochs=}, {batch_size=}, {test_every=}, {learning_rate=}"
        )
    if test_every:
        if not isinstance(data, Dataset):
            raise ValueError("test_every needs a Dataset, whose test items it scores; a tensor has none")
        as_items(vae, data.test)
    names = _per_replica("noise", noise, vae.replicas)
    for name in names:
        NOISES[name]
    scales = _per_replica("noise_scale", noise_scale, vae.replicas)
    betas = _per_replica("beta", beta, vae.replicas)
    for setting, values in {"noise_scale": scales, "beta": betas}.items():
        if not all(0 <= value < math.inf for value in values):
            raise ValueError(f"{setting} is finite and not negative, got {values}")
    seeds = replica_seeds(seed, vae.replicas)
    items, device = len(train), train.device

    order_streams = Streams(seeds, "order", device)
    pixel_streams = Streams(seeds, "binarize", device)
    eps_source = TrainingNoise(
        names, scales, seeds, items=items, batch_size=batch_size, latents=vae.latents, device=device
    )
    weight = torch.tensor(betas, dtype=train.dtype, device=device).view(-1, 1)
    parameters = list(vae.parameters())
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, fused=True)
    # glibc hands the memory of large tensors back to the kernel at every step, and takes it again page by
    # page, until it has once seen a free of nearly 32 MiB (mallopt(3), M_MMAP_THRESHOLD).
    torch.empty(31 * 2**20, dtype=torch.uint8)
    start, history = time.perf_counter(), []
    bar = tqdm(range(1, epochs + 1), "training", unit="epoch", disable=not progress, mininterval=1.0)
    for epoch in bar:
        order = order_streams.draw(_permutation, items)
        eps = eps_source.epoch(order).to(train)
        totals = torch.zeros(2, vae.replicas, dtype=train.dtype, device=device)
        for first in range(0, items, batch_size):
            batch = slice(first, first + batch_size)
            index = order[:, batch]
            x = train.index_select(0, index.flatten()).unflatten(0, index.shape)
            if dynamic:
                x = (pixel_streams.draw(standard_uniform, *x.shape[1:]) < x).to(x.dtype)
            terms = elbo(vae, x, eps[:, batch])
            objective = terms.weighted(weight)
            optimizer.zero_grad()
            # Minimise −mean over the batch; summing over replicas keeps each one's gradient its own.
            objective.backward(torch.full_like(objective, -1 / objective.shape[-1]))
            optimizer.step()
            totals += torch.stack([term.detach().sum(-1) for term in terms])
        reconstruction, kl = (totals / items).double().cpu()
        # The last step of an epoch shows in the weights only.
        sound = torch.stack([p.detach().flatten(1).isfinite().all(1) for p in parameters]).all(0).cpu()
        finite = (reconstruction - kl).isfinite() & sound
        if not finite.all():
            r = int((~finite).nonzero()[0])
            raise FloatingPointError(
                f"loss or weights are not finite in epoch {epoch}, replica {r}: "
                f"reconstruction {reconstruction[r]:g} and KL {kl[r]:g}, "
                f"with noise={names[r]!r}, noise_scale={scales[r]:g}, beta={betas[r]:g}, "
                f"seed={seeds[r]}, learning_rate={learning_rate:g}; try a smaller learning rate"
            )
        rows = {
            "epoch": epoch,
            "replica": range(vae.replicas),
            "elbo": (reconstruction - kl).numpy(),
            "reconstruction": reconstruction.numpy(),
            "kl": kl.numpy(),
            "seconds": time.perf_counter() - start,
        }
        if isinstance(data, Dataset) and test_every and (epoch % test_every == 0 or epoch == epochs):
            rows["test_elbo"] = evaluate(vae, data.test, importance_samples=1, seed=epoch)["elbo"]
        history.append(pd.DataFrame(rows))
    return pd.concat(history, ignore_index=True)


def save(vae: VAE, path: str | os.PathLike[str]) -> None:
    """Write the weights and the constructor's arguments to one safetensors file.

    Written beside its final place and renamed, so that `path` holds the old file or the whole new one.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"no folder {os.fspath(path.parent)!r} to save {path.name!r} in; make it first"
        )
    content = serialize(vae.state_dict(), metadata={"vae_lab": json.dumps(vae.config)})
    private = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with private.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(private, path)
    finally:
        private.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> VAE:
    """The VAE that `save` wrote. Nothing in the file is ever executed.

    Raises FileNotFoundError, or ValueError for a file that is truncated, foreign or does not match.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"there is no model file {os.fspath(path)!r}; training.save(vae, path) makes one"
        )
    try:
        with safe_open(path, framework="pt") as file:
            config = (file.metadata() or {})["vae_lab"]
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        vae = VAE(**json.loads(config)).to(next(iter(state.values())).dtype)
        vae.load_state_dict(state)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, StopIteration) as error:
        raise ValueError(
            f"{os.fspath(path)!r} is not a model that vae_lab.training.save wrote, or it is truncated "
            f"({type(error).__name__}: {error}); save the model again"
        ) from error
    return vae
