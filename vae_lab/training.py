"""Training: all replicas in one batched program, and model files that are safe to open."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor
from tqdm import tqdm

from .costs import CostError
from .data import Dataset
from .estimators import ESTIMATORS
from .networks import VAE, per_replica, replica_seeds
from .noise import NOISES, Streams, TrainingNoise, standard_uniform
from .objectives import OBJECTIVES, Draws, as_items, bound, check_objective, elbo, evaluate, terms_by


def _permutation(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randperm(shape[0], generator=generator, device=generator.device)


@torch.random.fork_rng()  # leaves the caller's generators as they were
def fit(
    vae: VAE,
    data: Dataset | Tensor,
    *,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    objective: str = "elbo",
    estimator: str = "pathwise",
    samples: int = 1,
    noise: str | Sequence[str] = "gaussian",
    noise_scale: float | Sequence[float] = 1.0,
    beta: float | Sequence[float] = 1.0,
    detach_sigma: bool | Sequence[bool] = False,
    decoder_l2: float | Sequence[float] = 0.0,
    seed: int | Sequence[int] = 0,
    test_every: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Train every replica of `vae` in place by Adam on reconstruction − beta · KL, or on another objective.

    `data` is a `Dataset` or a float tensor (items, features). `objective` is a name in `OBJECTIVES`,
    `estimator` one in `ESTIMATORS`, and `samples` counts the draws of z for each item and step.
    `test_every` > 0 scores the test items of a `Dataset` every so many epochs with one draw of z.

    These take one value or one per replica: `noise` (a name in `NOISES`) and `noise_scale`; `detach_sigma`
    (the reconstruction moves mu only); `beta`; and `decoder_l2`, half of which times the sum of the
    decoder's squared weights is a price in nats per item (ghosh2020variational). The first three go with
    `pathwise`, detach_sigma and beta with the ELBO.

    `seed` is the first replica's (the others follow by one) or a sequence; it decides batch order,
    binarisation and eps of its replica and nothing else does, so replica r equals the same model trained
    alone with the same seeds. Only estimators other than `pathwise` draw z for all replicas from one stream,
    which the first seed starts: runs then repeat, and replicas are independent, but none equals the model
    trained alone. The caller's generators are left as they were.

    Returns one row per epoch and replica: `epoch, replica, elbo, reconstruction, kl, seconds` and, where
    scored, `test_elbo`. The bounds are means over the epoch's items in nats, with the noise that was
    trained with and beta = 1, as seen by the weights on their way, whatever the objective; `seconds` counts
    from the start.

    Training can go on by another call, with a fresh optimiser and epochs counted from 1; give it another
    `seed`, or it repeats the order and the noise of the first.

    Raises ValueError (`NotApplicable` for an estimator) or KeyError before the first step for data or
    settings that do not fit, and FloatingPointError naming epoch, replica and setting when loss or weights
    are no longer finite.
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
    names = per_replica("noise", noise, vae.replicas)
    for name in names:
        NOISES[name]
    scales = per_replica("noise_scale", noise_scale, vae.replicas)
    betas = per_replica("beta", beta, vae.replicas)
    penalties = per_replica("decoder_l2", decoder_l2, vae.replicas)
    detached = list(map(bool, per_replica("detach_sigma", detach_sigma, vae.replicas)))
    for setting, values in {"noise_scale": scales, "beta": betas, "decoder_l2": penalties}.items():
        if not all(0 <= value < math.inf for value in values):
            raise ValueError(f"{setting} is finite and not negative, got {values}")
    seeds = replica_seeds(seed, vae.replicas)
    items, device = len(train), train.device
    check_objective(objective, estimator)
    if samples < 1:
        raise ValueError(f"samples is at least 1, got {samples}")
    if objective != "elbo" and any(value != 1 for value in betas):
        raise ValueError(f"beta weighs the KL of objective='elbo'; with {objective!r} it is 1, got {betas}")
    if objective != "elbo" and any(detached):
        raise ValueError(f"detach_sigma is for objective='elbo', not for {objective!r}")
    own_draws = estimator != "pathwise"  # of z, not by the trick
    if own_draws and (set(names) != {"gaussian"} or any(value != 1 for value in scales) or any(detached)):
        raise ValueError(
            f"{estimator!r} draws z by itself; a law or scale of eps and detach_sigma are for "
            f"estimator='pathwise', got noise={names}, noise_scale={scales} and detach_sigma={detached}"
        )
    if own_draws or vae.latent != "normal":
        # What the estimator requires, tried on one item. NaN is reported below.
        with suppress(CostError, RuntimeError):
            bound(vae, vae.encoder(train[:1]), train[:1], objective, estimator, samples)

    order_streams = Streams(seeds, "order", device)
    pixel_streams = Streams(seeds, "binarize", device)
    eps_source = TrainingNoise(
        names,
        scales,
        seeds,
        items=items,
        batch_size=batch_size,
        latents=vae.latents,
        samples=samples,
        device=device,
    )
    weight, decay = (
        torch.tensor(values, dtype=train.dtype, device=device).view(-1, 1) for values in (betas, penalties)
    )
    stop = torch.tensor(detached, device=device).view(-1, 1, 1) if any(detached) else None
    named = vae.decoder.named_parameters() if any(penalties) else ()
    decoding = [p for name, p in named if name.endswith("weight") and p.requires_grad]
    optimizer = torch.optim.Adam(vae.parameters(), lr=learning_rate, fused=True)
    if own_draws:
        torch.manual_seed(Streams(seeds[:1], "estimator").generators[0].initial_seed())
    # glibc hands the memory of large tensors back to the kernel at every step, and takes it again page by
    # page, until it has once seen a free of nearly 32 MiB (mallopt(3), M_MMAP_THRESHOLD).
    torch.empty(31 * 2**20, dtype=torch.uint8)
    start, history = time.perf_counter(), []
    bar = tqdm(range(1, epochs + 1), "training", unit="epoch", disable=not progress, mininterval=1.0)
    for epoch in bar:
        order = order_streams.draw(_permutation, items)
        if not own_draws:
            eps = eps_source.epoch(order).to(train)
        totals = torch.zeros(2, vae.replicas, dtype=train.dtype, device=device)
        for first in range(0, items, batch_size):
            batch = slice(first, first + batch_size)
            index = order[:, batch]
            x = train.index_select(0, index.flatten()).unflatten(0, index.shape)
            if dynamic:
                x = (pixel_streams.draw(standard_uniform, *x.shape[1:]) < x).to(x.dtype)
            if own_draws:
                try:  # unchecked, so that NaN reaches the totals, which know the replica
                    terms = terms_by(ESTIMATORS[estimator].function, vae, vae.encoder(x), x, samples)
                except (RuntimeError, ValueError):  # torch draws nothing where q's parameters are NaN
                    lost = vae.encoder.stack(x).isnan().flatten(1).any(1)
                    if not lost.any():
                        raise
                    totals[:, lost] = math.nan
                    break
            elif objective == "elbo":
                terms = elbo(vae, x, eps[..., batch, :], detached=stop)
            else:
                several = eps if samples > 1 else eps.unsqueeze(0)
                draws = Draws(vae, vae.encoder(x), x, several[..., batch, :])
                terms = draws.terms
            value = terms.weighted(weight) if objective == "elbo" else OBJECTIVES[objective].function(draws)
            optimizer.zero_grad()
            # Minimise −mean over the batch; summing over replicas keeps each one's gradient its own.
            value.backward(torch.full_like(value, -1 / value.shape[-1]))
            for weights in decoding:
                assert weights.grad is not None
                weights.grad += decay.unsqueeze(-1) * weights.detach()
            optimizer.step()
            totals += torch.stack([term.detach().sum(-1) for term in terms])
        reconstruction, kl = (totals / items).double().cpu()
        # The last step of an epoch shows in the weights only.
        sound = torch.stack([p.detach().flatten(1).isfinite().all(1) for p in vae.parameters()]).all(0).cpu()
        finite = (reconstruction - kl).isfinite() & sound
        if not finite.all():
            r = int((~finite).nonzero()[0])
            raise FloatingPointError(
                f"loss or weights are not finite in epoch {epoch}, replica {r}: "
                f"reconstruction {reconstruction[r]:g} and KL {kl[r]:g}, "
                f"with {objective=}, {estimator=}, {samples=}, noise={names[r]!r}, "
                f"noise_scale={scales[r]:g}, beta={betas[r]:g}, decoder_l2={penalties[r]:g}, "
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
