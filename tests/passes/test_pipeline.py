"""What the pipeline does with passes that fail, lie or change the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.compiler.checks.check_pass import NumberCheck
from fuselage.errors import PassError
from fuselage.graph.history import Refusal, StageRecord
from fuselage.graph.model import Graph
from fuselage.passes.base import EXACT, Pass, PassResult, result
from fuselage.passes.constants import initializer
from fuselage.passes.pipeline import PassPipeline

Action = Callable[[ir.Model], object]


@dataclass(frozen=True)
class Faulty(Pass):
    """Does what the test says."""

    name = "faulty"
    action: Action = field(default=id, repr=False)
    rewrites: int = 1
    refusals: tuple[Refusal, ...] = field(default=(), repr=False)

    def call(self, model: ir.Model) -> PassResult:
        self.action(model)
        return result(model, self.rewrites, self.refusals)


@dataclass(frozen=True)
class Required(Faulty):
    name = "required"
    required = True


@dataclass(frozen=True)
class Newer(Faulty):
    name = "newer"
    min_opset = 24


@dataclass(frozen=True)
class RequiredNewer(Newer):
    required = True


@dataclass(frozen=True)
class Loose(Faulty):
    name = "loose"

    @property
    def tolerance(self) -> float | None:
        return None


@pytest.fixture
def graph(parse: Any, rng: np.random.Generator) -> Graph:
    return Graph(
        parse(
            """net (float[batch, sequence, 4] x) => (float[batch, sequence, 4] y)
            { h = MatMul(x, w)
              s = Mul(h, scale)
              y = Add(s, x) }""",
            w=rng.normal(0, 1, (4, 4)).astype(np.float32),
            scale=np.float32(0.5),
        )
    )


def raises(model: ir.Model) -> None:
    model.graph[0].name = "half way"
    raise ZeroDivisionError("of all things")


def breaks_contract(model: ir.Model) -> None:
    del model
    raise PassError("weight 'w' holds 1e9")


def reads_undefined(model: ir.Model) -> None:
    model.graph[0].replace_input_with(0, ir.Value(name="nowhere"))


def disorders(model: ir.Model) -> None:
    nodes = list(model.graph)
    model.graph.remove(nodes[0])
    model.graph.append(nodes[0])


def duplicates_a_name(model: ir.Model) -> None:
    model.graph[1].outputs[0].name = "h"


def drops_a_value(model: ir.Model) -> None:
    model.graph.initializers["w"].const_value = None


def detaches_the_output(model: ir.Model) -> None:
    model.graph.outputs[0] = ir.Value(name="elsewhere")


def unknown_operator(model: ir.Model) -> None:
    model.graph[1].op_type = "Multiply"


def wrong_attribute(model: ir.Model) -> None:
    model.graph[1].attributes["axis"] = ir.AttrInt64("axis", 1)


def wrong_scale(model: ir.Model) -> None:
    scale = initializer(model.graph, "scale", np.array(0.505, np.float32))
    model.graph[1].replace_input_with(1, scale)


def swapped_residual(model: ir.Model) -> None:
    model.graph[2].replace_input_with(1, model.graph[0].outputs[0])


def nan(model: ir.Model) -> None:
    scale = initializer(model.graph, "scale", np.array(np.nan, np.float32))
    model.graph[1].replace_input_with(1, scale)


def renames_the_output(model: ir.Model) -> None:
    model.graph.outputs[0].name = "z"


def adds_an_axis(model: ir.Model) -> None:
    scale = initializer(model.graph, "scale", np.full((1, 1, 1, 1), 0.5, np.float32))
    model.graph[1].replace_input_with(1, scale)
    model.graph.outputs[0].shape = ir.Shape([1, "batch", "sequence", 4])


def mismatched_sizes(model: ir.Model) -> None:
    scale = initializer(model.graph, "scale", np.full(5, 0.5, np.float32))
    model.graph[1].replace_input_with(1, scale)


STRUCTURE = {
    raises: "it raised ZeroDivisionError: of all things",
    breaks_contract: "weight 'w' holds 1e9",
    reads_undefined: "node 'n_h' (MatMul) reads 'nowhere' before it is defined",
    disorders: "node 'n_s' (Mul) reads 'h' before it is defined",
    duplicates_a_name: "node 'n_s' (Mul) defines 'h' a second time",
    drops_a_value: "initializer 'w' has no value",
    detaches_the_output: "graph output 'elsewhere' is produced by no node",
    unknown_operator: "ONNX checker: No Op registered for Multiply",
    wrong_attribute: "ONNX checker: Unrecognized attribute: axis for operator Mul",
}
NUMBERS = {
    wrong_scale: "output 'y' at x [3, 7, 4]: relative error ",
    swapped_residual: "output 'y' at x [3, 7, 4]: relative error ",
    nan: "output 'y' at x [3, 7, 4]: relative error nan exceeds 1e-05",
    renames_the_output: "expected the outputs ['y'], got ['z']",
    adds_an_axis: "output 'y' at x [3, 7, 4]: expected float32[3, 7, 4], got float32[1, 3, 7, 4]",
    mismatched_sizes: "the rewritten graph does not run: ",
}


@pytest.mark.parametrize("action", STRUCTURE | NUMBERS, ids=lambda action: action.__name__)
def test_a_faulty_pass_is_rolled_back_and_named(graph: Graph, action: Action) -> None:
    before = graph.digest()
    after = PassPipeline((Faulty(action),), NumberCheck(graph, threads=1)).run(graph)
    (record,) = after.history
    assert record.stage == "faulty(rewrites=1)"
    assert record.rolled_back is not None
    assert record.rolled_back.startswith((STRUCTURE | NUMBERS)[action])
    assert record.rewrites == 0
    assert record.nodes_before == record.nodes_after == 3
    assert after.model is graph.model
    assert graph.digest() == before


@pytest.mark.parametrize("action", STRUCTURE | NUMBERS, ids=lambda action: action.__name__)
def test_a_required_pass_must_not_fail(graph: Graph, action: Action) -> None:
    before = graph.digest()
    with pytest.raises(PassError) as caught:
        PassPipeline((Required(action),), NumberCheck(graph, threads=1)).run(graph)
    reason = (STRUCTURE | NUMBERS)[action]
    assert str(caught.value).startswith(f"pass required(rewrites=1): {reason}")
    assert graph.digest() == before


def test_a_required_pass_that_works_is_like_any_other(graph: Graph) -> None:
    steps = (Required(), Required(rewrites=0))
    after = PassPipeline(steps, NumberCheck(graph, threads=1)).run(graph)
    records = [(record.rewrites, record.rolled_back) for record in after.history]
    assert records == [(1, None), (0, None)]


def test_an_old_opset_is_a_refusal_unless_the_pass_is_required(graph: Graph) -> None:
    reason = "emits operators of opset 24, but the graph imports opset 23; run raise-opset first"
    after = PassPipeline((Newer(raises),)).run(graph)
    assert after.history[0].rolled_back is None
    assert after.history[0].refusals == (Refusal("newer", "", reason),)
    with pytest.raises(PassError, match=r"^pass newer\(rewrites=1\): emits operators of opset 24"):
        PassPipeline((RequiredNewer(raises),)).run(graph)


def test_the_passes_after_a_failure_see_the_graph_before_it(graph: Graph) -> None:
    seen: list[int] = []

    def shorten(model: ir.Model) -> None:
        seen.append(len(model.graph))
        last, s = model.graph[2], model.graph[1].outputs[0]
        s.shape, s.dtype = last.outputs[0].shape, ir.DataType.FLOAT
        model.graph.outputs[0] = s
        model.graph.remove(last)

    def look(model: ir.Model) -> None:
        seen.append(len(model.graph))

    steps = (Loose(shorten), Faulty(raises), Loose(look))
    after = PassPipeline(steps, NumberCheck(graph, threads=1)).run(graph)
    assert seen == [3, 2]
    assert [record.rolled_back is None for record in after.history] == [True, False, True]
    assert [(r.nodes_before, r.nodes_after) for r in after.history] == [(3, 2), (2, 2), (2, 2)]
    assert len(graph.model.graph) == 3


def test_a_pass_that_reports_nothing_changes_nothing(graph: Graph) -> None:
    after = PassPipeline((Faulty(wrong_scale, rewrites=0),)).run(graph)
    assert after.model is graph.model
    assert after.digest() == graph.digest()


def test_records_tell_time_rewrites_and_refusals(graph: Graph) -> None:
    refusal = Refusal("faulty", "n_h", "no reason")

    def bypass(model: ir.Model) -> None:
        model.graph[2].replace_input_with(0, model.graph[0].outputs[0])
        model.graph.remove(model.graph[1], safe=True)

    told: list[StageRecord] = []
    steps = (Loose(bypass, rewrites=4, refusals=(refusal,)), Faulty(rewrites=0))
    after = PassPipeline(steps, on_record=told.append).run(graph)
    assert tuple(told) == after.history
    first, second = told
    assert (first.stage, second.stage) == ("loose(rewrites=4)", "faulty(rewrites=0)")
    assert (first.rewrites, first.refusals, first.rolled_back) == (4, (refusal,), None)
    assert (first.nodes_before, first.nodes_after) == (3, 2)
    assert (second.nodes_before, second.nodes_after, second.rewrites) == (2, 2, 0)
    assert all(0 <= record.seconds < 60 for record in told)


def test_history_is_kept_and_extended(graph: Graph) -> None:
    record = StageRecord(stage="export", seconds=1.5, nodes_before=0, nodes_after=3)
    after = PassPipeline((Faulty(),)).run(graph.with_record(record))
    assert after.history[0] is record
    assert len(after.history) == 2
    assert graph.history == ()


@pytest.mark.parametrize("verify", ["each", "final"])
def test_what_may_change_freely_is_not_compared_and_what_follows_is_held_to_it(
    graph: Graph, verify: Any
) -> None:
    check = Counted(graph)
    steps = (Faulty(rewrites=0), Loose(wrong_scale), Faulty(named), Faulty(nan))
    after = PassPipeline(steps, check, verify=verify).run(graph)
    assert check.restarted == ["loose"]
    assert [r.rolled_back is None for r in after.history] == [True, True, True, False]
    check = Counted(graph)
    PassPipeline((Loose(rewrites=0), Faulty(rewrites=0)), check, verify=verify).run(graph)
    assert (check.asked, check.restarted) == ([], [])


def test_two_faults_of_one_kind_each_have_a_record(graph: Graph) -> None:
    check = NumberCheck(graph, threads=1)
    after = PassPipeline((Faulty(wrong_scale), Faulty(nan), Faulty()), check).run(graph)
    assert [record.rolled_back is None for record in after.history] == [False, False, True]


def test_the_spec_names_the_options() -> None:
    assert Faulty().spec == "faulty(rewrites=1)"
    assert Faulty().tolerance == EXACT
    assert result(ir.Model(ir.Graph([], [], nodes=[]), ir_version=10), 0).modified is False


@dataclass(frozen=True)
class Lossy(Faulty):
    name = "lossy"

    @property
    def tolerance(self) -> float:
        return 0.05


class Counted:
    """A check of numbers that remembers the graphs it was asked about."""

    def __init__(self, graph: Graph) -> None:
        self.check = NumberCheck(graph, threads=1)
        self.asked: list[Graph] = []
        self.restarted: list[str] = []

    def __call__(self, graph: Graph, step: Pass) -> str | None:
        self.asked.append(graph)
        return self.check(graph, step)

    def restart(self, graph: Graph, step: Pass) -> None:
        self.restarted.append(step.name)
        self.check.restart(graph, step)


def named(model: ir.Model) -> None:
    model.graph[0].name = f"{model.graph[0].name}+"


def test_final_compares_numbers_once(graph: Graph) -> None:
    check = Counted(graph)
    after = PassPipeline((Faulty(named),) * 6, check, verify="final").run(graph)
    assert len(check.asked) == 1
    assert after.model.graph[0].name == "n_h++++++"
    assert [record.rolled_back for record in after.history] == [None] * 6


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("action", NUMBERS, ids=lambda action: action.__name__)
def test_final_rolls_back_the_guilty_pass_alone(graph: Graph, action: Action, place: int) -> None:
    steps = [Faulty(named, rewrites=index + 1) for index in range(5)]
    steps[place] = Faulty(action, rewrites=place + 1)
    check = Counted(graph)
    after = PassPipeline(tuple(steps), check, verify="final").run(graph)
    assert [record.rolled_back is None for record in after.history] == [
        index != place for index in range(5)
    ]
    reason = after.history[place].rolled_back
    assert reason is not None
    assert reason.startswith(NUMBERS[action])
    assert after.model.graph[0].name == "n_h++++"
    assert NumberCheck(graph, threads=1)(after, Faulty()) is None
    assert len(check.asked) <= 5  # the end, log2(5) times between, the end again


def test_final_goes_on_until_the_numbers_agree(graph: Graph) -> None:
    steps = (Faulty(wrong_scale), Faulty(named), Faulty(raises), Faulty(nan), Faulty(named))
    after = PassPipeline(steps, NumberCheck(graph, threads=1), verify="final").run(graph)
    assert [r.rolled_back is None for r in after.history] == [False, True, False, False, True]
    assert after.model.graph[0].name == "n_h++"


def test_final_lets_the_passes_after_the_guilty_one_see_the_graph_before_it(graph: Graph) -> None:
    seen: list[float] = []

    def look(model: ir.Model) -> None:
        tensor = model.graph[1].inputs[1]
        assert tensor is not None
        assert tensor.const_value is not None
        seen.append(tensor.const_value.numpy().item())

    steps = (Faulty(wrong_scale), Faulty(look, rewrites=0))
    PassPipeline(steps, NumberCheck(graph, threads=1), verify="final").run(graph)
    assert seen == [pytest.approx(0.505), 0.5]


def test_final_does_not_spare_a_required_pass(graph: Graph) -> None:
    steps = (Faulty(named), Required(swapped_residual), Faulty(named))
    with pytest.raises(PassError, match=r"pass required\(rewrites=1\): output 'y' at x"):
        PassPipeline(steps, NumberCheck(graph, threads=1), verify="final").run(graph)


def test_final_judges_a_pass_that_loses_digits_by_itself(graph: Graph) -> None:
    """0.505 is within 5 %, and what comes after is held to it: again 0.5 would be off."""

    def back(model: ir.Model) -> None:
        model.graph[1].replace_input_with(1, model.graph.initializers["scale"])

    check = Counted(graph)
    steps = (Faulty(named), Faulty(named), Lossy(wrong_scale), Faulty(named), Faulty(back))
    after = PassPipeline(steps, check, verify="final").run(graph)
    assert [r.rolled_back is None for r in after.history] == [True, True, True, True, False]
    ends = [candidate.model.graph[0].name for candidate in check.asked[:2]]
    assert ends == ["n_h++", "n_h++"]


def test_off_checks_the_structure_alone(graph: Graph) -> None:
    check = Counted(graph)
    steps = (Faulty(wrong_scale), Faulty(duplicates_a_name))
    after = PassPipeline(steps, check, verify="off").run(graph)
    assert check.asked == []
    assert [record.rolled_back is None for record in after.history] == [True, False]
