"""What a GPU gives our networks, and the share of what it could: `benchmarks/gpu.sh`. Needs torch, timm and numpy, nothing else of histoserve's.

    python -m benchmarks.gpu [--device cuda|cpu] [--smoke] [--lanes LANE …] [--precisions fp32 fp16] [--triton FOLDER] [--output FILE]

Times are of tiles that lie on the device; every lane that cannot run is told with its reason. Never run on a GPU where this was written.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from serving.contract import Kind
from training import torchvision_schemas  # noqa: F401  must precede timm

from .gpu_ceiling import copy_gb_s, gemm_tflops, seconds_of
from .gpu_lanes import LANES, LaneMissing, Prepare, Wheels
from .gpu_networks import Network, make_network

BATCHES = (1, 4, 16, 64, 128, 256)
_GEMM_SIDE, _COPY_MB, _REPEATS = 8192, 1024, 20
_SMOKE_SIDE, _SMOKE_MB = 128, 4
_PACKAGES = ("torch", "timm", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tritonclient", "numpy")
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def measure(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """The result file's content; written after each network, so that a run that is ended leaves what it has."""
    device = torch.device(options.device)
    content: dict[str, Any] = {
        "kind": "bench-gpu",
        "machine": _machine(device),
        "versions": _versions(),
        "commit": _commit(),
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": {"device": options.device, "smoke": options.smoke, "lanes": options.lanes, "precisions": options.precisions},
        "points": [_ceiling(device, options.smoke)],
        "ratios": {},
    }
    encoders, batches = (("smoke",), (1,)) if options.smoke else (("swin-t", "swin-s"), BATCHES)
    kinds: tuple[Kind, ...] = ("segment",) if options.smoke else ("cam", "segment")
    wheels = Wheels(options.triton, options.triton_wheel, options.onnxruntime_wheel)
    for encoder, kind, precision in itertools.product(encoders, kinds, options.precisions):
        network = make_network(encoder, kind, precision, device)
        for lane in options.lanes:
            for point in _lane_points(network, lane, batches, wheels, device, content["points"][0], 2 if options.smoke else _REPEATS):
                content["points"].append(point)
                print(_line(point), flush=True)
        content["ratios"] = shares(content["points"])
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return content


def _ceiling(device: torch.device, smoke: bool) -> dict[str, Any]:
    side, megabytes, repeats = (_SMOKE_SIDE, _SMOKE_MB, 2) if smoke else (_GEMM_SIDE, _COPY_MB, _REPEATS)
    rates = {f"gemm_{name}_tflops": round(gemm_tflops(device, dtype, side, repeats), 4) for name, dtype in _DTYPES.items()}
    return {"name": "ceiling", **rates, "copy_gb_s": round(copy_gb_s(device, megabytes, repeats), 2)}


def _lane_points(
    network: Network, lane: str, batches: Sequence[int], wheels: Wheels, device: torch.device, ceiling: Mapping[str, Any], repeats: int
) -> Iterator[dict[str, Any]]:
    """A point for each batch; a lane that does not open gives each the reason."""
    left = list(batches)
    try:
        with LANES[lane](network, device, wheels) as prepare:
            while left:
                yield _point(network, lane, left.pop(0), prepare, device, ceiling, repeats)
    except LaneMissing as reason:
        yield from ({**_told(network, lane, batch), "missing": str(reason)} for batch in left)
    except Exception as error:  # noqa: BLE001  as of `_point`
        yield from ({**_told(network, lane, batch), "failed": _said(error)} for batch in left)


def _told(network: Network, lane: str, batch: int) -> dict[str, Any]:
    return {
        "name": f"{network.name} {network.kind} {network.precision} {lane} {batch}",
        "network": network.name,
        "kind": network.kind,
        "precision": network.precision,
        "lane": lane,
        "batch": batch,
        "gflops_per_tile": round(network.gflops, 3),
    }


def _point(
    network: Network, lane: str, batch: int, prepare: Prepare, device: torch.device, ceiling: Mapping[str, Any], repeats: int
) -> dict[str, Any]:
    told = _told(network, lane, batch)
    try:
        call = prepare(batch)
        batches = getattr(call, "batches", 1)  # of one call: a server is asked for several at a time
        seconds = seconds_of(call, device, max(1, repeats // batches)) / batches
    except LaneMissing as reason:
        return {**told, "missing": str(reason)}
    except Exception as error:  # noqa: BLE001  each runtime has errors of its own; one lane's must not cost the others' figures
        return {**told, "failed": _said(error)}
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    tflops = network.gflops * batch / seconds / 1e3
    return {
        **told,
        "ms": round(seconds * 1e3, 4),
        "tiles_per_s": round(batch / seconds, 2),
        "tflops": round(tflops, 4),
        "share_of_gemm": round(tflops / ceiling[f"gemm_{network.precision}_tflops"], 4),
    }


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:400]


def shares(points: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Per network, kind and precision the greatest share of the measured matrix rate that any lane and batch reached."""
    best: dict[str, float] = {}
    for point in points:
        if "share_of_gemm" in point:
            name = f"{point['network']}_{point['kind']}_{point['precision']}_share_of_gemm"
            best[name] = max(best.get(name, 0.0), point["share_of_gemm"])
    return best


def _line(point: Mapping[str, Any]) -> str:
    if "ms" not in point:
        return f"{point['name']}: {point.get('missing') or point.get('failed')}"
    return f"{point['name']}: {point['tiles_per_s']:.1f} tiles/s, {point['share_of_gemm']:.1%} of the matrix rate"


def _machine(device: torch.device) -> dict[str, Any]:
    gpu = None
    if device.type == "cuda":
        known = torch.cuda.get_device_properties(device)
        gpu = f"{known.name}, {known.total_memory // 2**20} MiB"
    memory_gb = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    system = f"{platform.system()} {platform.release()}"
    return {"cpu": platform.machine(), "cores": len(os.sched_getaffinity(0)), "memory_gb": memory_gb, "gpu": gpu, "system": system}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    folder = Path(__file__).parents[1]
    try:
        done = subprocess.run(["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: whether it runs, no figures")
    parser.add_argument("--lanes", nargs="+", choices=[*LANES], default=[*LANES])
    parser.add_argument("--precisions", nargs="+", choices=[*_DTYPES], help="default: both; with --smoke fp32")
    parser.add_argument(
        "--triton", type=Path, help="environment with Triton's wheel and an ONNX Runtime; default: $HISTOSERVE_TRITON, .triton"
    )
    parser.add_argument("--triton-wheel", type=Path, help="with --onnxruntime-wheel: an environment is made of both in out/gpu-triton")
    parser.add_argument("--onnxruntime-wheel", type=Path, help="of onnxruntime-gpu")
    parser.add_argument("--output", type=Path, default=Path("out/bench-gpu.json"))
    options = parser.parse_args(argv)
    if (options.triton_wheel is None) != (options.onnxruntime_wheel is None):
        parser.error("--triton-wheel, --onnxruntime-wheel: expected both or neither")
    options.precisions = options.precisions or (["fp32"] if options.smoke else [*_DTYPES])
    if options.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks/gpu.sh: expected an NVIDIA GPU that torch sees, found none: install a CUDA build of torch", file=sys.stderr)
        return 1
    measure(options, shlex.join(["benchmarks/gpu.sh", *argv]))
    print(f"{options.output}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
