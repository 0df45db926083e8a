"""Read a checkpoint's configuration, and refuse what its weights could not be used for.

1. Nothing of a checkpoint is ever run: `trust_remote_code=False` is among `Located.options`, and an attention or
   experts from the hub, which a configuration can name, are taken back.
2. Of a multimodal checkpoint the text model is read: its configuration, and its weights by their names there.
3. Adapters and quantised weights are told before transformers meets them: what it says of them blames something else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from basisbench.errors import BasisBenchError, whole_message

if TYPE_CHECKING:
    from basisbench.models.hub import Located

TEXT_NAMES: Mapping[str, str] = {
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^model\.language_model\.": "model.",
}
"""Names of a text model's weights inside a multimodal checkpoint, and by itself: as published, and as saved again."""


def text_name(name: str) -> str:
    """Return the name that a weight of a multimodal checkpoint has in its text model."""
    for pattern, own in TEXT_NAMES.items():
        name = re.sub(pattern, own, name)
    return name


def read_configuration(owner: str, located: Located) -> Any:
    """Read the configuration of a checkpoint or of a GGUF file; of a multimodal one, that of its text model.

    Args:
        owner: what it is for, for messages.
        located: where it is.

    Raises:
        BasisBenchError: it cannot be read, or belongs to nothing that can be used; says why.
    """
    from transformers import AutoConfig

    content = {} if located.gguf else _content(owner, located)
    if content.get("quantization_config"):
        method = content["quantization_config"]
        named = method.get("quant_method") if isinstance(method, dict) else None
        raise BasisBenchError(
            f"{owner}: its weights are quantised ({named or 'quantization_config'}), which edits and gradients are not "
            "made for; give the checkpoint that it was made from, or a GGUF file of it, which is dequantised"
        )
    try:
        whole = AutoConfig.from_pretrained(**located.options)
        config = whole.get_text_config()
        if config is not whole and config.dtype is None:
            config.dtype = whole.dtype
        config._attn_implementation = config._experts_implementation = None
    except Exception as error:  # whatever a file of somebody else makes the library do
        if "auto_map" in content:
            raise BasisBenchError(
                f"{owner}: its architecture is code in {located.where} (auto_map), which is never run; a model must be "
                "of an architecture that transformers has"
            ) from error
        raise BasisBenchError(
            f"{owner}: {located.where} has not the configuration of a causal language model: {whole_message(error)}"
        ) from error
    return config


def _content(owner: str, located: Located) -> dict[str, Any]:
    try:
        content = json.loads(located.file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BasisBenchError(f"{owner}: {located.file} is not JSON: {whole_message(error)}") from error
    if not isinstance(content, dict) or not content.get("model_type"):
        raise BasisBenchError(f"{owner}: {located.file} has no model_type; expected a transformers configuration")
    return content
