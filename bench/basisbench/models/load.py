"""Load a model by its name: a checkpoint folder, a repository of the Hugging Face hub, or a GGUF file.

1. The device is tried, and the configuration is fetched and read: whatever cannot be had or used is reported before
   weights are loaded (`basisbench.models.hub`, `configuration`).
2. Tokenizer and weights come from the commit that the configuration came from (`basisbench.models.weights`).
3. TransformerLens gives the hooks their names; every part that the harness needs is looked for
   (`basisbench.models.examine`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from basisbench.errors import BasisBenchError, whole_message
from basisbench.models.batching import is_out_of_memory
from basisbench.models.configuration import read_configuration
from basisbench.models.examine import examine, missing_sites
from basisbench.models.gguf import GgufFile, describe, locate_model, read_once
from basisbench.models.hub import Located, fetch
from basisbench.models.hub_errors import one_line
from basisbench.models.made import made
from basisbench.models.model import Model
from basisbench.models.sites import refused
from basisbench.models.weights import load_body
from basisbench.types import ModelSpec

AUTO = "auto"
"""Name of the device that stands for all of the machine's GPUs."""

_FOR_THE_MODEL = 0.9
"""Share of a GPU's free memory that weights may take; the first GPU gets as few layers as possible besides."""


def load_model(spec: ModelSpec, *, device: str = "cpu", dtype: str | None = None) -> Model:
    """Load a checkpoint and wrap it.

    Args:
        spec: which model.
        device: torch device, for example "cuda:0"; "auto" spreads the layers over all GPUs.
        dtype: one of `weights.DTYPES`; the checkpoint's own when None.

    Raises:
        BasisBenchError: the checkpoint cannot be had, is not a causal language model with a tokenizer, or the device
            cannot be used.
    """
    owner = f"model '{spec.name}'"
    where = placement(device)
    spec = made(spec)
    located = locate_model(spec)
    with read_once() if located.gguf else nullcontext():
        config = read_configuration(owner, located)
        tokenizer = load_tokenizer(owner, located)
        body = load_body(owner, located, config, dtype, where)
    file = describe(located.file) if located.gguf else None
    return wrap(body, tokenizer, replace(spec, revision=located.revision), file)


def load_tokenizer(owner: str, located: Located) -> Any:
    """Load the fast tokenizer of a checkpoint.

    Args:
        owner: what it is for, for messages.
        located: where it is.

    Raises:
        BasisBenchError: there is none.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # Of a GGUF file both make the same one; the first would read the whole file for the name of a class.
    kind: Any = PreTrainedTokenizerFast if located.gguf else AutoTokenizer
    missing = f"{owner}: no usable tokenizer in {located.where}" + ("" if located.gguf else "; expected tokenizer.json")
    try:
        with one_line(owner, located.where, located.revision):
            fetch(located, "tokenizer.json")
            tokenizer = kind.from_pretrained(**located.options)
    except BasisBenchError:
        raise
    except Exception as error:  # whatever files of somebody else make the libraries do
        raise BasisBenchError(f"{missing}: {whole_message(error)}") from error
    # Without any file, transformers makes up an empty tokenizer of the class that the configuration calls for.
    if not getattr(tokenizer, "is_fast", False) or len(tokenizer.get_vocab()) <= len(tokenizer.all_special_tokens):
        raise BasisBenchError(missing)
    tokenizer.owner = owner  # for messages: its path may be that of a cache
    return tokenizer


def placement(device: str) -> Mapping[str, Any]:
    """Return the options of `from_pretrained` that say where weights go, after trying the device."""
    import torch

    if device == AUTO:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise BasisBenchError(f"device '{AUTO}' spreads a model over GPUs, and this machine has none; {_devices()}")
        if count == 1:
            return {"device_map": {"": 0}}
        room = {index: int(_FOR_THE_MODEL * torch.cuda.mem_get_info(index)[0]) for index in range(count)}
        return {"device_map": "balanced_low_0", "max_memory": room}
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BasisBenchError(f"device '{device}' cannot be used: {whole_message(error)}; {_devices()}") from error
    if target.type == "meta":
        raise BasisBenchError(f"device 'meta' holds no numbers; {_devices()}")
    return {} if target.type == "cpu" else {"device_map": {"": target}}


def _devices() -> str:
    import torch

    found = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        found.append("mps")
    return f"devices here: {', '.join(found)}"


def wrap(body: Any, tokenizer: Any, spec: ModelSpec, file: GgufFile | None = None) -> Model:
    """Wrap a loaded Hugging Face causal language model; the model is put in evaluation mode.

    Args:
        body: the model.
        tokenizer: its fast tokenizer.
        spec: where it came from.
        file: the GGUF file that it was read from, if any.

    Raises:
        BasisBenchError: the architecture lacks a part; names what is missing and where to add it.
    """
    from transformer_lens.model_bridge import TransformerBridge

    if body.config.get_text_config() is not body.config:
        # TransformerLens would want a processor for it, and install what that needs.
        raise refused(
            spec.name, type(body).__name__, "it is multimodal, and has no text model of its own in transformers"
        )
    body.eval().requires_grad_(False)
    shared = {id(tensor): tensor for tensor in [*body.parameters(), *body.buffers()]}
    twin = copy.deepcopy(body, shared)
    try:
        # RelP needs the attention pattern as a tensor, which only the eager implementation has.
        twin.set_attn_implementation("eager")
        # Its adapter is chosen by what was loaded, whatever the configuration file says of it.
        twin.config.architectures = [type(body).__name__]
        vars(twin.config).pop("original_architecture", None)
        modules = {id(module): name for name, module in twin.named_modules()}
        # TransformerLens gives a tokenizer without a beginning-of-sequence token another one for it: not to ours.
        bridge = TransformerBridge.boot_transformers(
            spec.path or spec.name,
            hf_model=twin,
            tokenizer=copy.deepcopy(tokenizer),
            device=body.device,
            dtype=body.dtype,
        )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        # Some of TransformerLens's messages go on to list every architecture that it knows.
        reason = whole_message(error, 120)
        raise refused(spec.name, type(body).__name__, f"TransformerLens cannot wrap it ({reason})") from error
    bridge.eval().requires_grad_(False)
    model = Model(spec=spec, body=body, bridge=bridge, tokenizer=tokenizer, _modules=modules, file=file)
    model = replace(model, without=missing_sites(model))
    examine(model)
    return model
