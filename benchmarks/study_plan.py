"""What a study compares: variants of `histoserve train`, the rows that are evaluated of each, and the differences that the table shows."""

from __future__ import annotations

from dataclasses import dataclass

PRETRAINED = "pretrained"


@dataclass(frozen=True)
class Variant:
    """A way to train.

    Attributes:
        flags: of `histoserve train` beside the recipe's.
        method: whose recipe it takes, `<set>_<method>.toml` beside the study's own; none = the study's.
        like: a variant whose stages it takes over where they are the same (a stage with other settings is done anew).
    """

    flags: tuple[str, ...] = ()
    method: str | None = None
    like: str | None = None


VARIANTS: dict[str, Variant] = {
    "classification": Variant(("--pscl.weight", "0")),
    "pscl": Variant(),
    PRETRAINED: Variant(),
    # §6.2.1: CAMs of the deepest stage alone, whose coarse grid is the method's bottleneck.
    "pscl-coarse": Variant(("--cam-stages", "4")),
    "pistoseg": Variant(method="pistoseg", like="classification"),
    "pistoseg_unrefined": Variant(("--refine.output", "none"), "pistoseg", "pistoseg"),
    "arml": Variant(method="arml"),
    "grad_cam": Variant(("--pscl.weight", "0", "--cam.kind", "grad_cam", "--cam.stage", "2"), like="classification"),
    "sc_cam": Variant(("--method", "sc_cam", "--subcategory.rounds", "1"), like="classification"),
    "mlps": Variant(("--method", "mlps", "--cam.kind", "grad_cam", "--cam-levels", "2", "1")),
    "oeem": Variant(("--pscl.weight", "0", "--segment.loss", "easy_examples"), like="classification"),
    # PistoSeg, table 3: which losses the refinement has.
    "pistoseg-cons": Variant(("--refine.no-cls", "--refine.no-cross"), "pistoseg", "pistoseg"),
    "pistoseg-cons-cross": Variant(("--refine.no-cls",), "pistoseg", "pistoseg"),
    "pistoseg-cls-cons": Variant(("--refine.no-cross",), "pistoseg", "pistoseg"),
    "pistoseg-cls-cross": Variant(("--refine.no-cons",), "pistoseg", "pistoseg"),
    # ARML, table 2: which of its parts are there.
    "arml-baseline": Variant(("--no-relocalize", "--mutual.no-voting", "--mutual.relation", "none"), "arml", "classification"),
    "arml-ars": Variant(("--mutual.no-voting", "--mutual.relation", "none"), "arml", "arml"),
    "arml-ars-swv": Variant(("--mutual.relation", "none"), "arml", "arml"),
    "arml-ars-srm": Variant(("--mutual.no-voting",), "arml", "arml"),
    "supervised": Variant(("--supervised",)),
}


@dataclass(frozen=True)
class Row:
    """One line of the table: a network of a variant, and flags of `histoserve evaluate` that it is judged with.

    Attributes:
        name: of its file in a run's folder.
    """

    variant: str
    kind: str
    name: str
    flags: tuple[str, ...] = ()


def _row(variant: str, kind: str) -> Row:
    return Row(variant, kind, kind)


_TABLE_3 = (("cons",), ("cons", "cross"), ("cls", "cons"), ("cls", "cross"))
ROWS: dict[str, Row] = {
    "classification, CAM": _row("classification", "cam"),
    "classification, stage 2": _row("classification", "segment"),
    "PSCL, CAM": _row("pscl", "cam"),
    # Tables 5.16 and 5.17: other gates of the same CAMs.
    "PSCL, CAM, no gate": Row("pscl", "cam", "cam-none", ("--gate.kind", "none")),
    "PSCL, CAM, logit > 0.5": Row("pscl", "cam", "cam-logit-0.5", ("--gate.kind", "logit", "--gate.threshold", "0.5")),
    "PSCL, CAM, p > 0.8": Row("pscl", "cam", "cam-p-0.8", ("--gate.kind", "probability", "--gate.threshold", "0.8")),
    "PSCL, CAM, true image labels (oracle)": Row("pscl", "cam", "cam-oracle", ("--gate.kind", "oracle")),
    "PSCL, stage 2": _row("pscl", "segment"),
    "PSCL, CAM of the deepest stage alone": _row("pscl-coarse", "cam"),
    "PSCL of the deepest stage alone, stage 2": _row("pscl-coarse", "segment"),
    "pre-trained + PSCL, CAM": _row(PRETRAINED, "cam"),
    "pre-trained + PSCL, stage 2": _row(PRETRAINED, "segment"),
    "PistoSeg, CAM": _row("pistoseg", "cam"),
    "PistoSeg, precise": _row("pistoseg", "segment"),
    "PistoSeg without refinement": _row("pistoseg_unrefined", "segment"),
    "ARML, CAM": _row("arml", "cam"),
    "ARML, stage 2": _row("arml", "segment"),
    "Grad-CAM of a shallower stage, stage 2": _row("grad_cam", "segment"),
    "SC-CAM, CAM": _row("sc_cam", "cam"),
    "SC-CAM, stage 2": _row("sc_cam", "segment"),
    "MLPS, CAM": _row("mlps", "cam"),
    "MLPS, stage 2": _row("mlps", "segment"),
    "OEEM, stage 2": _row("oeem", "segment"),
    "supervised": _row("supervised", "segment"),
    **{f"PistoSeg, {' + '.join(losses)}": _row("-".join(("pistoseg", *losses)), "segment") for losses in _TABLE_3},
    "ARML, baseline": _row("arml-baseline", "segment"),
    "ARML, ARS": _row("arml-ars", "segment"),
    "ARML, ARS + SWV": _row("arml-ars-swv", "segment"),
    "ARML, ARS + SRM": _row("arml-ars-srm", "segment"),
}
BASELINE = "classification, stage 2"
# (second, first): the difference is second minus first.
PAIRS = (
    ("PSCL, CAM", "classification, CAM"),
    *((name, BASELINE) for name, row in ROWS.items() if row.kind == "segment" and name != BASELINE and "-" not in row.variant),
    ("PSCL, CAM, true image labels (oracle)", "PSCL, CAM"),
    ("PSCL, CAM of the deepest stage alone", "PSCL, CAM"),
    ("PSCL of the deepest stage alone, stage 2", "PSCL, stage 2"),
    ("PSCL, stage 2", "PSCL, CAM"),
    ("pre-trained + PSCL, CAM", "PSCL, CAM"),
    ("pre-trained + PSCL, stage 2", "PSCL, stage 2"),
    ("supervised", "PSCL, stage 2"),
)
