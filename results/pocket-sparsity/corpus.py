"""Write documents of the pocket model's corpus, one a line: python corpus.py > corpus.txt.

An argument says how many (default: 30,000, about 1.4 million tokens). They are the first of another seed than that of
the shipped build, whose dictionaries have seen others.
"""

from __future__ import annotations

import sys
from itertools import islice

from basisbench_baselines.pocket.corpus.stream import documents


def main() -> None:
    """Write the documents."""
    for text in islice(documents(1, "train"), int(sys.argv[1]) if len(sys.argv) > 1 else 30_000):
        print(text)


if __name__ == "__main__":
    main()
