"""Loading models: from folders and from the hub, and everything that can be wrong with either, in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from basisbench.errors import BasisBenchError, TaskError
from basisbench.models.hub import commit_of
from basisbench.models.load import load_model
from basisbench.pairs.alignment import align
from basisbench.types import ModelSpec
from helpers.hub_replica import HubReplica
from helpers.loopback_hub import NOBODY, asking, serving

Change = Callable[[Path], object]


def ask(questions: list[tuple[str, str | None]]) -> list[Any]:
    """Load repositories: what came of each, or the line in which it was refused."""
    answers: list[Any] = []
    for repository, revision in questions:
        try:
            model = load_model(ModelSpec("asked", repository, "", revision=revision))
            answers.append([model.weights_hash, dict(model.sources), commit_of(repository, revision)])
        except BasisBenchError as error:
            answers.append(str(error))
    return answers


def test_messages_about_pairs_name_the_model_of_the_tokenizer(tiny_llama: ModelSpec) -> None:
    tokenizer = load_model(tiny_llama).tokenizer
    with pytest.raises(
        TaskError, match="'demo' has no usable evaluation pairs for the tokenizer of model 'tiny-llama' "
    ):
        align("demo", "1", [], tokenizer, "evaluation", 10)


@pytest.mark.slow
def test_a_repository_is_loaded_at_its_commit_and_every_refusal_is_one_line(
    tiny_llama: ModelSpec, tmp_path: Path
) -> None:
    """Through the real client: from a hub, then from its cache with no network, then with nothing cached."""
    hub, home = HubReplica(tmp_path / "hub"), HubReplica(tmp_path / "home")
    files = {path.name: path.read_bytes() for path in Path(tiny_llama.path).iterdir()}
    commit = hub.commit("org/tiny", files)
    hub.commit("org/gated", files)
    hub.commit("org/empty", {"README.md": b""})
    questions = [("org/tiny", None), ("org/tiny", "v9"), ("org/gated", None), ("org/none", None), ("org/empty", None)]
    with serving(hub, gated={"org/gated"}) as address, asking(home, address):
        whole, revision, gated, missing, empty, again = ask([*questions, ("org/tiny", commit)])
    assert whole == again == [load_model(tiny_llama).weights_hash, {"org/tiny": commit}, commit]
    assert revision == "model 'asked': org/tiny has no revision 'v9'; give a commit, tag or branch that it has"
    assert gated.startswith("model 'asked': org/gated is gated; accept its terms at https://huggingface.co/org/gated, ")
    assert missing.startswith("model 'asked': the hub has no repository org/none, or it is private; check the name")
    assert empty.startswith("model 'asked': org/empty lacks a file: ")
    assert not any("\n" in answer for answer in (revision, gated, missing, empty))

    for away in (home.in_use(), asking(home, NOBODY)):
        with away:
            cached, other, nothing = ask([("org/tiny", None), ("org/tiny", "v9"), ("org/none", None)])
        assert cached == whole
        assert other.startswith("model 'asked': revision 'v9' of org/tiny is not in the cache")
        assert other.endswith(f"cached: {commit}")
        assert nothing.startswith("model 'asked': org/none is not in the cache")
        assert "the hub cannot be reached" in nothing
        assert "hf download org/none" in nothing
        assert "\n" not in other + nothing


def weights(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def configuration(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def halve_mlps(content: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.bfloat16() if "mlp" in name else tensor for name, tensor in content.items()}


def mixed(folder: Path) -> None:
    weights(folder, halve_mlps)
    configuration(folder, dtype="bfloat16")


def without_a_layer(folder: Path) -> None:
    weights(folder, lambda content: {name: tensor for name, tensor in content.items() if "layers.1.mlp" not in name})


def masked(folder: Path) -> None:
    from transformers import AutoModelForMaskedLM, BertConfig

    (folder / "model.safetensors").unlink()
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=300
    )
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)


def translating(folder: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, T5Config

    (folder / "model.safetensors").unlink()
    config = T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=300)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def without_a_number(folder: Path) -> None:
    def damage(content: dict[str, Any]) -> dict[str, Any]:
        content["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
        return content

    weights(folder, damage)


class Harm:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm.done"),)


def pickled(folder: Path, content: object) -> None:
    import torch

    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")


def with_code_in_a_pickle(folder: Path) -> None:
    pickled(folder, {"lm_head.weight": Harm()})


def mixed_in_a_pickle(folder: Path) -> None:
    from safetensors.torch import load_file

    content = halve_mlps(load_file(folder / "model.safetensors"))
    configuration(folder, dtype="bfloat16")
    pickled(folder, {name: content[name] for name in sorted(content)})


DAMAGE: list[tuple[Change, str]] = [
    (lambda folder: (folder / "config.json").unlink(), "holds no config.json; expected a Hugging Face checkpoint"),
    (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON: "),
    (lambda folder: (folder / "config.json").write_text("{}"), "has no model_type"),
    (lambda folder: (folder / "config.json").write_text("[" * 100_000), "config.json is not JSON: "),
    (lambda folder: configuration(folder, model_type="nonesuch"), "not the configuration of a causal language model"),
    (lambda folder: configuration(folder, hidden_size=-1), "The hidden size (-1) is not a multiple of the number"),
    (lambda folder: configuration(folder, num_attention_heads=0), "not the configuration of a causal language model: "),
    (lambda folder: configuration(folder, hidden_act="nonesuch"), "nonesuch"),
    (
        lambda folder: configuration(
            folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}
        ),
        "its weights are quantised (bitsandbytes), which edits and gradients are not made for; give the checkpoint",
    ),
    (
        lambda folder: (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}'),
        "holds an adapter of org/base (adapter_config.json: LoRA or another), no model; merge it into its base with",
    ),
    (lambda folder: [path.unlink() for path in folder.glob("tokenizer*")], "no usable tokenizer in "),
    (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
    (cut, "cannot be loaded as a causal language model: "),
    (
        lambda folder: weights(folder, lambda content: content | {"lm_head.weight": content["lm_head.weight"][:7]}),
        "lm_head.weight in ",
    ),
    (lambda folder: configuration(folder, intermediate_size=23), " is of size (16, 24), and (16, 23) by its config"),
    (without_a_number, "1 of the 384 weights of model.layers.1.mlp.up_proj.weight in "),
    (with_code_in_a_pickle, "cannot be loaded as a causal language model: Weights only load failed"),
    (mixed_in_a_pickle, "types: float32 (lm_head.weight, ...), bfloat16 (model.layers.0.mlp.down_proj.weight, ...)"),
    (without_a_layer, "lacks 3 weights of a LlamaForCausalLM, the first of them model.layers.1.mlp.down_proj.weight"),
    (mixed, "types: float32 (lm_head.weight, ...), bfloat16 (model.layers.0.mlp.down_proj.weight, ...); choose"),
    (masked, "BertLMHeadModel is not causal"),
    (translating, "cannot be loaded as a causal language model: Unrecognized configuration class"),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGE)
def test_a_damaged_checkpoint_is_refused_in_one_line(
    tiny_llama: ModelSpec, tmp_path: Path, damage: Change, expected: str
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_llama.path, folder)
    damage(folder)
    with pytest.raises(BasisBenchError) as caught:
        load_model(replace(tiny_llama, path=str(folder)))
    message = str(caught.value)
    assert message.startswith("model 'tiny-llama': ")
    assert expected in message
    assert "\n" not in message
    assert not Path("harm.done").exists()


def test_tensors_in_a_pickle_are_a_model(tiny_llama: ModelSpec, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_llama.path, folder)
    pickled(folder, load_file(folder / "model.safetensors"))
    assert load_model(replace(tiny_llama, path=str(folder))).weights_hash == load_model(tiny_llama).weights_hash


def test_a_mixed_checkpoint_is_loaded_in_its_widest_type_or_the_one_that_is_asked_for(
    tiny_llama: ModelSpec, tmp_path: Path
) -> None:
    import torch

    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_llama.path, folder)
    weights(folder, halve_mlps)
    spec = replace(tiny_llama, path=str(folder))
    assert load_model(spec).dtype == torch.float32
    mixed(folder)
    assert load_model(spec, dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("gpu0", "device 'gpu0' cannot be used: Invalid device string"),
        ("cuda", "device 'cuda' cannot be used: "),
        ("meta", "device 'meta' holds no numbers"),
        ("auto", "device 'auto' spreads a model over GPUs, and this machine has none"),
    ],
)
def test_a_wrong_device_is_told_before_anything_is_loaded(tiny_llama: ModelSpec, device: str, expected: str) -> None:
    import torch

    if torch.cuda.is_available() and device in ("cuda", "auto"):
        pytest.skip("this machine has that device")
    with pytest.raises(BasisBenchError) as caught:
        load_model(replace(tiny_llama, path="/nowhere"), device=device)
    assert expected in str(caught.value)
    assert "devices here: cpu" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_type_is_refused(tiny_llama: ModelSpec) -> None:
    with pytest.raises(BasisBenchError, match="dtype 'float8' is not one of float32, bfloat16, float16"):
        load_model(tiny_llama, dtype="float8")


def test_a_tokenizer_with_more_words_than_the_model_is_told_where_one_is_used(tiny_llama: ModelSpec) -> None:
    """Published models have such words (Gemma 3's images), which no prompt uses."""
    model = load_model(tiny_llama)
    rows = len(model.tokenizer)
    assert model.tokens([[0, rows - 1]]).tolist() == [[0, rows - 1]]
    with pytest.raises(
        BasisBenchError, match=f"its tokenizer gives the id {rows}, but its embeddings have {rows} rows"
    ):
        model.tokens([[0, rows]])


def test_logits_that_are_no_numbers_are_told(tiny_llama: ModelSpec, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_llama.path, folder)
    weights(
        folder,
        lambda content: {
            name: 6e4 * tensor.sign() if "lm_head" in name else tensor for name, tensor in content.items()
        },
    )
    spec = replace(tiny_llama, path=str(folder))
    with pytest.raises(BasisBenchError, match="its logits are NaN or infinite in float16, though its weights are not"):
        load_model(spec, dtype="float16")
    assert load_model(spec).file is None


def test_a_repository_of_an_adapter_says_so(tmp_path: Path) -> None:
    hub = HubReplica(tmp_path / "home")
    hub.commit("org/adapter", {"adapter_config.json": b'{"base_model_name_or_path": "org/base"}'})
    hub.commit("org/nothing", {"README.md": b""})
    with hub.in_use():
        with pytest.raises(BasisBenchError, match="org/adapter holds an adapter of org/base "):
            load_model(ModelSpec("asked", "org/adapter", ""))
        with pytest.raises(BasisBenchError, match="org/nothing is not in the cache"):
            load_model(ModelSpec("asked", "org/nothing", ""))
