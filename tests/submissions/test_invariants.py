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
tasks: [ioi]
bases: [mlp_act, transcoder, clt]
methods: [relp]
ablations: [{ablation}]
error_policies: [coordinates, rotated, node, keep, ablate]
granularities: [position, unit]
attribution_pairs: 8
evaluation_pairs: 8
kl: {kl}
subset_sizes: [5, 1000000]
subset_draws: 2
"""


@pytest.mark.slow
@pytest.mark.parametrize(("ablation", "kl"), [("mean", True), ("counterfactual", False), ("zero", False)])
def test_every_setting_of_a_real_run_is_valid(ablation: Ablation, kl: bool, tmp_path: Path) -> None:
    """Three bases, exact and not, under every policy of errors and both granularities; checks beyond all nodes too."""
    suite = tmp_path / "suite.yaml"
    suite.write_text(SUITE.format(ablation=ablation, kl=str(kl).lower()), encoding="utf-8")
    basisbench.run(suite, out=tmp_path / "out", progress=False)
    report = validate([tmp_path / "out"])
    assert list(report.lines()) == []
    assert report.valid == 22  # mlp_act leaves no error: one policy
    records = read_results(tmp_path / "out")
    assert [text for record in records for text in violations(record)] == []
    assert {record.cell.kl for record in records} == {kl}
