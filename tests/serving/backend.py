"""The backend's modules, imported as the server's stub does: by their own names. Knows no test."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from serving.triton_install import SERVING_FOLDER

BACKEND = SERVING_FOLDER / "backends" / "onnxruntime"


def backend_module(name: str) -> Any:
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode  # the folder is copied as it is
    sys.path.insert(0, str(BACKEND))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BACKEND))
        sys.dont_write_bytecode = before
