"""What users of published dictionaries will meet, each reported in one line; through the hub's own client."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from basisbench.errors import BasisBenchError, BasisError
from basisbench.models.load import load_model
from basisbench.models.model import Model
from basisbench.registry import load_registry
from basisbench.types import ModelSpec
from basisbench_baselines.dictionaries import hub_snapshot as cache
from helpers.hub_releases import RELEASES
from helpers.hub_replica import MODELS, HubReplica, replica
from helpers.loopback_hub import NOBODY, asking, online, serving

pytestmark = pytest.mark.slow  # a replica of the hub is written first

RELEASE = "pythia-70m-deduped-mlp-sm"
REPOSITORY = RELEASES[RELEASE].repository
BASIS = f"sae:{RELEASE}"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubReplica]:
    """A replica of its own, with one model and one release, in use by this process."""
    made = HubReplica(tmp_path / "home")
    for repository in (REPOSITORY, MODELS["pythia"].repository):
        shutil.copytree(replica().folder(repository), made.folder(repository), symlinks=True)
    with made.in_use():
        yield made
    cache._resolve.cache_clear()


@pytest.fixture
def model(hub: HubReplica) -> Model:
    return load_model(ModelSpec("tiny pythia", str(hub.snapshot(MODELS["pythia"].repository)), "tiny"))


def line_of(work: Any, *mentioned: str) -> None:
    with pytest.raises(BasisError) as caught:
        work()
    message = str(caught.value)
    assert "\n" not in message
    for text in mentioned:
        assert text in message, message


def use(model: Model, name: str = BASIS) -> None:
    """Build a basis and use every layer."""
    basis = load_registry().get("basis", name).build(model)
    with torch.no_grad():
        for site in basis.sites:
            basis.encode(site, torch.zeros(1, 1, 16))


def test_nothing_cached_and_no_network(hub: HubReplica, model: Model) -> None:
    shutil.rmtree(hub.folder(REPOSITORY))
    line_of(lambda: use(model), f"basis '{BASIS}'", REPOSITORY, "is not in the cache", "HF_HUB_OFFLINE")
    spec = load_registry().get("basis", BASIS)
    line_of(lambda: spec.fingerprint(model.spec), f"basis '{BASIS}'", REPOSITORY, "is not in the cache")


def test_one_file_is_not_cached_and_no_network(hub: HubReplica, model: Model) -> None:
    name = "4-mlp-sm/sae_weights.safetensors"
    (hub.snapshot(REPOSITORY) / name).unlink()
    line_of(lambda: use(model), "'blocks.4.hook_mlp_out'", REPOSITORY, name, "hub cannot be reached")


def test_a_cross_layer_transcoder_that_is_not_cached_or_lacks_a_file(hub: HubReplica, model: Model) -> None:
    line_of(lambda: use(model, "clt:org/none"), "basis 'clt:org/none': org/none is not in the cache")
    commit = hub.commit("org/clt", {"config.yaml": b"model_kind: cross_layer_transcoder"})
    line_of(lambda: use(model, "clt:org/clt"), f"has org/clt at {commit[:12]} without W_dec_0.safetensors")


@pytest.mark.parametrize("revision", ["a-branch", "0" * 40])
def test_a_revision_that_the_cache_lacks(hub: HubReplica, model: Model, revision: str) -> None:
    line_of(
        lambda: use(model, f"sae:{RELEASE}@{revision}"), f"revision '{revision}' of {REPOSITORY} is not in the cache"
    )
    assert hub.snapshot(REPOSITORY).is_dir()


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_file_that_is_not_what_its_hash_says(hub: HubReplica, model: Model, damage: str) -> None:
    blob = (hub.snapshot(REPOSITORY) / "2-mlp-sm" / "sae_weights.safetensors").resolve()
    content = blob.read_bytes()
    blob.write_bytes(content[:-8] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    line_of(lambda: use(model), "2-mlp-sm/sae_weights.safetensors", "is damaged", blob.name[:12], f"delete {blob}")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("sae_weights.safetensors", b"not a dictionary\n" * 10),
        ("cfg.json", b"{\n"),
        ("cfg.json", b'{"architecture": "nonsense"}'),
    ],
)
def test_a_file_that_nobody_can_read(hub: HubReplica, model: Model, file: str, content: bytes) -> None:
    """Published so: its hash is right."""
    hub.commit(REPOSITORY, {f"2-mlp-sm/{file}": content})
    line_of(lambda: use(model), "'blocks.2.hook_mlp_out'", REPOSITORY)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_memory_that_runs_out_while_weights_are_read_is_not_blamed_on_the_file(
    model: Model, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """So that the pass that reads them is done again in smaller parts (basisbench.models.batching)."""
    from sae_lens import SAE

    def fail(*_arguments: object, **_more: object) -> None:
        raise error

    monkeypatch.setattr(SAE, "from_pretrained", fail)
    with pytest.raises(type(error)):
        use(model)


def test_a_dictionary_of_another_width(hub: HubReplica, model: Model) -> None:
    config = json.loads((hub.snapshot(REPOSITORY) / "3-mlp-sm" / "cfg.json").read_text()) | {"d_in": 24}
    hub.commit(REPOSITORY, {"3-mlp-sm/cfg.json": json.dumps(config).encode()})
    line_of(
        lambda: use(model), "'blocks.3.hook_mlp_out'", "width 24 to 24", "'tiny pythia' have 16 and 16", "another model"
    )


def test_a_release_of_a_deeper_model() -> None:
    with replica().in_use():
        spec = ModelSpec("tiny pythia", str(replica().snapshot(MODELS["pythia"].repository)), "tiny")
        line_of(
            lambda: use(load_model(spec), "sae:gpt2-small-mlp-out-v5-32k"), "layer 11", "'tiny pythia' has 6 layers"
        )


@pytest.mark.parametrize("hook", ["blocks.3.hook_attn_out", "blocks.2.hook_mlp_out", "blocks.3.hook_resid_mid"])
def test_a_dictionary_that_sits_elsewhere_than_its_id_says(hub: HubReplica, model: Model, hook: str) -> None:
    config = json.loads((hub.snapshot(REPOSITORY) / "3-mlp-sm" / "cfg.json").read_text()) | {"hook_name": hook}
    hub.commit(REPOSITORY, {"3-mlp-sm/cfg.json": json.dumps(config).encode()})
    line_of(lambda: use(model), "'blocks.3.hook_mlp_out' of", hook)


def test_a_hook_that_this_transformerlens_lacks(model: Model) -> None:
    points = {name: point for name, point in model.hook_points.items() if name != "blocks.4.hook_mlp_out"}
    model.__dict__.update(hook_points=points, _places={})
    line_of(
        lambda: use(model), "'blocks.4.hook_mlp_out' of", "has no hook 'blocks.4.hook_mlp_out' in this TransformerLens"
    )


def test_a_model_that_was_changed_in_an_unknown_way(hub: HubReplica, model: Model) -> None:
    config = json.loads((hub.snapshot(REPOSITORY) / "3-mlp-sm" / "cfg.json").read_text())
    config["model_from_pretrained_kwargs"] = {"fold_ln": False, "refactor_factored_attn_matrices": True}
    hub.commit(REPOSITORY, {"3-mlp-sm/cfg.json": json.dumps(config).encode()})
    line_of(lambda: use(model), "loaded with refactor_factored_attn_matrices=True", "only center_writing_weights")


def test_layers_that_a_release_lacks_are_named_in_one_line(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    from basisbench_baselines.bases import published

    published._warn_of_missing_layers.cache_clear()
    name = f"{BASIS}:blocks.[124].hook_mlp_out"
    for _ in range(2):
        use(model, name)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"basis '{name}' has no dictionary for layer 0, 3, 5 of 'tiny pythia'; it is compared on the layers that it has"
    )


# --- with a network: the hub's client, and a hub on the loopback interface


def fingerprint(home: HubReplica, address: str, name: str = BASIS) -> str:
    """Return what a basis is made of, or the line in which it was refused."""
    with asking(home, address):
        try:
            return load_registry().get("basis", name).fingerprint(ModelSpec("m", "m", "m"))
        except BasisBenchError as error:
            return str(error)


IN_A_PROCESS = """
import sys
from basisbench.types import ModelSpec
from basisbench.registry import load_registry
print(load_registry().get("basis", sys.argv[1]).fingerprint(ModelSpec("m", "m", "m")))
"""


@pytest.fixture
def other(tmp_path: Path) -> HubReplica:
    """Return a cache that nothing is in yet."""
    return HubReplica(tmp_path / "other")


def test_files_are_fetched_and_pinned_and_then_found_without_a_network(hub: HubReplica, other: HubReplica) -> None:
    """By a process whose environment says where hub and cache are, and by this one."""
    with serving(hub) as address:
        words = [sys.executable, "-c", IN_A_PROCESS, BASIS]
        done = subprocess.run(words, env=online(other.home, address), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        first = done.stdout.strip()
        old = hub.snapshot(REPOSITORY).name
        hub.commit(REPOSITORY, {"README.md": b"changed"})
        moved, pinned = fingerprint(other, address), fingerprint(other, address, f"{BASIS}@{old}")
    assert pinned == first != moved
    assert fingerprint(other, NOBODY) == moved  # nobody answers there


@pytest.mark.parametrize(
    ("name", "gated", "expected"),
    [
        (BASIS, {REPOSITORY}, f"{REPOSITORY} is gated; accept its terms"),
        ("sae:pythia-70m-deduped-res-sm", set(), "the hub has no repository"),
        (f"{BASIS}@nowhere", set(), f"{REPOSITORY} has no revision 'nowhere'"),
        ("clt:org/none", set(), "the hub has no repository org/none, or it is private"),
        (f"{BASIS}@{'0' * 40}", set(), f"{REPOSITORY} has no revision '000"),
    ],
)
def test_what_the_hub_refuses(hub: HubReplica, other: HubReplica, name: str, gated: set[str], expected: str) -> None:
    with serving(hub, gated=gated) as address:
        line = fingerprint(other, address, name)
    assert line.startswith(f"basis '{name}': ")
    assert expected in line
    assert "\n" not in line


def test_a_download_that_is_not_what_the_hub_announced(hub: HubReplica, other: HubReplica) -> None:
    with serving(hub, fault="altered") as address:
        line = fingerprint(other, address)
    assert "is damaged" in line
    assert "\n" not in line


def test_nothing_cached_and_nobody_answers(other: HubReplica) -> None:
    line = fingerprint(other, NOBODY)
    assert line.startswith(f"basis '{BASIS}': {REPOSITORY} is not in the cache")
    assert "\n" not in line
