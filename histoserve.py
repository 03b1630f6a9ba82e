"""histoserve: one command, one sub-command per folder of the pipeline. Imports only what is asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {  # name: (module with main(argv) -> exit code, extra that brings its dependencies, help)
    "patches": ("training.patches_cli", "train", "cut annotated images into patches with image-level labels"),
    "generate": ("training.generate_cli", "train", "generate annotated tissue for trials and ablations"),
    "mosaics": ("training.mosaics_cli", "train", "compose images with exact truth out of images of one class each"),
    "pretrain": ("training.pretrain_cli", "train", "pre-train an encoder on images without labels"),
    "train": ("training.cli", "train", "learn a segmenter from image-level labels"),
    "export": ("export.cli", "export", "turn a checkpoint into a checked release in the model repository"),
    "serve": ("serving.cli", "serve", "start Triton on a model repository"),
    "doctor": ("serving.doctor_cli", "serve", "say whether serving would work here, and what to do where not"),
    "ui": ("clients.ui.command", "ui", "serve a page for people, which calls a server that runs already"),
    "segment": ("clients.cli", "client", "segment whole slides into OME-Zarr masks"),
    "evaluate": ("benchmarks.evaluate_cli", "bench", "compare a written mask with its truth"),
    "study": ("benchmarks.study_cli", "bench", "train and compare every variant of a method on annotated images"),
    "bench": ("benchmarks.bench.cli", "bench", "how fast, where the time goes, how near the limit, and how others do"),
    "demo": ("benchmarks.demo_cli", "bench", "the whole way on generated tissue: train, export, serve, segment, evaluate"),
}


def usage() -> str:
    lines = [f"  {name:<10}{text}" for name, (_, _, text) in COMMANDS.items()]
    return "\n".join(["usage: histoserve COMMAND [OPTIONS]", "", *lines, "", "histoserve COMMAND --help says more."])


def main(argv: Sequence[str] | None = None) -> None:
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        sys.exit(0)
    if name not in COMMANDS:
        print(f"histoserve: unknown command {name!r}\n\n{usage()}", file=sys.stderr)
        sys.exit(2)
    module, extra, _ = COMMANDS[name]
    try:
        command_main = importlib.import_module(module).main
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in {known.split(".")[0] for known, _, _ in COMMANDS.values()}:
            raise  # our own bug: show it
        print(f"histoserve {name} needs {error.name!r}: pip install 'histoserve[{extra}]'", file=sys.stderr)
        sys.exit(1)
    sys.exit(command_main(rest))


if __name__ == "__main__":
    main()
