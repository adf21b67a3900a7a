import math

import pytest
import torch
from problems import t

from vae_lab.estimators.costs import COSTS, Separable, bump, cosine, quadratic, step
from vae_lab.registry import UnknownName


def test_named_costs_are_what_they_say_and_broadcast() -> None:
    z, k = t([0.5, -1.0]), t([2.0, 3.0])
    torch.testing.assert_close(quadratic(k)(z), t([2.25, 16.0]))
    torch.testing.assert_close(bump(k)(z), t([math.exp(-0.5), math.exp(-3)]))
    torch.testing.assert_close(cosine(k)(z), t([math.cos(1.0), math.cos(3.0)]))
    torch.testing.assert_close(step(0.0)(z), t([1.0, 0.0]))
    assert set(COSTS) == {"quadratic", "bump", "cosine", "step"}
    with pytest.raises(UnknownName, match="did you mean 'cosine'"):
        COSTS["cosin"]


def test_a_separable_cost_is_a_sum_over_coordinates() -> None:
    z = t([[0.5, -1.0], [2.0, 0.0]])
    assert Separable(quadratic(1.0))(z).tolist() == [0.25 + 4.0, 1.0 + 1.0]
