"""Options that several verbs share, spelled and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object last on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show decisions and results only.")]
Document = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE.json", help="Keep the figures, for fuselage report."),
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Open engines without a manifest; a plan is code.")
]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0: all physical cores.")]
Target = Annotated[str | None, typer.Option(help="Default: the best that runs here.")]
Fallback = Annotated[
    list[str] | None,
    typer.Option(
        "--fallback",
        metavar="TARGET",
        help="Target to run when those before it do not run here. Repeatable, in order.",
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", help="Repeatable. Default: all that build on this machine."),
]
Texts = Annotated[
    list[Path] | None,
    typer.Option(
        "--text",
        metavar="FILE",
        help="Calibration text: lines, .jsonl, .csv, .tsv, .parquet, .arrow, a folder of such "
        "files, or - for standard input. Repeatable.",
    ),
]
TextColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--text-column",
        metavar="NAME",
        help="Column of --text with texts or token ids; give it twice for pairs. Default: text.",
    ),
]
TextLimit = Annotated[
    int | None,
    typer.Option("--text-limit", min=1, help="Texts drawn from --text at most; default 512."),
]
Int8Embeddings = Annotated[
    bool,
    typer.Option(
        "--int8-embeddings",
        help="With int8 and int8-weight-only: keep large embedding tables in INT8 too.",
    ),
]
FloatAttention = Annotated[
    bool,
    typer.Option(
        "--float-attention",
        help="With int8 and fp8: keep the linears around an attention in float.",
    ),
]
MinSqnr = Annotated[
    float | None,
    typer.Option(
        "--min-sqnr",
        metavar="DB",
        help="Leave INT8 layers in float until held-out text has this signal to noise ratio.",
    ),
]
MinCosine = Annotated[
    float | None,
    typer.Option(
        "--min-cosine",
        metavar="X",
        min=-1.0,
        max=1.0,
        help="Leave INT8 layers in float until no answer has a smaller cosine to the float one.",
    ),
]
Evaluation = Annotated[
    Path | None,
    typer.Option(
        "--eval",
        metavar="FILE",
        help="Examples with what the model should answer, to measure what INT8 loses: .jsonl, "
        ".csv, .tsv, .parquet or .arrow, or - for JSON lines on standard input.",
    ),
]
EvaluationColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--eval-column",
        metavar="ROLE=NAME",
        help="Column of --eval, for example score=gold. Default: by its usual names. Repeatable.",
    ),
]
MaxDrop = Annotated[
    list[str] | None,
    typer.Option(
        "--max-drop",
        metavar="METRIC=POINTS",
        help="Leave INT8 layers in float until the metric on --eval loses no more points of 100, "
        "for example spearman=0.1. Repeatable.",
    ),
]
Costs = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Cost table of fuselage tune. Default: the shipped one."),
]
Verify = Annotated[
    str,
    typer.Option(
        help="Compare numbers after each pass, once at the end (final), or not at all (off)."
    ),
]
Require = Annotated[
    list[str] | None,
    typer.Option(
        "--require",
        metavar="KIND=all|KIND>=N",
        help="Fail when a block is left, for example attention=all. Repeatable.",
    ),
]
