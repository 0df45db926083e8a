"""Dictionaries that do not fit into memory at once: what makes room for what, copies on devices, reading again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from basisbench_baselines.dictionaries.lazy_layers import LayerCache, LazyDictionaries, copied_to
from basisbench_baselines.dictionaries.saelens_adapter import AdaptedDictionary, adapt


def test_what_was_used_last_makes_room_so_that_the_rest_is_there_in_the_next_pass() -> None:
    """Six layers of one size, room for three and the loading of one: half of them are found in every later pass."""
    cache = LayerCache(dict.fromkeys(range(6), 10), 40)
    assert cache.overflows
    loads = []
    for _ in range(3):
        loads.append(0)
        for index in range(6):
            loads[-1] += index not in cache.cached
            cache.add(index)
            assert len(cache.cached) <= 3, "the one that is loaded takes its size twice"
    assert loads == [6, 3, 3], "freeing the least recently used would give 6 each time"
    assert not LayerCache(dict.fromkeys(range(6), 10), 70).overflows


@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=8),
    room=st.integers(0, 200),
    asked=st.lists(st.integers(0, 7), max_size=40),
)
def test_the_cache_holds_what_was_asked_for_and_never_more_than_there_is_room(
    sizes: list[int], room: int, asked: list[int]
) -> None:
    cache = LayerCache(dict(enumerate(sizes)), room)
    held: set[int] = set()
    for index in (number % len(sizes) for number in asked):
        was_there = index in held
        freed = cache.add(index)
        assert set(freed) <= held
        assert index not in freed
        assert not (was_there and freed)
        held = (held - set(freed)) | {index}
        assert set(cache.cached) == held
        assert len(held) == 1 or sum(sizes[each] for each in held) <= room
    if not cache.overflows:
        assert held == {number % len(sizes) for number in asked}
    before = set(cache.cached)
    freed = cache.shrink()
    assert bool(freed) == (len(before) > 1)
    assert set(cache.cached) == before - set(freed)


def small_sae(kind: str = "standard", **fields: Any) -> Any:
    from sae_lens.registry import get_sae_class

    dictionary_class, config_class = get_sae_class(kind)
    dictionary = dictionary_class(config_class(d_in=6, d_sae=10, dtype="float64", **fields)).eval()
    generator = torch.manual_seed(3)
    for parameter in dictionary.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return dictionary.requires_grad_(False)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("jumprelu", {}),
        ("topk", {"k": 3}),
        ("standard", {"normalize_activations": "layer_norm"}),
        ("skip_transcoder", {"d_out": 6, "apply_b_dec_to_input": False}),
    ],
)
def test_a_copy_on_a_device_computes_the_same_and_shares_nothing(kind: str, fields: dict[str, Any]) -> None:
    original = adapt(small_sae(kind, **fields))
    twin = copied_to(original, "cpu")
    x = torch.randn(5, 6, generator=torch.manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        code = original.encode(x)
        assert torch.equal(twin.encode(x), code)
        assert torch.equal(twin.decode(code), original.decode(code))
    mine, theirs = ({part.data_ptr() for part in each.parameters()} for each in (twin, original))
    assert not mine & theirs
    if isinstance(twin, AdaptedDictionary):
        assert twin.module.W_dec.data_ptr() == twin.w_dec.data_ptr(), "the decoder is there once"


def test_what_does_not_fit_on_a_device_is_read_from_its_file_once_while_there_is_room_for_it_elsewhere() -> None:
    """The "device" is the CPU under another name, so that copies can be counted without one."""
    read: list[int] = []

    def loader(index: int) -> Any:
        def load(device: str) -> Any:
            read.append(index)
            assert device == "cpu" or index > 2
            return small_sae()

        return load

    dictionaries = LazyDictionaries(
        [loader(index) for index in range(4)], [10] * 4, ["cpu:0"] * 4, {"cpu:0": 20}, spare=40
    )
    assert dictionaries.overflows
    for _ in range(3):
        for index in range(4):
            assert torch.equal(dictionaries[index].W_dec, small_sae().W_dec)
            assert len(dictionaries.loaded) == 1
    assert [read.count(index) for index in range(4)] == [1, 1, 1, 3]
