"""Loading a model installs nothing, runs no code of the model's folder, and reads nothing from standard input."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from basisbench.errors import BasisBenchError
from basisbench.models.hub import locate
from basisbench.models.load import load_model
from basisbench.models.shape import read_shape
from basisbench.types import ModelSpec


class Closed:
    """Stands for standard input; whoever reads it fails the test."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"standard input was asked for {name}")


@pytest.fixture(autouse=True)
def _nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put installers on PATH that leave a note, note every process that is started, and close standard input."""
    notes = tmp_path / "notes"
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    for name in ("pip", "pip3", "uv", "conda"):
        (stand_ins / name).write_text(f"#!/bin/sh\necho {name} $@ >> {notes}\nexit 1\n")
        (stand_ins / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(stand_ins), prepend=":")
    started: list[Any] = []
    original = subprocess.Popen.__init__

    def start(self: Any, command: Any, *rest: Any, **options: Any) -> None:
        started.append(command)
        original(self, command, *rest, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", start)
    monkeypatch.setattr("sys.stdin", Closed())
    yield
    assert not notes.exists(), notes.read_text()
    assert not [command for command in started if "install" in command]


def gemma_3(folder: Path, tokenizer: Any, *, published: bool) -> Any:
    """Save a tiny multimodal Gemma 3, with the names of weights that are published or that are saved today."""
    from safetensors.torch import load_file, save_file
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    torch.manual_seed(0)
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8,
    }  # fmt: skip
    seeing = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    body = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=seeing, mm_tokens_per_image=4, dtype="float32")
    ).eval()
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    body.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if published:
        file = folder / "model.safetensors"
        names = {"model.language_model.": "language_model.model.", "model.": ""}
        content = {}
        for name, tensor in load_file(file).items():
            old = next((old for old in names if name.startswith(old)), "")
            content[names.get(old, "") + name.removeprefix(old)] = tensor
        save_file(content, file, metadata={"format": "pt"})
        assert "language_model.model.layers.0.mlp.up_proj.weight" in content
        assert any(name.startswith("vision_tower.") for name in content)
    return body


@pytest.mark.parametrize("published", [True, False])
def test_the_text_model_of_a_multimodal_gemma_is_loaded(tmp_path: Path, tiny_tokenizer: Any, published: bool) -> None:
    folder = tmp_path / "gemma"
    body = gemma_3(folder, tiny_tokenizer, published=published)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Gemma3ForConditionalGeneration"]
    model = load_model(ModelSpec("gemma", str(folder), ""))
    assert (model.architecture, model.verified, model.dtype) == ("Gemma3ForCausalLM", True, torch.float32)
    prompts = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        logits = body(input_ids=prompts).logits[:, -1]
    torch.testing.assert_close(model.logits(prompts), logits, rtol=1e-4, atol=1e-4)
    assert read_shape(locate("test", str(folder))).parameters == sum(each.numel() for each in model.body.parameters())


def test_a_configuration_cannot_choose_who_wraps_the_model(tiny_llama: ModelSpec, tmp_path: Path) -> None:
    """TransformerLens goes by names that a configuration may claim; for a multimodal one it would install."""
    folder = tmp_path / "claims"
    shutil.copytree(tiny_llama.path, folder)
    claimed = "LlavaOnevisionForConditionalGeneration"
    configure(folder, architectures=[claimed], original_architecture=claimed, _attn_implementation="org/kernel")
    model = load_model(ModelSpec("claims", str(folder), ""))
    assert (model.architecture, model.weights_hash) == ("LlamaForCausalLM", load_model(tiny_llama).weights_hash)


def test_a_multimodal_model_without_a_text_model_is_refused(tmp_path: Path, tiny_tokenizer: Any) -> None:
    from transformers import Qwen2_5_VLConfig

    Qwen2_5_VLConfig(text_config={"vocab_size": 31, "hidden_size": 16}).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BasisBenchError) as caught:
        load_model(ModelSpec("seeing", str(tmp_path), ""))
    assert str(caught.value).startswith("model 'seeing': ")
    assert "\n" not in str(caught.value)


def configure(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.mark.parametrize("model_type", ["own", "llama"])
def test_code_in_a_folder_is_never_run(tiny_llama: ModelSpec, tmp_path: Path, model_type: str) -> None:
    """With an unknown model_type transformers asks on standard input; with a known one it takes its own class."""
    folder, marker = tmp_path / "code", tmp_path / "it-ran"
    shutil.copytree(tiny_llama.path, folder)
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    named = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel", "AutoModel": "own.OwnModel"}
    configure(folder, model_type=model_type, auto_map=named)
    file = folder / "tokenizer_config.json"
    own = {"auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
    file.write_text(json.dumps({**json.loads(file.read_text()), **own}))
    spec = replace(tiny_llama, path=str(folder))
    if model_type == "llama":
        assert type(load_model(spec).body).__name__ == "LlamaForCausalLM"
        read_shape(locate("test", str(folder)))
    else:
        with pytest.raises(BasisBenchError, match=r"its architecture is code in .* \(auto_map\), which is never run"):
            load_model(spec)
        with pytest.raises(BasisBenchError, match="auto_map"):
            read_shape(locate("test", str(folder)))
    assert not marker.exists()
