"""Speed as ratios within one run: `make bench`. Exit status 1 if a required figure is missed.

The two sides of a ratio are warmed up and then take turns, so that whatever else the machine does hits both.
It should do little: two threads that have to share two cores with other programs wait for each other.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from trainings import FASTER, Ours, Plain, rows

from vae_lab import ESTIMATORS, NOISES, VAE, benchmark, elbo, fit, load
from vae_lab.estimators.costs import COSTS
from vae_lab.measure.benchmarking import replicate_gradients
from vae_lab.measure.gradient_moments import GradientMoments, encoder_gradients
from vae_lab.measure.statistics import deviation_limit

ROUNDS, MIN_SECONDS = 5, 1.0
missed: list[str] = []


def seconds(f: Callable[[], object]) -> float:
    """Median time of a call, of as many calls as start within MIN_SECONDS."""
    times: list[float] = []
    while sum(times) < MIN_SECONDS:
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ratio(
    title: str, ours: Callable[[], object], other: Callable[[], object], scale: float = 1.0
) -> tuple[float, str]:
    """Median over the rounds of scale · time(other) / time(ours), and a line that reports it."""
    sides = (ours, other)
    for f in sides:
        f()
    rounds = [[seconds(f) for f in sides] for _ in range(ROUNDS)]
    ratios = [scale * b / a for a, b in rounds]
    a, b = (statistics.median(side) for side in zip(*rounds, strict=True))
    line = (
        f"{title}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} in {ROUNDS} rounds"
    )
    return statistics.median(ratios), f"{line}; {a * 1e3:.1f} ms against {b * 1e3:.1f} ms)"


def report(line: str, required: str = "", met: bool = True) -> None:
    print(line, flush=True)
    if required:
        print(f"    required: {required} -> {'met' if met else 'MISSED'}", flush=True)
    if not met:
        missed.append(line)


def matrix_products(items: int, batch_size: int, widths: tuple[int, int, int]) -> Callable[[], None]:
    """The products of one epoch of a features-hidden-latents VAE, forward and backward, and nothing else."""
    features, hidden, latents = widths
    layers = [(features, hidden), (hidden, 2 * latents), (latents, hidden), (hidden, features)]
    weights = [torch.randn(shape) for shape in layers]

    def operands(rows: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        products = []
        for position, (weight, (inputs, outputs)) in enumerate(zip(weights, layers, strict=True)):
            x, gradient = torch.randn(rows, inputs), torch.randn(rows, outputs)
            products.append((x, weight, torch.empty(rows, outputs)))
            products.append((x.T, gradient, torch.empty(inputs, outputs)))
            if position:  # data need no gradient
                products.append((gradient, weight.T, torch.empty(rows, inputs)))
        return products

    steps = [operands(batch_size)] * (items // batch_size)
    if items % batch_size:
        steps.append(operands(items % batch_size))

    def run() -> None:
        for step in steps:
            for a, b, out in step:
                torch.mm(a, b, out=out)

    return run


def import_seconds() -> list[float]:
    """Time of `import vae_lab` in fresh processes that have already imported torch and pandas."""
    code = (
        "import pandas, time, torch; start = time.perf_counter(); import vae_lab; "
        "print(time.perf_counter() - start)"
    )
    command = [sys.executable, "-c", code]
    return [float(subprocess.check_output(command)) for _ in range(ROUNDS)]


def memory_growth() -> float:
    """Gigabytes by which ten million replicates raise the peak memory of a fresh process (Linux)."""
    # Not getrusage, whose peak a child inherits from its parent.
    code = """
import re, torch
from pathlib import Path
from vae_lab import benchmark
def run(replicates):
    q = torch.distributions.Normal(torch.tensor(0.5), torch.tensor(2.0))
    benchmark(torch.cos, q, "pathwise", replicates=replicates)
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(-run(1_000) + run(10_000_000))
"""
    return float(subprocess.check_output([sys.executable, "-c", code])) * 1024 / 1e9


def latent_problem() -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """The log-likelihood of a 784-pixel image under a 20-400-784 decoder, and mean and sigma of q."""
    decoder = nn.Sequential(nn.Linear(20, 400), nn.GELU(), nn.Linear(400, 784)).requires_grad_(False)
    x = torch.rand(784).round()

    def log_likelihood(z: Tensor) -> Tensor:
        logits = decoder(z)
        bce = nn.functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
        return -bce.sum(-1)

    return log_likelihood, torch.randn(20), torch.rand(20) + 0.5


def one_by_one(
    cost: Callable[[Tensor], Tensor], mu: Tensor, sigma: Tensor, replicates: int
) -> tuple[Tensor, Tensor]:
    """Replicate gradients by a loop: (replicates, Z) with respect to mu and to sigma."""
    mu, sigma = mu.clone().requires_grad_(), sigma.clone().requires_grad_()
    gradients = []
    for _ in range(replicates):
        mu.grad = sigma.grad = None
        cost(Normal(mu, sigma).rsample()).backward()
        gradients.append((mu.grad, sigma.grad))
    by_mu, by_sigma = zip(*gradients, strict=True)
    return torch.stack(by_mu), torch.stack(by_sigma)


def backward_passes(vae: VAE, x: Tensor, replicates: int) -> Iterator[dict[str, Tensor]]:
    """Gradients of the mean ELBO by the encoder's weights, one after the other."""
    weights = dict(vae.encoder.named_parameters())
    for _ in range(replicates):
        vae.zero_grad()
        elbo(vae, x).elbo.mean().backward()
        yield {name: weight.grad for name, weight in weights.items() if weight.grad is not None}


def moments_by_loop(vae: VAE, x: Tensor, replicates: int) -> GradientMoments:
    """The usual way to mean and variance: running sums."""
    sums, squares = (
        {name: torch.zeros_like(p) for name, p in vae.encoder.named_parameters()} for _ in range(2)
    )
    for gradients in backward_passes(vae, x, replicates):
        for name, g in gradients.items():
            sums[name] += g
            squares[name].addcmul_(g, g)
    mean = {name: value / replicates for name, value in sums.items()}
    variance = {
        name: (value - replicates * mean[name] ** 2) / (replicates - 1) for name, value in squares.items()
    }
    return GradientMoments(mean, variance)


def largest_deviation(vae: VAE, x: Tensor, replicates: int) -> tuple[float, float]:
    """Between moments by `encoder_gradients` and by a loop, in standard errors, and the limit for it.

    The standard error of a variance comes from the fourth moment; one false alarm in a million.
    """
    ours = encoder_gradients(vae, x, replicates=replicates, seed=1)
    powers = {name: torch.zeros(4, *m.shape, dtype=torch.float64) for name, m in ours.mean.items()}
    for gradients in backward_passes(vae, x, replicates):
        for name, g in gradients.items():
            centred = (g - ours.mean[name]).double()
            power = torch.ones_like(centred)
            for total in powers[name]:
                power *= centred
                total += power
    largest, numbers = 0.0, 0
    for name, sums in powers.items():
        first, second, third, fourth = sums / replicates
        variance = second - first**2
        spread = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4 - variance**2
        live = ours.variance[name] > 0  # not the weights of pixels that are always black
        steps = [
            first.abs() / (2 * variance / replicates).sqrt(),
            (variance - ours.variance[name]).abs() / (2 * spread / replicates).sqrt(),
        ]
        largest = max(largest, *(step[live].max().item() for step in steps))
        numbers += 2 * int(live.sum())
    return largest, deviation_limit(numbers)


def ablation(variants: Sequence[tuple[str, float | None]], seeds: Sequence[int]) -> None:
    """Train a model for each pair of variant, a noise and a constant sigma or None, and seed."""
    pairs = [(*variant, seed) for variant in variants for seed in seeds]
    noises, sigmas, own = map(list, zip(*pairs, strict=True))
    vae = VAE(64, 8, (64,), replicas=len(pairs), seed=own, sigma=sigmas)
    fit(vae, load("digits"), epochs=10, noise=noises, seed=own, progress=False)


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    torch.manual_seed(0)

    for row in rows():
        title = f"(a) step for each replica, {row.title}, faster than a plain loop with fused Adam"
        value, line = ratio(title, Ours(row), Plain(row._replace(replicas=1)), row.replicas)
        least = FASTER[row.features, row.replicas]
        report(line, f"at least {least}", value >= least)

    images = torch.rand(60_000, 784)
    products = matrix_products(60_000, 128, (784, 400, 20))
    for activation in ("relu", "gelu"):
        vae = VAE(784, 20, (400,), activation=activation)
        title = f"(b) epoch of 60,000 x 784, 784-400-20-400-784 {activation}, over its matrix products alone"
        value, line = ratio(title, products, lambda vae=vae: fit(vae, images, epochs=1, progress=False))
        report(line, *(("at most 1.7, aim 1.35", value <= 1.7) if activation == "relu" else ()))

    needed = statistics.median(import_seconds())
    report(f"(c) import vae_lab, beyond torch and pandas: {needed:.3f} s", "under 0.3 s", needed < 0.3)

    names = ["pathwise", "score_function", "score_function_baseline", "rloo"]
    names += ["measure_valued", "antithetic", "quasi_monte_carlo", "delta_control_variate"]
    q = Normal(torch.tensor(0.5), torch.tensor(2.0))
    needed = seconds(lambda: benchmark(COSTS["cosine"](1.0), q, names, n=2, replicates=100_000))
    line = f"(d) benchmark of {len(names)} estimators, two samples, 100,000 replicates: {needed:.2f} s"
    report(line, "under 10 s", needed < 10)
    needed = memory_growth()
    line = f"(d) peak memory of 10,000,000 replicates of one estimator: {needed:.2f} GB more than of 1,000"
    report(line, "under 2 GB", needed < 2)

    cost, mu, sigma = latent_problem()
    many = Independent(Normal(mu, sigma), 1)
    value, line = ratio(
        "(e) 1,000 gradients of a 20-400-784 decoder's log-likelihood, faster than a loop",
        lambda: replicate_gradients(ESTIMATORS["pathwise"], cost, many, 1, 1000),
        lambda: one_by_one(cost, mu, sigma, 1000),
    )
    report(line, "at least 15", value >= 15)

    # 32 items, as in the chapter on gradients in a VAE. With many, both sides do little else than matrix
    # products, and the loop only about twice as many.
    replicates = 300
    for sizes, name, items, goal in (
        ((64, 2, (64,)), "digits", 32, 8),
        ((784, 20, (400,)), "mnist-5k", 32, 4),
        ((784, 20, (400,)), "mnist-5k", 100, None),
    ):
        vae, x = VAE(*sizes), (load(name).test[:items] > 0.5).float()
        layers = f"{sizes[0]}-{sizes[2][0]}-{sizes[1]}"
        value, line = ratio(
            f"(f) moments of {replicates} encoder gradients, {layers}, {items} items, faster than a loop",
            lambda vae=vae, x=x: encoder_gradients(vae, x, replicates=replicates),
            lambda vae=vae, x=x: moments_by_loop(vae, x, replicates),
        )
        if goal is None:
            report(line)
            continue
        report(line, f"at least {goal}", value >= goal)
        deviation, limit = largest_deviation(vae, x, 1000)
        line = f"    largest deviation between the two, of 1,000 gradients: {deviation:.1f} standard errors"
        report(line, f"under {limit:.1f}", deviation < limit)

    variants = [(noise, None) for noise in NOISES] + [("gaussian", 1.0)]
    value, line = ratio(
        f"(g) ablation of {len(variants)} variants x 5 seeds, faster than the same trainings one by one",
        lambda: ablation(variants, range(5)),
        lambda: [ablation([variant], [seed]) for variant in variants for seed in range(5)],
    )
    report(line, "at least 3", value >= 3)

    if missed:
        sys.exit(f"missed {len(missed)} of the required figures")


if __name__ == "__main__":
    main()
