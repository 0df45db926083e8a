"""Short labels of long basis names: they tell bases apart, and say where the full name is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basisbench.results.labels import LABEL_LENGTH, label_notes, short_labels

GEMMA_3 = "sae:gemma-scope-2-270m-pt-{}-all:layer_*_width_16k_l0_{}"
GEMMA_2 = "sae:gemma-scope-2b-pt-{}-canonical:layer_*/width_16k/canonical"

WORDS = st.sampled_from(["gemma", "scope", "2", "270m", "res", "mlp", "all", "layer", "*", "width", "16k", "l0", "x"])
LONG = st.builds(
    lambda kind, release, pattern, marks: f"{kind}:{marks[0].join(release)}:{marks[1].join(pattern)}",
    st.sampled_from(["sae", "clt", "transcoder"]),
    st.lists(WORDS, min_size=1, max_size=8),
    st.lists(WORDS, max_size=8),
    st.tuples(st.sampled_from("-_/"), st.sampled_from("_/-: ")),
)
NAMES = st.lists(
    LONG | st.text(min_size=1, max_size=60) | st.sampled_from(["mlp_act", "sae:x", "basis #1"]), max_size=12
)


@pytest.mark.slow
@given(names=NAMES, limit=st.integers(12, 40), data=st.data())
def test_labels_are_distinct_short_and_stable(names: list[str], limit: int, data: st.DataObject) -> None:
    labels = short_labels(names, limit)
    assert set(labels) == set(names)
    assert len(set(labels.values())) == len(labels)
    assert all(0 < len(label) <= limit for label in labels.values())
    assert short_labels(data.draw(st.permutations([*names, *names[:3]])), limit) == labels
    for name, label in labels.items():
        if len(name) <= limit and "/" not in name:
            assert label == name


@pytest.mark.slow
@given(names=NAMES)
def test_every_label_that_is_not_the_name_is_explained(names: list[str]) -> None:
    labels = short_labels(names)
    notes = label_notes(labels)
    assert set(notes) == {f"{label} = {name}" for name, label in labels.items() if label != name}


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["mlp_act", "cross_layer_transcoder"], ["mlp_act", "cross_layer_transcoder"]),
        (["sae:gpt2-small-res-jb"], ["sae:gpt2-small-res-jb"]),
        (
            [GEMMA_3.format("res", "small"), GEMMA_3.format("res", "big"), GEMMA_3.format("mlp", "small")],
            ["sae:res-small", "sae:res-big", "sae:mlp-small"],
        ),
        (
            [GEMMA_2.format("res"), GEMMA_2.format("mlp"), "sae:gemma-scope-2b-pt-transcoders"],
            ["sae:res", "sae:mlp", "sae:gemma-scop…t-transcoders"],
        ),
        (["clt:mntss/clt-gemma-2-2b-426k", "mlp_out"], ["clt:clt-gemma-2-2b-426k", "mlp_out"]),
        (["sae:/home/x/folder", "sae:/home/y/other/"], ["sae:folder", "sae:other"]),
        (
            [
                "sae:mine/small/sae",
                *(f"sae:mine/small/snapshots/{n}/{kind}" for n in (1, 2) for kind in ("sae", "clt")),
            ],
            ["sae:small/sae", "sae:1/sae", "sae:1/clt", "sae:2/sae", "sae:2/clt"],
        ),
        (["sae:/home/x/run/layers", "sae:/home/y/run/layers"], ["sae:x", "sae:y"]),
        ([GEMMA_3.format("res", "small")], ["sae:gemma-scop…_16k_l0_small"]),
        (["sae_mlp_out (aaaaaaaa)", "sae_mlp_out (bbbbbbbb)"], ["sae_mlp_out (aaaaaaaa)", "sae_mlp_out (bbbbbbbb)"]),
    ],
)
def test_labels_of_published_names(names: list[str], labels: list[str]) -> None:
    assert short_labels(names) == dict(zip(names, labels, strict=True))


def test_names_that_nothing_short_tells_apart_get_a_hash() -> None:
    names = [f"{'a' * 40}{letter}{'a' * 40}" for letter in "xy"]
    labels = short_labels(names)
    assert len(set(labels.values())) == 2
    assert all("~" in label and len(label) == LABEL_LENGTH for label in labels.values())


def test_a_name_made_to_look_like_a_label_keeps_its_own() -> None:
    long = "clt:mntss/clt-gemma-2-2b-426k"
    labels = short_labels([long, "clt:clt-gemma-2-2b-426k"])
    assert labels["clt:clt-gemma-2-2b-426k"] == "clt:clt-gemma-2-2b-426k"
    assert labels[long] != labels["clt:clt-gemma-2-2b-426k"]


def test_a_limit_without_room_for_a_hash_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 12"):
        short_labels(["a"], 8)
