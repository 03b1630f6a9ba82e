"""Which batch sizes the wheel's Triton makes of the requests that wait: it has a CPU alone, where more rows win nothing and keep a caller of one tile waiting."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from .modelconfig import Config, ModelConfig

# What a slide's client sends in one request. The engines cut larger batches anyway (`backends/onnxruntime`), which would only answer their first requests later.
RUN_ROWS = 16


def with_cpu_batches(configs: Iterable[Config]) -> list[Config]:
    """The same models; those whose batcher waits for more requests, the networks, prefer batches of `RUN_ROWS`, where they prefer none."""
    return [_preferring(config) if isinstance(config, ModelConfig) and _waits(config) else config for config in configs]


def _waits(config: ModelConfig) -> bool:
    return config.backend == "onnxruntime" and bool(config.queue_delay_us) and config.max_batch_size > RUN_ROWS


def _preferring(config: ModelConfig) -> ModelConfig:
    sizes = config.options.preferred_batch_sizes or (RUN_ROWS,)
    return dataclasses.replace(config, options=dataclasses.replace(config.options, preferred_batch_sizes=sizes))
