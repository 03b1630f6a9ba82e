"""Lets a torchvision whose compiled operators cannot load be imported. The one place for this; does nothing where torchvision is whole.

Why: the index carries torchvision 0.28.0 only as a CUDA build. Beside a CPU build of torch its operator library is
skipped, and `import torchvision` then fails with "operator torchvision::nms does not exist" while it registers fake
kernels; timm, lightning and transformers import torchvision. Declaring the two schemas first makes the import pass; no
histoserve code calls either operator. Remove this when a CPU build of torchvision is installable.

Import this module before timm, lightning or torchmetrics.
"""

from __future__ import annotations

import importlib
import sys

import torch

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def mend_torchvision() -> bool:
    """Import torchvision; where only its operators are missing, declare them and import again. True where that was needed."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        for name, schema in _SCHEMAS.items():
            torch.library.define(f"torchvision::{name}", schema)
        importlib.import_module("torchvision")
        return True
    return False


IS_MENDED = mend_torchvision()
