"""Workers end with the process that started them, whatever they compute, and say what they lack."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import psutil
import pytest

from basisbench.errors import OUT_OF_MEMORY
from basisbench.runs import workers
from basisbench.runs.runner import CellBlock, RunOptions
from helpers import oracle

PARENT = """
import multiprocessing, os, time
from basisbench.runs.workers import end_with_parent

def compute(pipe):
    end_with_parent()
    pipe.send(os.getpid())
    while True:
        pass

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=compute, args=(theirs,), daemon=True).start()
    print(ours.recv(), flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_ends_with_its_parent(how: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT, encoding="utf-8")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(how)
    gone, alive = psutil.wait_procs([worker], timeout=60)  # it never ends by itself
    for process in alive:
        process.kill()
    assert gone


def test_a_worker_without_memory_for_its_libraries_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise ImportError("strptime.so: failed to map segment from shared object")

    monkeypatch.setattr(workers, "_runner", load)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    pipe = MagicMock()
    pipe.recv.side_effect = [CellBlock((oracle.cell("resid"),)), EOFError]
    monkeypatch.setattr(workers, "_keep_libraries_quiet", lambda _: None)
    workers._work(pipe, RunOptions(Path()), threads=1, said="")
    (sent,) = pipe.send.call_args_list
    assert sent.args == (f"{OUT_OF_MEMORY}; fewer --jobs need less",)
