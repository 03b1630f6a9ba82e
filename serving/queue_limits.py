"""Which queue limits the wheel's Triton must not be given: there a full queue of a step that starts beside another ends or hangs the server.

Measured on 2.51 with `max_queue_size` of the network, which starts beside the background rule: SIGSEGV; of the background rule: the ensemble's
callers wait forever. Fixed upstream in 2026 (triton-inference-server/core #466 and #483). A step that starts alone rejects as it should.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from .modelconfig import Config, EnsembleConfig, ModelConfig


def without_unsafe_limits(configs: Iterable[Config]) -> list[Config]:
    """The same models; those that start beside another step lose the limit and the priorities' limits of their queue."""
    given = list(configs)
    beside = {name for config in given if isinstance(config, EnsembleConfig) for name in starting_together(config)}
    return [_unlimited(config) if isinstance(config, ModelConfig) and config.name in beside else config for config in given]


def starting_together(ensemble: EnsembleConfig) -> set[str]:
    """The models of steps that become ready with the same tensors."""
    known, waiting, found = {tensor.name for tensor in ensemble.inputs}, list(ensemble.steps), set()
    while waiting:
        ready = [step for step in waiting if known.issuperset(step.inputs.values())]
        if not ready:
            break  # `check` names a step that nothing feeds
        if len(ready) > 1:
            found |= {step.model for step in ready}
        known |= {name for step in ready for name in step.outputs.values()}
        waiting = [step for step in waiting if step not in ready]
    return found


def _unlimited(config: ModelConfig) -> ModelConfig:
    priorities = config.options.priorities
    if priorities is not None:
        policies = {level: dataclasses.replace(policy, max_size=None) for level, policy in priorities.policies.items()}
        priorities = dataclasses.replace(priorities, policies=policies)
    return dataclasses.replace(config, max_queue_size=None, options=dataclasses.replace(config.options, priorities=priorities))
