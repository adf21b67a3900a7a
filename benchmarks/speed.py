"""Speed as ratios within one run: `make bench`.

Timed by torch.utils.benchmark, which warms up and repeats. The two sides of a ratio take turns, so that
whatever else the machine does hits both.
"""

import statistics
import subprocess
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from vae_lab import VAE, fit, load

ROUNDS, MIN_SECONDS = 5, 1.0


def ratio(
    title: str, ours: Callable[[], object], other: Callable[[], object], scale: float = 1.0
) -> tuple[float, str]:
    """Median over the rounds of scale · time(other) / time(ours), and a line that reports it."""
    timers = [Timer("f()", globals={"f": f}, num_threads=torch.get_num_threads()) for f in (ours, other)]
    rounds = [[t.blocked_autorange(min_run_time=MIN_SECONDS).median for t in timers] for _ in range(ROUNDS)]
    ratios = [scale * b / a for a, b in rounds]
    a, b = (statistics.median(side) for side in zip(*rounds, strict=True))
    line = (
        f"{title}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} in {ROUNDS} rounds"
    )
    return statistics.median(ratios), f"{line}; {a * 1e3:.1f} ms against {b * 1e3:.1f} ms)"


def plain_loop(x: Tensor, epochs: int, batch_size: int, fused: bool) -> None:
    """The usual way to train one model: modules, two heads, torch's Adam as it comes."""
    encoder = nn.Sequential(nn.Linear(64, 128), nn.GELU())
    mean, log_scale = nn.Linear(128, 8), nn.Linear(128, 8)
    decoder = nn.Sequential(nn.Linear(8, 128), nn.GELU(), nn.Linear(128, 64))
    parameters = nn.ModuleList([encoder, mean, log_scale, decoder]).parameters()
    optimizer = torch.optim.Adam(parameters, fused=fused or None)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(batch_size):
            item = torch.bernoulli(x[index])
            hidden = encoder(item)
            mu, log_sigma = mean(hidden), log_scale(hidden)
            # The benchmark is of code that does not call the package.
            logits = decoder(torch.addcmul(mu, log_sigma.exp(), torch.randn_like(mu)))
            bce = nn.functional.binary_cross_entropy_with_logits(logits, item, reduction="sum")
            kl = 0.5 * (mu**2 + (2 * log_sigma).exp() - 1 - 2 * log_sigma).sum()
            loss = (bce + kl) / len(item)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


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


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")

    digits, replicas, epochs = load("digits"), 16, 4
    several = VAE(64, 8, (128,), replicas=replicas)

    def batched() -> None:
        fit(several, digits, epochs=epochs, batch_size=100, progress=False)

    for fused, label in ((False, ""), (True, " with fused Adam")):
        title = f"(a) per-replica step, {replicas} replicas, faster than a plain loop{label}"
        value, line = ratio(
            title, batched, lambda f=fused: plain_loop(digits.train, epochs, 100, f), replicas
        )
        print(line + ("" if fused else f"\n    required: at least 3 -> {'met' if value >= 3 else 'MISSED'}"))

    images = torch.rand(60_000, 784)
    products = matrix_products(60_000, 128, (784, 400, 20))
    for activation in ("relu", "gelu"):
        vae = VAE(784, 20, (400,), activation=activation)
        title = f"(b) epoch of 60,000 x 784, 784-400-20-400-784 {activation}, over its matrix products alone"
        value, line = ratio(title, products, lambda vae=vae: fit(vae, images, epochs=1, progress=False))
        required = f"\n    required: at most 1.7, aim 1.35 -> {'met' if value <= 1.7 else 'MISSED'}"
        print(line + (required if activation == "relu" else ""))

    seconds = statistics.median(import_seconds())
    print(f"(c) import vae_lab, beyond torch and pandas: {seconds:.3f} s")
    print(f"    required: under 0.3 s -> {'met' if seconds < 0.3 else 'MISSED'}")


if __name__ == "__main__":
    main()
