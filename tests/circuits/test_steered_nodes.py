"""Names of nodes by role, and controls that are like them."""

from __future__ import annotations

import pytest
import torch

from basisbench.circuits.merged import places
from basisbench.circuits.steered_nodes import Activations, SteeredNode, beside, group_nodes, named_node, places_of
from basisbench.errors import BasisBenchError
from basisbench.types import Scores
from helpers import oracle

ROLES = {"long:1,2,1": ("bos", "subject", "verb", "verb", "end"), "short:1,1,1": ("bos", "subject", "verb", "end")}
WIDTHS = (20, 16)


def activations() -> Activations:
    """Return sizes of units that fall from one to the next, and of error coordinates that rise."""
    groups = {}
    for key, roles in ROLES.items():
        units = torch.arange(60, 0, -1, dtype=torch.float64).expand(len(roles), -1).contiguous()
        errors = torch.arange(1, 61, dtype=torch.float64).expand(len(roles), -1).contiguous()
        groups[key] = Scores((units, units), (errors, errors))
    return Activations(groups, dict.fromkeys(ROLES, 3))


def node(name: str, basis: str = "sae_mlp_out") -> SteeredNode:
    like = next(iter(activations().groups.values()))
    return named_node(name, oracle.basis("llama", basis), places(ROLES), ROLES, like)


def test_a_name_is_a_layer_a_role_and_a_unit() -> None:
    subject, verb, second = node("1:subject:7"), node("0:verb:3"), node("0:verb 2/2:error 4")
    assert group_nodes([subject], "long:1,2,1") == ((1, 1, 7),)
    assert group_nodes([verb], "long:1,2,1") == ((0, 2, 3), (0, 3, 3))
    assert group_nodes([verb], "short:1,1,1") == ((0, 2, 3),)
    assert group_nodes([second], "long:1,2,1") == ((0, 3, -5),)
    assert group_nodes([second], "short:1,1,1") == ()
    assert group_nodes([node("0:last:3")], "long:1,2,1") == ((0, 4, 3),)
    assert [position for _, position, _ in group_nodes([node("0:all:3")], "short:1,1,1")] == [1, 2, 3]
    # One node is named twice.
    assert group_nodes([node("0:all:3"), node("0:last:3")], "short:1,1,1") == ((0, 1, 3), (0, 2, 3), (0, 3, 3))
    assert places_of([verb, subject]) == 4  # a verb of one token, and each of two


@pytest.mark.parametrize(("name", "expected"), [
    ("subject:7", "node 'subject:7': expected LAYER:ROLE:UNIT, for example 3:end:74"),
    ("1:subject:-7", "expected LAYER:ROLE:UNIT"),
    ("1:subject:7.5", "expected LAYER:ROLE:UNIT"),
    ("2:subject:7", "basis 'sae_mlp_out' has the layers 0 to 1"),
    ("1:subjct:7", "no role named 'subjct'; did you mean subject?"),
    ("1:subject:60", "layer 1 of basis 'sae_mlp_out' has 60 units, from 0"),
    ("1:subject:error 60", "has 60 error nodes, from 0"),
])  # fmt: skip
def test_a_wrong_name_says_what_is_expected(name: str, expected: str) -> None:
    with pytest.raises(BasisBenchError) as caught:
        node(name)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_controls_are_others_of_the_same_place_and_kind_and_of_like_size() -> None:
    known = activations()
    nodes = (node("1:subject:7"), node("1:subject:8"), node("0:verb:30"), node("1:subject:error 7"))
    draws = known.controls(nodes, 9, torch.Generator().manual_seed(3))
    assert len(draws) == 9
    chosen = {(each.index, each.unit, each.role) for each in nodes}
    for drawn in draws:
        assert len({(each.index, each.unit, each.role) for each in drawn}) == len(nodes)
        for own, other in zip(nodes, drawn, strict=True):
            assert (other.layer, other.places, other.unit >= 0) == (own.layer, own.places, own.unit >= 0)
            assert (other.index, other.unit, other.role) not in chosen
    # 9 others nearest by ratio: no unit of half the size or less, though most are.
    for place, own in enumerate(nodes):
        sizes = [known.of(drawn[place]) / known.of(own) for drawn in draws]
        assert 0.5 < min(sizes) < 1 < max(sizes) < 2.5
    # A node has another control in each draw where no other node is in the way.
    assert len({drawn[2].unit for drawn in draws}) == 9
    again = known.controls(nodes, 9, torch.Generator().manual_seed(3))
    assert [[each.unit for each in drawn] for drawn in again] == [[each.unit for each in drawn] for drawn in draws]
    key = "short:1,1,1"
    assert [other[1] for other in beside(nodes, draws[0], key)] == [own[1] for own in group_nodes(nodes, key)]


def test_too_few_others_are_told() -> None:
    with pytest.raises(BasisBenchError, match="59 other nodes at layer 1, role subject, are too few for 60 draws"):
        activations().controls([node("1:subject:7")], 60, torch.Generator())
