import torch
from torch.distributions import Independent, Normal, kl_divergence

from vae_lab import DiagonalNormal, reparameterize

MU, LOG_SIGMA = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_is_torchs_own_distribution() -> None:
    q = DiagonalNormal(MU, LOG_SIGMA)
    same = Independent(Normal(MU, LOG_SIGMA.exp()), 1)
    assert isinstance(q, Independent)
    assert (q.batch_shape, q.event_shape) == ((3,), (4,))
    z = same.sample((5,))
    torch.testing.assert_close(q.log_prob(z), same.log_prob(z))
    torch.testing.assert_close(q.entropy(), same.entropy())
    torch.testing.assert_close(q.variance, (2 * LOG_SIGMA).exp())


def test_kl_is_torchs_and_the_closed_form() -> None:
    q = DiagonalNormal(MU, LOG_SIGMA)
    p = DiagonalNormal(torch.zeros(4).double(), torch.zeros(4).double())
    closed = 0.5 * (MU**2 + (2 * LOG_SIGMA).exp() - 1 - 2 * LOG_SIGMA).sum(-1)
    torch.testing.assert_close(kl_divergence(q, p), closed)
    plain = kl_divergence(Normal(MU, LOG_SIGMA.exp()), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(kl_divergence(q, p), plain)


def test_same_eps_gives_the_same_z_bit_for_bit() -> None:
    eps = torch.randn(6, 3, 4, dtype=torch.float64)
    q = DiagonalNormal(MU, LOG_SIGMA)
    assert torch.equal(q.reparameterize(eps), q.reparameterize(eps))
    assert torch.equal(q.reparameterize(eps), reparameterize(q.mu, q.sigma, eps))
    assert q.reparameterize(eps).shape == (6, 3, 4)


def test_detach_cuts_the_graph_and_keeps_the_values() -> None:
    leaf = MU.clone().requires_grad_()
    q = DiagonalNormal(leaf, LOG_SIGMA).detach()
    assert not q.mu.requires_grad
    assert torch.equal(q.mu, MU)
    assert torch.equal(q.log_sigma, LOG_SIGMA)


def test_expand() -> None:
    wide = DiagonalNormal(MU, LOG_SIGMA).expand((7, 3))
    assert isinstance(wide, DiagonalNormal)
    assert wide.batch_shape == (7, 3)
    assert torch.equal(wide.sigma[6], LOG_SIGMA.exp())
