"""Opens a bundle: nothing in it is used before its size and hash are what the manifest says."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..errors import BundleError, DeviceError, FuselageError, MissingPackageError
from .bare_folder import bare_manifest
from .base import ENGINE_FACTS, Engine, EngineBackend, ExecutorOptions, LoadOptions
from .bundle_files import check_hash, check_size, read_manifest
from .bundle_writer import BundleWriter
from .choice import FallbackWarning, PassedOver, asked_order, base_target, best_fit, preferred
from .manifest import MANIFEST, Manifest, check_name
from .mismatch import Mismatch
from .plain_file import check_inside
from .targets import TARGETS, backend
from .text.packed_engine import opened

__all__ = ["SOURCE", "Bundle", "BundleWriter", "FallbackWarning"]

SOURCE = "graph/model.onnx"
"""The canonical graph: fallback of the ONNX Runtime targets, and what a rebuild starts from."""

_ATTEMPTS = 20
"""To open a bundle that others replace meanwhile: each takes them a build."""


class Bundle:
    """An open bundle; make one with `open`.

    Attributes:
        root: its folder.
        manifest: what it holds.
        checked: False when it was opened without a manifest, on trust.
    """

    def __init__(self, root: Path, manifest: Manifest, *, checked: bool = True) -> None:
        self.root = root
        self.manifest = manifest
        self.checked = checked
        self._sound: set[str] = set()

    @classmethod
    def open(cls, path: str | Path, *, full: bool = False, trust: bool = False) -> Bundle:
        """Check a bundle and open it.

        The manifest, the size of every file, and the hash of every file at the top (tokenizer,
        task, reports) are checked here. Folders are hashed when first used, `graph/` only when
        something needs it, so opening costs what is used: 90 MB take 0.05 s.

        Args:
            path: folder of the bundle.
            full: hash every file now.
            trust: open a folder that has engines but no manifest, where nothing can be checked. A
                TensorRT plan is code, so this runs whatever the folder's maker wanted to run.

        Raises:
            BundleError: naming the file that is missing, damaged, unexpected or outside.
        """
        root = Path(path)
        if not root.is_dir():
            found = "is a file" if root.exists() else "does not exist"
            raise BundleError(
                f"{root}: expected the folder of a bundle, but it {found}; "
                "make one with: fuselage build MODEL --out DIR"
            )
        if not (root / MANIFEST).exists():
            return cls(root, bare_manifest(root, trust=trust), checked=False)
        for attempt in range(_ATTEMPTS):
            bundle = cls(root, read_manifest(root))
            try:
                bundle._check_whole(full=full)
                break
            except BundleError:
                if attempt + 1 == _ATTEMPTS or not bundle._is_replaced():
                    raise
        return bundle

    @property
    def targets(self) -> tuple[str, ...]:
        """Targets in the bundle, best first."""
        return preferred(self.manifest.targets)

    @property
    def source(self) -> Path | None:
        """The canonical graph, hashed; None when the bundle has none.

        Raises:
            BundleError: when it or its weights are damaged.
        """
        return self.path(SOURCE) if SOURCE in self.manifest.files else None

    def path(self, name: str) -> Path:
        """A file of the bundle; it, and all else in its folder, is hashed on first use.

        Args:
            name: path inside the bundle, for example ``tokenizer.json``.

        Raises:
            BundleError: when the bundle does not list it, or it is damaged.
        """
        check_name(name, str(self.root))
        held = name in self.manifest.files if self.checked else (self.root / name).is_file()
        if not held:
            raise BundleError(f"{self.root}: this bundle has no {name!r}")
        self._check(name.partition("/")[0])
        return self.root / name

    def folder(self, target: str) -> Path:
        """The folder of a target, hashed on first use.

        Raises:
            BundleError: when the bundle lacks the target, or a file of it is damaged.
        """
        if target not in self.manifest.targets:
            advice = f"build one with: fuselage build MODEL --out DIR --target {target}"
            if target not in TARGETS:
                advice = f"fuselage knows {', '.join(TARGETS)}"
            raise BundleError(
                f"{self.root}: this bundle has no target {target!r}, it has "
                f"{', '.join(self.targets)}; {advice}"
            )
        name = self.manifest.targets[target].folder
        self._check(name)
        return self.root / name

    def blockers(self) -> dict[str, str | None]:
        """Name of an engine -> why it cannot run on this machine, or None when it can."""
        return {target: _blocker(target) for target in self.targets}

    def mismatches(self, name: str) -> tuple[Mismatch, ...]:
        """In what this machine differs from the one that an engine was built for.

        Raises:
            BundleError: when the bundle lacks the engine, or it is damaged.
        """
        if base_target(name) not in TARGETS:
            return ()
        if name not in self.manifest.targets:
            self.folder(name)
        folder = self.manifest.targets[name].folder
        facts = f"{folder}/{ENGINE_FACTS}"
        if facts in self.manifest.files:  # the rest of the folder is not read, and may be large
            check_hash(self.root / facts, self.manifest.files[facts])
        return _backend(name).mismatches(self.root / folder)

    def engine(
        self,
        target: str | None = None,
        *,
        fallback: Sequence[str] = (),
        threads: int = 0,
        executor: ExecutorOptions | None = None,
    ) -> Engine:
        """Open an engine.

        Args:
            target: one of `targets`; None takes the first of `fallback`, and without any the best
                that runs on this machine. Of several engines of a target, such as ``tensorrt`` and
                ``tensorrt@SM90``, the one that was built for a machine like this one.
            fallback: targets to try next, in this order; targets that the bundle lacks count as
                such that do not run. Taking one gives a FallbackWarning.
            threads: CPU threads; 0 means all physical cores allowed to this process.
            executor: lanes, CUDA graphs and buckets of a TensorRT engine; None for the defaults.

        Returns:
            The engine; `Engine.passed_over` and `Engine.notes` say why those before it do not run.

        Raises:
            DeviceError: when the target, or every target, cannot run here, with the reasons and
                the targets that do run.
            BundleError: when the bundle lacks the target, a name in the fallback is no target, or
                the engine is damaged, which is no reason to take the next.
        """
        options = LoadOptions(threads=threads, executor=executor or ExecutorOptions())
        fallback = (fallback,) if isinstance(fallback, str) else tuple(fallback)
        if target is not None and not fallback:
            self.folder(target)
        order = asked_order(target, fallback, self.targets) if target or fallback else None
        over: list[PassedOver] = []
        candidates = self._candidates(order)
        alone = order is not None and len(candidates) == 1
        for name in candidates:
            engine = self._try(name, options, over, alone=alone)
            if engine is not None:
                return self._told(engine, name, over, asked=order is not None)
        raise DeviceError(self._nothing_runs(order, over))

    def _candidates(self, order: list[str] | None) -> list[str]:
        """Names of engines to try: all, or those of the targets asked for."""
        held = self.manifest.targets
        names = []
        for asked in dict.fromkeys(map(base_target, self.targets)) if order is None else order:
            same = [name for name in self.targets if asked in (name, base_target(name))]
            if len(same) > 1:
                same = best_fit({name: self.mismatches(name) for name in same})
            names += same or [asked]
        return [name for name in dict.fromkeys(names) if order is not None or name in held]

    def _try(
        self, name: str, options: LoadOptions, over: list[PassedOver], *, alone: bool
    ) -> Engine | None:
        if name not in self.manifest.targets:
            advice = f"this bundle has no such engine; fuselage rebuild {self.root} --target {name}"
            over.append(PassedOver(target=name, reason=f"{advice} makes one"))
            return None
        blocker = _blocker(name)
        if blocker is None:
            try:
                return self._load(name, options)
            except (DeviceError, MissingPackageError) as error:
                if alone:
                    raise
                over.append(PassedOver(target=name, reason=str(error)))
                return None
        differs: tuple[Mismatch, ...] = ()
        with suppress(FuselageError):  # it does not run in any case
            differs = self.mismatches(name)
        over.append(PassedOver(target=name, reason=blocker, mismatches=differs))
        return None

    def _told(self, engine: Engine, name: str, over: list[PassedOver], *, asked: bool) -> Engine:
        engine.name, engine.passed_over = name, tuple(over)
        engine.notes = (*map(str, over), *engine.notes)
        if asked and over:
            why = "; ".join(map(str, over))
            first = over[0].target
            first = first if base_target(first) == base_target(name) else base_target(first)
            text = f"{self.root}: {name} runs instead of {first}: {why}"
            warnings.warn(FallbackWarning(text), stacklevel=3)
        return engine

    def _nothing_runs(self, order: list[str] | None, over: list[PassedOver]) -> str:
        reasons = "; ".join(map(str, over))
        if order is None:
            return f"{self.root}: no target of this bundle runs here: {reasons}"
        runs = [name for name, reason in self.blockers().items() if reason is None]
        others = [name for name in runs if name not in {item.target for item in over}]
        return f"{self.root}: {reasons}; targets of this bundle that do: " + (
            ", ".join(others) or "none"
        )

    def _load(self, name: str, options: LoadOptions) -> Engine:
        folder = self.folder(name)
        engines = _backend(name)
        try:
            engine = engines.load(folder, options)
        except DeviceError:
            # Only now, because hashing a large canonical graph would slow every start.
            source = self.source
            if source is None:
                raise
            engine = engines.load(folder, replace(options, source=source))
        engine = opened(engine, folder)
        if self.checked and not self.manifest.verification["passed"]:
            note = f"{self.root}: this bundle did not pass its verification, see report.json"
            engine.notes = (note, *engine.notes)
        if not self.checked:
            note = f"{self.root}: opened without a manifest; nothing in it was checked"
            engine.notes = (note, *engine.notes)
        return engine

    def _check_whole(self, *, full: bool) -> None:
        """All sizes, the hash of every file at the top, and with `full` every other."""
        for name, entry in self.manifest.files.items():
            check_size(self.root, name, entry)
        for target in self.targets:
            self._refuse_extras(self.manifest.targets[target].folder)
        for unit in sorted({name.partition("/")[0] for name in self.manifest.files}):
            if full or unit in self.manifest.files:
                self._hash(unit)

    def _check(self, unit: str) -> None:
        """Hash a file at the top, or all files of a folder, once."""
        try:
            self._hash(unit)
        except BundleError as error:
            if not self._is_replaced():
                raise
            raise BundleError(
                f"{self.root}: was replaced by another bundle while it was open; open it again"
            ) from error

    def _hash(self, unit: str) -> None:
        if unit in self._sound:
            return
        if not self.checked:
            check_inside(self.root, self.root / unit)
        for name, entry in self.manifest.files.items():
            if name == unit or name.startswith(f"{unit}/"):
                check_size(self.root, name, entry)
                check_hash(self.root / name, entry)
        self._sound.add(unit)

    def _is_replaced(self) -> bool:
        """Whether the folder is another bundle by now."""
        with suppress(BundleError):
            return self.checked and read_manifest(self.root) != self.manifest
        return False

    def _refuse_extras(self, folder: str) -> None:
        for path, _, files in os.walk(self.root / folder):
            for file in files:
                name = (Path(path) / file).relative_to(self.root).as_posix()
                if name not in self.manifest.files:
                    raise BundleError(
                        f"{self.root / name}: not in the manifest, and a target's folder holds "
                        "nothing else; remove it or build the bundle again"
                    )


def _backend(name: str) -> EngineBackend:
    return backend(base_target(name))


def _blocker(name: str) -> str | None:
    if base_target(name) not in TARGETS:
        return "this fuselage does not know the target; update fuselage"
    try:
        return _backend(name).run_blocker()
    except FuselageError as error:
        return str(error)
