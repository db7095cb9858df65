from __future__ import annotations

import re

import pytest

from fuselage.compiler.precision import ASKED, assign, gpus_for
from fuselage.errors import BuildError

TARGETS = ("ort-cpu", "ort-cuda", "tensorrt", "tensorrt-rtx")
X86 = "x86 CPUs emulate 16-bit floats, which is slower than fp32"
CPU = "fp32 or int8 or int8-weight-only"
TABLE = {
    ("ort-cpu", "auto"): "fp32",
    ("ort-cpu", "fp32"): "fp32",
    ("ort-cpu", "fp16"): f"ort-cpu cannot do fp16 fast: {X86}; ask for {CPU}",
    ("ort-cpu", "bf16"): f"ort-cpu cannot do bf16 fast: {X86}; ask for {CPU}",
    ("ort-cpu", "int8"): "int8",
    ("ort-cpu", "int8-weight-only"): "int8-weight-only",
    ("ort-cpu", "fp8"): f"ort-cpu cannot do fp8 fast: CPUs have no FP8 arithmetic; ask for {CPU}",
    ("ort-cuda", "auto"): "fp16",
    ("ort-cuda", "fp32"): "fp32",
    ("ort-cuda", "fp16"): "fp16",
    ("ort-cuda", "bf16"): "ort-cuda cannot do bf16 fast: ONNX Runtime lacks bfloat16 kernels for "
    "part of the operators; ask for fp16 or fp32",
    ("ort-cuda", "int8"): "ort-cuda cannot do int8 fast: the CUDA execution provider has no fast "
    "INT8; ask for fp16 or fp32",
    ("ort-cuda", "int8-weight-only"): "ort-cuda cannot do int8-weight-only fast: its products with "
    "int8 weights were not measured; ask for fp16 or fp32",
    ("ort-cuda", "fp8"): "ort-cuda cannot do fp8 fast: the CUDA execution provider has no FP8 "
    "products; ask for fp16 or fp32",
}
for flavour in ("tensorrt", "tensorrt-rtx"):
    for precision in ("fp32", "fp16", "bf16", "int8", "int8-weight-only", "fp8"):
        TABLE[flavour, precision] = precision
    TABLE[flavour, "auto"] = "fp16"


def test_the_table_is_complete() -> None:
    assert set(TABLE) == {(target, asked) for target in TARGETS for asked in ASKED}


@pytest.mark.parametrize(("target", "asked"), sorted(TABLE))
def test_one_target_gets_what_was_asked_or_an_error(target: str, asked: str) -> None:
    wanted = TABLE[target, asked]
    if wanted in ASKED:
        assignment = assign((target,), asked)
        assert (dict(assignment.precisions), assignment.notes) == ({target: wanted}, ())
        return
    with pytest.raises(BuildError, match=re.escape(f"precision {asked!r}: {wanted}")):
        assign((target,), asked)


def test_among_several_targets_the_difference_is_noted() -> None:
    assignment = assign(TARGETS, "int8")
    assert assignment.precisions == {
        "ort-cpu": "int8",
        "ort-cuda": "fp16",
        "tensorrt": "int8",
        "tensorrt-rtx": "int8",
    }
    assert assignment.notes == (
        "ort-cuda cannot do int8 fast: the CUDA execution provider has no fast INT8; "
        "it is built in fp16 instead",
    )


def test_two_targets_that_cannot_each_have_a_note() -> None:
    assignment = assign(("ort-cpu", "ort-cuda"), "bf16")
    assert assignment.precisions == {"ort-cpu": "fp32", "ort-cuda": "fp16"}
    assert [note.split()[0] for note in assignment.notes] == ["ort-cpu", "ort-cuda"]


def test_auto_has_no_notes() -> None:
    assert assign(TARGETS, "auto").notes == ()


@pytest.mark.parametrize("asked", ["fp4", "FP16", "", "float16"])
def test_unknown_precisions_are_refused(asked: str) -> None:
    with pytest.raises(
        BuildError, match=f"precision {asked!r}: expected one of auto, fp32, fp16, bf16, int8"
    ):
        assign(("ort-cpu",), asked)


def test_fp8_is_compiled_for_gpus_that_have_it() -> None:
    assert gpus_for("tensorrt-rtx", "fp8", ()) == ("SM89", "SM120")
    assert gpus_for("tensorrt-rtx", "fp8", ("SM120",)) == ("SM120",)
    assert gpus_for("tensorrt", "fp8", ()) == ()
    assert gpus_for("tensorrt-rtx", "int8", ("SM80",)) == ("SM80",)
    assert gpus_for("ort-cpu", "fp32", ()) == ()


@pytest.mark.parametrize("old", ["SM75", "SM80", "SM86"])
def test_fp8_is_refused_for_gpus_before_it(old: str) -> None:
    with pytest.raises(BuildError, match=f"'fp8': {old} has no FP8, which came with SM89; leave"):
        gpus_for("tensorrt-rtx", "fp8", ("SM89", old))
