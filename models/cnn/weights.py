"""Weight files: read them without running code, load them without silent gaps, and hash the weights."""

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
    """A backbone is unknown, or its weights are missing or do not fit. The message says what to do."""


def read_state_dict(path: Path) -> OrderedDict[str, torch.Tensor]:
    """Read a weight file, ``.safetensors`` or the output of ``torch.save``, as a dictionary of tensors.

    The state dict may be at the top level or under the key ``state_dict`` or ``model``. The prefix ``module.`` that
    DataParallel adds is removed.

    Raises:
        BackboneError: the file does not exist or does not contain named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise BackboneError(f"no weight file at {path}. Pass a .pth, .pt or .safetensors file as --weights")
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
            f"{path} contains no state dict (tensors by name), neither at the top level nor under 'state_dict' or "
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
    """Load ``state_dict`` into ``network``; their keys and shapes must match exactly.

    Args:
        network: the backbone without its classifier.
        state_dict: the result of ``read_state_dict``.
        ignore: modules whose tensors are skipped if present: the classifier, auxiliary heads.
        name: the backbone's name, for the error message.
        source: the origin of the weights, for the error message.

    Raises:
        BackboneError: keys are missing or unexpected, or a shape differs. The message names them.
    """
    wanted = OrderedDict(
        (key, tensor)
        for key, tensor in state_dict.items()
        if not key.startswith(tuple(f"{module}." for module in ignore))
    )
    # Module versions tell torchvision which old key names to expect. A format without versions gets only that of the
    # root, without which MNASNet refuses to load. Every other module then accepts old and new names.
    metadata = getattr(state_dict, "_metadata", {"": {"version": network._version}})
    setattr(wanted, "_metadata", metadata)  # noqa: B010 (no such attribute in the type)
    try:
        keys = network.load_state_dict(wanted, strict=False)
    except RuntimeError as error:
        raise BackboneError(f"{source} does not fit {name}: {error}") from error
    # A frozen network does not use BatchNorm's step counter, and older files lack it.
    missing = [key for key in keys.missing_keys if not key.endswith("num_batches_tracked")]
    if missing or keys.unexpected_keys:
        misfits = f"{_summary('missing', missing)}, {_summary('unexpected', keys.unexpected_keys)}"
        raise BackboneError(
            f"{source} does not fit {name}: {misfits}. Pass weights of {name}, or select the backbone of these weights"
        )


def _summary(kind: str, keys: Sequence[str], shown: int = 5) -> str:
    if not keys:
        return f"no {kind} keys"
    more = ", ..." if len(keys) > shown else ""
    return f"{len(keys)} {kind} ({', '.join(keys[:shown])}{more})"


def weights_sha256(network: nn.Module) -> str:
    """Hash a network's tensors, with their names, dtypes and shapes, in sorted key order.

    The same weights have the same hash whatever file and format they were read from.
    """
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        if key.endswith("num_batches_tracked"):  # see load_weights: no feature depends on it
            continue
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
