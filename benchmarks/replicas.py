"""The replica axis on a device: how much one batched program does against R separate ones.

    python benchmarks/replicas.py cuda > book/measured/replicas-NAME.csv

For 1 to 512 replicas of a VAE, the time of a step of `fit` (binarisation, noise, gradients, Adam), and
what one replica's step costs relative to that of a single model. Prints a CSV that names the device. Needs
enough memory for the largest model: on an accelerator about 7 GB.
"""

import csv
import platform
import sys
import time

import torch

from vae_lab import VAE, fit
from vae_lab.data import Dataset

BATCH, STEPS = 128, 30
MODELS = {"64-128-8": (64, 128, 8), "784-400-20": (784, 400, 20)}


def seconds_per_step(vae: VAE, data: Dataset) -> float:
    """Best of three, after a warm-up: other programs only ever slow it down."""
    times = []
    for repeat in range(4):
        if vae.prior.mean.is_cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        fit(vae, data, epochs=1, batch_size=BATCH, seed=repeat, progress=False)  # ends by reading the losses
        times.append((time.perf_counter() - start) / STEPS)
    return min(times[1:])


def main() -> None:
    device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu")
    largest = int(sys.argv[2]) if len(sys.argv) > 2 else 512
    cuda = device.type == "cuda"
    name = (
        torch.cuda.get_device_name(device)
        if cuda
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    table = csv.writer(sys.stdout)
    table.writerow(
        ["device", "torch", "model", "replicas", "ms_per_step", "items_per_second", "cost_of_a_replica"]
    )
    for model, (features, hidden, latents) in MODELS.items():
        x = torch.rand(BATCH * STEPS, features, device=device)
        labels = torch.zeros(len(x), dtype=torch.int64)
        data = Dataset("random", x, x, labels, labels, (1, features), "dynamic")
        alone = 0.0
        for exponent in range(largest.bit_length()):
            replicas = 2**exponent
            vae = VAE(features, latents, (hidden,), replicas=replicas).to(device)
            step = seconds_per_step(vae, data)
            alone = alone or step
            row = [f"{step * 1e3:.3f}", f"{replicas * BATCH / step:.0f}", f"{step / replicas / alone:.4f}"]
            table.writerow([name, torch.__version__, model, replicas, *row])
            sys.stdout.flush()
            del vae


if __name__ == "__main__":
    main()
