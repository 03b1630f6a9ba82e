"""How a command of histoserve ends: known errors as one line on stderr and an exit code. Knows no command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

FAILED = 1
BROKEN_PIPE = 141  # 128 + SIGPIPE, as of any program
INTERRUPTED = 130  # 128 + SIGINT, what shells expect


def run(program: str, call: Callable[[], int], known: tuple[type[Exception], ...]) -> int:
    """Run a command's body; an unknown error keeps its traceback, since it is our bug.

    Args:
        program: what starts the line, e.g. "histoserve serve".
        call: the command; returns its exit code.
        known: errors whose message tells the user everything.
    """
    try:
        code = call()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Who read us has enough (`| head`); the interpreter would complain once more when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except known as error:
        message = " ".join(str(error).split("\n")).strip() or type(error).__name__
        print(f"{program}: {message}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return INTERRUPTED
