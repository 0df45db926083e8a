"""Tiny dictionaries in the exact files of each maker, with what the maker's own code computes of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import Tensor

from helpers.maker_files import UNITS, Case, Drawn, K, json_of, largest, made, pickled, tensors_of
from helpers.maker_scopes import llama_scope, llamascopium, scope, scope_2
from helpers.oracle_evaluator import D_MODEL

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
    return made(f"dictionary_learning {kind}{early}", make, read=hook, write=hook)


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
    return made(f"sparsify {kind} {point.format('N')}", make, read=read, write=write, extra=extra)


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
    return made(f"circuit-tracer {kind} {hook_in}", make, read=read, write="hook_mlp_out", extra=extra)


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

    return made(f"SAELens {hook.format('N')}", make, read=written, write=written)


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
    return made(name, make, read="hook_mlp_out", write="hook_mlp_out")


def cases(gain: Callable[[int], Tensor]) -> list[Case]:
    """Return every case.

    Args:
        gain: of the norm in front of the MLP, by layer.
    """
    resid, mlp, attn = "hook_resid_post", "hook_mlp_out", "hook_attn_out"
    return [
        scope("res", resid, resid),
        scope("mlp", mlp, mlp),
        scope("att", "attn.hook_z", "attn.hook_z"),
        scope("transcoders", "mlp.hook_in", mlp, gain),
        scope_2("resid_post", "output", resid, resid),
        scope_2("resid_post", "output", resid, resid, configured=False),
        scope_2("attn_out_all", "self_attn.o_proj.input", "attn.hook_z", "attn.hook_z"),
        scope_2("mlp_out", "post_feedforward_layernorm.output", mlp, mlp),
        scope_2("transcoder_all", "pre_feedforward_layernorm.output", "mlp.hook_in", mlp),
        scope_2("transcoder", "pre_feedforward_layernorm.output", "mlp.hook_in", mlp, affine=True),
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
        llama_scope("jumprelu"),
        llama_scope("topk"),
        llama_scope("jumprelu", gain),
        llamascopium("jumprelu"),
        llamascopium("jumprelu", old_names=True),
        llamascopium("relu", "inference"),
        llamascopium("topk"),
        llamascopium("topk", "token-wise"),
        llamascopium("jumprelu", gain=gain),
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
