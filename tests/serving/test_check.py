"""The repository check finds what Triton would fail on, and names it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.check import check_repository, entry_names, model_names
from serving.errors import RepositoryError
from serving.modelconfig import EnsembleConfig, ModelConfig, Tensor, read_config, write_config

from .tiny_release import COMBINE, ENTRY, NET, RELEASE, RULE_STEP, SLIDE


def change(repository: Path, name: str, edit: Callable[[EnsembleConfig], EnsembleConfig]) -> None:
    config = read_config(repository / name)
    assert isinstance(config, EnsembleConfig)
    write_config(repository / name, edit(config))


def test_an_entry_needs_its_steps_release_and_slide_model(repository: Path) -> None:
    assert list(check_repository(repository, [ENTRY])) == [ENTRY, NET, RULE_STEP, COMBINE, RELEASE, SLIDE]


def test_a_single_model_needs_nothing_else(repository: Path) -> None:
    assert list(check_repository(repository, [RULE_STEP])) == [RULE_STEP]


def test_lists_models_and_entries(repository: Path) -> None:
    (repository / ".staging").mkdir()
    assert model_names(repository) == sorted([ENTRY, NET, RULE_STEP, COMBINE, RELEASE, SLIDE])
    assert entry_names(repository) == (ENTRY,)


def test_missing_repository_and_model_say_the_remedy(tmp_path: Path, repository: Path) -> None:
    with pytest.raises(RepositoryError, match="nowhere: expected a model repository, found no such folder: export a model"):
        check_repository(tmp_path / "nowhere", [ENTRY])
    with pytest.raises(RepositoryError, match=f"expected the model 'lung_segment', found none of that name; it has .*{ENTRY}"):
        check_repository(repository, ["lung_segment"])
    with pytest.raises(RepositoryError, match="expected the name of a model to serve"):
        check_repository(repository, [])


def test_empty_repository_has_no_entry(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="expected an entry such as demo_segment"):
        entry_names(tmp_path)


def test_missing_step_names_who_needs_it(repository: Path) -> None:
    (repository / COMBINE).rename(repository.parent / "gone")
    with pytest.raises(RepositoryError, match=rf"expected the model '{COMBINE}' \(needed by '{ENTRY}'\)"):
        check_repository(repository, [ENTRY])


@pytest.mark.parametrize(("model", "file"), [(NET, "model.onnx"), (RULE_STEP, "model.py")])
def test_missing_model_file_is_named(repository: Path, model: str, file: str) -> None:
    (repository / model / "1" / file).unlink()
    with pytest.raises(RepositoryError, match=f"model '{model}': expected the file .*{file}"):
        check_repository(repository, [ENTRY])


@pytest.mark.parametrize("changed", [{"data_type": "TYPE_FP32"}, {"dims": (5, 7, 8)}], ids=["type", "dims"])
def test_tensors_must_match_between_steps(repository: Path, changed: dict[str, object]) -> None:
    net = read_config(repository / NET)
    assert isinstance(net, ModelConfig)
    labels, levels = net.outputs
    write_config(repository / NET, dataclasses.replace(net, outputs=(labels, dataclasses.replace(levels, **changed))))  # type: ignore[arg-type]
    with pytest.raises(RepositoryError, match=f"at step '{COMBINE}' expected 'NET_PROBABILITIES' as TYPE_UINT8"):
        check_repository(repository, [ENTRY])


def test_every_input_of_a_step_is_fed(repository: Path) -> None:
    def unfed(config: EnsembleConfig) -> EnsembleConfig:
        *before, last = config.steps
        return dataclasses.replace(config, steps=(*before, dataclasses.replace(last, inputs={"BACKGROUND": "BACKGROUND"})))

    change(repository, RELEASE, unfed)
    with pytest.raises(RepositoryError, match=f"expected the inputs .* of its step '{COMBINE}'"):
        check_repository(repository, [RELEASE])


def test_steps_read_only_what_earlier_ones_gave(repository: Path) -> None:
    change(repository, RELEASE, lambda config: dataclasses.replace(config, steps=(config.steps[1], config.steps[2])))
    with pytest.raises(RepositoryError, match=f"at step '{COMBINE}' nothing gives the tensor 'NET_PROBABILITIES'"):
        check_repository(repository, [RELEASE])


def test_outputs_are_as_the_last_step_gives_them(repository: Path) -> None:
    wrong = Tensor("LABELS", "TYPE_UINT8", (16, 16))
    change(repository, RELEASE, lambda config: dataclasses.replace(config, outputs=(wrong, config.outputs[1])))
    with pytest.raises(RepositoryError, match=r"expected 'LABELS' as TYPE_UINT8 \[16, 16\]"):
        check_repository(repository, [RELEASE])


def test_batches_fit_every_step(repository: Path) -> None:
    change(repository, SLIDE, lambda config: dataclasses.replace(config, max_batch_size=65))
    with pytest.raises(RepositoryError, match=f"of at most 64, its step '{NET}''s, got 65"):
        check_repository(repository, [SLIDE])


def test_an_entry_equals_its_release(repository: Path) -> None:
    """The release's canary speaks for the entry."""
    change(repository, ENTRY, lambda config: dataclasses.replace(config, max_batch_size=32, outputs=config.outputs[:1]))
    with pytest.raises(RepositoryError, match=f"'{ENTRY}': expected the same ensemble as its release '{RELEASE}'"):
        check_repository(repository, [ENTRY])


def test_a_broken_contract_names_the_model(repository: Path) -> None:
    change(repository, ENTRY, lambda config: dataclasses.replace(config, parameters={**config.parameters, "histoserve.contract": "99"}))
    with pytest.raises(RepositoryError, match=f"model '{ENTRY}': expected contract version 1, got 99"):
        check_repository(repository, [ENTRY])
