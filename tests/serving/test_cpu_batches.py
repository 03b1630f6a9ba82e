"""Networks alone are told to be batched in sixteens, and only where nobody has said otherwise."""

from __future__ import annotations

import dataclasses

from serving.cpu_batches import with_cpu_batches
from serving.modelconfig import ModelConfig
from serving.modeloptions import Options

from . import tiny_release as tiny

CONFIGS = {config.name: config for config in tiny.configs()}


def net(**changes: object) -> ModelConfig:
    config = CONFIGS[tiny.NET]
    assert isinstance(config, ModelConfig)
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def test_only_the_network_of_a_release_prefers_a_size() -> None:
    before, after = list(CONFIGS.values()), with_cpu_batches(CONFIGS.values())
    changed = [(old.name, new) for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [(tiny.NET, net(options=Options(preferred_batch_sizes=(16,))))]


def test_what_was_said_stays() -> None:
    kept = [
        net(options=Options(preferred_batch_sizes=(4, 8))),
        net(queue_delay_us=None, max_queue_size=None),  # has no batcher
        net(max_batch_size=8),  # has no sixteen
        net(backend="tensorrt", parameters={}, options=Options(gpu_only=True)),
    ]
    assert with_cpu_batches(kept) == kept
