"""`basisbench new`: packages that build, install, register, keep the contract and run; docs/ shows them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from basisbench.cli import main
from basisbench.commands.scaffold import KINDS, NewKind, render
from basisbench.registry import PLURALS, load_registry
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
def environment(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process in which wheels of all three packages are installed; no network is asked."""
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
    path = os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def basisbench(*arguments: str | Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "basisbench.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_installed_package_is_listed_without_loading_torch(kind: NewKind, environment: dict[str, str]) -> None:
    code = (
        "import sys; from basisbench.cli import main; code = main(['list', sys.argv[1]]);"
        "heavy = {'torch', 'transformers', 'pandas', 'matplotlib'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    command = [sys.executable, "-c", code, PLURALS[kind]]
    listed = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert NAMES[kind] in [line.split()[0] for line in listed.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_installed_package_holds_every_property(kind: NewKind, environment: dict[str, str]) -> None:
    checked = basisbench("check", NAMES[kind], environment=environment)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{kind} {NAMES[kind]} on pocket-llama" in checked.stdout
    assert checked.stdout.strip().endswith(" 0 failed")


@pytest.mark.slow
def test_one_cell_of_all_three_runs_and_its_record_is_valid(environment: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "results"
    cell = [part for kind, name in NAMES.items() for part in (f"--{kind}", name)]
    ran = basisbench(
        "run",
        *cell,
        "--model",
        "pocket-llama",
        "--examples",
        "16",
        "--jobs",
        "1",
        "--out",
        out,
        environment=environment,
    )
    assert ran.returncode == 0, ran.stderr
    (path,) = (out / "records").iterdir()
    record = read_record(path)
    assert (record.cell.task, record.cell.basis, record.cell.method) == (
        *("distant_agreement", "cosines", "rule_agreement"),
    )
    assert record.endpoints.accuracy == 1.0
    assert basisbench("validate", out, environment=environment).returncode == 0


@pytest.mark.slow
def test_the_package_s_own_test_passes(made: Path, environment: dict[str, str]) -> None:
    own = made / "distant_agreement" / "test_distant_agreement.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(own)]
    ran = subprocess.run(command, cwd=own.parent, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stdout
    assert "1 passed" in ran.stdout


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


@pytest.mark.parametrize(("kind", "name"), [("basis", "pca"), ("method", "smooth_grad"), ("method", "gim")])
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
