"""``/predict``: what the pipeline of a bundle's task answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...engines.text.task import TASKS
from .bodies import check_keys, kind_of, read_object
from .encoder import may_cut
from .faults import bad_request
from .models import ServedModel, ServedModels, client_of
from .replies import json_reply

Check = tuple[Callable[[Any], bool], str]

_LARGEST = 10_000


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value <= _LARGEST


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_COUNT: Check = (_is_count, f"an integer from 1 to {_LARGEST}")
_TEXT: Check = (lambda value: isinstance(value, str), "a string")
_FLAG: Check = (lambda value: isinstance(value, bool), "true or false")
_TEXTS: Check = (_is_texts, "a list of strings")

OPTIONS: Mapping[str, Mapping[str, Check]] = {
    "embedding": {"prompt_name": _TEXT},
    "feature-extraction": {},
    "sequence-classification": {
        "top_k": (lambda value: value is None or _is_count(value), "an integer >= 1, or null"),
        "function_to_apply": _TEXT,
    },
    "token-classification": {
        "aggregation_strategy": _TEXT,
        "ignore_labels": _TEXTS,
        "stride": _COUNT,
    },
    "question-answering": {
        "top_k": _COUNT,
        "doc_stride": _COUNT,
        "max_answer_len": _COUNT,
        "max_seq_len": _COUNT,
        "handle_impossible_answer": _FLAG,
        "align_to_words": _FLAG,
    },
    "fill-mask": {"top_k": _COUNT, "targets": _TEXTS},
}
"""Options of each task that ``parameters`` may hold: those of the runtimes in `engines.text`."""


class PredictionEndpoint:
    """``POST /predict``.

    Args:
        models: what is served.
        max_texts: of one request.
    """

    def __init__(self, models: ServedModels, max_texts: int) -> None:
        self._models = models
        self._max_texts = max_texts

    def routes(self) -> list[Route]:
        """The one."""
        return [Route("/predict", self.predict, methods=["POST"])]

    async def predict(self, request: Request) -> Response:
        """``inputs`` and ``parameters`` in, the answer of the pipeline out."""
        body = read_object(await request.body())
        check_keys(body, ("model", "inputs", "parameters", "truncate"))
        model = self._models.of_task(body.get("model"), TASKS)
        inputs = self._inputs(body.get("inputs"))
        options = _options(body.get("parameters", {}), model)
        cut = body.get("truncate", False)
        if not isinstance(cut, bool):
            raise bad_request(f"truncate: expected true or false, got {kind_of(cut)}")
        may_cut.set(cut)
        with model.admission.one():
            answer = await model.predict(inputs, options, client_of(request))
        return json_reply(plain(answer))

    def _inputs(self, value: Any) -> Any:
        if not isinstance(value, str | dict | list) or not value:
            raise bad_request(
                f"inputs: expected a text, an object, or a list of them, got {kind_of(value)}"
            )
        if isinstance(value, list) and len(value) > self._max_texts:
            raise bad_request(f"inputs: expected at most {self._max_texts}, got {len(value)}")
        return value


def _options(value: Any, model: ServedModel) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad_request(f"parameters: expected an object, got {kind_of(value)}")
    known = OPTIONS[model.task]
    check_keys(value, tuple(known), f"parameters of {model.task}")
    for name, given in value.items():
        is_good, expected = known[name]
        if not is_good(given):
            raise bad_request(f"parameters: {name}: expected {expected}, got {given!r:.40}")
    return value


def plain(answer: Any) -> Any:
    """Answers as JSON knows them."""
    if isinstance(answer, np.ndarray):
        return answer.tolist()
    if isinstance(answer, np.generic):
        return answer.item()
    if isinstance(answer, dict):
        return {key: plain(value) for key, value in answer.items()}
    return [plain(item) for item in answer] if isinstance(answer, list | tuple) else answer
