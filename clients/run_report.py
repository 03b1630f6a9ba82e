"""What a run leaves beside its masks: `batch.json` after each slide, `index.html` at the end, both where the masks are. Knows no pixels."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from .remote_slide import FOR_THE_PAGE, default_scratch
from .report_page import PageHead, write_page
from .shard import Shard
from .store_url import StoreFolder, is_url
from .summary import SlideOutcome, write_batch


@dataclass(frozen=True)
class Report:
    """Where a run reports to.

    Attributes:
        folder: of this machine: of the results, or the scratch folder where these go to a store.
        name: of the file with one entry for each slide.
        url: of the store; None = the folder is where the results belong.
        has_page: the run is about all slides; one part of many has its own `batch.3-of-10.json`, and no page.
    """

    folder: Path
    name: str
    url: str | None
    has_page: bool

    @classmethod
    def open(cls, output: str, scratch: Path | None, part: Shard | None) -> Self:
        """Of a command's flags.

        Raises:
            OutputError: the store's protocol is not known, or the temporary folder is not ours.
        """
        url = output if is_url(output) else None
        if url is None:
            folder = Path(output)
        else:
            StoreFolder(url)
            folder = scratch or default_scratch(url)
        name = "batch.json" if part is None else f"batch.{part.index}-of-{part.count}.json"
        return cls(folder, name, url, part is None)

    def write(self, outcomes: Sequence[SlideOutcome]) -> None:
        """How far all slides are; a store gets it at the end."""
        write_batch(self.folder / self.name, outcomes)

    def finish(self, outcomes: Sequence[SlideOutcome], head: PageHead) -> None:
        """All that is told of a run that has ended.

        Raises:
            OutputError: it cannot be written.
        """
        self.write(outcomes)
        if self.url is None:
            if self.has_page:
                write_page(self.folder, head)
            return
        store = StoreFolder(self.url)
        files = [self.folder / self.name]
        pictured = [Path(outcome.slide).stem for outcome in outcomes if outcome.state in ("done", "skipped")]
        if self.has_page:
            self._fetch(store, pictured)
            files.append(write_page(self.folder, head))
        for file in files:
            store.put(file, file.name)
        self._clear(files, pictured)

    def _fetch(self, store: StoreFolder, stems: Sequence[str]) -> None:
        """What the page is made of, also of slides that others brought to the store."""
        for name in (f"{stem}.{kind}" for stem in stems for kind in FOR_THE_PAGE):
            if not (self.folder / name).exists() and store.exists(name):
                store.get(name, self.folder / name)

    def _clear(self, files: Sequence[Path], stems: Sequence[str]) -> None:
        """Leave nothing in the scratch folder but what is unfinished."""
        for file in (*files, *(self.folder / f"{stem}.{kind}" for stem in stems for kind in FOR_THE_PAGE)):
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds unfinished slides, or another run's
            self.folder.rmdir()
