from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .hub_server import COMMIT, serve

# The hub client reads HF_ENDPOINT and HF_HUB_OFFLINE when it is imported: a process each.
RESOLVE = """
import json, sys, time
from fuselage.errors import FuselageError
from fuselage.compiler.models.source import resolve_model
started = time.perf_counter()
try:
    source = resolve_model(sys.argv[1], **json.loads(sys.argv[2]))
    found = {"id": source.id, "revision": source.revision, "folder": str(source.folder),
             "weights": source.weights, "digest": source.digest}
except FuselageError as error:
    found = {"error": type(error).__name__, "message": str(error)}
heavy = sorted({"torch", "transformers"} & set(sys.modules))
print(json.dumps(found | {"heavy": heavy, "seconds": time.perf_counter() - started}))
"""


def resolve(name: str, home: Path, *, endpoint: str, offline: bool = False, **options: Any) -> Any:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = kept | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", RESOLVE, name, json.dumps(options)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_download_records_the_commit_and_a_second_time_asks_nothing(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = checkpoint()
    (folder / "pytorch_model.bin").write_bytes(b"a pickle that must not be fetched")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    with serve(folder) as hub:
        first = resolve("team/tiny", tmp_path / "home", endpoint=hub.endpoint)
        assert first["revision"] == COMMIT
        assert first["id"] == "team/tiny"
        assert first["heavy"] == []
        fetched = {request.rpartition("/")[2] for request in hub.requests if "GET" in request}
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= fetched
        assert "pytorch_model.bin" not in fetched
        assert (Path(first["folder"]) / "1_Pooling" / "config.json").is_file()

        asked = len(hub.requests)
        again = resolve("team/tiny", tmp_path / "home", endpoint=hub.endpoint)
        assert again["digest"] == first["digest"]
        assert len(hub.requests) == asked

        fresh = resolve("team/tiny", tmp_path / "home", endpoint=hub.endpoint, revision="main")
        assert fresh["revision"] == COMMIT
        assert len(hub.requests) > asked


def test_the_cache_serves_without_a_network(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    with serve(checkpoint()) as hub:
        endpoint = hub.endpoint
        online = resolve("team/tiny", tmp_path / "home", endpoint=endpoint)
    for offline in (True, False):
        found = resolve("team/tiny", tmp_path / "home", endpoint=endpoint, offline=offline)
        assert found["digest"] == online["digest"]
        assert found["revision"] == COMMIT


def test_random_weights_of_a_hub_id_fetch_no_weights(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    with serve(checkpoint()) as hub:
        found = resolve("team/tiny", tmp_path / "home", endpoint=hub.endpoint, weights="random")
        assert found["weights"] == "random"
        assert not any("safetensors" in request for request in hub.requests)
        whole = resolve("team/tiny", tmp_path / "home", endpoint=hub.endpoint)
    assert (Path(whole["folder"]) / "model.safetensors").is_file()
    assert whole["digest"] != found["digest"]


def test_without_a_network_three_ways_on_are_named(tmp_path: Path) -> None:
    closed = "http://127.0.0.1:9"
    for offline in (True, False):
        found = resolve("bert-base", tmp_path, endpoint=closed, offline=offline)
        assert found["error"] == "SourceError"
        message = found["message"]
        assert message.startswith("google-bert/bert-base-uncased: can neither be downloaded from")
        assert closed in message
        assert str(tmp_path) in message
        for way in ("give a local folder", "use the model `minilm`", "add `--weights random`"):
            assert way in message
        assert ("HF_HUB_OFFLINE is set" in message) is offline


def test_an_unknown_model_or_revision_is_named(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    with serve(checkpoint()) as hub:
        missing = resolve("team/other", tmp_path / "home", endpoint=hub.endpoint)
        assert missing["error"] == "SourceError"
        assert "no such public model there" in missing["message"]
        assert "use `--weights random` with an architecture known here" in missing["message"]
        revision = resolve("team/tiny", tmp_path / "home", endpoint=hub.endpoint, revision="v9")
        assert revision["error"] == "SourceError"
        assert "has no revision 'v9'" in revision["message"]


def test_a_model_without_safetensors_says_how_to_convert(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = checkpoint()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with serve(folder) as hub:
        found = resolve("team/tiny", tmp_path / "home", endpoint=hub.endpoint)
    assert found["error"] == "SourceError"
    assert found["message"].startswith(f"team/tiny at {COMMIT}: expected weights as safetensors")
    assert "convert the model once with save_pretrained" in found["message"]
