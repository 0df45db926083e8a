"""Load the weights of a causal language model, and refuse those that would give numbers all the same.

1. Files of a repository are fetched several at once; transformers reads them, pickles only where they hold nothing but
   tensors (`weights_only`).
2. All of the model's weights must be there, be numbers, and be of one type unless one is chosen.
3. What the model says at a position must not depend on later ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basisbench.errors import BasisBenchError, whole_message
from basisbench.models.batching import is_out_of_memory
from basisbench.models.configuration import TEXT_NAMES, text_name
from basisbench.models.gguf import scale_frequencies
from basisbench.models.hub import Located, fetch
from basisbench.models.hub_errors import one_line

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16", "float64")
"""Types that the weights can be cast to."""

_DOWNLOADS = 8
"""Files of weights that are fetched at the same time, as many as the hub's client fetches of a repository."""


def load_body(owner: str, located: Located, config: Any, dtype: str | None, where: Mapping[str, Any]) -> Any:
    """Load a model's weights.

    Args:
        owner: what it is for, for messages.
        located: where they are.
        config: configuration of the (text) model.
        dtype: one of `DTYPES`; the checkpoint's own when None.
        where: options of `from_pretrained` that say on which devices.

    Raises:
        BasisBenchError: they cannot be loaded, or are not those of a causal language model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if dtype is not None and dtype not in DTYPES:
        raise BasisBenchError(f"dtype '{dtype}' is not one of {', '.join(DTYPES)}")
    if located.gguf and dtype is None:
        dtype = "float32"  # its norms are, whatever the other weights were quantised to
    if dtype == "float64":
        config._experts_implementation = "eager"  # the fused product of experts has no such type
    try:
        with one_line(owner, located.where, located.revision):
            fetch_weights(located)
            with _quiet_loading():
                # The attention implementation is the architecture's own default: some refuse a given one.
                loaded: Any = AutoModelForCausalLM.from_pretrained(
                    **located.options,
                    config=config,
                    dtype=getattr(torch, dtype) if dtype else "auto",
                    key_mapping=None if located.gguf else dict(TEXT_NAMES),
                    weights_only=True,
                    ignore_mismatched_sizes=True,  # told below, where the library would point to a report
                    output_loading_info=True,
                    **where,
                )
    except BasisBenchError:
        raise
    except Exception as error:  # whatever files of somebody else make the libraries do
        if is_out_of_memory(error):
            raise BasisBenchError(
                f"{owner}: its weights do not fit into memory; use --dtype bfloat16, or --device auto on a machine "
                "with several GPUs"
            ) from error
        raise BasisBenchError(
            f"{owner}: {located.where} cannot be loaded as a causal language model: {whole_message(error)}"
        ) from error
    body, account = loaded
    for name, stored, wanted in sorted(account["mismatched_keys"])[:1]:
        raise BasisBenchError(
            f"{owner}: {name} in {located.where} is of size {tuple(stored)}, and {tuple(wanted)} by its configuration"
        )
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
    if located.gguf:
        scale_frequencies(body, located.file)
    if dtype is None:
        _check_one_type(owner, located, body)
    _check_numbers(owner, located, body)
    _check_causal(owner, body)
    return body


def fetch_weights(located: Located) -> None:
    """Fetch the files of weights, several at once; transformers finds them in the cache, and fetches any others."""
    if fetch(located, "model.safetensors") is None:
        index = fetch(located, "model.safetensors.index.json")
        shards = {} if index is None else json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        with ThreadPoolExecutor(_DOWNLOADS) as pool:  # the first one that fails cancels those that wait
            list(pool.map(partial(fetch, located), sorted(set(shards.values()))))


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Keep transformers' bars and reports off: the run has a display of its own, and says itself what is wrong."""
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call] # transformers
    logging.set_verbosity_error()  # type: ignore[no-untyped-call] # transformers
    try:
        with redirect_stderr(StringIO()):  # the bar of GGUF files asks nobody
            yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call] # transformers


def _check_one_type(owner: str, located: Located, body: Any) -> None:
    """Refuse a checkpoint of several types unless the widest was taken: transformers rounds the others silently."""
    import torch

    names = {name for name, _ in body.named_parameters()}
    stored: dict[torch.dtype, str] = {}
    for name, dtype in _stored_types(located.file.parent):
        name = text_name(name)
        # Some checkpoints leave the name of the base model out.
        if name in names or f"{body.base_model_prefix}.{name}" in names:
            stored.setdefault(dtype, name)
    for name, parameter in body.named_parameters():
        stored.setdefault(parameter.dtype, name)
    used = next(body.parameters()).dtype
    several = {parameter.dtype for parameter in body.parameters()}
    if len(several) > 1 or any(torch.promote_types(used, dtype) != used for dtype in stored):
        found = ", ".join(f"{str(dtype).removeprefix('torch.')} ({name}, ...)" for dtype, name in stored.items())
        raise BasisBenchError(f"{owner}: its weights are of several types: {found}; choose one with --dtype")


def _stored_types(folder: Path) -> Iterator[tuple[str, torch.dtype]]:
    """Yield the name and the type of every weight that a folder stores as a floating-point number."""
    import torch
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 -- not a mapping
                dtype = _STORED.get(file.get_slice(name).get_dtype())
                if dtype:
                    yield name, getattr(torch, dtype)
    for path in [] if files else sorted(folder.glob("pytorch_model*.bin")):
        for name, tensor in torch.load(path, map_location="meta", weights_only=True).items():
            if tensor.is_floating_point():
                yield name, tensor.dtype


_STORED: Mapping[str, str] = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""Types of weights as safetensors writes them."""


def _check_numbers(owner: str, located: Located, body: Any) -> None:
    """Refuse weights that are not finite: every number behind them would be none either."""
    import torch

    for name, parameter in body.named_parameters():
        if not all(bool(end.isfinite()) for end in torch.aminmax(parameter.detach())):
            bad = int((~parameter.isfinite()).sum())
            raise BasisBenchError(
                f"{owner}: {bad} of the {parameter.numel()} weights of {name} in {located.where} are NaN or infinite; "
                "the file is damaged, or its type too narrow (try another --dtype)"
            )


def _check_causal(owner: str, body: Any) -> None:
    """Refuse a model whose first position sees what comes later."""
    import torch

    device = next(body.parameters()).device
    words = int(body.get_input_embeddings().weight.shape[0])
    prompts = torch.tensor([[1, 2, 3], [1, 4, 5]], device=device) % words
    try:
        with torch.inference_mode():
            first = body.eval()(input_ids=prompts, use_cache=False).logits[:, 0].float()
    except Exception as error:  # sizes that do not go together show here
        if is_out_of_memory(error):
            raise
        raise BasisBenchError(
            f"{owner}: {type(body).__name__} cannot run with this configuration: {whole_message(error)}"
        ) from error
    if not bool(first.isfinite().all()):
        raise BasisBenchError(
            f"{owner}: its logits are NaN or infinite in {str(body.dtype).removeprefix('torch.')}, though its weights "
            "are not; use --dtype float32"
        )
    rounding = min(100 * torch.finfo(next(body.parameters()).dtype).eps, 0.05)
    if float((first[0] - first[1]).abs().max()) > rounding * float(first.abs().max()):
        raise BasisBenchError(
            f"{owner}: {type(body).__name__} is not causal: what it says at the first position depends on later tokens"
        )
