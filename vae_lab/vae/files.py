"""Model files that are safe to open."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize

from .model import VAE


def save_model(vae: VAE, path: str | os.PathLike[str]) -> None:
    """Write the weights and the constructor's arguments to one safetensors file.

    Written beside its final place and renamed, so that `path` holds the old file or the whole new one.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"no folder {os.fspath(path.parent)!r} to save {path.name!r} in; make it first"
        )
    content = serialize(vae.state_dict(), metadata={"vae_lab": json.dumps(vae.config)})
    private = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with private.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(private, path)
    finally:
        private.unlink(missing_ok=True)


def load_model(path: str | os.PathLike[str]) -> VAE:
    """The VAE that `save_model` wrote. Nothing in the file is ever executed.

    Raises FileNotFoundError, or ValueError for a file that is truncated, foreign or does not match.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"there is no model file {os.fspath(path)!r}; vae_lab.vae.files.save_model(vae, path) makes one"
        )
    try:
        with safe_open(path, framework="pt") as file:
            config = (file.metadata() or {})["vae_lab"]
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        vae = VAE(**json.loads(config)).to(next(iter(state.values())).dtype)
        vae.load_state_dict(state)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, StopIteration) as error:
        raise ValueError(
            f"{os.fspath(path)!r} is not a model that save_model wrote, or it is truncated "
            f"({type(error).__name__}: {error}); save the model again"
        ) from error
    return vae
