"""What a user may call a model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from basisbench.errors import BasisBenchError
from basisbench.registry import load_registry
from basisbench.runs.model_names import find_model, find_models
from basisbench.runs.run import Request, plan_request
from basisbench.runs.runner import RunOptions
from basisbench.types import ModelSpec

KNOWN = {
    "gpt2-small": "openai-community/gpt2",
    "pythia-70m": "EleutherAI/pythia-70m-deduped",
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "gemma-3-270m": "google/gemma-3-270m",
    "gemma-2-2b": "google/gemma-2-2b",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B",
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B",
}
CONFIGURATIONS = {  # as published; whatever is not here is transformers' default for that architecture
    "gpt2-small": ("gpt2", {}),
    "pythia-70m": ("gpt_neox", {
        "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 8,
        "vocab_size": 50_304, "tie_word_embeddings": False,
    }),
    "smollm2-135m": ("llama", {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49_152, "tie_word_embeddings": True,
    }),
    "gemma-3-270m": ("gemma3_text", {
        "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262_144,
    }),
    "gemma-2-2b": ("gemma2", {
        "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256_000,
    }),
    "qwen3-0.6b": ("qwen3", {
        "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936, "tie_word_embeddings": True,
    }),
    "llama-3.1-8b": ("llama", {
        "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128_256, "tie_word_embeddings": False,
    }),
    "llama-3.2-1b": ("llama", {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128_256, "tie_word_embeddings": True,
    }),
}  # fmt: skip


def test_well_known_models_have_short_names() -> None:
    registry = load_registry()
    for name, repository in KNOWN.items():
        assert find_model(name, registry).path == repository
        assert find_model(repository, registry).name == name, "one model, one name"
        pinned = find_model(f"{name}@abc123", registry)
        assert (pinned.name, pinned.path, pinned.revision) == (f"{name}@abc123", repository, "abc123")


@pytest.mark.parametrize("name", KNOWN)
def test_shapes_are_those_of_the_published_configurations(name: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    from basisbench.models.hub import locate
    from basisbench.models.shape import read_shape

    kind, values = CONFIGURATIONS[name]
    AutoConfig.for_model(kind, **values).save_pretrained(tmp_path)
    found = read_shape(locate("test", str(tmp_path)))
    known = find_model(name, load_registry()).shape
    assert known is not None
    for field in ("layers", "width", "mlp_width", "vocabulary", "parameters"):
        assert getattr(found, field) == getattr(known, field), field


def test_any_repository_and_any_folder_is_a_model(tiny_llama: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = load_registry()
    spec = find_model("org/some-model", registry)
    assert (spec.name, spec.path, spec.revision) == ("org/some-model", "org/some-model", None)
    spec = find_model("org/some-model@refs/pr/1", registry)
    assert (spec.name, spec.path, spec.revision) == ("org/some-model@refs/pr/1", "org/some-model", "refs/pr/1")
    folder = Path(tiny_llama.path)
    for text in (str(folder), f"{folder}/"):
        assert find_model(text, registry) == ModelSpec(folder.name, str(folder), f"checkpoint in {folder}")
    monkeypatch.chdir(folder.parent)
    assert find_model(f"./{folder.name}", registry).path == find_model(folder.name, registry).path == str(folder)


def test_a_folder_or_file_may_have_any_name(tiny_llama: ModelSpec, tmp_path: Path) -> None:
    """A name that a listed model has is refused; another one is given in front, or is that of the repository."""
    registry = load_registry()
    snapshot = tmp_path / "hub" / "models--org--some-model" / "snapshots" / "0123abc"
    gemma = tmp_path / "hub" / "models--google--gemma-3-270m" / "snapshots" / "0123abc"
    for folder in (tmp_path / "gemma-3-270m", tmp_path / "a=b", snapshot, gemma):
        folder.mkdir(parents=True)
        shutil.copy(Path(tiny_llama.path) / "config.json", folder)
    taken = tmp_path / "gemma-3-270m"
    with pytest.raises(BasisBenchError, match=f"give this one another name: NAME={taken}"):
        find_model(str(taken), registry)
    named = find_model(f"my-gemma={taken}", registry)
    assert (named.name, named.path) == ("my-gemma", str(taken))
    assert find_model("mine=openai-community/gpt2@main", registry).revision == "main"
    assert find_model(str(tmp_path / "a=b"), registry).name == "a=b"
    assert find_model(str(snapshot), registry) == ModelSpec(
        "org/some-model", str(snapshot), f"checkpoint in {snapshot}"
    )
    assert find_model(str(gemma), registry).name == "gemma-3-270m"
    (snapshot / "blob").write_bytes(b"")
    (snapshot / "model.gguf").symlink_to("blob")
    cached = find_model(str(snapshot / "model.gguf"), registry)
    assert (cached.name, cached.path, cached.gguf) == ("org/some-model:model.gguf", str(snapshot), "model.gguf")
    (taken / "own.gguf").write_bytes(b"")
    assert find_model(str(taken / "own.gguf"), registry).name == "own"
    assert find_model("org/model@v1:Q4/own.gguf", registry).gguf == "Q4/own.gguf"
    (taken / "config.json").unlink()
    with pytest.raises(BasisBenchError, match=r"holds no config.json \(but own.gguf: give that file\)"):
        find_model(str(taken), registry)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2-smal", "no model named 'gpt2-smal'; did you mean gpt2-small"),
        ("gpt2", "no model named 'gpt2'; did you mean gpt2-small"),
        ("a/b/c", "or give a repository ORG/NAME of the Hugging Face hub, or a folder"),
        ("org/model@", "expected a commit, tag or branch after '@', found ''"),
        ("./nowhere", "is not there; expected a Hugging Face checkpoint folder or a GGUF file"),
        ("./nowhere.gguf", "is not there; expected a Hugging Face checkpoint folder or a GGUF file"),
        ("org/model:model.bin", "expected ORG/NAME:FILE.gguf, a GGUF file of a repository"),
        ("gpt2-small:f.gguf", "expected ORG/NAME:FILE.gguf, a GGUF file of a repository"),
        ("smollm2-135m-q4@main", "'smollm2-135m-q4' comes with the package index and has no revisions"),
        ("gpt2-small=org/model", "a registered model is named 'gpt2-small' already; choose another name"),
        ("mine=", "no model named ''"),
        ("gpt2\n", "model 'gpt2\\n': expected a name or a path of printable characters"),
        ("~no-such-user/model", "neither a name nor a path that can be looked up: Could not determine home directory"),
        ("./" + 300 * "a", "neither a name nor a path that can be looked up: [Errno "),
        ("a b=org/model", "no model named 'a b=org/model'"),
        ("/", "holds no config.json"),
        ("", "no model named ''"),
    ],
)
def test_a_wrong_name_is_one_line(name: str, expected: str) -> None:
    with pytest.raises(BasisBenchError) as caught:
        find_model(name, load_registry())
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dictionaries_beside_a_checkpoint_are_its_own(tmp_path: Path) -> None:
    for folder in ("model", "dictionaries/transcoder", "other/model"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "dictionaries/notes.txt").write_text("")
    for folder in ("model", "other/model"):
        (tmp_path / folder / "config.json").write_text("{}")
    registry = load_registry()
    beside = {"transcoder": tmp_path / "dictionaries/transcoder"}
    assert find_model(f"mine={tmp_path}/model", registry).dictionaries == beside
    assert find_model(f"mine={tmp_path}/other/model", registry).dictionaries == {}


def test_a_suite_pins_revisions_and_a_name_goes_before_it() -> None:
    revisions = {"openai-community/gpt2": "aaa", "some/saes": "bbb"}
    models = find_models(["gpt2-small", "gpt2-small@ccc", "org/model"], load_registry(), revisions)
    assert [model.revision for model in models] == ["aaa", "ccc", None]
    assert all(model.revisions == revisions for model in models)
    with pytest.raises(BasisBenchError, match="'openai-community/gpt2' is given twice, once as 'gpt2-small'"):
        find_models(["gpt2-small", "openai-community/gpt2"], load_registry(), {})


def test_a_run_looks_its_models_up_by_these_names(
    tiny_llama: ModelSpec, plugin_with: Callable[..., Path], tmp_path: Path
) -> None:
    """The registry of a run has them, in every worker: settings carry them."""
    settings = RunOptions(out=tmp_path, plugins=(plugin_with(tiny_llama),))
    models = ["tiny-llama", "org/model@abc", "openai-community/gpt2", "pocket-llama"]
    plan = plan_request(Request("pocket", {"models": models}, settings))
    names = ["tiny-llama", "org/model@abc", "gpt2-small", "pocket-llama"]
    assert [model.name for model in plan.models] == names
    assert [model.name for model in plan.options.models] == ["org/model@abc"], "workers know the others"
    registry = plan.options.registry()
    assert registry.get("model", "org/model@abc").revision == "abc"
    assert registry.get("model", "pocket-llama").dictionaries
    assert {block.cells[0].model for block in plan.blocks} == set(names)
