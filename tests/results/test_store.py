"""The results folder: what is finished stays, what is half-written never shows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from basisbench.errors import RecordError
from basisbench.results.record import read_record, write_record
from basisbench.results.store import Store
from helpers.synthetic_records import synthetic_record

WRITER = """
import sys
from pathlib import Path
from helpers.synthetic_records import synthetic_record
from basisbench.results.record import Record
from basisbench.results.store import Store
store = Store(Path(sys.argv[1]))
first = synthetic_record()
print("ready", flush=True)
for number in range(1_000_000):
    # The same few cells again and again: writing over a record must not endanger it either.
    cell = first.cell.model_copy(update={"seed": number % 5, "task_version": str(number)[:1]})
    record = first.model_copy(update={"cell": cell})
    store.write(record)
    print(record.id, flush=True)
"""


def test_finished_means_present_valid_and_the_same_cell(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record, other = synthetic_record("ioi"), synthetic_record("sva_rc")
    assert store.finished(record.id) is None
    path = store.write(record)
    assert path == tmp_path / "records" / f"{record.id}.json"
    assert store.finished(record.id) == record
    write_record(other, path)
    assert store.finished(record.id) is None, "the file holds another cell"
    path.write_text(record.model_dump_json()[:-20], encoding="utf-8")
    assert store.finished(record.id) is None, "the file is damaged"
    store.write(record)
    assert store.finished(record.id) == record


def test_only_old_temporary_files_are_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.remove_stale() == 0, "there is no folder yet"
    kept = store.write(synthetic_record())
    old, young = (store.records / f".{name}.json.partial" for name in ("old", "young"))
    old.write_text("{", encoding="utf-8")
    young.write_text("{", encoding="utf-8")
    hour_ago = time.time() - 3600
    os.utime(old, (hour_ago, hour_ago))
    os.utime(kept, (hour_ago, hour_ago))
    assert store.remove_stale() == 1
    assert set(store.records.iterdir()) == {kept, young}


def test_a_folder_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder", encoding="utf-8")
    with pytest.raises(RecordError, match="cannot be written"):
        Store(tmp_path / "taken").write(synthetic_record())


def test_whether_a_record_could_be_kept_is_found_out_without_leaving_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "out")
    store.ready()
    assert list(store.records.iterdir()) == []
    (tmp_path / "taken").write_text("a file, not a folder", encoding="utf-8")
    with pytest.raises(RecordError, match=r"taken/records: cannot be written: Not a directory"):
        Store(tmp_path / "taken").ready()
    monkeypatch.setattr(os, "fsync", lambda _descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(RecordError, match="No space left on device"):
        store.ready()
    assert list(store.records.iterdir()) == []


def test_a_failed_write_leaves_the_old_record_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    record = synthetic_record()
    path = store.write(record)

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RecordError, match="No space left on device"):
        store.write(record)
    assert list(store.records.iterdir()) == [path]
    assert read_record(path) == record


@pytest.mark.slow
@pytest.mark.parametrize("written", [1, 7, 40, 200])
def test_killing_a_writer_leaves_no_half_written_record(tmp_path: Path, written: int) -> None:
    """A real process is killed while it writes records in a loop."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    lines = [writer.stdout.readline() for _ in range(written)]
    writer.send_signal(signal.SIGKILL)
    lines += writer.stdout.read().splitlines(keepends=True)
    reported = {line.strip() for line in lines if line.endswith("\n")}
    assert writer.wait() == -signal.SIGKILL
    store = Store(tmp_path)
    for path in store.records.glob("*.json"):
        assert read_record(path).id == path.stem
    for identifier in reported:
        assert store.finished(identifier) is not None, "a record that was finished is still there"
    store.remove_stale(older_than=-1.0)
    assert all(path.suffix == ".json" for path in store.records.iterdir())


def test_folders_that_were_made_for_nothing_are_removed(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "out")
    with store.opened():
        assert store.records.is_dir()
    assert list(tmp_path.iterdir()) == []
    store.folder.mkdir(parents=True)  # the user's own
    with store.opened():
        pass
    assert list(store.folder.iterdir()) == []
    with store.opened():
        path = store.write(synthetic_record())
    assert path.is_file()
