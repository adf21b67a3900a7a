"""A distribution as a function of named parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution
from torch.nn import Module


class _Around(Distribution):
    """A distribution that hands on what another, its `base`, knows."""

    arg_constraints = {}  # noqa: RUF012 (torch's own)
    base: Distribution

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws carry derivatives."""
        return bool(self.base.has_rsample)

    @property
    def support(self) -> Any:
        """That of `base`."""
        return self.base.support

    @property
    def mean(self) -> Tensor:
        """That of `base`."""
        return self.base.mean

    @property
    def variance(self) -> Tensor:
        """That of `base`."""
        return self.base.variance

    def log_prob(self, value: Tensor) -> Tensor:
        """log q, (*sample_shape, *batch)."""
        return self.base.log_prob(value)


class Family(_Around):
    """The distribution `build(**parameters)`, whose gradients are with respect to the named parameters.

    `build` is any function that returns a torch distribution: mixtures, transformed distributions, other
    packages' distributions, your own. Where it allows, it is given parameters with further axes in front,
    which become batch axes; where it does not, it is called with the parameters as they are. A module that
    returns a distribution, such as a flow, stands for itself: `Family(flow)`, with its weights as the
    parameters, which it also has while samples are drawn and densities taken.

    Raises TypeError where a parameter is not a floating-point tensor, `build` returns no distribution, or one
    that does not depend on any parameter.

    >>> from torch.distributions import Categorical, MixtureSameFamily, Normal
    >>> def mixture(logits, loc):
    ...     return MixtureSameFamily(Categorical(logits=logits), Normal(loc, 1.0))
    >>> q = Family(mixture, logits=torch.zeros(2), loc=torch.tensor([-1.0, 1.0]))
    >>> q.batch_shape, sorted(q.given)
    (torch.Size([]), ['loc', 'logits'])
    """

    def __init__(self, build: Callable[..., Distribution], **parameters: Tensor) -> None:
        if isinstance(build, Module):
            parameters = parameters or dict(build.named_parameters())
            build = partial(_OfModule, build)
        if not parameters:
            raise TypeError(
                "Family(build, name=tensor, ...) needs at least one parameter to differentiate with "
                "respect to"
            )
        for name, value in parameters.items():
            if not (isinstance(value, Tensor) and value.is_floating_point()):
                came = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(f"parameter {name!r} of a Family is a floating-point tensor, got {came}")
        built = build(**parameters)  # torch checks the parameters
        if not isinstance(built, Distribution):
            raise TypeError(f"build returns a torch distribution, got {type(built).__name__}")
        self._hold(build, parameters)
        if why := self._without_slope():
            raise TypeError(
                f"what build returns does not depend on its parameters{why}; a module that computes later, "
                "such as a flow, goes in as it is: Family(flow)"
            )

    def _without_slope(self) -> str:
        """The last error where neither density nor draws depend on any parameter, as far as torch can tell;
        else nothing."""
        why = " "
        leaves = {name: p.detach().clone().requires_grad_() for name, p in self.given.items()}
        with torch.enable_grad(), torch.random.fork_rng():
            q = Family.__new__(Family)._hold(self.build, leaves).base
            for ask in (lambda: q.log_prob(q.sample()), lambda: q.rsample()):
                try:
                    slopes = torch.autograd.grad(ask().sum(), list(leaves.values()), allow_unused=True)
                except (RuntimeError, ValueError, AttributeError) as error:  # none, or none with a gradient
                    why = f" ({error})" if str(error) else why
                    continue
                if any(slope is not None for slope in slopes):
                    return ""
        return why

    def _hold(self, build: Callable[..., Distribution], given: dict[str, Tensor]) -> Family:
        """Build without torch's checks of values: parameters on the way, and points of a rule, may lie
        outside."""
        checked = Distribution._validate_args
        Distribution.set_default_validate_args(False)
        try:
            self.build, self.given, self.base = build, given, _unchecked(build(**given))
        finally:
            Distribution.set_default_validate_args(checked)
        self.own_batch = Size(self.base.batch_shape)  # that of `build`, whatever `expand` puts in front
        Distribution.__init__(self, self.own_batch, Size(self.base.event_shape), validate_args=False)
        return self

    def sample(self, sample_shape: Size | Sequence[int] = Size()) -> Tensor:  # noqa: B008 (torch's own)
        """Draws (*sample_shape, *batch, *event), without derivatives."""
        return self.base.sample(Size(sample_shape))

    def rsample(self, sample_shape: Size | Sequence[int] = Size()) -> Tensor:  # noqa: B008
        """Draws with derivatives."""
        return self.base.rsample(Size(sample_shape))

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> Family:
        """Copies that share the parameters."""
        copy = Family.__new__(Family)
        copy.build, copy.given, copy.own_batch = self.build, self.given, self.own_batch
        copy.base = expanded(self.base, Size(batch_shape))
        Distribution.__init__(copy, copy.base.batch_shape, copy.base.event_shape, validate_args=False)
        return copy


class _OfModule(Distribution):
    """What a module returns, which has the given weights whenever it computes."""

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, module: Module, **weights: Tensor) -> None:
        self.module, self.weights = module, weights
        like = self._ask(lambda q: q)
        super().__init__(Size(like.batch_shape), Size(like.event_shape), validate_args=False)

    def _ask(self, question: Callable[[Distribution], Any]) -> Any:
        """`question` of the distribution, while the module has these weights."""
        asked = _Asked(self.module, question)
        return torch.func.functional_call(asked, {f"module.{k}": w for k, w in self.weights.items()}, ())

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return bool(self._ask(lambda q: q.has_rsample))

    @property
    def support(self) -> Any:
        return self._ask(lambda q: q.support)

    def sample(self, sample_shape: Size | Sequence[int] = Size()) -> Tensor:  # noqa: B008
        return self._ask(lambda q: q.sample(Size(sample_shape)))

    def rsample(self, sample_shape: Size | Sequence[int] = Size()) -> Tensor:  # noqa: B008
        return self._ask(lambda q: q.rsample(Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        return self._ask(lambda q: q.log_prob(value))


class _Asked(Module):
    """A question to what a module returns, as a module."""

    def __init__(self, module: Module, question: Callable[[Distribution], Any]) -> None:
        super().__init__()
        self.module, self.question = module, question

    def forward(self) -> Any:
        return self.question(self.module())


def _unchecked(q: Distribution) -> Distribution:
    """The same distribution, which no longer checks points."""
    q._validate_args = False
    for part in vars(q).values():
        if isinstance(part, Distribution):
            _unchecked(part)
    return q


class Copies(_Around):
    """Copies of `base` along new batch axes in front, `lead`, which share its parameters."""

    def __init__(self, base: Distribution, lead: Size) -> None:
        self.base, self.lead, self.own_batch = base, lead, base.batch_shape
        super().__init__(Size((*lead, *base.batch_shape)), base.event_shape, validate_args=False)

    def __getattr__(self, name: str) -> Any:
        if name == "base":  # not yet set, as in copy.copy
            raise AttributeError(name)
        return getattr(self.base, name)

    def sample(self, sample_shape: Size | Sequence[int] = Size()) -> Tensor:  # noqa: B008
        return self.base.sample(Size((*sample_shape, *self.lead)))

    def rsample(self, sample_shape: Size | Sequence[int] = Size()) -> Tensor:  # noqa: B008
        return self.base.rsample(Size((*sample_shape, *self.lead)))


def expanded(q: Distribution, batch_shape: Size) -> Distribution:
    """Copies of `q` along new batch axes in front, which share its parameters."""
    try:
        return q.expand(batch_shape)
    except (NotImplementedError, TypeError, RuntimeError):
        lead = len(batch_shape) - len(q.batch_shape)
        if batch_shape[lead:] != q.batch_shape:
            raise
        return Copies(q, batch_shape[:lead])
