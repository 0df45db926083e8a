"""Swapping from Python and from the command line, on the pocket model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import pytest
import torch
from torch import Tensor

import basisbench as bb
from basisbench.cli import main
from basisbench.results.swapping import Answers, Swap, SwappedNode
from basisbench.runs.session import Session
from basisbench.types import Pairs

pytestmark = pytest.mark.slow
QUICK = {"draws": 1, "baselines": ()}


@pytest.fixture(scope="module")
def pairs() -> Session:
    """A few pairs on the pocket model, in several aligned groups."""
    return bb.load_pairs("sva_rc", bb.load_model("pocket-llama"), attribution=48, evaluation=16)


def run(pairs: Session, prompt: Sequence[int], values: Mapping[tuple[int, int, int], float]) -> tuple[Tensor, Tensor]:
    """Return the last logits of one prompt with some neurons at given values, and what all neurons were before."""
    layers, seen, handles = pairs.model.body.model.layers, [], []
    for layer, block in enumerate(layers):

        def change(_: object, inputs: tuple[Tensor], layer: int = layer) -> tuple[Tensor]:
            seen.append(inputs[0][0].clone())
            moved = inputs[0].clone()
            for (own, position, unit), value in values.items():
                if own == layer:
                    moved[0, position, unit] = value
            return (moved,)

        handles.append(block.mlp.down_proj.register_forward_pre_hook(change))
    with torch.no_grad():
        logits = pairs.model.body(input_ids=torch.tensor(prompt).unsqueeze(0)).logits[0, -1]
    for handle in handles:
        handle.remove()
    return logits, torch.stack(seen)


def at(group: Pairs, nodes: list[SwappedNode]) -> list[tuple[int, int, int]]:
    """Return (layer, position, neuron) of some nodes of roles of one token."""
    assert not any(node.token for node in nodes)
    return [(node.layer, group.roles.index(node.role), int(node.unit)) for node in nodes]


def test_neurons_at_their_other_values_give_what_plain_hooks_give_one_prompt_at_a_time(pairs: Session) -> None:
    found = bb.swap(pairs, "mlp_act", [3, 40], **QUICK)  # type: ignore[arg-type]
    words = {word for group in pairs.evaluation for ids in (*group.answers, *group.foils) for word in ids}
    assert len(found.candidates) == len(words)
    for size in found.sizes[:2]:
        metrics, own, other, same = [], [], [], []
        for group in pairs.evaluation:
            nodes = at(group, list(found.nodes[: size.nodes]))
            clean = [run(pairs, prompt, {})[1] for prompt in group.clean]
            for row in range(len(group)):
                _, donor = run(pairs, group.counterfactual[row], {})
                logits, _ = run(pairs, group.clean[row], {node: float(donor[node]) for node in nodes})
                answers, foils = group.answers[row], group.foils[row]
                metrics.append(mean(float(logits[a]) for a in answers) - mean(float(logits[f]) for f in foils))
                likeliest = max(words, key=lambda word: float(logits[word]))
                own.append(likeliest in answers)
                other.append(likeliest in foils)
            couples: dict[bool, list[float]] = {True: [], False: []}
            for one in range(len(group)):
                for two in range(len(group)):
                    alike = tuple(group.answers[one]) == tuple(group.answers[two])
                    if not alike or tuple(group.clean[one]) != tuple(group.clean[two]):
                        couples[alike].append(sum(abs(float(clean[one][n] - clean[two][n])) for n in nodes))
            same += [mean(couples[True]) / mean(couples[False])] * len(couples[True]) if couples[True] else []
        assert size.swapped.metric == pytest.approx(mean(metrics), abs=2e-3)
        assert (size.swapped.own, size.swapped.other) == (mean(own), mean(other))
        assert same
        assert size.swapped.alike == pytest.approx(mean(same), rel=1e-3)
        assert size.way is not None
        gap = found.full.metric - found.counterfactual.metric
        assert size.way.value == pytest.approx((found.full.metric - mean(metrics)) / gap, abs=1e-3)
    assert found.counterfactual.metric == pytest.approx(-found.full.metric, rel=0.2)


def test_the_subject_s_neurons_carry_its_number_and_others_do_not(pairs: Session) -> None:
    found = bb.swap(pairs, "mlp_act", [1, 100])
    one, many, everything = found.sizes
    assert not one.outside
    assert many.outside
    assert many.way is not None
    assert many.way.low > 0.6
    assert found.claim.startswith("At size 100 the answer goes further than the 95% interval of 39 draws")
    assert {node.role for node in found.nodes} <= {"subject", "complementizer"}
    assert set(many.baselines) == {"random", "magnitude"}
    assert everything.controls == ()
    assert everything.way is not None
    assert everything.way.value > many.way.value


def test_all_neurons_and_all_that_they_write_are_the_same_swap(pairs: Session) -> None:
    """Each MLP's output is then that of the other prompt, whatever basis it is written in."""
    ends = [bb.swap(pairs, name, [], **QUICK).sizes[-1].swapped for name in ("mlp_act", "mlp_out")]  # type: ignore[arg-type]
    assert ends[0].metric == pytest.approx(ends[1].metric, abs=2e-3)
    assert (ends[0].own, ends[0].other) == (ends[1].own, ends[1].other)
    assert ends[0].alike is None


def test_roles_say_where(pairs: Session) -> None:
    """In front of the word that differs nothing changes, so that there is nothing to swap; at the last all is."""
    last = bb.swap(pairs, "mlp_act", [5], roles=["last"], **QUICK)  # type: ignore[arg-type]
    assert last.roles == ("clause_verb",)
    assert {node.role for node in last.nodes} == {"clause_verb"}
    with pytest.raises(bb.BasisBenchError, match=r"no node at opening .* has a score under relp"):
        bb.swap(pairs, "mlp_act", [5], roles=["opening"], **QUICK)  # type: ignore[arg-type]


@pytest.mark.parametrize(("asked", "expected"), [
    ({"sizes": [0]}, "sizes: expected whole numbers from 1 to a million, found 0"),
    ({"sizes": "10"}, "sizes: expected whole numbers from 1"),
    ({"roles": ["subjct"]}, "no role named 'subjct'; did you mean subject or"),
    ({"draws": 0}, "draws: expected a whole number from 1 to 1000"),
    ({"draws": 600}, "are too few for 600 draws"),
    ({"method": "relpp"}, "no method named 'relpp'"),
    ({"error_policy": "node"}, "under the error policy 'node' what a basis leaves out is no live nodes"),
])  # fmt: skip
def test_a_mistake_is_told_in_one_line(pairs: Session, asked: dict[str, object], expected: str) -> None:
    with pytest.raises(bb.BasisBenchError) as caught:
        bb.swap(pairs, **{"basis": "mlp_act", "sizes": [2], **QUICK, **asked})  # type: ignore[arg-type]
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_prints_tables_and_writes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["swap", "sva_simple", "--basis", "sae_mlp_out", "--examples", "8", "--draws", "2", "-k", "3"]
    assert main([*words, "--role", "subject", "--json", str(tmp_path / "swapped.json")]) == 0
    out = capsys.readouterr().out
    found = Swap.model_validate_json((tmp_path / "swapped.json").read_bytes())
    assert found.roles == ("subject",)
    assert found.cell.ablation == "counterfactual"
    assert found.sizes[0].nodes == 3
    assert all(isinstance(each, Answers) for each in found.sizes[0].controls)
    for part in ("where the 3 best are", found.claim, "swapped at subject", "3 nodes"):
        assert part in " ".join(out.split())
    assert main([*words, "--role", "subjct"]) == 2
    assert main([*words, "--json", str(tmp_path / "no/swapped.json")]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 2
    assert "there is no folder" in errors
