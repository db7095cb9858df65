"""The first stage: the model becomes a graph, a tokenizer and a task."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...engines.text.task import TASK_FILE, TaskSpec
from ...graph.tensors import TensorSpec
from ..cache.code import EXPORT, code_digest
from ..packages import EXPORTING, require
from ..progress import Journal
from .context import Context, versions
from .kept_graph import KeptGraph, graph_facts, keep_graph
from .product import Product

if TYPE_CHECKING:
    from ..exporting.export import TorchReference

TOKENIZER = "tokenizer.json"
PACKAGES = (
    "numpy", "onnx", "onnx-ir", "onnxscript", "safetensors", "tokenizers", "torch", "transformers",
)  # fmt: skip


@dataclass
class ExportedModel:
    """The product of the export.

    Attributes:
        product: graph, tokenizer and task.
        spec: what a text runtime must know.
        outputs: of the graph.
        reference: the PyTorch model while it is in memory; None when the export was cached.
    """

    product: Product
    spec: TaskSpec
    outputs: tuple[TensorSpec, ...]
    reference: TorchReference | None = field(default=None, repr=False)

    @property
    def graph(self) -> KeptGraph:
        """The graph as exported."""
        return KeptGraph(self.product)

    @property
    def tokenizer(self) -> Path:
        """tokenizer.json."""
        return self.product.path(TOKENIZER)

    def text_fields(self) -> dict[str, Any]:
        """What determines how text becomes tokens, for keys."""
        names = (TOKENIZER, TASK_FILE)
        return {name: self.product.files[name].sha256 for name in names}


def export_model(context: Context) -> ExportedModel:
    """Export the model, or find it exported; tokenizer and task go into the bundle."""
    source, task = context.source, context.request.task
    references: list[TorchReference] = []

    def make(folder: Path, journal: Journal) -> dict[str, Any]:
        require(EXPORTING, "building a bundle")
        # Here, because torch and transformers take seconds that a cached export must not.
        from ..exporting.export import export
        from ..quantization.evaluation import check_examples

        check_examples(context.request, source)
        exported = export(source, task)
        references.append(exported.reference)
        keep_graph(exported.graph, folder)
        (folder / TOKENIZER).write_bytes(exported.tokenizer)
        (folder / TASK_FILE).write_bytes(exported.task_spec.to_json().encode())
        journal.records += exported.graph.history
        for record in exported.graph.history:
            for refusal in record.refusals:
                journal.note(f"{refusal.rule}: {refusal.reason}")
        outputs = [
            {"name": spec.name, "dtype": spec.dtype, "dims": list(spec.dims)}
            for spec in exported.graph.outputs
        ]
        return {
            **graph_facts(exported.graph),
            "task": exported.task_spec.to_dict(),
            "outputs": outputs,
        }

    product = context.runner.run(context.key("export", export_fields(context)), "export", make)
    for name in (TOKENIZER, TASK_FILE):
        context.writer.add(name, product.path(name).read_bytes())
    outputs = product.facts["outputs"]
    return ExportedModel(
        product=product,
        spec=TaskSpec.from_dict(product.facts["task"]),
        outputs=tuple(TensorSpec(o["name"], o["dtype"], tuple(o["dims"])) for o in outputs),
        reference=references.pop() if references else None,
    )


def export_fields(context: Context) -> dict[str, Any]:
    """Everything that has a say in what the exporter writes."""
    return {
        "model": context.source.digest,
        "weights": context.source.weights,
        "task": context.request.task,
        "versions": versions(*PACKAGES),
        "code": code_digest(EXPORT),
    }
