"""What Polygraphy reads and writes: its saved results, and a folder its command line repeats."""

from __future__ import annotations

import json
import shlex
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import SourceError, VerificationError
from ...graph.tensors import Array, TensorSpec
from ..subjects.base import Subject
from ..subjects.results import KeptCase
from . import measures, polygraphy_judge
from .cases import Case
from .compare import CandidateResult, Comparison
from .judged import is_logits, judged_elements, promises_empty_rows
from .polygraphy_judge import BOUNDS_FILE, CANDIDATE, JUDGED, WITHOUT_EMPTY_ROWS
from .runners import quiet

INPUTS, REFERENCE, JUDGE, SCRIPT = "inputs.json", "reference.json", "judge.py", "compare.sh"


def read_run_results(name: str, rest: str) -> list[KeptCase]:
    """Answers that Polygraphy saved, with the inputs it saved.

    Args:
        name: of the subject, for messages.
        rest: ``OUTPUTS.json``, with ``,INPUTS.json`` where these are not in ``inputs.json``
            beside it, and ``#RUNNER`` where there are several.

    Raises:
        SourceError: when a file is missing or not what Polygraphy writes, or the runner is unknown.
    """
    from polygraphy.comparator import RunResults
    from polygraphy.json import load_json

    files, _, runner = rest.partition("#")
    outputs, _, given = files.partition(",")
    inputs = Path(given) if given else Path(outputs).with_name(INPUTS)
    if not inputs.is_file():
        raise SourceError(
            f"{name}: Polygraphy keeps inputs in a file of their own, which is not at {inputs}; "
            "name it behind a comma: results:OUTPUTS.json,INPUTS.json"
        )
    try:
        with quiet():
            feeds, results = load_json(str(inputs)), RunResults.load(outputs)
            runners = list(results.keys())
    except Exception as error:  # Polygraphy raises its own, json's and zlib's errors
        raise SourceError(f"{name}: expected results that Polygraphy saved: {error}") from error
    if runner not in runners and (runner or len(runners) != 1):
        raise SourceError(
            f"{name}: expected one of the runners {', '.join(runners) or '(none)'} behind #, got "
            f"{runner!r}"
        )
    answers = results[runner or runners[0]]
    if not answers or len(answers) != len(feeds):
        raise SourceError(
            f"{name}: holds {len(answers)} answers to {len(feeds)} inputs; expected one each"
        )
    return [
        KeptCase(
            name=f"iteration {at}",
            feeds={key: np.asarray(value) for key, value in feed.items()},
            outputs={
                key: np.asarray(value) for key, value in answer.items() if "/judged" not in key
            },
        )
        for at, (feed, answer) in enumerate(zip(feeds, answers, strict=True))
    ]


@dataclass
class PolygraphyFolder:
    """Collects what everybody answers, then writes what Polygraphy needs to judge it again.

    Args:
        path: folder to write; it is made when it is not there, and must be empty.

    Raises:
        VerificationError: when there is something in the folder.
    """

    path: Path
    _answers: dict[int, list[dict[str, Array]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise VerificationError(
                f"{self.path}: expected a folder that is empty or not there; give another one to "
                "--save-polygraphy"
            )

    def keep(self, which: int, case: int, outputs: dict[str, Array]) -> None:
        """Told of every answer, see `comparator.Keep`."""
        del case
        self._answers.setdefault(which, []).append(outputs)

    def write(
        self, comparison: Comparison, reference: Subject, candidates: Sequence[Subject]
    ) -> Path:
        """Write the folder.

        Returns:
            Path of the script.
        """
        from polygraphy.json import save_json

        self.path.mkdir(parents=True, exist_ok=True)
        with quiet():
            feeds = [OrderedDict(case.feeds) for case in comparison.cases]
            save_json(feeds, str(self.path / INPUTS))
            judged = _with_masks(reference, comparison.cases, self._answers[0])
            self._save(REFERENCE, reference.name, judged)
            for at, candidate in enumerate(candidates, start=1):
                if not _is_live(candidate):
                    self._save(_file(at), candidate.name, self._answers[at])
        bounds = _bounds(comparison, reference, candidates)
        (self.path / BOUNDS_FILE).write_text(json.dumps(bounds, indent=1) + "\n", encoding="utf-8")
        _copy(measures, self.path / "measures.py")
        _copy(polygraphy_judge, self.path / JUDGE)
        script = self.path / SCRIPT
        script.write_text(_script(comparison, candidates), encoding="utf-8")
        script.chmod(0o755)
        return script

    def _save(self, file: str, name: str, answers: Sequence[Mapping[str, Array]]) -> None:
        from polygraphy.comparator import RunResults

        results = RunResults()
        results.add([OrderedDict(answer) for answer in answers], runtime=0.0, runner_name=name)
        results.save(str(self.path / file))


def _file(at: int) -> str:
    return f"candidate_{at}.json"


def _is_live(candidate: Subject) -> bool:
    """Whether Polygraphy itself can run it: an ONNX file."""
    return candidate.graph is not None and not candidate.kept


def _with_masks(
    reference: Subject, cases: Sequence[Case], answers: Sequence[Mapping[str, Array]]
) -> list[dict[str, Array]]:
    found = []
    for case, answer in zip(cases, answers, strict=True):
        redrawn = None if case.redrawn is None else reference.run(case.redrawn)
        masks: dict[str, Array] = {}
        for spec in reference.outputs:
            for suffix, with_rows in ((JUDGED, True), (WITHOUT_EMPTY_ROWS, False)):
                mask = judged_elements(
                    spec, case, answer[spec.name], redrawn, with_empty_rows=with_rows
                )
                masks[spec.name + suffix] = _compact(mask)
        found.append({**answer, **masks})
    return found


def _compact(mask: Array) -> Array:
    """One entry where a vector is judged or left out as a whole."""
    if mask.ndim < 2 or not (mask == mask[..., :1]).all():
        return mask
    return np.ascontiguousarray(mask[..., :1])


def _bounds(
    comparison: Comparison, reference: Subject, candidates: Sequence[Subject]
) -> dict[str, Any]:
    return {
        "reference": comparison.reference,
        "cases": [case.name for case in comparison.cases],
        "candidates": {
            str(at): {
                "name": result.name,
                "with_empty_rows": all(map(promises_empty_rows, (reference, candidate))),
                "outputs": _output_bounds(result, reference.outputs, reference),
            }
            for at, (result, candidate) in enumerate(
                zip(comparison.candidates, candidates, strict=True), start=1
            )
        },
    }


def _output_bounds(
    result: CandidateResult, specs: Sequence[TensorSpec], reference: Subject
) -> dict[str, Any]:
    known = {output.name: output for output in result.outputs}
    return {
        spec.name: {
            "bounds": known[spec.name].bounds,
            "is_logits": is_logits(reference, spec.name),
            "scale": known[spec.name].cases[0].scale,
        }
        for spec in specs
    }


def _copy(module: Any, path: Path) -> None:
    """A file of fuselage that runs without it."""
    source = Path(module.__file__).read_text(encoding="utf-8")
    path.write_text(source.replace("from .measures import", "from measures import"), "utf-8")


def _script(comparison: Comparison, candidates: Sequence[Subject]) -> str:
    version = metadata.version("polygraphy")
    lines = [
        "#!/bin/sh",
        f"# Compares {comparison.reference} with {len(candidates)} candidate(s) once more, without",
        f"# fuselage: needs polygraphy {version}, numpy, and onnxruntime for ONNX files.",
        "# Exits with 0 when all bounds hold, else with 1. See judge.py for what is judged.",
        'cd "$(dirname "$0")" || exit 2',
        "status=0",
        "scratch=$(mktemp -d) && trap 'rm -rf \"$scratch\"' EXIT",
    ]
    for at, candidate in enumerate(candidates, start=1):
        lines += ["", f"echo {shlex.quote(f'--- {candidate.name}')}"]
        lines += [f"export {CANDIDATE}={at}"]
        lines += _commands(at, candidate)
    return "\n".join([*lines, "", "exit $status", ""])


def _commands(at: int, candidate: Subject) -> list[str]:
    each, average = (f"--compare-func-script {JUDGE}:{name}" for name in ("EachCase", "OnAverage"))
    if not _is_live(candidate):
        saved = f"--load-outputs {REFERENCE} {_file(at)}"
        return [
            f"polygraphy run {saved} {each} || status=1",
            f"polygraphy run {saved} {average} --check-average || status=1",
        ]
    assert candidate.graph is not None
    model = shlex.quote(str(candidate.graph.resolve()))
    answers = f'"$scratch/{_file(at)}"'
    return [
        f"MODEL_{at}=${{MODEL_{at}:-{model}}}",
        f'polygraphy run "$MODEL_{at}" --onnxrt --load-inputs {INPUTS} --load-outputs {REFERENCE} '
        f"{each} --save-outputs {answers} || status=1",
        f"polygraphy run --load-outputs {REFERENCE} {answers} {average} --check-average "
        "|| status=1",
    ]
