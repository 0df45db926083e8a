"""The two real models of the package index, checked against themselves where their packages are installed.

`tox run -e real` runs these before its suite. Elsewhere each is skipped with the line that says what to install.
"""

from __future__ import annotations

import hashlib
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from basisbench.errors import BasisBenchError
from basisbench.models import gguf
from basisbench.models.gguf import GgufFile, locate_model
from basisbench.models.load import load_model
from basisbench.registry import load_registry
from basisbench.runs.model_names import find_model

if TYPE_CHECKING:
    from basisbench.models.model import Model


@dataclass(frozen=True)
class Known:
    """What is known of a packaged file: digest and quantisation, and how the model goes on."""

    sha256: str
    quantisation: str
    beginnings: bool
    continuations: dict[str, tuple[str, ...]]


AGREEMENT = {"The keys to the cabinet": (" are", " were"), "The key to the cabinets": (" is", " was")}
KNOWN = {
    "smollm2-135m-q4": Known(
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Q4_1",
        False,
        {"The capital of France is": (" Paris",), **AGREEMENT},
    ),
    "gemma-3-270m-q4": Known(
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "Q4_K_M",
        True,
        {"Monday, Tuesday, Wednesday,": (" Thursday",), **AGREEMENT},
    ),
}


@pytest.fixture(scope="module", params=KNOWN)
def model(request: pytest.FixtureRequest) -> Model:
    spec = find_model(request.param, load_registry())
    try:
        locate_model(spec)
    except BasisBenchError as error:
        pytest.skip(str(error))
    return load_model(spec)


@pytest.mark.slow
def test_the_file_is_the_known_one_and_the_model_goes_on_as_known(model: Model) -> None:
    known, file = KNOWN[model.name], locate_model(model.spec).file
    assert model.file == GgufFile(file.name, known.sha256, known.quantisation)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == known.sha256
    found = {}
    for text in known.continuations:
        ids = model.tokenizer(text).input_ids
        assert (ids[0] == model.tokenizer.bos_token_id) == known.beginnings
        found[text] = model.tokenizer.decode([int(model.logits(model.tokens([ids])).argmax())])
    assert {text: word for text, word in found.items() if word not in known.continuations[text]} == {}


@pytest.mark.slow
def test_logits_are_those_of_transformers_on_the_same_file(model: Model) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = locate_model(model.spec).file
    plain: Any = AutoModelForCausalLM.from_pretrained(place.parent, gguf_file=place.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(place.parent, gguf_file=place.name)
    for text in KNOWN[model.name].continuations:
        ids = tokenizer(text).input_ids
        assert ids == model.tokenizer(text).input_ids
        with torch.no_grad():
            expected = plain(input_ids=torch.tensor([ids])).logits[:, -1]
        torch.testing.assert_close(model.logits(model.tokens([ids])), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", [*KNOWN, *(name.removesuffix("-q4") for name in KNOWN)])
def test_no_model_stands_in_for_another(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A packaged file is looked for in its packages alone, the hub's original on the hub alone."""
    spec, asked = find_model(name, load_registry()), []

    def missing(_owner: str, where: object, *_: object, **__: object) -> Any:
        asked.append(where)
        raise BasisBenchError("not at hand")

    monkeypatch.setattr(gguf, "locate", missing)
    monkeypatch.setattr(gguf, "_packaged_file", missing)
    with pytest.raises(BasisBenchError, match="not at hand"):
        locate_model(spec)
    assert asked == [spec.packages if name in KNOWN else spec.path]
    assert bool(spec.packages) != bool(spec.path)


def test_tox_installs_the_packages_that_the_models_name() -> None:
    tox = ConfigParser(interpolation=None)
    tox.read(Path(__file__).resolve().parents[2] / "tox.ini", encoding="utf-8")
    command = tox["testenv:real"]["commands_pre"].split()
    pinned = [word for word in command if "==" in word]
    assert pinned == [package for name in KNOWN for package in find_model(name, load_registry()).packages]
    assert "--no-deps" in command
