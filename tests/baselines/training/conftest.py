"""What the tests of training dictionaries share: a tiny model, and text in its words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from basisbench.models.model import Model
    from basisbench_baselines.training.text import Packed


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A random Llama of three layers whose tokenizer puts `<s>` in front."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from basisbench.models.load import load_model
    from basisbench.types import ModelSpec
    from helpers.tiny_training import WORDS

    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(["<s>", "?", *WORDS])}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    torch.manual_seed(0)
    body = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=62, hidden_size=16, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=64,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in body.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.4)
    folder = tmp_path_factory.mktemp("tiny")
    body.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder)
    return load_model(ModelSpec("tiny", str(folder), ""))


@pytest.fixture(scope="session")
def text(model: Model) -> Packed:
    """A text in the words that the model knows."""
    from basisbench_baselines.training.text import pack
    from helpers.tiny_training import SETTINGS, some_text

    return pack("words", [some_text(5000)], model.tokenizer, SETTINGS, all_of_it=True)
