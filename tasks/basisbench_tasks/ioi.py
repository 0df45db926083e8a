"""Indirect object identification (Wang et al. 2022, arXiv 2211.00593, section 2).

"Then, Mary and John went to the park. John gave a ball to" calls for " Mary". The counterfactual prompt repeats
the other name ("... Mary gave a ball to") and calls for " John". Four frames, each in both orders of the names:
ABBA (the receiver is named first) and BABA (the giver is named first).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from basisbench.pairs.lexicon import indirect_object_frames, word_lists
from basisbench.pairs.sentence_frames import CANDIDATE_LIMIT, fill_frame, generator, interleave
from basisbench.protocols import Task
from basisbench.types import ContrastPair, Split

ORDERS = ("abba", "baba")

_LITERAL_ROLES = ("opening", "conjunction", "event", "boundary", "transfer", "to")


@dataclass(frozen=True)
class IndirectObject:
    """Who receives the thing: the one of two people who has been named once.

    Attributes:
        name: "ioi".
        version: version of the pairs.
        summary: one line for listings.
    """

    name: str = "ioi"
    version: str = "1"
    summary: str = "indirect object: Mary and John ... John gave a ball to -> Mary (ABBA and BABA, 4 frames)"

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        """Yield distinct pairs, the eight templates in turn, in an order drawn from `seed`."""
        streams = [self._stream(frame, order, split, seed) for frame in indirect_object_frames() for order in ORDERS]
        return interleave(streams)

    def _stream(self, frame_name: str, order: str, split: Split, seed: int) -> Iterator[ContrastPair]:
        words = word_lists(split)
        frame = indirect_object_frames()[frame_name]
        rng = generator(self.name, self.version, split, seed, frame_name, order)
        for _ in range(CANDIDATE_LIMIT):
            first, second = rng.sample(words.names, 2)
            receiver, giver = (first, second) if order == "abba" else (second, first)
            slots = {
                "first": first,
                "second": second,
                "place": rng.choice(words.places),
                "thing": rng.choice(words.things),
            }
            yield ContrastPair(
                template=f"{frame_name}/{order}",
                clean=fill_frame(frame, _LITERAL_ROLES, slots | {"giver": giver}),
                counterfactual=fill_frame(frame, _LITERAL_ROLES, slots | {"giver": receiver}),
                answers=(f" {receiver}",),
                foils=(f" {giver}",),
                words=(first, second, slots["place"], slots["thing"]),
                clusters={"receiver": receiver, "giver": giver},
            )


PROVIDES: tuple[Task, ...] = (IndirectObject(),)
