"""Gemma Scope 1 and 2, Llama Scope and llamascopium: tiny dictionaries in their exact files, and their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from helpers.maker_files import UNITS, Case, Drawn, K, json_of, largest, made, tensors_of, zipped
from helpers.oracle_evaluator import D_MODEL

# --- Gemma Scope


def scope(kind: str, read: str, write: str, gain: Callable[[int], Tensor] | None = None) -> Case:
    def make(w: Drawn, layer: int) -> tuple[dict[str, bytes], Callable[[Tensor], Tensor]]:
        w.draw("W_enc", D_MODEL, UNITS), w.draw("W_dec", UNITS, D_MODEL)
        w.draw("b_enc", UNITS), w.draw("b_dec", D_MODEL), w.draw("threshold", UNITS, positive=True)

        def formula(x: Tensor) -> Tensor:
            before = (x / gain(layer) if gain else x) @ w["W_enc"] + w["b_enc"]
            return (before.relu() * (before > w["threshold"])) @ w["W_dec"] + w["b_dec"]

        return {f"layer_{layer}/width_16k/average_l0_71/params.npz": zipped(w.stored)}, formula

    return made(f"Gemma Scope {kind}", make, read=read, write=write, repository=f"google/gemma-scope-2b-pt-{kind}")


def scope_2(site: str, hook: str, read: str, write: str, *, configured: bool = True, affine: bool = False) -> Case:
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
    return made(name, make, read=read, write=write, repository="google/gemma-scope-2-270m-pt")


# --- OpenMOSS


def llama_scope(activation: str, gain: Callable[[int], Tensor] | None = None) -> Case:
    def make(w: Drawn, layer: int) -> tuple[dict[str, bytes], Callable[[Tensor], Tensor]]:
        w.draw("encoder.weight", UNITS, D_MODEL), w.draw("encoder.bias", UNITS)
        w.draw("decoder.weight", D_MODEL, UNITS), w.draw("decoder.bias", D_MODEL)
        w.stored = {name: tensor.bfloat16() for name, tensor in w.stored.items()}
        average, threshold = {"in": 2.5, "out": 1.8 if gain else 2.5}, 0.3
        read = f"blocks.{layer}.{'ln2.hook_normalized' if gain else 'hook_resid_post'}"
        config = {
            "hook_point_in": read, "hook_point_out": f"blocks.{layer}.hook_mlp_out" if gain else read,
            "use_decoder_bias": True, "d_model": D_MODEL, "d_sae": UNITS,
            "apply_decoder_bias_to_pre_encoder": False, "expansion_factor": 8, "act_fn": activation, "top_k": K,
            "jump_relu_threshold": threshold if activation == "jumprelu" else 0.0, "norm_activation": "dataset-wise",
            "dataset_average_activation_norm": average, "sparsity_include_decoder_norm": True,
        }  # fmt: skip

        def formula(x: Tensor) -> Tensor:
            """As loaded: the scale is put into biases, then decoder rows get norm 1."""
            x = x / gain(layer) if gain else x
            scale = {end: math.sqrt(D_MODEL) / value for end, value in average.items()}
            b_enc, b_dec = w["encoder.bias"] / scale["in"], w["decoder.bias"] / scale["out"]
            decoder = w["decoder.weight"].T * scale["in"] / scale["out"]
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

    hooks = ("mlp.hook_in", "hook_mlp_out") if gain else ("hook_resid_post",) * 2
    name = f"Llama Scope {activation}{' transcoder' if gain else ''}"
    return made(name, make, read=hooks[0], write=hooks[1])


def llamascopium(
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
    return made(name, make, read=hooks[0], write=hooks[1], extra=extra)
