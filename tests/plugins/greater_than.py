"""Greater than (Hanna et al. 2023, arXiv 2305.00586): a war that began late in a century ends later still."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from basisbench.pairs.sentence_frames import generator, interleave
from basisbench.types import ContrastPair, Segment, Split

EVENTS = {"attribution": ("war", "siege", "trial", "voyage"), "evaluation": ("strike", "famine", "reign", "plague")}
YEARS = {"attribution": range(38, 90, 2), "evaluation": range(39, 91, 2)}  # even and odd, and no century


@dataclass(frozen=True)
class GreaterThan:
    """The other prompt's war begins twenty years earlier; years between the two beginnings are its alone."""

    name: str = "greater_than"
    version: str = "1"
    summary: str = "greater than: The war lasted from 17 52 to 17 -> 57 (a war from 17 32 -> 37)"

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        return interleave([self.stream(century, split, seed) for century in (16, 17)])

    def stream(self, century: int, split: Split, seed: int) -> Iterator[ContrastPair]:
        rng = generator(self.name, self.version, split, seed, century)
        wars = [(event, year) for event in EVENTS[split] for year in YEARS[split]]
        rng.shuffle(wars)
        for event, year in wars:
            clean, counterfactual = (
                (
                    Segment("event", f"The {event}"),
                    Segment("from", f" lasted from {century}"),
                    Segment("year", f" {begin}"),
                    Segment("to", f" to {century}"),
                )
                for begin in (year, year - 20)
            )
            words = (event, str(year), str(year - 20))
            foils, clusters = (f" {year - 15}",), {"event": event, "year": str(year)}
            yield ContrastPair(str(century), clean, counterfactual, (f" {year + 5}",), foils, words, clusters)


PROVIDES = (GreaterThan(),)
