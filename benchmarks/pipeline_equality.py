"""Every text pipeline against transformers and sentence-transformers, input by input.

    python benchmarks/pipeline_equality.py [--inputs 200] [--family NAME ...] [--task NAME ...]

Random float32 models of four families, with tokenizers of four kinds (WordPiece, byte-level BPE,
SentencePiece's Unigram), are built into bundles and answer texts full of emoji, combining marks,
scripts, blanks and very long words, some of them beyond the limit. An answer is equal when all of
it but the scores is the same and no score is more than 1e-4 away; vectors are scores.
"""

from __future__ import annotations

import argparse
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from equality import references
from equality.models import FAMILIES, LABELS, inputs, save_model

import fuselage

LIMIT = 1e-4
STRATEGIES = ("none", "simple", "first", "average", "max")

Cell = tuple[str, list[Any], list[Any]]
"""What was asked, our answers and theirs."""


def embedding(open_model: Callable[..., Any], texts: list[str]) -> Iterator[Cell]:
    """Mean pooling."""
    runtime, folder = open_model("", "embedding")
    yield "vectors", list(runtime(texts)), references.embeddings(folder, texts)


def rerank(open_model: Callable[..., Any], texts: list[str]) -> Iterator[Cell]:
    """A cross-encoder of one label, the best 5 of 12 passages a query."""
    runtime, folder = open_model("ForSequenceClassification", num_labels=1)
    passages = [
        [texts[(at * 7 + step) % len(texts)] for step in range(12)] for at in range(len(texts))
    ]
    ours = [
        runtime.rank(query, some, top_k=5, return_documents=True)
        for query, some in zip(texts, passages, strict=True)
    ]
    yield "rank", ours, references.ranks(folder, texts, passages)


def sequence_classification(open_model: Callable[..., Any], texts: list[str]) -> Iterator[Cell]:
    """Texts and pairs, all labels."""
    names = dict(enumerate(LABELS))
    runtime, folder = open_model("ForSequenceClassification", id2label=names)
    pairs = [{"text": text, "text_pair": texts[-at]} for at, text in enumerate(texts)]
    options = {"top_k": None, "truncation": True}
    theirs = references.pipeline("text-classification", folder, texts, **options)
    yield "texts", runtime(texts, top_k=None), theirs
    theirs = references.pipeline("text-classification", folder, pairs, **options)
    yield "pairs", runtime(pairs, top_k=None), theirs


def token_classification(open_model: Callable[..., Any], texts: list[str]) -> Iterator[Cell]:
    """Every strategy, and windows over long texts."""
    runtime, folder = open_model("ForTokenClassification", id2label=dict(enumerate(LABELS)))
    for strategy in STRATEGIES:
        options: dict[str, Any] = {"aggregation_strategy": strategy}
        theirs = references.pipeline("token-classification", folder, texts, **options)
        yield strategy, runtime(texts, **options), theirs
    options = {"aggregation_strategy": "first", "stride": 9}
    theirs = references.pipeline("token-classification", folder, texts, **options)
    yield "first, windows", runtime(texts, **options), theirs


def question_answering(open_model: Callable[..., Any], texts: list[str]) -> Iterator[Cell]:
    """Contexts beyond a window, with and without an answer that is none."""
    runtime, folder = open_model("ForQuestionAnswering")
    reference = references.QuestionAnswering(folder)
    items = [(f"who is {at}?", f"{text} {texts[-at]}") for at, text in enumerate(texts)]
    for name, impossible in (("top 3", False), ("top 3, or none", True)):
        ours = runtime(items, top_k=3, handle_impossible_answer=impossible)
        yield name, ours, [reference(*item, top_k=3, impossible=impossible) for item in items]


def fill_mask(open_model: Callable[..., Any], texts: list[str]) -> Iterator[Cell]:
    """One mask and several."""
    runtime, folder = open_model("ForMaskedLM")
    mask = runtime.spec.mask_token
    one = [f"{mask} {text}" if at % 2 else f"{text[:30]} {mask}!" for at, text in enumerate(texts)]
    two = [f"{mask}{text[:20]} {mask}" for text in texts]
    options = {"tokenizer_kwargs": {"truncation": True}}
    yield "one mask", runtime(one), references.pipeline("fill-mask", folder, one, **options)
    yield "two masks", runtime(two), references.pipeline("fill-mask", folder, two, **options)


TASKS = {
    "embedding": embedding,
    "rerank": rerank,
    "sequence-classification": sequence_classification,
    "token-classification": token_classification,
    "question-answering": question_answering,
    "fill-mask": fill_mask,
}


def difference(ours: Any, theirs: Any) -> float:
    """The largest difference of two scores; infinite when anything else differs."""
    if isinstance(ours, np.ndarray):
        return float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else np.inf
    if isinstance(ours, list):
        if not isinstance(theirs, list) or len(ours) != len(theirs):
            return np.inf
        return max(map(difference, ours, theirs), default=0.0)
    if {**ours, "score": 0} != {**theirs, "score": 0}:
        return np.inf
    return abs(ours["score"] - float(theirs["score"]))


def compare(family: str, task: str, texts: list[str], shown: int) -> int:
    """Print the rows of a task; returns how many answers differ."""
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        opened: list[Any] = []

        def open_model(kind: str, task: str = "auto", **settings: Any) -> Any:
            folder = save_model(Path(name) / "model", family, kind, **settings)
            bundle = fuselage.build(
                str(folder),
                out=Path(name) / "bundle",
                task=task,
                precision="fp32",
                targets=("ort-cpu",),
                cache=False,
            )
            opened.append(fuselage.pipeline(bundle.root, target="ort-cpu"))
            return opened[0], folder

        for asked, ours, theirs in TASKS[task](open_model, texts):
            found = [difference(mine, other) for mine, other in zip(ours, theirs, strict=True)]
            equal = [value for value in found if value <= LIMIT]
            worst = f"{max(equal, default=0.0):.1e}"
            print(f"{family:<12} {task:<24} {asked:<15} {len(found):>6} {len(equal):>6} {worst:>9}")
            wrong += len(found) - len(equal)
            for at in [at for at, value in enumerate(found) if value > LIMIT][:shown]:
                print(f"  input {at}: {texts[at]!r}\n  ours   {ours[at]}\n  theirs {theirs[at]}")
        opened[0].close()
    return wrong


def main() -> int:
    """Print the table; 1 when an answer differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=200)
    parser.add_argument("--family", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--task", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=2, help="Differences shown a row.")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.disable_progress_bar()
    print(f"{'family':<12} {'task':<24} {'asked':<15} {'inputs':>6} {'equal':>6} {'worst |d|':>9}")
    texts = inputs(arguments.inputs, arguments.seed)
    wrong = sum(
        compare(family, task, texts, arguments.show)
        for family in arguments.family
        for task in arguments.task
    )
    print(f"{wrong} answers differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
