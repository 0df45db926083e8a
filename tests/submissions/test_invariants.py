"""What the rules between a record's numbers let through: everything that a real run writes, in every setting."""

from __future__ import annotations

from pathlib import Path

import pytest

import basisbench
from basisbench.results.frame import read_results
from basisbench.submissions.invariants import violations
from basisbench.submissions.validate import validate
from basisbench.types import Ablation

SUITE = """
name: every-setting
summary: settings that the rules depend on
models: [pocket-llama]
tasks: [sva_simple]
bases: [mlp_act, transcoder, clt]
methods: [relp]
ablations: [{ablation}]
error_policies: [{policies}]
granularities: [{granularities}]
attribution_pairs: 8
evaluation_pairs: 8
kl: {kl}
subset_sizes: [5, 1000000]
subset_draws: 2
subset_blocks: 4
"""


ALL = "coordinates, rotated, node, keep, ablate"


# Every policy under both granularities; each ablation with every basis and both granularities of some policy.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("ablation", "kl", "policies", "granularities", "cells"),
    [
        ("mean", True, ALL, "position", 11),  # mlp_act leaves no error: one policy
        ("counterfactual", False, ALL, "unit", 11),
        ("zero", False, "rotated", "position, unit", 6),
    ],
)
def test_every_setting_of_a_real_run_is_valid(
    ablation: Ablation, kl: bool, policies: str, granularities: str, cells: int, tmp_path: Path
) -> None:
    """Three bases, exact and not; checks beyond all nodes too."""
    suite = tmp_path / "suite.yaml"
    text = SUITE.format(ablation=ablation, kl=str(kl).lower(), policies=policies, granularities=granularities)
    suite.write_text(text, encoding="utf-8")
    basisbench.run(suite, out=tmp_path / "out", progress=False)
    report = validate([tmp_path / "out"])
    assert list(report.lines()) == []
    assert report.valid == cells
    records = read_results(tmp_path / "out")
    assert [text for record in records for text in violations(record)] == []
    assert {record.cell.kl for record in records} == {kl}
