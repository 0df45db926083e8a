"""Read circuit-tracer's sets of transcoders, one per layer (`config.yaml` with `model_kind: transcoder_set`).

Source: `circuit_tracer/transcoder/single_layer_transcoder.py`, `activation_functions.py` and `utils/hf_utils.py` of
github.com/decoderesearch/circuit-tracer at commit 4bb8c0ea10bde09727e14565ec8469656880da53:

- `layer_{i}.safetensors`: `W_enc` [unit, d], `b_enc`, `W_dec` [unit, d], `b_dec`, and perhaps `W_skip` [d, d] and
  `activation_function.threshold`; or `transcoders`, a list of files, some on the hub, also those of Gemma Scope.
- The activation is JumpReLU where there are thresholds, else ReLU; `activation: topk` keeps the k largest as they are.
- Hooks are names within a block, of a model with unprocessed weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from basisbench.errors import BasisError, whole_message
from basisbench_baselines.dictionaries.hub_snapshot import resolve
from basisbench_baselines.dictionaries.makers import (
    Facts,
    Format,
    Tensors,
    facts_of,
    gemma_scope_2_weights,
    gemma_scope_weights,
    tensor,
)
from basisbench_baselines.dictionaries.trees import Files

if TYPE_CHECKING:
    from torch import Tensor

_LAYER_FILE = re.compile(r"layer_(\d+)\.safetensors")


def transcoders(files: Files, folder: str) -> dict[str, tuple[Format, tuple[Files, str]]]:
    """Return how the transcoders of a set are read and where their weights are, by name; none if it is another file.

    Args:
        files: where its config.yaml is.
        folder: in which folder.
    """
    import yaml

    start = f"{folder}/" if folder else ""
    name = f"{start}config.yaml"
    try:
        own = yaml.safe_load(files.path(name).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise BasisError(f"{files.where(name)} cannot be read as YAML: {whole_message(error)}") from error
    if not isinstance(own, dict) or own.get("model_kind") != "transcoder_set":
        return {}
    listed = own.get("transcoders")
    if isinstance(listed, list):
        places = {layer: (f"{start}layer_{layer}", str(uri)) for layer, uri in enumerate(listed)}
    else:
        here = (other for other in files.names() if other.rpartition("/")[0] == folder)
        layers = [int(match[1]) for other in here if (match := _LAYER_FILE.fullmatch(other.rpartition("/")[2]))]
        places = {layer: (f"{start}layer_{layer}", f"{start}layer_{layer}.safetensors") for layer in sorted(layers)}
    return {
        name: (Format(partial(_facts, own, layer), weights), _source(files, start, file))
        for layer, (name, file) in places.items()
    }


def _source(files: Files, start: str, file: str) -> tuple[Files, str]:
    """Return where a file of a set is: beside its configuration, or on the hub (hf://ORG/NAME/PATH?revision=...)."""
    if not file.startswith("hf://"):
        return files, file if file.startswith(start) else f"{start}{file}"
    parts = urlsplit(file)
    name, _, path = parts.path.lstrip("/").partition("/")
    return resolve(f"{parts.netloc}/{name}", parse_qs(parts.query).get("revision", [None])[0]), path


def _facts(own: Mapping[str, Any], layer: int, _files: Files, _place: str) -> Facts:
    """Read where a transcoder of circuit-tracer sits from the configuration of its set."""
    metadata = {
        "hook_name": f"blocks.{layer}.{own.get('feature_input_hook')}",
        "hook_name_out": f"blocks.{layer}.{own.get('feature_output_hook')}",
        "model_name": own.get("model_name"),
    }
    if own.get("activation") == "topk":
        return facts_of("topk_transcoder", metadata, own, k=own.get("k"), relu=False)
    return facts_of("transcoder", metadata, own)


def weights(facts: Facts, tensors: Tensors) -> dict[str, Tensor]:
    """Return the weights of a transcoder of circuit-tracer by SAELens's names; it takes files of Gemma Scope, too."""
    if "w_enc" in tensors:
        return gemma_scope_2_weights(facts, tensors)
    if "threshold" in tensors:
        return gemma_scope_weights(facts, tensors)
    found = {
        "W_enc": tensor(tensors, "W_enc").T,
        **{name: tensor(tensors, name) for name in ("b_enc", "W_dec", "b_dec")},
    }
    threshold = tensors.get("activation_function.threshold")
    if threshold is not None and facts["own"].get("activation") not in ("topk", "relu"):
        found["threshold"] = threshold.reshape(-1).expand(found["b_enc"].shape).contiguous()
    return found | ({"W_skip": tensors["W_skip"]} if "W_skip" in tensors else {})
