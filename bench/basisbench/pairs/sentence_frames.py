"""Helpers with which tasks turn sentence frames into contrast pairs."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

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
    pieces = _SLOT.split(frame)
    roles = iter(literal_roles)
    segments: list[Segment] = []
    lead = ""
    for index, piece in enumerate(pieces):
        if index % 2:
            segments.append(Segment(piece, lead + words[piece]))
            lead = ""
            continue
        text = piece.rstrip(" ")
        if text:
            segments.append(Segment(next(roles), lead + text))
            lead = ""
        lead += piece[len(text) :]
    return tuple(segments)


def interleave(streams: Sequence[Iterable[ContrastPair]], limit: int = CANDIDATE_LIMIT) -> Iterator[ContrastPair]:
    """Yield from the streams in turn until all are empty or `limit` pairs are out; no pair twice."""
    seen: set[tuple[str, str]] = set()
    active = [iter(stream) for stream in streams]
    while active:
        for stream in tuple(active):
            pair = next((pair for pair in stream if _key(pair) not in seen), None)
            if pair is None:
                active.remove(stream)
                continue
            seen.add(_key(pair))
            yield pair
            if len(seen) == limit:
                return


def _key(pair: ContrastPair) -> tuple[str, str]:
    return pair.clean_text, pair.counterfactual_text


def generator(*key: str | int) -> random.Random:
    """Return a random source that depends on `key` alone."""
    return random.Random("/".join(map(str, key)))
