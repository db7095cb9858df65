"""Who takes part, as text: another process opens the same from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...engines import host
from ...engines.bundle import Bundle
from ...errors import SourceError
from ..subjects.as_engine import refuse_kept
from ..subjects.open import SubjectOptions, open_subject, split_name
from .baselines import ModelName, check_baselines, open_baseline
from .candidates import Candidate


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One candidate to be opened.

    Attributes:
        name: in tables, without a double in the race.
        form: ``bundle:DIR#TARGET`` and so on, or the name of a baseline.
        model: of a baseline.
        threads: CPU threads; 0 for all physical cores.
        task: of a ``torch:`` subject.
        trust: open bundles without a manifest.
        folder: where baselines keep the graph they export.
    """

    name: str
    form: str
    model: ModelName | None = None
    threads: int = 0
    task: str = "auto"
    trust: bool = False
    folder: str = ""

    @property
    def described(self) -> str:
        """The subject in full, or the baseline and its model."""
        return self.form if self.model is None else f"{self.form} of {self.model.name}"

    def open(self) -> Candidate:
        """Open it.

        Raises:
            FuselageError: as opening a subject or a baseline does.
        """
        if self.model is not None:
            subject = open_baseline(self.form, self.model, self.threads, Path(self.folder))
        else:
            options = SubjectOptions(threads=self.threads, task=self.task, trust=self.trust)
            subject = open_subject(self.form, options)
            refuse_kept(subject)
            if split_name(self.form)[0] == "torch":
                _limit_torch(self.threads)
        return Candidate(self.name, subject, is_baseline=self.model is not None)

    def as_json(self) -> dict[str, Any]:
        """For another process."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Entry:
        """What `as_json` gave."""
        model = values["model"]
        return cls(**values | {"model": None if model is None else ModelName(**model)})


def _limit_torch(threads: int) -> None:
    from ...compiler.exporting.baselines import use_threads

    use_threads(threads or host.physical_cores())


def make_entries(
    subjects: Sequence[str],
    baselines: Sequence[str],
    template: Entry,
    model: str | None = None,
) -> tuple[Entry, ...]:
    """Subjects first, then baselines.

    Args:
        subjects: names of subjects; a path alone is a bundle or an ONNX file.
        baselines: names of baselines.
        template: options of all of them.
        model: what baselines run; None for the model of the first bundle or PyTorch subject.

    Raises:
        SourceError: on an unknown form or baseline, or when no model is known for the baselines.
        BundleError: when the first bundle is missing or damaged.
    """
    if not subjects:
        raise SourceError("bench: expected at least one subject, such as a bundle's folder")
    forms = [full_form(subject) for subject in subjects]
    entries = _named(forms, template)
    kinds = check_baselines(tuple(baselines))
    if kinds:
        source = _model(forms, template, model)
        entries += [replace(template, name=kind, form=kind, model=source) for kind in kinds]
    return _distinct(entries)


def full_form(subject: str) -> str:
    """Put ``bundle:`` or ``ort:`` before a path that has no kind.

    Raises:
        SourceError: when it has no known form.
    """
    bare = Path(subject.partition("#")[0])
    if ":" not in subject or bare.exists():
        subject = f"ort:{subject}" if bare.suffix == ".onnx" else f"bundle:{subject}"
    split_name(subject)
    return subject


def _model(forms: Sequence[str], template: Entry, model: str | None) -> ModelName:
    if model is not None:
        return ModelName(name=model, task=template.task)
    for form in forms:
        kind, rest = split_name(form)
        if kind == "torch":
            name = rest.removeprefix("random:").partition("@")
            weights = "random" if rest.startswith("random:") else "pretrained"
            return ModelName(
                name=name[0],
                revision=name[2] or None,
                weights="random" if weights == "random" else "pretrained",
                task=template.task,
            )
        if kind == "bundle":
            folder = rest.partition("#")[0]
            return ModelName.of_bundle(Bundle.open(folder, trust=template.trust))
    raise SourceError("baselines need a model; name it with --model, or add a bundle of it")


def _named(forms: Sequence[str], template: Entry) -> list[Entry]:
    """Named by the last part of the path where that tells them apart."""
    whole = [form.removeprefix("bundle:") for form in forms]
    short = [Path(form.partition("#")[0]).name + "#" * ("#" in form) + form.partition("#")[2]
             for form in whole]  # fmt: skip
    is_clear = len(set(short)) == len(set(forms)) and all(short)
    names = short if is_clear else whole
    return [replace(template, name=n, form=f) for n, f in zip(names, forms, strict=True)]


def _distinct(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Number names that come twice."""
    seen: dict[str, int] = {}
    found = []
    for entry in entries:
        seen[entry.name] = seen.get(entry.name, 0) + 1
        again = seen[entry.name] > 1
        found.append(replace(entry, name=f"{entry.name} ({seen[entry.name]})") if again else entry)
    return tuple(found)
