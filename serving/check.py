"""Whether the wanted part of a model repository is whole and fits together, told before a server starts. Reads configurations only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from .contract import Contract, ContractError
from .errors import ConfigError, RepositoryError
from .modelconfig import FILE_NAME, Config, EnsembleConfig, ModelConfig, Step, Tensor, contract_of, read_config

VERSION = "1"  # releases have names of their own, so a model has one version


def check_repository(repository: Path, models: Iterable[str]) -> dict[str, Config]:
    """Follow the wanted models to everything they need and check that it fits.

    An ensemble needs its steps; one with a contract also needs the frozen release and the slide model that the contract names.

    Returns:
        Each needed model's configuration, the wanted ones first.

    Raises:
        RepositoryError: something is missing or does not fit; the message names the model.
    """
    _require_folder(repository)
    configs: dict[str, Config] = {}
    waiting = [(name, "") for name in models]
    if not waiting:
        raise RepositoryError(f"{repository}: expected the name of a model to serve, got none; it has {_listed(repository)}")
    while waiting:
        name, asked_by = waiting.pop(0)
        if name not in configs:
            configs[name] = _read(repository, name, asked_by)
            waiting += [(needed, f" (needed by {name!r})") for needed in needed_models(configs[name])]
    for config in configs.values():
        check_model(repository, config, configs)
    return configs


def model_names(repository: Path) -> list[str]:
    """The models a repository holds."""
    return sorted(path.parent.name for path in repository.glob(f"*/{FILE_NAME}") if not path.parent.name.startswith("."))


def entry_names(repository: Path) -> tuple[str, ...]:
    """The entries for callers, of tiles and of images: ensembles with a contract that are no release's own.

    Raises:
        RepositoryError: there is none.
    """
    _require_folder(repository)
    names = []
    for name in model_names(repository):
        config = _read(repository, name, "")
        contract = parse_contract(config)
        if contract is not None and not _is_frozen(name, contract):
            names.append(name)
    if not names:
        raise RepositoryError(f"{repository}: expected an entry such as demo_segment, found none: export a model into it, or run make demo")
    return tuple(names)


def needed_models(config: Config) -> list[str]:
    """What a model cannot be served without."""
    if not isinstance(config, EnsembleConfig):
        return []
    contract = parse_contract(config)
    named = [] if contract is None else dict.fromkeys((contract.frozen, contract.release, contract.slide_model))
    return [*(step.model for step in config.steps), *named]


def parse_contract(config: Config) -> Contract | None:
    """The contract of a model, None where it was not exported by histoserve.

    Raises:
        RepositoryError: it carries a contract that cannot be used.
    """
    if not any(key.startswith("histoserve.") for key in config.parameters):
        return None
    try:
        return contract_of(config)
    except ContractError as error:
        raise RepositoryError(f"model {config.name!r}: {error}") from error


def check_model(repository: Path, config: Config, configs: Mapping[str, Config]) -> None:
    """Check one model against its files, its steps and its release."""
    if isinstance(config, ModelConfig):
        path = repository / config.name / VERSION / config.file_name
        if not path.is_file():
            raise RepositoryError(f"model {config.name!r}: expected the file {path}, found none: export the model again")
        return
    _check_steps(config, configs)
    contract = parse_contract(config)
    if contract is not None and not _is_frozen(config.name, contract):
        _check_entry(config, configs[contract.frozen])


def _is_frozen(name: str, contract: Contract) -> bool:
    """Whether the ensemble is a release's own, and no entry."""
    return name in (contract.frozen, contract.release, contract.slide_model)


def _require_folder(repository: Path) -> None:
    if not repository.is_dir():
        raise RepositoryError(f"{repository}: expected a model repository, found no such folder: export a model into it, or run make demo")


def _read(repository: Path, name: str, asked_by: str) -> Config:
    if not (repository / name / FILE_NAME).is_file():
        raise RepositoryError(f"{repository}: expected the model {name!r}{asked_by}, found none of that name; it has {_listed(repository)}")
    try:
        return read_config(repository / name)
    except ConfigError as error:
        raise RepositoryError(str(error)) from error


def _listed(repository: Path) -> str:
    return ", ".join(model_names(repository)) or "no model at all: export one, or run make demo"


def _check_entry(entry: EnsembleConfig, release: Config) -> None:
    """A callers' entry must be its release under another name: so the release's canary speaks for both."""
    if not isinstance(release, EnsembleConfig) or (entry.inputs, entry.outputs, entry.steps, dict(entry.parameters)) != (
        release.inputs,
        release.outputs,
        release.steps,
        dict(release.parameters),
    ):
        raise RepositoryError(
            f"model {entry.name!r}: expected the same ensemble as its release {release.name!r}, it differs: export the model again"
        )


def _check_steps(ensemble: EnsembleConfig, configs: Mapping[str, Config]) -> None:
    """Walk the steps in order; each reads what is there and adds what it gives."""
    known = {tensor.name: tensor for tensor in ensemble.inputs}
    for step in ensemble.steps:
        model = configs[step.model]
        if ensemble.max_batch_size > model.max_batch_size:
            raise RepositoryError(
                f"ensemble {ensemble.name!r}: expected max_batch_size of at most {model.max_batch_size}, its step {step.model!r}'s, "
                f"got {ensemble.max_batch_size}: export the model again"
            )
        _check_map(ensemble.name, step, "input", step.inputs, model.inputs)
        for inner, outer in step.inputs.items():
            _check_same(ensemble.name, step, known.get(outer), _by_name(model.inputs)[inner], outer)
        _check_map(ensemble.name, step, "output", step.outputs, model.outputs)
        known |= {outer: _by_name(model.outputs)[inner] for inner, outer in step.outputs.items()}
    for tensor in ensemble.outputs:
        _check_same(ensemble.name, ensemble.steps[-1], known.get(tensor.name), tensor, tensor.name)


def _check_map(ensemble: str, step: Step, kind: str, mapped: Mapping[str, str], tensors: tuple[Tensor, ...]) -> None:
    names = set(_by_name(tensors))
    unknown, unfed = set(mapped) - names, names - set(mapped)
    if unknown or (kind == "input" and unfed):  # an output may be left aside, an input must be fed
        raise RepositoryError(
            f"ensemble {ensemble!r}: expected the {kind}s {sorted(names)} of its step {step.model!r}, got {sorted(mapped)}: export the model again"
        )


def _check_same(ensemble: str, step: Step, given: Tensor | None, wanted: Tensor, name: str) -> None:
    if given is None:
        raise RepositoryError(f"ensemble {ensemble!r}: at step {step.model!r} nothing gives the tensor {name!r}: export the model again")
    if (given.data_type, given.dims) != (wanted.data_type, wanted.dims):
        raise RepositoryError(
            f"ensemble {ensemble!r}: at step {step.model!r} expected {name!r} as {wanted.data_type} {list(wanted.dims)}, "
            f"got {given.data_type} {list(given.dims)}: export the model again"
        )


def _by_name(tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in tensors}
