"""Read dictionaries of OpenMOSS: Llama Scope's `hyperparams.json`, lm-saes 1 and llamascopium 2 (`config.json`).

Source: github.com/OpenMOSS/Language-Model-SAEs, `src/llamascopium/models/{sae,sparse_dictionary}.py` at commit
95281ac7ea409a7407f7ef4e480a368413495531, and `src/lm_saes/sae.py` at 9e2579cc20cbf97175589f6c6a638dbcb6a8565b, which
wrote Llama Scope (`from_config`, `standardize_parameters_of_dataset_activation_scaling` and
`transform_to_unit_decoder_norm`).

1. The input is scaled by s_in, the output by s_out: sqrt(d) / average norm (`dataset-wise`), sqrt(d) / norm
   (`token-wise`), or not at all (`inference`).
2. llamascopium: f = act((s_in x @ W_E + b_E) n) / n and y = (f @ W_D + b_D) / s_out, with n the norms of W_D's rows
   where `sparsity_include_decoder_norm`, else 1; act is ReLU, JumpReLU or top-k.
3. Llama Scope's threshold was found after the scale had been put into the weights, so that it is one of
   (x @ W_E + b_E / s_in) n, with n the norms of W_D s_in / s_out.
4. llamascopium's models are TransformerLens's with processed weights: centred where they have LayerNorms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from basisbench.errors import BasisError
from basisbench_baselines.dictionaries.makers import Facts, Tensors, facts_of, read_json, tensor

if TYPE_CHECKING:
    from torch import Tensor

    from basisbench_baselines.dictionaries.trees import Files

_KINDS = {
    "clt": "a cross-layer transcoder of llamascopium is not supported; export it in circuit-tracer's format",
    "crosscoder": "a crosscoder reads and writes several places at once",
    "lorsa": "low-rank sparse attention reads other positions too",
    "molt": "a mixture of linear transforms has no unit with one decoder row",
}
WEIGHTS = ("sae_weights", "checkpoints/pruned", "checkpoints/final")
"""Where weights are looked for, in the makers' own order; as .safetensors, then .pt."""


def facts(files: Files, place: str) -> Facts:
    """Read the configuration of a dictionary of OpenMOSS."""
    early = files.has(f"{place}/hyperparams.json")
    name = f"{place}/{'hyperparams' if early else 'config'}.json"
    own = read_json(files, name)
    if (kind := own.get("sae_type", "sae")) != "sae":
        raise BasisError(
            f"{files.where(name)} has sae_type '{kind}': {_KINDS.get(str(kind), 'only sae can be compared')}"
        )
    if own.get("use_glu_encoder"):
        raise BasisError(f"{files.where(name)} has a gated encoder (use_glu_encoder), which is not supported")
    activation = str(own.get("act_fn", "relu")).lower()
    if early and activation == "topk" and own.get("jump_relu_threshold", 0) > 0:
        activation = "jumprelu"
    kinds = {"relu": "standard", "jumprelu": "jumprelu", "topk": "topk"}
    if activation not in kinds:
        advice = "; convert it to JumpReLU with llamascopium" if "topk" in activation else ""
        raise BasisError(f"{files.where(name)} has act_fn '{activation}', expected one of {', '.join(kinds)}{advice}")
    norm = own.get("norm_activation", "dataset-wise")
    if norm not in ("dataset-wise", "token-wise", "inference", "none"):
        raise BasisError(f"{files.where(name)} has norm_activation '{norm}', which depends on the batch")
    read = own.get("hook_point_in")
    write = own.get("hook_point_out") or read
    transcoder = write != read
    if transcoder and norm == "token-wise":
        raise BasisError(f"{files.where(name)} is a transcoder whose output is scaled by its own norm (token-wise)")
    if transcoder and str(read).endswith("hook_resid_mid") and not early:
        raise BasisError(f"{files.where(name)} reads '{read}' of a model with processed weights; a transcoder cannot")
    fields = {"k": own.get("top_k", 50)} if activation == "topk" else {}
    return facts_of(
        ("topk_transcoder" if activation == "topk" else "transcoder") if transcoder else kinds[activation],
        {
            "hook_name": read,
            "model_name": _model(files, place),
            **({"hook_name_out": write} if transcoder else {}),
            "model_from_pretrained_kwargs": {} if early or transcoder else {"center_writing_weights": True},
        },
        {**own, "act_fn": activation, "early": early},
        apply_b_dec_to_input=bool(own.get("use_decoder_bias", True) and own.get("apply_decoder_bias_to_pre_encoder")),
        normalize_activations="constant_norm_rescale" if norm == "token-wise" else "none",
        **fields,
    )


def _model(files: Files, place: str) -> str | None:
    """Return the model's name from the configuration that llamascopium uploads beside, or above, a dictionary."""
    for name in (f"{place}/lm_config.json", "lm_config.json"):
        if files.has(name):
            model = read_json(files, name).get("model_name")
            return model if isinstance(model, str) else None
    return None


def weights(facts: Facts, tensors: Tensors) -> dict[str, Tensor]:
    """Return the weights of OpenMOSS by SAELens's names, with scales and norms put into them."""
    own = facts["own"]
    early = own["early"]
    encoder = tensors["W_E"] if "W_E" in tensors else tensor(tensors, "encoder.weight", "W_E").T
    decoder = tensors["W_D"] if "W_D" in tensors else tensor(tensors, "decoder.weight", "W_D").T
    b_enc = tensor(tensors, "b_E", "encoder.bias")
    b_dec = (
        tensor(tensors, "b_D", "decoder.bias")
        if own.get("use_decoder_bias", True)
        else decoder.new_zeros(decoder.shape[1])
    )
    scale_in, scale_out = (_scale(facts, tensors, end, encoder.shape[0]) for end in ("in", "out"))
    if early:
        b_enc, decoder = b_enc / scale_in, decoder * (scale_in / scale_out)
    else:
        encoder, decoder = encoder * scale_in, decoder / scale_out
    b_dec = b_dec / scale_out
    # Whatever is compared is compared times the decoder's norm, before it was scaled back.
    norms = decoder.norm(dim=1) * (1 if early else scale_out)
    norms = norms.where((norms > 0) & bool(own.get("sparsity_include_decoder_norm", True)), 1)
    if own["act_fn"] == "jumprelu":
        scalar = own.get("jump_relu_threshold")
        logs = "activation_function.log_jumprelu_threshold", "log_jumprelu_threshold"
        threshold = norms.new_full((), float(scalar)) if early and scalar is not None else tensor(tensors, *logs).exp()
        return {"W_enc": encoder, "b_enc": b_enc, "W_dec": decoder, "b_dec": b_dec, "threshold": threshold / norms}
    if own["act_fn"] == "topk":
        encoder, b_enc, decoder = encoder * norms, b_enc * norms, decoder / norms[:, None]
    return {"W_enc": encoder, "b_enc": b_enc, "W_dec": decoder, "b_dec": b_dec}


def _scale(facts: Facts, tensors: Tensors, end: str, width: int) -> Tensor | float:
    """Return sqrt(d) / average norm at one end of a dictionary that was trained so; else 1."""
    own = facts["own"]
    if own.get("norm_activation", "dataset-wise") != "dataset-wise":
        return 1.0
    norms = own.get("dataset_average_activation_norm")
    if isinstance(norms, dict) and end in norms:
        return float(width**0.5 / norms[end])
    hook = (end == "out" and own.get("hook_point_out")) or own.get("hook_point_in")
    average: Tensor = tensor(tensors, f"dataset_average_activation_norm.{hook}")
    scale: Tensor = average.reciprocal() * width**0.5
    return scale
