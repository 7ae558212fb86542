"""Weight files: read them without running code from them, load them without a silent gap, name them by their bytes."""

import hashlib
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from data.errors import UserError


class BackboneError(UserError):
    """A backbone that is not known, or weights that are not there or do not fit. The message says what to do."""


def read_state_dict(path: Path) -> OrderedDict[str, torch.Tensor]:
    """The tensors of a weight file by name: ``.safetensors``, or what ``torch.save`` wrote.

    A state dict that lies under the key ``state_dict`` or ``model`` is found there; the prefix ``module.`` that
    DataParallel leaves is taken off.

    Raises:
        BackboneError: there is no such file, or it holds something other than named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise BackboneError(f"no weight file at {path}. --weights takes a .pth, .pt or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise BackboneError(
            f"{path} can't be read as weights: {error}\nOnly tensors are read, never pickled code. "
            "Save the weights with torch.save(model.state_dict(), FILE) or as .safetensors"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not _is_state_dict(content):
        raise BackboneError(
            f"{path} holds no state dict (names and their tensors), neither at its top nor under 'state_dict' or "
            "'model'. Save one with torch.save(model.state_dict(), FILE)"
        )
    if not isinstance(content, OrderedDict):
        content = OrderedDict(content)
    consume_prefix_in_state_dict_if_present(content, "module.")
    return content


def _is_state_dict(content: object) -> bool:
    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items())
    )


def load_weights(
    network: nn.Module, state_dict: OrderedDict[str, torch.Tensor], ignore: Sequence[str], name: str, source: str
) -> None:
    """Loads ``state_dict`` into ``network``; every tensor must find its place and every place its tensor.

    Args:
        network: without its classifier.
        state_dict: as ``read_state_dict`` gives it.
        ignore: modules that may stand in ``state_dict`` and are not loaded: the classifier, auxiliary heads.
        name: of the backbone, for the message.
        source: of the weights, for the message.

    Raises:
        BackboneError: names the keys that are missing, unexpected or of another shape.
    """
    wanted = OrderedDict(
        (key, tensor)
        for key, tensor in state_dict.items()
        if not key.startswith(tuple(f"{module}." for module in ignore))
    )
    # Module versions tell torchvision which old key names to expect. A format without them gets the root's version
    # only, since MNASNet refuses to load without it, and every other module then accepts old and new names.
    metadata = getattr(state_dict, "_metadata", {"": {"version": network._version}})
    setattr(wanted, "_metadata", metadata)  # noqa: B010 (no such attribute in the type)
    try:
        keys = network.load_state_dict(wanted, strict=False)
    except RuntimeError as error:
        raise BackboneError(f"{source} does not fit {name}: {error}") from error
    # BatchNorm's step counter is of no use to a frozen network, and older files lack it.
    missing = [key for key in keys.missing_keys if not key.endswith("num_batches_tracked")]
    if missing or keys.unexpected_keys:
        misfits = f"{_named('missing', missing)}, {_named('unexpected', keys.unexpected_keys)}"
        raise BackboneError(
            f"{source} does not fit {name}: {misfits}. "
            f"Give the weights of {name}, or name the backbone that they belong to"
        )


def _named(kind: str, keys: Sequence[str], shown: int = 5) -> str:
    if not keys:
        return f"no {kind} keys"
    more = ", ..." if len(keys) > shown else ""
    return f"{len(keys)} {kind} ({', '.join(keys[:shown])}{more})"


def weights_sha256(network: nn.Module) -> str:
    """sha256 over a network's tensors in sorted key order, with their names, dtypes and shapes.

    The same weights from another file, or another file format, give the same value.
    """
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        if key.endswith("num_batches_tracked"):  # see load_weights: no feature depends on it
            continue
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
