"""Model files that are safe to open."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from .model import VAE


def save_model(vae: VAE, path: str | os.PathLike[str]) -> None:
    """Write the weights and the constructor's arguments to one safetensors file.

    Written beside its final place and renamed, so that `path` holds the old file or the whole new one; a
    symbolic link stays one. Raises FileNotFoundError for a folder that is missing, and ValueError for a
    `path` that is not a file, and for a model whose class and `config` do not make it again.
    """
    name = os.fspath(path)
    path = Path(os.path.realpath(path))  # what a link points to
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"no folder {os.fspath(path.parent)!r} to save {path.name!r} in; make it first"
        )
    if os.path.lexists(path) and not path.is_file():
        raise ValueError(f"{name!r} is a folder, a device or a link in a circle; give the name of a file")
    kind = type(vae)
    try:
        different, reason = _difference(_blank(kind, vae.config), vae), None
    except Exception as error:  # whatever the constructor of a subclass raises
        different, reason = "it raises an error", error
    if different:
        raise ValueError(
            f"{kind.__qualname__}(**vae.config) is not this model, so it could not be loaded as what it is "
            f"({different}); let {kind.__qualname__}.config return all arguments that make it, or save "
            "vae.state_dict()"
        ) from reason
    metadata = {"vae_lab": json.dumps(vae.config), "class": _name(kind)}
    content = serialize({k: v.contiguous() for k, v in vae.state_dict().items()}, metadata=metadata)
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
    """The VAE, or the object of a subclass, that `save_model` wrote. Nothing in the file is ever executed.

    Raises FileNotFoundError; or ValueError for a file that is truncated, foreign or does not match, before it
    takes more memory than the file has bytes, and for a subclass that is not defined in this process.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"there is no model file {os.fspath(path)!r}; vae_lab.vae.files.save_model(vae, path) makes one"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            config = json.loads(metadata["vae_lab"])
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            wanted = metadata.get("class", _name(VAE))
            kind = {_name(kind): kind for kind in _kinds(VAE)}.get(wanted)
            if kind is not None:
                _check_shapes(kind, config, shapes)
                state = {name: file.get_tensor(name) for name in shapes}
                vae = kind(**config).to(next(iter(state.values())).dtype)
                vae.load_state_dict(state)
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{os.fspath(path)!r} is not a model that save_model wrote, or it is truncated "
            f"({type(error).__name__}: {error}); save the model again"
        ) from error
    if kind is None:
        raise ValueError(
            f"{os.fspath(path)!r} holds a {wanted:.200}; import or define this subclass of VAE first"
        )
    return vae


def _name(kind: type[VAE]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _kinds(kind: type[VAE]) -> Iterator[type[VAE]]:
    """A class and those derived from it, the latest last."""
    yield kind
    for derived in kind.__subclasses__():
        yield from _kinds(derived)


def _blank(kind: type[VAE], config: dict[str, Any]) -> VAE:
    """The model without values, and so without memory."""
    with torch.device("meta"):
        return kind(**config)


def _difference(a: VAE, b: VAE) -> str | None:
    """Where two models differ in more than the values of their weights, in words."""
    modules = dict(a.named_modules()), dict(b.named_modules())
    if [(name, type(m)) for name, m in modules[0].items()] != [
        (name, type(m)) for name, m in modules[1].items()
    ]:
        return "it has other modules"
    weights = [{name: value.shape for name, value in vae.state_dict().items()} for vae in (a, b)]
    if weights[0] != weights[1]:
        return "its weights have other shapes"
    for name, module in modules[0].items():
        first, second = (vars(m) for m in (module, modules[1][name]))
        for key in (first.keys() | second.keys()) - vars(nn.Module()).keys():
            value = first.get(key)
            if isinstance(value, Tensor) or value != second.get(key):
                return f"its {name}{name and '.'}{key} is another"
    return None


def _check_shapes(kind: type[VAE], config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    """Raises ValueError for a `config` whose model has other weights than those in the file."""
    replicas = config["replicas"]
    # Lists have one entry for each replica; and who names a million replicas must have brought them.
    if not all(0 not in shape and shape[:1] == (replicas,) for shape in shapes.values()):
        raise ValueError(f"{replicas=} are not those of the weights")
    expected = {name: tuple(value.shape) for name, value in _blank(kind, config).state_dict().items()}
    if expected != shapes:
        raise ValueError("the weights have other shapes than the model")
