"""The header of a GGUF file: its fields, and what its tensors are. It is read here, in a tenth of a second.

The reader of the package `gguf` keeps every word of the vocabulary as an array and takes seconds for a large one.

1. "GGUF", version, number of tensors, number of fields; then each field: name, type, value.
2. Each tensor: name, sizes, type, where its data begins after the header.
3. The data, from the next multiple of `general.alignment`.

File layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import os
import struct
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

from basisbench.errors import BasisBenchError


def read_header(owner: str, file: Path) -> dict[str, Any]:
    """Read the numbers and texts of a GGUF file's header.

    With them come "weights", how many it has of each type, and "rope factors", by which frequencies are divided.

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
    end = factors = number_of_factors = 0
    for _ in range(tensors):
        name = _text(content)
        (dimensions,) = _numbers(content, "I")
        number = math.prod(_numbers(content, f"{min(dimensions, 9)}Q"))
        kind, offset = _numbers(content, "IQ")
        weights[kind] += number
        if kind not in GGML_QUANT_SIZES:
            raise ValueError(f"it has weights of type {kind}, which there is not")
        block, stored = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        end = max(end, offset + number // block * stored)
        if name == "rope_freqs.weight":
            factors, number_of_factors = offset, number
    alignment = int(fields.get("general.alignment") or 32)
    start = -(-content.tell() // alignment) * alignment
    if size < start + end:
        raise ValueError("it ends early")
    content.seek(start + factors)
    return {**fields, "weights": weights, "rope factors": _numbers(content, f"{number_of_factors}f")}


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
