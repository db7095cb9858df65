"""The files of a checkpoint folder: which ones matter, whether they are whole, their digest.

Nothing here imports torch or transformers: an unchanged model must be recognised in a blink.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ...errors import SourceError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
)
"""Any one of these makes a tokenizer."""

DESCRIPTION_PATTERNS = (
    CONFIG_FILE,
    *TOKENIZER_FILES,
    "merges.txt",
    "added_tokens.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "modules.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "2_Normalize/config.json",
)
"""Everything but the weights that has a say in the engine."""

WEIGHT_PATTERNS = (WEIGHTS_FILE, WEIGHTS_INDEX, "model-*-of-*.safetensors")

_CHUNK_BYTES = 32 << 20
_DTYPE_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8} | {
    f"{kind}{bits}": bits for kind in ("F", "I", "U") for bits in (16, 32, 64)
}
_DTYPE_BITS["BF16"] = 16


def read_json_object(path: Path) -> dict[str, Any]:
    """Content of a JSON file that must hold an object.

    Raises:
        SourceError: when the file cannot be read, is no JSON, or holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise SourceError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        SourceError: when the file cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{path}: expected a readable JSON file, got: {error}; copy or download it again"
        ) from error


def check_folder(folder: Path, *, with_weights: bool) -> None:
    """Check that a folder holds a model that can be loaded without unpickling anything.

    Args:
        folder: an existing folder.
        with_weights: False when only the architecture is wanted.

    Raises:
        SourceError: naming what was found, what was expected, and what to do.
    """
    found = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    if CONFIG_FILE not in found:
        raise SourceError(
            f"{folder}: expected a model folder with {CONFIG_FILE} and {WEIGHTS_FILE}, "
            f"found {_listing(found)}; save one with model.save_pretrained(folder) and "
            "tokenizer.save_pretrained(folder)"
        )
    if not with_weights:
        return
    for file in weight_files(folder):
        check_safetensors(file)
    if not has_tokenizer(folder):
        raise SourceError(
            f"{folder}: expected a tokenizer (one of {', '.join(TOKENIZER_FILES)}), "
            f"found {_listing(found)}; save it with tokenizer.save_pretrained(folder)"
        )


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer of any kind."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a folder, in order.

    Raises:
        SourceError: when there are none, or one that the index names is missing.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return (folder / WEIGHTS_FILE,)
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        raise SourceError(_no_weights(folder))
    shards = read_json_object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise SourceError(f"{index}: expected a filled object 'weight_map', got {shards!r}")
    files = tuple(folder / name for name in sorted(set(map(str, shards.values()))))
    for file in files:
        if file.parent != folder or not file.is_file():
            raise SourceError(
                f"{index}: names the weights file {file.name!r}, which is not in {folder}; "
                "copy or download the model again"
            )
    return files


def check_safetensors(path: Path) -> None:
    """Check header and length of a safetensors file without reading its tensors.

    Raises:
        SourceError: when the file is no safetensors file, or shorter or longer than it says.
    Source: https://huggingface.co/docs/safetensors/index#format
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= size - 8:
            raise SourceError(
                f"{path}: expected a safetensors file (8 bytes of header length, a JSON header, "
                f"the tensors), got {size:,} bytes that announce a header of {length:,}; "
                f"{_AGAIN}"
            )
        header = file.read(length)
    try:
        tensors = json.loads(header)
        spans = [_span(name, entry) for name, entry in tensors.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"{path}: the safetensors header is damaged ({error}); {_AGAIN}"
        ) from error
    expected = 8 + length + max((end for _, end in spans), default=0)
    if size != expected:
        raise SourceError(
            f"{path}: expected {expected:,} bytes by its safetensors header, got {size:,}; "
            f"the file is {'truncated' if size < expected else 'damaged'}, {_AGAIN}"
        )


def digest_files(folder: Path, *, with_weights: bool) -> str:
    """sha256 over names and contents of the files that have a say in the engine.

    Every file is cut into chunks of 32 MiB that are hashed by threads, because one thread needs
    1.2 s per GiB; the digest of a file is the sha256 over the digests of its chunks.
    """
    patterns = DESCRIPTION_PATTERNS + (WEIGHT_PATTERNS if with_weights else ())
    files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    chunks = [
        (file, offset)
        for file in files
        for offset in range(0, max(file.stat().st_size, 1), _CHUNK_BYTES)
    ]
    sha = hashlib.sha256()
    with ThreadPoolExecutor() as pool:
        for (file, offset), digest in zip(chunks, pool.map(_chunk_digest, chunks), strict=True):
            sha.update(f"{file.relative_to(folder).as_posix()}@{offset}".encode())
            sha.update(digest)
    return sha.hexdigest()


def digest_values(*values: str | bytes | Mapping[str, Any]) -> str:
    """sha256 over texts, bytes and JSON objects, in this order."""
    sha = hashlib.sha256()
    for value in values:
        if isinstance(value, Mapping):
            value = json.dumps(value, sort_keys=True)
        data = value.encode() if isinstance(value, str) else value
        sha.update(len(data).to_bytes(8, "little") + data)
    return sha.hexdigest()


_AGAIN = "copy or download it again"


def _chunk_digest(chunk: tuple[Path, int]) -> bytes:
    path, offset = chunk
    with path.open("rb") as file:
        file.seek(offset)
        return hashlib.sha256(file.read(_CHUNK_BYTES)).digest()


def _span(name: str, entry: Mapping[str, Any]) -> tuple[int, int]:
    start, end = entry["data_offsets"]
    count = 1
    for size in entry["shape"]:
        count *= size
    bits = _DTYPE_BITS.get(entry["dtype"])
    if not 0 <= start <= end or (bits is not None and end - start != count * bits // 8):
        raise ValueError(f"tensor {name!r} {entry} does not fit its offsets")
    return start, end


def _no_weights(folder: Path) -> str:
    found = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    pickles = [name for name in found if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    advice = "give a folder that was saved with model.save_pretrained(folder)"
    if pickles:
        advice = (
            f"{pickles[0]} is a pickle, which can run code when it is read, and is never loaded; "
            "where you trust it, convert it once: AutoModel.from_pretrained(folder)"
            ".save_pretrained(folder) with the class of your task"
        )
    return (
        f"{folder}: expected weights as {WEIGHTS_FILE} (or {WEIGHTS_INDEX} with its parts), "
        f"found {_listing(found)}; {advice}"
    )


def _listing(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(names[:12]) or "nothing"
    return shown + (f" and {len(names) - 12} more" if len(names) > 12 else "")
