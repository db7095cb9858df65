"""``fuselage build``: model to verified bundle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from ...calibration.metrics.table import parse_max_drop
from ..pipeline import Outcome, run_build
from ..precision import ASKED
from ..precisions.compare import compare_precisions as choose_precision
from ..recipe import Request
from .console import Watch, print_json, print_table, say
from .inputs import read_evaluation, read_texts
from .options import (
    Costs,
    Evaluation,
    EvaluationColumns,
    FloatAttention,
    Int8Embeddings,
    Json,
    MaxDrop,
    MinCosine,
    MinSqnr,
    Quiet,
    Require,
    Targets,
    TextColumns,
    TextLimit,
    Texts,
    Threads,
    Verify,
)


def build(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Alias (minilm), hub id, or local folder.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder; default build/NAME.")] = None,
    precision: Annotated[
        str, typer.Option(help=f"{', '.join(ASKED[:-1])} or {ASKED[-1]}.")
    ] = "auto",
    target: Targets = None,
    compare_precisions: Annotated[
        bool,
        typer.Option(
            "--compare-precisions",
            help="Build fp16, int8 without and with attention, and fp8, and keep the fastest.",
        ),
    ] = False,
    task: Annotated[str, typer.Option(help="auto picks by the architecture.")] = "auto",
    text: Texts = None,
    text_column: TextColumns = None,
    text_limit: TextLimit = None,
    int8_embeddings: Int8Embeddings = False,
    float_attention: FloatAttention = False,
    min_sqnr: MinSqnr = None,
    min_cosine: MinCosine = None,
    evaluation: Evaluation = None,
    evaluation_column: EvaluationColumns = None,
    max_drop: MaxDrop = None,
    weights: Annotated[str, typer.Option(help="pretrained or random.")] = "pretrained",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    shapes: Annotated[
        list[str] | None,
        typer.Option(help="batch=1:8:64,sequence=1:128:256 (min:opt:max). Repeatable."),
    ] = None,
    profiles: Annotated[
        str, typer.Option(help="wide, auto (fitted to the lengths of --text), or how many.")
    ] = "wide",
    compute_capability: Annotated[
        list[str] | None, typer.Option(help="SM80, SM89, ... Repeatable.")
    ] = None,
    gpu_memory: Annotated[
        float | None, typer.Option(help="GiB of the smallest GPU that the engine must fit.")
    ] = None,
    refittable: Annotated[
        bool, typer.Option("--refittable", help="TensorRT plans that take other weights later.")
    ] = False,
    strip_plan: Annotated[
        bool,
        typer.Option(
            "--strip-plan", help="TensorRT plans without weights, which come from the graph."
        ),
    ] = False,
    weight_streaming: Annotated[
        bool,
        typer.Option(
            "--weight-streaming", help="TensorRT plans whose weights may stay in host memory."
        ),
    ] = False,
    layout: Annotated[
        str, typer.Option(help="padded: a text a row. packed: texts share rows, nothing is padded.")
    ] = "padded",
    verify: Verify = "final",
    requirements: Require = None,
    costs: Costs = None,
    threads: Threads = 0,
    force: Annotated[bool, typer.Option("--force", help="Build even if nothing changed.")] = False,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Neither use nor fill the cache of stages.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Export, rewrite, calibrate, compile and prove a model.

    Ends at once when an equal bundle is there. Exits with 1 when an engine does not answer like
    the model, and, with nothing written, when a block that is required is left.
    """
    request = Request(
        model=model,
        out=out or _default_out(model),
        precision=precision,
        targets=tuple(target or ()),
        task=task,
        texts=read_texts(text, text_column, text_limit),
        int8_embeddings=int8_embeddings,
        float_attention=float_attention,
        min_sqnr=min_sqnr,
        min_cosine=min_cosine,
        evaluation=read_evaluation(evaluation, evaluation_column),
        max_drop=parse_max_drop(max_drop or ()),
        weights=cast(Literal["pretrained", "random"], weights),
        revision=revision,
        shapes=tuple(shapes or ()),
        profiles=profiles,
        compute_capabilities=tuple(compute_capability or ()),
        gpu_memory=gpu_memory,
        refittable=refittable,
        strip_plan=strip_plan,
        weight_streaming=weight_streaming,
        layout=layout,
        threads=threads,
        verify=verify,
        require=tuple(requirements or ()),
        costs=costs,
    )
    watch = Watch(quiet=quiet)
    try:
        run = choose_precision if compare_precisions else run_build
        outcome = run(request, watch, force=force, use_cache=not no_cache)
    finally:
        watch.close()
    _show(request, outcome, quiet=quiet or as_json)
    if as_json:
        print_json({"bundle": str(request.out), "reused": outcome.reused, **outcome.report})


def _default_out(model: str) -> Path:
    """``build/NAME``; a folder is called by its own name, also when it was given as ``.``."""
    folder = Path(model).expanduser()
    name = Path(os.path.abspath(folder)).name if folder.is_dir() else folder.name
    return Path("build") / (name or "model")


def _show(request: Request, outcome: Outcome, *, quiet: bool) -> None:
    if outcome.reused:
        say(f"{request.out} is up to date, nothing was built")
    for reason in outcome.reasons:
        say(f"rebuilt because {reason}")
    report = outcome.report
    for item in (report["quantization"] or {}).get("accuracy", ()):
        say(_accuracy(item))
    if quiet:
        return
    if report.get("comparison"):
        print_table(*comparison_table(report["comparison"]))
    columns = ("target", "precision", "MB", "attention", "like PyTorch", "least cosine", "max |d|")
    rows = [_row(verdict, report) for verdict in report["verification"]["targets"]]
    name = f"{report['model']['id']} ({report['model']['weights']} weights) in {request.out}"
    print_table(name, columns, rows)


def comparison_table(
    results: Sequence[Mapping[str, Any]],
) -> tuple[str, tuple[str, ...], list[tuple[object, ...]]]:
    """Title, columns and rows of the candidates of ``--compare-precisions``."""
    rows: list[tuple[object, ...]] = [
        (
            f"{result['name']}{' (kept)' if result['chosen'] else ''}",
            "-" if result["milliseconds"] is None else f"{result['milliseconds']:.3f}",
            result["how"] or "not built",
            "-" if "bytes" not in result else round(result["bytes"] / 1e6, 1),
            "-" if "cosine_min" not in result else f"{result['cosine_min']:.6f}",
            result["reason"] or "yes",
        )
        for result in results
    ]
    return "precisions", ("precision", "ms", "how", "MB", "least cosine", "like PyTorch"), rows


def _row(verdict: Mapping[str, Any], report: Mapping[str, Any]) -> tuple[object, ...]:
    entry = report["targets"][verdict["target"]]
    attention = report["fusion"]["attention"]
    fused = f"{attention['fused']}/{attention['found']} fused"
    if entry.get("kernels"):
        fused = f"{entry['kernels']['fused_attention']}/{attention['found']} kernels"
    return (
        verdict["target"],
        _precision(verdict["precision"], report["quantization"]),
        round(entry["bytes"] / 1e6, 1),
        fused,
        _answers(verdict),
        f"{verdict['cosine_min']:.6f}",
        f"{verdict['max_abs']:.1e}",
    )


def _accuracy(item: Mapping[str, Any]) -> str:
    low, high = item["interval"]
    return (
        f"{item['metric']} {item['reference']:.2f} in float, {item['int8']:.2f} quantised: drop "
        f"{item['drop']:.2f} (95 %: {low:.2f} to {high:.2f}) on {item['examples']} examples of "
        f"{item['source']}"
    )


def _precision(precision: str, quantization: Mapping[str, Any] | None) -> str:
    """With the number of linears that have it, where not all need to."""
    if quantization is None or not precision.startswith(("int8", "fp8")):
        return precision
    left = len(quantization["kept_float"])
    return f"{precision} {quantization['linears'] - left}/{quantization['linears']}"


def _answers(verdict: Mapping[str, Any]) -> str:
    if not verdict["passed"]:
        return f"NO: {verdict['reason']}"
    return "yes" if verdict["subject"] == "engine" else "its graph does"
