"""Training: all replicas in one batched program."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import MISSING, fields
from inspect import Parameter, Signature, signature
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..clock import counts_as
from ..data import Dataset
from ..estimators import find_estimator
from ..estimators.costs import CostError
from ..settings import check
from .evaluation import evaluate
from .handwritten import HandwrittenStep, covers
from .model import VAE, as_items
from .noise import TrainingNoise
from .objectives import OBJECTIVES, Draws, Terms, bound, elbo, with_free_bits
from .recipe import Recipe
from .streams import Streams, permutation, standard_uniform


@counts_as("training")
@torch.inference_mode(False)  # whatever the caller's block says about gradients
@torch.enable_grad()
@torch.random.fork_rng()  # leaves the caller's generators as they were
def fit(
    vae: VAE,
    data: Dataset | Tensor,
    *,
    test: Tensor | None = None,
    progress: bool = True,
    **settings: Any,
) -> pd.DataFrame:
    """Train every replica of `vae` in place by Adam on reconstruction − beta · KL, or on another objective.

    `data` is a `Dataset` or a float tensor (items, features). The settings are those of `Recipe`: `epochs`,
    and where it differs from the default `batch_size`, `learning_rate`, `objective`, `estimator`, `samples`,
    `noise`, `noise_scale`, `beta`, `free_bits`, `detach_sigma`, `decoder_l2`, `seed` or `test_every`. What
    `test_every` scores are the items `test`, by default those of the `Dataset`.

    `seed` decides batch order, binarisation and eps of its replica and nothing else does, so replica r equals
    the same model trained alone with the same seeds. Only estimators other than `pathwise` draw z for all
    replicas from one stream, which the first seed starts: runs then repeat, and replicas are independent, but
    none equals the model trained alone. The caller's generators are left as they were.

    Returns one row per epoch and replica: `epoch, replica, elbo, reconstruction, kl, seconds` and, where
    scored, `test_elbo`. The bounds are means over the epoch's items in nats, with the noise that was trained
    with and beta = 1, under the weights as they change during the epoch, whatever the objective; `seconds`
    counts from the start.

    Training can go on by another call, with a fresh optimiser and epochs counted from 1; give it another
    `seed`, or it repeats the order and the noise of the first.

    Raises TypeError, ValueError (`NotApplicable` for an estimator) or KeyError before the first step for data
    or settings that do not fit, and FloatingPointError naming epoch, replica and setting when loss or weights
    are no longer finite. Source: kingma2015adam for the optimiser.
    """
    Recipe.check_names(settings)
    progress = check("progress", bool, progress)
    training = Training(vae, data, Recipe(replicas=getattr(vae, "replicas", 1), **settings), test)
    epochs = range(1, training.recipe.epochs + 1)
    bar = tqdm(epochs, "training", unit="epoch", disable=not progress, mininterval=1.0)
    return training.history([training.epoch(number) for number in bar])


# What help and completion show: the settings by their names.
_settings = [
    Parameter(
        field.name,
        Parameter.KEYWORD_ONLY,
        default=Parameter.empty if field.default is MISSING else field.default,
    )
    for field in fields(Recipe)
    if field.name != "replicas"
]
_vae, _data, _test, _progress, _ = signature(fit).parameters.values()
fit.__signature__ = Signature([_vae, _data, *_settings, _test, _progress])  # type: ignore[attr-defined]


class Training:
    """A training run in progress: the batches and the noise that the replicas see, and the optimiser.

    Raises as `fit` does for data that do not fit the model or the recipe.
    """

    def __init__(self, vae: VAE, data: Dataset | Tensor, recipe: Recipe, test: Tensor | None = None) -> None:
        self.vae, self.recipe = vae, recipe
        self.binarize = False
        if isinstance(data, Dataset):
            self.binarize = data.binarize == "dynamic"
            test = data.test if test is None else test
            data = data.train
        self.items, self.test = as_items(vae, data), test
        self._check()
        device, seeds = self.items.device, recipe.seed
        self.order = Streams(seeds, "order", device)
        self.pixels = Streams(seeds, "binarize", device)
        self.noise = TrainingNoise(
            recipe.noise,
            recipe.noise_scale,
            seeds,
            items=len(self.items),
            batch_size=recipe.batch_size,
            latents=vae.latents,
            samples=recipe.samples,
            device=device,
        )
        self.beta, self.free, self.decay = map(
            self.column, (recipe.betas(1), recipe.free_bits, recipe.decoder_l2)
        )
        detached = torch.tensor(recipe.detach_sigma, device=device).view(-1, 1, 1)
        self.detached = detached if detached.any() else None
        named = vae.decoder.named_parameters() if any(recipe.decoder_l2) else ()
        self.penalised = [p for name, p in named if name.endswith("weight") and p.requires_grad]
        self.weights: list[Tensor] = [p for p in vae.parameters() if p.requires_grad]
        self.moved = self.weights
        if vae._origin.dtype != self.items.dtype:
            # Squares of gradients vanish in half precision, so Adam moves a copy in single precision.
            self.moved = [p.detach().to(self.items.dtype) for p in self.weights]
        self.optimizer = torch.optim.Adam(self.moved, lr=recipe.learning_rate, fused=True)
        if recipe.draws_by_itself:
            self._seed_estimator()
        self.handwritten: HandwrittenStep | None = None
        if covers(vae, recipe):
            decay = self.decay.unsqueeze(-1) if any(recipe.decoder_l2) else None
            self.handwritten = HandwrittenStep(vae, recipe.learning_rate, self.detached, decay)
        # glibc hands the memory of large tensors back to the kernel at every step, and takes it again page by
        # page, until it has once seen a free of nearly 32 MiB (mallopt(3), M_MMAP_THRESHOLD).
        torch.empty(31 * 2**20, dtype=torch.uint8)
        self.start = time.perf_counter()

    def column(self, values: Sequence[float]) -> Tensor:
        """One value for each replica, in the precision of the items: (R, 1)."""
        return torch.tensor(values, dtype=torch.float64).view(-1, 1).to(self.items)

    def _check(self) -> None:
        recipe, vae = self.recipe, self.vae
        if recipe.test_every:
            if self.test is None:
                raise ValueError("test_every needs test items to score: a Dataset has them, else give test=…")
            as_items(vae, self.test)
        if any(p.is_inference() for p in vae.parameters()):
            raise ValueError(
                "the VAE was made under torch.inference_mode, where nothing trains; make it outside"
            )
        if not any(p.requires_grad for p in vae.parameters()):
            raise ValueError("no weight of the VAE wants a gradient: vae.requires_grad_() thaws them")
        if recipe.draws_by_itself or vae.latent != "normal":
            self._try_estimator()

    def _try_estimator(self) -> None:
        """What the estimator requires, tried on one item; NaN is reported later.

        By a copy, where there can be one, because an estimator that learns must not learn from this; and with
        draws that the seed decides, so that one that learns all the same does so alike in every run.
        """
        vae, recipe, one, estimator = self.vae, self.recipe, self.items[:1], self.recipe.estimator
        with suppress(TypeError, RuntimeError):
            estimator = deepcopy(estimator)
        with suppress(CostError, RuntimeError):
            self._seed_estimator()
            bound(vae, vae.encoder(one), one, recipe.objective, estimator, recipe.samples)

    def _seed_estimator(self) -> None:
        torch.manual_seed(Streams(self.recipe.seed[:1], "estimator").generators[0].initial_seed())

    def epoch(self, number: int) -> dict[str, NDArray[Any]]:
        """One pass over the data; columns of the history, with a value for each replica."""
        self.beta = self.column(self.recipe.betas(number))
        order = self.order.draw(permutation, len(self.items))
        eps = None if self.recipe.draws_by_itself else self.noise.epoch(order).to(self.items)
        terms = self.items.new_zeros(2, *order.shape)  # of each item, in the order of the epoch
        if self.handwritten:
            assert eps is not None
            self.by_hand(self.handwritten, order, eps, terms)
        else:
            self.by_autograd(order, eps, terms)
        return self.report(number, terms.mean(-1, dtype=torch.float64))

    @torch.inference_mode()
    def by_hand(self, step: HandwrittenStep, order: Tensor, eps: Tensor, terms: Tensor) -> None:
        """The steps of an epoch with items in `order` (R, items) and `eps` (R, items, Z); writes the `terms`
        (2, R, items) of the ELBO."""
        beta, size = self.beta.unsqueeze(-1), self.recipe.batch_size
        batches = zip(
            order.split(size, 1), eps.split(size, 1), *(t.split(size, 1) for t in terms), strict=True
        )
        try:
            for index, noise, log_x, kl in batches:
                buffers = step.buffers(index.shape[1])
                self.batch(index, out=buffers.x)
                step(buffers, noise, beta, log_x, kl)
        finally:  # an interrupted training leaves the weights where it got to
            step.store()

    def by_autograd(self, order: Tensor, eps: Tensor | None, terms: Tensor) -> None:
        """The same for any model and recipe; `eps` (…, R, items, Z), or None where the estimator draws."""
        for first in range(0, len(self.items), self.recipe.batch_size):
            batch = slice(first, first + self.recipe.batch_size)
            x = self.batch(order[:, batch])
            try:
                found = self.step(x, None if eps is None else eps[..., batch, :])
            except (RuntimeError, ValueError):  # an estimator draws nothing where q's parameters are NaN
                if not self.recipe.draws_by_itself:
                    raise
                lost = self.vae.encoder.stack(x).isnan().flatten(1).any(1)
                if not lost.any():
                    raise
                terms[:, lost] = math.nan
                break
            terms[..., batch] = torch.stack(found).detach()

    def batch(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """The items that `index` (R, B) names, binarised afresh where the data ask for it: (R, B, D)."""
        rows = None if out is None else out.view(-1, out.shape[-1])
        x = torch.index_select(self.items, 0, index.reshape(-1), out=rows).view(*index.shape, -1)
        if self.binarize:
            pixels = x[..., : x.shape[-1] - self.vae.context]
            pixels.gt_(self.pixels.draw(standard_uniform, *pixels.shape[1:]))
        return x

    def step(self, x: Tensor, eps: Tensor | None) -> Terms:
        """One step of the optimiser on a batch `x` (R, B, D); the terms of the ELBO before it, each (R,
        B)."""
        value, terms = self.objective(x, eps)
        for weights in self.weights:
            weights.grad = None
        # Minimise −mean over the batch; summing over replicas keeps each one's gradient its own.
        value.backward(torch.full_like(value, -1 / value.shape[-1]))
        for weights in self.penalised:
            assert weights.grad is not None
            weights.grad += self.decay.unsqueeze(-1) * weights.detach()
        if self.moved is self.weights:
            self.optimizer.step()
        else:
            for moved, weights in zip(self.moved, self.weights, strict=True):
                moved.grad = None if weights.grad is None else weights.grad.to(moved)
            self.optimizer.step()
            with torch.no_grad():
                torch._foreach_copy_(self.weights, self.moved)
        return terms

    def objective(self, x: Tensor, eps: Tensor | None) -> tuple[Tensor, Terms]:
        """What is maximised, (R, B), and the terms of the ELBO by the same draws."""
        vae, recipe = self.vae, self.recipe
        if recipe.objective != "elbo":
            assert eps is not None
            draws = Draws(vae, vae.encoder(x), x, eps if recipe.samples > 1 else eps.unsqueeze(0))
            return OBJECTIVES[recipe.objective].function(draws), draws.terms
        q = vae.encoder(x)
        if eps is None:  # the unchecked estimator, so that NaN reaches the totals, which know the replica
            terms = elbo(vae, x, None, find_estimator(recipe.estimator).function, recipe.samples, q=q)
        else:
            terms = elbo(vae, x, eps, q=q, detached=self.detached)
        paid = with_free_bits(vae, q, terms, self.free) if any(recipe.free_bits) else terms
        return paid.weighted(self.beta), terms

    def report(self, number: int, means: Tensor) -> dict[str, NDArray[Any]]:
        """The columns of epoch `number` from the `means` (2, R) of the two terms; raises if they are not
        finite."""
        reconstruction, kl = means.cpu()
        self.check_finite(number, reconstruction, kl)
        replicas = self.vae.replicas
        columns = {
            "epoch": np.full(replicas, number),
            "replica": np.arange(replicas),
            "elbo": (reconstruction - kl).numpy(),
            "reconstruction": reconstruction.numpy(),
            "kl": kl.numpy(),
            "seconds": np.full(replicas, time.perf_counter() - self.start),
        }
        every = self.recipe.test_every
        if every and (number % every == 0 or number == self.recipe.epochs):
            assert self.test is not None
            scores = evaluate(self.vae, self.test, importance_samples=1, seed=number)
            columns["test_elbo"] = scores["elbo"].to_numpy()
        elif every:
            columns["test_elbo"] = np.full(replicas, np.nan)
        return columns

    def check_finite(self, number: int, reconstruction: Tensor, kl: Tensor) -> None:
        """Raises if a term (R,) or a weight is not finite; the last step shows in the weights only."""
        weights = [p.detach() for p in self.vae.parameters()]
        norms = torch.stack(torch._foreach_norm(weights)).sum().cpu()  # NaN and infinity come through
        if (reconstruction - kl + norms).isfinite().all():
            return
        well = torch.stack([p.flatten(1).isfinite().all(1) for p in weights]).all(0).cpu()
        finite = (reconstruction - kl).isfinite() & well
        if not finite.all():
            r = int((~finite).nonzero()[0])
            raise FloatingPointError(
                f"loss or weights are not finite in epoch {number}, replica {r}: "
                f"reconstruction {reconstruction[r]:g} and KL {kl[r]:g}, "
                f"with {self.recipe.of(r)}; {self.advice()}"
            )

    @staticmethod
    def history(epochs: Sequence[dict[str, NDArray[Any]]]) -> pd.DataFrame:
        """One row for each epoch and replica."""
        return pd.DataFrame({name: np.concatenate([one[name] for one in epochs]) for name in epochs[0]})

    def advice(self) -> str:
        """What most often helps where a loss is not finite."""
        low, high = self.items.aminmax()
        if max(-low, high) > 10:  # standard deviations, were they standardised; weights start for those
            return f"standardise the data: they span {low:g} to {high:g}"
        return "try a smaller learning rate"
