"""Template transfer: scores of the other half of the templates by role, against a slow and obvious twin."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from basisbench.circuits.transfer import other_half, places_from_end, transferred_scores
from basisbench.errors import TaskError
from basisbench.models.load import load_model
from basisbench.registry import built_in
from basisbench.results.templates import halves_of_templates
from basisbench.runs.session import Session, open_session
from basisbench.types import Granularity, Scores, ScoreSplit
from helpers import oracle

GROUPS = ("a:2,1,1", "a:3,1,1", "b:1,1,1", "c:2,2,1")
ROLES = (
    ("opening", "opening", "subject", "verb"),
    ("opening", "opening", "opening", "subject", "verb"),
    ("opening", "subject", "verb"),
    ("opening", "opening", "attractor", "attractor", "verb"),
)
PAIRS = (3, 5, 7, 2)


def test_halves_are_of_templates_by_name_and_the_first_has_the_odd_one() -> None:
    assert halves_of_templates(GROUPS) == ({"a", "b"}, {"c"})
    assert halves_of_templates(["frame/baba:1", "frame/abba:1", "other/abba:2", "other/baba:1,1"]) == (
        {"frame/abba", "frame/baba"},
        {"other/abba", "other/baba"},
    )
    assert other_half("task", GROUPS) == [[3], [3], [3], [0, 1, 2]]


def test_a_task_of_one_template_is_told_so() -> None:
    with pytest.raises(TaskError, match=r"task 'ioi' has one template here, 'a', .* 'other_templates' out of score"):
        other_half("ioi", GROUPS[:2])


def test_places_are_counted_from_the_end_of_their_role() -> None:
    assert places_from_end(ROLES[0]) == [("opening", 1), ("opening", 0), ("subject", 0), ("verb", 0)]


def naive(scores: Sequence[torch.Tensor], group: int, sources: Sequence[int]) -> torch.Tensor:
    """Score a group by others, a node at a time."""
    found = torch.zeros_like(scores[group])
    for position, role in enumerate(ROLES[group]):
        after = list(ROLES[group][position + 1 :]).count(role)
        for unit in range(found.shape[1]):
            total, weight = 0.0, 0
            for other in sources:
                for place, name in enumerate(ROLES[other]):
                    if name == role and list(ROLES[other][place + 1 :]).count(role) == after:
                        total += float(scores[other][place, unit]) * PAIRS[other]
                        weight += PAIRS[other]
            found[position, unit] = total / weight if weight else 0.0
    return found


@pytest.mark.parametrize("errors", [False, True])
def test_scores_are_the_mean_of_the_others_at_the_same_role(errors: bool) -> None:
    torch.manual_seed(0)
    tables = [
        [torch.randn(len(roles), width, dtype=torch.float64) for roles in ROLES] for width in (3, 4, *([2, 2] * errors))
    ]
    scores = [
        Scores((tables[0][at], tables[1][at]), (tables[2][at], tables[3][at]) if errors else None)
        for at in range(len(ROLES))
    ]
    sources = other_half("task", GROUPS)
    for group, found in enumerate(transferred_scores(scores, ROLES, PAIRS, sources)):
        for table, own in zip(tables, (*found.units, *(found.errors or ())), strict=True):
            torch.testing.assert_close(own, naive(table, group, sources[group]))
        assert (found.errors is None) is not errors
    # What has no counterpart has no score: the attractor of the last group, the first opening token of the second.
    assert not transferred_scores(scores, ROLES, PAIRS, sources)[3].units[0][2:4].any()
    assert not transferred_scores(scores, ROLES, PAIRS, sources)[1].units[0][0].any()


@pytest.fixture(scope="module")
def session() -> Session:
    model, task = load_model(built_in().get("model", "pocket-llama")), built_in().get("task", "sva_rc")
    return open_session(model, task, attribution_pairs=32, evaluation_pairs=32, seed=0)


@pytest.mark.parametrize("granularity", ["position", "unit"])
def test_a_cell_is_ranked_by_the_other_half(session: Session, granularity: Granularity) -> None:
    relp = built_in().get("method", "relp")
    basis = session.basis(built_in().get("basis", "mlp_act")).basis

    def ranked(split: ScoreSplit) -> list[dict[tuple[int, int, int], float]]:
        cell = oracle.cell("mlp_act", task="sva_rc", score_split=split, granularity=granularity)
        return [
            {(site, position, unit): score for site, position, unit, score in ranking.top(60)}
            for ranking in session._rankings(cell, basis, relp)
        ]

    usual, other = ranked("attribution"), ranked("other_templates")
    templates = [group.evaluation.pairs.group.split(":")[0] for group in session.groups]
    assert sorted(templates) == ["night", "plain", "think", "today"]
    assert usual != other
    if granularity == "unit":
        assert usual[0] == usual[1] == usual[2] == usual[3]
        at = dict(zip(templates, other, strict=True))
        assert at["night"] == at["plain"] != at["think"] == at["today"]
        return
    # A node at the subject has the mean of its scores in the other two templates, which have as many pairs.
    cell = oracle.cell("mlp_act", task="sva_rc")
    scores = dict(zip(templates, session.scores(basis, relp, cell), strict=True))
    roles = {name: group.evaluation.pairs.roles for name, group in zip(templates, session.groups, strict=True)}
    for name, own in zip(templates, other, strict=True):
        others = ("night", "plain") if name in ("think", "today") else ("think", "today")
        assert len(own) == 60
        for (site, position, unit), score in own.items():
            expected = [
                scores[each].units[site][position - len(roles[name]) + len(roles[each]), unit] for each in others
            ]
            assert score == pytest.approx(float(sum(expected)) / 2, rel=1e-5)
