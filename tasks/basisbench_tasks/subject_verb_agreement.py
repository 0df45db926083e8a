"""Subject-verb agreement in four structures, after Marks et al. 2025 (arXiv 2403.19647; data/ in their code).

- `sva_simple`: "The doctor" -> " is", not " are".
- `sva_nounpp`: "The doctor near the cars" -> " is".
- `sva_rc`: "The doctor that the pilots like" -> " is".
- `sva_within_rc`: "The doctor that the pilots" -> " like", not " likes".

The counterfactual prompt changes the number of the noun that the verb agrees with and nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from basisbench.pairs.lexicon import (
    NUMBERS,
    Inflected,
    Number,
    agreement_openings,
    agreement_prepositions,
    auxiliary_verbs,
    held_out_auxiliary,
    relative_verbs,
    word_lists,
)
from basisbench.pairs.sentence_frames import CANDIDATE_LIMIT, generator, interleave
from basisbench.protocols import Task
from basisbench.types import ContrastPair, Segment, Split

_OTHER: Mapping[Number, Number] = {"singular": "plural", "plural": "singular"}


@dataclass(frozen=True)
class Agreement:
    """The verb agrees with one noun of the prompt.

    Attributes:
        name: "sva_" and the structure.
        summary: one line for listings.
        version: version of the pairs.
    """

    name: str
    summary: str
    version: str = "1"

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        """Yield distinct pairs, the four templates in turn, in an order drawn from `seed`."""
        return interleave([self._stream(opening, split, seed) for opening in agreement_openings()])

    def _stream(self, opening: str, split: Split, seed: int) -> Iterator[ContrastPair]:
        rng = generator(self.name, self.version, split, seed, opening)
        if self.name == "sva_simple":
            # Each noun once in a random number; only then the same nouns in the other number.
            subjects: list[tuple[Inflected, Number]] = [(noun, rng.choice(NUMBERS)) for noun in word_lists(split).nouns]
            rng.shuffle(subjects)
            mirrored: list[tuple[Inflected, Number]] = [(noun, _OTHER[number]) for noun, number in subjects]
            for noun, number in (*subjects, *mirrored):
                verb = held_out_auxiliary(noun) if split == "evaluation" else rng.choice(auxiliary_verbs())
                yield self._pair(opening, (), noun, number, (), verb, (noun,))
            return
        for _ in range(CANDIDATE_LIMIT):
            yield self._sample(opening, split, rng)

    def _sample(self, opening: str, split: Split, rng: random.Random) -> ContrastPair:
        words = word_lists(split)
        subject, other = rng.sample(words.nouns, 2)
        number, other_number = rng.choice(NUMBERS), rng.choice(NUMBERS)
        if self.name == "sva_nounpp":
            other = rng.choice(words.objects)
            after: tuple[Segment, ...] = (
                Segment("preposition", f" {rng.choice(agreement_prepositions())}"),
                Segment("article", " the"),
                Segment("attractor", f" {other.form(other_number)}"),
            )
            return self._pair(opening, (), subject, number, after, rng.choice(auxiliary_verbs()), (subject, other))
        clause = (Segment("complementizer", " that"), Segment("article", " the"))
        verb = rng.choice(relative_verbs())
        if self.name == "sva_rc":
            after = (
                *clause,
                Segment("clause_subject", f" {other.form(other_number)}"),
                Segment("clause_verb", f" {verb.form(other_number)}"),
            )
            return self._pair(opening, (), subject, number, after, rng.choice(auxiliary_verbs()), (subject, other))
        before = (Segment("subject", f" {other.form(other_number)}"), *clause)
        return self._pair(opening, before, subject, number, (), verb, (subject, other))

    def _pair(
        self,
        opening: str,
        before: tuple[Segment, ...],
        noun: Inflected,
        number: Number,
        after: tuple[Segment, ...],
        verb: Inflected,
        varied: tuple[Inflected, ...],
    ) -> ContrastPair:
        """Build the pair in which `noun` agrees with the verb that the prompt calls for."""
        role = "clause_subject" if before else "subject"
        head = Segment("opening", agreement_openings()[opening])
        clean, counterfactual = (
            (head, *before, Segment(role, f" {noun.form(form)}"), *after) for form in (number, _OTHER[number])
        )
        return ContrastPair(
            template=opening,
            clean=clean,
            counterfactual=counterfactual,
            answers=(f" {verb.form(number)}",),
            foils=(f" {verb.form(_OTHER[number])}",),
            words=tuple(form for item in varied for form in (item.singular, item.plural)),
            clusters={"noun": noun.singular},
        )


PROVIDES: tuple[Task, ...] = (
    Agreement("sva_simple", "agreement: The doctor -> is / are"),
    Agreement("sva_nounpp", "agreement across a prepositional phrase: The doctor near the cars -> is / are"),
    Agreement("sva_rc", "agreement across a relative clause: The doctor that the pilots like -> is / are"),
    Agreement("sva_within_rc", "agreement inside a relative clause: The doctor that the pilots -> like / likes"),
)
