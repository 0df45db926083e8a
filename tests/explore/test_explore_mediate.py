"""Mediation from Python and from the command line, on the pocket model."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import basisbench as bb
from basisbench.circuits.swapped import At
from basisbench.cli import main
from basisbench.models.model import Model
from basisbench.registry import load_registry
from basisbench.results.mediation import Mediation
from basisbench.runs.session import Session
from basisbench.types import ContrastPair, Segment, Split

pytestmark = pytest.mark.slow
QUICK: dict[str, Any] = {"draws": 2, "attribution_draws": 1}


@dataclass(frozen=True)
class Framed:
    """The users of a task of the pocket model, in front of a continuation of one's own.

    Attributes:
        name: name of the task.
        reply: the continuation; the task's own when empty.
        words: answer and foil, whatever the cue; the task's own when empty.
    """

    name: str
    reply: str = ""
    words: tuple[str, ...] = ()
    of: str = "user_occupation"
    version: str = "1"
    summary: str = "users in a frame"

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        """Yield the pairs of the task's first question."""
        for pair in load_registry().get("task", self.of).candidates(split, seed):
            if pair.template.endswith("question_0"):
                words: dict[str, Any] = {"answers": self.words[:1], "foils": self.words[1:]} if self.words else {}
                clean, counterfactual = self._framed(pair.clean), self._framed(pair.counterfactual)
                yield replace(pair, clean=clean, counterfactual=counterfactual, **words)

    def _framed(self, segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
        return (*segments[:-1], Segment("question", self.reply)) if self.reply else segments


@pytest.fixture(scope="module")
def model() -> Model:
    return bb.load_model("pocket-llama")


def opened(model: Model, task: Any) -> Session:
    return bb.load_pairs(task, model, attribution=16, evaluation=16)


@pytest.fixture(scope="module")
def belief(model: Model) -> Session:
    return opened(model, Framed("belief"))


@pytest.fixture(scope="module")
def response(model: Model) -> Session:
    return opened(model, Framed("response", " You earn money as a"))


def by_hand(response: Session, nodes: list[Any], swapped: bool, places: dict[str, list[int]]) -> Tensor:
    """Return the metric of each pair with `mlp_act` nodes set to their counterfactual values by plain hooks."""
    layers, found = response.model.body.model.layers, []
    for group in response.groups:
        pairs, batch = group.evaluation.pairs, group.evaluation.batch
        own = {(node.layer, node.position, node.unit) for node in nodes if node.group == pairs.group}
        for row in range(len(pairs)):
            seen: dict[int, Tensor] = {}

            def note(layer: int, seen: dict[int, Tensor] = seen) -> Any:
                return lambda _, inputs: seen.__setitem__(layer, inputs[0].clone())

            def swap(layer: int, own: Any = own, seen: Any = seen, at: Any = places[pairs.group]) -> Any:
                def hook(_: object, inputs: tuple[Tensor]) -> tuple[Tensor]:
                    moved = inputs[0].clone()
                    for position in at:
                        chosen = torch.zeros(moved.shape[-1], dtype=torch.bool)
                        chosen[[unit for index, place, unit in own if (index, place) == (layer, position)]] = True
                        moved[0, position] = torch.where(
                            chosen == swapped, seen[layer][0, position], moved[0, position]
                        )
                    return (moved,)

                return hook

            for ids, make in ((batch.counterfactual, note), (batch.clean, swap)):
                handles = [
                    layer.mlp.down_proj.register_forward_pre_hook(make(index)) for index, layer in enumerate(layers)
                ]
                with torch.no_grad():
                    logits = response.model.body(input_ids=ids[row : row + 1]).logits[0, -1]
                for handle in handles:
                    handle.remove()
            found.append(logits[pairs.answers[row]].mean() - logits[pairs.foils[row]].mean())
    return torch.stack(found)


@pytest.mark.parametrize("at", ["cue", "header"])
def test_shares_are_what_plain_hooks_find(belief: Session, response: Session, at: At) -> None:
    """The k best of the belief by score, swapped one prompt and one position at a time on the response's pairs."""
    found = bb.mediate(belief, response, "mlp_act", sizes=[40], at=at, **QUICK)
    names = {"cue": ["cue", "boundary"], "header": ["boundary", "assistant", "assistant", "question"]}[at]
    assert set(found.roles) == {group.evaluation.pairs.group for group in response.groups}
    scores, nodes = bb.score(belief, "mlp_act", "relp", ablation="counterfactual"), []
    places: dict[str, list[int]] = {}
    for group in response.groups:
        key, roles = group.evaluation.pairs.group, group.evaluation.pairs.roles
        first = roles.index(names[0])  # both frames go on with " You", which "header" has too
        places[key] = list(range(first, first + len(names)))
        assert list(found.roles[key]) == [roles[position] for position in places[key]] == names
        (same,) = (own for own in scores.groups if own.rpartition(",")[0] == key.rpartition(",")[0])
        here = [node for node in scores.circuit(10**5).nodes if node.group == same and node.position in places[key]]
        nodes += [node.model_copy(update={"group": key}) for node in here[:40]]
    clean = torch.cat([group.full for group in response.groups])
    shift = found.gap.value
    own = found.sizes[0].of("belief")
    for share, swapped in ((own.swapped, True), (own.rest, False)):
        metric = by_hand(response, nodes, swapped, places)
        assert share.value == pytest.approx(float((clean - metric).mean()) / shift, abs=2e-5)
        assert share.low <= share.value <= share.high
    assert found.clean.value == pytest.approx(float(clean.mean()), rel=1e-4)
    assert found.sizes[0].beyond["random"].value == pytest.approx(
        own.swapped.value - found.sizes[0].of("random").swapped.value, abs=1e-4
    )
    assert len(found.sizes[0].of("random").swapped_draws) == 2


def test_a_response_that_follows_nothing_gets_no_share(model: Model, belief: Session) -> None:
    deaf = opened(model, Framed("deaf", " You earn money as a", (" farmer", " nurse")))
    found = bb.mediate(belief, deaf, "mlp_act", sizes=[10], **QUICK)
    assert found.gap.low < 0 < found.gap.high
    assert found.belief_gap.low > 10
    assert "is not told from none: no share of it is given" in found.refused
    assert (found.sizes, found.whole, found.every) == ((), None, None)
    assert list(found.claims) == [found.refused]


def test_features_and_errors_are_swapped_too_and_circuits_are_compared(belief: Session, response: Session) -> None:
    other = opened(response.model, Framed("country", of="user_country"))
    found = bb.mediate(
        belief, response, "sae_mlp_out", sizes=[5, 40], at="cue", draws=2, attribution_draws=2, others=[other]
    )
    assert [size.nodes for size in found.sizes] == [5, 40]
    assert found.whole is not None
    assert found.whole.value == pytest.approx(1, abs=1e-3)  # from the cue on nothing of the clean user is left
    assert [(own.other, own.level) for own in found.overlaps] == [
        ("response, same cues", "nodes"), ("itself, other attribution pairs", "units"),
        ("itself, another aligned group", "units"), ("country", "units"),
    ]  # fmt: skip
    for own in found.overlaps:
        assert own.low <= own.jaccard <= own.high
        assert own.jaccard > own.chance
    itself = bb.mediate(belief, belief, "sae_mlp_out", sizes=[40], **QUICK)
    assert itself.overlaps[0].jaccard == 1
    assert itself.gap == itself.belief_gap
    assert itself.sizes[0].of("belief").swapped == itself.sizes[0].of("response").swapped


@pytest.mark.parametrize(("asked", "expected"), [
    ({"sizes": []}, "sizes: expected 1 to 20 whole numbers from 1 to a million"),
    ({"sizes": [3, 0]}, "sizes: expected 1 to 20 whole numbers from 1 to a million"),
    ({"sizes": [10**5]}, "sizes: 100000 nodes asked, but there are 2048 at the places"),
    ({"sizes": [2000]}, "nodes of one layer and position are in the set"),
    ({"draws": 0}, "draws: expected a whole number from 1 to 1000"),
    ({"at": "behind"}, "no place named 'behind'"),
    ({"error_policy": "node"}, "under the error policy 'node' what a basis leaves out is no live nodes"),
    ({"basis": "mlp_akt"}, "no basis named 'mlp_akt'; did you mean mlp_act"),
    ({"response": 7}, "response: expected what load_pairs returns, found 7"),
])  # fmt: skip
def test_a_mistake_is_told_in_one_line(
    belief: Session, response: Session, asked: dict[str, Any], expected: str
) -> None:
    question = {"response": response, "basis": "mlp_act", "sizes": [3], **QUICK, **asked}
    with pytest.raises(bb.BasisBenchError) as caught:
        bb.mediate(belief, **question)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tasks_of_other_users_are_refused(model: Model, belief: Session) -> None:
    with pytest.raises(bb.BasisBenchError, match="no aligned group of 'belief' has the users of group"):
        bb.mediate(belief, opened(model, "user_country"), "mlp_act", **QUICK)


def test_the_command_prints_tables_and_writes_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["mediate", "--belief", "user_age", "--response", "user_age", "--basis", "mlp_act", "--examples", "16"]
    more = ["--sizes", "3,10", "--draws", "2", "--attribution-draws", "1", "--at", "header", "--other", "user_gender"]
    assert main([*words, *more, "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    found = Mediation.model_validate_json((tmp_path / "out/mediation.json").read_bytes())
    assert [size.nodes for size in found.sizes] == [3, 10]
    for part in (*next(iter(found.claims)).split(";")[:1], "mediation.png are in", "user_gender", "by chance"):
        assert part in out
    rows = list(csv.DictReader((tmp_path / "out/mediation.csv").open(encoding="utf-8")))
    assert len(rows) == 2 * (4 + 2 * 2)
    assert (tmp_path / "out/mediation.png").stat().st_size > 5000
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert main([*words, "--out", str(tmp_path / "file")]) == 2
    assert main([*words, "--other", "user_agee"]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 2
    assert "is a file; expected a folder" in errors
    assert "no task named 'user_agee'; did you mean user_age" in errors
    with pytest.raises(SystemExit):
        main([*words, "--sizes", "3,x"])
    assert "argument --sizes: expected a whole number from 1 to 1000000, found 'x'" in capsys.readouterr().err
