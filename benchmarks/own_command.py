"""Runs one of our own commands in a process of its own, so that nothing of it is left when the next begins."""

from __future__ import annotations

import subprocess
import sys

from .errors import CommandError


def run_histoserve(*arguments: str) -> None:
    """Run it; what it prints goes where ours does.

    Raises:
        CommandError: it failed; its own message stands above.
    """
    _check(arguments, subprocess.run([sys.executable, "-m", "histoserve", *arguments], check=False).returncode)


def ask_histoserve(*arguments: str) -> str:
    """Run it and return what it prints on standard output.

    Raises:
        CommandError: it failed; its own message stands above.
    """
    done = subprocess.run([sys.executable, "-m", "histoserve", *arguments], stdout=subprocess.PIPE, text=True, check=False)
    _check(arguments, done.returncode)
    return done.stdout


def _check(arguments: tuple[str, ...], code: int) -> None:
    if code:
        raise CommandError(f"`histoserve {' '.join(arguments)}` ended with exit code {code}; its message stands above")
