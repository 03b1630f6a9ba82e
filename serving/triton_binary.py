"""What a tritonserver binary says of itself: its version and the flags it knows. Asks it in tenths of a second, serves nothing."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .errors import InstallationError
from .triton_install import TritonInstall

Version = tuple[int, ...]

_FLAG = re.compile(r"^\s*(--[a-z0-9][a-z0-9-]*)", re.MULTILINE)
_VERSION = re.compile(r"^\| server_version +\| (\d+(?:\.\d+)+) ", re.MULTILINE)
_TIMEOUT_S = 60
# It reads the folder before anything else and ends; no port is opened, no model loaded.
_NOTHING_TO_SERVE = (
    "--model-repository=/nonexistent/histoserve-asks-for-the-version",
    "--allow-grpc=false",
    "--allow-http=false",
    "--allow-metrics=false",
)


@dataclass(frozen=True)
class Binary:
    """One tritonserver.

    Attributes:
        version: e.g. (2, 51, 0).
        flags: those of its --help, with their dashes.
    """

    version: Version
    flags: frozenset[str]

    @property
    def version_text(self) -> str:
        return ".".join(str(part) for part in self.version)


def probe_binary(install: TritonInstall) -> Binary:
    """Ask the binary; once per process and file.

    Raises:
        InstallationError: it does not run, or says neither version nor flags.
    """
    try:
        changed_ns = install.server.stat().st_mtime_ns
    except OSError as error:
        raise InstallationError(
            f"{install.server}: expected Triton's binary, found none ({error.strerror}): run make setup again"
        ) from error
    return _probe(install.server, install.library_path, changed_ns)


@lru_cache(maxsize=8)
def _probe(server: Path, library_path: str, changed_ns: int) -> Binary:
    flags = parse_flags(_run(server, library_path, "--help"))
    version = parse_version(_run(server, library_path, *_NOTHING_TO_SERVE))
    return Binary(version, flags)


def parse_flags(help_text: str) -> frozenset[str]:
    """The flags of a --help, each at the start of a line."""
    flags = frozenset(_FLAG.findall(help_text))
    if "--model-repository" not in flags:
        raise InstallationError(f"tritonserver --help: expected its flags, got {_shown(help_text)}: run make setup again")
    return flags


def parse_version(log: str) -> Version:
    """The version in the table of options that every start prints."""
    found = _VERSION.search(log)
    if found is None:
        raise InstallationError(f"tritonserver: expected server_version in its log, got {_shown(log)}: run make setup again")
    return tuple(int(part) for part in found[1].split("."))


def _run(server: Path, library_path: str, *arguments: str) -> str:
    environment = {"LD_LIBRARY_PATH": library_path, "PATH": os.defpath, "CUDA_VISIBLE_DEVICES": ""}
    try:  # both calls end with 1 in 2.51: only the text counts
        done = subprocess.run([server, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallationError(f"{server}: expected a binary that runs here, it fails: {error}: run make setup again") from error
    return done.stdout + done.stderr


def _shown(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return repr(lines[-1][:300]) if lines else "nothing"
