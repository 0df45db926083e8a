"""Options of a run that change how it is done, and what is left when it cannot be done."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from basisbench.cli import main
from basisbench.errors import RecordError
from basisbench.results.metrics import sizes_grid
from basisbench.results.record import Record, cell_id, read_record
from basisbench.runs.run import Request, run_request
from basisbench.runs.runner import RunOptions
from basisbench.types import ModelSpec

pytestmark = pytest.mark.slow

Write = Callable[..., Path]
FEW: dict[str, Any] = {
    "models": ["tiny-llama"], "tasks": ["sva_simple"], "bases": ["mlp_act", "resid"], "methods": ["relp", "ixg"],
    "attribution_pairs": 8, "evaluation_pairs": 8, "also": [],
}  # fmt: skip


def run(out: Path, plugin: Path, *, limit: int | None = None, changes: dict[str, Any] = FEW, **settings: Any) -> Any:
    request = Request(
        "pocket", changes, RunOptions(out=out, plugins=(plugin,), **settings), progress=False, limit=limit
    )
    return run_request(request)


def records(outcome: Any) -> list[Record]:
    return [read_record(path) for path in outcome.records]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_gives_nearly_the_same_curve_and_says_so(
    tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path, dtype: str
) -> None:
    plugin = plugin_with(tiny_llama)
    whole = records(run(tmp_path, plugin))
    half = records(run(tmp_path, plugin, dtype=dtype))
    assert not {record.id for record in whole} & {record.id for record in half}, "another type makes another cell"
    for one, other in zip(whole, half, strict=True):
        assert one.cell == other.cell
        assert (one.environment.dtype, other.environment.dtype) == ("float32", dtype)
        full, found = np.array(one.endpoints.full), np.array(other.endpoints.full)
        spread = np.abs(full).max()
        assert np.isfinite(np.array(other.curve.circuit)).all()
        assert np.abs(full - found).max() < 0.05 * spread
        # Rankings differ where scores are close, so circuits of one size agree less than the ends do; and so do the
        # sizes that bisection adds.
        common = set(sizes_grid(one.counts.nodes_max))
        for name in ("circuit", "complement"):
            rows, others = (
                np.array([row for size, row in zip(sizes, values, strict=True) if size in common])
                for sizes, values in ((record.curve.sizes, getattr(record.curve, name)) for record in (one, other))
            )
            assert np.abs(rows.mean(1) - others.mean(1)).max() < 0.2 * spread
        assert len({f"{value:.4g}" for value in other.endpoints.full}) > len(full) / 2, (
            "metrics are not rounded to half"
        )


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_limit_runs_a_few_cells_of_few_pairs(
    tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = plugin_with(tiny_llama)
    options = ["--model", "tiny-llama", "--plugin", str(plugin), "--basis", "mlp_act", "--basis", "resid"]
    options += ["--task", "sva_simple", "--task", "sva_rc"]
    assert main(["run", *options, "--limit", "3", "--out", str(tmp_path), "--jobs", "1"]) == 0
    assert "cells: 3 finished" in capsys.readouterr().out
    found = [read_record(path) for path in (tmp_path / "records").glob("*.json")]
    assert {record.cell.basis for record in found} == {"mlp_act", "resid"}
    assert len({record.cell.method for record in found}) == 3
    assert all(record.cell.attribution_pairs == 16 for record in found)


@pytest.mark.slow
def test_a_suite_chooses_the_type_and_the_command_line_goes_before_it(
    tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path
) -> None:
    plugin = plugin_with(tiny_llama)
    changes = {**FEW, "bases": ["resid"], "methods": ["random"], "dtype": "bfloat16"}
    assert records(run(tmp_path, plugin, changes=changes))[0].environment.dtype == "bfloat16"
    assert records(run(tmp_path, plugin, changes=changes, dtype="float32"))[0].environment.dtype == "float32"


def test_a_basis_that_misses_layers_restricts_its_family(
    tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path
) -> None:
    """All bases of the family then agree on F(0) and rank the same layers; other families are left alone."""
    partial = tmp_path / "partial.py"
    partial.write_text(
        "from dataclasses import replace\n"
        "from basisbench.runs.layer_subset import restrict\n"
        "from basisbench.protocols import BasisSpec\n"
        "from basisbench_baselines.bases.neurons import neurons_at\n"
        "def build(model):\n"
        "    basis = neurons_at('late', 'resid', 'resid_post', model)\n"
        "    return replace(basis, sites=basis.sites[1:])\n"
        "PROVIDES = (BasisSpec('late', 'resid', 'the last layer alone', build=build, layers=(1,)),)\n",
        encoding="utf-8",
    )
    changes = {**FEW, "bases": ["late", "resid", "attn_out"], "methods": ["relp"]}
    settings = RunOptions(out=tmp_path / "out", plugins=(plugin_with(tiny_llama), partial))
    outcome = run_request(Request("pocket", changes, settings, progress=False))
    late, whole, other = records(outcome)
    assert (late.cell.layers, whole.cell.layers, other.cell.layers) == ((1,), (1,), None)
    assert late.curve == whole.curve
    assert late.endpoints == whole.endpoints
    assert (late.counts.layers, whole.counts.layers, other.counts.layers) == (1, 1, 2)
    alone = run_request(Request("pocket", {**changes, "bases": ["resid"]}, settings, progress=False))
    assert records(alone)[0].id != whole.id
    assert records(alone)[0].cell.layers is None


def test_records_from_before_a_field_was_added_keep_their_ids(full_record: Record) -> None:
    content = full_record.model_dump(mode="json")
    assert content["cell"].pop("layers") is None
    assert content.pop("sources") == {}
    old = Record.model_validate_json(__import__("json").dumps(content))
    assert old == full_record
    restricted = full_record.cell.model_copy(update={"layers": (0, 1)})
    assert cell_id(restricted, full_record.identities) != full_record.id


def test_a_full_disk_ends_the_run_in_one_line_and_leaves_no_half_record(
    tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = plugin_with(tiny_llama)
    synced: list[int] = []
    sync = os.fsync

    def fill(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 3:  # the run's check, the first cell's and its record
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fill)
    outcome = run(tmp_path, plugin)
    assert [event.state for event in outcome.events] == ["finished", "failed", "failed", "failed"]
    assert len(synced) == 4, "cells whose records could not be kept are not computed"
    assert {event.message for event in outcome.failures} == {outcome.failures[0].message}
    assert outcome.failures[0].message.endswith("cannot be written: No space left on device")
    assert len(list((tmp_path / "records").iterdir())) == 1
    monkeypatch.undo()
    assert sorted(event.state for event in run(tmp_path, plugin).events) == ["finished"] * 3 + ["kept"]


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    out = tmp_path / "taken"
    out.write_text("a file", encoding="utf-8")
    heard: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("basisbench.models.load.load_model", heard.append)
        with pytest.raises(RecordError, match="taken/records: cannot be written: Not a directory"):
            run_request(Request("pocket", {**FEW, "models": ["pocket-llama"]}, RunOptions(out=out), progress=False))
    assert not heard


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of file sizes are tried on Linux")
def test_a_write_that_is_cut_short_leaves_no_record(tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path) -> None:
    """A real process that may write 4 KB to a file: the kernel refuses the rest of each record."""
    command = [
        *(sys.executable, "-m", "basisbench.cli", "run", "--model", "tiny-llama", "--plugin", plugin_with(tiny_llama)),
        *("--task", "sva_simple", "--basis", "resid", "--method", "random", "--examples", "8"),
        *("--out", tmp_path / "out"),
    ]
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert done.returncode == 2, done.stderr
    assert "cannot be written: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "records").exists()


def test_a_model_that_cannot_be_had_is_asked_for_once_and_others_go_on(
    tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = replace(tiny_llama, name="gone", path=str(tmp_path / "gone"))
    changes = {**FEW, "models": ["gone", "tiny-llama"], "tasks": ["sva_rc", "sva_simple"], "bases": ["resid"]}
    outcome = run_request(
        Request("pocket", changes, RunOptions(out=tmp_path, plugins=(plugin_with(tiny_llama, gone),)), progress=False)
    )
    assert sorted(event.state for event in outcome.events) == ["failed"] * 4 + ["finished"] * 4
    assert {event.cell.model for event in outcome.failures} == {"gone"}
    assert capsys.readouterr().err.count("failed: ") == 1
    assert records(outcome)[0].sources == {}
