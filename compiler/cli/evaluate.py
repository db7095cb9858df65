"""``fuselage evaluate``: how well do the engines of a bundle do on the user's examples?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import VerificationError
from .console import Watch, print_json, print_table, say
from .documents import check_document, write_document
from .inputs import read_evaluation
from .options import Document, Json, Quiet, Threads, Trust
from .trouble import trouble

if TYPE_CHECKING:
    from ...proof.accuracy.evaluate import Evaluation


def evaluate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle.")],
    data: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Examples with what should be answered: .jsonl, .csv, .tsv, .parquet, .arrow.",
        ),
    ],
    data_column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=NAME",
            help="Column of --data, for example score=gold. Default: its usual names. Repeatable.",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable. Default: all that run on this machine."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="SUBJECT",
            help="What they are held to, for example torch:MODEL. Default: the bundle's own float "
            "graph.",
        ),
    ] = None,
    max_drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=POINTS",
            help="Exit with 1 when a metric loses more, for example spearman=0.1. Repeatable.",
        ),
    ] = None,
    threads: Threads = 0,
    trust: Trust = False,
    out: Document = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Judge the reference and every engine that runs here by the metrics of the task.

    Differences come with the interval that 95 of 100 choices of other examples would give. Exits
    with 1 when --max-drop does not hold, and with 2 when nothing could be judged.
    """
    from ...calibration.metrics.table import parse_max_drop
    from ...errors import CalibrationError
    from ...proof.accuracy.evaluate import evaluate as judge
    from ...proof.subjects.open import SubjectOptions

    with trouble():
        check_document(out)
        file = read_evaluation(data, data_column)
        if file is None:
            raise CalibrationError("evaluation: expected a file of examples, got none")
        watch = Watch(quiet=quiet)
        try:
            found = judge(
                bundle,
                file,
                targets=target or (),
                reference=reference,
                max_drop=parse_max_drop(max_drop or []),
                options=SubjectOptions(threads=threads, trust=trust),
                listener=watch,
            )
        finally:
            watch.close()
    _show(found)
    facts = found.as_json()
    if out is not None:
        write_document(out, facts)
        say(f"written to {out}")
    if as_json:
        print_json(facts)
    over = [(one.name, item) for one in found.judgements for item in one.over(found.max_drop)]
    if over:
        lines = "; ".join(
            f"{name} loses {item.drop:.2f} of {item.metric}, {found.max_drop[item.metric]:g} may "
            "be lost"
            for name, item in over
        )
        raise VerificationError(f"{found.examples.source}: {lines}")


def _show(found: Evaluation) -> None:
    for line in found.left_out:
        say(f"note: left out {line}")
    for line in (*found.notes, *(note for one in found.judgements for note in one.notes)):
        say(f"note: {line}")
    rows = [
        (
            one.name.partition("#")[2] or one.name,
            one.precision,
            item.metric,
            f"{item.reference:.2f}",
            f"{item.candidate:.2f}",
            f"{item.drop:+.2f}",
            f"{item.interval[0]:+.2f} to {item.interval[1]:+.2f}",
        )
        for one in found.judgements
        for item in one.drops
    ]
    say(f"reference: {found.reference}")
    print_table(
        f"{len(found.examples.inputs)} examples of {found.examples.source}",
        ("candidate", "precision", "metric", "reference", "its own", "lost", "95 % interval"),
        rows,
    )
