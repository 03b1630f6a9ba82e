"""What a machine lacks is a reason to skip, printed; how tests are started does not matter."""

from __future__ import annotations

import importlib.util
import signal

import pytest


def pytest_configure() -> None:
    # A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that: the tests that interrupt would wait in vain.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    _group(items)
    marked = [item for item in items if item.get_closest_marker("gpu") is not None]
    if not marked:
        return
    import torch  # seconds, and only these tests ask for it

    missing = [
        *([] if torch.cuda.is_available() else ["an accelerator"]),
        *([] if importlib.util.find_spec("tensorrt") is not None else ["the package tensorrt"]),
    ]
    for item in marked:
        if missing:
            item.add_marker(pytest.mark.skip(reason=f"needs {' and '.join(missing)}, not here"))


def _group(items: list[pytest.Item]) -> None:
    """For `--dist loadgroup`: a module's tests share its fixtures, and all that start the real Triton come one after the other."""
    for item in items:
        group = "triton" if item.get_closest_marker("triton") is not None else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
