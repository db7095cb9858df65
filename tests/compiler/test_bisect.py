"""Planted faults: each is found, in its pass and at its node."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.compiler.checks.bisect import Culprit, bisect
from fuselage.compiler.cli import run
from fuselage.graph.model import Graph
from fuselage.passes import presets
from fuselage.passes.attention.fuse_attention import FuseAttention
from fuselage.passes.base import EXACT, Pass, PassResult, result
from fuselage.passes.blocks.fuse_gelu import FuseGelu
from fuselage.passes.constants import initializer
from fuselage.passes.normalize.clean_up import CleanUp
from fuselage.passes.normalize.infer_shapes import InferShapes

CANONICAL = (CleanUp(), InferShapes(), FuseGelu(), FuseAttention(), CleanUp(), InferShapes())
HEADS, SIZE, LAYERS = 2, 8, 3
HIDDEN = HEADS * SIZE

LAYER = """
    q# = MatMul(x#, wq#)  k# = MatMul(x#, wk#)  v# = MatMul(x#, wv#)
    q#r = Reshape(q#, split)  k#r = Reshape(k#, split)  v#r = Reshape(v#, split)
    q#t = Transpose<perm = [0, 2, 1, 3]>(q#r)
    k#t = Transpose<perm = [0, 2, 3, 1]>(k#r)
    v#t = Transpose<perm = [0, 2, 1, 3]>(v#r)
    s# = MatMul(q#t, k#t)  n# = Div(s#, root)  b# = Add(n#, bias)  p# = Softmax<axis = -1>(b#)
    o# = MatMul(p#, v#t)
    m# = Transpose<perm = [0, 2, 1, 3]>(o#)  j# = Reshape(m#, join)  r# = Add(j#, x#)
    l# = LayerNormalization(r#, gain#)
    d# = Div(l#, two)  e# = Erf(d#)  f# = Add(e#, one)  g# = Mul(l#, f#)  x+ = Mul(g#, half)"""
HEAD = """net (int64[s72, s53] ids, int64[s72, s53] mask) => (float[s72, s53, 16] y)
{
    x0 = Gather(words, ids)
    wide = Unsqueeze(mask, axes)  shown = Cast<to = 9>(wide)  bias = Where(shown, zero, fill)"""

Action = Callable[[ir.Model], None]


def transformer() -> Graph:
    random = np.random.default_rng(4)
    constants: dict[str, object] = {
        "words": random.normal(0, 1, (40, HIDDEN)),
        "axes": np.array([1, 2]),
        "split": np.array([0, 0, HEADS, SIZE]),
        "join": np.array([0, 0, HIDDEN]),
        "zero": 0.0, "one": 1.0, "half": 0.5, "two": 2**0.5, "root": SIZE**0.5,
        "fill": np.finfo(np.float32).min,
    }  # fmt: skip
    body = HEAD
    for layer in range(LAYERS):
        constants |= {f"w{part}{layer}": random.normal(0, 0.3, (HIDDEN, HIDDEN)) for part in "qkv"}
        constants[f"gain{layer}"] = random.normal(1, 0.3, HIDDEN)
        body += LAYER.replace("x+", f"x{layer + 1}").replace("#", str(layer))
    body += f" y = Identity(x{LAYERS}) }}"
    arrays = {name: np.asarray(array) for name, array in constants.items()}
    tensors = [
        ir.tensor(array.astype(np.float32) if array.dtype.kind == "f" else array, name=name)
        for name, array in arrays.items()
    ]
    model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 23]> {body}', tensors)
    for node in model.graph:
        node.name = f"n_{node.outputs[0].name}"
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.type = ir.TensorType(value.const_value.dtype)
        value.shape = ir.Shape(value.const_value.shape)
    return Graph(model)


@dataclass(frozen=True)
class Planted(Pass):
    """A faulty pass."""

    name = "planted"
    action: Action = field(default=id, repr=False)  # type: ignore[assignment]
    loose: float = EXACT

    @property
    def tolerance(self) -> float:
        return self.loose

    def call(self, model: ir.Model) -> PassResult:
        self.action(model)
        return result(model, 1)


def nodes(model: ir.Model, operator: str) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == operator]


def wrong_scale(model: ir.Model) -> None:
    node = nodes(model, "Attention")[1]
    node.name = "guilty"
    node.attributes["scale"] = ir.AttrFloat32("scale", 0.5)


def dropped_mask(model: ir.Model) -> None:
    node = nodes(model, "Attention")[2]
    node.name = "guilty"
    node.resize_inputs(3)


def swapped_heads(model: ir.Model) -> None:
    """The heads of V in the other order: shapes and names stay."""
    node = nodes(model, "Attention")[0]
    value = node.inputs[2]
    assert value is not None
    order = initializer(model.graph, "order", np.array([1, 0]))
    gather = ir.node("Gather", [value, order], {"axis": 1}, name="guilty")
    gather.outputs[0].name, gather.outputs[0].type = "swapped", value.type
    model.graph.insert_before(node, gather)
    node.replace_input_with(2, gather.outputs[0])


def tanh_for_erf(model: ir.Model) -> None:
    node = nodes(model, "Gelu")[1]
    node.name = "guilty"
    node.attributes["approximate"] = ir.AttrString("approximate", "tanh")


def softer_masks(model: ir.Model) -> None:
    """Meant: another fill that hides as well."""
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        if tensor is not None and tensor.size == 1 and tensor.numpy().min() < -1e37:
            softer = initializer(model.graph, "softer", np.full(tensor.shape, -1e37, np.float32))
            value.replace_all_uses_with(softer)


def doubled_sum(model: ir.Model) -> None:
    """Meant: a norm divides the factor away again."""
    node = nodes(model, "LayerNormalization")[0]
    old = node.inputs[0]
    assert old is not None
    two = initializer(model.graph, "factor", np.array(2.0, np.float32))
    double = ir.node("Mul", [old, two], name="meant")
    new = double.outputs[0]
    new.name, old.name, new.type = old.name, f"{old.name}_single", old.type
    model.graph.insert_before(node, double)
    node.replace_input_with(0, new)


def raises(model: ir.Model) -> None:
    raise ZeroDivisionError(f"of {len(model.graph)} nodes")


def malformed(model: ir.Model) -> None:
    node = nodes(model, "Gelu")[0]
    node.replace_input_with(0, ir.Value(name="nowhere"))


def harmless(model: ir.Model) -> None:
    model.graph[0].name = f"{model.graph[0].name}_"


def planted(action: Action, place: int | None = None) -> tuple[Pass, ...]:
    """The passes with a fault behind the fusions, and harmless passes about it."""
    if place is None:
        place = next(i for i, p in enumerate(CANONICAL) if isinstance(p, FuseAttention)) + 1
    around = Planted(harmless)
    return (*CANONICAL[:place], around, Planted(action), around, *CANONICAL[place:])


def culprit_of(action: Action) -> Culprit:
    verdict = bisect(transformer(), planted(action), threads=1)
    assert verdict.not_checked is None
    assert verdict.culprit is not None
    return verdict.culprit


def test_sound_passes_have_no_culprit() -> None:
    verdict = bisect(transformer(), planted(harmless), (Planted(harmless),), threads=1)
    assert verdict.culprit is None
    assert verdict.not_checked is None


def test_a_fill_that_hides_as_well_is_no_fault() -> None:
    assert bisect(transformer(), planted(softer_masks), threads=1).culprit is None


@pytest.mark.parametrize(
    ("action", "operator"),
    [
        (wrong_scale, "Attention"),
        (dropped_mask, "Attention"),
        (swapped_heads, "Gather"),
        (tanh_for_erf, "Gelu"),
    ],
)
def test_a_wrong_number_is_found_at_its_node(action: Action, operator: str) -> None:
    culprit = culprit_of(action)
    assert culprit.name.startswith("planted")
    assert culprit.place == planted(action).index(Planted(action)) + 1
    assert culprit.of == len(CANONICAL) + 3
    assert culprit.fault == "numbers"
    assert "relative error" in culprit.reason
    difference = culprit.difference
    assert difference is not None
    assert difference.node == "guilty"
    assert difference.operator == operator
    assert difference.relative > 1e-5
    assert difference.max_abs > 0
    assert "guilty" in difference.written
    assert culprit.sample is not None
    assert len(difference.shape) == 4 or operator == "Gelu"


def test_the_first_of_two_faults_is_named() -> None:
    def both(model: ir.Model) -> None:
        tanh_for_erf(model)
        nodes(model, "Gelu")[1].name = "later"
        wrong_scale(model)

    difference = culprit_of(both).difference
    assert difference is not None
    assert difference.node == "guilty"  # attention of layer 1 comes before its Gelu


@pytest.mark.parametrize("action", [wrong_scale, tanh_for_erf])
def test_what_a_pass_means_to_change_is_passed_over(action: Action) -> None:
    """Another fill of the masks, and sums doubled in front of a norm, which takes no notice."""

    def both(model: ir.Model) -> None:
        softer_masks(model)
        doubled_sum(model)
        action(model)

    difference = culprit_of(both).difference
    assert difference is not None
    assert difference.node == "guilty"


def test_a_mask_that_is_dropped_shows_on_a_padded_sample() -> None:
    sample = culprit_of(dropped_mask).sample
    assert sample is not None
    assert not sample.feeds["mask"].all()


def test_a_pass_that_raises_is_named_with_the_line() -> None:
    culprit = culprit_of(raises)
    assert (culprit.fault, culprit.difference, culprit.sample) == ("raises", None, None)
    assert culprit.reason.startswith("it raised ZeroDivisionError: of ")
    assert culprit.source is not None
    line = int(culprit.source.removeprefix("compiler/test_bisect.py:"))
    assert "raise ZeroDivisionError" in Path(__file__).read_text().splitlines()[line - 1]


def test_a_pass_that_leaves_a_malformed_graph_is_named() -> None:
    culprit = culprit_of(malformed)
    assert (culprit.fault, culprit.source) == ("malformed", None)
    assert "reads 'nowhere' before it is defined" in culprit.reason


def test_a_wrong_number_before_a_pass_that_raises_comes_first() -> None:
    passes = (*planted(wrong_scale), Planted(raises))
    verdict = bisect(transformer(), passes, threads=1)
    assert verdict.culprit is not None
    assert verdict.culprit.fault == "numbers"
    assert verdict.culprit.place < len(passes)


def test_a_fault_of_the_lowering_is_found_and_counted_on() -> None:
    verdict = bisect(transformer(), CANONICAL, (Planted(harmless), Planted(tanh_for_erf)), 1)
    assert verdict.culprit is not None
    assert (verdict.culprit.place, verdict.culprit.of) == (len(CANONICAL) + 2,) * 2
    assert verdict.culprit.difference is not None
    assert verdict.culprit.difference.node == "guilty"


def test_a_graph_without_answers_still_shows_a_pass_that_raises() -> None:
    graph = transformer()
    last = graph.model.graph[-1]
    last.op_type = "RandomNormalLike"
    verdict = bisect(graph, (Planted(harmless), Planted(raises)), threads=1)
    assert verdict.not_checked == "the graph draws random numbers (RandomNormalLike)"
    assert verdict.culprit is not None
    assert verdict.culprit.place == 2


@pytest.fixture
def cli(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("COLUMNS", "200")
    transformer().save(tmp_path / "in.onnx")

    def call(action: Action, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(presets, "CANONICAL", planted(action))
        code = run(["bisect", str(tmp_path / "in.onnx"), *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, " ".join(captured.err.split())

    return call


def test_the_verb_names_pass_node_error_and_sample(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    folder = tmp_path / "found"
    folder.mkdir()
    code, out, _ = cli(tanh_for_erf, "--out", folder, "--json")
    assert code == 1
    words = " ".join(out.split())
    for phrase in (
        "planted",
        "changes the answer",
        "guilty (Gelu)",
        "relative error",
        "ids [3, 7]",
    ):
        assert phrase in words
    facts = json.loads(out.splitlines()[-1])
    assert facts["culprit"]["difference"]["node"] == "guilty"
    assert facts["culprit"]["sample"] == {"ids": [3, 7], "mask": [3, 7]}
    assert sorted(path.name for path in folder.iterdir())[:3] == [
        "after.onnx", "after.weights", "before.onnx",
    ]  # fmt: skip
    assert set(np.load(folder / "feeds.npz")) == {"ids", "mask"}


def test_the_verb_is_quiet_about_sound_passes(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, err = cli(harmless)
    assert (code, out) == (0, "")
    assert "no pass breaks" in err
    code, _, err = cli(harmless, "--out", tmp_path / "none")
    assert (code, "expected a folder to write to" in err) == (1, True)


@pytest.mark.parametrize(
    ("action", "word"), [(raises, "raises"), (malformed, "leaves a malformed")]
)
def test_the_verb_names_passes_that_fail(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path, action: Action, word: str
) -> None:
    code, out, _ = cli(action, "--out", tmp_path)
    assert code == 1
    assert word in " ".join(out.split())
    assert (tmp_path / "before.onnx").exists()
    assert not (tmp_path / "after.onnx").exists()
