"""Makes ``import torchvision`` work where its compiled operators do not fit the installed torch.

A torchvision wheel built for CUDA beside a CPU-only torch can't load its operators, and then dies on import with
"operator torchvision::nms does not exist": it wants to describe two operators to the compiler. Their names are enough
for that, and neither is used by a classification model or a transform.
"""

import importlib.machinery
import importlib.util
import logging
import sys
from functools import cache

import torch

_logger = logging.getLogger(__name__)


@cache  # keeps the library alive: the declarations vanish with it
def declare_missing_ops() -> torch.library.Library | None:
    """Declares torchvision's ``nms`` and ``qnms`` where its compiled operators can't be loaded, and logs that it did.

    Call it before torchvision or timm (which imports torchvision) is imported. Returns ``None`` where there was
    nothing to do.
    """
    if "torchvision" in sys.modules or _compiled_ops_load():
        return None
    library = torch.library.Library("torchvision", "DEF")
    for op in ("nms", "qnms"):
        library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _logger.info("torchvision's compiled operators do not load beside torch %s: none is needed here", torch.__version__)
    return library


def _compiled_ops_load() -> bool:
    package = importlib.util.find_spec("torchvision")
    if package is None:
        return True  # not installed: let the import say so
    extension = importlib.machinery.PathFinder.find_spec("_C", package.submodule_search_locations)
    if extension is None or extension.origin is None:
        return False
    try:
        torch.ops.load_library(extension.origin)
    except OSError:
        return False
    return True
