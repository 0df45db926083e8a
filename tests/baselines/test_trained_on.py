"""A dictionary of another model than the one at hand is reported in one line, and used all the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import yaml

from basisbench.cli import main
from basisbench.models.load import load_model
from basisbench.models.model import Model
from basisbench.registry import load_registry
from basisbench.results.record import read_record
from basisbench.runs.model_names import find_model
from basisbench.types import ModelSpec
from basisbench_baselines.dictionaries import hub_snapshot, trained_on
from basisbench_baselines.dictionaries.trained_on import same_name
from helpers import cross_layer_oracle as cross
from helpers.hub_releases import RELEASES
from helpers.hub_replica import MODELS, HubReplica, replica

RELEASE = "pythia-70m-deduped-mlp-sm"
BASIS = f"sae:{RELEASE}"
PYTHIA = MODELS["pythia"].repository
TUNED = "org/pythia-70m-deduped-chat"


@pytest.fixture(autouse=True)
def _told_anew() -> None:
    trained_on._warn.cache_clear()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubReplica]:
    """A replica of its own: a model, the same weights as somebody's tuned variant, and one release."""
    made = HubReplica(tmp_path / "home")
    for repository in (RELEASES[RELEASE].repository, PYTHIA):
        shutil.copytree(replica().folder(repository), made.folder(repository), symlinks=True)
    shutil.copytree(replica().folder(PYTHIA), made.folder(TUNED), symlinks=True)
    with made.in_use():
        yield made
    hub_snapshot._resolve.cache_clear()


@cache
def tiny(key: str) -> Model:
    return load_model(ModelSpec("tiny", str(replica().snapshot(MODELS[key].repository)), "tiny"), dtype="float32")


def model_of(key: str, path: str | None = None) -> Model:
    """Return a tiny model as if it came from a repository, by default its own."""
    loaded = tiny(key)
    return replace(loaded, spec=replace(loaded.spec, path=path or MODELS[key].repository))


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == trained_on.__name__]


@pytest.mark.parametrize(
    "names",
    [
        # The first name of each is what `--model` leads to.
        ("openai-community/gpt2", "gpt2", "gpt2-small"),
        ("EleutherAI/pythia-70m-deduped", "pythia-70m-deduped"),
        ("google/gemma-2-2b", "gemma-2-2b", "unsloth/gemma-2-2b"),
        ("google/gemma-3-270m", "gemma-3-270m"),
        ("Qwen/Qwen3-0.6B", "qwen3-0.6b"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-8B", "Llama-3.1-8B", "NousResearch/Meta-Llama-3.1-8B"),
        ("mistralai/Mistral-7B-v0.1", "mistral-7b"),
    ],
)
def test_aliases_of_one_model_are_one_name(names: tuple[str, ...]) -> None:
    """TransformerLens 3.9, supported_models.py (MODEL_ALIASES), by `get_official_model_name`."""
    assert len({same_name(name) for name in names}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("google/gemma-2-2b", "google/gemma-2-2b-it"),
        ("gemma-2-2b", "gemma-2b"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct"),
        ("meta-llama/Llama-3.1-8B", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"),
        ("EleutherAI/pythia-70m", "EleutherAI/pythia-70m-deduped"),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B-Base"),
        ("gpt2", "gpt2-medium"),
    ],
)
def test_variants_are_other_models(one: str, other: str) -> None:
    assert same_name(one) != same_name(other)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, release in RELEASES.items() if release.model != "gemma-2"])
def test_a_release_on_the_model_that_it_was_trained_on_is_silent(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """By what SAELens's loaders say of its files; the names in the files are the published ones."""
    release = RELEASES[name]
    choice = release.pattern.format("*")
    with replica().in_use():
        basis = load_registry().get("basis", f"sae:{name}" + (f":{choice}" if "width" in choice else ""))
        basis.build(model_of(release.model))
        assert warnings_of(caplog) == []
        basis.build(model_of(release.model, "org/tuned"))
    (line,) = warnings_of(caplog)
    assert "is used on 'tiny' (org/tuned)" in line


@pytest.mark.slow
@pytest.mark.usefixtures("hub", "undrawn")
def test_a_tuned_variant_is_told_once_and_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    records = {}
    for repository in (PYTHIA, TUNED):
        out = tmp_path / repository
        options = ["--task", "sva_simple", "--method", "relp", "--method", "random", "--examples", "8", "--jobs", "1"]
        arguments = ["run", "--model", repository, "--basis", BASIS, *options, "--out", str(out)]
        assert main(arguments) == 0, capsys.readouterr().err
        records[repository] = [read_record(path) for path in sorted((out / "records").glob("*.json"))]
        if repository == PYTHIA:
            assert warnings_of(caplog) == []
    assert warnings_of(caplog) == [
        f"basis '{BASIS}' was trained on 'pythia-70m-deduped', and is used on '{TUNED}'; its features and errors are "
        "those of the latter"
    ]
    own, tuned = (
        {(record.cell.method, record.cell.error_policy): record.curve for record in records[name]}
        for name in (PYTHIA, TUNED)
    )
    assert len(own) == len(records[PYTHIA]) == 4, "a suite adds error policies to relp"
    assert own == tuned, "nothing but the warning is different"


def test_every_model_that_is_named_is_named_in_one_line(hub: HubReplica, caplog: pytest.LogCaptureFixture) -> None:
    for layer, named in ((1, "pythia-70m"), (3, "org/other"), (4, "EleutherAI/pythia-70m-deduped"), (5, None)):
        path = hub.snapshot(RELEASES[RELEASE].repository) / f"{layer}-mlp-sm" / "cfg.json"
        config = {**json.loads(path.read_text()), "model_name": named}
        hub.commit(RELEASES[RELEASE].repository, {f"{layer}-mlp-sm/cfg.json": json.dumps(config).encode()})
    load_registry().get("basis", BASIS).build(model_of("pythia"))
    (line,) = warnings_of(caplog)
    assert "was trained on 'org/other', 'pythia-70m', and is used on 'tiny'" in line


@pytest.mark.usefixtures("hub")
def test_a_folder_has_no_name_to_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a model in a folder, nor a dictionary that was trained on one."""
    model = model_of("pythia")
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    basis = load_registry().get("basis", BASIS)
    for path in (str(tmp_path / "mine"), "mine"):
        basis.build(replace(model, spec=replace(model.spec, path=path)))
    trained_on.warn_if_trained_on_other(BASIS, ["/home/me/model", "./model", "~/model", "", None], model.spec)
    pocket = load_registry().get("model", "pocket-llama")
    load_registry().get("basis", "sae_resid").build(load_model(pocket))
    assert warnings_of(caplog) == []
    Path("pythia-160m").mkdir()
    trained_on.warn_if_trained_on_other(BASIS, ["pythia-160m"], model.spec)
    assert len(warnings_of(caplog)) == 1, "a folder here says nothing of where a dictionary comes from"


@pytest.mark.parametrize(
    ("named", "path", "warned"),
    [
        ("google/gemma-2-2b", "google/gemma-2-2b", False),
        ("google/gemma-2-2b", "google/gemma-2-2b-it", True),
        (None, "google/gemma-2-2b-it", False),
    ],
)
def test_a_cross_layer_transcoder_names_its_model_too(
    named: str | None, path: str, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """circuit-tracer's config.yaml; SAELens's own test of mntss/clt-gemma-2-2b-426k reads "google/gemma-2-2b" there."""
    folder = tmp_path / "clt"
    shutil.copytree(cross.folder("llama"), folder)
    config = yaml.safe_load((folder / "config.yaml").read_text()) | {"model_name": named}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    model = cross.model("llama")
    spec = replace(model.spec, path=path, dictionaries={"clt": folder})
    load_registry().get("basis", "clt").build(replace(model, spec=spec))
    assert len(warnings_of(caplog)) == warned
    if warned:
        assert "basis 'clt' was trained on 'google/gemma-2-2b', and is used on 'tiny-llama'" in warnings_of(caplog)[0]


def test_a_well_known_model_is_named_with_its_repository(caplog: pytest.LogCaptureFixture) -> None:
    spec = find_model("gpt2-small", load_registry())
    trained_on.warn_if_trained_on_other("sae:x", ["gpt2-medium"], spec)
    (line,) = warnings_of(caplog)
    assert "is used on 'gpt2-small' (openai-community/gpt2)" in line
