"""The models that were built, loaded once, with few pairs of their task; circuits of exactly the true nodes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

import basisbench as bb
from basisbench.explore.steps import NodeScores
from basisbench.explore.truth import find_truth
from basisbench.registry import built_in
from basisbench.runs.session import Session
from basisbench.types import Scores, TrueNodes

TASK = "known_kind"
MODELS = tuple(entry.name for entry in built_in().of("model") if built_in().get("model", entry.name).truth)


@cache
def pairs_on(model: str, count: int = 16) -> Session:
    """Return the pairs of the task on a model, `count` per split."""
    return bb.load_pairs(TASK, bb.load_model(model), attribution=count, evaluation=count)


def truth_of(model: str, basis: str) -> TrueNodes:
    """Return the true nodes of a basis."""
    found = find_truth(built_in().get("model", model), TASK, basis)
    assert found is not None
    return found


def true_scores(scores: NodeScores, truth: TrueNodes) -> NodeScores:
    """Return scores of 1 for the true nodes, and of 0 for all others."""
    groups = {}
    for key, found in scores.groups.items():
        units = tuple(torch.zeros_like(part) for part in found.units)
        for layer, role, unit in truth.nodes:
            units[scores.layers.index(layer)][scores.roles[key].index(role), unit] = 1
        errors = None if found.errors is None else tuple(torch.zeros_like(part) for part in found.errors)
        groups[key] = Scores(units, errors)
    return replace(scores, groups=groups)
