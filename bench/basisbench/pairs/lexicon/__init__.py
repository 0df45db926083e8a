"""The words and sentence frames that tasks and the pocket model's corpus share, with their split.

Split membership is fixed in the data files, never drawn: an attribution word is never an evaluation word,
whatever the seed. The portion "extra" holds words that no task uses; the corpus adds them so that a model
meets each evaluated frame with many words. The data sits in the harness because tasks and baselines must
not import each other.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from basisbench.types import Split

Portion = Literal["attribution", "evaluation", "extra"]
Number = Literal["singular", "plural"]

PORTIONS: tuple[Portion, ...] = ("attribution", "evaluation", "extra")
NUMBERS: tuple[Number, ...] = ("singular", "plural")


@dataclass(frozen=True)
class Inflected:
    """A noun or a present-tense verb in its two numbers.

    Attributes:
        singular: "doctor", or the verb form that agrees with it, "likes".
        plural: "doctors", or "like".
    """

    singular: str
    plural: str

    def form(self, number: Number) -> str:
        """Return the form of a number."""
        return self.singular if number == "singular" else self.plural


@dataclass(frozen=True)
class WordLists:
    """The words of one portion.

    Attributes:
        female_names: first names of women.
        male_names: first names of men.
        places: singular nouns that follow "to the" and "at the".
        things: singular nouns that follow "a" and can be handed over.
        nouns: people, the subjects of the agreement tasks.
        objects: inanimate nouns, the attractors of the agreement tasks.
    """

    female_names: tuple[str, ...]
    male_names: tuple[str, ...]
    places: tuple[str, ...]
    things: tuple[str, ...]
    nouns: tuple[Inflected, ...]
    objects: tuple[Inflected, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All first names."""
        return self.female_names + self.male_names

    @property
    def words(self) -> frozenset[str]:
        """Every word form of the portion."""
        inflected = {form for item in self.nouns + self.objects for form in (item.singular, item.plural)}
        return frozenset(self.names + self.places + self.things) | inflected


@dataclass(frozen=True)
class Attribute:
    """Something a user can reveal about themselves.

    Attributes:
        name: "gender", "occupation", "country" or "age".
        statements: what the user says in the task, with a slot `{cue}`; the statements of one group have one shape.
        questions: what the assistant says in the task, right before the value.
        cues: for each value and split, the words that reveal the value.
    """

    name: str
    statements: tuple[tuple[str, ...], ...]
    questions: tuple[str, ...]
    cues: Mapping[str, Mapping[Split, tuple[str, ...]]]

    @property
    def values(self) -> tuple[str, ...]:
        """The values, for example "woman" and "man"."""
        return tuple(self.cues)


@cache
def word_lists(portion: Portion) -> WordLists:
    """Return the names, places, things, nouns and objects of a portion."""
    table = _table("words.toml")[portion]
    return WordLists(
        female_names=tuple(table["female_names"].split()),
        male_names=tuple(table["male_names"].split()),
        places=tuple(table["places"].split()),
        things=tuple(table["things"].split()),
        nouns=_inflected(table["nouns"]),
        objects=_inflected(table["objects"]),
    )


@cache
def auxiliary_verbs() -> tuple[Inflected, ...]:
    """Return is/are, was/were, has/have, does/do."""
    return _inflected(_table("words.toml")["verbs"]["auxiliary"])


@cache
def relative_verbs() -> tuple[Inflected, ...]:
    """Return the present-tense verbs of relative clauses, for example likes/like."""
    return _inflected(_table("words.toml")["verbs"]["relative"])


@cache
def held_out_auxiliary(noun: Inflected) -> Inflected:
    """Return the auxiliary that `sva_simple` asks of an evaluation noun; training never puts it right after the noun.

    Raises:
        ValueError: the noun is not an evaluation noun.
    """
    verbs = auxiliary_verbs()
    return verbs[word_lists("evaluation").nouns.index(noun) % len(verbs)]


@cache
def indirect_object_frames() -> Mapping[str, str]:
    """Return the frames of the indirect-object task by name, with slots first, second, place, giver and thing."""
    return dict(_table("frames.toml")["indirect_object"]["frames"])


@cache
def agreement_openings() -> Mapping[str, str]:
    """Return what stands before the subject noun in the agreement tasks, by name."""
    return dict(_table("frames.toml")["agreement"]["openings"])


@cache
def agreement_prepositions() -> tuple[str, ...]:
    """Return the prepositions between a subject noun and its attractor."""
    return tuple(_table("frames.toml")["agreement"]["prepositions"])


@cache
def attributes() -> Mapping[str, Attribute]:
    """Return the attributes of a user by name."""
    return {
        name: Attribute(
            name=name,
            statements=tuple(tuple(group) for group in table["statements"]),
            questions=tuple(table["questions"]),
            cues={
                value: {
                    "attribution": tuple(cues["attribution"].split()),
                    "evaluation": tuple(cues["evaluation"].split()),
                }
                for value, cues in table["values"].items()
            },
        )
        for name, table in _table("personas.toml").items()
    }


def _table(file: str) -> Mapping[str, Any]:
    return tomllib.loads(files(__name__).joinpath(file).read_text(encoding="utf-8"))


def _inflected(text: str) -> tuple[Inflected, ...]:
    return tuple(Inflected(*entry.split("/")) for entry in text.split())
