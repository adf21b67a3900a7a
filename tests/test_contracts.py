"""The contracts hold, and each ruined variant of the code breaks at least one of them."""

from collections.abc import Callable
from typing import Any

import pytest
from contracts import CHECKS
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from vae_lab import reparameterization
from vae_lab.vae import encoder, objectives


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract_holds(check: Callable[[], None]) -> None:
    check()


def wrong_sign_of_kl(patch: pytest.MonkeyPatch) -> None:
    right = objectives.kl_divergence
    patch.setattr(objectives, "kl_divergence", lambda q, p: -right(q, p))


def kl_of_the_wrong_way_round(patch: pytest.MonkeyPatch) -> None:
    right = objectives.kl_divergence
    patch.setattr(objectives, "kl_divergence", lambda q, p: right(p, q))


def variance_used_as_sigma(patch: pytest.MonkeyPatch) -> None:
    def reparameterize(mu: Tensor, sigma: Tensor, eps: Tensor) -> Tensor:
        return mu + (2 * sigma.log()).exp() * eps

    patch.setattr(reparameterization, "reparameterize", reparameterize)


def dropped_eps(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        reparameterization, "reparameterize", lambda mu, sigma, eps: (mu + 0 * sigma).expand_as(eps)
    )


def added_sigma(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reparameterization, "reparameterize", lambda mu, sigma, eps: (mu + sigma).expand_as(eps))


def brackets_in_the_wrong_place(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reparameterization, "reparameterize", lambda mu, sigma, eps: (mu + eps) * sigma)


def detached_sigma(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reparameterization, "reparameterize", lambda mu, sigma, eps: mu + sigma.detach() * eps)


def weights_of_the_wrong_sign(patch: pytest.MonkeyPatch) -> None:
    class Flipped(reparameterization.DiagonalNormal):
        def log_prob(self, value: Tensor) -> Any:
            return -super().log_prob(value)

    patch.setattr(encoder, "DiagonalNormal", Flipped)


@pytest.mark.parametrize(
    "ruin",
    [
        wrong_sign_of_kl,
        kl_of_the_wrong_way_round,
        variance_used_as_sigma,
        dropped_eps,
        added_sigma,
        brackets_in_the_wrong_place,
        detached_sigma,
        weights_of_the_wrong_sign,
    ],
    ids=lambda ruin: ruin.__name__,
)
def test_ruined_variant_breaks_a_contract(
    ruin: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ruin(monkeypatch)
    broken = []
    for check in CHECKS:
        try:
            check()
        except (AssertionError, GradcheckError):
            broken.append(check.__name__)
    assert broken, "no contract noticed"
