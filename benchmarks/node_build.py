"""Builds the Node.js client in a folder of its own, so that nothing is installed into the source. Knows npm, no server."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import clients

from .errors import CommandError

_SOURCE = Path(clients.__file__).parent


def build_node_client(folder: Path) -> Path:
    """Copy `clients/node` with its protos, install from its lock file, and compile; returns the package's folder.

    Raises:
        CommandError: npm is missing or failed.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise CommandError(
            "expected Node.js 20 or newer with npm on PATH, found no npm: install it, or leave the Node clients out with --node 0"
        )
    shutil.copytree(_SOURCE / "protos", folder / "protos")
    package = folder / "node"
    shutil.copytree(_SOURCE / "node", package, ignore=shutil.ignore_patterns("node_modules", "dist"))
    for command in ([npm, "ci"], [npm, "run", "build"]):
        done = subprocess.run(command, cwd=package, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CommandError(f"`{' '.join(command)}` ended with exit code {done.returncode}: {(done.stdout + done.stderr).strip()}")
    return package
