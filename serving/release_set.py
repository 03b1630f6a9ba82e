"""Which models belong to which release, and what a newly published one adds. Configurations only; loads nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from .check import needed_models, parse_contract
from .contract import Contract
from .errors import RepositoryError
from .modelconfig import Config, EnsembleConfig

Configs = Mapping[str, Config]


@dataclass(frozen=True)
class Change:
    """From what is served to what is published.

    Attributes:
        load: models that are not there yet: networks and steps first, then ensembles. No entry is among them.
        entries: the callers' entries that now point elsewhere, or are new.
    """

    load: tuple[Config, ...]
    entries: tuple[Config, ...]

    @property
    def contracts(self) -> dict[str, Contract]:
        """Of the frozen ensembles behind these entries, by name: that of each release first, then that which takes images."""
        found = [contract for entry in self.entries if (contract := parse_contract(entry)) is not None]
        releases = {contract.release: replace(contract, takes="tile") for contract in found}
        return releases | {contract.frozen: contract for contract in found}


def needed(configs: Configs, names: Iterable[str]) -> set[str]:
    """These models and all they cannot be served without."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in configs and name not in found:
            found.add(name)
            waiting += needed_models(configs[name])
    return found


def first_steps(configs: Configs, ensemble: str) -> frozenset[str]:
    """The steps that get a request as it comes: they wait for no other step. None where the ensemble is not served."""
    config = configs.get(ensemble)
    if not isinstance(config, EnsembleConfig):
        return frozenset()
    given = {tensor.name for tensor in config.inputs}
    return frozenset(step.model for step in config.steps if given.issuperset(step.inputs.values()))


def change(served: Configs, published: Configs, entries: Iterable[str]) -> Change:
    """What to load and what to move.

    Args:
        published: checked, with all that the entries need.
        entries: the names that callers use.

    Raises:
        RepositoryError: a model was changed under its name, so the two releases cannot be served side by side.
    """
    names = set(entries)
    changed = [name for name, config in published.items() if served.get(name) != config]
    rewritten = sorted(name for name in changed if name in served and name not in names)
    if rewritten:
        raise RepositoryError(
            f"model {rewritten[0]!r}: expected a new release under names of its own, it changed under the served one's: export the model again"
        )
    load = [config for name, config in published.items() if name not in served and name not in names]
    load.sort(key=lambda config: isinstance(config, EnsembleConfig))
    return Change(tuple(load), tuple(published[name] for name in changed if name in names))


def retired_releases(configs: Configs, entries: Iterable[str]) -> dict[str, set[str]]:
    """What no entry names: frozen ensemble (of a release, of its images) → it, its slide model and their steps, without what an entry needs."""
    entered = needed(configs, entries)
    frozen = [name for name, config in configs.items() if name not in entered and _is_frozen(config)]
    return {name: needed(configs, [name]) - entered for name in frozen}


def unload_order(configs: Configs, names: Iterable[str]) -> list[str]:
    """Ensembles before their steps."""
    return sorted(names, key=lambda name: (not isinstance(configs[name], EnsembleConfig), name))


def _is_frozen(config: Config) -> bool:
    contract = parse_contract(config)
    return contract is not None and contract.frozen == config.name
