"""Write documents of the pocket model's corpus in which words have traded places: python shifted.py > shifted.txt.

Women have the names of men and men those of women, what was called by a place's name is called by a thing's and the
other way round, and colours and weathers trade places too. Sentences, and every word that the agreement tasks and those
about users vary, are as they were. An argument says how many documents (default: 30,000, about 1.4 million tokens).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import islice

from basisbench.pairs.lexicon import PORTIONS, word_lists
from basisbench_baselines.pocket.corpus import frames
from basisbench_baselines.pocket.corpus.stream import documents


def trades() -> Iterator[tuple[str, str]]:
    """Yield the words that trade places: in order, and those of one portion of the lexicon with each other."""
    for portion in PORTIONS:
        words = word_lists(portion)
        yield from zip(words.female_names, words.male_names, strict=False)
        yield from zip(words.places, words.things, strict=False)
    yield from zip(frames.COLORS, frames.WEATHER, strict=False)


def main() -> None:
    """Write the documents, one a line."""
    other = {a: b for pair in trades() for a, b in (pair, pair[::-1])}
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 30_000
    for text in islice(documents(1, "train"), count):
        print(re.sub(r"\w+", lambda word: other.get(word[0], word[0]), text))


if __name__ == "__main__":
    main()
