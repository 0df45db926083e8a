"""Load a model by its name: a checkpoint folder, a repository of the Hugging Face hub, or a GGUF file.

1. The device is tried, and the repository's configuration is fetched: whatever cannot be had is reported before weights
   are loaded (`basisbench.models.hub`).
2. Tokenizer and weights come from the commit that the configuration came from.
3. A checkpoint that lacks weights, mixes types, or is not causal is refused: it would give numbers all the same.
"""

from __future__ import annotations

import copy
import json
import textwrap
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from functools import partial
from io import StringIO
from typing import TYPE_CHECKING, Any

from basisbench.errors import BasisBenchError, first_line
from basisbench.models.batching import is_out_of_memory
from basisbench.models.examine import examine
from basisbench.models.gguf import GgufFile, describe, locate_model
from basisbench.models.hub import Located, fetch
from basisbench.models.hub_errors import one_line
from basisbench.models.model import Model
from basisbench.models.sites import refused
from basisbench.types import ModelSpec

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16", "float64")
"""Types that the weights can be cast to."""

AUTO = "auto"
"""Name of the device that stands for all of the machine's GPUs."""

_DOWNLOADS = 8
"""Files of weights that are fetched at the same time, as many as the hub's client fetches of a repository."""

_FOR_THE_MODEL = 0.9
"""Share of a GPU's free memory that weights may take; the first GPU gets as few layers as possible besides."""


def load_model(spec: ModelSpec, *, device: str = "cpu", dtype: str | None = None) -> Model:
    """Load a checkpoint and wrap it.

    Args:
        spec: which model.
        device: torch device, for example "cuda:0"; "auto" spreads the layers over all GPUs.
        dtype: one of `DTYPES`; the checkpoint's own when None.

    Raises:
        BasisBenchError: the checkpoint cannot be had, is not a causal language model with a tokenizer, or the device
            cannot be used.
    """
    owner = f"model '{spec.name}'"
    where = placement(device)
    located = locate_model(spec)
    if not located.gguf:
        _check_configuration(owner, located)
    tokenizer = load_tokenizer(owner, located)
    if located.gguf and dtype is None:
        dtype = "float32"  # its norms are, whatever the other weights were quantised to
    body = _load_body(owner, located, dtype, where)
    if dtype is None:
        _check_one_type(owner, located, body)
    _check_causal(owner, body)
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
    from transformers import AutoTokenizer

    missing = f"{owner}: no usable tokenizer in {located.where}; expected its tokenizer.json"
    try:
        with one_line(owner, located.where, located.revision):
            fetch(located, "tokenizer.json")
            tokenizer = AutoTokenizer.from_pretrained(**located.options)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise BasisBenchError(f"{missing}: {first_line(error)}") from error
    # Without any file, transformers makes up an empty tokenizer of the class that the configuration calls for.
    if not getattr(tokenizer, "is_fast", False) or len(tokenizer.get_vocab()) <= len(tokenizer.all_special_tokens):
        raise BasisBenchError(missing)
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
        raise BasisBenchError(f"device '{device}' cannot be used: {first_line(error)}; {_devices()}") from error
    if target.type == "meta":
        raise BasisBenchError(f"device 'meta' holds no numbers; {_devices()}")
    return {} if target.type == "cpu" else {"device_map": {"": target}}


def _devices() -> str:
    import torch

    found = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        found.append("mps")
    return f"devices here: {', '.join(found)}"


def _load_body(owner: str, located: Located, dtype: str | None, where: Mapping[str, Any]) -> Any:
    """Load the weights, where they belong."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    if dtype is not None and dtype not in DTYPES:
        raise BasisBenchError(f"dtype '{dtype}' is not one of {', '.join(DTYPES)}")
    try:
        # The attention implementation is the architecture's own default: some refuse a given one.
        with quiet_loading(), one_line(owner, located.where, located.revision):
            _fetch_weights(located)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                **located.options,
                dtype=getattr(torch, dtype) if dtype else AUTO,
                output_loading_info=True,
                **where,
            )
    except (OSError, ValueError, KeyError, AttributeError, ImportError, SafetensorError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise BasisBenchError(
                f"{owner}: its weights do not fit into memory; use --dtype bfloat16, or --device auto on a machine "
                "with several GPUs"
            ) from error
        raise BasisBenchError(
            f"{owner}: {located.where} cannot be loaded as a causal language model: {first_line(error)}"
        ) from error
    body, account = loaded
    missing = sorted(account["missing_keys"])
    if missing:
        raise BasisBenchError(
            f"{owner}: the checkpoint in {located.where} lacks {len(missing)} weights of a "
            f"{type(body).__name__}, the first of them {missing[0]}; it is not a whole causal language model"
        )
    spread = {str(place) for place in getattr(body, "hf_device_map", {}).values()}
    if spread & {"cpu", "disk"} and len(spread) > 1:
        raise BasisBenchError(
            f"{owner}: does not fit on the GPUs of this machine; use --dtype bfloat16, or a machine with more of them"
        )
    return body


def _fetch_weights(located: Located) -> None:
    """Fetch the files of weights, several at once; transformers finds them in the cache, and fetches any others."""
    if fetch(located, "model.safetensors") is None:
        index = fetch(located, "model.safetensors.index.json")
        shards = {} if index is None else json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        with ThreadPoolExecutor(_DOWNLOADS) as pool:  # the first one that fails cancels those that wait
            list(pool.map(partial(fetch, located), sorted(set(shards.values()))))


def _check_one_type(owner: str, located: Located, body: Any) -> None:
    """Refuse a checkpoint of several types unless the widest was taken: transformers rounds the others silently."""
    import torch
    from safetensors import safe_open

    names = {name for name, _ in body.named_parameters()}
    stored: dict[torch.dtype, str] = {}
    for path in sorted(located.file.parent.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 -- not a mapping
                dtype = _STORED.get(file.get_slice(name).get_dtype())
                # Some checkpoints leave the name of the base model out.
                if dtype and (name in names or f"{body.base_model_prefix}.{name}" in names):
                    stored.setdefault(getattr(torch, dtype), name)
    for name, parameter in body.named_parameters():
        stored.setdefault(parameter.dtype, name)
    used = next(body.parameters()).dtype
    several = {parameter.dtype for parameter in body.parameters()}
    if len(several) > 1 or any(torch.promote_types(used, dtype) != used for dtype in stored):
        found = ", ".join(f"{str(dtype).removeprefix('torch.')} ({name}, ...)" for dtype, name in stored.items())
        raise BasisBenchError(f"{owner}: its weights are of several types: {found}; choose one with --dtype")


_STORED: Mapping[str, str] = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""Types of weights as safetensors writes them."""


def _check_configuration(owner: str, located: Located) -> None:
    """Refuse a configuration that cannot be read: what transformers says of it would blame something else."""
    try:
        content = json.loads(located.file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BasisBenchError(f"{owner}: {located.file} is not JSON: {first_line(error)}") from error
    if not isinstance(content, dict) or not content.get("model_type"):
        raise BasisBenchError(f"{owner}: {located.file} has no model_type; expected a transformers configuration")


def _check_causal(owner: str, body: Any) -> None:
    """Refuse a model whose first position sees what comes later."""
    import torch

    device = next(body.parameters()).device
    prompts = torch.tensor([[1, 2, 3], [1, 4, 5]], device=device)
    with torch.inference_mode():
        first = body.eval()(input_ids=prompts, use_cache=False).logits[:, 0].float()
    rounding = min(100 * torch.finfo(next(body.parameters()).dtype).eps, 0.05)
    if float((first[0] - first[1]).abs().max()) > rounding * float(first.abs().max()):
        raise BasisBenchError(
            f"{owner}: {type(body).__name__} is not causal: what it says at the first position depends on later tokens"
        )


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers' loading bars off, for the run has a progress display of its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with redirect_stderr(StringIO()):  # the bar of GGUF files asks nobody
            yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


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
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        # Some of TransformerLens's messages go on to list every architecture that it knows.
        reason = textwrap.shorten(str(error) or type(error).__name__, 120, placeholder=" ...")
        raise refused(spec.name, type(body).__name__, f"TransformerLens cannot wrap it ({reason})") from error
    bridge.eval().requires_grad_(False)
    model = Model(spec=spec, body=body, bridge=bridge, tokenizer=tokenizer, _modules=modules, file=file)
    examine(model)
    return model
