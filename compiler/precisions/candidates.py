"""Which precisions are worth a comparison on a target."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...errors import BuildError
from ..precision import QUANTIZED, assign, gpus_for
from ..profiles.choice import WIDE
from ..recipe import Request


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One engine to build.

    Attributes:
        name: for the report.
        precision: to ask for.
        float_attention: whether the linears around an attention stay float.
    """

    name: str
    precision: str
    float_attention: bool = False

    def request(self, asked: Request) -> Request:
        """The request that builds it; a float engine has no use for what only INT8 heeds."""
        found = replace(asked, precision=self.precision, float_attention=self.float_attention)
        if self.precision in QUANTIZED:
            return found
        texts = None if asked.profiles == WIDE else asked.texts
        return replace(
            found,
            texts=texts,
            int8_embeddings=False,
            min_sqnr=None,
            min_cosine=None,
            evaluation=None,
            max_drop={},
        )


def candidates_for(request: Request, target: str) -> tuple[Candidate, ...]:
    """The target's natural float, INT8 without and with attention, and FP8 where its GPUs have it.

    Raises:
        BuildError: when the request states a precision, or the target has none but float.
    """
    if request.precision != "auto" or request.float_attention:
        raise BuildError(
            f"--compare-precisions tries several; leave --precision {request.precision} and "
            "--float-attention out, or build the one"
        )
    natural = assign((target,), "auto").precisions[target]
    found = [Candidate(name=natural, precision=natural)]
    if _offers(target, "int8"):
        found.append(Candidate(name="int8 ffn", precision="int8", float_attention=True))
        found.append(Candidate(name="int8", precision="int8"))
    if _offers(target, "fp8") and _has_fp8(request, target):
        found.append(Candidate(name="fp8", precision="fp8"))
    if len(found) == 1:
        raise BuildError(f"--compare-precisions: {target} has one fast precision, {natural}")
    return tuple(found)


def _offers(target: str, precision: str) -> bool:
    try:
        assign((target,), precision)
    except BuildError:
        return False
    return True


def _has_fp8(request: Request, target: str) -> bool:
    """Whether all GPUs asked for have FP8; by default a plan is for some that have not."""
    if not request.compute_capabilities:
        return False
    try:
        gpus_for(target, "fp8", request.compute_capabilities)
    except BuildError:
        return False
    return True
