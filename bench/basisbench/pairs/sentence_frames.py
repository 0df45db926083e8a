"""Helpers with which tasks turn sentence frames into contrast pairs."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache

from basisbench.types import ContrastPair, Segment

# Candidates per split: enough for a tokenizer that splits most words, few enough to tokenise in well under a second.
CANDIDATE_LIMIT = 800

_SLOT = re.compile(r"\{(\w+)\}")


def fill_frame(frame: str, literal_roles: Sequence[str], words: Mapping[str, str]) -> tuple[Segment, ...]:
    """Cut a filled frame into segments, one per slot and one per piece of text between slots.

    The space before a slot belongs to the slot's segment.

    Args:
        frame: text with slots, for example "Then, {first} and {second} left.".
        literal_roles: roles of the pieces of text, in order; a slot's role is its name.
        words: what fills each slot.
    """
    return tuple(
        piece if isinstance(piece, Segment) else Segment(piece[1], piece[0] + words[piece[1]])
        for piece in _pieces(frame, tuple(literal_roles))
    )


@cache
def _pieces(frame: str, literal_roles: tuple[str, ...]) -> tuple[Segment | tuple[str, str], ...]:
    """Cut a frame into whole segments and, for each slot, the space before it and its name; once for all fillings."""
    roles = iter(literal_roles)
    pieces: list[Segment | tuple[str, str]] = []
    lead = ""
    for index, piece in enumerate(_SLOT.split(frame)):
        if index % 2:
            pieces.append((lead, piece))
            lead = ""
            continue
        text = piece.rstrip(" ")
        if text:
            pieces.append(Segment(next(roles), lead + text))
            lead = ""
        lead += piece[len(text) :]
    return tuple(pieces)


def interleave(streams: Sequence[Iterable[ContrastPair]], limit: int = CANDIDATE_LIMIT) -> Iterator[ContrastPair]:
    """Yield from the streams in turn until all are empty or `limit` pairs are out; no pair twice."""
    seen: set[tuple[str, str]] = set()
    active = [iter(stream) for stream in streams]
    while active:
        for stream in tuple(active):
            for pair in stream:
                key = pair.clean_text, pair.counterfactual_text
                if key not in seen:
                    break
            else:
                active.remove(stream)
                continue
            seen.add(key)
            yield pair
            if len(seen) == limit:
                return


def generator(*key: str | int) -> random.Random:
    """Return a random source that depends on `key` alone."""
    return random.Random("/".join(map(str, key)))
