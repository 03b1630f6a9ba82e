"""The files of docker/, read once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
BASE = DOCKER / "kubernetes" / "base"
AUTOSCALE = DOCKER / "kubernetes" / "autoscale"


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DOCKER / "monitoring" / "dashboard.json").read_text())
    return content


def instructions(dockerfile: Path, name: str) -> list[str]:
    """The arguments of every instruction of that name, continued lines joined."""
    lines = dockerfile.read_text().replace("\\\n", " ").splitlines()
    return [line.split(maxsplit=1)[1] for line in lines if line.startswith(f"{name} ")]
