"""Broken models, weights and files: every command refuses them in one line."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from fuselage.compiler.cli import run

from .outside_models import (
    GELU,
    WEIGHTS,
    Optimize,
    X,
    assert_same,
    functions_model,
    model_of,
)

# --- refused, in one line


def changed(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = model_of(f"f (float[n, 8] x) => (float[n, 8] y) {{ {GELU}  y = MatMul(g, w) }}")
    change(model)
    return model


def recursive() -> onnx.ModelProto:
    model = functions_model()
    model.functions[1].node[0].op_type, model.functions[1].node[0].domain = "twice", "own"
    del model.functions[1].node[0].attribute[:]
    return model


def overfed() -> onnx.ModelProto:
    model = functions_model()
    model.graph.node[1].input.append("x")
    return model


def external(place: str, **more: str) -> onnx.ModelProto:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == "w")
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": place, **more}.items():
            tensor.external_data.add(key=key, value=value)

    return changed(change)


def external_strings(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer.add(name="s", data_type=8, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="short.bin")


def as_tensor(name: str, **fields: Any) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == name)
        for field, value in fields.items():
            if isinstance(value, list):
                getattr(tensor, field)[:] = value
            else:
                setattr(tensor, field, value)

    return change


def without_rank(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def cyclic(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "g"


def sparse(*, places: list[int], dims: list[int]) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        entry = model.graph.sparse_initializer.add(dims=dims)
        values = np.ones(2, np.float32)
        entry.values.CopyFrom(onnx.numpy_helper.from_array(values, "s"))
        entry.indices.CopyFrom(onnx.numpy_helper.from_array(np.asarray(places), "at"))

    return change


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "a cycle": (lambda: changed(cyclic), "'d' \\(Div\\) reads 'g', which no input"),
    "a missing weight": (
        lambda: changed(lambda m: m.graph.initializer.pop()), "reads 'w', which no input"),
    "a value defined twice": (
        lambda: changed(lambda m: m.graph.node.append(m.graph.node[0])), "'d', which is defined"),
    "two weights of one name": (
        lambda: changed(lambda m: m.graph.initializer.append(m.graph.initializer[0])),
        "expected initializers with names of their own, got two of the name 'root'"),
    "a weight without a name": (
        lambda: changed(lambda m: m.graph.initializer.add(data_type=1, float_data=[1.0])),
        "got one without a name"),
    "an output of nothing": (
        lambda: changed(lambda m: setattr(m.graph.output[0], "name", "lost")),
        "no node, input or initializer gives the output 'lost'"),
    "an endless name": (
        lambda: changed(lambda m: setattr(m.graph.output[0], "name", "x" * 10**6)),
        "gives the output 'x{120}...'; the graph"),
    "an opset to come": (
        lambda: changed(lambda m: setattr(m.opset_import[0], "version", 99)),
        "imports opset 99 of ai.onnx, the installed onnx .* knows 1 to"),
    "an IR version to come": (
        lambda: changed(lambda m: setattr(m, "ir_version", 99)), "checker says: .*ir_version 99"),
    "no opset": (
        lambda: changed(lambda m: m.ClearField("opset_import")), "imports no opset, so its"),
    "two opsets": (
        lambda: changed(lambda m: m.opset_import.add(domain="ai.onnx", version=9)),
        "imports opset 20 and opset 9 of domain 'ai.onnx'; expected one version"),
    "an unknown operator": (
        lambda: changed(lambda m: setattr(m.graph.node[0], "op_type", "Swirl")),
        "checker says: No Op registered for Swirl"),
    "an unknown rank": (lambda: changed(without_rank), "Field 'shape' of 'type' is required"),
    "a recursive function": (recursive, "function '(soft|twice)' calls itself"),
    "a call with too much": (overfed, "'h' \\(soft\\) calls a function of 1 inputs and 1 outputs"),
    "an attribute from nowhere": (
        lambda: changed(lambda m: m.graph.node[0].attribute.add(
            name="axis", type=2, ref_attr_name="axis")), "takes its attribute 'axis' from 'axis'"),
    "too few bytes": (
        lambda: changed(as_tensor("w", raw_data=b"1234")), "'w' \\[8, 8\\] needs 256 .* holds 4"),
    "a negative size": (
        lambda: changed(as_tensor("w", dims=[-8, 8])), "'w' has data type 1 and shape \\[-8, 8\\]"),
    "an endless size": (
        lambda: changed(as_tensor("w", dims=[2**62, 2**62])), "'w' .* needs 8[0-9,]+ bytes"),
    "an unknown dtype": (
        lambda: changed(as_tensor("w", data_type=77)), "'w' has data type 77 .* expected a type"),
    "an endless sparse weight": (
        lambda: changed(sparse(places=[0, 1], dims=[2**40])), "'s' .* cannot be made dense"),
    "a sparse weight outside itself": (
        lambda: changed(sparse(places=[0, 9], dims=[4])), "'s' \\[4\\] cannot be made dense"),
    "strings in a file": (
        lambda: changed(external_strings), "'s' holds strings in a file of weights"),
    "weights that are missing": (lambda: external("none.bin"), "bytes of none.bin, which is miss"),
    "weights elsewhere": (lambda: external("/etc/hostname"), "'/etc/hostname', outside the folder"),
    "weights above": (lambda: external("../w.bin"), "'../w.bin', outside the folder"),
    "weights in a folder": (lambda: external("."), "which is missing"),
    "weights too short": (lambda: external("short.bin"), "of short.bin, which holds 100; the"),
    "weights before their file": (
        lambda: external("short.bin", offset="-8"), "lies at '-8' of its file"),
    "weights after their file": (
        lambda: external("short.bin", offset="9" * 30), "of short.bin, which holds 100"),
    "weights of two names": (lambda: external("twin.bin"), "'twin.bin', which has other"),
    "weights behind a link": (lambda: external("link.bin"), "in 'link.bin', a link out of the"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_broken_models_are_refused_by_every_verb(
    make: Callable[[], onnx.ModelProto],
    reason: str,
    optimize: Optimize,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "short.bin").write_bytes(bytes(100))
    (tmp_path.parent / f"{tmp_path.name}.secret").write_bytes(bytes(1000))
    (tmp_path / "twin.bin").hardlink_to(tmp_path.parent / f"{tmp_path.name}.secret")
    (tmp_path / "link.bin").symlink_to(tmp_path.parent / f"{tmp_path.name}.secret")
    code, err = optimize(make())
    assert (code, len(err) < 1000) == (1, True)
    assert re.search(reason, err), err
    for verb in ("explain", "inspect", "lint"):
        assert run([verb, str(tmp_path / "in.onnx")]) == 1
        assert capfd.readouterr().err == err


FOREIGN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "an empty file"),
    "zip": (b"PK\x03\x04" + bytes(60), "a zip archive"),
    "json": (json.dumps({"graph": {}}).encode(), "JSON"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "html": (b"<!DOCTYPE html><html></html>", "HTML or XML"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(60), "an HDF5 file"),
    "noise": (bytes(range(256)), "not a readable ONNX model"),
}


@pytest.mark.parametrize(("content", "kind"), FOREIGN.values(), ids=FOREIGN)
def test_other_files_are_named(content: bytes, kind: str, optimize: Optimize) -> None:
    code, err = optimize(content)
    assert (code, kind in err) == (1, True), err


def test_a_renamed_archive_is_named(optimize: Optimize, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.onnx", "w") as archive:
        archive.writestr("model.onnx", b"data")
    code, err = optimize(tmp_path / "model.onnx")
    assert (code, "a zip archive" in err) == (1, True)


def test_every_truncation_is_refused_or_still_a_model(optimize: Optimize) -> None:
    content = changed(lambda _: None).SerializeToString()
    codes = [optimize(content[:length])[0] for length in range(0, len(content), 61)]
    assert set(codes) == {1}


def test_linked_caches_are_read_where_both_files_lie(
    optimize: Optimize, out: Path, tmp_path: Path
) -> None:
    """As the hub's cache has it: links in a snapshot, both files among the blobs."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    (blobs / "1").write_bytes(external("w.bin").SerializeToString())
    (blobs / "2").write_bytes(WEIGHTS["w"].tobytes())
    for link, blob in (("model.onnx", "1"), ("w.bin", "2")):
        os.symlink(f"../blobs/{blob}", snapshot / link)
    code, err = optimize(snapshot / "model.onnx")
    assert code == 0, err
    assert_same(changed(lambda _: None), out, x=X)
