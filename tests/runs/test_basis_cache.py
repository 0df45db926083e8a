"""Bases that were built for a model are kept for the next tasks, and go when the model goes."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from functools import partial
from typing import Any

from basisbench.models.load import load_model
from basisbench.registry import load_registry
from basisbench.runs.session import open_session
from basisbench.types import ModelSpec


def test_a_model_is_freed_with_a_basis_that_holds_it(tiny_llama: ModelSpec) -> None:
    model = load_model(tiny_llama)
    registry = load_registry()
    neurons = registry.get("basis", "mlp_out")
    built: list[weakref.ref[Any]] = []

    def build(model: Any) -> Any:
        basis = neurons.build(model)
        # As dictionaries of the hub do, whose loaders need the model's norms.
        object.__setattr__(basis, "load", partial(lambda model: model, model))
        built.append(weakref.ref(basis))
        return basis

    session = open_session(model, registry.get("task", "sva_simple"), attribution_pairs=8, evaluation_pairs=8, seed=0)
    spec = replace(neurons, build=build)
    assert session.basis(spec) is session.basis(spec)
    freed = weakref.ref(model)
    assert len(built) == 1
    del model, session
    gc.collect()
    assert (freed(), built[0]()) == (None, None)
