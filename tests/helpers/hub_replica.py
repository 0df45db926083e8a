"""A copy of the Hugging Face hub's cache with tiny random models and dictionaries in it, read by the real clients.

Repository ids, file names, configuration fields and the cache's layout are the published ones:

    HOME/hub/models--ORG--NAME/refs/main            the commit's id
    HOME/hub/models--ORG--NAME/blobs/HASH           a file, by its hash (SHA-256, small files git's SHA-1)
    HOME/hub/models--ORG--NAME/snapshots/COMMIT/... links to the blobs, under the names of the repository

Models have the published number of layers (Gemma 2: two) and a width of 16, and dictionaries have 24 units. SAELens
takes the published sizes of Gemma 2's for granted, by the names of folders: where a replica is in use it is told these.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, wraps
from pathlib import Path
from typing import Any

import pytest

from helpers.hub_formats import CLT, Entry, ReleaseReplica, Weights, cross_layer_files, draw
from helpers.hub_releases import RELEASES

_storage = tempfile.TemporaryDirectory(prefix="basisbench-hub-")
_LARGE = (".safetensors", ".npz", ".pt", ".bin")


@dataclass
class HubReplica:
    """A cache folder that repositories are written into.

    Attributes:
        home: what HF_HOME points to.
        weights: what the dictionaries' files hold, by release and id.
    """

    home: Path
    weights: dict[tuple[str, str], Weights] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        """The folder of repositories."""
        return self.home / "hub"

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a process that is to use the replica and no network."""
        return {**os.environ, "HF_HOME": str(self.home), "HF_HUB_CACHE": str(self.cache), "HF_HUB_OFFLINE": "1"}

    @contextmanager
    def in_use(self, *, offline: bool = True) -> Iterator[None]:
        """Let this process's hub client use the replica, and SAELens read dictionaries of Gemma 2 in its sizes."""
        from huggingface_hub import constants
        from sae_lens.loading import pretrained_sae_loaders as loaders

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(constants, "HF_HOME", str(self.home))
            patch.setattr(constants, "HF_HUB_CACHE", str(self.cache))
            patch.setattr(constants, "HF_HUB_OFFLINE", offline)
            for name in ("gemma_2", "gemma_2_transcoder"):
                getter = f"get_{name}_config_from_hf"
                original = getattr(loaders, getter)
                replaced = wraps(original)(lambda *args, _of=original, **kwargs: _in_sizes_here(_of(*args, **kwargs)))
                patch.setattr(loaders, getter, replaced)
                patch.setitem(loaders.NAMED_PRETRAINED_SAE_CONFIG_GETTERS, name, replaced)
            yield

    def folder(self, repository: str) -> Path:
        """Return a repository's folder."""
        return self.cache / f"models--{repository.replace('/', '--')}"

    def snapshot(self, repository: str, commit: str | None = None) -> Path:
        """Return the folder of a commit, by default the main branch's."""
        folder = self.folder(repository)
        return folder / "snapshots" / (commit or (folder / "refs" / "main").read_text())

    def commit(self, repository: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Write files as one commit, on top of what the branch or else the main one holds, and return its id."""
        folder = self.folder(repository)
        reference = folder / "refs" / branch
        parents = [path for path in (reference, folder / "refs" / "main") if path.is_file()]
        before = parents[0].read_text() if parents else ""
        listed = {path: _blob_name(path, content) for path, content in files.items()}
        commit = hashlib.sha1(repr((repository, before, sorted(listed.items()))).encode()).hexdigest()
        if before:
            old = folder / "snapshots" / before
            kept = {path.relative_to(old).as_posix(): path.resolve().name for path in old.rglob("*") if path.is_file()}
            listed = {**kept, **listed}
        for path, name in listed.items():
            blob = folder / "blobs" / name
            blob.parent.mkdir(parents=True, exist_ok=True)
            if path in files:
                blob.write_bytes(files[path])
            link = folder / "snapshots" / commit / path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit)
        return commit

    def add_model(self, name: str, tokenizer: Any) -> Path:
        """Write a tiny model of an architecture, with its tokenizer, and return its snapshot folder."""
        from helpers.tiny_models import save_checkpoint

        shape = MODELS[name]
        draft = self.home / "draft" / name
        save_checkpoint(shape.config(len(tokenizer)), tokenizer, draft, seed=len(name))
        self.commit(shape.repository, {path.name: path.read_bytes() for path in draft.iterdir()})
        return self.snapshot(shape.repository)

    def add_release(self, name: str) -> None:
        """Write the dictionaries of a release, one per layer, fitted to its model."""
        release = RELEASES[name]
        shape = MODELS[release.model]
        files: dict[str, bytes] = {}
        entries = release.entries(range(shape.layers))
        seen = activations(self.snapshot(shape.repository), shape, entries)
        for entry in entries:
            weights = draw(release, entry, *seen[entry.identifier])
            self.weights[name, entry.identifier] = weights
            files |= release.files(entry, weights)
        self.commit(release.repository, files)

    def add_cross_layer_transcoder(self) -> None:
        """Write the cross-layer transcoder of Gemma 2, fitted to its model."""
        shape = MODELS["gemma-2"]
        entries = [Entry(str(layer), "", layer, "resid_mid", "mlp_out") for layer in range(shape.layers)]
        seen = activations(self.snapshot(shape.repository), shape, entries)
        files = cross_layer_files([seen[entry.identifier] for entry in entries], shape.repository)
        self.commit(CLT, files)


def _in_sizes_here(config: dict[str, Any]) -> dict[str, Any]:
    """Return SAELens's configuration of a dictionary of Gemma 2 with the replica's sizes in place of the published."""
    model = MODELS["gemma-2"].fields
    heads = model["head_dim"] * model["num_attention_heads"]
    read = heads if config["hook_name"].endswith("hook_z") else model["hidden_size"]
    sizes = {"d_in": read, "d_sae": ReleaseReplica.units}
    return config | sizes | ({"d_out": model["hidden_size"]} if "d_out" in config else {})


def _blob_name(path: str, content: bytes) -> str:
    if path.endswith(_LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _add_with_releases(made: HubReplica, models: Sequence[str]) -> None:
    from helpers.tiny_models import build_tiny_tokenizer

    tokenizer = build_tiny_tokenizer()
    with made.in_use():
        for model in models:
            made.add_model(model, tokenizer)
        for name, release in RELEASES.items():
            if release.model in models:
                made.add_release(name)


@cache
def pythia_replica() -> HubReplica:
    """Return the replica that `replica` goes on with: Pythia and its releases, which is all that many tests need."""
    made = HubReplica(Path(_storage.name) / "home")
    _add_with_releases(made, ["pythia"])
    return made


@cache
def replica() -> HubReplica:
    """Return a replica with every model and release but Gemma 2's; written once per process."""
    made = pythia_replica()
    _add_with_releases(made, [model for model in MODELS if model not in ("pythia", "gemma-2")])
    return made


@cache
def gemma_2_replica() -> HubReplica:
    """Return a replica of Gemma 2 with its dictionaries."""
    made = HubReplica(Path(_storage.name) / "gemma-2")
    _add_with_releases(made, ["gemma-2"])
    with made.in_use():
        made.add_cross_layer_transcoder()
    return made


# --- models

_GPT2 = {"mlp": "transformer.h.{}.mlp", "attn": "transformer.h.{}.attn", "block": "transformer.h.{}"}
_NEOX = {"mlp": "gpt_neox.layers.{}.mlp", "attn": "gpt_neox.layers.{}.attention", "block": "gpt_neox.layers.{}"}
_LLAMA = {"mlp": "model.layers.{}.mlp", "attn": "model.layers.{}.self_attn", "block": "model.layers.{}"}
_GEMMA = {
    "mlp": "model.layers.{}.mlp",
    "mlp norm": "model.layers.{}.pre_feedforward_layernorm",
    "mlp post": "model.layers.{}.post_feedforward_layernorm",
    "attn": "model.layers.{}.self_attn",
    "attn post": "model.layers.{}.post_attention_layernorm",
    "projection": "model.layers.{}.self_attn.o_proj",
    "block": "model.layers.{}",
}


@dataclass(frozen=True)
class Shape:
    """A tiny model of one architecture.

    Attributes:
        repository: the published model's.
        architecture: name of the configuration class in transformers.
        layers: number of blocks.
        modules: module names, with the layer left open.
        fields: further fields of the configuration.
    """

    repository: str
    architecture: str
    layers: int
    modules: Mapping[str, str]
    fields: Mapping[str, Any] = field(default_factory=dict)

    def config(self, vocabulary: int) -> Any:
        """Return the configuration."""
        import transformers

        common = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
        return getattr(transformers, self.architecture)(**common, **self.fields)

    def module(self, kind: str, layer: int) -> tuple[str, str]:
        """Return the module at one end of which a kind of site lies, and the end."""
        names = self.modules
        module, end = {
            "resid_pre": (names["block"], "in"),
            "resid_post": (names["block"], "out"),
            "resid_mid": (names.get("mlp norm", ""), "in"),
            "mlp_in": (names["mlp"], "in"),
            "mlp_in normalised": (names.get("mlp norm", ""), "in"),
            "mlp_out": (names.get("mlp post", names["mlp"]), "out"),
            "attn_out": (names.get("attn post", names["attn"]), "out"),
            "attn_z": (names.get("projection", ""), "in"),
        }[kind]
        return module.format(layer), end


def _gated(layers: int, **fields: Any) -> dict[str, Any]:
    return {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": layers, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, **fields,
    }  # fmt: skip


MODELS: dict[str, Shape] = {
    "gpt2": Shape(
        "openai-community/gpt2", "GPT2Config", 12, _GPT2,
        {"n_embd": 16, "n_inner": 24, "n_layer": 12, "n_head": 4, "n_positions": 64},
    ),
    "pythia": Shape(
        "EleutherAI/pythia-70m-deduped", "GPTNeoXConfig", 6, _NEOX,
        {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 6, "num_attention_heads": 4,
         "max_position_embeddings": 64},
    ),
    "gemma-3": Shape(
        "google/gemma-3-270m", "Gemma3TextConfig", 18, _GEMMA,
        _gated(18, head_dim=6, query_pre_attn_scalar=6, sliding_window=8),
    ),
    "gemma-2": Shape(
        "google/gemma-2-2b", "Gemma2Config", 2, _GEMMA,
        _gated(2, head_dim=6, query_pre_attn_scalar=6, sliding_window=8),
    ),
    "qwen3": Shape("Qwen/Qwen3-0.6B", "Qwen3Config", 28, _LLAMA, _gated(28, head_dim=6)),
    "llama": Shape("meta-llama/Llama-3.1-8B", "LlamaConfig", 32, _LLAMA, _gated(32)),
}  # fmt: skip


def activations(snapshot: Path, shape: Shape, entries: Sequence[Entry]) -> dict[str, tuple[Any, Any]]:
    """Return by id what a dictionary reads and what it writes, over random prompts, one row each."""
    import torch
    from transformers import AutoModelForCausalLM

    body = AutoModelForCausalLM.from_pretrained(snapshot).eval()
    tokens = torch.randint(2, body.config.vocab_size, (96, 8), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    seen: dict[tuple[str, int], Any] = {}
    with ExitStack() as stack, torch.no_grad():
        for kind, layer in {(kind, entry.layer) for entry in entries for kind in (entry.read, entry.write)}:
            name, end = shape.module(kind, layer)

            def keep(value: Any, key: tuple[str, int] = (kind, layer)) -> None:
                value = value[0] if isinstance(value, tuple) else value
                value = value.detach()[:, 1:].flatten(0, 1)
                if key[0] == "mlp_in normalised":
                    value = value * (value.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
                seen[key] = value

            module = body.get_submodule(name)
            if end == "in":
                handle = module.register_forward_pre_hook(
                    lambda _m, args, given, keep=keep: keep(args[0] if args else given["hidden_states"]),
                    with_kwargs=True,
                )
            else:
                handle = module.register_forward_hook(lambda _m, _args, out, keep=keep: keep(out))
            stack.callback(handle.remove)
        body(tokens)
    return {entry.identifier: (seen[entry.read, entry.layer], seen[entry.write, entry.layer]) for entry in entries}
