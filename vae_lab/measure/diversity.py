"""How different are the outputs? Pure functions of models and samples.

Each measure sees one thing and has a trap of its own, which its docstring names. Samples are float tensors
(items, features), of pixels or of features, on one device; the arithmetic is float64. The costs are those of
n items against m, with D features each: no more than a block of 2¹⁸ pairs is held at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor

from ..clock import counts_as
from ..reparameterization import DiagonalNormal
from ..settings import Count, NotNegative, Seed, Several, check
from ..vae.model import VAE, as_items
from ..vae.noise import presentations
from ..vae.objectives import check_moves
from ..vae.streams import per_replica, replica_seeds

_BLOCK = 2**18  # entries of a block: 2 MiB in float64, which stay in a cache while they are worked on


@counts_as("evaluation")
@torch.no_grad()
def same_input_spread(
    vae: VAE,
    x: Tensor,
    samples: int = 16,
    *,
    noise: str | Sequence[str] = "gaussian",
    noise_scale: float | Sequence[float] = 1.0,
    seed: int | Sequence[int] = 0,
) -> Tensor:
    """Standard deviation of a decoded feature when one input is encoded again and again: (R,).

    Items `x` (B, D) are shown `samples` times, with a noise in `NOISES` and a scale, one for all
    replicas or one for each. The variance of the decoder's mean over the presentations, averaged over items
    and features; its root has the data's units. Exactly 0 where the noise does not change between
    presentations. Raises ValueError for fewer than 2 samples.
    """
    samples = check("samples", Several, samples)
    check_moves(vae)
    x, r = as_items(vae, x), vae.replicas
    names = per_replica("noise", noise, r, str)
    scales = per_replica("noise_scale", noise_scale, r, NotNegative)
    seeds = replica_seeds(seed, r)
    eps = presentations(
        names, scales, seeds, items=len(x), latents=vae.latents, count=samples, device=x.device
    )
    q = vae.encoder(x)
    outputs = (vae.decoder(q.reparameterize(one)).mean.double() for one in eps.to(x))
    first = next(outputs)
    total, squares = torch.zeros_like(first), torch.zeros_like(first)
    for output in outputs:  # deviations from the first, so that equal outputs have a spread of exactly 0
        total += output - first
        squares += (output - first).square()
    variance = (squares - total**2 / samples) / (samples - 1)
    return _finite("the spread", variance.clamp_min(0).mean((1, 2)).sqrt())


def _finite(what: str, value: Tensor) -> Tensor:
    """`value`; raises ValueError if it is NaN or infinite."""
    if not value.isfinite().all():
        raise ValueError(
            f"{what} is not finite: its parts are beyond float64; scale the samples, or look for where "
            "training diverged"
        )
    return value


def _posterior(q: DiagonalNormal, least: int = 1) -> tuple[Tensor, Tensor]:
    """mu and log sigma of `q`, both (R, items, Z) in float64."""
    if not isinstance(q, DiagonalNormal) or len(q.batch_shape) != 2 or q.batch_shape[1] < least:
        shape = f" {(*q.batch_shape, *q.event_shape)}" if hasattr(q, "batch_shape") else ""
        raise ValueError(
            f"expected a DiagonalNormal (replicas, items, latents) with {least} items or more, "
            f"got {type(q).__name__}{shape}; vae.encoder(x) of a VAE with normal latents returns one"
        )
    mu, log_sigma = q.mu.detach().double(), q.log_sigma.detach().double()
    # Of what lies outside, float64 cannot hold the squares.
    if not (mu.abs().max() < 1e150 and log_sigma.abs().max() < 340):
        raise ValueError(
            "q has a mean or a log sigma that is NaN, infinite or out of all proportion (1e150, 340); look "
            "for where training diverged"
        )
    return mu, log_sigma


def active_units(q: DiagonalNormal, threshold: float = 0.01) -> Tensor:
    """How many latents tell the items apart: those with Var_x[mu_k(x)] > `threshold`: (R,), integers.

    `q` has batch shape (R, items), at least 2 items. Time and memory O(R items Z).
    Trap: it depends on the scale of mu. A decoder can undo any scale, so that an autoencoder with z = mu
    scores all of its latents as active, and one that shrinks mu and sigma alike none; `mutual_information`
    does not change with the scale. Raises ValueError if q is not such a q. Source: burda2016importance.

    >>> mu = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]).expand(1, 2, 2)
    >>> active_units(DiagonalNormal(mu, torch.zeros(1, 2, 2)))
    tensor([1])
    """
    mu, _ = _posterior(q, least=2)
    threshold = check("threshold", NotNegative, threshold)
    return (mu.var(1) > threshold).sum(-1)


def kl_per_latent(q: DiagonalNormal) -> Tensor:
    """Mean over items of KL(q(z_k|x) ‖ N(0, 1)) for each latent k: (R, Z), nats.

    `q` has batch shape (R, items). Their sum over k is the KL term of the ELBO. Time and memory O(R items Z).
    Trap: it is what a latent costs, not what it says. It bounds the information that z_k has about x from
    above, and a constant mu ≠ 0 or sigma ≠ 1 costs without saying anything.
    Raises ValueError if q is not such a q. Source: kingma2014auto.

    >>> kl_per_latent(DiagonalNormal(torch.ones(1, 5, 2), torch.zeros(1, 5, 2)))
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    mu, log_sigma = _posterior(q)
    return ((mu.square() + (2 * log_sigma).expm1()) / 2 - log_sigma).mean(1)


@counts_as("evaluation")
def mutual_information(q: DiagonalNormal, samples: int = 1, seed: int = 0) -> Tensor:
    """Information that z has about which of the given items was encoded: (R,), nats.

    E[log q(z|x) − log 1/N Σ_j q(z|x_j)] for `q` of batch shape (R, N), by `samples` draws of z for each item.
    Replicas share the draws of the seeded generator, and each has the value that it has alone. Unbiased for
    these N items; other draws, and so another order of the items, give another estimate.
    Time O(R samples N² Z), memory O(R N Z) and a block; 10,000 items with 20 latents take seconds.
    Trap: its ceiling is ln N. What lies near it says that N is too small, not how much z knows. For all x it
    understates, by about (Π_k (1 + snr_k) − 1) / 2N for linear-Gaussian latents.
    Raises ValueError for less than 1 sample, or if q is not such a q. Source: hoffman2016elbo.

    >>> apart = DiagonalNormal(torch.tensor([[[0.0], [50.0]]]), torch.zeros(1, 2, 1))
    >>> mutual_information(apart).exp()
    tensor([2.], dtype=torch.float64)
    """
    mu, log_sigma = _posterior(q)
    samples, seed = check("samples", Count, samples), check("seed", Seed, seed)
    mu = mu - mu.mean(1, keepdim=True)  # nothing depends on it, but rounding does
    replicas, n, latents = mu.shape
    generator = Generator(mu.device).manual_seed(seed)
    density = _LogDensity(mu, log_sigma)
    total = torch.zeros(replicas, dtype=mu.dtype, device=mu.device)
    for _ in range(samples):
        eps = torch.randn(n, latents, generator=generator, dtype=mu.dtype, device=mu.device)
        for rows in _chunks(n, replicas * n):
            log_q = density.of(rows, eps[rows])
            # The own density is read off the same block, so that rounding does not lift it above ln N.
            total += (log_q.diagonal(rows.start, 1, 2) - log_q.logsumexp(-1)).sum(-1)
    return total / (samples * n) + math.log(n)


class _LogDensity:
    """log q(z_i|x_j), but for a constant, of z_i = mu_i + sigma_i · eps_i for all j."""

    def __init__(self, mu: Tensor, log_sigma: Tensor) -> None:
        self.mu, self.sigma = mu, log_sigma.exp()
        # −½ Σ ((z − mu) / sigma)² − Σ log sigma = [z², z, 1] · [−½ / sigma², mu / sigma², …], one matrix
        # product. It subtracts what is as large as (mu / sigma)²; where that leaves too few digits, the
        # differences are taken first, which is slower.
        precision = (-2 * log_sigma).exp()
        squares = (mu.square() * precision).sum(-1)
        self.constant = (squares / 2 + log_sigma.sum(-1)).neg().unsqueeze(1)
        self.weights = torch.cat((-precision / 2, mu * precision), -1).mT
        self.log_scale = log_sigma.sum(-1).unsqueeze(1)
        self.close = (~(squares.amax(1) * torch.finfo(mu.dtype).eps < 1e-9)).nonzero().squeeze(1)

    def of(self, rows: slice, eps: Tensor) -> Tensor:
        """For some rows i, with their `eps` (rows, Z): (R, rows, N)."""
        noise = self.sigma[:, rows] * eps
        z = self.mu[:, rows] + noise
        log_q = torch.baddbmm(self.constant, torch.cat((z.square(), z), -1), self.weights)
        if len(self.close):
            mu, sigma = self.mu[self.close], self.sigma[self.close]
            exact = self.log_scale[self.close].neg().expand(-1, z.shape[1], -1).clone()
            for k in range(mu.shape[-1]):
                apart = mu[:, rows, k, None] - mu[:, None, :, k] + noise[self.close, :, k, None]
                exact.sub_(apart.div_(sigma[:, None, :, k]).square_(), alpha=0.5)
            log_q[self.close] = exact
        return log_q


def _sample(name: str, x: Tensor, least: int = 1) -> Tensor:
    """`x` (items, features) in float64, cut from the graph."""
    wanted = f"{name}: expected a float tensor (items, features) with {least} items or more"
    if not isinstance(x, Tensor):
        raise ValueError(f"{wanted}, got {type(x).__name__}; torch.as_tensor converts an array")
    if x.ndim != 2 or not x.is_floating_point() or x.shape[0] < least or x.shape[1] == 0:
        raise ValueError(f"{wanted}, got {x.dtype} {tuple(x.shape)}; images are flattened by x.flatten(1)")
    x = x.detach().double()
    if not (good := x.isfinite().all(1)).all():
        bad = (~good).nonzero()
        raise ValueError(f"{name} holds NaN or infinity in {len(bad)} items, the first is item {int(bad[0])}")
    return x


def _samples(least: int, **pair: Tensor) -> tuple[Tensor, Tensor]:
    """Two samples of the same features, in float64."""
    a, b = (_sample(name, x, least) for name, x in pair.items())
    if a.shape[1] != b.shape[1] or a.device != b.device:
        first, second = pair
        raise ValueError(
            f"{first} and {second} must have the same features on the same device, got {a.shape[1]} on "
            f"{a.device} and {b.shape[1]} on {b.device}; take both through the same feature map and .to()"
        )
    return a, b


def _chunks(count: int, width: int) -> Iterator[slice]:
    """Slices that cover `count` rows, each of which makes `width` entries of a block."""
    step = max(1, _BLOCK // width)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _squared_distances(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows, each with ‖a_i − b_j‖² of its rows: (rows, len(b)); exactly 0 for equal items.

    One matrix product, which subtracts what is as large as the items: take a common centre from them first.
    Distances so small beside the items that fewer than nine digits are left are taken again, from the
    differences.
    """
    first, second = (torch.linalg.vector_norm(x, dim=1, keepdim=True).square() for x in (a, b))
    # [−2a, ‖a‖², 1] · [b, 1, ‖b‖²]
    left = torch.cat((-2 * a, first, torch.ones_like(first)), 1)
    right = torch.cat((b, torch.ones_like(second), second), 1).mT
    digits = 1e9 * 4 * left.shape[1] * torch.finfo(a.dtype).eps
    lost, by_second = digits * first, digits * second.mT
    for rows in _chunks(len(a), len(b)):
        distances = left[rows] @ right
        exact = distances > lost[rows] + by_second  # which is neither NaN nor overflow
        if not exact.all():
            i, j = (~exact).nonzero(as_tuple=True)
            for part in _chunks(len(i), a.shape[1]):
                distances[i[part], j[part]] = (a[rows][i[part]] - b[j[part]]).square_().sum(1)
        yield rows, distances


@counts_as("evaluation")
def kid(a: Tensor, b: Tensor) -> float:
    """Kernel distance of feature samples `a` (n, D) and `b` (m, D), each of 2 items or more.

    The U-statistic of the squared MMD with the kernel (aᵀb / D + 1)³, of the whole samples rather than of
    random subsets. Unbiased at any n, so that samples of different sizes may be compared; the Fréchet
    distance (FID) is biased upwards, the more so the fewer items. Time O((n + m)² D), memory O((n + m) D) and
    a block.
    Trap: it sees no more than the first three moments, and depends on the features and their scale; on pixels
    or another network's features it has no common scale with published values. Can be negative.
    Raises ValueError for samples that do not fit. Source: binkowski2018demystifying.

    >>> a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [1.0]])
    >>> kid(a, b)  # 1 + 8 − 2 · (1 + 27) / 2
    -19.0
    """
    a, b = _samples(2, a=a, b=b)
    one = a.new_ones(())

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return torch.addmm(one, x, y.mT, alpha=1 / x.shape[1]).pow_(3)

    def within(x: Tensor) -> Tensor:  # mean over pairs of different items, i < j: the kernel is symmetric
        pairs = (kernel(x[rows], x[rows.start :]).triu_(1).sum() for rows in _chunks(len(x), len(x)))
        return sum(pairs, x.new_zeros(())) * 2 / (len(x) * (len(x) - 1))

    between = sum((kernel(a[rows], b).sum() for rows in _chunks(len(a), len(b))), a.new_zeros(()))
    return float(_finite("the distance", within(a) + within(b) - 2 * between / (len(a) * len(b))))


@counts_as("evaluation")
def vendi_score(x: Tensor) -> float:
    """Effective number of different items in `x` (n, D), from 1 (all alike) to min(n, D) (all orthogonal).

    exp of the von Neumann entropy of K / n with the cosine kernel K. The D x D Gram matrix has the same
    non-zero eigenvalues and is used where n > D. Time O(n D min(n, D) + min(n, D)³), memory
    O(n D + min(n, D)²).
    Trap: it ignores data, and so rewards junk: noise scores highest. Show it beside precision. Of items that
    are all positive, such as pixels, the mean counts as what they share. (With an RBF kernel it would have no
    ceiling but n, and grow with n.)
    Raises ValueError for a sample that does not fit and for zero items, which have no direction.
    Source: friedman2023vendi.

    >>> round(vendi_score(torch.eye(3)), 6)
    3.0
    """
    x = _sample("x", x)
    largest = x.abs().amax(1, keepdim=True)
    if not largest.all():
        raise ValueError(
            f"the cosine kernel needs non-zero items, but {int((largest == 0).sum())} of {len(x)} are zero; "
            "leave them out, and say how many they were"
        )
    unit = torch.nn.functional.normalize(x / largest, dim=1)  # of any size: the squares stay finite
    gram = unit.mT @ unit if len(x) > x.shape[1] else unit @ unit.mT
    eigenvalues = torch.linalg.eigvalsh(gram / len(x)).clamp_min(0)
    return float(torch.special.entr(eigenvalues).sum().exp())


@counts_as("evaluation")
def manifold_scores(real: Tensor, generated: Tensor, k: int = 5) -> dict[str, float]:
    """`precision`, `recall`, `density` and `coverage` of `generated` (m, D) against `real` (n, D).

    The ball of an item reaches to, but not including, the k-th nearest other item of its own sample.
    precision: the part of the generated items in some real ball; recall: of the real ones in some generated
    ball; density: the number of real balls around a generated item, over k; coverage: the part of the real
    balls that hold a generated item. All are in [0, 1] but density, whose mean is 1 for two samples of one
    distribution. Each sample has more than k items. Time O((n + m)² D), memory O((n + m) D) and blocks.
    Traps: one outlier has a ball over much of the space, so that generated outliers inflate recall, and real
    ones precision. Two samples of one distribution have a mean coverage of 1 − Π_{t<k} (n−1−t) / (n+m−1−t),
    about 1 − 2^−k for n = m: not 1, and more with more generated items. Copies of the real items have 1 in
    all four.
    Raises ValueError for samples that do not fit or are too small.
    Sources: kynkaanniemi2019improved (precision, recall), naeem2020reliable (density, coverage).

    >>> real, copies = torch.arange(6.0).unsqueeze(1), torch.zeros(6, 1)
    >>> scores = manifold_scores(real, copies, k=2)
    >>> scores["recall"]  # collapsed to one item: its balls have no inside
    0.0
    """
    k = check("k", Count, k)
    real, generated = _samples(k + 1, real=real, generated=generated)
    # What one outlier does not move, so that the squares of most items are no larger than their distances.
    # And scaled by a power of two, which does not round, so that neither vanish.
    centre = real.median(0).values
    real, generated = real - centre, generated - centre
    sizes = real.abs()[real != 0]
    exponent = sizes.median().frexp().exponent.neg() if len(sizes) else torch.zeros(())
    real, generated = real.ldexp(exponent), generated.ldexp(exponent)

    def radii(x: Tensor) -> Tensor:
        """Squared, and less than a tie: the first of the k + 1 nearest is the item itself."""
        nearest = [block.topk(k + 1, largest=False).values[:, k] for _, block in _squared_distances(x, x)]
        return torch.cat(nearest) * (1 - 1e-9)

    real_radii, generated_radii = radii(real), radii(generated)
    balls = torch.zeros(len(generated), dtype=torch.int64, device=real.device)
    covered, recalled = [], []
    for rows, block in _squared_distances(real, generated):
        inside = block < real_radii[rows].unsqueeze(1)
        balls += inside.sum(0)
        covered.append(inside.any(1))
        recalled.append((block < generated_radii).any(1))
    return {
        "precision": float((balls > 0).double().mean()),
        "recall": float(torch.cat(recalled).double().mean()),
        "density": float(balls.double().mean() / k),
        "coverage": float(torch.cat(covered).double().mean()),
    }
