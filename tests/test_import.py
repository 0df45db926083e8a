"""What importing costs, in modules: names are loaded when they are asked for, and 0.4.0's paths still work."""

from __future__ import annotations

import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import SimpleNamespace

import pytest

from basisbench.models.batching import Batching
from basisbench.old_paths import MOVED, RENAMED
from basisbench.registry import load_registry
from helpers.synthetic_records import synthetic_record, write_suite

PACKAGES = ("pairs", "models", "attribution", "results", "submissions", "plots", "report", "runs")
"""Packages that have public names."""

HEAVY = {"torch", "transformers", "transformer_lens", "sae_lens", "datasets", "pandas", "matplotlib", "huggingface_hub"}
OLD_PLUGIN = """
from basisbench.alignment import align
from basisbench.lexicon import NUMBERS, agreement_prepositions, relative_verbs, word_lists
from basisbench.projection import projected_scores
from basisbench.protocols import Basis, BasisSpec, ModelSpec, ScoringContext
from basisbench.sentence_frames import CANDIDATE_LIMIT, fill_frame, generator, interleave
from basisbench.types import ContrastPair, Family, PairSet, Scores, Site, Split

PROVIDES = (ModelSpec("old-style", "nowhere", "a model of a plug-in that was written for 0.4.0"),)
"""


def loaded_by(code: str) -> set[str]:
    """Return the names of the modules that a fresh process has after some code."""
    script = f"{code}\nimport sys; print('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.slow
def test_errors_load_nothing_else() -> None:
    loaded = loaded_by("import basisbench.errors")
    ours = {name for name in loaded if name.partition(".")[0] == "basisbench"}
    assert ours == {f"basisbench{name}" for name in ("", ".errors", ".lazy", ".old_paths", ".version")}
    assert not loaded & (HEAVY | {"numpy", "pydantic", "jaxtyping", "yaml"})


@pytest.mark.slow
def test_packages_load_nothing_until_they_are_asked() -> None:
    loaded = loaded_by("; ".join(f"import basisbench.{package}" for package in (*PACKAGES, "circuits", "checks")))
    assert not loaded & (HEAVY | {"numpy", "pydantic"})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["models", "tasks", "bases", "methods"])
def test_listing_loads_no_numbers_and_no_records(kind: str) -> None:
    loaded = loaded_by(f"from basisbench.cli import main; main(['list', '{kind}'])")
    assert not loaded & (HEAVY | {"numpy", "pydantic", "jaxtyping", "basisbench.results.record", "basisbench.runs.run"})


@pytest.mark.slow
@pytest.mark.parametrize("words", [["validate", "results"], ["report", "results", "--out", "page"]], ids=lambda w: w[0])
def test_reading_results_loads_no_torch(words: list[str], tmp_path: Path) -> None:
    write_suite(tmp_path / "results", [synthetic_record(examples=10)])
    code = f"import os; os.chdir({str(tmp_path)!r}); from basisbench.cli import main; assert main({words}) == 0"
    heavy = {"torch", "transformers", "matplotlib"} | ({"pandas"} if words[0] == "validate" else set())
    assert not loaded_by(code) & heavy


@pytest.mark.parametrize("package", ["basisbench", *(f"basisbench.{name}" for name in PACKAGES)])
def test_every_public_name_is_there_and_documented(package: str) -> None:
    module = import_module(package)
    assert module.__doc__
    assert set(module.__all__) <= set(dir(module))
    modules = {found.name for found in iter_modules(module.__path__)}
    assert not modules & set(module.__all__), "a module and a name of a package may not be called the same"
    for name in set(module.__all__) - {"__version__"}:
        value = getattr(module, name)
        assert not callable(value) or value.__doc__, name
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nonesuch'"):
        module.nonesuch  # noqa: B018 -- reading it is the test


def test_a_plugin_of_the_last_version_works_and_says_once_what_has_moved(tmp_path: Path) -> None:
    plugin = tmp_path / "old_style.py"
    plugin.write_text(OLD_PLUGIN, encoding="utf-8")
    for name in MOVED:
        sys.modules.pop(name, None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert load_registry([plugin]).get("model", "old-style").path == "nowhere"
        load_registry([plugin])
    told = sorted(str(warning.message).split()[0] for warning in caught)
    assert told == [f"basisbench.{name}" for name in ("alignment", "lexicon", "projection", "sentence_frames")]
    assert {warning.filename for warning in caught} == {str(plugin)}
    assert {warning.category for warning in caught} == {DeprecationWarning}


@pytest.mark.parametrize("old", MOVED)
def test_an_old_path_gives_the_names_of_the_new_one(old: str) -> None:
    sys.modules.pop(old, None)
    new = import_module(MOVED[old])
    with pytest.warns(DeprecationWarning, match=f"^{old} has moved to {MOVED[old]}; "):
        module = import_module(old)
    assert all(getattr(module, name) is getattr(new, name) for name in vars(new) if not name.startswith("__"))
    for before, now in RENAMED.get(old, {}).items():
        assert getattr(module, before) is getattr(new, now)


def test_what_was_a_function_and_is_a_method_now_works_as_before() -> None:
    sys.modules.pop("basisbench.batching", None)
    with pytest.warns(DeprecationWarning, match="basisbench.batching has moved"):
        in_parts = import_module("basisbench.batching").in_parts
    model = SimpleNamespace(batching=Batching("a model", "cpu"))  # type: ignore[arg-type]
    assert in_parts(model, "curve", 5, 1, lambda rows: (rows.start, rows.stop), most=2) == [(0, 2), (2, 4), (4, 5)]


def test_a_path_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'basisbench.nonesuch'"):
        import_module("basisbench.nonesuch")
