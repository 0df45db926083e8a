"""Open and check the files of a cross-layer transcoder in circuit-tracer's format.

Source of the format: `circuit_tracer/transcoder/cross_layer_transcoder.py` and `circuit_tracer/utils/hf_utils.py` of
github.com/decoderesearch/circuit-tracer at commit 4bb8c0ea10bde09727e14565ec8469656880da53 (`to_safetensors`,
`_load_state_dict`, `load_transcoders`):

- `W_enc_{i}.safetensors`: `W_enc_{i}` [unit, d_model], `b_enc_{i}` [unit], `b_dec_{i}` [d_model], and `threshold_{i}`
  [unit] for JumpReLU (x where x > threshold, else 0); without thresholds the activation is ReLU.
- `W_dec_{i}.safetensors`: `W_dec_{i}` [unit, layers - i, d_model]; entry t of the second axis writes at layer i + t.
- `config.yaml`: `model_kind: cross_layer_transcoder`, `feature_input_hook` and `feature_output_hook`, names within a
  block.

These hook names are those of TransformerLens's `HookedTransformer` with unprocessed weights (`fold_ln=False`,
`center_writing_weights=False` in `replacement_model_transformerlens.py`), so that they are values of the plain model.
circuit-tracer sets the units at the first position to zero when it attributes; here that position is like any other,
and what is not explained there is error.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basisbench.errors import BasisError, whole_message
from basisbench.models.onednn import largest_bytes
from basisbench_baselines.dictionaries import clt_forge
from basisbench_baselines.dictionaries.circuit_tracer_layer import LayerFiles
from basisbench_baselines.dictionaries.placement import mlp_gain
from basisbench_baselines.dictionaries.weight_files import read_shapes

if TYPE_CHECKING:
    import torch

    from basisbench.models.model import Model

CONFIG = "config.yaml"
KIND = "cross_layer_transcoder"

READS: Mapping[str, str] = {
    "mlp.hook_in": "what the MLP reads, after the norm (circuit-tracer wraps the MLP for it)",
    "hook_resid_mid": "the residual stream between attention and MLP, before the norm",
    "ln2.hook_normalized": "what the MLP reads, before the gain of the RMSNorm in front of it",
}
"""Input hooks that can be read, and what they are."""

WRITES: Mapping[str, str] = {
    "hook_mlp_out": "what the MLP adds to the residual stream, after a post-norm if there is one",
    "mlp.hook_out": "what the MLP returns, before a post-norm if there is one",
}
"""Output hooks that can be written, and what they are."""

_REFUSED: Mapping[str, str] = {
    "hook_mlp_in": "exists only in a TransformerLens model that splits the MLP's input",
}


def file_names(layers: int) -> list[str]:
    """Return the names of the weight files, layer by layer."""
    return [f"W_{kind}_{layer}.safetensors" for layer in range(layers) for kind in ("enc", "dec")]


def layer_count(first_decoder: Path) -> int:
    """Return how many layers there are: the decoder of layer 0 writes to every one."""
    from safetensors import safe_open

    with safe_open(first_decoder, framework="pt") as file:
        shape = file.get_slice("W_dec_0").get_shape()
    if len(shape) != 3:
        raise BasisError(f"W_dec_0 in {first_decoder} has shape {shape}, expected (units, layers, width)")
    return int(shape[1])


def open_layers(folder: Path, model: Model, read: str) -> tuple[LayerFiles, ...]:
    """Check the headers of every layer's files; no weight is read yet.

    Args:
        folder: where the files are.
        model: the model that they must fit.
        read: the hook that is read, within a block.

    Returns:
        The files of each layer.

    Raises:
        BasisError: a file is missing or is not what the format says, or it was made for another model.
    """
    import torch

    layers = model.layers
    shapes = [_shapes(folder, layer, model) for layer in range(layers)]
    strange = sorted(path.name for path in folder.glob("W_*.safetensors") if path.name not in file_names(layers))
    if strange:
        skip = "; a skip connection is not supported" if "skip" in strange[0] else "; it was trained for another model"
        raise BasisError(
            f"{folder / strange[0]} has no place in a cross-layer transcoder of the {layers} layers of '{model.name}', "
            f"expected W_enc_0 to W_enc_{layers - 1} and as many W_dec{skip}"
        )
    jump = [f"threshold_{layer}" in shape for layer, shape in enumerate(shapes)]
    if len(set(jump)) > 1:
        raise BasisError(
            f"{folder / f'W_enc_{jump.index(False)}.safetensors'} has no thresholds, but other layers have; expected "
            "all layers to be JumpReLU or none"
        )
    # Half precision moves units across their thresholds: float32 at least.
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    computed = [sum(math.prod(shape) for shape in part.values()) * dtype.itemsize for part in shapes]
    pack = sum(computed) <= largest_bytes()
    sizes = computed if pack else [_kept_bytes(folder, layer, shape, dtype) for layer, shape in enumerate(shapes)]
    gains = [mlp_gain(model, layer) if read == "ln2.hook_normalized" else None for layer in range(layers)]
    return tuple(
        LayerFiles(folder, layer, jump[layer], model.device, dtype, pack, sizes[layer], gain)
        for layer, gain in enumerate(gains)
    )


def _kept_bytes(folder: Path, layer: int, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> int:
    """Return the bytes of a layer whose decoder stays in the type of its file."""
    encoder = sum(math.prod(shape) for name, shape in shapes.items() if not name.startswith("W_dec"))
    return encoder * dtype.itemsize + (folder / f"W_dec_{layer}.safetensors").stat().st_size


def digest_files(folder: Path) -> str:
    """Return a SHA-256 over names and contents of every file of a cross-layer transcoder.

    The hub's cache names a large file by the SHA-256 of its content; that is taken as it is.
    """
    digest = hashlib.sha256()
    forge = [folder / clt_forge.CONFIG, *sorted(folder.glob(f"*{clt_forge.WEIGHTS}"))]
    for path in [folder / CONFIG, *sorted(folder.glob("W_*.safetensors")), *forge]:
        if path.is_file():
            blob = path.resolve()
            if blob.parent.name == "blobs" and len(blob.name) == 64:
                content = blob.name
            else:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.name} {content} ".encode())
    return digest.hexdigest()


def read_config(folder: Path) -> Mapping[str, Any]:
    """Read `config.yaml`.

    Raises:
        BasisError: it is missing, is no YAML, or is that of something else.
    """
    import yaml

    path = folder / CONFIG
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BasisError(
            f"{path} is missing; expected circuit-tracer's format, {CONFIG} beside W_enc_0.safetensors"
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BasisError(f"{path} cannot be read as YAML ({whole_message(error)})") from error
    kind = config.get("model_kind") if isinstance(config, dict) else None
    if not isinstance(config, dict) or kind != KIND:
        raise BasisError(
            f"{path} has model_kind '{kind}', expected '{KIND}'; transcoders of single layers are read as sae:{folder}"
        )
    return config


def hook_names(folder: Path, config: Mapping[str, Any]) -> tuple[str, str]:
    """Return the names within a block of the hooks that are read and written.

    Raises:
        BasisError: one of them cannot be.
    """
    return _hook(folder, config, "feature_input_hook", READS), _hook(folder, config, "feature_output_hook", WRITES)


def _hook(folder: Path, config: Mapping[str, Any], field: str, known: Mapping[str, str]) -> str:
    name = str(config.get(field))
    if name not in known:
        reason = f": it {_REFUSED[name]}" if name in _REFUSED else ""
        raise BasisError(
            f"{folder / CONFIG} has {field} '{name}', which is not supported{reason}; "
            f"expected one of {', '.join(known)}"
        )
    return name


def _shapes(folder: Path, layer: int, model: Model) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a layer's tensors by name, checked."""
    layers, width = model.layers, _width(model)
    encoder, decoder = folder / f"W_enc_{layer}.safetensors", folder / f"W_dec_{layer}.safetensors"
    found = _header(encoder, model)
    wanted = {f"{name}_{layer}" for name in ("W_enc", "b_enc", "b_dec")}
    _check_names(encoder, found, wanted, optional={f"threshold_{layer}"})
    units = (found[f"W_enc_{layer}"] or (0,))[0]  # a wrong shape is reported below
    expected: dict[str, tuple[int, ...]] = {
        f"W_enc_{layer}": (units, width),
        f"b_enc_{layer}": (units,),
        f"b_dec_{layer}": (width,),
        f"threshold_{layer}": (units,),
    }
    _check_shapes(encoder, found, expected, model)
    written = _header(decoder, model)
    name = f"W_dec_{layer}"
    _check_names(decoder, written, {name})
    if len(written[name]) == 3 and written[name][1] != layers - layer:
        raise BasisError(
            f"{decoder} writes to {written[name][1]} layers, expected {layers - layer}: layer {layer} and all later "
            f"ones of the {layers} of '{model.name}'"
        )
    _check_shapes(decoder, written, {name: (units, layers - layer, width)}, model)
    return {**found, **written}


def _header(path: Path, model: Model) -> dict[str, tuple[int, ...]]:
    if not path.is_file():
        raise BasisError(f"{path} is missing; expected one such file per layer of '{model.name}'")
    return read_shapes(path)


def _check_names(path: Path, found: Mapping[str, Any], wanted: Set[str], optional: Set[str] = frozenset()) -> None:
    if wanted - found.keys() or found.keys() - wanted - optional:
        also = f" and perhaps {', '.join(sorted(optional))}" if optional else ""
        raise BasisError(
            f"{path} holds {', '.join(sorted(found)) or 'nothing'}; expected {', '.join(sorted(wanted))}{also}"
        )


def _check_shapes(
    path: Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], model: Model
) -> None:
    for name, shape in found.items():
        if shape != expected[name]:
            raise BasisError(
                f"{name} in {path} has shape {list(shape)}, expected {list(expected[name])} for '{model.name}' of "
                f"width {_width(model)}; it was trained for another model"
            )


def _width(model: Model) -> int:
    return int(model.bridge.cfg.d_model)
