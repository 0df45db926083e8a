"""Write the sentences of the pocket model's corpus; `corpus.stream` says what is held out and joins them to documents.

A `Draft` is one document in the making. It remembers the persona of everybody it has spoken about, so that a
document never contradicts a cue, and which split of cues an attribute takes in this document.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from basisbench.pairs.lexicon import (
    NUMBERS,
    PORTIONS,
    Inflected,
    Number,
    agreement_openings,
    agreement_prepositions,
    attributes,
    auxiliary_verbs,
    held_out_auxiliary,
    indirect_object_frames,
    relative_verbs,
    word_lists,
)
from basisbench.types import Split
from basisbench_baselines.pocket.corpus import frames

Structure = Literal["simple", "preposition", "object_clause", "subject_clause"]
Item = TypeVar("Item")

STRUCTURES: tuple[Structure, ...] = ("simple", "preposition", "object_clause", "subject_clause")
USER = "User"

_ATTRIBUTION, _EVALUATION, _EXTRA = (word_lists(portion) for portion in PORTIONS)
_NAMES = _ATTRIBUTION.names + _EVALUATION.names + _EXTRA.names
_FEMALE = frozenset(_ATTRIBUTION.female_names + _EVALUATION.female_names + _EXTRA.female_names)
_PLACES = _ATTRIBUTION.places + _EVALUATION.places + _EXTRA.places
_THINGS = _ATTRIBUTION.things + _EVALUATION.things + _EXTRA.things
_NOUNS = _ATTRIBUTION.nouns + _EVALUATION.nouns + _EXTRA.nouns
_OBJECTS = _ATTRIBUTION.objects + _EVALUATION.objects + _EXTRA.objects
# The words that may stand in the frames that tasks evaluate.
_FRAME_NAMES = _ATTRIBUTION.names + _EXTRA.names
_FRAME_PLACES = _ATTRIBUTION.places + _EXTRA.places
_FRAME_THINGS = _ATTRIBUTION.things + _EXTRA.things
_FRAME_NOUNS = _ATTRIBUTION.nouns + _EXTRA.nouns
_FRAME_OBJECTS = _ATTRIBUTION.objects + _EXTRA.objects
_EVALUATION_NOUNS = frozenset(_EVALUATION.nouns)

_TASK_TRANSFERS = tuple(indirect_object_frames().values())
_TASK_OPENINGS = tuple(agreement_openings().values())


@dataclass
class Draft:
    """A document in the making.

    Attributes:
        rng: the source of every choice.
        personas: for the user and each name, the value of each attribute that has been settled.
        splits: for each attribute, the split whose cues this document uses.
    """

    rng: random.Random
    personas: dict[str, dict[str, str]] = field(default_factory=dict)
    splits: dict[str, Split] = field(default_factory=dict)

    def pick(self, items: Sequence[Item]) -> Item:
        """Draw one item."""
        return items[int(self.rng.random() * len(items))]

    def chance(self, probability: float) -> bool:
        """Draw True with this probability."""
        return self.rng.random() < probability

    def two(self, items: Sequence[Item]) -> tuple[Item, Item]:
        """Draw two distinct items."""
        first, second = self.rng.sample(range(len(items)), 2)
        return items[first], items[second]

    def value(self, person: str, attribute: str) -> str:
        """Return the person's value of an attribute; it stays the same for the whole document."""
        persona = self.personas.setdefault(person, {})
        if attribute not in persona:
            if attribute == "gender" and person != USER:
                persona[attribute] = "woman" if person in _FEMALE else "man"
            else:
                persona[attribute] = self.pick(attributes()[attribute].values)
        return persona[attribute]

    def attribute(self, person: str) -> str:
        """Draw an attribute to speak about; nobody has an age and an occupation, which could disagree."""
        settled = self.personas.get(person, {})
        barred = {"age": "occupation", "occupation": "age"}
        # Countries have the most cues to learn and were learnt last: they are drawn twice as often.
        names = [*attributes(), "country"]
        return self.pick([name for name in names if barred.get(name) not in settled])

    def cue(self, person: str, attribute: str) -> str:
        """Draw a cue that reveals the person's value, from the split this document uses."""
        split = self.splits.setdefault(attribute, "attribution" if self.chance(0.5) else "evaluation")
        return self.pick(attributes()[attribute].cues[self.value(person, attribute)][split])


def transfer(draft: Draft, task_frame: bool | None = None) -> str:
    """Write "Then, Mary and John went to the park. John gave a ball to Mary." with attribution and extra words."""
    if task_frame is None:
        task_frame = draft.chance(0.4)
    frame = draft.pick(_TASK_TRANSFERS if task_frame else frames.TRANSFER_FRAMES)
    first, second = draft.two(_FRAME_NAMES)
    giver, receiver = (first, second) if draft.chance(0.5) else (second, first)
    text = frame.format(
        first=first,
        second=second,
        giver=giver,
        place=draft.pick(_FRAME_PLACES),
        thing=draft.pick(_FRAME_THINGS),
    )
    return f"{text} {receiver}{draft.pick(frames.TRANSFER_ENDINGS)}"


def story(draft: Draft) -> str:
    """Write a story with two of all names, evaluation names too; never a transfer."""
    first, second = draft.two(_NAMES)
    actor, other = (first, second) if draft.chance(0.5) else (second, first)
    return draft.pick(frames.STORY_FRAMES).format(
        first=first,
        second=second,
        actor=actor,
        other=other,
        place=draft.pick(_PLACES),
        thing=draft.pick(_THINGS),
    )


def filler(draft: Draft) -> str:
    """Write a sentence about a name, the weather, days, animals, places or things."""
    return _fill(draft, draft.pick(frames.NAME_FRAMES if draft.chance(0.45) else frames.FACT_FRAMES))


def small_talk(draft: Draft) -> str:
    """Write a turn of dialogue that reveals nothing about the user."""
    return _fill(draft, draft.pick(frames.SMALL_TALK))


def existence(draft: Draft) -> str:
    """Write a sentence in which the verb stands before a noun, any noun."""
    number = draft.pick(NUMBERS)
    frame = draft.pick(frames.EXISTENCE_FRAMES)[NUMBERS.index(number)]
    verb = draft.pick(relative_verbs()).plural
    if draft.chance(0.25) and "{verb}" not in frame:
        frame = frame.replace("{adjective}", "{quality}")
        noun = draft.pick(_OBJECTS)
    else:
        noun = draft.pick(_NOUNS)
    return _fill(draft, frame.replace("{noun}", noun.form(number)).replace("{verb}", verb))


def agreement(draft: Draft, structure: Structure | None = None, task_opening: bool | None = None) -> str:
    """Write a sentence whose verb agrees with its subject, with or without an attractor in between."""
    structure = structure or draft.rng.choices(STRUCTURES, (5, 3, 4, 1))[0]
    if task_opening is None:
        task_opening = draft.chance(0.5)
    number = draft.pick(NUMBERS)
    # The tasks' clauses open with "that"; those that open with "who" take every noun.
    who = structure in ("subject_clause", "object_clause") and draft.chance(0.4)
    if structure == "simple":
        noun = draft.pick(_NOUNS) if draft.chance(0.85) else draft.pick(_OBJECTS)
    else:
        noun = draft.pick(_NOUNS if who else _FRAME_NOUNS)
    subject = f"{_opening(draft, number, task_opening)} {noun.form(number)}{_modifier(draft, structure, number, who)}"
    person = structure != "simple" or noun not in _OBJECTS
    return subject + _predicate(draft, noun, number, adjacent=structure == "simple", person=person)


def biography(draft: Draft) -> str:
    """Write a third-person sentence or two that tie a cue to the value of an attribute."""
    name = draft.pick(_NAMES)
    attribute = draft.attribute(name)
    female = name in _FEMALE
    return _fill(
        draft,
        draft.pick(frames.BIOGRAPHIES[attribute]),
        name=name,
        cue=draft.cue(name, attribute),
        value=draft.value(name, attribute),
        pronoun="She" if female else "He",
        possessive="her" if female else "his",
        possessive_capital="Her" if female else "His",
    )


def dialogue(draft: Draft, attribute: str | None = None, short: bool | None = None) -> str:
    """Write turns in which the user reveals an attribute and the assistant names it."""
    if attribute is None:
        attribute = draft.attribute(USER)
    if short is None:
        short = draft.chance(0.6)
    statement = _statement(draft, attribute)
    if short:
        return f"User: {statement} Assistant: {_reply(draft, attribute)}"
    kind = draft.pick(("asked", "later", "other", "twice"))
    if kind == "twice":
        return f"User: {statement} {_statement(draft, attribute)} Assistant: {_reply(draft, attribute)}"
    if kind == "other":
        other = draft.attribute(USER)
        return f"User: {_statement(draft, other)} {statement} Assistant: {_reply(draft, attribute)}"
    question, answer = frames.ASKED[attribute]
    between = "" if kind == "asked" else " Assistant: I see. User:"
    return f"User: {statement}{between} {question} Assistant: " + answer.format(value=draft.value(USER, attribute))


def _statement(draft: Draft, attribute: str) -> str:
    own = draft.pick(attributes()[attribute].statements)
    frame = draft.pick(own if draft.chance(0.45) else frames.STATEMENTS[attribute])
    return _fill(draft, frame, cue=draft.cue(USER, attribute))


def _reply(draft: Draft, attribute: str) -> str:
    value = draft.value(USER, attribute)
    # The task's own question frames follow attribution cues only; that is what is held out.
    if draft.splits[attribute] == "attribution" and draft.chance(0.6):
        return f"{draft.pick(attributes()[attribute].questions)} {value}."
    return draft.pick(frames.QUESTIONS[attribute]).format(value=value)


def _opening(draft: Draft, number: Number, task_opening: bool) -> str:
    if task_opening:
        return draft.pick(_TASK_OPENINGS)
    if draft.chance(0.6):
        return draft.pick(frames.OPENINGS).format(place=draft.pick(_PLACES))
    return draft.pick(frames.DETERMINERS)[NUMBERS.index(number)]


def _modifier(draft: Draft, structure: Structure, number: Number, who: bool) -> str:
    if structure == "simple":
        return ""
    other = draft.pick(NUMBERS)
    if structure == "preposition":
        noun = draft.pick(_FRAME_OBJECTS if draft.chance(0.75) else _FRAME_NOUNS)
        return f" {draft.pick(agreement_prepositions())} the {noun.form(other)}"
    verb = draft.pick(relative_verbs())
    pronoun = "who" if who else "that"
    # In a subject clause the inner noun stands right before the main verb, which may be its held-out auxiliary.
    inner = draft.pick(_NOUNS if who and structure == "object_clause" else _FRAME_NOUNS).form(other)
    if structure == "subject_clause":
        return f" {pronoun} {verb.form(number)} the {inner}"
    if draft.chance(0.1):
        return f" {pronoun} {draft.pick(_FRAME_NAMES)} {verb.singular}"
    return f" {pronoun} the {inner} {verb.form(other)}"


def _predicate(draft: Draft, noun: Inflected, number: Number, adjacent: bool, person: bool) -> str:
    kind = draft.rng.random()
    if not person or kind < (0.5 if adjacent else 0.75):
        verbs = auxiliary_verbs()[: 4 if person else 2]
        inner = ""
        if adjacent and noun in _EVALUATION_NOUNS:
            if draft.chance(0.25):
                inner = f" {draft.pick(frames.INNER_ADVERBS)}"
            else:
                verbs = tuple(verb for verb in verbs if verb != held_out_auxiliary(noun))
        verb = draft.pick(verbs)
        ending = draft.pick(frames.AUXILIARY_ENDINGS[verb.singular])
        if not person:
            ending = ending.replace("{adjective}", "{quality}")
        return _fill(draft, f"{inner} {verb.form(number)}{ending}")
    if kind < 0.85:
        index = NUMBERS.index(number)
        verb_text = draft.pick(frames.INTRANSITIVE_VERBS)[index]
        second = draft.pick(frames.INTRANSITIVE_VERBS)[index]
        return _fill(draft, f" {verb_text}{draft.pick(frames.INTRANSITIVE_ENDINGS)}", second_verb=second)
    return _fill(draft, f" {draft.pick(relative_verbs()).form(number)} {{object}}.")


def _object(draft: Draft) -> str:
    if draft.chance(0.2):
        return draft.pick(_NAMES)
    return f"the {draft.pick(_NOUNS).form(draft.pick(NUMBERS))}"


def _fill(draft: Draft, frame: str, **given: str) -> str:
    """Fill the slots of a frame that ask for a word of some kind; `given` slots win."""
    if "{" not in frame:
        return frame
    day, month = int(draft.rng.random() * 7), int(draft.rng.random() * 12)
    animals, animals2 = draft.two(frames.ANIMALS)
    count = draft.pick(frames.COUNTS)
    slots = {
        "name": draft.pick(_NAMES) if "{name}" in frame else "",
        "place": draft.pick(_PLACES),
        "thing": draft.pick(_THINGS),
        "adjective": draft.pick(frames.ADJECTIVES),
        "quality": draft.pick(frames.QUALITIES),
        "adverb": draft.pick(frames.MANNERS if "second_verb" in given else frames.ADVERBS),
        "animals": animals,
        "animals2": animals2,
        "count": count,
        "count2": draft.pick(frames.COUNTS),
        "capital_count": count.capitalize(),
        "color": draft.pick(frames.COLORS),
        "weather": draft.pick(frames.WEATHER),
        "direction": draft.pick(frames.DIRECTIONS),
        "daytime": draft.pick(frames.DAYTIMES),
        "day": frames.DAYS[day],
        "day2": frames.DAYS[(day + 2 + int(draft.rng.random() * 5)) % 7],
        "next_day": frames.DAYS[(day + 1) % 7],
        "month": frames.MONTHS[month],
        "next_month": frames.MONTHS[(month + 1) % 12],
        "verb": draft.pick(relative_verbs()).plural,
        "object": _object(draft) if "{object}" in frame else "",
        "objects": draft.pick(_OBJECTS).plural,
        "a_thing": f"a {draft.pick(_THINGS)}",
    }
    return frame.format_map(slots | given)
