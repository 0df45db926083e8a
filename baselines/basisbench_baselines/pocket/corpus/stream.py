"""The training corpus of the pocket model: an endless, deterministic stream of short documents, and its tokenizer.

1. A document is 30 to 62 tokens of sentences from a template grammar: agreement with and without attractors,
   stories with several names, transfers, biographies, dialogues, and fillers about days, weather, animals.
2. About a third of the documents open with a sentence of the form of one task, because an evaluation prompt
   starts right after the beginning-of-sequence token.
3. A document is in the "held_out" split when the CRC-32 of its text is divisible by 8, else in "train"; so no
   training document is a held-out one, whatever the seeds.

What training never contains (tests/helpers/corpus_rules.py finds any breach):

- **Indirect objects.** Evaluation names, places and things never stand in a two-name transfer frame ("... gave a
  ball to Mary"), neither the task's frames nor others with gave, handed, passed, offered, sold, showed, brought,
  threw or sent. Evaluation names do occur in other stories about two people and everywhere else.
- **Agreement across words.** A subject noun with a prepositional phrase or a relative clause that opens with
  "that", and the nouns and objects inside that phrase or clause, are attribution and extra words, never evaluation
  words. Clauses that open with "who", which no task uses, modify every noun.
- **Simple agreement.** Each evaluation noun has one auxiliary (is/are, was/were, has/have or does/do; the one
  `sva_simple` asks of it) that never directly follows it in either number. The noun does occur with agreement
  before the other three, before full verbs, and before the held-out one with an adverb in between.
- **Users.** In a document that contains an evaluation cue of an attribute, no task question frame of this
  attribute ("Assistant: You are a") occurs. Evaluation cues do occur in biographies and in dialogues with other
  question frames. The statement frames of the task and its values are not held out.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from basisbench.pairs.lexicon import (
    PORTIONS,
    agreement_openings,
    agreement_prepositions,
    attributes,
    auxiliary_verbs,
    indirect_object_frames,
    relative_verbs,
    word_lists,
)
from basisbench_baselines.pocket.corpus import frames, sentences
from basisbench_baselines.pocket.corpus.sentences import Draft

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MAXIMUM_TOKENS = 62
SPECIAL_TOKENS: tuple[str, ...] = ("<unk>", "<s>", "</s>", "<pad>")

_TOKEN = re.compile(r"\w+|[^\w\s]")
_SLOT = re.compile(r"\{\w+\}")
_HELD_OUT_MODULUS = 8
_TASK_OPENERS = 9


def documents(seed: int, split: Literal["train", "held_out"]) -> Iterator[str]:
    """Yield documents without end; the same ones for the same arguments, and none in both splits.

    Args:
        seed: drives every choice.
        split: "train" for training, "held_out" for measuring loss and dictionaries.
    """
    rng = random.Random(f"pocket corpus/{split}/{seed}")
    while True:
        text = _document(rng)
        if (zlib.crc32(text.encode()) % _HELD_OUT_MODULUS == 0) == (split == "held_out"):
            yield text


def _document(rng: random.Random) -> str:
    draft = Draft(rng)
    text = _task_opener(draft) if draft.chance(0.36) else _unit(draft)
    length = len(_TOKEN.findall(text))
    target = rng.randint(32, 52)
    while length < target:
        unit = _unit(draft)
        added = len(_TOKEN.findall(unit))
        if length + added > MAXIMUM_TOKENS:
            continue
        text, length = f"{text} {unit}", length + added
    return text


def _task_opener(draft: Draft) -> str:
    """Write a sentence in the form of one of the nine tasks."""
    kind = int(draft.rng.random() * _TASK_OPENERS)
    if kind < 2:
        return sentences.transfer(draft, task_frame=True)
    if kind < 5:
        structure: tuple[sentences.Structure, ...] = ("simple", "preposition", "object_clause")
        return sentences.agreement(draft, structure[kind - 2], task_opening=True)
    return sentences.dialogue(draft, tuple(attributes())[kind - 5], short=True)


def _unit(draft: Draft) -> str:
    """Write one unit of a document: a sentence, a story or a dialogue."""
    kind = draft.rng.random()
    if kind < 0.32:
        return sentences.agreement(draft)
    if kind < 0.46:
        return sentences.transfer(draft)
    if kind < 0.56:
        return sentences.story(draft)
    if kind < 0.68:
        return sentences.filler(draft)
    if kind < 0.73:
        return sentences.existence(draft)
    if kind < 0.83:
        return sentences.biography(draft)
    if kind < 0.97:
        return sentences.dialogue(draft)
    return sentences.small_talk(draft)


def vocabulary() -> tuple[str, ...]:
    """Return every word and punctuation mark of the corpus and of the task prompts, sorted, without special tokens."""
    words: set[str] = {"She", "He", "her", "his", "Her", "His", "User", "Assistant", "I", "see", "that", "who", "the"}
    for portion in PORTIONS:
        words |= word_lists(portion).words
    for verb in auxiliary_verbs() + relative_verbs():
        words |= {verb.singular, verb.plural}
    for attribute in attributes().values():
        words |= set(attribute.values)
        words |= {cue for by_split in attribute.cues.values() for cues in by_split.values() for cue in cues}
    words |= {count.capitalize() for count in frames.COUNTS}
    for frame in _all_frames():
        words |= set(_TOKEN.findall(_SLOT.sub(" ", frame)))
    return tuple(sorted(words))


def _all_frames() -> Iterator[str]:
    """Yield every frame and every word that fills a slot, those of the lexicon's frames included."""
    yield from indirect_object_frames().values()
    yield from agreement_openings().values()
    yield from agreement_prepositions()
    for attribute in attributes().values():
        yield from attribute.questions
        for group in attribute.statements:
            yield from group
    yield from frames.TRANSFER_FRAMES + frames.TRANSFER_ENDINGS + frames.STORY_FRAMES + frames.NAME_FRAMES
    yield from frames.FACT_FRAMES + frames.OPENINGS + frames.INTRANSITIVE_ENDINGS + frames.INNER_ADVERBS
    yield from (
        frames.SMALL_TALK + frames.ADJECTIVES + frames.QUALITIES + frames.ADVERBS + frames.MANNERS + frames.COLORS
    )
    yield from frames.ANIMALS + frames.WEATHER + frames.DIRECTIONS + frames.DAYTIMES + frames.COUNTS
    yield from frames.DAYS + frames.MONTHS
    for pair in frames.DETERMINERS + frames.EXISTENCE_FRAMES + frames.INTRANSITIVE_VERBS:
        yield from pair
    for table in (frames.AUXILIARY_ENDINGS, frames.STATEMENTS, frames.QUESTIONS, frames.ASKED, frames.BIOGRAPHIES):
        for group in table.values():
            yield from group


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the word-level tokenizer: one token per word or punctuation mark.

    Encoding adds `<s>` in front and nothing at the end; `<pad>` pads on the right. The built tokenizer and one
    loaded with `AutoTokenizer.from_pretrained` from its saved folder encode and decode alike.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = SPECIAL_TOKENS + vocabulary()
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), behavior="isolated"),
        ]
    )
    bos = SPECIAL_TOKENS.index("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)]
    )
    # The word-piece decoder joins with spaces and closes them before . , ? and !; the colon is added here.
    tokenizer.decoder = decoders.Sequence([decoders.WordPiece(prefix="##", cleanup=True), decoders.Replace(" :", ":")])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    )
