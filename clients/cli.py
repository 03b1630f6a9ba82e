"""`histoserve segment`: slides in, masks out. Knows flags and exit codes."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.logging import RichHandler

from serving.command import FAILED, INTERRUPTED, run
from serving.contract import Contract
from serving.embedded import EmbeddedTriton
from serving.entry import DEFAULT_MODEL, entry_of
from serving.errors import ServingError

from . import shared_tiles
from .batch import Run, run_in_processes, run_in_threads
from .batch_progress import BatchProgress
from .dask_run import run_in_dask
from .errors import ClientError, OutputError
from .geojson import PolygonOptions
from .header_file import read_headers
from .open_model import EngineName, ModelSource, open_model
from .outputs import Ngff, OutputOptions, check_regions
from .report_page import PageHead
from .run_report import Report
from .segment import SegmentOptions, check_slide
from .server_list import parse_servers
from .shard import Shard
from .slide_list import SlideEntry, find_slides
from .store_url import is_url
from .summary import SlideOutcome, as_entry, versions
from .tiling import make_grid
from .tls_files import TlsFiles

PROGRAM = "histoserve segment"


@dataclass(frozen=True)
class SegmentConfig:
    """Segment whole slides with a served model. Each slide S becomes S.ome.zarr (mask), S.overlay.png and S.summary.json.

    Interrupted, killed or out of room: the same command goes on where it was.
    """

    slides: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SLIDE …")]
    """Slides in any format that OpenSlide reads; folders of slides; patterns in quotes, e.g. 'in/**/*.svs'."""
    output: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="FOLDER|URL")]
    """Folder that gets the results; made where it does not exist. Or a URL of any store that fsspec knows, e.g. s3://bucket/masks (extra `store`)."""
    scratch: Path | None = None
    """With a URL: folder of this machine where masks are made before they are brought there, and what an interrupted run goes on from; without it
    one in the temporary folder."""
    list: tuple[Path, ...] = ()
    """CSV files with a column `slide` (relative to the file) and, where wanted, `mpp`."""
    model: str = DEFAULT_MODEL
    """The served model: NAME_segment, NAME_cam, or NAME for its segmenter."""
    server: str | None = None
    """Address of a Triton, host:port, or of several with commas between, which serve the same: batches go to whichever has time, and to the others
    where one goes away. Without it the embedded one is started on --repository, and stopped afterwards."""
    tls_ca: Path | None = None
    """PEM: authority of the server's certificate, or that itself. With any of these three flags the connection to --server is encrypted."""
    tls_cert: Path | None = None
    """PEM: your own certificate, where the server asks for one (mutual TLS)."""
    tls_key: Path | None = None
    """PEM: its key."""
    headers: Path | None = None
    """File of headers for every request to --server, `name: value` a line, e.g. `authorization: Bearer …`: a token on the command line
    could be read by others. It is read at the start; without TLS it can be read on the network."""
    engine: EngineName = "triton"
    """What computes: a Triton server; or this process, without a server: local = what the embedded Triton would choose, or one by name."""
    repository: Path = Path("model_repository")
    """Model repository of the embedded Triton and of the local engines."""
    mpp: float | None = None
    """Micrometers per pixel of the slides at full resolution, where they do not say or say it wrongly."""
    overlap: float = 0.125
    """Share of a tile's side that neighboring tiles have in common, 0 … 0.75; more is smoother and slower."""
    batch: int | None = None
    """Tiles per request, at most what the model takes; without it 16."""
    in_flight: int = 4
    """Requests on the way at a time, to each server."""
    shared_memory: Literal["auto", "off"] = "auto"
    """auto: tiles reach the embedded server in shared memory; without room in /dev/shm, or where it refuses, in messages, and a warning says so.
    off: in messages, as to every --server."""
    jobs: int = 1
    """Processes that work on slides at the same time, all with the same servers; for servers that one cannot keep busy."""
    dask: str | None = None
    """Address of a dask scheduler (tcp://host:8786, or its scheduler file): its workers segment the slides. They must see slides, output and
    --server under the same names (extra `dask`)."""
    shard: str | None = None
    """I/N: segment one of N parts of the slides, I from 0 to N - 1; for arrays of jobs. Which part a slide is in is decided by its name alone."""
    overwrite: bool = False
    """Replace masks that are there."""
    skip_existing: bool = False
    """Leave masks alone that are there and that this run would write again."""
    fresh: bool = False
    """Begin interrupted slides anew."""
    tissue: Path | None = None
    """Where tissue is: a mask image of the whole slide (any size, not 0 = tissue), or GeoJSON in QuPath's pixels; or a folder with one per slide."""
    no_tissue: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Do not look for tissue: send every tile."""
    roi: Path | None = None
    """GeoJSON in QuPath's pixels (full resolution, from the corner of the scanned rectangle), or a folder with one per slide: what lies outside is
    not segmented and counts for no area."""
    ngff: Ngff = "0.5"
    """OME-NGFF version of the masks: 0.4 for QuPath 0.7 and other readers of Zarr v2."""
    geojson: bool = True
    """Write the masks as polygons for QuPath, and a script that opens them."""
    min_area_um2: float = 0.0
    """Leave smaller components out of the polygons, in square micrometers; the mask and its areas keep them."""
    simplify_px: float = 0.0
    """Tolerance of the polygons in pixels of the mask's level that is traced; 0 = its pixel edges."""
    probabilities: bool = False
    """Write what the network said of each cell as an OME-Zarr image, S.probabilities.ome.zarr."""
    heatmaps: bool = False
    """Write pictures of each class's evidence over the slide, S.heatmap.CLASS.png."""
    json: bool = False
    """Print the summaries as JSON on standard output."""

    def __post_init__(self) -> None:
        """Wrong usage: tyro prints the ValueError and exits with 2."""
        names = {Path(slide).stem for slide in set(self.slides)}
        problems = {
            "SLIDE: expected at least one, or a --list": not self.slides and not self.list,
            f"--overlap {self.overlap:g}: expected 0 … 0.75": not 0 <= self.overlap <= 0.75,
            f"--batch {self.batch}: expected at least 1": self.batch is not None and self.batch < 1,
            f"--in-flight {self.in_flight}: expected at least 1": self.in_flight < 1,
            f"--jobs {self.jobs}: expected at least 1": self.jobs < 1,
            "SLIDE: expected different file names, since each names its mask": len(names) < len(set(self.slides)),
            f"--server {self.server}: expected none with --engine {self.engine}": self.server is not None and self.engine != "triton",
            f"--dask {self.dask}: expected --server with it, since workers elsewhere cannot reach an embedded one": self.dask is not None
            and self.server is None
            and self.engine == "triton",
            f"--dask {self.dask}: expected no --jobs with it: the workers are the processes": self.dask is not None and self.jobs > 1,
            f"--scratch {self.scratch}: expected an --output that is a URL": self.scratch is not None and not is_url(self.output),
            "--tls-ca, --tls-cert, --tls-key: expected --server with them": bool(self.tls.channel) and self.server is None,
            f"--headers {self.headers}: expected --server with it": self.headers is not None and self.server is None,
        }
        for problem, is_there in problems.items():
            if is_there:
                raise ValueError(problem)
        _ = self.outputs, self.servers, self.part
        if self.headers is not None:
            read_headers(self.headers)

    @property
    def tls(self) -> TlsFiles:
        """For the server; raises ValueError where files are missing."""
        return TlsFiles(self.tls_ca, self.tls_cert, self.tls_key)

    @property
    def servers(self) -> tuple[str, ...]:
        """Addresses; none without --server. Raises ValueError where they are malformed."""
        return () if self.server is None else parse_servers(self.server)

    @property
    def part(self) -> Shard | None:
        """Of the slides; raises ValueError where it is malformed."""
        return None if self.shard is None else Shard.parse(self.shard)

    @property
    def outputs(self) -> OutputOptions:
        """What to make of each slide beside its mask; raises ValueError where the flags contradict each other."""
        polygons = PolygonOptions(self.min_area_um2, self.simplify_px)
        return OutputOptions(self.ngff, self.geojson, polygons, self.tissue, self.no_tissue, self.roi, self.probabilities, self.heatmaps)


def main(argv: Sequence[str]) -> int:
    """Segment; returns the exit code."""

    def call() -> int:
        config = tyro.cli(SegmentConfig, prog=PROGRAM, args=[*argv])
        return segment_all(config, Console(stderr=True), shlex.join([*PROGRAM.split(), *argv]))

    return run(PROGRAM, call, (ClientError, ServingError))


def segment_all(config: SegmentConfig, console: Console, command: str = PROGRAM) -> int:
    """Segment every slide that can be; 1 where one could not, 130 where the user interrupted.

    Args:
        command: as it was typed, for the run's page.

    Raises:
        ClientError: no slides, no server, or not the model; nothing was done.
        ServingError: the embedded server does not start.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)])
    logging.getLogger(shared_tiles.__name__).setLevel(logging.INFO)  # it says which way tiles travel
    entries = find_slides(config.slides, config.list)
    if config.part is not None:
        entries = config.part.take(entries)
        console.print(f"part {config.shard}: {len(entries)} slides", highlight=False)
    report = Report.open(config.output, config.scratch, config.part)
    _make_folder(report.folder)
    outcomes = {entry.path: SlideOutcome(entry.path.name, "waiting") for entry in entries}
    try:
        waiting = _drop_unusable(entries, config, outcomes)
        if waiting:
            _segment(config, waiting, outcomes, report, console)
    except KeyboardInterrupt:
        report.write([*outcomes.values()])
        print(f"{PROGRAM}: interrupted: the same command goes on after the last finished strips", file=sys.stderr)
        return INTERRUPTED
    report.finish([*outcomes.values()], PageHead(command, versions()))
    failed = [outcome for outcome in outcomes.values() if outcome.state == "failed"]
    for outcome in failed:
        print(f"{PROGRAM}: {outcome.reason}", file=sys.stderr)
    if config.json:
        print(json.dumps([as_entry(outcome) for outcome in outcomes.values()], indent=2))
    return FAILED if failed else 0


def _segment(
    config: SegmentConfig, entries: Sequence[SlideEntry], outcomes: dict[Path, SlideOutcome], report: Report, console: Console
) -> None:
    options = SegmentOptions(
        mpp=config.mpp,
        overlap=config.overlap,
        batch=config.batch,
        in_flight=config.in_flight,
        overwrite=config.overwrite,
        skip_existing=config.skip_existing,
        fresh=config.fresh,
        outputs=config.outputs,
    )
    with ExitStack() as stack:
        work = Run(stack.enter_context(_source(config, console)), report.folder, options, report.url)
        model = stack.enter_context(open_model(work.source))
        shown = stack.enter_context(BatchProgress(console, len(entries), _tile_mm2(model.contract, config.overlap)))

        def ended(entry: SlideEntry, outcome: SlideOutcome) -> None:
            outcomes[entry.path] = outcome
            report.write([*outcomes.values()])
            shown.finished(outcome)

        if config.dask is not None:
            run_in_dask(work, model.contract.release, entries, config.dask, shown.tiles, ended)
        elif config.jobs == 1:
            run_in_threads(work, model, entries, shown.tiles, ended)
        else:
            run_in_processes(work, entries, config.jobs, shown.tiles, ended)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: expected a folder that can be written to: {error.strerror}: give another --output") from error


def _drop_unusable(entries: Sequence[SlideEntry], config: SegmentConfig, outcomes: dict[Path, SlideOutcome]) -> Sequence[SlideEntry]:
    """The slides from the first usable one on: no server is started for those that cannot be segmented anyway."""
    for index, entry in enumerate(entries):
        try:
            check_slide(entry.path, config.mpp if entry.mpp is None else entry.mpp)
            check_regions(entry.path, config.outputs)
            return entries[index:]
        except ClientError as error:
            outcomes[entry.path] = replace(outcomes[entry.path], state="failed", reason=str(error))
    return []


@contextmanager
def _source(config: SegmentConfig, console: Console) -> Iterator[ModelSource]:
    source = ModelSource(config.engine, config.model, config.servers, config.repository, config.tls, headers=config.headers)
    if config.engine != "triton" or config.server is not None:
        yield source
        return
    with ExitStack() as stack:
        with console.status(f"starting the embedded Triton with {config.model}"):
            triton = stack.enter_context(EmbeddedTriton(config.repository, [entry_of(config.model)]))
        yield replace(source, addresses=(triton.address,), shared_by=None if config.shared_memory == "off" else triton.admin_headers)


def _tile_mm2(contract: Contract, overlap: float) -> float:
    """Of a slide, what one tile settles."""
    task = contract.task
    grid = make_grid(task.tile_px, task.tile_px, task.tile_px, contract.cell_px, overlap)
    return (grid.stride_c * grid.cell_px * task.mpp / 1e3) ** 2
