"""What a machine lacks is a reason to skip, printed; how tests are started does not matter."""

from __future__ import annotations

import importlib.util
import signal

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling


def pytest_configure() -> None:
    # A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that: the tests that interrupt would wait in vain.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
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


class BySharedFixtures(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Tests that share costly fixtures go to one process: those of a file, of these folders all."""

    FOLDERS = ("tests/end_to_end/", "tests/export/")

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((folder for folder in self.FOLDERS if file.startswith(folder)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> BySharedFixtures:
    return BySharedFixtures(config, log)
