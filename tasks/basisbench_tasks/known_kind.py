"""What kind a thing is: the task of the models whose circuits are known because they were built.

"The sparrow near the park at noon is a" calls for " bird"; the counterfactual prompt names a thing of another kind in
the same place, and calls for that kind. Place and time vary and bear nothing on the answer. The task is plain English,
so that any language model can be asked; what it is for is `docs/ground-truth.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from basisbench.pairs.lexicon import word_lists
from basisbench.pairs.sentence_frames import fill_frame, generator, interleave
from basisbench.protocols import Task
from basisbench.types import ContrastPair, Split

THINGS: Mapping[Split, Mapping[str, str]] = {
    "attribution": {
        "bird": "sparrow eagle robin hawk",
        "fish": "trout salmon shark tuna",
        "tree": "oak pine maple birch",
        "tool": "hammer saw drill wrench",
    },
    "evaluation": {
        "bird": "owl pigeon falcon swan",
        "fish": "perch bass sardine halibut",
        "tree": "beech ash poplar spruce",
        "tool": "hoe screwdriver pickaxe spade",
    },
}

TIMES: Mapping[Split, str] = {"attribution": "noon dawn night", "evaluation": "dusk midnight sunrise"}

FRAMES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "plain": ("The {thing} near the {place} at {time} is {last}", ("opening", "near", "at", "is")),
    "time first": ("At {time} the {thing} near the {place} is {last}", ("opening", "article", "near", "is")),
}
"""By template, the sentence and the roles of what stands between its slots; the last word has a role of its own."""

LAST = "a"

_PLACES = 6
_ROUNDS = 8
"""How often each thing is the subject of a template's prompts."""


@dataclass(frozen=True)
class KnownKind:
    """Which of four kinds a thing is.

    Attributes:
        name: "known_kind".
        version: version of the pairs.
        summary: one line for listings.
    """

    name: str = "known_kind"
    version: str = "1"
    summary: str = "what kind a thing is, for models that were built: The sparrow near the park at noon is a -> bird"

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        """Yield distinct pairs, the two templates in turn, in an order drawn from `seed`."""
        return interleave([self._stream(template, split, seed) for template in FRAMES])

    def _stream(self, template: str, split: Split, seed: int) -> Iterator[ContrastPair]:
        rng = generator(self.name, self.version, split, seed, template)
        frame, roles = FRAMES[template]
        kind_of = {thing: kind for kind, things in THINGS[split].items() for thing in things.split()}
        places, times, things = word_lists(split).places[:_PLACES], TIMES[split].split(), list(kind_of)
        for _ in range(_ROUNDS):
            rng.shuffle(things)
            for thing in things:
                other = rng.choice([each for each in things if kind_of[each] != kind_of[thing]])
                place, time = rng.choice(places), rng.choice(times)
                slots = {"place": place, "time": time, "last": LAST}
                yield ContrastPair(
                    template=template,
                    clean=fill_frame(frame, roles, slots | {"thing": thing}),
                    counterfactual=fill_frame(frame, roles, slots | {"thing": other}),
                    answers=(f" {kind_of[thing]}",),
                    foils=(f" {kind_of[other]}",),
                    words=(thing, other, place, time),
                    clusters={"cue": thing, "counterfactual_cue": other},
                )


PROVIDES: tuple[Task, ...] = (KnownKind(),)
