"""One small run of the whole way, through the command, for all tests of the folder."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SLIDES = ROOT.parent / "shared" / "data" / "slides"
needs_slides = pytest.mark.skipif(not SLIDES.is_dir(), reason="the real slides (../shared/data/slides) are not here")


def histoserve(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The command, as a user starts it."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("histoserve")), *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False
    )


@dataclass(frozen=True)
class WholeWay:
    """A finished demo run."""

    folder: Path
    repository: Path
    arguments: tuple[str, ...]

    @property
    def result(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return content

    @property
    def slide(self) -> Path:
        (slide,) = self.folder.glob("slide-*.tiff")
        return slide

    @property
    def checkpoint(self) -> Path:
        (checkpoint,) = self.folder.glob("training-*/checkpoint.pt")
        return checkpoint

    @property
    def mask(self) -> Path:
        return self.folder / "masks" / f"{self.slide.stem}.ome.zarr"


@pytest.fixture(scope="session")
def whole_way(tmp_path_factory: pytest.TempPathFactory) -> WholeWay:
    folder = tmp_path_factory.mktemp("whole_way")
    arguments = [
        *("demo", "--output", str(folder / "demo"), "--repository", str(folder / "model_repository")),
        *("--recipe", str(Path(__file__).parent / "small.toml"), "--patches", "320"),
        *("--slide-width-px", "1700", "--slide-height-px", "1100"),
    ]
    done = histoserve(*arguments)
    assert done.returncode == 0, done.stderr
    return WholeWay(folder / "demo", folder / "model_repository", tuple(arguments))
