"""Takes newly published releases and entries into a running server, and out what is removed or no longer asked for. Starts and ends no process."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tritonclient.utils import InferenceServerException

from .canary import run_canary
from .check import check_repository, entry_names, model_names
from .errors import ServingError, StartError
from .launch import require_shared_memory
from .modelconfig import FILE_NAME, Config
from .release_set import Change, change, needed, retired_releases, unload_order
from .triton_run import TritonRun
from .view import add_models, remove_model

GRACE_S = 1800.0
_LOOK_S = 1.0
_AGAIN_S = 10.0  # a repository that was not whole may become so without another change of the entry
_RETIRE_S = 5.0
_ANSWER_S = 5.0
_log = logging.getLogger(__name__)

Configs = dict[str, Config]
_Stamp = tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]
# Whose refusal it is: all entries that are served already, or the folder; a new entry goes by its name.
_FOLLOWED, _FOLDER = "the published release is refused, the old one goes on", "the entries stay as they are"


class Reloader:
    """Follows the callers' entries of a repository.

    The order: check, load steps and ensembles, canary on the frozen release, and only then the entry. What fails is taken out
    again and the old release goes on.

    Args:
        models: the names that callers use, as they are served at the start.
        grace_s: how long a release stays loaded after no entry names it anymore and nobody asks for it: a slide pins its release.
        discover: also follow which entries there are. The last one is never taken out.

    Attributes:
        models: the names that callers use by now.
    """

    def __init__(self, repository: Path, models: Sequence[str], grace_s: float, *, discover: bool) -> None:
        self._repository = repository
        self.models = tuple(models)
        self._grace_s = grace_s
        self._discover = discover
        self._there = self.models  # the entries that the repository had when it was last looked at, refused ones too
        self._stamp: _Stamp | None = None  # the first look is at what came since the start's own check
        self._next_look_s = 0.0
        self._next_retire_s = 0.0
        self._again_s: float | None = None  # when to try the same repository once more
        self._refused: dict[str, str] = {}  # entry → reason
        self._retired_since_s: dict[str, float] = {}

    def step(self, run: TritonRun, configs: Configs) -> Configs:
        """Look at the entries, at most once a second, and act; returns what is served then."""
        now_s = time.monotonic()
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + _LOOK_S
            stamp = self._read_stamp()
            if stamp != self._stamp or (self._again_s is not None and now_s >= self._again_s):
                self._stamp, self._again_s = stamp, None
                configs = self._look(run, configs)
        if now_s >= self._next_retire_s:
            self._next_retire_s = now_s + _RETIRE_S
            configs = self._retire(run, configs)
        return configs

    def still_there(self, configs: Configs) -> Configs:
        """For a start in a new view: without old releases whose folders were removed meanwhile."""
        gone = [models for models in retired_releases(configs, self.models).values() if not self._has(models)]
        lost = set().union(*gone) if gone else set()
        return {name: config for name, config in configs.items() if name not in lost}

    def _has(self, models: Iterable[str]) -> bool:
        return all((self._repository / model / FILE_NAME).is_file() for model in models)

    def _look(self, run: TritonRun, configs: Configs) -> Configs:
        there = self._entries()
        configs = self._leave(run, configs, [name for name in self.models if name not in there])
        configs = self._follow(run, configs, self.models, _FOLLOWED)
        new = [name for name in there if name not in self.models]
        for name in new:  # each alone: one that does not fit holds up no other
            configs = self._follow(run, configs, (name,), name)
            if name in configs:
                self.models = (*self.models, name)
        self._refused = {who: reason for who, reason in self._refused.items() if who in (_FOLLOWED, _FOLDER, *new)}
        return configs

    def _entries(self) -> tuple[str, ...]:
        """Those that the repository has; those of now where they are not followed, or cannot be told."""
        if not self._discover:
            return self.models
        try:
            found = entry_names(self._repository)
        except (ServingError, OSError) as error:
            self._again_s = time.monotonic() + _AGAIN_S
            self._refuse(_FOLDER, error)
            return self.models
        self._refused.pop(_FOLDER, None)
        self._there = found
        return found

    def _leave(self, run: TritonRun, configs: Configs, names: Sequence[str]) -> Configs:
        """Unload entries; their releases stay as others do that no entry names."""
        if not names:
            return configs
        self.models = tuple(name for name in self.models if name not in names)
        self._drop(run, {name: configs[name] for name in names})
        _log.warning("%s: unloaded, since the repository has it no more", ", ".join(names))
        return {name: config for name, config in configs.items() if name not in names}

    def _follow(self, run: TritonRun, configs: Configs, entries: tuple[str, ...], who: str) -> Configs:
        """Take what is published under these entries; what is refused changes nothing."""
        try:
            wanted = change(configs, check_repository(self._repository, entries), entries)
            require_shared_memory(wanted.load)
        except (ServingError, OSError) as error:
            self._again_s = time.monotonic() + _AGAIN_S
            self._refuse(who, error)
            return configs
        try:
            served = self._take(run, configs, wanted) if wanted.load or wanted.entries else configs
        except (ServingError, OSError) as error:
            self._refuse(who, error)
            return configs
        self._refused.pop(who, None)
        return served

    def _refuse(self, who: str, error: Exception) -> None:
        if str(error) != self._refused.get(who):
            self._refused[who] = str(error)
            _log.warning("%s: %s", who if who in (_FOLLOWED, _FOLDER) else f"the new entry {who!r} is refused", error)

    def _take(self, run: TritonRun, configs: Configs, wanted: Change) -> Configs:
        started_s = time.monotonic()
        try:
            add_models(run.view, self._repository, wanted.load)
            for config in wanted.load:
                _load(run, config)
            with run.client() as client:
                for contract in wanted.contracts.values():
                    run_canary(client, self._repository, contract)
            self._enter(run, wanted.entries)
        except BaseException:
            # Triton keeps the old one where the new one does not load.
            self._enter(run, [configs[entry.name] for entry in wanted.entries if entry.name in configs])
            self._drop(run, {config.name: config for config in (*wanted.load, *wanted.entries) if config.name not in configs})
            raise
        served = configs | {config.name: config for config in (*wanted.load, *wanted.entries)}
        run.expect_stubs(served)
        names = ", ".join(entry.name for entry in wanted.entries)
        _log.warning("%s: now %s (%.1f s)", names, ", ".join(wanted.contracts), time.monotonic() - started_s)
        return served

    def _enter(self, run: TritonRun, entries: Sequence[Config]) -> None:
        add_models(run.view, self._repository, entries)
        for entry in entries:
            _load(run, entry)

    def _retire(self, run: TritonRun, configs: Configs) -> Configs:
        retired = retired_releases(configs, self.models)
        self._retired_since_s = {name: self._retired_since_s.get(name, time.time()) for name in retired}
        if not retired:
            return configs
        used_s = _last_use_s(run)
        busy = {
            name
            for name, models in retired.items()
            if time.time() - max([self._retired_since_s[name], *(used_s.get(model, 0.0) for model in models)]) < self._grace_s
        }
        kept = needed(configs, [*self.models, *busy])
        idle = [name for name in retired if name not in kept]
        unwanted = {name: configs[name] for release in idle for name in retired[release] if name not in kept}
        if not unwanted:
            return configs
        served = {name: config for name, config in configs.items() if name not in unwanted}
        run.expect_stubs(served)  # before: the others' end is no fault
        self._drop(run, unwanted)
        _log.warning("%s: unloaded; no entry names it, and nobody asked for it within %.3g min", ", ".join(idle), self._grace_s / 60)
        return served

    def _drop(self, run: TritonRun, configs: Configs) -> None:
        for name in unload_order(configs, configs):
            if not os.path.lexists(run.view.models / name):
                continue  # an entry that was never taken in
            try:
                with run.client() as client:
                    client.unload_model(name, headers=run.admin_headers)
            except InferenceServerException as error:  # it was not loaded, or the server is gone: a restart loads what is wanted
                _log.warning("model %r: not unloaded: %s", name, error.message())
            remove_model(run.view, name)

    def _read_stamp(self) -> _Stamp:
        names = tuple(model_names(self._repository)) if self._discover else ()
        entries = dict.fromkeys((*self.models, *self._there))
        return names, tuple(_stamp_of(self._repository / entry / FILE_NAME) for entry in entries)


def _load(run: TritonRun, config: Config) -> None:
    try:
        with run.client() as client:
            client.load_model(config.name, headers=run.admin_headers)
    except InferenceServerException as error:
        raise StartError(
            f"model {config.name!r}: expected a model that loads, Triton says: {error.message()}: export the model again"
        ) from error


def _last_use_s(run: TritonRun) -> dict[str, float]:
    """Model → time of its last request, seconds since 1970; nothing where the server does not say."""
    try:
        with run.client() as client:
            statistics = client.get_inference_statistics(headers=run.admin_headers, client_timeout=_ANSWER_S).model_stats
    except InferenceServerException:
        return {}
    return {entry.name: entry.last_inference / 1000 for entry in statistics}


def _stamp_of(path: Path) -> tuple[int, int, int]:
    """Changes with every replacement of the file; zeros where there is none."""
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_ino, status.st_size)
