"""Tiny dictionaries in the exact files of each maker, with what the maker's own code computes of them.

Formulas are written out here from the sources that `dictionaries.makers`, `openmoss` and `circuit_tracer_set` cite,
in float64, on the arrays that the files hold.
"""

from __future__ import annotations

import io
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
import yaml
from safetensors.torch import save
from torch import Tensor

from helpers.oracle_evaluator import D_MODEL, LAYERS

UNITS, K = 24, 5
Rebuild = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """The files of one maker's dictionaries, one per layer.

    Attributes:
        name: of the case.
        files: by path in the repository.
        rebuild: a layer's reconstruction of what it reads.
        read: hook within the block.
        write: hook within the block.
        repository: where it could be published; the folder has the same name.
        pattern: which dictionaries.
    """

    name: str
    files: Mapping[str, bytes]
    rebuild: Rebuild
    read: str
    write: str
    repository: str = "somebody/dictionaries"
    pattern: str = ""

    def write_to(self, folder: Path) -> Path:
        """Write the files below a folder and return theirs."""
        root = folder / self.repository.split("/")[1]
        for name, content in self.files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        return root


@dataclass
class Drawn:
    """Random weights of one dictionary; float64 copies of what is stored."""

    name: str
    stored: dict[str, Tensor] = field(default_factory=dict)

    def draw(self, key: str, *shape: int, positive: bool = False, scale: float = 0.5) -> Tensor:
        """Return new weights as they are stored."""
        generator = torch.Generator().manual_seed(crc32(f"{self.name} {key}".encode()))
        drawn = scale * torch.randn(*shape, generator=generator)
        self.stored[key] = drawn.abs() if positive else drawn
        return self.stored[key]

    def __getitem__(self, key: str) -> Tensor:
        return self.stored[key].double()


def tensors_of(stored: Mapping[str, Tensor]) -> bytes:
    return save({name: tensor.contiguous() for name, tensor in stored.items()})


def json_of(content: Any) -> bytes:
    return json.dumps(content).encode()


def pickled(stored: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(stored), buffer)
    return buffer.getvalue()


def zipped(stored: Mapping[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: tensor.numpy() for name, tensor in stored.items()})
    return buffer.getvalue()


def largest(before: Tensor, k: int = K) -> Tensor:
    """Keep the k largest."""
    return before * torch.zeros_like(before).scatter(-1, before.topk(k).indices, 1)


def _cases(
    name: str, make: Callable[[Drawn, int], tuple[dict[str, bytes], Callable[[Tensor], Tensor]]], **more: Any
) -> Case:
    files: dict[str, bytes] = dict(more.pop("extra", {}))
    formulas = []
    for layer in range(LAYERS):
        written, formula = make(Drawn(f"{name} {layer}"), layer)
        files |= written
        formulas.append(formula)
    return Case(name, files, lambda layer, x: formulas[layer](x), **more)


# --- Gemma Scope


def _scope(kind: str, read: str, write: str, gain: Callable[[int], Tensor] | None = None) -> Case:
    def make(w: Drawn, layer: int) -> tuple[dict[str, bytes], Callable[[Tensor], Tensor]]:
        w.draw("W_enc", D_MODEL, UNITS), w.draw("W_dec", UNITS, D_MODEL)
        w.draw("b_enc", UNITS), w.draw("b_dec", D_MODEL), w.draw("threshold", UNITS, positive=True)

        def formula(x: Tensor) -> Tensor:
            before = (x / gain(layer) if gain else x) @ w["W_enc"] + w["b_enc"]
            return (before.relu() * (before > w["threshold"])) @ w["W_dec"] + w["b_dec"]

        return {f"layer_{layer}/width_16k/average_l0_71/params.npz": zipped(w.stored)}, formula

    return _cases(f"Gemma Scope {kind}", make, read=read, write=write, repository=f"google/gemma-scope-2b-pt-{kind}")


def _scope_2(site: str, hook: str, read: str, write: str, *, configured: bool = True, affine: bool = False) -> Case:
    def make(w: Drawn, layer: int) -> tuple[dict[str, bytes], Callable[[Tensor], Tensor]]:
        w.draw("w_enc", D_MODEL, UNITS), w.draw("w_dec", UNITS, D_MODEL)
        w.draw("b_enc", UNITS), w.draw("b_dec", D_MODEL), w.draw("threshold", UNITS, positive=True)
        if affine:
            w.draw("affine_skip_connection", D_MODEL, D_MODEL)
        config = {
            "architecture": "jump_relu", "model_name": "gemma-v3-270m-pt", "affine_connection": affine, "l0": 20,
            "hf_hook_point_in": f"model.layers.{layer}.{hook}", "width": 16384,
        }  # fmt: skip

        def formula(x: Tensor) -> Tensor:
            before = x @ w["w_enc"] + w["b_enc"]
            out = (before.relu() * (before > w["threshold"])) @ w["w_dec"] + w["b_dec"]
            return out + x @ w["affine_skip_connection"] if affine else out

        start = f"{site}/layer_{layer}_width_16k_l0_small"
        files = {f"{start}/params.safetensors": tensors_of(w.stored)}
        return files | ({f"{start}/config.json": json_of(config)} if configured else {}), formula

    name = f"Gemma Scope 2 {site}{'' if configured else ' without configuration'}"
    return _cases(name, make, read=read, write=write, repository="google/gemma-scope-2-270m-pt")


# --- dictionary_learning


def _learned(kind: str, site: str, hook: str, threshold: float = 0.4) -> Case:
    def make(w: Drawn, layer: int) -> tuple[dict[str, bytes], Callable[[Tensor], Tensor]]:
        flat = kind in ("MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder")
        bias = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias", "GatedAutoEncoder": "decoder_bias"}.get(
            kind, "b_dec"
        )
        if flat:
            w.draw("W_enc", D_MODEL, UNITS), w.draw("W_dec", UNITS, D_MODEL), w.draw("b_enc", UNITS)
            encoder, decoder, b_enc = w["W_enc"], w["W_dec"], w["b_enc"]
        else:
            w.draw("encoder.weight", UNITS, D_MODEL), w.draw("decoder.weight", D_MODEL, UNITS)
            encoder, decoder = w["encoder.weight"].T, w["decoder.weight"].T
            b_enc = (
                torch.zeros(UNITS).double() if kind == "GatedAutoEncoder" else w.draw("encoder.bias", UNITS).double()
            )
        b_dec = w.draw(bias, D_MODEL).double()
        if kind == "GatedAutoEncoder":
            w.draw("r_mag", UNITS), w.draw("gate_bias", UNITS), w.draw("mag_bias", UNITS)
        if kind == "JumpReluAutoEncoder":
            w.draw("threshold", UNITS, positive=True)
        elif "TopK" in kind:
            w.stored |= {"threshold": torch.tensor(threshold), "k": torch.tensor(K, dtype=torch.int)}
        if "Matryoshka" in kind:
            w.stored["group_sizes"] = torch.tensor([8, UNITS - 8])

        def formula(x: Tensor) -> Tensor:
            shifted = x if kind in ("AutoEncoderNew", "JumpReluAutoEncoder") else x - b_dec
            before = shifted @ encoder + b_enc
            if kind == "GatedAutoEncoder":
                f = (before + w["gate_bias"] > 0) * (w["r_mag"].exp() * before + w["mag_bias"]).relu()
            elif kind == "AutoEncoderTopK":
                f = largest(before.relu())
            elif "threshold" in w.stored:
                f = before.relu() * (before.relu() > w["threshold"])
            else:
                f = before.relu()
            return f @ decoder + b_dec

        trainer = {
            "dict_class": kind, "trainer_class": "Trainer", "activation_dim": D_MODEL, "dict_size": UNITS, "k": K,
            "layer": layer, "lm_name": "EleutherAI/pythia-70m-deduped", "submodule_name": f"{site}_layer_{layer}",
        }  # fmt: skip
        config = {"trainer": trainer, "buffer": {"d_submodule": D_MODEL, "io": "out", "ctx_len": 128}}
        start = f"{site}_layer_{layer}/trainer_0"
        return {f"{start}/ae.pt": pickled(w.stored), f"{start}/config.json": json_of(config)}, formula

    early = " before its threshold" if threshold < 0 else ""
    return _cases(f"dictionary_learning {kind}{early}", make, read=hook, write=hook)


# --- sparsify


def _sparsify(point: str, read: str, write: str, *, transcode: bool = False, skip: bool = False) -> Case:
    def make(w: Drawn, layer: int) -> tuple[dict[str, bytes], Callable[[Tensor], Tensor]]:
        w.draw("encoder.weight", UNITS, D_MODEL), w.draw("encoder.bias", UNITS)
        w.draw("W_dec", UNITS, D_MODEL), w.draw("b_dec", D_MODEL)
        if skip:
            w.draw("W_skip", D_MODEL, D_MODEL)
        config = {
            "activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": UNITS, "k": K,
            "multi_topk": False, "skip_connection": skip, "transcode": transcode, "d_in": D_MODEL,
        }  # fmt: skip

        def formula(x: Tensor) -> Tensor:
            before = (x if transcode else x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
            out = largest(before.relu()) @ w["W_dec"] + w["b_dec"]
            return out + x @ w["W_skip"].T if skip else out

        start = point.format(layer)
        return {f"{start}/cfg.json": json_of(config), f"{start}/sae.safetensors": tensors_of(w.stored)}, formula

    kind = ("skip transcoder" if skip else "transcoder") if transcode else "SAE"
    extra = {"config.json": json_of({"model": "EleutherAI/pythia-70m-deduped", "sae": {}})}
    return _cases(f"sparsify {kind} {point.format('N')}", make, read=read, write=write, extra=extra)


# --- OpenMOSS


def _llama_scope(activation: str, norm: str = "dataset-wise") -> Case:
    def make(w: Drawn, layer: int) -> tuple[dict[str, bytes], Callable[[Tensor], Tensor]]:
        w.draw("encoder.weight", UNITS, D_MODEL), w.draw("encoder.bias", UNITS)
        w.draw("decoder.weight", D_MODEL, UNITS), w.draw("decoder.bias", D_MODEL)
        w.stored = {name: tensor.bfloat16() for name, tensor in w.stored.items()}
        hook, average, threshold = f"blocks.{layer}.hook_resid_post", 2.5, 0.3
        config = {
            "hook_point_in": hook, "hook_point_out": hook, "use_decoder_bias": True, "d_model": D_MODEL, "d_sae": UNITS,
            "apply_decoder_bias_to_pre_encoder": False, "expansion_factor": 8, "act_fn": activation, "top_k": K,
            "jump_relu_threshold": threshold if activation == "jumprelu" else 0.0, "norm_activation": norm,
            "dataset_average_activation_norm": {"in": average, "out": average}, "sparsity_include_decoder_norm": True,
        }  # fmt: skip

        def formula(x: Tensor) -> Tensor:
            """As loaded: the scale is put into biases, then decoder rows get norm 1."""
            scale = math.sqrt(D_MODEL) / average
            b_enc, b_dec, decoder = w["encoder.bias"] / scale, w["decoder.bias"] / scale, w["decoder.weight"].T
            norms = decoder.norm(dim=1)
            before = x @ (w["encoder.weight"] * norms[:, None]).T + b_enc * norms
            f = before * (before > threshold) if activation == "jumprelu" else largest(before.relu())
            return f @ (decoder / norms[:, None]) + b_dec

        start = f"Llama3_1-8B-Base-L{layer}R-8x"
        files = {
            f"{start}/hyperparams.json": json_of(config),
            f"{start}/checkpoints/final.safetensors": tensors_of(w.stored),
        }
        return files, formula

    return _cases(f"Llama Scope {activation}", make, read="hook_resid_post", write="hook_resid_post")


def _llamascopium(
    activation: str, norm: str = "dataset-wise", *, old_names: bool = False, gain: Callable[[int], Tensor] | None = None
) -> Case:
    def make(w: Drawn, layer: int) -> tuple[dict[str, bytes], Callable[[Tensor], Tensor]]:
        w.draw("W_E", D_MODEL, UNITS), w.draw("b_E", UNITS), w.draw("W_D", UNITS, D_MODEL), w.draw("b_D", D_MODEL)
        read, write = (
            (f"blocks.{layer}.ln2.hook_normalized", f"blocks.{layer}.hook_mlp_out") if gain else
            (f"blocks.{layer}.hook_resid_post",) * 2
        )  # fmt: skip
        if activation == "jumprelu":
            w.draw("log", UNITS)
        encoder, b_enc, decoder, b_dec = (w[name] for name in ("W_E", "b_E", "W_D", "b_D"))
        averages = {read: 1.7, write: 2.3}
        kept = dict(w.stored)
        if old_names:
            kept = {
                "encoder.weight": kept["W_E"].T, "encoder.bias": kept["b_E"], "decoder.weight": kept["W_D"].T,
                "decoder.bias": kept["b_D"], **({"log_jumprelu_threshold": kept["log"]} if "log" in kept else {}),
            }  # fmt: skip
        elif "log" in kept:
            kept["activation_function.log_jumprelu_threshold"] = kept.pop("log")
        kept |= {f"dataset_average_activation_norm.{hook}": torch.tensor(value) for hook, value in averages.items()}
        config = {
            "sae_type": "sae", "d_model": D_MODEL, "expansion_factor": UNITS / D_MODEL, "use_decoder_bias": True,
            "act_fn": activation, "norm_activation": norm, "sparsity_include_decoder_norm": True, "top_k": K,
            "use_glu_encoder": False, "hook_point_in": read, "hook_point_out": write,
        }  # fmt: skip

        def formula(x: Tensor) -> Tensor:
            x = x / gain(layer) if gain else x
            scale: dict[str, Any] = dict.fromkeys((read, write), 1.0)
            if norm == "dataset-wise":
                scale = {hook: math.sqrt(D_MODEL) / float(torch.tensor(value)) for hook, value in averages.items()}
            elif norm == "token-wise":
                scale = dict.fromkeys((read, write), math.sqrt(D_MODEL) / x.norm(dim=-1, keepdim=True))
            norms = decoder.norm(dim=1)
            before = ((x * scale[read]) @ encoder + b_enc) * norms
            if activation == "jumprelu":
                before = before * (before > w["log"].exp())
            elif activation == "topk":
                before = largest(before.relu())
            else:
                before = before.relu()
            return (before / norms @ decoder + b_dec) / scale[write]

        start = f"L{layer}R"
        return {f"{start}/config.json": json_of(config), f"{start}/sae_weights.safetensors": tensors_of(kept)}, formula

    name = f"{'lm-saes 1' if old_names else 'llamascopium'} {activation} {norm}{' transcoder' if gain else ''}"
    hooks = ("mlp.hook_in", "hook_mlp_out") if gain else ("hook_resid_post",) * 2
    extra = {"lm_config.json": json_of({"model_name": "gpt2"})}
    return _cases(name, make, read=hooks[0], write=hooks[1], extra=extra)


# --- circuit-tracer


def _traced(kind: str, hook_in: str, read: str, gain: Callable[[int], Tensor] | None = None) -> Case:
    def make(w: Drawn, layer: int) -> tuple[dict[str, bytes], Callable[[Tensor], Tensor]]:
        (
            w.draw("W_enc", UNITS, D_MODEL),
            w.draw("b_enc", UNITS),
            w.draw("W_dec", UNITS, D_MODEL),
            w.draw("b_dec", D_MODEL),
        )
        if "skip" in kind:
            w.draw("W_skip", D_MODEL, D_MODEL)
        if "jumprelu" in kind:
            w.draw("activation_function.threshold", UNITS, positive=True)

        def formula(x: Tensor) -> Tensor:
            x = x / gain(layer) if gain else x
            before = x @ w["W_enc"].T + w["b_enc"]
            if "jumprelu" in kind:
                f = before * (before > w["activation_function.threshold"])
            else:
                f = largest(before, UNITS - 4) if "topk" in kind else before.relu()
            out = f @ w["W_dec"] + w["b_dec"]
            return out + x @ w["W_skip"].T if "skip" in kind else out

        return {f"layer_{layer}.safetensors": tensors_of(w.stored)}, formula

    config = {
        "model_name": "Qwen/Qwen3-0.6B", "model_kind": "transcoder_set", "feature_input_hook": hook_in,
        "feature_output_hook": "mlp.hook_out", **({"activation": "topk", "k": UNITS - 4} if "topk" in kind else {}),
    }  # fmt: skip
    extra = {"config.yaml": yaml.safe_dump(config).encode()}
    return _cases(f"circuit-tracer {kind} {hook_in}", make, read=read, write="hook_mlp_out", extra=extra)


# --- SAELens


def _saelens(hook: str, written: str) -> Case:
    """Trained by SAELens 6 on a model that transformers loads, as its configuration has it."""

    def make(w: Drawn, layer: int) -> tuple[dict[str, bytes], Callable[[Tensor], Tensor]]:
        (
            w.draw("W_enc", D_MODEL, UNITS),
            w.draw("b_enc", UNITS),
            w.draw("W_dec", UNITS, D_MODEL),
            w.draw("b_dec", D_MODEL),
        )
        config = {
            "architecture": "standard", "d_in": D_MODEL, "d_sae": UNITS, "dtype": "float32", "device": "cuda",
            "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
            "metadata": {
                "sae_lens_version": "6.10.0", "model_name": "meta-llama/Llama-3.2-1B", "hook_name": hook.format(layer),
                "model_class_name": "AutoModelForCausalLM", "hook_head_index": None,
            },
        }  # fmt: skip

        def formula(x: Tensor) -> Tensor:
            return ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu() @ w["W_dec"] + w["b_dec"]

        start = f"sae_{layer}"
        return {f"{start}/cfg.json": json_of(config), f"{start}/sae_weights.safetensors": tensors_of(w.stored)}, formula

    return _cases(f"SAELens {hook.format('N')}", make, read=written, write=written)


def _checkpoint(normalised: bool) -> Case:
    """A checkpoint in the middle of SAELens's training: BatchTopK, with its constant beside it where there is one."""
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

    def make(w: Drawn, layer: int) -> tuple[dict[str, bytes], Callable[[Tensor], Tensor]]:
        from sae_lens.saes.sae import SAEMetadata

        metadata = SAEMetadata(hook_name=f"blocks.{layer}.hook_mlp_out", model_name="gpt2", hook_head_index=None)
        training = BatchTopKTrainingSAE(
            BatchTopKTrainingSAEConfig(
                d_in=D_MODEL, d_sae=UNITS, k=K, metadata=metadata,
                normalize_activations="expected_average_only_in" if normalised else "none",
            )
        )  # fmt: skip
        with torch.no_grad():
            for name, parameter in training.named_parameters():
                parameter.copy_(w.draw(name, *parameter.shape))
        training.topk_threshold = torch.tensor(0.35, dtype=torch.double)
        scale = 1.6 if normalised else 1.0
        files = {}
        with tempfile.TemporaryDirectory() as folder:
            training.save_model(folder)
            for path in Path(folder).iterdir():
                files[f"checkpoints/layer_{layer}/{path.name}"] = path.read_bytes()
        files[f"checkpoints/layer_{layer}/activation_scaler.json"] = json_of(
            {"scaling_factor": 1.6 if normalised else None}
        )

        def formula(x: Tensor) -> Tensor:
            """Units are weighed by their decoder's norm, and one threshold takes the place of the batch's."""
            norms = w["W_dec"].norm(dim=1)
            before = ((scale * x - shift) @ w["W_enc"] + w["b_enc"]) * norms
            return ((before * (before > 0.35)) / norms @ w["W_dec"] + w["b_dec"]) / scale

        shift = w["b_dec"] if training.cfg.apply_b_dec_to_input else torch.zeros(D_MODEL).double()
        return files, formula

    name = f"SAELens BatchTopK checkpoint{' with its constant' if normalised else ''}"
    return _cases(name, make, read="hook_mlp_out", write="hook_mlp_out")


def cases(gain: Callable[[int], Tensor]) -> list[Case]:
    """Return every case.

    Args:
        gain: of the norm in front of the MLP, by layer.
    """
    resid, mlp, attn = "hook_resid_post", "hook_mlp_out", "hook_attn_out"
    return [
        _scope("res", resid, resid),
        _scope("mlp", mlp, mlp),
        _scope("att", "attn.hook_z", "attn.hook_z"),
        _scope("transcoders", "mlp.hook_in", mlp, gain),
        _scope_2("resid_post", "output", resid, resid),
        _scope_2("resid_post", "output", resid, resid, configured=False),
        _scope_2("attn_out_all", "self_attn.o_proj.input", "attn.hook_z", "attn.hook_z"),
        _scope_2("mlp_out", "post_feedforward_layernorm.output", mlp, mlp),
        _scope_2("transcoder_all", "pre_feedforward_layernorm.output", "mlp.hook_in", mlp),
        _scope_2("transcoder", "pre_feedforward_layernorm.output", "mlp.hook_in", mlp, affine=True),
        _learned("AutoEncoder", "resid_post", resid),
        _learned("AutoEncoderNew", "mlp_out", mlp),
        _learned("GatedAutoEncoder", "attention_out", attn),
        _learned("AutoEncoderTopK", "resid_post", resid),
        _learned("BatchTopKSAE", "resid_post", resid),
        _learned("BatchTopKSAE", "resid_post", resid, threshold=-1.0),
        _learned("MatryoshkaBatchTopKSAE", "mlp_out", mlp),
        _learned("JumpReluAutoEncoder", "resid_post", resid),
        _sparsify("layers.{}", resid, resid),
        _sparsify("layers.{}.mlp", mlp, mlp),
        _sparsify("layers.{}.self_attn", attn, attn),
        _sparsify("layers.{}.mlp", "mlp.hook_in", mlp, transcode=True),
        _sparsify("layers.{}.mlp", "mlp.hook_in", mlp, transcode=True, skip=True),
        _llama_scope("jumprelu"),
        _llama_scope("topk"),
        _llamascopium("jumprelu"),
        _llamascopium("jumprelu", old_names=True),
        _llamascopium("relu", "inference"),
        _llamascopium("topk"),
        _llamascopium("topk", "token-wise"),
        _llamascopium("jumprelu", gain=gain),
        _traced("relu", "mlp.hook_in", "mlp.hook_in"),
        _traced("jumprelu", "hook_resid_mid", "hook_resid_mid"),
        _traced("jumprelu skip", "mlp.hook_in", "mlp.hook_in"),
        _traced("topk", "mlp.hook_in", "mlp.hook_in"),
        _traced("relu skip", "ln2.hook_normalized", "mlp.hook_in", gain),
        _saelens("model.layers.{}", resid),
        _saelens("model.layers.{}.mlp", mlp),
        _saelens("model.layers.{}.self_attn", attn),
        _checkpoint(normalised=False),
        _checkpoint(normalised=True),
    ]  # fmt: skip
