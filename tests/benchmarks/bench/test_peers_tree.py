"""Wall, CPU and memory of a command and all it starts, on commands whose cost is known. Compares; times nothing."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from benchmarks.bench.peers_tree import CommandFailed, Cost, measure_command

_MB = 300


def _python(source: str, *arguments: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", textwrap.dedent(source), *arguments]


_BURN = """
    import time
    while time.process_time() < 1.0:
        pass
"""
_BURN_IN_CHILD = """
    import subprocess, sys
    subprocess.run([sys.executable, "-I", "-S", "-c", sys.argv[1]], check=True)
    print("done")
"""


def test_a_childs_cpu_counts() -> None:
    idle = measure_command(_python("print('done')"))
    cost = measure_command(_python(_BURN_IN_CHILD, textwrap.dedent(_BURN)))
    assert idle.output == cost.output == "done\n"
    assert 1.0 <= cost.cpu_s <= idle.cpu_s + 2.0
    assert cost.cpu_s <= cost.wall_s * 4


def test_a_childs_memory_counts() -> None:
    hold = f"x = bytearray({_MB} * 10**6); x[::4096] = b'1' * len(x[::4096]); import time; time.sleep(0.6)"
    bare = measure_command(_python("import time; time.sleep(0.6)"))
    cost = measure_command(_python(_BURN_IN_CHILD, hold))
    assert _MB < cost.peak_mb < _MB + 40 * max(1.0, bare.peak_mb)


def test_a_server_beside_counts_only_what_it_does_meanwhile() -> None:
    source = "import sys, time\nwhile time.process_time() < 1.0: pass\nprint('ready', flush=True)\nsys.stdin.read()"
    with subprocess.Popen(_python(source), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        cost = measure_command(_python("pass"), beside=[server.pid])
        server.communicate()
    assert cost.cpu_s < 0.9  # the second before does not count
    assert cost.peak_mb > 0


def test_a_command_that_fails_is_told_with_its_last_word() -> None:
    with pytest.raises(CommandFailed, match=r"ended with exit code 3; it said: ValueError of mine"):
        measure_command(_python("import sys; print('noise\\nValueError of mine', file=sys.stderr); sys.exit(3)"))


def test_a_command_that_hangs_is_ended_with_all_it_started() -> None:
    with pytest.raises(CommandFailed, match="took too long"):
        measure_command(_python(_BURN_IN_CHILD, "import time; time.sleep(600)"), limit_s=0.5)


def test_the_environment_reaches_it() -> None:
    cost: Cost = measure_command(_python("import os; print(os.environ['PEERS_TEST'])"), environment={"PEERS_TEST": "42"})
    assert cost.output == "42\n"
