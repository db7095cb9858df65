"""Numbers and sentences of each section, from known facts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fuselage.proof.reporting.build_command import build_command
from fuselage.proof.reporting.bundle_facts import BundleFacts
from fuselage.proof.reporting.documents import Documents
from fuselage.proof.reporting.reader import Facts
from fuselage.proof.reporting.sections.accuracy import (
    make_comparison,
    make_evaluation,
)
from fuselage.proof.reporting.sections.calibration import make_calibration
from fuselage.proof.reporting.sections.costs import make_costs
from fuselage.proof.reporting.sections.differences import make_differences
from fuselage.proof.reporting.sections.kernels import make_kernels
from fuselage.proof.reporting.sections.passes import make_passes
from fuselage.proof.reporting.sections.picture import make_picture
from fuselage.proof.reporting.sections.precision import make_precision
from fuselage.proof.reporting.sections.speed import make_benchmark
from fuselage.proof.reporting.sections.verdict import make_verdict
from fuselage.proof.reporting.subject_names import concerns, short_names, short_subject

from .conftest import Write, documents, make_report

SPACE = "\N{NO-BREAK SPACE}"


@pytest.fixture(scope="module")
def facts(bundle: Path) -> BundleFacts:
    return BundleFacts.read(bundle)


def given() -> Documents:
    return Documents({kind: Facts(content, kind) for kind, content in documents().items()})


def written(write_bundle: Write, **changes: Any) -> BundleFacts:
    report = make_report()
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = report
        for parent in parents:
            place = place[parent]
        place[last] = value
    return BundleFacts.read(write_bundle(report))


def test_an_engine_that_did_not_run_is_said_first(facts: BundleFacts) -> None:
    verdict = make_verdict(facts, Documents())
    assert verdict.tone == "partly"
    assert verdict.headline == "It answers like the model on ort-cpu"
    assert "mean cosine 0.9964, least 0.9877" in verdict.lede
    assert verdict.open_points[0][0].startswith(
        "The engine tensorrt-rtx has not run: its graph was"
    )
    assert verdict.open_points[0][1] == (
        f"fuselage compare torch:acme/tiny bundle:{facts.path}#tensorrt-rtx"
    )
    said = " ".join(text for text, _ in verdict.open_points)
    assert "The ranges come from the texts that ship with fuselage" in said
    assert len(verdict.open_points) == 6


def test_figures_of_the_verdict(facts: BundleFacts) -> None:
    found = {figure.name: figure for figure in make_verdict(facts, given()).figures}
    assert found["Precision"].meaning == "11 of 12 linear layers quantised"
    size = found["Size of the smallest engine"]
    assert (size.value, size.meaning[:22]) == (f"40.0{SPACE}MB", f"tensorrt-rtx; 40{SPACE}% of ")
    assert found["Latency"].value == f"4.00{SPACE}ms"
    assert found["Latency"].meaning.endswith("torch-eager takes 2.00 times as long")
    assert found["Signal to noise of the answers"].value == f"24.0{SPACE}dB"
    spearman = found["Spearman's rank correlation"]
    assert spearman.value == "86.67"
    assert spearman.meaning.startswith("0.05 points below the float model (−0.01 to 0.12")


def test_a_failure_is_named_with_its_reason(write_bundle: Write) -> None:
    report = make_report()
    report["verification"]["passed"] = False
    report["verification"]["targets"][1] |= {"passed": False, "reason": "least cosine 0.5"}
    verdict = make_verdict(BundleFacts.read(write_bundle(report)), Documents())
    assert (verdict.tone, verdict.headline) == ("bad", "It does not answer like the model")
    assert "ort-cpu: least cosine 0.5" in verdict.lede


def test_a_failed_comparison_overrules_the_build(facts: BundleFacts) -> None:
    failed = documents()["comparison"]
    failed["candidates"][0]["passed"] = failed["passed"] = False
    verdict = make_verdict(facts, Documents({"comparison": Facts(failed, "c")}))
    assert verdict.tone == "bad"


def test_all_engines_ran(write_bundle: Write) -> None:
    report = make_report()
    report["verification"]["targets"][0]["subject"] = "engine"
    verdict = make_verdict(BundleFacts.read(write_bundle(report)), given())
    assert (verdict.tone, verdict.headline) == ("good", "It answers like the model")


def test_the_way_of_each_target_through_the_passes(facts: BundleFacts) -> None:
    section = make_passes(facts)
    ways = {
        leg.title: [(step.name, step.change, step.after) for step in leg.steps]
        for leg in section.legs
    }
    assert ways == {
        "For every engine": [("export", "", 50), ("fuse-gelu", "−10", 40),
                             ("insert-qdq", "+20", 60)],
        "For ort-cpu": [("fuse-integer-matmul", "−30", 30)],
        "For tensorrt-rtx": [("convert-precision", "+1", 61)],
    }  # fmt: skip
    assert section.legs[0].idle == ("clean-up",)
    assert "50 nodes" in section.summary
    assert "30 for ort-cpu and 61 for tensorrt-rtx" in section.summary


def test_blocks_and_refusals(facts: BundleFacts) -> None:
    section = make_passes(facts)
    assert section.fusion.rows == [["attention", "2", "1", "1"], ["gelu", "2", "2", "none"]]
    assert section.refusals is not None
    assert section.refusals.rows == [["attention", "encoder.layer.1", "its scale is no constant"]]


def test_a_pass_that_was_rolled_back_is_shown(write_bundle: Write) -> None:
    report = make_report()
    report["stages"][1]["rolled_back"] = "numbers are off"
    section = make_passes(BundleFacts.read(write_bundle(report)))
    assert section.legs[0].steps[1].rolled_back == "numbers are off"


def test_the_precision_map(facts: BundleFacts) -> None:
    section = make_precision(facts)
    (heat,) = section.maps
    assert heat.layers == ("0", "1")
    rows = {name: [cell.text for cell in cells] for name, cells in heat.rows}
    assert rows["attention.query"] == ["34.0", "44.0"]  # 24 - 10 log10 of 0.1 and 0.01
    assert rows["attention.key"] == ["34.0", ""]
    assert rows["down"] == [f"{24 - 10 * math.log10(0.5):.1f}", "float"]
    assert section.kept_float == (("encoder.layer.1.down/MatMul", "the budget"),)
    assert section.summary.startswith("11 of 12 linears have int8 codes, 1 stay float.")
    assert (
        f"1 of 3 activations bring half of the error, the loudest 50{SPACE}% of it"
        in section.summary
    )


def test_louder_errors_are_darker(facts: BundleFacts) -> None:
    levels = {
        name: [cell.level for cell in cells] for name, cells in make_precision(facts).maps[0].rows
    }
    quiet, loud = levels["attention.query"][1], levels["down"][0]
    assert quiet is not None
    assert loud is not None
    assert quiet < loud
    assert levels["down"][1] is None


def test_nothing_is_quantised(write_bundle: Write) -> None:
    float_only = written(write_bundle, quantization=None)
    assert make_precision(float_only).maps == ()
    assert "Nothing was calibrated" in make_calibration(float_only).summary


def test_ranges_of_every_activation(facts: BundleFacts) -> None:
    section = make_calibration(facts)
    assert section.table is not None
    first = section.table.rows[0]
    assert list(first[:6]) == [
        "0 query, key, value", "int8", "2.00", "20.0", "channel 3, [CLS]", f"0.025{SPACE}%",
    ]  # fmt: skip
    assert section.table.rows[3][1:3] == ["float", "–"]
    assert len(section.plots) == 2
    assert "448 texts, 18,644 tokens" in section.summary


def test_before_and_after(facts: BundleFacts) -> None:
    section = make_picture(facts)
    assert section.graphs == ("exported", "canonical", "ort-cpu")
    assert section.totals == ("27", "29", "29")
    kinds = {row.kind.name: row.counts for row in section.kinds}
    assert kinds["Matrix products"] == ("12", "12", "12")
    assert kinds["Shapes and moves"] == ("3", "·", "·")
    assert [drawing.title for drawing in section.layers] == ["Canonical", "As ort-cpu runs it"]
    assert section.missing == ""


def test_a_bundle_without_the_outline_says_so(write_bundle: Write) -> None:
    report = make_report()
    del report["exported"]
    section = make_picture(BundleFacts.read(write_bundle(report)))
    assert "(50 nodes) is not drawn" in section.missing


def test_kernels_and_operators(facts: BundleFacts) -> None:
    operators, kernels = make_kernels(facts)
    assert (operators.target, operators.kinds.rows[0]) == (
        "ort-cpu",
        ["MatMulIntegerToFloat", "12"],
    )
    assert kernels.summary.startswith("3 kernels, 1 of them matrix products, 1 on int8 operands")
    assert kernels.every is not None
    assert kernels.every.rows[0] == ["0", "gemm", "Int8|Int8->Half", "gemm_1", "a, b"]


def test_the_command_that_builds_it_again(facts: BundleFacts) -> None:
    assert build_command(facts.manifest, "out") == (
        "fuselage build acme/tiny --out out --precision int8 --target ort-cpu "
        "--target tensorrt-rtx",
        True,
    )


def test_every_option_of_a_recipe_is_in_its_command(facts: BundleFacts) -> None:
    recipe = {
        "precision": "auto", "task": "embedding", "weights": "random", "profiles": "auto",
        "verify": "each", "gpu_memory": 16, "targets": ["ort-cpu"], "shapes": ["batch=1:8:64"],
        "compute_capabilities": ["SM89"], "int8_embeddings": True, "refittable": True,
        "compared": ["fp16"], "texts": "d" * 64, "evaluation": "e" * 64, "costs": None,
        "budget": {"min_sqnr": 20, "min_cosine": None, "max_drop": {"spearman": 0.1}},
    }  # fmt: skip
    manifest = replace(facts.manifest, recipe=recipe)
    assert build_command(manifest, "a b") == (
        "fuselage build acme/tiny --out 'a b' --task embedding --weights random --profiles auto "
        "--verify each --gpu-memory 16 --target ort-cpu --shapes batch=1:8:64 "
        "--compute-capability SM89 --int8-embeddings --refittable --compare-precisions "
        "--min-sqnr 20 --max-drop spearman=0.1 --text FILE --eval FILE",
        False,
    )


def test_an_evaluation(facts: BundleFacts) -> None:
    section = make_evaluation(given()["evaluation"], facts)
    assert section is not None
    assert section.table is not None
    assert section.table.rows == [
        ["ort-cpu", "int8", "Spearman's rank correlation", "86.72", "86.67", "0.05",
         "−0.01 to 0.12", "0.50"]
    ]  # fmt: skip
    assert section.notes == ("left out tensorrt-rtx: no GPU",)
    assert make_evaluation(Facts({}, ""), facts) is None


def test_what_the_build_measured_stands_in(write_bundle: Write) -> None:
    metric = {
        "metric": "accuracy", "title": "Accuracy", "reference": 91.0, "int8": 90.5, "drop": 0.5,
        "interval": [0.1, 0.9], "max_drop": None, "examples": 872, "source": "s.tsv",
    }  # fmt: skip
    section = make_evaluation(Facts({}, ""), written(write_bundle, quantization__accuracy=[metric]))
    assert section is not None
    assert section.table is not None
    assert section.table.rows[0][3:6] == ["91.00", "90.50", "0.50"]
    assert "872 examples of s.tsv" in section.summary


def test_a_comparison() -> None:
    section = make_comparison(given())
    assert section is not None
    assert "2 cases" in section.summary
    (table,) = section.tables
    assert table.columns[2].name == "relative error"
    assert table.rows[0][2] == f"12{SPACE}%"
    assert table.rows[1][:3] == ["reference in float64", "embedding", f"<{SPACE}0.001{SPACE}%"]
    assert "bound 0.9000" in table.rows[0][-2]
    assert len(section.plots) == 1
    assert any("3 runs gave the same bits" in note for note in section.notes)


def test_a_comparison_that_fails_names_where() -> None:
    content = documents()["comparison"]
    content["candidates"][0]["failures"] = [
        {"output": "embedding", "reason": "cosine_min 0.5 is below 0.9", "case": "longest"}
    ]
    content["candidates"][0]["divergence"] = "first off at encoder.layer.1"
    section = make_comparison(Documents({"comparison": Facts(content, "c")}))
    assert section is not None
    assert section.failures == (
        "ort-cpu: embedding: cosine_min 0.5 is below 0.9 in the case longest",
        "ort-cpu: first off at encoder.layer.1",
    )


def test_a_benchmark() -> None:
    section = make_benchmark(given()["benchmark"])
    assert section is not None
    assert section.warning == ""
    rows = section.tables[0].rows
    assert rows[0][0] == "ort-cpu"
    assert rows[0][-2:] == ["1", "reference"]
    assert rows[1][-2:] == ["2.000 (1.900 to 2.100)", "slower"]
    assert len(section.plots) == 2
    assert section.notes == ("torch-compile was not measured: no compiler",)


def test_a_busy_machine_concludes_nothing() -> None:
    section = make_benchmark(Facts({**documents()["benchmark"], "concluded": False}, "b"))
    assert section is not None
    assert section.warning.startswith("The machine was busy")


def test_where_the_time_goes() -> None:
    section = make_costs(given()["cost-model"])
    assert section is not None
    assert (
        f"2.00 G operations over 10.0{SPACE}MB. At the peaks of the machine (measured)"
        in section.summary
    )
    assert f"It took 10.0{SPACE}ms. The model said 10.5{SPACE}ms" in section.summary
    assert f"{8.0:.1f}{SPACE}% a node" in section.summary
    assert section.classes.rows[0][:4] == ["MatMul [4, 8]", "8", f"8.00{SPACE}ms", f"80{SPACE}%"]
    assert [plot.title for plot in section.plots] == ["Roofline.", "Prediction."]
    assert section.notes == ("the model cannot count Frob",)


def test_peaks_of_a_busy_machine_are_called_too_low() -> None:
    content = documents()["cost-model"]
    content["environment"]["load_average"] = 9.0
    section = make_costs(Facts(content, "c"))
    assert section is not None
    assert "Its load was 9.0 then, so these peaks are too low." in section.summary


def test_a_count_without_times_draws_nothing_and_is_an_open_point(facts: BundleFacts) -> None:
    content = documents()["cost-model"]
    content["totals"] |= {"measured_ms": None, "predicted_ms": None}
    content["errors"] = None
    for node in content["nodes"]:
        node |= {"measured_ms": None, "predicted_ms": None}
    document = Facts(content, "c")
    section = make_costs(document)
    assert section is not None
    assert section.plots == ()
    assert "Nothing was timed" in section.summary
    points = make_verdict(facts, Documents({"cost-model": document})).open_points
    said = dict(points)
    command = said["Operations were counted, but no node was timed."]
    assert command.endswith("--costs --measure --out cost-model.json")


def test_two_bundles_beside_one_another(facts: BundleFacts, write_bundle: Write) -> None:
    report = make_report()
    report["targets"]["ort-cpu"]["bytes"] = 90_000_000
    report["latency"]["ort-cpu"][0]["median_ms"] = 8.4
    found = make_differences(facts, BundleFacts.read(write_bundle(report)))
    assert found.differing.rows == [
        ["ort-cpu: size", f"60.0{SPACE}MB", f"90.0{SPACE}MB", "1.50×"],
        ["ort-cpu: latency, 1x128", f"4.20{SPACE}ms", f"8.40{SPACE}ms", "2.00×"],
    ]
    assert found.is_one_model
    assert ["version of numpy", "2.4.6"] in found.same.rows


@pytest.mark.parametrize(
    ("name", "short"),
    [("bundle:b/tiny#ort-cpu", "ort-cpu"), ("torch:acme/tiny", "torch: tiny"),
     ("torch-eager", "torch-eager"), ("ort:b/graph/model.onnx", "the float graph of the bundle")],
)  # fmt: skip
def test_short_names_of_subjects(name: str, short: str) -> None:
    assert short_subject(name) == short


def test_names_that_would_be_the_same_have_their_folder() -> None:
    names = ["bundle:a/x#ort-cpu", "bundle:a/y#ort-cpu", "torch-eager"]
    assert list(short_names(names).values()) == ["x ort-cpu", "y ort-cpu", "torch-eager"]


def test_documents_of_other_bundles_say_nothing_of_this_one(facts: BundleFacts) -> None:
    assert concerns(f"bundle:{facts.path}#ort-cpu", facts)
    assert concerns("tiny#ort-cpu", facts)
    assert not concerns("bundle:other#ort-cpu", facts)
    assert not concerns("torch:tiny", facts)
    content = documents()["evaluation"]
    content["candidates"][0]["name"] = "bundle:build/other#ort-cpu"
    verdict = make_verdict(facts, Documents({"evaluation": Facts(content, "e")}))
    said = [text for text, _ in verdict.open_points]
    assert "The evaluation given is not of this bundle." in said
    assert "How well it does its task was not measured." in said
    assert not any("Spearman" in figure.name for figure in verdict.figures)


def test_a_failure_of_the_other_bundle_is_not_one_of_this(facts: BundleFacts) -> None:
    content = documents()["comparison"]
    other = {**content["candidates"][0], "name": "bundle:build/other#ort-cpu", "passed": False}
    content |= {"passed": False, "candidates": [*content["candidates"], other]}
    verdict = make_verdict(facts, Documents({"comparison": Facts(content, "c")}))
    assert verdict.tone == "partly"
