"""Read the shape of a model from its configuration, without its weights.

Parameters are counted on torch's meta device, which allocates nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from basisbench.errors import BasisBenchError, whole_message
from basisbench.models.configuration import read_configuration
from basisbench.types import ModelShape

if TYPE_CHECKING:
    from basisbench.models.hub import Located


_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
"""What architectures call the number of positions in their configurations."""


def longest_prompt(config: Any) -> int | None:
    """Return how many positions a model has, by its configuration: it was trained on no longer text.

    A window of attention (Mistral, Gemma) is no limit: layers before carry what lies further back.

    Args:
        config: a transformers configuration, of a multimodal model too.

    Returns:
        The number of positions; None where the configuration names none, as for models without position embeddings.
    """
    text = config.get_text_config()
    named = (getattr(text, name, None) for name in _POSITIONS)
    return next((int(number) for number in named if isinstance(number, int) and number > 0), None)


def read_longest(located: Located) -> int | None:
    """Read from a checkpoint's configuration how many positions its model has; None where it names none.

    Raises:
        BasisBenchError: it is no configuration that transformers knows.
    """
    return longest_prompt(read_configuration("configuration", located))


def read_shape(located: Located) -> ModelShape:
    """Read a checkpoint's configuration and count the parameters of such a model.

    Raises:
        BasisBenchError: it is not the configuration of a causal language model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = read_configuration("configuration", located)
    try:
        with torch.device("meta"):
            body = AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call] # transformers
        return ModelShape(
            layers=int(config.num_hidden_layers),
            width=int(config.hidden_size),
            mlp_width=int(getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 0)
            or 4 * int(config.hidden_size),
            vocabulary=int(body.get_input_embeddings().weight.shape[0]),
            parameters=sum(parameter.numel() for parameter in body.parameters()),
            dtype=str(getattr(config, "dtype", None) or torch.float32).removeprefix("torch."),
        )
    except Exception as error:  # whatever a file of somebody else makes the library do
        raise BasisBenchError(
            f"configuration: {located.where} has not that of a causal language model: {whole_message(error)}"
        ) from error
