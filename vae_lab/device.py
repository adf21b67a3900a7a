"""Where models compute: on the CPU, or on a GPU.

This is apart from the models, so that reading a `Device` does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]


def choose_device(name: Device) -> torch.device:
    """The device of that name; "auto" is CUDA where torch finds it, and the CPU elsewhere."""
    import torch

    if name not in get_args(Device):
        raise ValueError(f"device is one of {', '.join(map(repr, get_args(Device)))}, got {name!r}")
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise ValueError("torch finds no CUDA here; 'auto' takes the CPU then, and 'cpu' always does")
    return torch.device("cuda" if found and name != "cpu" else "cpu")
