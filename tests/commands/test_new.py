"""`basisbench new`: packages that build, install, register, keep the contract and run; docs/ shows them."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from basisbench.cli import main
from basisbench.commands.scaffold import KINDS, NewKind, render
from basisbench.registry import PLURALS, _installed, load_registry
from basisbench.results.record import read_record

CHECKOUT = Path(__file__).resolve().parents[2]
NAMES: dict[NewKind, str] = {"task": "distant_agreement", "basis": "cosines", "method": "rule_agreement"}
"""The examples of docs/."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package of each kind, as the command makes them."""
    folder = tmp_path_factory.mktemp("packages")
    for kind, name in NAMES.items():
        assert main(["new", kind, name, "--out", str(folder / name)]) == 0
    return folder


@pytest.fixture(scope="module")
def installed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of modules into which wheels of all three packages are installed; no network is asked."""
    wheels, target = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    for name in NAMES.values():
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
        subprocess.run(build, cwd=made / name, check=True, capture_output=True, text=True)
    found = sorted(map(str, wheels.glob("*.whl")))
    assert len(found) == len(NAMES)
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--no-compile",
        "--target",
        str(target),
    ]
    subprocess.run([*install, *found], check=True, capture_output=True, text=True)
    return target


@pytest.fixture
def _in_this_process(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process find what is installed there."""
    monkeypatch.syspath_prepend(str(installed))
    _installed.cache_clear()
    yield
    _installed.cache_clear()


@pytest.mark.slow
def test_installed_packages_are_listed_without_loading_torch(installed: Path) -> None:
    code = (
        "import sys; from basisbench.cli import main; code = sum(main(['list', name]) for name in sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'pandas', 'matplotlib'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    command = [sys.executable, "-c", code, *(PLURALS[kind] for kind in KINDS)]
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path}
    listed = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert {NAMES[kind] for kind in KINDS} <= {line.split()[0] for line in listed.stdout.splitlines() if line.strip()}


@pytest.mark.slow
@pytest.mark.usefixtures("_in_this_process")
@pytest.mark.parametrize("kind", KINDS)
def test_an_installed_package_holds_every_property(kind: NewKind, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["check", NAMES[kind]])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert f"{kind} {NAMES[kind]} on pocket-llama" in printed
    assert printed.strip().endswith(" 0 failed")


@pytest.mark.slow
@pytest.mark.usefixtures("_in_this_process", "undrawn")
def test_one_cell_of_all_three_runs_and_its_record_is_valid(tmp_path: Path) -> None:
    out = tmp_path / "results"
    cell = [part for kind, name in NAMES.items() for part in (f"--{kind}", name)]
    assert main(["run", *cell, "--model", "pocket-llama", "--examples", "16", "--jobs", "1", "--out", str(out)]) == 0
    (path,) = (out / "records").iterdir()
    record = read_record(path)
    assert (record.cell.task, record.cell.basis, record.cell.method) == (
        *("distant_agreement", "cosines", "rule_agreement"),
    )
    assert record.endpoints.accuracy == 1.0
    assert main(["validate", str(out)]) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("_in_this_process")
def test_the_package_s_own_test_passes(made: Path) -> None:
    own = runpy.run_path(str(made / "distant_agreement" / "test_distant_agreement.py"))
    (test,) = (item for name, item in own.items() if name.startswith("test_"))
    test()


@pytest.mark.parametrize("kind", KINDS)
def test_a_plugin_file_needs_no_package(kind: NewKind, made: Path) -> None:
    name = NAMES[kind]
    assert load_registry([made / name / f"{name}.py"]).get(kind, name).name == name  # type: ignore[call-overload]


def shown_on(page: str) -> list[str]:
    """Return the Python blocks of a page of the documentation."""
    return re.findall(r"^```python\n(.*?)^```$", (CHECKOUT / "docs" / page).read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("kind", KINDS)
def test_its_page_shows_each_whole(kind: NewKind) -> None:
    assert render(kind, NAMES[kind])[f"{NAMES[kind]}.py"] in shown_on(f"add-a-{kind}.md")


@pytest.mark.parametrize(("kind", "name"), [("basis", "pca"), ("method", "smooth_grad"), ("method", "gim_gated")])
def test_the_pages_show_plugins_that_are_tested(kind: str, name: str) -> None:
    assert (CHECKOUT / "tests/plugins" / f"{name}.py").read_text(encoding="utf-8") in shown_on(f"add-a-{kind}.md")


@pytest.mark.parametrize(("kind", "most"), [("basis", 34), ("method", 24), ("task", 36)])
def test_each_is_short(kind: NewKind, most: int) -> None:
    """Lines that are neither empty nor a comment nor a docstring of one line."""
    lines = [line.strip() for line in render(kind, "short_one")["short_one.py"].splitlines()]
    assert len([line for line in lines if line and not line.startswith(("#", '"""'))]) <= most


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_made_is_formatted_as_this_repository(kind: NewKind, made: Path) -> None:
    ruff = pytest.importorskip("ruff", reason="ruff is no part of the tests' environment")
    assert ruff
    command = [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "120", str(made / NAMES[kind])]
    assert subprocess.run(command, capture_output=True, text=True, check=False).returncode == 0


def test_the_files_of_a_package(made: Path) -> None:
    # Other tests run what is made, which leaves Python's cache there.
    assert sorted(path.name for path in (made / "cosines").iterdir() if path.name != "__pycache__") == [
        *("README.md", "cosines.py", "pyproject.toml", "test_cosines.py"),
    ]
    project = (made / "cosines" / "pyproject.toml").read_text(encoding="utf-8")
    assert 'license = "MIT"' in project
    assert '[project.entry-points."basisbench.bases"]\ncosines = "cosines:PROVIDES"' in project


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("My-Basis", "expected lower-case letters and digits in words joined by single underscores"),
        ("_hidden", "expected lower-case letters"),
        ("../up", "expected lower-case letters"),
        ("two__words", "expected lower-case letters"),
        ("x" * 61, "at most 60 characters"),
        ("lambda", "is a word of Python's own"),
        ("match", "is a word of Python's own"),
        ("mlp_act", "is taken by a basis, from basisbench_baselines.bases.neurons"),
        ("ioi", "is taken by a task"),
        ("json", "is that of an installed module"),
        ("torch", "is that of an installed module"),
    ],
)
def test_a_name_that_will_not_do_is_refused(
    name: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "basis", name, "--out", str(tmp_path / "package")]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_refused_and_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine", encoding="utf-8")
    assert main(["new", "basis", "my_basis", "--out", str(tmp_path / "mine")]) == 2
    assert "mine exists already; choose another folder with --out" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    assert main(["new", "basis", "my_basis", "--out", str(tmp_path / "no" / "where")]) == 2
    assert "is no folder; make it first" in capsys.readouterr().err


def test_nothing_is_left_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, written = Path.write_text, []

    def write_until_full(self: Path, *arguments: str, **options: str) -> int:
        written.append(self.name)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        return write(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", write_until_full)
    assert main(["new", "method", "my_method", "--out", str(tmp_path / "package")]) == 2
    assert "cannot be written: No space left on device" in capsys.readouterr().err
    assert len(written) == 3
    assert list(tmp_path.iterdir()) == []
