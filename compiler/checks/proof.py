"""Proof: real texts through the PyTorch model and every target that runs here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ...engines.text.encoder import TextEncoder, TruncationWarning
from ...engines.text.task import TaskSpec
from ...errors import VerificationError
from ...graph.tensors import Array, Feeds, ShapeProfile, TensorSpec

if TYPE_CHECKING:
    from ...passes.presets import Precision

TEXTS = (
    "ok",
    "No.",
    "Where is the nearest pharmacy?",
    "The committee postponed its decision until the audit of the northern branch is complete.",
    "def area(radius):\n    return 3.14159 * radius ** 2",
    "Der Zug nach Basel fährt heute von Gleis 7, nicht von Gleis 4.",
    "2024-03-31, 17:45, 12.5 % of 1,480 units, invoice #A-00917",
    "東京の天気は晴れ、気温は二十三度です。",
    "I ordered the blue one, got the green one, and the return label does not scan 😕.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen. " * 40,
)
"""One word to beyond any limit, prose, code, numbers, other languages. The last one is cut."""


class Runnable(Protocol):
    """An engine, a graph session, or the PyTorch model."""

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name."""


@dataclass(frozen=True)
class Gate:
    """Bounds of one precision; None means not bounded.

    Attributes:
        relative: Frobenius norm of the error over that of the reference.
        cosine_mean: smallest mean cosine of output vectors.
        cosine_min: smallest cosine of any output vector.
    """

    relative: float | None
    cosine_mean: float
    cosine_min: float


GATES: Mapping[Precision, Gate] = {
    "fp32": Gate(2e-5, 0.999999, 0.99999),
    "fp16": Gate(1e-2, 0.9999, 0.999),
    "bf16": Gate(6e-2, 0.998, 0.99),
    # These texts are harder than what a model is calibrated with: MiniLM has means of 0.988 to
    # 0.995 and least cosines of 0.955 to 0.984 on them. Scales that lose [CLS] have 0.82.
    "int8": Gate(None, 0.97, 0.90),
    # MiniLM has 0.9987 and 0.996; on ort-cpu, where activations are rounded too, 0.998 and 0.994.
    "int8-weight-only": Gate(None, 0.99, 0.95),
    "fp8": Gate(None, 0.97, 0.90),
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How one target answers.

    Attributes:
        target: the target.
        precision: what it was held to, see `GATES`.
        subject: what ran: the engine, or the graph it was built from when the engine cannot run.
        passed: whether the answers stay within the gate.
        reason: why it did not pass; None when it passed.
        max_abs: largest absolute difference.
        relative: relative Frobenius error.
        cosine_mean: mean cosine of output vectors.
        cosine_min: smallest cosine.
        texts: texts compared.
    """

    target: str
    precision: Precision
    subject: str
    passed: bool
    reason: str | None
    max_abs: float
    relative: float
    cosine_mean: float
    cosine_min: float
    texts: int


class Proof:
    """Holds engines to the PyTorch model's answers on `TEXTS`.

    Args:
        feeds: from `proof_feeds`.
        expected: what the PyTorch model answers to each.
        outputs: the model's outputs.
    """

    def __init__(
        self,
        feeds: Sequence[Feeds],
        expected: Sequence[Mapping[str, Array]],
        outputs: Sequence[TensorSpec],
    ) -> None:
        self._outputs = tuple(outputs)
        self._feeds = tuple(feeds)
        self._expected = tuple(expected)

    @classmethod
    def of(
        cls,
        reference: Runnable,
        tokenizer: Path,
        spec: TaskSpec,
        profile: ShapeProfile,
        outputs: Sequence[TensorSpec],
    ) -> Proof:
        """Ask a reference that is at hand.

        Args:
            reference: what to be like.
            tokenizer: tokenizer.json.
            spec: the task.
            profile: sizes the engines were built for.
            outputs: the model's outputs.
        """
        feeds = proof_feeds(tokenizer, spec, profile)
        return cls(feeds, [reference.run(feed) for feed in feeds], outputs)

    def examine(
        self, target: str, precision: Precision, candidate: Runnable, subject: str
    ) -> Verdict:
        """Compare a candidate with the reference.

        Raises:
            VerificationError: when the reference itself answers NaN or infinity.
        """
        differences = [
            self._compare(feeds, expected, candidate.run(feeds))
            for feeds, expected in zip(self._feeds, self._expected, strict=True)
        ]
        signal = sum(item.signal for item in differences)
        noise = sum(item.noise for item in differences)
        cosines = np.concatenate([item.cosines for item in differences])
        measured = {
            "max_abs": float(max(item.max_abs for item in differences)),
            "relative": float(np.sqrt(noise / signal)) if signal else float(np.sqrt(noise)),
            "cosine_mean": float(cosines.mean()),
            "cosine_min": float(cosines.min()),
        }
        reason = _failure(GATES[precision], **measured)
        return Verdict(
            target=target,
            precision=precision,
            subject=subject,
            passed=reason is None,
            reason=reason,
            texts=len(TEXTS),
            **measured,
        )

    def _compare(
        self, feeds: Feeds, expected: Mapping[str, Array], got: Mapping[str, Array]
    ) -> _Difference:
        parts = []
        for spec in self._outputs:
            wanted, answer = expected[spec.name].astype(np.float64), got[spec.name]
            if not np.isfinite(wanted).all():
                raise VerificationError(
                    f"the PyTorch model itself answers NaN or infinity in {spec.name!r}; "
                    "nothing can be compared with it, repair the model"
                )
            keep = _real_positions(spec, feeds)
            parts.append(_difference(wanted * keep, np.multiply(answer, keep, dtype=np.float64)))
        return _Difference(
            sum(part.signal for part in parts),
            sum(part.noise for part in parts),
            max(part.max_abs for part in parts),
            np.concatenate([part.cosines for part in parts]),
        )


@dataclass(frozen=True)
class _Difference:
    signal: float
    noise: float
    max_abs: float
    cosines: NDArray[np.float64]


def proof_feeds(tokenizer: Path, spec: TaskSpec, profile: ShapeProfile) -> list[dict[str, Array]]:
    """The shortest and the longest text alone, and all of them in padded batches.

    Args:
        tokenizer: tokenizer.json.
        spec: the task.
        profile: sizes the engines are built for.
    """
    least, _, most = profile.axes["batch"]
    shortest, _, longest = profile.axes["sequence"]
    encoder = TextEncoder(tokenizer, spec, longest)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)  # the last text is there to be cut
        encoded = encoder.encode(list(TEXTS))
    every = np.arange(len(TEXTS))
    together = [every[start : start + most] for start in range(0, len(TEXTS) - 1, most)]
    # An engine with a least batch gets rows more than once.
    rows = [
        np.resize(chosen, max(least, len(chosen))) for chosen in (every[:1], every[-1:], *together)
    ]
    return [encoder.feeds(encoded, chosen, min_sequence=shortest) for chosen in rows]


def _real_positions(spec: TensorSpec, feeds: Feeds) -> NDArray[np.float64]:
    """1 where an output belongs to a real token, 0 at padding; broadcastable to the output."""
    mask = feeds.get("attention_mask")
    if mask is None or len(spec.dims) < 2 or spec.dims[1] != "sequence":
        return np.ones(1)
    return mask.reshape(*mask.shape, *([1] * (len(spec.dims) - 2))).astype(np.float64)


def _difference(wanted: NDArray[np.float64], got: NDArray[np.float64]) -> _Difference:
    delta = wanted - got
    rows_wanted = wanted.reshape(-1, wanted.shape[-1])
    rows_got = got.reshape(-1, got.shape[-1])
    real = rows_wanted.any(axis=1)
    dots = (rows_wanted[real] * rows_got[real]).sum(axis=1)
    norms = np.linalg.norm(rows_wanted[real], axis=1) * np.linalg.norm(rows_got[real], axis=1)
    cosines = dots / np.where(norms > 0, norms, 1.0)
    largest = float(np.abs(delta).max())
    return _Difference(float((wanted**2).sum()), float((delta**2).sum()), largest, cosines)


def _failure(
    gate: Gate, *, max_abs: float, relative: float, cosine_mean: float, cosine_min: float
) -> str | None:
    if not np.isfinite(max_abs):
        return "it answers NaN or infinity"
    if gate.relative is not None and relative > gate.relative:
        return f"relative error {relative:.2e} exceeds {gate.relative:.0e}"
    if cosine_mean < gate.cosine_mean:
        return f"mean cosine {cosine_mean:.6f} is below {gate.cosine_mean}"
    if cosine_min < gate.cosine_min:
        return f"least cosine {cosine_min:.6f} is below {gate.cosine_min}"
    return None
