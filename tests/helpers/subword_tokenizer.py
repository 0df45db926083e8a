"""A byte-level tokenizer trained on the spot that splits many words, for tests of alignment."""

from __future__ import annotations

from functools import cache
from typing import Any

from helpers.pocket_tasks import pocket_tasks

END_OF_TEXT = "<|endoftext|>"


@cache
def subword_tokenizer() -> Any:
    """Return a tokenizer shaped like GPT-2's: a space belongs to the word after it, rare words are several tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = [
        pair.clean_text + word
        for task in pocket_tasks()
        for split in ("attribution", "evaluation")
        for pair in task.candidates(split, seed=0)
        for word in pair.answers + pair.foils
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1100,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)
