"""What a release says about its origin holds no path of the machine it was made on."""

from __future__ import annotations

import json
from pathlib import Path

from export.provenance import provenance
from tests.export.networks import DEMO
from training.checkpoint import Checkpoint


def test_no_absolute_path_gets_into_a_release(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(b"weights")
    training = {
        "command": ["train", f"@{tmp_path}/r.toml", "--data", str(tmp_path / "patches")],
        "recipe": {"weights": str(tmp_path / "e.pt"), "n": 3},
    }
    checkpoint = Checkpoint(DEMO, "pscl", None, None, training)
    notes = provenance(file, checkpoint, [str(file), "--tiles", str(tmp_path / "tiles"), "--name", "demo"], "8 of tiles")
    assert str(tmp_path) not in json.dumps(notes)
    assert notes["command"] == ["histoserve", "export", "checkpoint.pt", "--tiles", "tiles", "--name", "demo"]
    assert notes["training"] == {"command": ["train", "@r.toml", "--data", "patches"], "recipe": {"weights": "e.pt", "n": 3}}
