"""What a model says of its prompts: how long they may be, and what its own tokenizer puts in front."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from basisbench.models.load import load_model
from basisbench.models.shape import longest_prompt
from basisbench.pairs.tokens import added_in_front
from basisbench.registry import load_registry
from basisbench.types import ModelSpec
from helpers.tiny_models import save_checkpoint


def configurations() -> dict[str, Any]:
    import transformers as hf

    return {
        "learned positions": (hf.GPT2Config(n_positions=48), 48),
        "rotary": (hf.LlamaConfig(max_position_embeddings=64), 64),
        "a window of attention": (hf.MistralConfig(max_position_embeddings=64, sliding_window=4), 64),
        "text of a multimodal model": (hf.Gemma3Config(text_config={"max_position_embeddings": 96}), 96),
        "a name of its own": (hf.MptConfig(max_seq_len=80), 80),
        "no positions": (hf.BloomConfig(), None),
    }


@pytest.mark.parametrize("kind", [
    "learned positions", "rotary", "a window of attention", "text of a multimodal model", "a name of its own",
    "no positions",
])  # fmt: skip
def test_the_longest_prompt_is_read_from_the_configuration(kind: str) -> None:
    config, expected = configurations()[kind]
    assert longest_prompt(config) == expected


def test_a_model_of_gpt2_has_no_position_beyond_its_longest_prompt(tiny_gpt2: ModelSpec) -> None:
    import torch

    model = load_model(tiny_gpt2)
    assert model.longest is not None
    with torch.inference_mode():
        model.logits(model.tokens([[0] * model.longest]))
        with pytest.raises(IndexError):
            model.logits(model.tokens([[0] * (model.longest + 1)]))


def test_the_pocket_model_s_tokenizer_adds_what_the_model_was_trained_with() -> None:
    model = load_model(load_registry().get("model", "pocket-llama"))
    assert added_in_front(model.tokenizer) == (model.tokenizer.bos_token_id,) == (model.body.config.bos_token_id,)
    assert model.longest == 128


@pytest.mark.parametrize("kind", ["adds one", "adds none", "has none"])
def test_wrapping_a_model_leaves_its_tokenizer_alone(kind: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """TransformerLens makes every tokenizer put a token in front, and gives one to those that have none."""
    import copy

    from tokenizers.processors import TemplateProcessing
    from transformers import LlamaConfig

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.eos_token = "<unk>"
    if kind != "adds one":
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    if kind == "has none":
        tokenizer.bos_token = None
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    folder = save_checkpoint(config, tokenizer, tmp_path / "model", seed=0)
    model = load_model(ModelSpec("tiny", str(folder), "for a test"))
    assert model.tokenizer.bos_token_id == (None if kind == "has none" else 0)
    assert added_in_front(model.tokenizer) == ((0,) if kind == "adds one" else ())
