"""Read the shape of a model without its weights: from its configuration, or from what its ModelSpec says.

Parameters are counted on torch's meta device, which allocates nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from basisbench.errors import BasisBenchError
from basisbench.models.hub import locate
from basisbench.types import ModelShape, ModelSpec

if TYPE_CHECKING:
    from basisbench.models.hub import Located


@dataclass(frozen=True)
class Known:
    """What is known of a model before it is loaded.

    Attributes:
        shape: its shape; None where neither its configuration nor its spec tells.
        located: where it is; None where it is not at hand.
        problem: why it is not at hand; empty otherwise.
    """

    shape: ModelShape | None
    located: Located | None
    problem: str = ""


def look_up(spec: ModelSpec) -> Known:
    """Return the shape of a model; only its configuration is fetched."""
    try:
        located = locate(f"model '{spec.name}'", spec.path, spec.revision)
        return Known(read_shape(located), located)
    except BasisBenchError as error:
        return Known(spec.shape, None, str(error))


def read_shape(located: Located) -> ModelShape:
    """Read a checkpoint's configuration and count the parameters of such a model.

    Raises:
        BasisBenchError: it is not the configuration of a causal language model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        whole = AutoConfig.from_pretrained(located.where, **located.options)
        with torch.device("meta"):
            body = AutoModelForCausalLM.from_config(whole)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BasisBenchError(f"{located.where}: not the configuration of a causal language model: {reason}") from error
    config = whole.get_text_config()
    stored = getattr(whole, "dtype", None) or torch.float32
    embeddings = body.get_input_embeddings()
    return ModelShape(
        layers=int(config.num_hidden_layers),
        width=int(config.hidden_size),
        mlp_width=int(getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 0)
        or 4 * int(config.hidden_size),
        vocabulary=int(embeddings.weight.shape[0]),
        parameters=sum(parameter.numel() for parameter in body.parameters()),
        dtype=str(stored).removeprefix("torch."),
    )
