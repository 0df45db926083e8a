"""What is quicker than SAELens's own dictionaries gives what they give: sparse products, and parts of a dictionary."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from basisbench_baselines.dictionaries.fast import SelectedUnits, independent_units, sparse_product

SHAPES = settings(max_examples=60)


@SHAPES
@given(
    rows=st.integers(1, 20),
    units=st.integers(1, 60),
    width=st.integers(1, 9),
    density=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_adding_active_rows_is_the_product(rows: int, units: int, width: int, density: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    code = torch.rand(2, rows, units, generator=generator, dtype=torch.float64)
    code[torch.rand(2, rows, units, generator=generator) > density] = 0
    weight = torch.randn(units, width, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(sparse_product(code, weight), code @ weight, rtol=0, atol=1e-12)


# SAELens never shifts a transcoder's input.
@pytest.mark.parametrize(
    ("kind", "shifted"),
    [
        ("standard", False),
        ("standard", True),
        ("jumprelu", False),
        ("jumprelu", True),
        ("transcoder", False),
        ("jumprelu_transcoder", False),
    ],
)
@pytest.mark.parametrize("units", [50, 5000])
def test_a_fast_dictionary_and_its_parts_are_saelens_own(kind: str, shifted: bool, units: int) -> None:
    from sae_lens.registry import get_sae_class

    dictionary_class, config_class = get_sae_class(kind)
    extra = {"d_out": 11} if "transcoder" in kind else {}
    config = config_class(d_in=11, d_sae=units, dtype="float64", apply_b_dec_to_input=shifted, **extra)
    dictionary: Any = dictionary_class(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in dictionary.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            # Wide dictionaries get few active units, so that they are decoded row by row.
            parameter.copy_(noise.abs() if name == "threshold" else noise - 14 * (name == "b_enc" and units > 50))
        x = 1.5 * torch.randn(3, 4, 11, generator=generator, dtype=torch.float64)
        code = dictionary.encode(x)
        decoded = dictionary.decode(code)
        fast = independent_units(dictionary)
        assert fast is not None
        assert 0 < (code != 0).double().mean() < (0.6 if units == 50 else 1 / 32)
        torch.testing.assert_close(fast.encode(x), code, rtol=0, atol=1e-11)
        torch.testing.assert_close(fast.decode(code), decoded, rtol=0, atol=1e-11)
        torch.testing.assert_close(dictionary.encode(x), code, rtol=0, atol=1e-11)
        some = torch.tensor([7, 0, 31])
        part = SelectedUnits(some, fast.encoder_of, fast.decoder_rows)
        torch.testing.assert_close(part.encode(x), code[..., some], rtol=0, atol=1e-11)
        change = torch.zeros_like(code)
        change[..., some] = code[..., some]
        expected = dictionary.decode(change) - dictionary.decode(torch.zeros_like(code))
        torch.testing.assert_close(part.decode(code[..., some]), expected, rtol=0, atol=1e-11)
        gradient = torch.randn(decoded.shape, generator=generator, dtype=torch.float64)
        projected = gradient @ dictionary.W_dec[some].T
        torch.testing.assert_close(part.project(gradient), projected, rtol=0, atol=1e-11)
