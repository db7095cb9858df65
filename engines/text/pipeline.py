"""An open engine and its tokenizer to the callable of its task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ...graph.tensors import ShapeProfile
from ..base import Engine
from .batching import BUDGETS, GPU_BUDGET, BatchBudget, BatchLimits
from .embedding import Embedding
from .encoder import TextEncoder
from .feature_extraction import FeatureExtraction
from .fill_mask import FillMask
from .packed_engine import PackedEngine
from .question_answering import QuestionAnswering
from .runtime import TextRuntime
from .sequence_classification import SequenceClassification
from .task import Task, TaskSpec
from .token_classification import TokenClassification

RUNTIMES: Mapping[Task, type[TextRuntime]] = {
    "embedding": Embedding,
    "feature-extraction": FeatureExtraction,
    "sequence-classification": SequenceClassification,
    "token-classification": TokenClassification,
    "question-answering": QuestionAnswering,
    "fill-mask": FillMask,
}


def text_pipeline(
    engine: Engine,
    tokenizer_path: Path,
    task_spec: TaskSpec,
    *,
    profile: ShapeProfile | None = None,
    budget: BatchBudget | None = None,
) -> TextRuntime:
    """Make the runtime of a task.

    Args:
        engine: open; the runtime owns it from now on and closes it.
        tokenizer_path: tokenizer.json of the bundle.
        task_spec: task.json of the bundle.
        profile: the sizes the engine was built for; None when it takes any. Its axes are those of
            the engine's inputs [batch, sequence].
        budget: bounds of a batch; by default what suits the target.

    Returns:
        A callable of texts, with ``task``, ``engine`` and ``close()``; a context manager.

    Raises:
        BundleError: when tokenizer, task and engine do not fit together.
    """
    limits = BatchLimits.of(
        engine.inputs[0], profile, profiles=engine.profiles, buckets=engine.buckets
    )
    if isinstance(engine, PackedEngine) and budget is None:
        limits = replace(limits, planner=engine.groups)
    encoder = TextEncoder(tokenizer_path, task_spec, limits.max_sequence)
    chosen = BUDGETS.get(engine.target, GPU_BUDGET) if budget is None else budget
    return RUNTIMES[task_spec.task](engine, encoder, limits, chosen)
