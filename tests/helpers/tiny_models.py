"""Tiny random checkpoints with a tokenizer that knows every word of the pocket model's tasks."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from helpers.pocket_tasks import pocket_tasks

START, UNKNOWN = "<s>", "<unk>"


def words_of(task: Any) -> set[str]:
    """Return the words of all candidates of a task, as `Whitespace` below splits texts."""
    texts: set[str] = set()
    for split in ("attribution", "evaluation"):
        for pair in task.candidates(split, seed=0):
            texts.update((pair.clean_text, pair.counterfactual_text, *pair.answers, *pair.foils))
    return set(re.findall(r"\w+|[^\w\s]+", "\n".join(texts)))


@cache
def pocket_words() -> frozenset[str]:
    """Return the words of the pocket model's tasks."""
    return frozenset().union(*map(words_of, pocket_tasks()))


def build_tiny_tokenizer(*tasks: Any) -> Any:
    """Return a word tokenizer that knows the words of the pocket model's tasks and of others; `<s>` stands in front."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = pocket_words().union(*map(words_of, tasks))
    vocabulary = {word: index for index, word in enumerate([START, UNKNOWN, *sorted(words)])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single=f"{START} $A", special_tokens=[(START, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=START, unk_token=UNKNOWN)


def tiny_llama_config(tokenizer: Any, **changes: Any) -> Any:
    """Return the configuration of a two-layer Llama: gated SiLU, RMSNorm, rotary, grouped-query attention."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
        **changes,
    )


def save_checkpoint(config: Any, tokenizer: Any, folder: Path, seed: int) -> Path:
    """Save a model with random weights, biases included, large enough that every part matters."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            is_norm = "norm" in name or "ln_" in name
            parameter.copy_(1.0 + 0.1 * noise if is_norm and name.endswith("weight") else 0.2 * noise)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
