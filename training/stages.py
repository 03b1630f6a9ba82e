"""A run as stages that remember what made them: what is done is not done again, and a changed setting redoes its stage and all behind it. No torch.

Each stage has a folder with `stage.json`: its settings, the fingerprint of settings and needed stages, and whether it is finished. A folder of
another fingerprint is emptied before the stage begins; one of the same that is unfinished is gone on with.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import RecipeError

STAGE_FILE = "stage.json"


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        folder: its own; made by `work`.
        settings: plain values: all that the result depends on beside the needed stages.
        fingerprint: of settings and of the needed stages' fingerprints.
    """

    name: str
    folder: Path
    settings: Mapping[str, Any]
    fingerprint: str

    @property
    def is_done(self) -> bool:
        """Whether the folder holds this very stage, finished."""
        return self.seconds is not None

    @property
    def seconds(self) -> float | None:
        """What it took, interruptions left out; None where it is not done."""
        noted = self._noted()
        return float(noted["seconds"]) if noted.get("fingerprint") == self.fingerprint and noted.get("done") else None

    @contextlib.contextmanager
    def work(self) -> Iterator[Path]:
        """The folder to work in; the stage is finished when the block ends without an exception.

        Raises:
            RecipeError: the folder holds something that no stage wrote.
        """
        noted = self._noted()
        worked_s = float(noted.get("seconds", 0)) if noted.get("fingerprint") == self.fingerprint else 0.0
        if noted and noted.get("fingerprint") != self.fingerprint:
            print(f"{self.name}: {_difference(noted.get('settings', {}), self.settings)}: done anew", file=sys.stderr, flush=True)
            shutil.rmtree(self.folder)
        elif not noted and self.folder.exists() and any(self.folder.iterdir()):
            raise RecipeError(
                f"{self.folder}: expected a folder of stage {self.name!r} or none, found other files: choose another --output"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        started_s = time.monotonic()
        self._note(worked_s, done=False)
        try:
            yield self.folder
        except BaseException:
            self._note(worked_s + time.monotonic() - started_s, done=False)
            raise
        self._note(worked_s + time.monotonic() - started_s, done=True)

    def _noted(self) -> dict[str, Any]:
        try:
            noted: dict[str, Any] = json.loads((self.folder / STAGE_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (ValueError, OSError) as error:
            raise RecipeError(f"{self.folder / STAGE_FILE}: expected what a stage noted, cannot read it: remove {self.folder}") from error
        return noted

    def _note(self, seconds: float, done: bool) -> None:
        noted = {"stage": self.name, "done": done, "seconds": round(seconds, 1), "fingerprint": self.fingerprint, "settings": self.settings}
        partial = self.folder / (STAGE_FILE + ".partial")
        partial.write_text(json.dumps(noted, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, self.folder / STAGE_FILE)


def make_stage(output: Path, name: str, settings: Mapping[str, Any], needs: Sequence[Stage] = ()) -> Stage:
    """A stage in `output`'s folder of that name.

    Args:
        settings: values that JSON can hold, or tuples and paths of them; of a path its name counts, not where it lies.
    """
    plain_settings = {key: plain(value) for key, value in settings.items()}
    told = json.dumps([name, plain_settings, [stage.fingerprint for stage in needs]], sort_keys=True)
    return Stage(name, output / name, plain_settings, hashlib.sha256(told.encode()).hexdigest())


def plain(value: Any) -> Any:
    """A setting as JSON holds it."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [plain(entry) for entry in value]
    return value.name if isinstance(value, Path) else value


def _difference(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    changed = sorted(key for key in {*earlier, *now} if earlier.get(key) != now.get(key))
    return f"{', '.join(changed)} changed" if changed else "an earlier stage changed"
