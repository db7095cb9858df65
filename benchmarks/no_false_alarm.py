"""Good bundles of eight families in three precisions: `compare` has nothing to say against any.

    python benchmarks/no_false_alarm.py [--only FAMILY ...] [--precisions fp32 int8 fp16]
        [--json FILE]

Each family gets random weights. Its ort-cpu engines in fp32 and int8 are built and compared with
PyTorch. Of tensorrt-rtx in fp16, which needs a GPU to run, the lowered graph is compared, in ONNX
Runtime and with the bounds of fp16. The exit status is 1 when one fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fuselage
from fuselage.compiler.cli import run
from fuselage.graph.model import Graph
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.presets import lowering
from fuselage.proof.comparing.gates import DEFAULTS

PRECISIONS = ("fp32", "int8", "fp16")
_SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
}
"""Weights of 0.1: with 0.02 attention is uniform and errors do not show."""

FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "bert": {"architectures": ["BertModel"]},
    "roberta": {"architectures": ["RobertaModel"], "pad_token_id": 1, "type_vocab_size": 1},
    "distilbert": {
        "architectures": ["DistilBertModel"],
        "dim": 64,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 128,
    },
    "electra": {"architectures": ["ElectraModel"], "embedding_size": 32},
    "albert": {
        "architectures": ["AlbertModel"],
        "embedding_size": 32,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
    "mpnet": {
        "architectures": ["MPNetModel"],
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    },
    "xlm-roberta": {"architectures": ["XLMRobertaModel"], "pad_token_id": 1, "type_vocab_size": 1},
    "modernbert": {
        "architectures": ["ModernBertModel"],
        "pad_token_id": 0,
        "bos_token_id": 1,
        "cls_token_id": 1,
        "eos_token_id": 2,
        "sep_token_id": 2,
        "local_attention": 8,
        "global_attn_every_n_layers": 2,
    },
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One good bundle.

    Attributes:
        family: of the model.
        precision: of the bundle.
        relative: worst relative error of an output.
        alarms: what `compare` found against it.
    """

    family: str
    precision: str
    relative: float
    alarms: tuple[str, ...]

    def __str__(self) -> str:
        """One line of the table."""
        state = "; ".join(self.alarms) or "passes"
        return f"{self.family:12} {self.precision:5} {self.relative:.1e} {state}"


def write_model(family: str, folder: Path) -> Path:
    """A folder with config.json alone, for random weights."""
    path = folder / family
    path.mkdir()
    config = {"model_type": family, **_SIZES, **FAMILIES[family]}
    (path / "config.json").write_text(json.dumps(config))
    return path


def candidate(model: Path, precision: str, folder: Path) -> tuple[str, list[str]]:
    """What is compared, and the options for it."""
    bundle = fuselage.build(
        str(model),
        out=folder / f"{model.name}-{precision}",
        precision="fp32" if precision == "fp16" else precision,
        targets=("ort-cpu",),
        weights="random",
    )
    if precision != "fp16":
        return f"bundle:{bundle.root}#ort-cpu", []
    path = folder / f"{model.name}.onnx"
    canonical = Graph.load(bundle.root / "graph/model.onnx")
    PassPipeline(lowering("tensorrt-rtx", "fp16")).run(canonical).save(path)
    bounds = [f"{metric}={bound}" for metric, bound in DEFAULTS["fp16"].items()]
    return f"ort:{path}", [part for bound in bounds for part in ("--tolerance", bound)]


def answer(family: str, precision: str, folder: Path) -> Answer:
    """Build one bundle and compare it."""
    model = folder / family
    model = model if model.is_dir() else write_model(family, folder)
    name, options = candidate(model, precision, folder)
    out = folder / "comparison.json"
    run(["compare", f"torch:random:{model}", name, "--out", str(out), "--quiet", *options])
    found = json.loads(out.read_text())["candidates"][0]
    alarms = [f"{item['output']}: {item['reason']}" for item in found["failures"]]
    divergence = found["divergence"]
    return Answer(
        family=family,
        precision=precision,
        relative=max(output["metrics"]["relative"] for output in found["outputs"]),
        alarms=(*alarms, *([divergence] if divergence else ())),
    )


def answers(families: Sequence[str], precisions: Sequence[str]) -> Iterator[Answer]:
    """All of them, printed as they are done."""
    with tempfile.TemporaryDirectory() as name:
        for family in families:
            for precision in precisions:
                one = answer(family, precision, Path(name))
                print(one, flush=True)
                yield one


def main() -> int:
    """Build, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=tuple(FAMILIES), choices=tuple(FAMILIES))
    parser.add_argument("--precisions", nargs="*", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the answers")
    arguments = parser.parse_args()
    done = list(answers(arguments.only, arguments.precisions))
    alarms = sum(bool(one.alarms) for one in done)
    print(f"{len(done)} good bundles, {alarms} false alarms")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(one) for one in done], indent=1) + "\n")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
