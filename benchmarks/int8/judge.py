"""How good a quantized file is: one judge for all, a process for each file.

    PYTHONPATH=benchmarks python -m int8.judge REQUEST

REQUEST is a JSON object: ``model`` (ONNX file), ``pairs`` (npz: the token rows of worker.py, the
indices ``left`` and ``right``, and ``scores``) and ``reference`` (npz with what the float model
answered; written when it is not there). The last line on stdout is a JSON object.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from scipy.stats import spearmanr

from .worker import by_length, token_rows

THREADS = 2
EMBEDDING = "sentence_embedding"
_EVERY = 4
"""Every so many-th text is compared in its hidden states."""

_NORMS = ("LayerNormalization", "SkipLayerNormalization")

Run = Callable[[np.ndarray], np.ndarray]
"""Token ids ``[texts, length]`` -> one output."""


def spearman(left: np.ndarray, right: np.ndarray, scores: np.ndarray) -> float:
    """Spearman x100 of the cosines of two ``[pairs, dimension]`` with the scores."""
    return 100 * float(spearmanr(cosines(left, right), scores).statistic)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosine of each row with the row of the other."""
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray((left * right).sum(axis=1) / np.maximum(norms, 1e-12))


def sqnr_db(reference: np.ndarray, got: np.ndarray) -> float:
    """``10 log10(sum ref^2 / sum (ref - got)^2)`` in decibel."""
    wanted, noise = reference.astype(np.float64), reference.astype(np.float64) - got
    return float(10 * np.log10(np.square(wanted).sum() / max(np.square(noise).sum(), 1e-30)))


def hidden_state(graph: ir.Graph) -> ir.Value:
    """What the pooling reads: the output of the last norm, behind Q/DQ where a tool put them there.

    Raises:
        ValueError: when no norm leads to the embedding.
    """
    seen, queue = set(), [value for value in graph.outputs if value.name == EMBEDDING]
    while queue:
        value = queue.pop(0)
        node = _producer(value)
        if node is None or value in seen:
            continue
        seen.add(value)
        if node.op_type in _NORMS:
            return value
        queue += [read for read in node.inputs if read is not None]
    raise ValueError("no LayerNormalization leads to the sentence embedding")


def _producer(value: ir.Value) -> ir.Node | None:
    """The node that computes a value; Q/DQ are looked through."""
    node = value.producer()
    while node is not None and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        source = node.inputs[0]
        node = None if source is None else source.producer()
    return node


def facts(path: Path) -> dict[str, Any]:
    """Quantizing nodes and bytes of a file and its weights."""
    model = ir.load(path)
    kinds = Counter(node.op_type for node in model.graph)
    stored = {value.const_value for value in model.graph.initializers.values()}
    files = {Path(t.path) for t in stored if isinstance(t, ir.ExternalTensor)}
    return {
        "quantize": kinds["QuantizeLinear"],
        "dequantize": kinds["DequantizeLinear"],
        "dynamic": kinds["DynamicQuantizeLinear"],
        "megabytes": sum(file.stat().st_size for file in {path, *files}) / 1e6,
    }


def opened(path: Path, output: str) -> Run:
    """A session with all optimisations on."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(ids: np.ndarray) -> np.ndarray:
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        inputs = {spec.name: feeds[spec.name] for spec in session.get_inputs()}
        return np.asarray(session.run([output], inputs)[0])

    return run


def embeddings(run: Run, rows: list[np.ndarray]) -> np.ndarray:
    """``[texts, dimension]``, in the order of the rows."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))  # as by_length batches
    answers = np.concatenate([run(ids) for ids in by_length(rows)])
    return answers[np.argsort(order, kind="stable")]


def hidden(path: Path, rows: list[np.ndarray]) -> np.ndarray:
    """Hidden states of all tokens, ``[tokens, channels]``; no batch is padded."""
    model = ir.load(path)
    value = hidden_state(model.graph)
    if value not in model.graph.outputs:
        value.type = ir.TensorType(ir.DataType.FLOAT)
        model.graph.outputs.append(value)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model.onnx"
        ir.save(model, copy, external_data="model.weights")
        run = opened(copy, str(value.name))
        states = [run(ids) for ids in by_length(rows)]
    return np.concatenate([batch.reshape(-1, batch.shape[-1]) for batch in states])


def judge(request: Mapping[str, Any]) -> dict[str, Any]:
    """All figures of one file."""
    model, reference = Path(request["model"]), Path(request["reference"])
    rows = token_rows(Path(request["pairs"]))
    vectors = embeddings(opened(model, EMBEDDING), rows)
    states = hidden(model, rows[::_EVERY])
    if not reference.exists():
        np.savez(reference, vectors=vectors, states=states)
    with np.load(request["pairs"]) as pairs, np.load(reference) as wanted:
        left, right = vectors[pairs["left"]], vectors[pairs["right"]]
        cosine = cosines(vectors, wanted["vectors"])
        return {
            **facts(model),
            "spearman": spearman(left, right, pairs["scores"]),
            "cosine_mean": float(cosine.mean()),
            "cosine_min": float(cosine.min()),
            "sqnr_db": sqnr_db(wanted["states"], states),
        }


def main() -> None:
    """Judge the request in the first argument."""
    try:
        result = judge(json.loads(sys.argv[1]))
    except Exception as error:  # each ONNX Runtime status is its own subclass of Exception
        result = {"invalid": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    print("\n" + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
