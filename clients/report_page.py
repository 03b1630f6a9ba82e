"""The page of a run: `index.html`, one file that needs nothing else, made from `batch.json` and the overlays beside it. Knows no slide."""

from __future__ import annotations

import base64
import html
import io
import json
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .errors import OutputError

_PICTURE_PX = 560
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --bad: #c62828; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1100px; padding: 24px; }
h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 0; overflow-wrap: anywhere; }
p { margin: 4px 0; } .soft { opacity: .7; } code { font-size: 13px; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 12px 0; }
.box { display: inline-block; width: 12px; height: 12px; border-radius: 2px; margin-right: 6px; vertical-align: -1px; }
article { display: grid; grid-template-columns: minmax(0, 360px) minmax(0, 1fr); gap: 20px; border-top: 1px solid var(--line); padding: 18px 0; }
article.failed, article.waiting { grid-template-columns: minmax(0, 1fr); } article img { width: 100%; height: auto; border-radius: 4px; background: #fff; }
.failed .state { color: var(--bad); font-weight: 600; } .reason { border-left: 3px solid var(--bad); padding-left: 10px; overflow-wrap: anywhere; }
.bar { display: flex; height: 14px; border-radius: 3px; overflow: hidden; background: var(--soft); margin: 8px 0; }
table { border-collapse: collapse; } td { padding: 1px 14px 1px 0; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
details { margin-top: 24px; border-top: 1px solid var(--line); padding-top: 12px; }
@media (max-width: 640px) { article { grid-template-columns: 1fr; } }
"""


@dataclass(frozen=True)
class PageHead:
    """What is said of the run as a whole.

    Attributes:
        command: as it was typed.
        versions: of what made the masks.
    """

    command: str
    versions: Mapping[str, str]


def write_page(folder: Path, head: PageHead) -> Path:
    """Write `index.html` beside `batch.json`; the caller may call it again as the run goes on.

    Raises:
        OutputError: there is no `batch.json`, or the page cannot be written.
    """
    try:
        slides: list[dict[str, Any]] = json.loads((folder / "batch.json").read_text(encoding="utf-8"))["slides"]
        page = folder / "index.html"
        partial = folder / ".index.partial.html"
        partial.write_text(_page(folder, head, slides), encoding="utf-8")
        partial.replace(page)
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise OutputError(f"{folder}: expected a batch.json to make index.html from, beside which can be written: {error!r}") from error
    return page


def _page(folder: Path, head: PageHead, slides: Sequence[dict[str, Any]]) -> str:
    failed = [slide for slide in slides if slide.get("reason")]
    shown = [slide | {"summary": slide.get("summary") or _earlier_summary(folder, slide)} for slide in slides]
    colors = {name: color for slide in shown if slide["summary"] for name, color in _colors(slide["summary"]).items()}
    legend = "".join(f"<span>{_box(color)}{html.escape(name)}</span>" for name, color in colors.items())
    versions = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in head.versions.items())
    told = f"{len(slides)} slides, {len(failed)} failed" if len(slides) != 1 else f"1 slide, {len(failed)} failed"
    articles = "\n".join(_article(folder, slide) for slide in sorted(shown, key=lambda slide: not slide.get("reason")))
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n'
        f"<title>histoserve: {told}</title>\n<style>{_STYLE}</style>\n"
        f'<h1>histoserve segment</h1>\n<p>{told}</p>\n<p class="soft"><code>{html.escape(head.command)}</code></p>\n'
        f'<div class="legend">{legend}</div>\n{articles}\n<details><summary>Versions</summary><table>{versions}</table></details>\n</html>\n'
    )


def _article(folder: Path, slide: Mapping[str, Any]) -> str:
    name, state = html.escape(str(slide["slide"])), html.escape(str(slide["state"]))
    summary = slide["summary"]
    if summary is None:
        reason = f'<p class="reason">{html.escape(str(slide["reason"]))}</p>' if slide.get("reason") else ""
        kind = "failed" if slide.get("reason") else "waiting"
        return f'<article class="{kind}"><div><h2>{name}</h2><p class="state">{state}</p>{reason}</div></article>'
    return f"<article><div>{_picture(folder, summary)}</div><div><h2>{name}</h2>{_figures(state, summary)}</div></article>"


def _earlier_summary(folder: Path, slide: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Of a slide that was skipped, what the run that made its mask said."""
    path = folder / f"{Path(str(slide['slide'])).stem}.summary.json"
    if slide["state"] != "skipped" or not path.is_file():
        return None
    summary: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary


def _figures(state: str, summary: Mapping[str, Any]) -> str:
    areas, colors = summary["areas_mm2"], _colors(summary)
    seconds = sum(summary["seconds"].values())
    whole = sum(areas.values())
    facts = [
        state,
        f"{summary['tissue_tiles']:,} of {summary['tiles']:,} tiles",
        f"{seconds:,.1f} s",
        f"{summary['tissue_tiles'] / seconds:,.0f} tiles/s" if seconds else "",
        "{:,} × {:,} px at {:.4g} µm".format(*summary["size_px"], summary["mpp"][0]),
    ]
    bar = "".join(
        f'<span style="width:{100 * area / whole:.3f}%;background:{html.escape(colors.get(name, "#888"))}" title="{html.escape(name)}"></span>'
        for name, area in areas.items()
        if area > 0
    )
    rows = "".join(
        f'<tr><td>{_box(colors.get(name, "#888"))}{html.escape(name)}</td><td class="number">{area:,.3f} mm²</td>'
        f'<td class="number">{100 * area / whole if whole else 0:.1f} %</td></tr>'
        for name, area in areas.items()
    )
    return f'<p class="soft">{" · ".join(filter(None, facts))}</p><div class="bar">{bar}</div><table>{rows}</table>'


def _colors(summary: Mapping[str, Any]) -> dict[str, str]:
    """Of each class, "#rrggbb", in the task's order."""
    colors: dict[str, str] = summary["outputs"]["colors"]
    return colors


def _picture(folder: Path, summary: Mapping[str, Any]) -> str:
    """The overlay made small and put into the page, linked to the file itself."""
    name = str(summary["overlay"])
    try:
        with Image.open(folder / name) as image:
            small = image.convert("RGB")
    except OSError:
        return f'<p class="soft">{html.escape(name)} is not there</p>'
    small.thumbnail((_PICTURE_PX, _PICTURE_PX))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    link, told = urllib.parse.quote(name), html.escape(name)
    return f'<a href="{link}"><img src="data:image/jpeg;base64,{data}" width="{small.width}" height="{small.height}" alt="{told}"></a>'


def _box(color: str) -> str:
    return f'<span class="box" style="background:{html.escape(color, quote=True)}"></span>'
