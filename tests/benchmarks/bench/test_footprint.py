"""CPU and memory of processes that use a known amount."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import psutil
import pytest

from benchmarks.bench.footprint import Costs, footprint_of, pid_at

# Burns half a CPU-second and holds 64 MB, itself or in a child, says so, and waits.
BURN = "import time\nheld = bytearray(b'x' * (64 << 20))\nwhile time.process_time() < 0.5: pass\nprint('done', flush=True)\ninput()\n"
PARENT = f"import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', {BURN!r}], stdin=sys.stdin)\nchild.wait()\n"


@pytest.mark.parametrize(("code", "with_children", "counts"), [(BURN, False, True), (PARENT, True, True), (PARENT, False, False)])
def test_a_process_and_its_children(code: str, with_children: bool, counts: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        costs = Costs({"it": (process.pid, with_children), "us": (os.getpid(), False)})
        costs.begin()
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        figures = costs.end()
        process.communicate("\n")
    assert (figures["cpu_s"]["it"] > 0.3) == counts
    assert (figures["rss_mb"]["it"] > 64) == counts
    assert figures["rss_mb"]["us"] == pytest.approx(footprint_of(os.getpid(), with_children=False).rss_mb, rel=0.2)
    with pytest.raises(psutil.NoSuchProcess):
        footprint_of(process.pid)


def test_who_listens_on_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert pid_at(port) == os.getpid()
    assert pid_at(port) is None
