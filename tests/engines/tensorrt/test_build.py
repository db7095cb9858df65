"""Real builds with tensorrt_rtx, which compiles without a GPU."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import onnx_ir as ir
import pytest

from fuselage.engines.base import BuildConfig, LoadOptions
from fuselage.engines.tensorrt import backend as backend_module
from fuselage.engines.tensorrt import network as network_module
from fuselage.engines.tensorrt.backend import TensorRtBackend
from fuselage.engines.tensorrt.cuda import Cuda
from fuselage.engines.tensorrt.facts import PlanFacts
from fuselage.engines.tensorrt.log import LogLines, make_logger
from fuselage.engines.tensorrt.network import _parser_error
from fuselage.engines.tensorrt.plan import open_plan
from fuselage.errors import BuildError, BundleError, DeviceError
from fuselage.graph import weights as weights_module
from fuselage.graph.model import Graph
from fuselage.graph.tensors import ShapeProfile

pytest.importorskip("tensorrt_rtx")

BACKEND = TensorRtBackend.of("tensorrt-rtx")
PROFILE = ShapeProfile.parse("batch=1:2:4,sequence=1:16:32")

Build = Callable[..., dict]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def run(graph: Graph, *targets: str, profile: ShapeProfile = PROFILE, **options: int) -> dict:
        config = BuildConfig(profile=profile, compute_capabilities=targets, **options)
        artifact = BACKEND.build(graph, config, tmp_path)
        assert artifact.files == ("engine.plan", "engine.json")
        assert json.loads((tmp_path / "engine.json").read_text()) == artifact.facts
        return dict(artifact.facts)

    return run


def test_a_float16_layer_fuses(graphs: ModuleType, build: Build, tmp_path: Path) -> None:
    facts = build(graphs.encoder())
    assert facts["kernels"]["fused_attention"] == 1
    # Query, key and value are merged into one GEMM; the first feed-forward GEMM carries the GELU.
    assert facts["kernels"]["gemm"] == 3
    assert facts["kernels"]["gemm_dtypes"] == {"Half|Half->Half": 3}
    assert facts["kernels"]["runtime_fusion"] == 1
    assert facts["kernels"]["int8_gemm"] == 0
    assert facts["kernels"]["total"] == len(facts["kernel_list"])
    assert facts["compute_capabilities"] == ["SM80", "SM86", "SM89", "SM120"]
    assert facts["decomposed_attention"] == []
    assert facts["activation_bytes"] > 0
    assert facts["weight_bytes"] > 100_000
    assert facts["warnings"] == []
    plan = (tmp_path / "engine.plan").read_bytes()
    assert facts["bytes"] == len(plan)
    assert facts["sha256"] == hashlib.sha256(plan).hexdigest()
    assert facts["inputs"][0] == {
        "name": "input_ids",
        "dtype": "int64",
        "dims": ["batch", "sequence"],
    }
    assert facts["outputs"][0]["dtype"] == "float32"
    assert facts["profile"] == {"batch": [1, 2, 4], "sequence": [1, 16, 32]}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_run_allocates_nothing_unless_weights_stream(streamed: bool) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(make_logger(trt, LogLines(), verbose=False))
    config = BuildConfig(profile=PROFILE, weight_streaming=streamed)
    made = backend_module._builder_config(trt, builder, config, ())
    assert made.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION) is not streamed


def test_float32_is_not_rounded_to_tf32() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(make_logger(trt, LogLines(), verbose=False))
    assert builder.create_builder_config().get_flag(trt.BuilderFlag.TF32)  # unless told otherwise
    config = BuildConfig(profile=PROFILE)
    made = backend_module._builder_config(trt, builder, config, ())
    assert not made.get_flag(trt.BuilderFlag.TF32)


def test_kernels_name_the_nodes_they_compute(graphs: ModuleType, build: Build) -> None:
    kernels = build(graphs.encoder(), "SM89")["kernel_list"]
    merged = [
        kernel
        for kernel in kernels
        if kernel["kind"] == "gemm" and sum("MatMul" in node for node in kernel["nodes"]) == 3
    ]
    assert len(merged) == 1
    attention = next(kernel for kernel in kernels if "_gemm_mha_v2" in kernel["name"])
    assert [node.split("_")[0] for node in attention["nodes"]] == ["Attention"]


def test_two_builds_are_identical(graphs: ModuleType, build: Build, tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        facts = build(graphs.encoder())
        del facts["build_seconds"]
        found.append(((tmp_path / "engine.plan").read_bytes(), facts))
    assert found[0] == found[1]


def test_float32_attention_is_decomposed_and_said_so(graphs: ModuleType, build: Build) -> None:
    facts = build(graphs.encoder("float32"))
    assert facts["kernels"]["fused_attention"] == 0
    assert facts["kernels"]["gemm_dtypes"]["Float,Float->Float"] == 2
    assert [entry["node"] for entry in facts["decomposed_attention"]] == ["Attention_11"]
    assert "not for float32" in facts["decomposed_attention"][0]["reason"]


def test_small_heads_are_decomposed(graphs: ModuleType, build: Build) -> None:
    facts = build(graphs.encoder(heads=8))
    assert facts["kernels"]["fused_attention"] == 0
    assert "head size 8 is below 16" in facts["decomposed_attention"][0]["reason"]


def test_an_input_that_nothing_reads_is_refused(graphs: ModuleType, build: Build) -> None:
    with pytest.raises(BuildError, match=r"no output .* depends on the input 'token_type_ids'"):
        build(graphs.encoder(unused_input=True))


LENGTHS = """<ir_version: 11, opset_import: ["" : 24]>
g (float16[batch, 4, sequence, 32] q, float16[batch, 4, sequence, 32] k, int64[batch] lengths)
    => (float16[batch, 4, sequence, 32] y)
    { two = Constant<value = int64[1] {2}>()
      h = Neg(q)
      half = Div(lengths, two)
      [attend] y = Attention(h, k, k, , , , half) }"""


def test_lengths_that_the_parser_drops_fail_the_build_although_a_layer_reads_them(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = Graph(ir.from_onnx_text(LENGTHS))
    assert build(graph, "SM89")["kernels"]["total"] > 0
    monkeypatch.setattr(network_module, "set_key_lengths", lambda *_: None)
    with pytest.raises(BuildError, match=r"no output .* depends on the input 'lengths'"):
        build(graph, "SM89")


@pytest.mark.parametrize("name", ["SM90", "foo", "CURRENT"])
def test_an_unknown_compute_capability_lists_the_valid_ones(
    graphs: ModuleType, build: Build, name: str
) -> None:
    with pytest.raises(
        BuildError, match=f"{name}' is not one of SM75, SM80, SM86, SM89, SM120, SM121"
    ):
        build(graphs.encoder(), "SM80", name)


def test_a_type_the_gpu_lacks_surfaces_the_librarys_words(graphs: ModuleType, build: Build) -> None:
    with pytest.raises(BuildError, match=r"for SM89, SM75: .*FP32 GEMM is not supported"):
        build(graphs.encoder("float32"), "SM89", "SM75")


def test_a_foreign_domain_is_refused_before_parsing(graphs: ModuleType, build: Build) -> None:
    with pytest.raises(BuildError, match=r"1 foreign nodes: com\.microsoft::Gelu \(Gelu_0\)"):
        build(graphs.elementwise("com.microsoft", "Gelu"))


def test_parser_errors_name_the_node(graphs: ModuleType, build: Build) -> None:
    with pytest.raises(BuildError, match="cannot import the graph: NonZero node 'NonZero_0': "):
        build(graphs.elementwise(op="NonZero"))


def test_every_parser_error_is_told() -> None:
    errors = [
        SimpleNamespace(
            node_operator=lambda op=op: op, node_name=lambda: "n", desc=lambda op=op: f"no {op}"
        )
        for op in ("If", "Loop", "")
    ]
    parser = SimpleNamespace(num_errors=3, get_error=lambda index: errors[index])
    message = str(_parser_error(parser, LogLines(), "stops"))
    assert "stops: If node 'n': no If; Loop node 'n': no Loop; no ; replace" in message


def test_a_profile_must_name_every_axis(graphs: ModuleType, build: Build) -> None:
    with pytest.raises(BuildError, match="'sequence', which the profile does not name"):
        build(graphs.encoder(), profile=ShapeProfile.parse("batch=1:2:4"))


def test_a_profile_beyond_the_position_table_is_refused(
    graphs: ModuleType, build: Build, tmp_path: Path
) -> None:
    graph = graphs.positions(16)
    assert build(graph, profile=ShapeProfile.parse("batch=1:2:4,sequence=1:8:16"))["bytes"] > 0
    (tmp_path / "engine.plan").unlink()
    with pytest.raises(BuildError, match=r"kMAX values are not self-consistent.*32 != 16"):
        build(graph, profile=ShapeProfile.parse("batch=1:2:4,sequence=1:8:32"))
    assert not (tmp_path / "engine.plan").exists()


@pytest.mark.parametrize("severity", ["ERROR", "INTERNAL_ERROR"])
def test_a_plan_that_comes_with_an_error_line_is_refused(
    graphs: ModuleType,
    build: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    severity: str,
) -> None:
    def complaining(trt: object, lines: LogLines, *, verbose: bool) -> object:
        lines.add(severity, "something is wrong")
        return make_logger(trt, lines, verbose=verbose)

    monkeypatch.setattr(backend_module, "make_logger", complaining)
    with pytest.raises(BuildError, match="cannot build the engine for SM89: something is wrong"):
        build(graphs.encoder(), "SM89")
    assert not (tmp_path / "engine.plan").exists()


def test_the_workspace_limit_is_honoured(graphs: ModuleType, build: Build) -> None:
    with pytest.raises(BuildError, match="workspace"):
        build(graphs.encoder(), workspace_bytes=1000)


def test_a_weight_that_does_not_fit_the_graph_is_named(
    graphs: ModuleType, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = weights_module.detach_weights

    def cut(model: object) -> object:
        detached = whole(model)  # type: ignore[arg-type]
        weights = dict(detached.weights)
        weights["query.weight"] = weights["query.weight"][:10]
        return type(detached)(detached.graph, weights)

    monkeypatch.setattr(weights_module, "detach_weights", cut)
    with pytest.raises(BuildError, match=r"refuses weight 'query\.weight' \(float16\[10, 64\]\)"):
        build(graphs.encoder())


def test_a_full_disk_is_a_build_error(
    graphs: ModuleType, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backend_module.Path, "write_bytes", full)
    with pytest.raises(BuildError, match=r"cannot write engine\.plan of .*No space left.*free"):
        build(graphs.encoder(), "SM89")


def test_native_warnings_go_to_the_report_and_not_to_stdout(
    graphs: ModuleType, build: Build, capfd: pytest.CaptureFixture[str]
) -> None:
    facts = build(graphs.clamped(), "SM89")
    assert any("precision-lose casting" in warning for warning in facts["warnings"])
    assert capfd.readouterr().out == ""


@pytest.mark.skipif(Cuda.blocker() is None, reason="this machine has a GPU")
def test_loading_without_a_gpu_says_what_is_missing(
    graphs: ModuleType, build: Build, tmp_path: Path
) -> None:
    pytest.importorskip("cuda.bindings.runtime")
    build(graphs.encoder(), "SM89")
    assert BACKEND.build_blocker() is None
    with pytest.raises(DeviceError, match="NVIDIA"):
        BACKEND.load(tmp_path, LoadOptions())
    assert "NVIDIA" in (BACKEND.run_blocker() or "")


def test_a_damaged_plan_is_recognised_by_the_real_runtime(
    graphs: ModuleType, fakes: ModuleType, build: Build, tmp_path: Path
) -> None:
    facts = PlanFacts.parse(build(graphs.encoder(), "SM89"))
    plan = (tmp_path / "engine.plan").read_bytes()
    cuda = Cuda(fakes.FakeCuda())
    trt = BACKEND.flavour.module()
    with pytest.raises(BundleError, match="MALFORMED_ENGINE"):
        open_plan(trt, cuda, bytes(len(plan)), facts)
    if Cuda.blocker() is not None:
        with pytest.raises(DeviceError, match=r"cannot run on this SM89 GPU \(.*[Cc]uda"):
            open_plan(trt, cuda, plan, facts)


def test_a_graph_without_dynamic_axes_builds(graphs: ModuleType, build: Build) -> None:
    graph = graphs.elementwise(dims=(2, 5))
    facts = build(graph, "SM89", profile=ShapeProfile({}))
    assert facts["inputs"] == [{"name": "x", "dtype": "float32", "dims": [2, 5]}]
    assert facts["profile"] == {}
