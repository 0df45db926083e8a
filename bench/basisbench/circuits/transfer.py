"""Scores taken over from other templates: is what was found in some wordings what other wordings use?

A template is one wording of a task; its aligned groups have positions of their own. Scores go from one group to another
by role, tokens of a role counted from its end: the last token of "went to the" stands for the last of "arrived at the".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from basisbench.circuits.merged import RolePosition, known, merge
from basisbench.errors import TaskError
from basisbench.results.templates import halves_of_templates, template_of
from basisbench.types import Scores


def other_half(task: str, groups: Sequence[str]) -> list[list[int]]:
    """Return for each aligned group the places of those whose template is in the other half.

    Args:
        task: name of the task, for the message.
        groups: keys of the groups.

    Raises:
        TaskError: there is one template only.
    """
    halves = halves_of_templates(groups)
    if not halves[1]:
        raise TaskError(
            f"task '{task}' has one template here, '{next(iter(halves[0]))}', so that no scores of another one can be "
            "taken; leave 'other_templates' out of score_splits, or ask for more pairs"
        )
    first = [template_of(group) in halves[0] for group in groups]
    return [[at for at, side in enumerate(first) if side is not own] for own in first]


def transferred_scores(
    scores: Sequence[Scores], roles: Sequence[Sequence[str]], pairs: Sequence[int], sources: Sequence[Sequence[int]]
) -> list[Scores]:
    """Score every aligned group by others: the mean of their scores at the same role, weighted by pairs.

    Args:
        scores: scores of each group.
        roles: role of each of its positions.
        pairs: its pairs.
        sources: for each group the places of those whose scores it takes over.

    Returns:
        Scores of each group; 0 at a position whose role none of the others has, which is then ranked last.
    """
    places = [places_from_end(own) for own in roles]
    positions = [{place: position for position, place in enumerate(own)} for own in places]

    def of_others(group: int) -> Scores:
        others = {str(at): at for at in sources[group]}
        wanted = [
            RolePosition(
                place[0],
                f"{place[1]} from its end",
                {name: positions[at][place] for name, at in others.items() if place in positions[at]},
            )
            for place in places[group]
        ]
        own = {name: scores[at] for name, at in others.items()}
        return known(merge(own, {name: pairs[at] for name, at in others.items()}, wanted))

    return [of_others(group) for group in range(len(scores))]


def places_from_end(roles: Sequence[str]) -> list[tuple[str, int]]:
    """Return (role, tokens of it that come after) of each position."""
    return [(role, after) for role, run in groupby(roles) for after in reversed(range(len(list(run))))]
