"""Result files written by hand: small, and every figure is known."""

from __future__ import annotations

from typing import Any

MACHINE = {"cpu": "Abacus", "cores": 2, "memory_gb": 4.0, "gpu": None, "system": "Linux 6"}


def content(kind: str, points: list[dict[str, Any]], ratios: dict[str, float | None]) -> dict[str, Any]:
    return {
        "kind": kind,
        "machine": MACHINE,
        "versions": {"python": "3.11"},
        "commit": "abc",
        "command": f"histoserve bench {kind}",
        "created": "2026-01-01T00:00:00+00:00",
        "settings": {},
        "points": points,
        "ratios": ratios,
    }


def load_point(name: str, mode: str, per_s: float, p50: float, **more: Any) -> dict[str, Any]:
    step = {
        "model": "m_r1_net",
        "kind": "step",
        "requests_per_s": per_s,
        "mean_batch": 1.5,
        "queue_ms": 2.0,
        "execution_ms": 7.0,
        "request_ms": 9.0,
    }
    return {
        "name": name,
        "mode": mode,
        "model": "m_segment",
        "input": "raw",
        "batch": 1,
        "memory": "grpc",
        "seconds": 6.0,
        "requests": 100,
        "answered": 99,
        "errors": {"rejected": 1},
        "requests_per_s": per_s,
        "tiles_per_s": per_s,
        "latency_ms": {
            "p50": p50,
            "p90": 2 * p50,
            "p95": 3 * p50,
            "p99": None,
            "p99.9": None,
            "p99_interval": None,
            "mean": p50,
            "greatest": 9 * p50,
        },
        "cpu_ms_per_tile": {"client": 0.5, "server": 12.5},
        "rss_mb": {"client": 100.0, "server": 340.0},
        "load_1min": 0.5,
        "steps": [{**step, "model": "m_segment", "kind": "entry", "request_ms": p50 - 1}, step],
        **more,
    }


def server_content() -> dict[str, Any]:
    closed = [load_point(f"closed {count}", "closed", 50.0 + count, 10.0 * count, concurrency=count) for count in (1, 2, 4)]
    opened = [load_point(f"open {load:g}", "open", 60 * load, 12.0, rate=60 * load, load=load) for load in (0.5, 0.7)]
    skipped = {"name": "priority", "skipped": "no step of the model knows priorities"}
    return content("bench-server", [*closed, *opened, skipped], {"p99_over_mdc": 1.25, "knee_requests_per_s": 51.0})


def limits_content() -> dict[str, Any]:
    points = [
        {"name": "gemm 2", "threads": 2, "gflops": 100.0},
        {"name": "copy 2", "threads": 2, "gb_s": 20.0},
        {"name": "decode 2", "threads": 2, "tile_px": 256, "tiles_per_s": 4000.0},
        {"name": "loopback", "batch": 16, "mb_s": 500.0, "tiles_per_s": 3000.0},
        {"name": "arithmetic", "tile_px": 128, "gflop_per_tile": 0.1, "by_operator": {"Conv": 0.1}, "weight_mb": 1.6, "tile_mb": 0.05},
        {"name": "reached", "batch": 16, "engine_tiles_per_s": 400.0, "served_tiles_per_s": 300.0, "served_over_engine": 0.75},
    ]
    return content("bench-limits", points, {"served_over_engine": 0.75})
