"""The digest of a plug-in's code: of the module that defines it, whatever its line ends and wherever it lies."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from basisbench.plugin_code import code_digest, is_built_in, module_of
from basisbench.registry import load_registry
from basisbench.results.record import cell_id, read_record
from helpers.plugins import FOLDER, plugin

METHOD = """class Mine:
    name, summary = {name!r}, "scores nothing"
    def score(self, context, basis):
        return None
PROVIDES = Mine()
"""


def provided(path: Path, text: str, name: str) -> Any:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode())
    return load_registry([path]).get("method", name)


@pytest.mark.parametrize(("kind", "name", "file"), [
    ("method", "gim_gated", "gim_gated.py"), ("basis", "pca", "pca.py"), ("task", "greater_than", "greater_than.py"),
])  # fmt: skip
def test_it_is_the_digest_of_the_file_that_defines_the_plugin(kind: str, name: str, file: str) -> None:
    text = "\n".join(line.rstrip() for line in (FOLDER / file).read_text(encoding="utf-8").splitlines())
    assert code_digest(plugin(kind, name)) == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert not is_built_in(plugin(kind, name))


def test_every_built_in_has_one_and_each_module_its_own() -> None:
    registry = load_registry()
    digests: dict[str | None, set[str]] = {}
    for kind in ("task", "basis", "method"):
        for entry in registry.of(kind):  # type: ignore[arg-type] -- a kind each
            item: Any = entry.item
            assert is_built_in(item)
            module = module_of(item)
            assert module is not None
            assert module.__name__.startswith(("basisbench_tasks.", "basisbench_baselines."))
            digests.setdefault(code_digest(item), set()).add(module.__name__)
    assert None not in digests
    assert all(len(modules) == 1 for modules in digests.values())


def test_line_ends_do_not_count_and_code_does(tmp_path: Path) -> None:
    text = METHOD.format(name="mine")
    one = code_digest(provided(tmp_path / "a" / "one.py", text, "mine"))
    assert one == code_digest(provided(tmp_path / "b" / "two.py", text.replace("\n", " \r\n"), "mine"))
    assert one != code_digest(provided(tmp_path / "c" / "three.py", text.replace("None", "1"), "mine"))


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "same.py", tmp_path / "b" / "same.py"
    one, other = provided(first, METHOD.format(name="one"), "one"), provided(second, METHOD.format(name="two"), "two")
    assert code_digest(one) != code_digest(other)
    assert [str(getattr(module_of(item), "__file__", "")) for item in (one, other)] == [str(first), str(second)]


def test_a_module_without_source_has_none() -> None:
    class Nowhere:
        name, summary = "nowhere", ""

    Nowhere.__module__ = "no.such.module"
    assert code_digest(Nowhere()) is None  # type: ignore[arg-type] -- it only has to have a class


def test_records_without_it_keep_their_ids() -> None:
    """Records of 0.4.0 name no code, and still hash to the names of their files."""
    paths = sorted((Path(__file__).parent / "data" / "0.4.0").glob("*.json"))
    records = [read_record(path) for path in paths]
    assert {record.basisbench for record in records} == {"0.4.0"}
    assert [record.id for record in records] == [path.stem for path in paths]
    identities = records[0].identities
    assert identities.code is None
    coded = identities.model_copy(update={"code": {"method": "0123456789abcdef"}})
    assert cell_id(records[0].cell, coded, version="0.4.0") != records[0].id
