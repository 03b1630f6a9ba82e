"""`python -m clients.ui`: the command, or which extra it lacks. Imports nothing that may be missing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

_OURS = ("clients", "serving")


def main(argv: Sequence[str]) -> int:
    """Run the command; 1 and one line where a package is missing."""
    try:
        command = importlib.import_module("clients.ui.command")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in _OURS:
            raise  # our own bug: show it
        print(f"histoserve ui: needs the package {error.name!r}: pip install 'histoserve[ui]'", file=sys.stderr)
        return 1
    code: int = command.main(argv)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
