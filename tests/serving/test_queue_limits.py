"""Only the limits of steps that start beside another are taken out."""

from __future__ import annotations

import dataclasses

from serving.modelconfig import EnsembleConfig, ModelConfig, Step
from serving.modeloptions import Options, Priorities, QueuePolicy
from serving.queue_limits import starting_together, without_unsafe_limits

from . import tiny_release as tiny

CONFIGS = {config.name: config for config in tiny.configs()}


def ensemble(name: str) -> EnsembleConfig:
    config = CONFIGS[name]
    assert isinstance(config, EnsembleConfig)
    return config


def test_network_and_background_rule_start_together() -> None:
    assert starting_together(ensemble(tiny.RELEASE)) == {tiny.NET, tiny.RULE_STEP}
    assert starting_together(ensemble(tiny.SLIDE)) == set()
    behind = dataclasses.replace(ensemble(tiny.SLIDE), steps=(Step("first", {"TILE": "TILE"}, {"X": "X"}), *ensemble(tiny.SLIDE).steps))
    assert starting_together(behind) == {"first", tiny.NET}


def test_their_limits_go_and_everything_else_stays() -> None:
    net = CONFIGS[tiny.NET]
    assert isinstance(net, ModelConfig)
    urgent = Priorities(2, 2, {1: QueuePolicy(16, 1_000_000, callers_shorten=True)})
    limited = dataclasses.replace(net, options=Options(queue_timeout_us=5, priorities=urgent))
    (changed, release, slide) = without_unsafe_limits([limited, ensemble(tiny.RELEASE), ensemble(tiny.SLIDE)])
    open_queue = Priorities(2, 2, {1: QueuePolicy(None, 1_000_000, callers_shorten=True)})
    assert changed == dataclasses.replace(net, max_queue_size=None, options=Options(queue_timeout_us=5, priorities=open_queue))
    assert [release, slide] == [ensemble(tiny.RELEASE), ensemble(tiny.SLIDE)]
    assert without_unsafe_limits([limited, ensemble(tiny.SLIDE)]) == [limited, ensemble(tiny.SLIDE)]
