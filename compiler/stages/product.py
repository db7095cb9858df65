"""A stage's product, from the cache or made now, and the runner that tells which."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...engines.manifest import FileEntry
from ...graph.history import Refusal, StageRecord
from ..cache.changes import rebuilt_because
from ..cache.entry import DamagedEntryError, Entry, content_digest, hash_files
from ..cache.key import StageKey
from ..cache.store import Store
from ..progress import Journal, Silent

Make = Callable[[Path, Journal], Mapping[str, Any]]
"""Fills an empty folder, tells the journal, and returns facts as JSON."""


@dataclass
class Product:
    """What a stage has made: facts, and files that come out of the cache when they are asked for.

    Attributes:
        key: what it depends on.
        facts: what the stage says about it, JSON.
        files: name -> hash and size.
        folder: where the files are, or will be once they are asked for.
    """

    key: StageKey
    facts: Mapping[str, Any]
    files: Mapping[str, FileEntry]
    folder: Path
    _runner: StageRunner = field(repr=False)
    _make: Make = field(repr=False)
    _entry: Entry | None = field(default=None, repr=False)

    @property
    def content(self) -> str:
        """sha256 over all files."""
        return content_digest(self.files)

    def path(self, name: str) -> Path:
        """One file, in place."""
        if self._entry is None:
            return self.folder / name
        if not (self.folder / name).is_file():
            self._copy((name,))
        return self.folder / name

    def fetch(self) -> Path:
        """The folder with all files in place."""
        if self._entry is not None:
            self._copy(tuple(name for name in self.files if not (self.folder / name).is_file()))
        return self.folder

    def _copy(self, names: tuple[str, ...]) -> None:
        assert self._entry is not None
        try:
            for name in names:
                self._entry.copy(name, self.folder / name)
        except DamagedEntryError as error:
            self._entry = None
            self.facts, self.files = self._runner.mend(self, self._make, error)


class StageRunner:
    """Runs the stages of one build, or takes their products from the cache.

    Args:
        scratch: folder for products that are not part of the bundle.
        journal: of the build.
        store: the cache; None to make everything and keep nothing.
        fresh: make everything, and keep it in place of what is there.

    Attributes:
        ledger: one entry a stage for the report: what it is, its key, whether the product was
            reused, and if not, what differs from the last one of this model.
    """

    def __init__(
        self, scratch: Path, journal: Journal, store: Store | None = None, *, fresh: bool = False
    ) -> None:
        self.scratch = scratch
        self.ledger: list[dict[str, Any]] = []
        self._journal = journal
        self._store = store
        self._fresh = fresh

    @property
    def kept(self) -> Store | None:
        """What may be reused inside a stage; None to make everything."""
        return None if self._fresh else self._store

    def run(self, key: StageKey, title: str, make: Make, folder: Path | None = None) -> Product:
        """The product of a key.

        Args:
            key: what it depends on.
            title: of the stage, for whoever watches.
            make: makes it; not called when it is in the cache.
            folder: empty or not there yet, where its files go; None for scratch.
        """
        folder = folder or self.scratch / key.title.replace(" ", "-")
        store = self._store
        with nullcontext() if store is None else store.locked(key):
            entry = None if self.kept is None else self.kept.find(key)
            if entry is not None:
                return self._reuse(entry, title, make, folder)
            changed = [] if store is None else rebuilt_because(store.entries(key.stage), key)
            self._note_use(key, reused=False, changed=changed)
            with self._journal.stage(title):
                facts, files, told = self._made(key, make, folder, Journal(self._journal.listener))
        _tell(self._journal, told)
        return Product(key, facts, files, folder, self, make)

    def mend(
        self, product: Product, make: Make, error: DamagedEntryError
    ) -> tuple[Mapping[str, Any], Mapping[str, FileEntry]]:
        """Make a product whose entry turned out to be damaged."""
        if self._store is not None:
            self._store.discard(product.key, error)
        shutil.rmtree(product.folder, ignore_errors=True)
        for use in self.ledger:
            if use["key"] == product.key.digest:
                why = "its entry in the cache was damaged, or removed meanwhile"
                use.update(reused=False, changed=[why])
        facts, files, _ = self._made(product.key, make, product.folder, Journal(Silent()))
        return facts, files

    def _reuse(self, entry: Entry, title: str, make: Make, folder: Path) -> Product:
        self._note_use(entry.key, reused=True, changed=[])
        with self._journal.stage(f"{title}, from the cache"):
            told = entry.facts["journal"]
        _tell(self._journal, told, aloud=True)
        return Product(entry.key, entry.facts["facts"], entry.files, folder, self, make, entry)

    def _made(
        self, key: StageKey, make: Make, folder: Path, journal: Journal
    ) -> tuple[Mapping[str, Any], Mapping[str, FileEntry], Mapping[str, Any]]:
        folder.mkdir(parents=True, exist_ok=True)
        facts = make(folder, journal)
        # Through JSON, so that a product is the same whether it was made or found.
        whole = json.loads(json.dumps({"facts": facts, "journal": _journal_facts(journal)}))
        files = hash_files(folder)
        if self._store is not None:
            self._store.keep(key, whole, folder, files)
        return whole["facts"], files, whole["journal"]

    def _note_use(self, key: StageKey, *, reused: bool, changed: list[str]) -> None:
        entry = {"stage": key.stage, "target": key.target or None, "key": key.digest}
        self.ledger.append({**entry, "reused": reused, "changed": changed})


def records_of(facts: list[dict[str, Any]]) -> tuple[StageRecord, ...]:
    """The reverse of `record_facts`."""
    return tuple(
        StageRecord(**{**item, "refusals": tuple(Refusal(**r) for r in item["refusals"])})
        for item in facts
    )


def record_facts(records: tuple[StageRecord, ...]) -> list[dict[str, Any]]:
    """Records of stages as JSON."""
    return [asdict(record) for record in records]


def _journal_facts(journal: Journal) -> dict[str, Any]:
    return {
        "records": record_facts(tuple(journal.records)),
        "notes": list(journal.notes),
        "not_checked": list(journal.not_checked),
    }


def _tell(journal: Journal, told: Mapping[str, Any], *, aloud: bool = False) -> None:
    """Add what a stage told to the journal of the build; each line once."""
    journal.records += records_of(told["records"])
    for line in told["notes"]:
        if line in journal.notes:
            continue
        if aloud:
            journal.note(line)
        else:
            journal.notes.append(line)
    journal.not_checked += [line for line in told["not_checked"] if line not in journal.not_checked]
