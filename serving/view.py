"""The folder that Triton is started on: the needed models and the backends, as links and copies, and an empty place to stand. Starts nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .check import VERSION
from .modelconfig import Config, EnsembleConfig, write_config
from .triton_install import SERVING_FOLDER, TritonInstall


@dataclass(frozen=True)
class View:
    """A temporary folder for one server.

    Attributes:
        models: Triton's model repository.
        backends: Triton's backend directory.
        working_folder: the server's, empty: the stub runs isolated and ignores PYTHONPATH, yet has its working directory first on
            its path, before the modules that a release brings along for its python step.
    """

    folder: Path

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def backends(self) -> Path:
        return self.folder / "backends"

    @property
    def working_folder(self) -> Path:
        return self.folder / "empty"


def build_view(folder: Path, repository: Path, configs: Iterable[Config], install: TritonInstall) -> View:
    """Fill an empty folder.

    Ensembles are written from the checked configuration, not linked: an export that moves the callers' entry meanwhile cannot
    mix two releases in one server. Python steps are copied, since the stub writes its bytecode beside them.
    """
    view = View(folder)
    view.models.mkdir()
    for config in configs:
        if isinstance(config, EnsembleConfig):
            (view.models / config.name / VERSION).mkdir(parents=True)
            write_config(view.models / config.name, config)
        elif config.backend == "python":
            shutil.copytree(repository / config.name, view.models / config.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (view.models / config.name).symlink_to((repository / config.name).resolve())
    _copy_backends(view.backends, install)
    view.working_folder.mkdir()
    return view


def _copy_backends(folder: Path, install: TritonInstall) -> None:
    """The wheel's Python backend with the stub of its interpreter beside it, and our backend of the name `onnxruntime`.

    Copies (3 MB): Triton refuses a python-based backend whose library resolves to outside the backend directory.
    """
    parts = ("libtriton_python.so", "triton_python_backend_utils.py")
    for name, sources in {
        "python": (*(install.python_backend / part for part in parts), install.stub),
        "onnxruntime": (SERVING_FOLDER / "backends" / "onnxruntime" / "model.py",),
    }.items():
        (folder / name).mkdir(parents=True)
        for source in sources:
            shutil.copy(source, folder / name)
