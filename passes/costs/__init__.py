"""Which form of an operator is fastest on a target: measured, kept as data, asked by lowerings.

A choice has forms. The first is what the canonical dialect writes; a form has a pass that writes it
where a graph has the other. A table holds what was measured where, and picks the form with the
smallest time. The tables beside this file ship with fuselage; ``fuselage tune`` measures another
machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import PassError
from ..base import Pass
from ..lowering.fuse_skip_layer_norm import FuseSkipLayerNorm
from ..lowering.merge_qkv import MergeQkv
from ..lowering.split_packed_weights import SplitPackedWeights
from ..lowering.use_multi_head_attention import UseMultiHeadAttention

MARGIN = 0.98
"""A form must take less than this share of the canonical one's time: below lies noise."""

CHOICES: Mapping[str, Mapping[str, Pass | None]] = {
    "attention": {"Attention": None, "MultiHeadAttention": UseMultiHeadAttention()},
    "qkv": {"three products": SplitPackedWeights(), "one product": MergeQkv()},
    "residual norm": {
        "Add, LayerNormalization": None,
        "SkipLayerNormalization": FuseSkipLayerNorm("LayerNormalization"),
    },
    "residual RMS norm": {
        "Add, RMSNormalization": None,
        "SkipSimplifiedLayerNormalization": FuseSkipLayerNorm("RMSNormalization"),
    },
}
"""Choice -> form -> the pass that writes it, None where every graph has it. The first form is
canonical."""

_SHIPPED = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One form at one shape.

    Attributes:
        choice: a key of `CHOICES`.
        form: one of its forms.
        shape: [batch, sequence, hidden].
        milliseconds: median.
        ratio: median of its time over that of the canonical form in the same round.

    Raises:
        ValueError: on a number that is no measurement: zero, NaN, a string.
    """

    choice: str
    form: str
    shape: tuple[int, int, int]
    milliseconds: float
    ratio: float

    def __post_init__(self) -> None:
        where = f"{self.choice}: {self.form}"
        for name, value in (("milliseconds", self.milliseconds), ("ratio", self.ratio)):
            if not _is_positive(value):
                raise ValueError(f"{where}: {name} of {value!r}")
        sizes: tuple[object, ...] = self.shape
        if len(sizes) != 3 or not all(map(_is_positive, sizes)):
            raise ValueError(f"{where}: a shape of {self.shape!r}")


def _is_positive(value: object) -> bool:
    """Whether it is a finite number above zero; JSON may hold anything."""
    return isinstance(value, int | float) and 0 < value < math.inf


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """What was measured on one machine.

    Attributes:
        target: the lowering it is for.
        machine: model of the processor.
        runtime: name and version of what ran the forms.
        threads: it ran with.
        date: of the measurement, ISO 8601.
        measurements: every form of every choice at every shape.
    """

    target: str
    machine: str
    runtime: str
    threads: int
    date: str
    measurements: tuple[Measurement, ...]

    @classmethod
    def shipped(cls, target: str) -> CostTable | None:
        """The table that comes with fuselage; None for a target whose compiler chooses itself."""
        path = _SHIPPED / f"{target}.json"
        return cls.load(path) if path.is_file() else None

    @classmethod
    def load(cls, path: Path) -> CostTable:
        """Read a table.

        Raises:
            PassError: when the file is not a cost table.
        """
        try:
            facts = json.loads(path.read_text())
            rows = tuple(
                Measurement(**{**row, "shape": tuple(row["shape"])})
                for row in facts.pop("measurements")
            )
            table = cls(**facts, measurements=rows)
            unknown = [row for row in rows if row.form not in CHOICES.get(row.choice, {})]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise PassError(
                f"{path}: expected a cost table, got something else ({error}); "
                "delete it, or measure again with fuselage tune"
            ) from error
        if unknown:
            raise PassError(
                f"{path}: a cost table of another version, it has {unknown[0].choice}: "
                f"{unknown[0].form}; measure again with fuselage tune"
            )
        return table

    def save(self, path: Path) -> None:
        """Write the table as JSON."""
        path.write_text(json.dumps(self.facts(), indent=1) + "\n")

    def facts(self) -> dict[str, Any]:
        """The table as JSON values."""
        return asdict(self)

    def ratio(self, choice: str, form: str) -> float | None:
        """Geometric mean of a form's ratios; None when it was not measured."""
        ratios = [
            row.ratio for row in self.measurements if (row.choice, row.form) == (choice, form)
        ]
        if not ratios:
            return None
        return math.exp(sum(map(math.log, ratios)) / len(ratios))

    def best(self, choice: str) -> str:
        """The fastest form; the canonical one unless another wins by more than the noise."""
        canonical, *others = CHOICES[choice]
        measured = {form: self.ratio(choice, form) for form in others}
        faster = {
            form: ratio for form, ratio in measured.items() if ratio is not None and ratio < MARGIN
        }
        return min(faster, key=faster.__getitem__) if faster else canonical

    def passes(self) -> tuple[Pass, ...]:
        """Passes that write the fastest form of every choice."""
        chosen = (CHOICES[choice][self.best(choice)] for choice in CHOICES)
        return tuple(step for step in chosen if step is not None)
