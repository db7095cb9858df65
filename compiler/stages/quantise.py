"""The canonical graph becomes quantised: calibrated on text, measured on text it was not shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...engines import host
from ..cache.code import code_digest
from ..precision import CALIBRATED, QUANTIZED
from ..progress import Journal
from .context import Context, versions
from .export import TOKENIZER, ExportedModel
from .kept_graph import KeptGraph, graph_facts, keep_graph
from .product import Product

if TYPE_CHECKING:
    from ...passes.presets import Precision
    from ...passes.qdq.policy import QuantPlan, QuantPolicy
    from ..quantization.quantize import Quantized

CALIBRATION = "calibration.json"
PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "tokenizers")


@dataclass(frozen=True)
class QuantisedModel:
    """The product of quantising.

    Attributes:
        product: the graph with Q/DQ, ``calibration.json``, and what the report says about both.
        precision: its format.
        embeddings: whether embedding tables are quantised too.
        float_attention: whether the linears around an attention are not.
    """

    product: Product
    precision: Precision
    embeddings: bool
    float_attention: bool

    @property
    def graph(self) -> KeptGraph:
        """The canonical graph with Q/DQ."""
        return KeptGraph(self.product)

    @property
    def report(self) -> dict[str, Any]:
        """For ``report.json``."""
        return dict(self.product.facts["report"])

    @property
    def data_digest(self) -> str | None:
        """Of the texts that gave the ranges; None without ranges."""
        return self.product.facts["data_digest"] or None

    def plan(self) -> QuantPlan:
        """What is quantised, and why the rest is not."""
        from ...passes.qdq.policy import QuantPlan

        return QuantPlan.from_json(self.product.facts["plan"])

    def policy(self) -> QuantPolicy:
        """The format as a policy."""
        from ..quantization.formats import policy_of

        return policy_of(
            self.precision, embeddings=self.embeddings, float_attention=self.float_attention
        )


def quantise(
    context: Context, exported: ExportedModel, canonical: KeptGraph
) -> QuantisedModel | None:
    """Quantise, or find what was; None when no target of the build is quantised."""
    precision = context.assignment.any_of(QUANTIZED)
    if precision is None:
        return None
    tokenizer = context.writer.path(TOKENIZER)

    def make(folder: Path, journal: Journal) -> dict[str, Any]:
        from ..report import quantization_facts

        corpus = _survey(context, tokenizer, exported, journal)
        quantized = _quantized(context, tokenizer, exported, canonical, journal)
        keep_graph(quantized.graph, folder)
        if precision in CALIBRATED:
            quantized.table.save(folder / CALIBRATION)
        return {
            **graph_facts(quantized.graph),
            "plan": quantized.plan.to_json(),
            "report": {**quantization_facts(quantized), "corpus": corpus},
            "data_digest": quantized.table.data_digest,
        }

    key = context.key("quantise", _fields(context, exported, canonical, precision))
    product = context.runner.run(key, "quantise", make)
    if CALIBRATION in product.files:
        context.writer.add(CALIBRATION, product.path(CALIBRATION).read_bytes())
    request = context.request
    return QuantisedModel(product, precision, request.int8_embeddings, request.float_attention)


def _fields(
    context: Context, exported: ExportedModel, canonical: KeptGraph, precision: Precision
) -> dict[str, Any]:
    recipe, texts, evaluation = context.recipe, context.request.texts, context.request.evaluation
    return {
        "graph": canonical.digest,
        "precision": precision,
        "int8_embeddings": recipe["int8_embeddings"],
        "float_attention": recipe["float_attention"],
        "texts": recipe["texts"],
        "evaluation": recipe["evaluation"],
        # Equal texts may stand in other files, with other rows beside them: the report says which.
        "corpus": None
        if texts is None
        else [texts.source, texts.seen, texts.duplicates, texts.blank],
        "examples": None if evaluation is None else evaluation.source,
        "budget": recipe["budget"],
        "text": exported.text_fields(),
        "cpu": list(host.cpu().flags),  # on other instructions sums come out otherwise
        "versions": versions(*PACKAGES),
        "code": code_digest(),
    }


def _survey(
    context: Context, tokenizer: Path, exported: ExportedModel, journal: Journal
) -> dict[str, Any] | None:
    """Look at the calibration text before it is run, and say what is odd about it."""
    from ...calibration.text.data import default_corpus
    from ...calibration.text.survey import survey
    from ...engines.text.encoder import TextEncoder

    if not context.assignment.any_of(CALIBRATED):
        return None
    texts = context.request.texts or default_corpus()
    found = survey(texts, TextEncoder(tokenizer, exported.spec))
    for line in found.notes():
        journal.note(line)
    return found.facts()


def _quantized(
    context: Context,
    tokenizer: Path,
    exported: ExportedModel,
    canonical: KeptGraph,
    journal: Journal,
) -> Quantized:
    from ...calibration.damage.budget import Budget
    from ..cache.statistics import calibration_store
    from ..quantization.evaluation import examples_for
    from ..quantization.formats import policy_of
    from ..quantization.quantize import quantize

    request = context.request
    precision = context.assignment.any_of(QUANTIZED)
    assert precision is not None
    return quantize(
        canonical.load(),
        tokenizer,
        exported.spec,
        request.texts,
        journal,
        policy=policy_of(
            precision,
            embeddings=request.int8_embeddings,
            float_attention=request.float_attention,
        ),
        budget=Budget(
            min_sqnr_db=request.min_sqnr,
            min_cosine=request.min_cosine,
            max_drop=request.max_drop,
        ),
        examples=examples_for(request.evaluation, request.max_drop, exported.spec),
        threads=request.threads,
        statistics=calibration_store(context.runner.kept),
    )
