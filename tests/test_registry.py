"""Finding tasks, bases, methods and models, from the package, from entry points and from files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from basisbench.errors import BasisBenchError
from basisbench.protocols import BasisScheme, BasisSpec, Method, MethodScheme, Task
from basisbench.registry import PLURALS, Kind, Registry, load_registry
from basisbench.types import ModelSpec

MODEL = ModelSpec(name="a-model", path="nowhere", summary="a model")


def write_plugin(folder: Path, text: str) -> Path:
    path = folder / "plugin.py"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("task", {"ioi", "sva_simple", "sva_nounpp", "sva_rc", "sva_within_rc"}),
        ("task", {"user_gender", "user_occupation", "user_country", "user_age"}),
        ("basis", {"mlp_act", "mlp_out", "mlp_act_rotated", "sae_mlp_out", "transcoder"}),
        ("basis", {"resid", "sae_resid", "attn_out", "sae_attn_out"}),
        ("method", {"ixg", "ig", "ig_inputs", "relp", "gim", "patching", "magnitude", "random"}),
        ("model", {"pocket-llama"}),
    ],
)
def test_built_ins_are_found_by_file(kind: Kind, names: set[str]) -> None:
    assert names <= {entry.name for entry in load_registry().of(kind)}


def test_everything_registered_has_its_type_and_a_summary_of_one_line() -> None:
    types = {
        "model": ModelSpec,
        "task": Task,
        "basis": BasisSpec,
        "method": Method,
        "scheme": BasisScheme | MethodScheme,
    }
    for entry in load_registry().entries:
        assert isinstance(entry.item, types[entry.kind])
        assert entry.summary
        assert "\n" not in entry.summary
        assert len(entry.summary) <= 100, entry.name


def test_a_wrong_name_gets_a_suggestion() -> None:
    with pytest.raises(BasisBenchError, match=r"no basis named 'mlp_atc'; did you mean mlp_act"):
        load_registry().get("basis", "mlp_atc")


def test_two_things_of_one_name_are_refused_unless_their_kinds_differ() -> None:
    registry = Registry().adding([MODEL], "here")
    with pytest.raises(BasisBenchError, match="two models are named 'a-model', in here and in there; rename"):
        registry.adding([MODEL], "there")
    basis = BasisSpec(name="a-model", family="mlp", summary="a basis", build=lambda model: model)  # type: ignore[arg-type, return-value]
    assert len(registry.adding([basis], "there").entries) == 2


def test_a_basis_that_is_not_listed_is_made_by_its_scheme(tmp_path: Path) -> None:
    path = write_plugin(
        tmp_path,
        "from basisbench.protocols import BasisScheme, BasisSpec\n"
        "def resolve(name): return BasisSpec(name, 'attn', 'made', build=None, layers=(1, 2))\n"
        "PROVIDES = BasisScheme('made', 'made:ANYTHING', 'bases that are made up', resolve)\n",
    )
    registry = load_registry([path])
    spec = registry.get("basis", "made:a:b")
    assert (spec.name, spec.family, spec.layers) == ("made:a:b", "attn", (1, 2))
    assert "made:ANYTHING" in [entry.name for entry in registry.listing("basis")]
    assert "made:ANYTHING" not in [entry.name for entry in registry.of("basis")]
    assert [entry.name for entry in registry.listing("task")] == [entry.name for entry in registry.of("task")]
    with pytest.raises(BasisBenchError, match="no basis named 'mode:a'"):
        registry.get("basis", "mode:a")
    (made,) = (entry.item for entry in registry.of("scheme") if entry.name == "made:ANYTHING")
    with pytest.raises(BasisBenchError, match="two schemes are named 'made:ANYTHING'"):
        registry.adding([made], "there")


def test_a_plugin_file_uses_the_same_door(tmp_path: Path) -> None:
    path = write_plugin(
        tmp_path,
        "from basisbench.protocols import ModelSpec\n"
        "PROVIDES = ModelSpec(name='from-file', path='nowhere', summary='a model from a file')\n",
    )
    assert load_registry([path]).get("model", "from-file").path == "nowhere"
    with pytest.raises(BasisBenchError):
        load_registry().get("model", "from-file")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "defines no PROVIDES"),
        ("PROVIDES = (", "cannot be loaded: SyntaxError"),
        ("import nothing_of_that_name", "cannot be loaded: ModuleNotFoundError: No module named"),
        ("PROVIDES = (1,)", "provides int 1, which is no ModelSpec"),
        ("class A: pass\nPROVIDES = A", "provides the class A; provide an instance, A"),
        ("import sys; sys.exit(0)", "cannot be loaded: SystemExit: 0"),
        ("import torch; torch.set_default_dtype(torch.float64)", "changed PyTorch's settings for all others: default"),
        (
            "class A:\n  name, summary, order = 'a', 'x', 'first'\n  def score(self, *_): ...\nPROVIDES = A()",
            "cannot be registered: ValueError: could not convert string to float: 'first'",
        ),
        (
            "class A:\n  name, summary, style = 'a', 'x', 'red'\n  def score(self, *_): ...\nPROVIDES = A()",
            "the style of 'a' is 'red', expected a Style",
        ),
        (
            "class A:\n  summary = 'x'\n  name = property(lambda self: 1 // 0)\n  def score(self, *_): ...\n"
            "PROVIDES = A()",
            "cannot be registered: ZeroDivisionError",
        ),
        (
            "class A:\n  name = ''\n  summary = 'x'\n  def score(self, context, basis): ...\nPROVIDES = A()",
            "provides a method whose name is ''",
        ),
        (
            "class A:\n  name = 'relp'\n  summary = 'x'\n  def score(self, context, basis): ...\nPROVIDES = A()",
            "two methods are named 'relp'",
        ),
    ],
)
def test_a_wrong_plugin_file_is_told_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    path = write_plugin(tmp_path, text)
    with pytest.raises(BasisBenchError) as caught:
        load_registry([path])
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_plugin_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(BasisBenchError, match="no such file"):
        load_registry([tmp_path / "nothing.py"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "value", "expected"),
    [
        ("basisbench.models", "sample:MODEL", "from-package"),
        ("basisbench.tasks", "sample:MODEL", "is in the group basisbench.tasks but gives a model"),
        ("basisbench.models", "sample:NOTHING", "cannot be loaded: AttributeError"),
    ],
)
def test_installed_packages_register_through_entry_points(
    tmp_path: Path, group: str, value: str, expected: str
) -> None:
    """A package in a folder on the path, with its metadata, as an installer leaves it."""
    (tmp_path / "sample.py").write_text(
        "from basisbench.protocols import ModelSpec\n"
        "MODEL = (ModelSpec(name='from-package', path='nowhere', summary='a model from a package'),)\n",
        encoding="utf-8",
    )
    metadata = tmp_path / "sample-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(f"[{group}]\nthing = {value}\n", encoding="utf-8")
    code = f"import sys; sys.path.append({str(tmp_path)!r}); from basisbench.cli import main; main(['list', 'models'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert expected in result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*PLURALS.values(), "suites"])
def test_listing_imports_no_torch(kind: str) -> None:
    code = (
        "import sys; from basisbench.cli import main; code = main(['list', sys.argv[1]]);"
        "heavy = {'torch', 'transformers', 'pandas', 'matplotlib'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    result = subprocess.run([sys.executable, "-c", code, kind], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.strip()
