"""How a command ends: known errors in one line, and a reader that has enough is no error of ours."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = "import sys; from serving.command import run; sys.exit(run('p', lambda: [print('x' * 99) for _ in range(9999)] and 0, ()))"


def test_a_reader_that_has_enough_leaves_no_traceback() -> None:
    command = f'set -o pipefail; "{sys.executable}" -c "{SCRIPT}" | head -n 1'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, len(done.stdout)) == (141, "", 100)
