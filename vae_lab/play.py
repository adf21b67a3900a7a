"""Data for the figures that readers play with.

A page cannot run torch. It gets tensors instead, as 16-bit integers (`pack`), and a script of the book does
with them what the package does: nothing here or there is trained, sampled or measured in another way than in
the chapter around it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from itertools import cycle
from typing import Any

import pandas as pd
import torch
from IPython.display import display
from torch import Tensor
from torch.distributions import Normal

from .data import Dataset
from .estimators import ESTIMATORS
from .estimators.costs import COSTS, NotApplicable
from .exact.variance import exact_variance
from .measure.benchmarking import replicate_gradients
from .records import CLASSES, PLAY_MIME
from .vae.layers import Convolution, Linear
from .vae.model import VAE


def pack(values: Tensor) -> dict[str, Any]:
    """A tensor (…, columns) for JSON: its shape, and its numbers in base64, little-endian, row by row.

    Bytes stay bytes. Other numbers become 16-bit `integers`, to be multiplied by a float32 of `scales` for
    each column, so that every number is off by at most 2⁻¹⁶ of the largest one in its column.
    """

    def text(numbers: Tensor, kind: str) -> str:
        return base64.b64encode(numbers.numpy().astype(kind).tobytes()).decode()

    values, shape = values.detach().cpu(), list(values.shape)
    if values.dtype == torch.uint8:
        return {"shape": shape, "bytes": text(values, "u1")}
    values = values.double()
    if not values.isfinite().all():
        raise ValueError("a packed tensor has finite numbers only")
    scales = (values.abs().reshape(-1, shape[-1]).amax(0) / 32767).float()
    integers = (values / scales.double().where(scales > 0, 1.0)).round().clamp(-32767, 32767)
    return {"shape": shape, "scales": text(scales, "<f4"), "integers": text(integers, "<i2")}


def playable(kind: str, data: Mapping[str, Any]) -> None:
    """Let readers of the book play with the figure of this cell, which is what all others see.

    `kind` names the script of the book that does it (book/assets/play/KIND.js), `data` is what that script
    works on: anything for JSON, and tensors, which `pack` makes ready.
    """
    content = json.loads(json.dumps(data, default=pack, allow_nan=False))
    plain = "[In the book, this figure can be played with.]"
    display({"text/plain": plain, PLAY_MIME: {"kind": kind, "data": content}}, raw=True)


def dense_layers(vae: VAE, replica: int = 0) -> dict[str, Any]:
    """The decoder of one replica: `activation`, and `layers` of `weight` (in, out) and `bias` (1, out).

    The activation goes between the layers; the logistic function of the last one's output is the mean of
    p(x|z). Raises ValueError for convolutions and for a likelihood that is not Bernoulli's.
    """
    layers = [layer for layer in vae.decoder.stack.layers if isinstance(layer, Linear)]
    if vae.likelihood != "bernoulli" or any(isinstance(layer, Convolution) for layer in layers):
        raise ValueError("only dense decoders of a Bernoulli likelihood are exported")
    return {
        "activation": vae.activation,
        "layers": [{"weight": x.weight[replica].detach(), "bias": x.bias[replica].detach()} for x in layers],
    }


def latent_explorer(vae: VAE, data: Dataset, codes: int = 500, of_each: int = 5) -> dict[str, Any]:
    """What a page needs to decode any z of a `vae` with two latents (its first replica), and a map of them.

    `codes` is how many test items, evenly chosen, give the map their mean `mu` and `label`; `looks` are the
    colours of the labels, as `latent_map` draws them; `items` are the first few `of_each` label with their
    `mu`, `sigma` and `picture`.
    """
    if vae.latents != 2:
        raise ValueError(f"a map has two latents, got {vae.latents}")
    with torch.no_grad():
        q = vae.encoder(data.test)
    mu, sigma, labels = q.mu[0], q.sigma[0], data.test_labels
    shown = torch.linspace(0, len(labels) - 1, min(codes, len(labels))).long()
    chosen = torch.cat([(labels == label).nonzero()[:of_each, 0] for label in labels.unique()])

    def rows(values: Tensor) -> list[list[float]]:
        return [[round(number, 4) for number in row] for row in values.tolist()]

    return {
        "shape": list(data.shape),
        "decoder": dense_layers(vae),
        "looks": dict(zip(labels.unique().tolist(), cycle(CLASSES), strict=False)),
        "codes": {"mu": rows(mu[shown]), "labels": labels[shown].tolist()},
        "items": {
            "mu": rows(mu[chosen]),
            "sigma": rows(sigma[chosen]),
            "labels": labels[chosen].tolist(),
            "pictures": (255 * data.test[chosen]).round().to(torch.uint8),
        },
    }


def noisy_codes(vae: VAE, members: Mapping[str, int], data: Dataset, eps: Tensor) -> dict[str, Any]:
    """What a page needs to decode μ + noise by replicas of a `vae`: `members` are name -> replica.

    The items are the first test item of each label; `eps` (draws, latents) is the noise to begin with. The
    `spread` of a model is the standard deviation of its codes μ over the test items, as the root mean square
    over the latents.
    """
    items = torch.stack([(data.test_labels == label).nonzero()[0, 0] for label in data.test_labels.unique()])
    with torch.no_grad():
        mu = vae.encoder(data.test).mu
    spread = mu.var(1).mean(-1).sqrt()
    models = [
        {
            "name": name,
            "mu": mu[r, items].tolist(),
            "spread": spread[r].item(),
            "decoder": dense_layers(vae, r),
        }
        for name, r in members.items()
    ]
    return {
        "shape": list(data.shape),
        "models": models,
        "eps": eps.tolist(),
        "labels": data.test_labels[items].tolist(),
        "pictures": (255 * data.test[items]).round().to(torch.uint8),
    }


def cost_curves(cost: str, k: Tensor, z: Tensor) -> Tensor:
    """The cost with each parameter `k` (K,), over `z` (points,): (points, K)."""
    return COSTS[cost](k)(z.unsqueeze(-1))


def gradient_strips(
    cost: str, k: Tensor, mu: float, sigma: float, measured: pd.DataFrame, samples: int = 150, seed: int = 0
) -> dict[str, Any]:
    """Single-sample gradients of E[cost(z)], z ~ N(mu, sigma²), for each value of `k` (K,).

    `measured` is `benchmark`'s frame for these problems and names the estimators. Returns parameter ->
    `gradient`, the exact one (K,), and `estimators`, a list of entries with `name`, `draws` (samples, K),
    their `variance` (K,), and its `standard_error` (K,), which is None where the variance is exact.
    """
    q, costs = Normal(torch.full_like(k, mu), torch.full_like(k, sigma)), COSTS[cost](k)
    found: dict[str, Any] = {}
    for keys, rows in measured.groupby(["estimator", "parameter"], sort=False):
        name, parameter = map(str, keys)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            draws = replicate_gradients(ESTIMATORS[name], costs, q, 1, samples)[parameter]
        try:
            variance, error = exact_variance(name, costs, q)[parameter].tolist(), None
        except NotApplicable:
            variance, error = rows["variance"].tolist(), rows["variance_se"].tolist()
        entry = found.setdefault(parameter, {"gradient": rows["exact"].tolist(), "estimators": []})
        shown = {"name": name, "draws": draws, "variance": variance, "standard_error": error}
        entry["estimators"].append(shown)
    return found


def bound_on_grid(
    z: Tensor, log_likelihood: Tensor, log_prior: Tensor, mu: float = 0.0, sigma: float = 1.0
) -> dict[str, Any]:
    """What a page needs to score any normal q(z) for one item, by sums over a grid of one latent.

    `log_likelihood` is log p(x|z) and `log_prior` log p(z) at `z` (points,), which rises and reaches as far
    as the posterior does; q starts at N(mu, sigma²). Returns these, in nats, with the `width` of each point's
    cell and `log_evidence`, log p(x) = log Σ p(x|z) p(z) width. Raises ValueError for other shapes or values.
    """
    grid = [values.detach().double().cpu() for values in (z, log_likelihood, log_prior)]
    if z.ndim != 1 or len(z) < 3 or any(values.shape != z.shape for values in grid):
        shapes = ", ".join(str(tuple(values.shape)) for values in grid)
        raise ValueError(f"the grid and its two log densities are three or more numbers each, got {shapes}")
    if not all(values.isfinite().all() for values in grid) or not (grid[0].diff() > 0).all():
        raise ValueError("the points of the grid rise, and its log densities are finite")
    width = torch.gradient(grid[0])[0]
    width[0], width[-1] = width[0] / 2, width[-1] / 2
    joint = grid[1] + grid[2] + width.log()

    def rounded(values: Tensor) -> list[float]:
        return [round(value, 6) for value in values.tolist()]

    names = ("z", "log_likelihood", "log_prior", "width")
    found = {name: rounded(values) for name, values in zip(names, (*grid, width), strict=True)}
    return {**found, "log_evidence": joint.logsumexp(0).item(), "mu": mu, "sigma": sigma}
