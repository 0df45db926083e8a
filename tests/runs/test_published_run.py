"""`basisbench run --model ORG/NAME --basis sae:RELEASE` without a network: from the command line to the records."""

from __future__ import annotations

from pathlib import Path

import pytest

from basisbench.cli import main
from basisbench.results.record import Record, read_record
from helpers.hub_releases import RELEASES
from helpers.hub_replica import MODELS, replica


def run(model: str, bases: list[str], out: Path) -> dict[str, Record]:
    words = ["run", "--model", MODELS[model].repository, "--task", "sva_simple", "--method", "relp", "--examples", "5"]
    for basis in bases:
        words += ["--basis", basis]
    words += ["--allow-poor-fit", "--jobs", "1", "--out", str(out)]  # random weights explain nothing
    with replica().in_use():
        assert main(words) == 0
    records = [read_record(path) for path in (out / "records").glob("*.json")]
    return {record.cell.basis: record for record in records}


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("model", "neurons", "names"),
    [
        # TopK dictionaries of normalised activations, and dictionaries of a centred stream.
        ("gpt2", "resid", ["gpt2-small-resid-post-v5-32k", "gpt2-small-res-jb"]),
        # An affine skip connection, and a write site behind a post-norm.
        ("gemma-3", "mlp_out", ["gemma-scope-2-270m-pt-mlp-all", "gemma-scope-2-270m-pt-transcoders-all"]),
    ],
)
def test_published_dictionaries_run_from_the_command_line(
    model: str, neurons: str, names: list[str], tmp_path: Path
) -> None:
    bases = {name: f"sae:{name}" for name in names}
    if model == "gemma-3":
        bases = {name: f"sae:{name}:{RELEASES[name].pattern.format('*')}" for name in names}
    records = run(model, [neurons, *bases.values()], tmp_path / "out")
    assert set(records) == {neurons, *bases.values()}
    endpoints = [record.endpoints for record in records.values()]
    assert all(ends.full == pytest.approx(endpoints[0].full, abs=1e-5) for ends in endpoints)
    assert all(ends.empty == pytest.approx(endpoints[0].empty, abs=1e-5) for ends in endpoints)
    for name, basis in bases.items():
        record, release = records[basis], RELEASES[name]
        further = {"gpt2-small-res-jb": 1, "gpt2-small-resid-post-v5-32k": 2}.get(name, 16 if release.skip else 0)
        assert record.counts.layers == MODELS[model].layers
        assert set(record.counts.units_per_layer) == {release.units + further}
        assert record.guard is not None
        assert all(0 < value < 1.5 for value in record.guard.fvu)
        assert record.cost.dictionary_bytes > 0
        assert record.sources[release.repository] == replica().snapshot(release.repository).name
        assert record.identities.dictionary is not None
