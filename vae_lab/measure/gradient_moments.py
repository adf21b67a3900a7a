"""Mean and variance of the gradient of encoder weights, by exact moments instead of a loop.

For items i = 1 … B, the gradient of the mean objective with respect to a weight is the mean of J_iᵀ g_i over
i: g_i is the random gradient with respect to the encoder's output for item i (mu and log sigma, or logits),
and J_i, the derivative of that output with respect to the weight, is not random. The noise of different
items is independent, so with Cov[g_i] = S_i S_iᵀ

    E = 1/B Σ_i J_iᵀ E[g_i]        Var = 1/B² Σ_i |S_iᵀ J_i|².

So the encoder runs once, and replicates of g come from the decoder in a few large batches. E[g_i] and the
columns of S_i then go back through the encoder's layers together, like gradients; a sum of squares cannot
cancel, so the variances are as exact as the means.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..clock import counts_as
from ..estimators import ESTIMATORS
from ..settings import Count, Seed, Several, check
from ..vae.model import VAE, as_items
from ..vae.objectives import bound, check_objective

# Numbers per layer and chunk of items or replicates: what fits into the processor's cache is fastest.
_CHUNK = 2**20


class GradientMoments(NamedTuple):
    """Mean and variance of a gradient: parameter name -> tensor of its shape, first axis the replicas."""

    mean: dict[str, Tensor]
    variance: dict[str, Tensor]

    @property
    def noise(self) -> Tensor:
        """Root of the total variance over all weights, (R,)."""
        return _total(self.variance).sqrt()

    def signal(self, replicates: int) -> Tensor:
        """Length of the mean over all weights, (R,), measured by `replicates` gradients.

        The mean of a few noisy gradients is longer than their expectation. That is corrected by the noise
        that the mean itself has, or a ratio of signal to noise (rainforth2018tighter) would never fall below
        1 / √replicates.
        """
        squares = _total({name: mean**2 for name, mean in self.mean.items()})
        return (squares - _total(self.variance) / replicates).clamp_min(0).sqrt()


def _total(parts: dict[str, Tensor]) -> Tensor:
    return torch.stack([part.double().flatten(1).sum(1) for part in parts.values()]).sum(0)


@counts_as("gradients")
def latent_gradients(
    vae: VAE, head: Tensor, x: Tensor, objective: str, estimator: str, n: int, replicates: int
) -> Tensor:
    """Independent gradients of each item's objective with respect to the encoder's output `head` (R, B, P).

    Shape (replicates, R, B, P), with draws from torch's global generator.
    """
    leaf = head.detach().expand(replicates, *head.shape).clone().requires_grad_()
    value = bound(vae, vae.encoder.posterior(leaf), x, objective, estimator, n)
    return torch.autograd.grad(value.sum(), leaf)[0]


@counts_as("gradients")
@torch.enable_grad()  # whatever the caller's block says
@torch.random.fork_rng()  # leaves the caller's generators as they were
def encoder_gradients(
    vae: VAE,
    x: Tensor,
    objective: str = "elbo",
    estimator: str = "pathwise",
    n: int = 1,
    replicates: int = 1000,
    seed: int = 0,
) -> GradientMoments:
    """Mean and variance of the gradient of the mean objective over items `x` (B, D), for encoder weights.

    `objective` is a name in `OBJECTIVES`, `estimator` one in `ESTIMATORS`, `n` the samples of one gradient.
    The moments are those of `replicates` independent draws for each item: items are independent, so that the
    variance of a weight's gradient has far less error than that of as many gradients of the whole batch. The
    variance is that of one gradient. Parameters are named as in `vae.encoder.named_parameters()`. Memory is
    bounded, however many items and replicates.

    Raises ValueError, `NotApplicable` or `CostError` for settings that do not fit, and FloatingPointError for
    gradients that are not finite.
    """
    x = as_items(vae, x)
    check_objective(objective, estimator)
    n, replicates = check("n", Count, n), check("replicates", Several, replicates)
    if vae.channels:
        raise ValueError(
            f"the moments are pushed back through dense layers only, and this VAE has channels={vae.channels}"
        )
    torch.manual_seed(check("seed", Seed, seed))
    numbers = vae.replicas * max(vae.features, vae.latents, *vae.hidden)
    evaluations = ESTIMATORS[estimator].evaluations(n, vae.prior)
    size = max(1, _CHUNK // (numbers * max(evaluations, 2 * vae.latents)))
    total = GradientMoments(
        *(
            {name: torch.zeros_like(p, dtype=x.dtype) for name, p in vae.encoder.named_parameters()}
            for _ in range(2)
        )
    )
    for items in x.split(size):
        chunk = max(1, _CHUNK // (numbers * len(items) * evaluations))
        with torch.no_grad():
            head = vae.encoder.stack(items)
        draws = (
            latent_gradients(vae, head, items, objective, estimator, n, min(chunk, replicates - start))
            for start in range(0, replicates, chunk)
        )
        mean, covariance = _moments(draws)
        if not covariance.isfinite().all():
            raise FloatingPointError(f"gradients are not finite, with {objective=}, {estimator=}, {n=}")
        parts = _push_back(vae, items, mean / len(x), covariance / len(x) ** 2)
        for sums, part in zip(total, parts, strict=True):
            for name in sums:
                sums[name] += part[name]
    if not all(part.isfinite().all() for sums in total for part in sums.values()):
        raise FloatingPointError(
            f"{x.dtype} cannot hold the squares of these gradients: standardise the data, or use vae.double()"
        )
    return total


def _moments(draws: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean (R, B, P) and covariance (R, B, P, P) of each item's latent gradients, in float64.

    `draws` are chunks (M, R, B, P).
    """
    count, first, second, centre = 0, torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0)
    for chunk in draws:
        g = chunk.double()
        centre = centre if count else g.mean(0)  # near the mean, so that squares lose nothing
        g = (g - centre).movedim(0, -1)
        count, first, second = count + len(chunk), first + g.sum(-1), second + g @ g.mT
    off = first / count
    return centre + off, (second - count * off.unsqueeze(-1) * off.unsqueeze(-2)) / (count - 1)


@torch.no_grad()
def _push_back(vae: VAE, x: Tensor, mean: Tensor, covariance: Tensor) -> GradientMoments:
    """Σ_i J_iᵀ m_i and Σ_i diag(J_iᵀ C_i J_i) for the encoder's parameters.

    From `mean` m (R, B, P) and `covariance` C (R, B, P, P) of the gradients with respect to the encoder's
    output for the items `x` (B, D).
    """
    inputs, slopes = _forward(vae, x)
    # The rows (R, B, 1 + P, out) are gradients with respect to what a layer puts out: m, then the columns of
    # a root of C.
    rows = torch.cat([mean.unsqueeze(-2), _root(covariance).mT], -2).to(x)
    layers: list[Any] = list(vae.encoder.stack.layers)
    result = GradientMoments({}, {})
    for position in reversed(range(len(layers))):
        name, before = f"stack.layers.{position}", inputs[position]
        sides = (rows[..., 0, :], before), (rows[..., 1:, :].square().sum(-2), before.square())
        for moment, (by_output, factor) in zip(result, sides, strict=True):
            moment[f"{name}.weight"] = factor.mT @ by_output
            moment[f"{name}.bias"] = by_output.sum(-2, keepdim=True)
        if position:
            weight = layers[position].weight.to(rows)
            rows = (rows.flatten(1, 2) @ weight.mT).unflatten(1, rows.shape[1:3])
            rows = rows * slopes[position - 1].unsqueeze(-2)
    return result


def _forward(vae: VAE, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What goes into each layer of the encoder, (R, B, in), and the slopes of the activation between them."""
    *hidden, _ = vae.encoder.stack.layers
    inputs, slopes = [x.expand(vae.replicas, *x.shape)], []
    for layer in hidden:
        before = layer(inputs[-1].to(next(layer.parameters()).dtype)).to(x).detach().requires_grad_()
        with torch.enable_grad():
            after = vae.encoder.stack.activation(before)
            slopes += torch.autograd.grad(after.sum(), before)
        inputs.append(after.detach())
    return inputs, slopes


def _root(covariance: Tensor) -> Tensor:
    """S with S Sᵀ = `covariance`, which may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt().unsqueeze(-2)
