"""`histoserve segment`: slides in, masks out. Knows flags, progress and exit codes."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from serving.command import FAILED, run
from serving.embedded import EmbeddedTriton
from serving.entry import DEFAULT_MODEL, entry_of
from serving.errors import ServingError

from .errors import ClientError, OutputError
from .inference import TileClient
from .segment import SegmentOptions, check_slide, segment_slide
from .summary import SlideOutcome, as_entry, write_batch

PROGRAM = "histoserve segment"


@dataclass(frozen=True)
class SegmentConfig:
    """Segment whole slides with a served model. Each slide S becomes S.ome.zarr (mask), S.overlay.png and S.summary.json."""

    slides: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SLIDE …")]
    """Slides in any format that OpenSlide reads."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder that gets the results; made where it does not exist."""
    model: str = DEFAULT_MODEL
    """The served model: NAME_segment, NAME_cam, or NAME for its segmenter."""
    server: str | None = None
    """Address of a Triton, host:port; without it the embedded one is started on --repository, and stopped afterwards."""
    repository: Path = Path("model_repository")
    """Model repository of the embedded Triton."""
    mpp: float | None = None
    """Micrometers per pixel of the slide at full resolution, where the slide does not say or says it wrongly."""
    overlap: float = 0.125
    """Share of a tile's side that neighboring tiles have in common, 0 … 0.75; more is smoother and slower."""
    batch: int = 16
    """Tiles per request, at most what the model takes."""
    in_flight: int = 4
    """Requests on the way at a time."""
    overwrite: bool = False
    """Replace masks that are there."""
    json: bool = False
    """Print the summaries as JSON on standard output."""

    def __post_init__(self) -> None:
        """Wrong usage: tyro prints the ValueError and exits with 2."""
        problems = {
            "SLIDE: expected at least one": not self.slides,
            f"--overlap {self.overlap:g}: expected 0 … 0.75": not 0 <= self.overlap <= 0.75,
            f"--batch {self.batch}: expected at least 1": self.batch < 1,
            f"--in-flight {self.in_flight}: expected at least 1": self.in_flight < 1,
            "SLIDE: expected different file names, since each names its mask": len({path.stem for path in self.slides}) < len(self.slides),
        }
        for problem, is_there in problems.items():
            if is_there:
                raise ValueError(problem)


def main(argv: Sequence[str]) -> int:
    """Segment; returns the exit code."""

    def call() -> int:
        return segment_all(tyro.cli(SegmentConfig, prog=PROGRAM, args=list(argv)), Console(stderr=True))

    return run(PROGRAM, call, (ClientError, ServingError))


def segment_all(config: SegmentConfig, console: Console) -> int:
    """Segment every slide that can be; 1 where one could not.

    Raises:
        ClientError: no server, or not the model; nothing was done.
        ServingError: the embedded server does not start.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)])
    _make_folder(config.output)
    reasons = {path: _reason(path, config.mpp) for path in config.slides}
    sound = [path for path in config.slides if reasons[path] is None]
    outcomes = {path: SlideOutcome(path.name, reason, None) for path, reason in reasons.items()}
    if sound:
        with _address(config, console) as address, TileClient(address, entry_of(config.model)) as client:
            for path in sound:
                outcomes[path] = _segment_one(path, client, config, console)
    write_batch(config.output / "batch.json", list(outcomes.values()))
    failed = [outcome for outcome in outcomes.values() if outcome.reason is not None]
    for outcome in failed:
        print(f"{PROGRAM}: {outcome.reason}", file=sys.stderr)
    if config.json:
        print(json.dumps([as_entry(outcome) for outcome in outcomes.values()], indent=2))
    return FAILED if failed else 0


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: expected a folder that can be written to: {error.strerror}: give another --output") from error


def _reason(path: Path, mpp: float | None) -> str | None:
    """Why a slide cannot be segmented, found out before a server is started for it."""
    try:
        check_slide(path, mpp)
    except ClientError as error:
        return str(error)
    return None


@contextmanager
def _address(config: SegmentConfig, console: Console) -> Iterator[str]:
    if config.server is not None:
        yield config.server
        return
    with ExitStack() as stack:
        with console.status(f"starting the embedded Triton with {config.model}"):
            triton = stack.enter_context(EmbeddedTriton(config.repository, [entry_of(config.model)]))
        yield triton.address


def _segment_one(path: Path, client: TileClient, config: SegmentConfig, console: Console) -> SlideOutcome:
    options = SegmentOptions(config.mpp, config.overlap, config.batch, config.in_flight, config.overwrite)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("tiles"), TextColumn("{task.fields[rate]}"))
    try:
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(path.name, total=None, rate="")

            def show(done: int, total: int) -> None:
                speed = bar.tasks[0].speed
                bar.update(task, completed=done, total=total, rate=f"{speed:.0f}/s" if speed else "")

            summary = segment_slide(path, client, config.output, options, show)
    except ClientError as error:
        return SlideOutcome(path.name, str(error), None)
    rate = summary.tissue_tiles / max(summary.seconds["segment"], 1e-9)
    console.print(
        f"{path.name}: {summary.tissue_tiles} of {summary.tiles} tiles ({rate:.0f}/s) → {config.output / summary.mask}, {summary.overlay}",
        highlight=False,
        soft_wrap=True,
    )
    return SlideOutcome(path.name, None, summary)
