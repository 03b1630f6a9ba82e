"""One ONNX graph in OpenVINO on the CPU, in float32, compiled per set of wanted outputs. Knows no Triton."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

# Importing openvino sends an event to its maker and writes an identity to the home folder, unless this package cannot be imported.
if "openvino" not in sys.modules:
    sys.modules["openvino_telemetry"] = None

import openvino as ov

MAX_COMPILED = 3  # sets of outputs beside the whole one; each holds its own copy of the weights
# More rows than these are cut into pieces, which several streams take as they come: no thread waits for another at every operation, and what
# one stream works on stays in its cache. Against one stream of both cores and 16 rows at a time, 2 cores, 7 turns each: 1.06–1.10 times the tiles/s
# for Swin-T with an FPN at 224 px, 1.04–1.07 for the default's network at 128 px. Memory grows with the piece, not with the batch.
PIECE_ROWS = 2
MAX_STREAMS = 8  # a slide's request of 16 rows has as many pieces


# Never let go: loading the plugin moves the signal stack of the thread that loads it, and unloading it frees that memory, in whatever thread
# the last request ends. The next signal to the first thread would then end the process.
CORE = ov.Core()
# What reaches numpy from OpenVINO's binding prepares itself at its first call and gives the interpreter away meanwhile: two threads at once wait for each other for good.
CALLS = threading.Lock()


class RunError(Exception):
    """The graph failed on a batch."""


class OpenVinoEngine:
    """A graph that is cut down to the outputs that are asked for.

    OpenVINO computes every output that it compiled, wanted or not: for a slide, which wants PROBABILITIES alone, the labels' upsampling would
    be a quarter of the work (measured on the default model at batch 8: 15.0 against 10.9 ms). So each set is compiled when it is first asked for.
    """

    label = "OpenVINO"
    version = ov.__version__

    def __init__(self, graph, choice):
        self.graph = graph  # a path, or what is in the file
        self.threads = choice.threads
        cores = len(os.sched_getaffinity(0))
        self.streams = min(MAX_STREAMS, choice.threads or cores, cores)
        model = CORE.read_model(graph)
        self.inputs = {port.get_any_name() for port in model.inputs}
        self.outputs = frozenset(port.get_any_name() for port in model.outputs)
        self.requests = {}  # (set of outputs, streams) → one request a stream
        self.pool = ThreadPoolExecutor(self.streams)

    def run(self, feeds, names):
        """Inputs by name → the named outputs by name, batch first, in memory of their own."""
        rows = next(iter(feeds.values())).shape[0]
        key = self.key_for(frozenset(names), 1 if rows <= PIECE_ROWS else self.streams)
        try:
            return run_pieces(self.pool, self.requests[key], feeds, names, rows)
        except Exception:
            del self.requests[key]  # after an error every further run of it fails (2026.4.1)
            raise

    def key_for(self, names, streams):
        """What answers these outputs with so many streams, compiled if it has to be; beyond a few sets the whole one."""
        sets = {outputs for outputs, _ in self.requests} - {self.outputs}
        if names not in sets and len(sets) >= MAX_COMPILED:
            names = self.outputs
        if (names, streams) not in self.requests:
            compiled = self.compile(names, streams)
            self.requests[names, streams] = [compiled.create_infer_request() for _ in range(streams)]
        return names, streams

    def compile(self, names, streams):
        model = CORE.read_model(self.graph)
        wanted = [result for result in model.get_results() if result.output(0).get_any_name() in names]
        part = ov.Model(wanted, model.get_parameters(), model.get_friendly_name())
        return CORE.compile_model(part, "CPU", settings(self.threads, streams))


def run_pieces(pool, requests, feeds, names, rows):
    """The batch in pieces, each by the stream that is free next; returns, or raises, when no stream works any more."""
    starts = range(0, max(rows, 1), PIECE_ROWS)
    waiting, answers, errors = iter(starts), {}, []

    def work(request):
        try:
            for start in waiting:
                # Not infer(): with one thread it swallows errors and leaves the rows of the run before (2026.4.1).
                with CALLS:
                    request.start_async({name: feed[start : start + PIECE_ROWS] for name, feed in feeds.items()}, share_inputs=True)
                request.wait()
                with CALLS:
                    answers[start] = [np.array(request.get_tensor(name).data) for name in names]  # the next run uses the same memory
        except Exception as error:  # noqa: BLE001 (whatever it is, it becomes the answer)
            # Its text alone: its frames would keep the tiles beyond their time, which lie in Triton's shared memory: the stub crashed at its end.
            errors.append(str(error))

    # Threads of our own, not AsyncInferQueue: that gives up at the first error while its other requests still run, and crashes when it is let go.
    wait([pool.submit(work, request) for request in requests])
    if errors:
        raise RunError(errors[0])
    parts = [answers[start] for start in starts]
    arrays = parts[0] if len(parts) == 1 else [np.concatenate(own) for own in zip(*parts, strict=True)]
    return dict(zip(names, arrays, strict=True))


def settings(threads, streams):
    chosen = {
        "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
        "NUM_STREAMS": str(streams),
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has units for it: other values than the release was checked with
        # Each model and each instance is a process here: all would pin their threads to the same first cores.
        "ENABLE_CPU_PINNING": False,
    }
    return chosen | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
