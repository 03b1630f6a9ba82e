"""Which models belong to which release, and what a newly published one adds. Configurations only; loads nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .check import needed_models, parse_contract
from .errors import RepositoryError
from .modelconfig import Config, EnsembleConfig

Configs = Mapping[str, Config]


@dataclass(frozen=True)
class Change:
    """From what is served to what is published.

    Attributes:
        load: models that are not there yet: networks and steps first, then ensembles. No entry is among them.
        entries: the callers' entries that now point elsewhere.
    """

    load: tuple[Config, ...]
    entries: tuple[Config, ...]

    @property
    def releases(self) -> list[str]:
        """The frozen ensembles that the changed entries name."""
        contracts = (parse_contract(entry) for entry in self.entries)
        return list(dict.fromkeys(contract.release for contract in contracts if contract is not None))


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


def change(served: Configs, published: Configs, entries: Iterable[str]) -> Change:
    """What to load and what to move.

    Args:
        published: checked, with all that the entries need.
        entries: the names that callers use.

    Raises:
        RepositoryError: a model was changed under its name, so the two releases cannot be served side by side.
    """
    names = set(entries)
    same_name = [name for name, config in published.items() if name in served and served[name] != config]
    rewritten = sorted(set(same_name) - names)
    if rewritten:
        raise RepositoryError(
            f"model {rewritten[0]!r}: expected a new release under names of its own, it changed under the served one's: export the model again"
        )
    load = [config for name, config in published.items() if name not in served and name not in names]
    load.sort(key=lambda config: isinstance(config, EnsembleConfig))
    return Change(tuple(load), tuple(published[name] for name in published if name in same_name))


def retired_releases(configs: Configs, entries: Iterable[str]) -> dict[str, set[str]]:
    """The releases that no entry names: frozen ensemble → it, its slide model and their steps, without what an entry needs."""
    entered = needed(configs, entries)
    frozen = [name for name, config in configs.items() if name not in entered and _is_frozen(config)]
    return {name: needed(configs, [name]) - entered for name in frozen}


def unload_order(configs: Configs, names: Iterable[str]) -> list[str]:
    """Ensembles before their steps."""
    return sorted(names, key=lambda name: (not isinstance(configs[name], EnsembleConfig), name))


def _is_frozen(config: Config) -> bool:
    contract = parse_contract(config)
    return contract is not None and contract.release == config.name
