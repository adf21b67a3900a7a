"""The VAE that chapter 3 writes out in plain torch is the one that `fit` trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vae_lab import VAE, fit, load
from vae_lab.vae.noise import TrainingNoise
from vae_lab.vae.streams import Streams, permutation, standard_uniform

CHAPTER = Path(__file__).resolve().parent.parent / "notebooks" / "03_vae.ipynb"
SEED, LATENTS, HIDDEN, BATCH = 3, 4, 16, 32


def listing() -> str:
    """The cell of the page that holds all of it."""
    cells = nbformat.read(CHAPTER, as_version=4).cells
    (cell,) = [cell for cell in cells if "from-scratch" in cell.metadata.get("tags", [])]
    return cell.source


class SameDraws(TorchFunctionMode):
    """Answers what a loop in plain torch draws by what `fit` draws with the same seed."""

    def __init__(self, items: int, seed: int) -> None:
        super().__init__()
        self.order, self.pixels = Streams([seed], "order"), Streams([seed], "binarize")
        self.noise = TrainingNoise(
            ["gaussian"], [1.0], [seed], items=items, batch_size=BATCH, latents=LATENTS
        )
        self.eps = torch.empty(0)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.randperm:
            order = self.order.draw(permutation, *args)
            self.eps = self.noise.epoch(order)[0]
            return order[0]
        if func is torch.bernoulli:
            (grey,) = args
            return (self.pixels.draw(standard_uniform, *grey.shape)[0] < grey).to(grey)
        if func is torch.randn_like:
            drawn, self.eps = self.eps[: len(args[0])], self.eps[len(args[0]) :]
            return drawn.to(args[0])
        return func(*args, **kwargs or {})


def copy_weights(vae: VAE, model: nn.Module) -> None:
    for part in ("encoder", "decoder"):
        plain = [layer for layer in getattr(model, part) if isinstance(layer, nn.Linear)]
        for layer, own in zip(getattr(vae, part).stack.layers, plain, strict=True):
            own.weight.data = layer.weight[0].detach().T.clone()
            own.bias.data = layer.bias[0, 0].detach().clone()


def trained(program: str) -> tuple[VAE, VAE]:
    """A VAE trained by `fit`, and one with the weights that the program has after the same draws."""
    data = load("digits", items=100)  # the last batch is a smaller one
    vae, same = (VAE(64, LATENTS, (HIDDEN,), seed=SEED).double() for _ in range(2))
    namespace: dict[str, Any] = {}
    exec(program, namespace)
    model = namespace["PlainVAE"](64, HIDDEN, LATENTS).double()
    copy_weights(vae, model)
    settings = {"epochs": 3, "batch_size": BATCH, "learning_rate": 3e-3}
    with SameDraws(len(data.train), SEED):
        namespace["train"](model, data.train.double(), **settings)
    fit(vae, data, seed=SEED, progress=False, **settings)  # type: ignore[arg-type]
    for part in ("encoder", "decoder"):
        plain = [layer for layer in getattr(model, part) if isinstance(layer, nn.Linear)]
        for layer, own in zip(getattr(same, part).stack.layers, plain, strict=True):
            layer.weight.data[0] = own.weight.data.T
            layer.bias.data[0, 0] = own.bias.data
    return vae, same


def largest_difference(one: VAE, other: VAE) -> float:
    pairs: list[tuple[Tensor, Tensor]] = list(zip(one.parameters(), other.parameters(), strict=True))
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def test_the_listing_and_fit_end_at_the_same_weights() -> None:
    """Same first weights, order, pixels and ε. What is left is the rounding of a dozen steps in float64,
    in which Adam divides by no less than 1e-8."""
    assert largest_difference(*trained(listing())) < 1e-9


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("- 0.5 + 0.5 * (mu**2", "- 0.5 + 0.4 * (mu**2"),
        ("sigma = log_sigma.exp()", "sigma = (0.99 * log_sigma).exp()"),
        ("optimizer.zero_grad()", "pass"),
        ("model.loss(x).mean()", "model.loss(x).sum()"),
    ],
)
def test_a_wrong_listing_ends_elsewhere(right: str, wrong: str) -> None:
    assert right in listing()
    assert largest_difference(*trained(listing().replace(right, wrong))) > 1e-6


def test_the_listing_is_short_and_needs_torch_alone() -> None:
    lines = [line for line in listing().splitlines() if line.strip()]
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert all(line.split()[1].partition(".")[0] == "torch" for line in imports)
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 88
