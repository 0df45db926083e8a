"""Cells on a Ray cluster: a real one on this machine, with two worker processes, one of which is killed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from basisbench.cli import main
from basisbench.errors import BasisBenchError
from basisbench.results.record import read_record
from basisbench.runs import ray_executor
from basisbench.runs.executor import LOCAL, Executor, parse_executor
from basisbench.runs.progress import Event
from basisbench.runs.ray_executor import RayWorker, _Driver, _Piece, _Worker
from basisbench.runs.run import Request, plan_request, run_request
from basisbench.runs.runner import CellBlock, RunOptions
from basisbench.types import ModelSpec

pytestmark = pytest.mark.slow

Write = Callable[..., Path]
WHAT: dict[str, Any] = {
    "models": ["tiny-llama"], "tasks": ["sva_simple", "sva_rc"], "methods": ["ixg"],
    "attribution_pairs": 4, "evaluation_pairs": 4,
}  # fmt: skip

FATAL = """
import os, signal
from pathlib import Path
from basisbench.protocols import BasisSpec
from basisbench_baselines.bases.neurons import neurons_at

def build(model):
    # Dies in mid-cell, but only the first three times: the files stay behind.
    with open({log!r}, "a") as log:
        log.write(f"{{os.getpid()}}\\n")
    for time in range(3):
        try:
            Path(f"{{{mark!r}}}{{time}}").touch(exist_ok=False)
        except FileExistsError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)
    return neurons_at("fatal", "attn", "attn_out", model)

PROVIDES = BasisSpec("fatal", "attn", "kills its process three times", build=build)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A local cluster with room for two workers, shared by the tests: starting one takes seconds."""
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def run(out: Path, plugins: tuple[Path, ...], bases: list[str], executor: Executor, **rest: Any) -> Any:
    settings = RunOptions(out=out, plugins=plugins, **rest)
    return run_request(Request("pocket", {**WHAT, "bases": bases}, settings, 2, progress=False, executor=executor))


def values(path: Path) -> dict[str, Any]:
    """Return all that a record says, but what it took and when it was made."""
    content = read_record(path).model_dump()
    for field in ("cost", "created", "environment"):
        del content[field]
    return content


def test_an_address_without_a_cluster_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    refused = r"no Ray cluster at '127\.0\.0\.1:9': .*Connection refused"
    for address, left, expected in (
        ("127.0.0.1:9", "nothing", refused),
        ("somewhere", "nothing", "Ray address 'somewhere': expected auto, HOST:PORT or ray://HOST:PORT"),
        ("auto", "nothing", "no Ray cluster at 'auto': "),
        ("auto", "ray", refused),  # the address of a cluster that was killed, for which Ray would wait minutes
    ):
        (tmp_path / left).mkdir(exist_ok=True)
        (tmp_path / left / "ray_current_cluster").write_text("127.0.0.1:9", encoding="utf-8")
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        executor = Executor("ray", address)
        request = Request("pocket", {"tasks": ["ioi"]}, RunOptions(out=tmp_path), progress=False, executor=executor)
        with pytest.raises(BasisBenchError, match=expected):
            run_request(request)


def test_a_cluster_without_room_for_any_worker_ends_the_run() -> None:
    def no_room() -> int:
        raise BasisBenchError("the Ray cluster has no room for a worker")

    blocks = [
        CellBlock((cell,))
        for cell in plan_request(Request("pocket", {**WHAT, "models": None}, RunOptions(Path()))).blocks[0].cells[:3]
    ]
    events: list[Event] = []
    ended: list[CellBlock] = []
    actor = MagicMock()
    ray = SimpleNamespace(wait=lambda *_, **__: ([], []), kill=actor.kill)
    pieces = deque(_Piece(index, block.cells) for index, block in enumerate(blocks))
    started = partial(_Worker, actor)
    driver = _Driver(
        ray, blocks, pieces, MagicMock(), started, no_room, events.append, lambda block, *_: ended.append(block)
    )
    driver.run(2)
    assert [event.message for event in events] == ["the Ray cluster has no room for a worker"] * 3
    assert sorted(map(blocks.index, ended)) == [0, 1, 2]
    assert actor.kill.call_count == 2


def test_what_ray_prints_of_dead_machines_stays_out_of_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = MagicMock(is_initialized=lambda: False)
    ray.cluster_resources.return_value = {"CPU": 2}
    monkeypatch.setattr(ray_executor, "import_ray", lambda: ray)
    monkeypatch.setattr(_Driver, "run", lambda *_: print("(raylet) The node has been marked dead"))
    request = Request("pocket", {"tasks": ["ioi"]}, RunOptions(out=tmp_path), progress=False, executor=Executor("ray"))
    run_request(request)
    assert capsys.readouterr() == ("", "")
    ray.shutdown.assert_called_once_with()
    print("after")
    assert capsys.readouterr().out == "after\n"


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_is_replaced_and_a_cell_that_kills_as_many_as_may_die_fails_alone(
    tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two cells that kill workers, three in all, one has killed its two and fails, one is done after its first."""
    from basisbench.results.store import Store

    monkeypatch.setattr("basisbench.runs.ray_executor.MOST_DEATHS", 2)  # a worker takes seconds to start
    mark, log = tmp_path / "mark", tmp_path / "log"
    fatal = tmp_path / "fatal.py"
    fatal.write_text(FATAL.format(mark=str(mark), log=str(log)), encoding="utf-8")
    plugins = (plugin_with(tiny_llama), fatal)
    bases = ["mlp_act", "fatal", "resid"]

    written: list[str] = []
    write = Store.write
    monkeypatch.setattr(Store, "write", lambda self, record: (written.append(record.id), write(self, record))[1])
    outcome = run(tmp_path / "ray", plugins, bases, Executor("ray"))
    assert len(list(tmp_path.glob("mark*"))) == 3, "three workers were killed"
    (failure,) = outcome.failures
    assert failure.cell.basis == "fatal"
    assert failure.message.startswith("2 workers died over this cell; ")
    assert "\n" not in failure.message
    finished = [event.cell for event in outcome.events if event.state == "finished"]
    assert len(outcome.events) == 6
    assert sorted(cell.basis for cell in finished) == ["fatal", "mlp_act", "mlp_act", "resid", "resid"]
    assert len(set(finished)) == 5
    assert sorted(written) == sorted(path.stem for path in outcome.records), (
        "each record is written once, by the driver"
    )
    assert len(set(log.read_text(encoding="utf-8").split())) == 4, "another process did what the killed ones left"

    alone = run_request(
        Request("pocket", {**WHAT, "bases": bases}, RunOptions(out=tmp_path / "alone", plugins=plugins), progress=False)
    )
    assert {path.name for path in alone.records} > {path.name for path in outcome.records}
    for path in outcome.records:
        assert values(path) == values(tmp_path / "alone" / "records" / path.name)

    cells = tuple(cell for cell in finished if cell.task == finished[0].task)
    worker = RayWorker(RunOptions(out=tmp_path / "elsewhere", plugins=plugins), 1, frozenset(written))
    assert [(event.state, record) for event, record in worker.run(cells)] == [
        (state, None) for _ in cells for state in ("started", "kept")
    ], "what is finished is not done again, though the worker has no results folder"


@pytest.mark.usefixtures("cluster")
def test_what_the_cluster_has_no_room_for_is_told(tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path) -> None:
    plugins = (plugin_with(tiny_llama),)
    with pytest.raises(BasisBenchError, match="no room for a worker: it needs 64 CPU; the cluster has 2 CPU"):
        run(tmp_path, plugins, ["resid"], Executor("ray", worker_cpus=64))
    with pytest.raises(BasisBenchError, match=r"no room for a worker: it needs 1 CPU, 2 GPU"):
        run(tmp_path, plugins, ["resid"], Executor("ray", worker_gpus=2))
    with pytest.raises(BasisBenchError, match="Ray chooses a worker's GPU; give --device cuda"):
        run(tmp_path, plugins, ["resid"], Executor("ray"), device="cuda:1")


def test_an_executor_is_read_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_executor("local") == LOCAL
    assert parse_executor("ray") == Executor("ray")
    assert parse_executor("ray:ray://host:10001").address == "ray://host:10001"
    full = parse_executor("ray:auto", worker_gpus=0.5, worker_cpus=4, worker_memory_gib=1.5)
    assert full == Executor("ray", "auto", 0.5, 4, 3 * 2**29)
    for arguments, expected in (
        (["--executor", "dask"], "no executor named 'dask'; "),
        (["--executor", "local:8"], "'local' takes no address"),
        (["--worker-gpus", "1"], "--worker-gpus, --worker-cpus and --worker-memory need --executor ray"),
    ):
        assert main(["run", "--out", str(tmp_path), *arguments]) == 2
        assert expected in capsys.readouterr().err


@pytest.mark.slow
def test_without_ray_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    request = Request("pocket", {"tasks": ["ioi"]}, RunOptions(out=tmp_path), progress=False, executor=Executor("ray"))
    with pytest.raises(BasisBenchError, match=r"needs Ray: python -m pip install 'basisbench\[ray\]'"):
        run_request(request)
