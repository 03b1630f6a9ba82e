"""The folder that Triton is started on: the needed models and the backends, as links and copies, and an empty place to stand. Starts nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .check import VERSION
from .cpu_batches import with_cpu_batches
from .modelconfig import Config, EnsembleConfig, read_config, write_config
from .queue_limits import without_unsafe_limits
from .triton_install import SERVING_FOLDER, Lane, TritonInstall


@dataclass(frozen=True)
class View:
    """A temporary folder for one server.

    Attributes:
        lane: whose Triton is to run on it.
        models: Triton's model repository.
        backends: Triton's backend directory.
        working_folder: the server's, empty: the stub runs isolated and ignores PYTHONPATH, yet has its working directory first on
            its path, before the modules that a release brings along for its python step.
    """

    folder: Path
    lane: Lane = "wheel"

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
    view = View(folder, install.lane)
    view.models.mkdir()
    add_models(view, repository, configs)
    _copy_backends(view.backends, install)
    view.working_folder.mkdir()
    return view


def add_models(view: View, repository: Path, configs: Iterable[Config]) -> None:
    """Models that are served together, as this lane's Triton can take them."""
    for config in with_cpu_batches(without_unsafe_limits(configs)) if view.lane == "wheel" else configs:
        add_model(view, repository, config)


def add_model(view: View, repository: Path, config: Config) -> None:
    """One more model; one that is there is replaced."""
    folder = view.models / config.name
    if not isinstance(config, EnsembleConfig):
        remove_model(view, config.name)  # what a load that failed halfway has left
    if isinstance(config, EnsembleConfig):
        (folder / VERSION).mkdir(parents=True, exist_ok=True)
        write_config(folder, config)
    elif config.backend == "python":
        shutil.copytree(repository / config.name, folder, ignore=shutil.ignore_patterns("__pycache__"))
        _refuse_bytecode(folder)
        write_config(folder, config)
    elif config != read_config(repository / config.name):  # a limit was taken out, a batch size put in
        folder.mkdir()
        (folder / VERSION).symlink_to((repository / config.name / VERSION).resolve())
        write_config(folder, config)
    else:
        folder.symlink_to((repository / config.name).resolve())


def _refuse_bytecode(folder: Path) -> None:
    """A file where Python wants a folder: else the stub's bytecode changes the model's folder, and Triton loads such a model anew when
    an ensemble over it is loaded. The stub runs isolated, so no variable of the environment reaches it."""
    for place in {path.parent for path in folder.rglob("*.py")}:
        (place / "__pycache__").touch()


def remove_model(view: View, name: str) -> None:
    """Take a model out; one that is not there is none to take out."""
    folder = view.models / name
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def _copy_backends(folder: Path, install: TritonInstall) -> None:
    """The wheel's Python backend with the stub of its interpreter beside it, and our backend of the name `onnxruntime`.

    Copies (3 MB): Triton refuses a python-based backend whose library resolves to outside the backend directory.
    """
    parts = ("libtriton_python.so", "triton_python_backend_utils.py")
    for name, sources in {
        "python": (*(install.python_backend / part for part in parts), install.stub),
        "onnxruntime": sorted((SERVING_FOLDER / "backends" / "onnxruntime").glob("*.py")),
    }.items():
        (folder / name).mkdir(parents=True)
        for source in sources:
            shutil.copy(source, folder / name)
