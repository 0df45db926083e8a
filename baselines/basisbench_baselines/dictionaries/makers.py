"""What each maker's configuration files say of a dictionary, and how its weights are named; by SAELens's names.

Every reader has two halves. *Facts* come from small files alone: where the dictionary sits, its kind, SAELens's fields.
*Weights* are turned into SAELens's `W_enc` [d_in, unit], `b_enc`, `W_dec` [unit, d_out], `b_dec`, `threshold`, `W_skip`
[d_out, d_in] (and a gated dictionary's own), so that SAELens's modules compute what the maker's do.

- Gemma Scope (`params.npz`) and Gemma Scope 2 (`params.safetensors`, `config.json`) as SAELens 6.54 reads them; the
  former say where they sit by the name of their repository alone, the latter by that of a Hugging Face module.
- dictionary_learning (`ae.pt`, `config.json`) at commit 60ec6bf5264944d64a4ca271f45a29ebfb9d4946: `dictionary.py` and
  `trainers/*.py`. SAELens reads those of residual streams; here `submodule_name`, or the folder's name, says which.
- sparsify (`cfg.json`, `sae.safetensors`) at commit 9d3b136c9217565af11089081444770e0d31673d: `sparse_coder.py`,
  `fused_encoder.py`. SAELens's loader shifts the input only where the decoder is not normalised; sparsify always does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from basisbench.errors import BasisError
from basisbench_baselines.dictionaries.releases import layer_of

if TYPE_CHECKING:
    from torch import Tensor

    from basisbench_baselines.dictionaries.trees import Files

Facts = dict[str, Any]
"""SAELens's configuration without sizes; `metadata` says where it sits, `own` is the maker's configuration."""

Tensors = Mapping[str, "Tensor"]


@dataclass(frozen=True)
class Format:
    """How a maker's files are read.

    Attributes:
        facts: reads what the configuration says.
        weights: turns the maker's tensors into SAELens's.
        candidates: where the weights may be in a dictionary's folder, in order.
    """

    facts: Callable[[Files, str], Facts]
    weights: Callable[[Facts, Tensors], dict[str, Any]]
    candidates: tuple[str, ...] = ()


_BEFORE_FIRST = "blocks.0.hook_resid_pre"


def facts_of(architecture: str, metadata: Mapping[str, Any], own: Mapping[str, Any], **fields: Any) -> Facts:
    """Return facts, with SAELens's defaults for what is not said."""
    common = {"apply_b_dec_to_input": False, "normalize_activations": "none", "reshape_activations": "none"}
    return {"architecture": architecture, **common, **fields, "metadata": dict(metadata), "own": own}


def read_json(files: Files, name: str) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        BasisError: there is none.
    """
    try:
        found = json.loads(files.path(name).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BasisError(f"{files.where(name)}: not a JSON file: {error}") from error
    if not isinstance(found, dict):
        raise BasisError(f"{files.where(name)} holds no object, expected the configuration of a dictionary")
    return found


def tensor(tensors: Tensors, *names: str) -> Tensor:
    """Return the first tensor that there is of some names.

    Raises:
        BasisError: there is none.
    """
    for name in names:
        if name in tensors:
            return tensors[name]
    raise BasisError(f"its weights hold {', '.join(sorted(tensors)[:9]) or 'nothing'}; expected {' or '.join(names)}")


# --- Gemma Scope

_SCOPE = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att|transcoders)(?![a-z])")
_SCOPE_HOOKS = {
    "res": "hook_resid_post",
    "mlp": "hook_mlp_out",
    "att": "attn.hook_z",
    "transcoders": "ln2.hook_normalized",
}


def gemma_scope_facts(files: Files, place: str) -> Facts:
    """Read where a dictionary of Gemma Scope sits from the names of its repository and folder."""
    text = files.where(place)
    match = _SCOPE.search(text)
    if match is None:
        raise BasisError(
            f"{text}: a params.npz does not say where it was trained; name a folder above it as its repository, such "
            "as gemma-scope-2b-pt-res (-res, -mlp, -att or -transcoders)"
        )
    size, tuned, kind = match.groups()
    metadata = {"model_name": f"google/gemma-2-{size}" + ("-it" if tuned == "it" else "")}
    layers = re.findall(r"layer_(\d+)", text)
    if not layers:  # embedding/width_4k/average_l0_6
        return facts_of("jumprelu", {**metadata, "hook_name": _BEFORE_FIRST}, {})
    metadata["hook_name"] = f"blocks.{layers[-1]}.{_SCOPE_HOOKS[kind]}"
    if kind == "transcoders":
        metadata["hook_name_out"] = f"blocks.{layers[-1]}.hook_mlp_out"
    return facts_of("transcoder" if kind == "transcoders" else "jumprelu", metadata, {})


def gemma_scope_weights(_facts: Facts, tensors: Tensors) -> dict[str, Tensor]:
    """Return the weights of Gemma Scope; they have SAELens's names."""
    return {name: tensor(tensors, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}


_SCOPE_2_HOOKS = (
    # What the configuration ends in, what the folder's name holds where there is no configuration, and SAELens's hook.
    (r"layers\.(\d+)\.output", "resid_post", "hook_resid_post"),
    (r"layers\.(\d+)\.self_attn\.o_proj\.input", "attn_out", "attn.hook_z"),
    (r"layers\.(\d+)\.post_feedforward_layernorm\.output", "mlp_out", "hook_mlp_out"),
    (r"layers\.(\d+)\.pre_feedforward_layernorm\.output", "transcoder", "mlp.hook_in"),
)


def gemma_scope_2_facts(files: Files, place: str) -> Facts:
    """Read where a dictionary of Gemma Scope 2 sits from its configuration, else from its folder's name."""
    name = f"{place}/config.json"
    own = read_json(files, name) if files.has(name) else {}
    if own.get("architecture", "jump_relu") != "jump_relu":
        raise BasisError(f"{files.where(name)} has architecture '{own['architecture']}', expected 'jump_relu'")
    model = str(own.get("model_name", "")).replace("-v3", "-3")
    metadata = {"model_name": model.removesuffix("-pt") if "270m" in model else model}
    read, text = own.get("hf_hook_point_in"), files.where(place)
    for ending, word, hook in _SCOPE_2_HOOKS:
        match = re.search(f"{ending}$", str(read)) if read else re.search(rf"{word}.*layer_(\d+)", text)
        if match is not None:
            metadata["hook_name"] = f"blocks.{match[1]}.{hook}"
            if hook == "mlp.hook_in":
                metadata["hook_name_out"] = f"blocks.{match[1]}.hook_mlp_out"
            return facts_of("transcoder" if hook == "mlp.hook_in" else "jumprelu", metadata, own)
    raise BasisError(f"{text}: hf_hook_point_in '{read}' is none of the sites of Gemma Scope 2 that are compared")


def gemma_scope_2_weights(_facts: Facts, tensors: Tensors) -> dict[str, Tensor]:
    """Return the weights of Gemma Scope 2 by SAELens's names."""
    found = {
        "W_enc": tensor(tensors, "w_enc"),
        "W_dec": tensor(tensors, "w_dec"),
        **{name: tensor(tensors, name) for name in ("b_enc", "b_dec", "threshold")},
    }
    return found | ({"W_skip": skip.T} if (skip := tensors.get("affine_skip_connection")) is not None else {})


# --- dictionary_learning

_LEARNED_KINDS = {
    # class: SAELens's kind, whether the decoder's bias is subtracted from the input, and how that bias is called.
    "AutoEncoder": ("standard", True, "bias"),
    "AutoEncoderNew": ("standard", False, "decoder.bias"),
    "GatedAutoEncoder": ("gated", True, "decoder_bias"),
    "AutoEncoderTopK": ("topk", True, "b_dec"),
    "BatchTopKSAE": ("jumprelu", True, "b_dec"),
    "MatryoshkaBatchTopKSAE": ("jumprelu", True, "b_dec"),
    "JumpReluAutoEncoder": ("jumprelu", False, "b_dec"),
}
_LEARNED_HOOKS = (
    ("resid", "hook_resid_post"),
    ("mlp", "mlp.hook_out"),
    ("attn", "attn.hook_out"),
    ("attention", "attn.hook_out"),
)


def learned_facts(files: Files, place: str) -> Facts:
    """Read the configuration of a dictionary of dictionary_learning."""
    name = f"{place}/config.json"
    if not files.has(name):
        raise BasisError(
            f"{files.where(name)} is missing; expected dictionary_learning's files, config.json beside ae.pt"
        )
    own = read_json(files, name)
    trainer, buffer = own.get("trainer"), own.get("buffer") or {}
    if not isinstance(trainer, dict):
        raise BasisError(f"{files.where(name)} has no 'trainer', expected what dictionary_learning wrote")
    kind = str(trainer.get("dict_class") or "AutoEncoder").rpartition(".")[2].rstrip("'>")
    if kind not in _LEARNED_KINDS:
        raise BasisError(f"{files.where(name)} has dict_class '{kind}', known are {', '.join(_LEARNED_KINDS)}")
    if (end := buffer.get("io", "out")) != "out":
        raise BasisError(f"{files.where(name)} has io '{end}'; only outputs of modules ('out') can be compared")
    where = f"{trainer.get('submodule_name') or ''} {place}"
    hook = next((hook for word, hook in _LEARNED_HOOKS if word in where), "hook_resid_post")
    layer = trainer.get("layer")
    layer = layer_of(where) if layer is None else layer
    metadata = {
        "hook_name": _BEFORE_FIRST if "embed" in where else f"blocks.{layer}.{hook}",
        "model_name": trainer.get("lm_name"),
    }
    architecture, shifts, bias = _LEARNED_KINDS[kind]
    fields = {"k": trainer.get("k")} if architecture == "topk" else {}
    return facts_of(architecture, metadata, {"bias": bias}, apply_b_dec_to_input=shifts, **fields)


def learned_weights(facts: Facts, tensors: Tensors) -> dict[str, Tensor]:
    """Return the weights of dictionary_learning by SAELens's names."""
    found = {
        "W_enc": tensors["W_enc"] if "W_enc" in tensors else tensor(tensors, "encoder.weight", "W_enc").T,
        "W_dec": tensors["W_dec"] if "W_dec" in tensors else tensor(tensors, "decoder.weight", "W_dec").T,
        "b_dec": tensor(tensors, facts["own"]["bias"]),
    }
    if facts["architecture"] == "gated":
        gated = {"b_gate": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag"}
        return found | {name: tensor(tensors, theirs) for name, theirs in gated.items()}
    found["b_enc"] = tensor(tensors, "b_enc", "encoder.bias")
    if facts["architecture"] == "jumprelu":
        # BatchTopK keeps one number; below zero, as before it is first estimated, it is ReLU.
        found["threshold"] = tensor(tensors, "threshold").expand(found["b_enc"].shape).contiguous()
    return found


# --- sparsify

_POINT = re.compile(r"(?:.+\.)?(?:layers|layer|h|blocks)\.\d+(?:\..+)?")


def sparsify_facts(files: Files, place: str) -> Facts:
    """Read the configuration of a dictionary of sparsify; its folder is called as the module."""
    name = f"{place}/cfg.json"
    own, where = read_json(files, name), files.where(place)
    point = next(
        (part for part in reversed(where.split("/")) if _POINT.fullmatch(part) or part == "embed_tokens"), None
    )
    if point is None:
        raise BasisError(
            f"{where}: sparsify calls a dictionary's folder as its module, such as layers.3 or layers.3.mlp"
        )
    transcode, skip = bool(own.get("transcode")), bool(own.get("skip_connection"))
    if own.get("activation", "topk") != "topk" or own.get("signed"):
        kind = "signed units" if own.get("signed") else f"activation '{own['activation']}'"
        raise BasisError(f"{files.where(name)} has {kind}; only activation 'topk' is supported")
    if skip and not transcode:
        raise BasisError(f"{files.where(name)} has a skip connection, but is no transcoder; that cannot be compared")
    metadata = {
        "hook_name": _BEFORE_FIRST if point == "embed_tokens" else point,
        "model_name": _sparsify_model(files, place),
    }
    architecture = "topk_transcoder" if transcode else "topk"
    return facts_of(architecture, metadata, own, k=own.get("k", 32), apply_b_dec_to_input=not transcode)


def _sparsify_model(files: Files, place: str) -> str | None:
    """Return the model that a run's own configuration names, in a folder above."""
    for depth in range(len(place.split("/")) - 1, -1, -1):
        name = "/".join([*place.split("/")[:depth], "config.json"])
        if files.has(name):
            model = read_json(files, name).get("model")
            return model if isinstance(model, str) else None
    return None


def sparsify_weights(facts: Facts, tensors: Tensors) -> dict[str, Tensor]:
    """Return the weights of sparsify by SAELens's names."""
    found = {
        "W_enc": tensor(tensors, "encoder.weight").T,
        "b_enc": tensor(tensors, "encoder.bias"),
        **{name: tensor(tensors, name) for name in ("W_dec", "b_dec")},
    }
    return found | ({"W_skip": tensor(tensors, "W_skip")} if facts["own"].get("skip_connection") else {})
