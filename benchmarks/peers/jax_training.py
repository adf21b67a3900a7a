"""`fit` beside JAX and a plain PyTorch loop, on one core: `make peers`. Exit status 1 if a required ratio is
missed.

JAX does what its users would: an epoch is one `lax.scan`, compiled, with optax's Adam and buffers handed on;
replicas are `vmap`. All sides are warmed up, and then take turns, so that whatever else the machine does hits
all of them.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

CORE = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
if CORE is not None:
    os.sched_setaffinity(0, {CORE})  # before any library makes threads

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402
import torch  # noqa: E402
from trainings import BATCH, FASTER, Ours, Plain, Row, rows  # noqa: E402

ROUNDS = 5
ADAM = optax.adam(1e-3)
AT_MOST = {(784, 1): 1.15, (64, 1): 1.25, (64, 16): 0.95}  # of JAX's time, by features and replicas


def initial(key: Any, row: Row) -> list[tuple[Any, Any]]:
    """Weights and biases of the four layers, like torch's."""
    sizes = [(row.features, row.hidden), (row.hidden, 2 * row.latents)]
    sizes += [(row.latents, row.hidden), (row.hidden, row.features)]
    keys = jax.random.split(key, (len(sizes), 2))
    return [
        tuple(
            jax.random.uniform(k, shape, minval=-(a**-0.5), maxval=a**-0.5)
            for k, shape in zip(two, ((a, b), (b,)), strict=True)
        )
        for two, (a, b) in zip(keys, sizes, strict=True)
    ]


def loss(weights: Any, x: Any, eps: Any, activation: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Minus the mean ELBO of a batch, and the sums of its two terms."""
    (w1, b1), (w2, b2), (w3, b3), (w4, b4) = weights
    mu, log_sigma = jnp.split(activation(x @ w1 + b1) @ w2 + b2, 2, axis=-1)
    logits = activation((mu + jnp.exp(log_sigma) * eps) @ w3 + b3) @ w4 + b4
    reconstruction = (x * logits - jax.nn.softplus(logits)).sum()
    kl = 0.5 * (mu**2 + jnp.exp(2 * log_sigma) - 1 - 2 * log_sigma).sum()
    return (kl - reconstruction) / len(x), jnp.stack([reconstruction, kl])


class InJax:
    """The same training in JAX; a call is some epochs."""

    def __init__(self, row: Row) -> None:
        gelu = partial(jax.nn.gelu, approximate=False)
        activation = {"relu": jax.nn.relu, "gelu": gelu}[row.activation]
        self.images, self.epochs = jnp.asarray(row.images().numpy()), row.epochs
        self.keys = jax.random.split(jax.random.key(0), row.replicas)
        self.weights = jax.vmap(partial(initial, row=row))(self.keys)
        self.moments = jax.vmap(ADAM.init)(self.weights)

        def step(state: Any, batch: Any, images: Any) -> tuple[Any, Any]:
            weights, moments = state
            index, eps = batch
            gradient, terms = jax.grad(loss, has_aux=True)(weights, images[index], eps, activation)
            updates, moments = ADAM.update(gradient, moments)
            return (optax.apply_updates(weights, updates), moments), terms

        def epoch(weights: Any, moments: Any, key: Any, images: Any) -> Any:
            key, order, noise = jax.random.split(key, 3)
            index = jax.random.permutation(order, row.items).reshape(-1, BATCH)
            eps = jax.random.normal(noise, (*index.shape, row.latents))
            state, terms = jax.lax.scan(partial(step, images=images), (weights, moments), (index, eps))
            return *state, key, terms.sum(0) / row.items

        mapped = epoch if row.replicas == 1 else jax.vmap(epoch, in_axes=(0, 0, 0, None))
        self.epoch = jax.jit(mapped, donate_argnums=(0, 1, 2))
        if row.replicas == 1:
            first = partial(jax.tree.map, lambda leaf: leaf[0])
            self.weights, self.moments, self.keys = first(self.weights), first(self.moments), self.keys[0]

    def __call__(self) -> None:
        for _ in range(self.epochs):
            self.weights, self.moments, self.keys, terms = self.epoch(
                self.weights, self.moments, self.keys, self.images
            )
            terms.block_until_ready()


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(row: Row) -> bool:
    """Prints the times of a step for each replica, and the ratios; whether the required ones are met."""
    sides = {"fit": (Ours(row), row), "JAX": (InJax(row), row)}
    alone = row._replace(replicas=1)
    sides["plain"] = (Plain(alone), alone)
    for run, _ in sides.values():
        run()
    rounds = [
        {name: 1e6 * seconds(run) / (r.epochs * r.steps) for name, (run, r) in sides.items()}
        for _ in range(ROUNDS)
    ]
    shown = {name: statistics.median(one[name] for one in rounds) for name in sides}
    print(f"{row.title}: " + ", ".join(f"{name} {value:,.0f} µs" for name, value in shown.items()))
    key = row.features, row.replicas
    met = reported("of JAX's time, at most", [one["fit"] / one["JAX"] for one in rounds], AT_MOST[key], -1)
    return (
        reported(
            "faster than a plain loop, at least",
            [one["plain"] / one["fit"] for one in rounds],
            FASTER[key],
            1,
        )
        and met
    )


def reported(what: str, ratios: list[float], bound: float, sign: int) -> bool:
    """Prints the median of some ratios and whether it is on the right side of a bound: above for sign 1."""
    middle = statistics.median(ratios)
    met = sign * middle >= sign * bound
    spread = f"{min(ratios):.2f} to {max(ratios):.2f} in {ROUNDS} rounds"
    print(f"    {middle:.2f} ({spread}) {what} {bound}: {'met' if met else 'MISSED'}", flush=True)
    return met


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, jax {jax.__version__}, {platform.machine()}, one core")
    print("µs of one step, for each replica; medians.")
    chosen = [row for row in rows() if len(sys.argv) < 2 or sys.argv[1] in row.title]
    missed = [row.title for row in chosen if not compare(row)]
    if missed:
        sys.exit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
