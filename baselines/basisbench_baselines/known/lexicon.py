"""The words of the models that were built, read from the prompts of their task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from basisbench.registry import built_in
from basisbench.types import SPLITS

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerFast

TASK = "known_kind"
START, UNKNOWN = "<s>", "<unk>"


@dataclass(frozen=True)
class Lexicon:
    """All words, and what the things among them are.

    Attributes:
        words: every token, in the order of its id.
        things: by kind, in alphabetical order, its things.
        last: the word at whose position the answer is due.
    """

    words: tuple[str, ...]
    things: Mapping[str, tuple[str, ...]]
    last: str

    @property
    def kinds(self) -> tuple[str, ...]:
        """The answers."""
        return tuple(self.things)

    def ids(self, *words: str) -> list[int]:
        """Return the ids of words."""
        return [self.words.index(word) for word in words]


def read_lexicon() -> Lexicon:
    """Read the words of both splits of the task."""
    words: set[str] = set()
    things: dict[str, set[str]] = {}
    last = ""
    for split in SPLITS:
        for pair in built_in().get("task", TASK).candidates(split, 0):
            words.update(f"{pair.clean_text} {pair.answers[0]}".split())
            thing = next(segment.text.strip() for segment in pair.clean if segment.role == "thing")
            things.setdefault(pair.answers[0].strip(), set()).add(thing)
            last = pair.clean[-1].text.strip()
    sorted_things = {kind: tuple(sorted(things[kind])) for kind in sorted(things)}
    return Lexicon((START, UNKNOWN, *sorted(words)), sorted_things, last)


def llama_config(lexicon: Lexicon, **shape: int | str) -> LlamaConfig:
    """Return the configuration of a Llama of these words.

    Args:
        lexicon: the words.
        shape: its layers, widths, heads and activation, by the names that transformers gives them.
    """
    from transformers import LlamaConfig

    untyped: Any = LlamaConfig
    made: LlamaConfig = untyped(
        architectures=["LlamaForCausalLM"],
        dtype="float32",
        vocab_size=len(lexicon.words),
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
        **shape,
    )
    return made


def build_tokenizer(lexicon: Lexicon) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words that puts `<s>` in front."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(lexicon.words)}
    tokenizer: Any = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, 0)])
    untyped: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerFast = untyped(tokenizer_object=tokenizer, bos_token=START, unk_token=UNKNOWN)
    return made
