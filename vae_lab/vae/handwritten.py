"""One step of training without autograd: the gradient of the ELBO by hand, into buffers that are made once.

A step of a small VAE is about a hundred small operations, and to start one takes longer than to compute it.
For dense layers the gradient can be written down. With a = h W + b in a layer, and h = φ(a) for the next,

    ∂L/∂W = hᵀ ∂L/∂a,    ∂L/∂b = 1ᵀ ∂L/∂a,    ∂L/∂h = ∂L/∂a Wᵀ,

and one layer below ∂L/∂a = ∂L/∂h · φ′(a).

With s = log σ, z = μ + σε and L = −log p(x|z) + β · KL,

    ∂L/∂μ = ∂L/∂z + β μ,    ∂L/∂s = ∂L/∂z · σε + β (σ² − 1),

and at the decoder's last layer, with r = (a − x) / τ for a normal likelihood of standard deviation τ,

    Bernoulli: ∂L/∂a = sigmoid(a) − x,    normal: ∂L/∂a = r / τ,   ∂L/∂log τ = Σ (1 − r²).

The weights of all layers and replicas are one flat tensor, so are their gradient and Adam's two moments, and
one call of torch's fused Adam moves them. Products are batched over replicas. No step allocates memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from .decoder import Decoder
from .encoder import Encoder
from .layers import Linear, Stack
from .model import VAE
from .recipe import Recipe

aten = torch.ops.aten

# φ -> what writes h = φ(a) into h, what writes g · φ′(a) into g, given a and h, and whether that needs a: if
# not, h takes its place. All are contiguous: torch 2.13 leaves a strided output of GELU as it was.
BY_HAND: dict[Callable[..., Tensor], tuple[Callable[..., Tensor], Callable[..., Tensor], bool]] = {
    nn.functional.gelu: (
        lambda a, h: nn.functional.gelu(a, out=h),  # type: ignore[call-arg]
        lambda g, a, h: aten.gelu_backward.grad_input(g, a, grad_input=g),
        True,
    ),
    torch.relu: (
        lambda a, h: torch.clamp_min(a, 0, out=h),
        lambda g, a, h: aten.threshold_backward.grad_input(g, h, 0, grad_input=g),
        False,
    ),
    torch.tanh: (
        lambda a, h: torch.tanh(a, out=h),
        lambda g, a, h: aten.tanh_backward.grad_input(g, h, grad_input=g),
        False,
    ),
}


def covers(vae: VAE, recipe: Recipe) -> bool:
    """Whether `HandwrittenStep` does what autograd and torch's Adam would do for this model and recipe.

    It does for the ELBO by the trick with one draw and a model of dense layers as `VAE` makes it: not for a
    subclass, nor where somebody changed a module, a weight, a hook or the precision of operations.
    """
    usual = recipe.objective == "elbo" and recipe.samples == 1 and not recipe.draws_by_itself
    usual = usual and not any(recipe.free_bits) and vae.latent == "normal" and not vae.context
    return usual and _as_made(vae) and not _watched(vae)


def _watched(vae: VAE) -> bool:
    """Whether hooks or modes of torch would see, or change, what autograd and Adam do."""
    globally = _has_any_global_hook() or _global_optimizer_pre_hooks or _global_optimizer_post_hooks
    modes = torch.is_anomaly_enabled() or torch.is_autocast_enabled(vae._origin.device.type)
    of_modules = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    of_weights = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return bool(
        globally
        or modes
        or any(getattr(module, name) for module in vae.modules() for name in of_modules)
        or any(getattr(p, name) for p in vae.parameters() for name in of_weights)
    )


def _as_made(vae: VAE) -> bool:
    """Whether modules and weights are those of a dense `VAE`, all of them to be trained."""
    modules, weights = list(vae.modules()), list(vae.parameters())
    kinds = {VAE, Encoder, Decoder, Stack, nn.ModuleList, Linear}
    dense = [module for module in modules if isinstance(module, Linear)]
    return (
        {type(module) for module in modules} <= kinds
        and all(type(p) is nn.Parameter and p.requires_grad for p in weights)
        and {(p.dtype, p.device) for p in weights} == {(vae._origin.dtype, vae._origin.device)}
        and vae._origin.dtype in {torch.float32, torch.float64}
        # None of them shared, and none that belongs to no layer.
        and len(weights) == 2 * len(dense) + (vae.decoder.log_scale is not None)
        and vae.encoder.stack.activation is vae.decoder.stack.activation
        and vae.encoder.stack.activation in BY_HAND
        and not any(
            callable(getattr(type(module), name, None)) for module in modules for name in vars(module)
        )
    )


class Layer(NamedTuple):
    """W (R, in, out) and b (R, 1, out) of a layer, each with the gradient with respect to it, and Wᵀ."""

    weight: Tensor
    to_weight: Tensor
    bias: Tensor
    to_bias: Tensor
    transposed: Tensor


class Room(NamedTuple):
    """What a layer does with B items of each replica: h W + b = a, and ∂L/∂a, each (R, B, width)."""

    h: Tensor
    transposed: Tensor  # hᵀ
    a: Tensor
    to_a: Tensor


class DenseStack:
    """A stack of layers on buffers, by the two functions of its activation in `BY_HAND`."""

    def __init__(self, layers: Sequence[Layer], activation: Callable[..., Tensor]) -> None:
        self.layers = layers
        self.activate, self.descend, self.keeps_a = BY_HAND[activation]

    def rooms(self, items: int) -> list[Room]:
        """Buffers for so many `items` of each replica, in which the first h is the input."""
        made: list[Room] = []
        for layer in self.layers:
            replicas, inputs, outputs = layer.weight.shape
            over = made and not self.keeps_a
            h = made[-1].a if over else layer.weight.new_empty(replicas, items, inputs)
            made.append(Room(h, h.mT, *layer.weight.new_empty(2, replicas, items, outputs)))
        return made

    def forward(self, rooms: Sequence[Room]) -> None:
        """From the first h to the last a."""
        for i, (layer, room) in enumerate(zip(self.layers, rooms, strict=True)):
            if i:
                self.activate(rooms[i - 1].a, room.h)
            torch.baddbmm(layer.bias, room.h, layer.weight, out=room.a)

    def backward(self, rooms: Sequence[Room], shares: Tensor, to_input: Tensor | None = None) -> None:
        """From the last ∂L/∂a to the means over items of ∂L/∂W and ∂L/∂b, and to ∂L/∂h of the input.

        `shares` (R, 1, B) are the weights of the mean.
        """
        for i in reversed(range(len(self.layers))):
            layer, room = self.layers[i], rooms[i]
            layer.to_weight.baddbmm_(room.transposed, room.to_a, beta=0, alpha=1 / shares.shape[-1])
            torch.bmm(shares, room.to_a, out=layer.to_bias)
            if i:
                below = rooms[i - 1]
                torch.bmm(room.to_a, layer.transposed, out=below.to_a)
                self.descend(below.to_a, below.a, room.h)
            elif to_input is not None:
                torch.bmm(room.to_a, layer.transposed, out=to_input)


class Buffers:
    """What a step works on with B items of each replica; `to_mu` is the gradient with respect to mu."""

    def __init__(self, encoder: DenseStack, decoder: DenseStack, items: int) -> None:
        self.down, self.up = encoder.rooms(items), decoder.rooms(items)
        self.x, self.z = self.down[0].h, self.up[0].h
        self.mu, self.free = self.down[-1].a.chunk(2, -1)  # log σ, before any limits
        self.to_mu, self.to_log_sigma = self.down[-1].to_a.chunk(2, -1)
        self.log_sigma, self.sigma, self.shift, self.to_z, self.inside = self.z.new_empty(5, *self.z.shape)
        self.a, self.to_a = self.up[-1].a, self.up[-1].to_a
        self.log_x = torch.empty_like(self.a)
        self.shares = self.z.new_full((len(self.z), 1, items), 1 / items)


class HandwrittenStep:
    """Steps of Adam on a copy of the weights of a VAE that `covers` accepts; `store` hands them back.

    `detached` (R, 1, 1) or None and `decay` (R, 1, 1) or None are a recipe's `detach_sigma` and `decoder_l2`.
    """

    def __init__(
        self, vae: VAE, learning_rate: float, detached: Tensor | None = None, decay: Tensor | None = None
    ) -> None:
        self.rate, self.parameters = learning_rate, [p.detach() for p in vae.parameters()]
        flat = vae._origin.new_zeros(4, sum(p.numel() for p in self.parameters))
        self.flat = [[row] for row in flat]  # the weights, their gradient, and its two moments
        self.count, self.single = flat.new_tensor([0, 1], dtype=torch.float32)  # whatever the weights are
        self.weights, self.gradients = (self.shaped(row) for row in flat[:2])
        torch._foreach_copy_(self.weights, self.parameters)
        place = {id(p): i for i, p in enumerate(vae.parameters())}

        def mine(p: Tensor) -> tuple[Tensor, Tensor]:
            return self.weights[place[id(p)]], self.gradients[place[id(p)]]

        def stack(made: Stack) -> DenseStack:
            pairs = [(*mine(layer.weight), *mine(layer.bias)) for layer in made.layers]  # type: ignore[arg-type]
            return DenseStack([Layer(*pair, pair[0].mT) for pair in pairs], made.activation)

        self.encoder, self.decoder = stack(vae.encoder.stack), stack(vae.decoder.stack)
        self.log_scale: Tensor | None = None
        if vae.decoder.log_scale is not None:
            self.log_scale, self.to_log_scale = mine(vae.decoder.log_scale)
        self.limits: tuple[Tensor, ...] | None = None
        if vae.encoder._some:
            self.limits = vae.encoder._limits.to(vae._origin).view(-1, 2, 1, 1).unbind(1)
        self.attached = None if detached is None else (~detached).to(flat)
        self.decay = decay
        # Operations take a tensor faster than a number.
        self.one, self.minus_half = flat.new_tensor([1.0, -0.5])
        self.made: dict[int, Buffers] = {}

    def shaped(self, row: Tensor) -> list[Tensor]:
        """Views of a flat `row` in the shapes of the parameters."""
        parts = row.split([p.numel() for p in self.parameters])
        return [part.view(p.shape) for part, p in zip(parts, self.parameters, strict=True)]

    def store(self) -> None:
        """Give the model the weights as they are now."""
        torch._foreach_copy_(self.parameters, self.weights)

    def buffers(self, items: int) -> Buffers:
        """Those for so many items: a data set has two sizes of batch at most."""
        if items not in self.made:
            self.made[items] = Buffers(self.encoder, self.decoder, items)
        return self.made[items]

    def __call__(self, on: Buffers, eps: Tensor, beta: Tensor, log_x: Tensor, kl: Tensor) -> None:
        """One step on the items in `on.x`, with `eps` (R, B, Z) and `beta` (R, 1, 1).

        Writes the two terms of the ELBO of each item, before the step, into `log_x` and `kl` (R, B).
        """
        self.encoder.forward(on.down)
        self.draw(on, eps)
        self.decoder.forward(on.up)
        self.reconstruct(on, log_x)
        self.decoder.backward(on.up, on.shares, on.to_z)
        self.regularise(on, beta, kl)
        self.encoder.backward(on.down, on.shares)
        if self.decay is not None:
            for layer in self.decoder.layers:
                layer.to_weight.addcmul_(layer.weight, self.decay)
        self.adam()

    def draw(self, on: Buffers, eps: Tensor) -> None:
        """z = μ + σε."""
        log_sigma = on.free
        if self.limits is not None:
            log_sigma = torch.clamp(on.free, *self.limits, out=on.log_sigma)
        torch.exp(log_sigma, out=on.sigma)
        torch.mul(on.sigma, eps, out=on.shift)
        torch.add(on.mu, on.shift, out=on.z)

    def reconstruct(self, on: Buffers, log_x: Tensor) -> None:
        """log p(x|z) of each item, and the gradient of what it costs; the last `a` is lost."""
        if self.log_scale is None:
            # log p(x|z) = log max(p, 1 − p) + a x − max(a, 0) for p = sigmoid(a): no logarithm of zero.
            p = torch.sigmoid(on.a, out=on.to_a)
            surer = torch.maximum(p, torch.sub(self.one, p, out=on.log_x), out=on.log_x)
            surer.log_().addcmul_(on.a, on.x).sub_(on.a.relu_())
            torch.sum(on.log_x, -1, out=log_x)
            p.sub_(on.x)
        else:
            scale, features = self.log_scale.exp(), on.x.shape[-1]
            error = torch.sub(on.a, on.x, out=on.to_a).div_(scale)
            torch.sum(torch.mul(error, error, out=on.a), -1, out=log_x)
            torch.mean(log_x, -1, out=self.to_log_scale.view(-1)).neg_().add_(features)
            error.div_(scale)
            constant = self.log_scale.squeeze(-1) + 0.5 * math.log(2 * math.pi)
            log_x.mul_(-0.5).sub_(constant.mul_(features))

    def regularise(self, on: Buffers, beta: Tensor, kl: Tensor) -> None:
        """KL(q ‖ N(0, I)) of each item, and the gradient with respect to μ and log σ of both terms."""
        log_sigma = on.free if self.limits is None else on.log_sigma
        torch.addcmul(on.to_z, on.mu, beta, out=on.to_mu)
        torch.mul(on.to_z, on.shift, out=on.to_log_sigma)
        if self.attached is not None:
            on.to_log_sigma.mul_(self.attached)
        half = torch.addcmul(self.minus_half, on.sigma, on.sigma, value=0.5, out=on.sigma)  # (σ² − 1) / 2
        on.to_log_sigma.addcmul_(half, beta, value=2)
        if self.limits is not None:
            torch.eq(on.free, log_sigma, out=on.inside).mul_(self.limits[0] < self.limits[1])
            on.to_log_sigma.mul_(on.inside)
        each = torch.addcmul(half, on.mu, on.mu, value=0.5, out=on.shift).sub_(log_sigma)
        torch.sum(each, -1, out=kl)

    def adam(self) -> None:
        """One step of Adam on all weights. Source: kingma2015adam."""
        self.count.add_(self.single)
        rule = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "lr": self.rate}
        torch._fused_adam_(  # type: ignore[call-overload]
            *self.flat, [], [self.count], amsgrad=False, maximize=False, **rule
        )
