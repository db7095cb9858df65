"""The handler that people write: tokenise, ``session.run``, answer; one request at a time."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import fuselage


def main(bundle: Path, port: int) -> None:
    """Serve ``/embed`` with the bundle's own engine: the same session, no batches."""
    runtime = fuselage.pipeline(bundle)

    def answer(text: str) -> list[list[float]]:
        encoded = runtime.encoder.encode([text])
        feeds = runtime.encoder.feeds(encoded, encoded.sources)
        outputs = runtime.engine.run(feeds)
        return outputs[runtime.spec.outputs[0]].tolist()  # type: ignore[no-any-return]

    async def embed(request: Request) -> JSONResponse:
        body = await request.json()
        return JSONResponse(await run_in_threadpool(answer, body["inputs"]))

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({})

    app = Starlette(routes=[Route("/embed", embed, methods=["POST"]), Route("/health", health)])
    uvicorn.run(app, port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
