"""Make ``import torchvision`` work if its compiled operators do not match the installed torch.

A torchvision wheel built for CUDA can't load its operators with a CPU-only torch, and its import fails with "operator
torchvision::nms does not exist", because it registers compiler descriptions of two operators. Declaring their
signatures is enough: no classification model or transform calls them.
"""

import importlib.machinery
import importlib.util
import logging
import sys
from functools import cache

import torch

_logger = logging.getLogger(__name__)


@cache  # keeps the library alive; the declarations disappear with it
def declare_missing_ops() -> torch.library.Library | None:
    """Declare torchvision's ``nms`` and ``qnms`` if its compiled operators can't be loaded, and log that.

    Call it before importing torchvision or timm, which imports torchvision. Returns ``None`` if nothing had to be
    declared.
    """
    if "torchvision" in sys.modules or _compiled_ops_load():
        return None
    library = torch.library.Library("torchvision", "DEF")
    for op in ("nms", "qnms"):
        library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _logger.info("torchvision's compiled operators do not load with torch %s; none is needed", torch.__version__)
    return library


def _compiled_ops_load() -> bool:
    package = importlib.util.find_spec("torchvision")
    if package is None:
        return True  # not installed: the import itself raises the error
    extension = importlib.machinery.PathFinder.find_spec("_C", package.submodule_search_locations)
    if extension is None or extension.origin is None:
        return False
    try:
        torch.ops.load_library(extension.origin)
    except OSError:
        return False
    return True
