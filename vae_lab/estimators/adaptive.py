"""REBAR and RELAX as published: estimators for bits whose control variate learns while it is used.

Both are the score function with a control variate c, as `discrete.rebar` is, and unbiased whatever c is. What
is new is that c has parameters φ, and that each use moves them against the gradient of the squared estimate,

    ∇_φ g²,    g = (f(b) − c(z)) ∇log q(b) + ∂c/∂z (1 − ∂z̃/∂logits).

Since φ does not change the mean of g, that is an unbiased estimate of the gradient of its variance. A use
draws and estimates first and moves φ afterwards: φ is fixed while a draw is used, and no estimate is biased.

Here z̃, the second draw of z given b, is made from the same random number as z (as in tucker2017rebar), and
equals it. Only the derivatives differ, 1 and ∂z̃/∂logits = (1 − e^−|z|) q(b), so c is evaluated once for each
draw, not twice.

The contract of estimators has no state. Therefore these are not registered: `adaptive_rebar` and
`adaptive_relax` each make an `Estimator` with a control variate of its own, to be given to `benchmark`, under
a label, or to `fit(estimator=…)`. It goes on learning from where it was: make a new one for each training.

>>> from torch.distributions import Bernoulli
>>> q, cost = Bernoulli(logits=torch.zeros(3)), lambda z: (z - 0.45) ** 2
>>> learned = tuned(adaptive_relax(sets=(3,)), q, cost, uses=20)
>>> learned(q, cost, 5).shape
torch.Size([5, 3])
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from .contract import Estimator, inject, sum_event
from .costs import Cost
from .discrete import bernoulli, relaxed_cost, wide
from .families import unwrap


class LearnedControl:
    """An estimator function `(q, cost, n) -> surrogate` whose control variate has parameters, and learns.

        c(z) = scale · f(sigmoid(z / τ + logits · τ / (τ + 1))) + r(z)

    The relaxation is that of tucker2017rebar: at small temperatures τ it is the bit, at large ones its mean.
    The network r (grathwohl2018backpropagation) sees the relaxed bits and their probabilities. It has one
    layer of `hidden` tanh units, and is absent where `hidden` is 0. All begins as in REBAR with r = 0, τ = ½
    and scale = 1, and learns by Adam at `learning_rate`.

    There is one set of parameters for each element of the shape `sets`, which broadcasts to the batch shape
    of q: (13,) for thirteen problems, (R, 1) for the items of R replicas of a VAE, () for one set for all.
    Elements of q's batch that share a set learn together, and sets learn apart. While `learning` is false,
    nothing moves.
    """

    def __init__(self, sets: Sequence[int], hidden: int, learning_rate: float, seed: int) -> None:
        self.sets, self.hidden, self.learning_rate, self.seed = tuple(sets), hidden, learning_rate, seed
        self.learning = True
        self.weights: dict[str, Tensor] = {}

    def __call__(self, q: Distribution, cost: Cost, n: int) -> Tensor:
        """The surrogate (n, *batch); then a step of Adam for the control variate."""
        logits = unwrap(q).logits
        fixed = logits.detach()
        if not self.weights:
            self._begin(fixed, q)
        noise = torch.rand(n, *fixed.shape, dtype=fixed.dtype, device=fixed.device).logit(eps=1e-7)
        z = (fixed + noise).requires_grad_()
        b, p = (z > 0).to(z.dtype), fixed.sigmoid()
        with torch.enable_grad():
            c = self.control(q, cost, z, fixed)
            (slope,) = torch.autograd.grad(c.sum(), z, create_graph=self.learning)
            f = cost(b)
            moves = (1 - (-z.detach().abs()).exp()) * torch.where(b > 0, p, 1 - p)
            rest = f.detach() - c
            gradient = rest[wide(q)] * (b - p) + slope * (1 - moves)
            surrogate = f + inject(gradient, logits, q)
            if self.learning:
                self._learn(sum_event(gradient**2, q))
        return surrogate if torch.is_grad_enabled() else surrogate.detach()

    def control(self, q: Distribution, cost: Cost, z: Tensor, logits: Tensor) -> Tensor:
        """c at z (n, *batch, *event), (n, *batch)."""
        heat = self.temperature[wide(q)]
        relaxed = (z / heat + logits * heat / (heat + 1)).sigmoid()
        c = self.weights["scale"] * relaxed_cost(cost, relaxed)
        if not self.hidden:
            return c
        seen = [x.expand_as(z).reshape(*c.shape, -1) for x in (relaxed, logits.sigmoid())]
        w = self.weights
        units = torch.einsum("...i,...hi->...h", 2 * torch.cat(seen, -1) - 1, w["to_units"])
        return c + ((units + w["of_units"]).tanh() * w["from_units"]).sum(-1) + w["constant"]

    @property
    def temperature(self) -> Tensor:
        """τ, of the shape `sets`."""
        return self.weights["log_temperature"].exp()

    def _begin(self, logits: Tensor, q: Distribution) -> None:
        """The parameters in the precision and on the device of `logits`, and their optimiser."""
        sets, units = self.sets, self.hidden
        start = {"scale": torch.ones(sets), "log_temperature": torch.full(sets, math.log(0.5))}
        if units:
            width = 2 * q.event_shape.numel()
            generator = torch.Generator().manual_seed(self.seed)
            start["to_units"] = torch.randn(*sets, units, width, generator=generator) / width**0.5
            start["of_units"] = torch.zeros(*sets, units)
            start["from_units"] = torch.zeros(*sets, units)
            start["constant"] = torch.zeros(sets)
        self.weights = {name: w.to(logits).requires_grad_() for name, w in start.items()}
        self.optimizer = torch.optim.Adam(list(self.weights.values()), lr=self.learning_rate)

    def _learn(self, squares: Tensor) -> None:
        """A step down the mean of the squared estimates (n, *batch) of each set."""
        weights = list(self.weights.values())
        loss = squares.mean() * math.prod(self.sets)  # no parameter is in two sets: each has its own mean
        for w, g in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            w.grad = g
        self.optimizer.step()


def _made(name: str, title: str, reference: str, summary: str, control: LearnedControl) -> Estimator:
    return Estimator(name, control, True, (bernoulli,), lambda n, q: 2 * n, reference, summary, title)


def adaptive_rebar(sets: Sequence[int] = (), learning_rate: float = 0.01) -> Estimator:
    """A new REBAR that learns its coefficient and its temperature, in each of `sets` (see `LearnedControl`).

    The cost must be differentiable between 0 and 1, twice where the temperature is to learn.
    """
    control = LearnedControl(sets, 0, learning_rate, 0)
    summary = "Score function; as control variate the relaxed cost, with learned coefficient and temperature."
    return _made("adaptive_rebar", "REBAR, adaptive", "tucker2017rebar", summary, control)


def adaptive_relax(
    sets: Sequence[int] = (), learning_rate: float = 0.01, hidden: int = 10, seed: int = 0
) -> Estimator:
    """A new RELAX: as `adaptive_rebar`, and a network of `hidden` units learns beside the relaxed cost.

    The networks of the published VAEs are larger, see the item besides the relaxed bits, and learn for a
    while before the model does. No item is known here; the probabilities of its bits stand for it.
    """
    control = LearnedControl(sets, hidden, learning_rate, seed)
    summary = "Score function; as control variate the relaxed cost and a network, both learned."
    return _made("adaptive_relax", "RELAX, adaptive", "grathwohl2018backpropagation", summary, control)


@torch.random.fork_rng()
def tuned(
    estimator: Estimator, q: Distribution, cost: Cost, uses: int, n: int = 100, seed: int = 0
) -> Estimator:
    """The same `estimator` after so many uses with `n` draws each, its control variate fixed from now on.

    That is what to measure the variance of. Raises TypeError for an estimator that learns nothing.
    """
    control = estimator.function
    if not isinstance(control, LearnedControl):
        raise TypeError(f"{estimator.name} learns nothing; make one by adaptive_rebar or adaptive_relax")
    torch.manual_seed(seed)
    for _ in range(uses):
        estimator(q, cost, n)
    control.learning = False
    return estimator
