"""What the oracle tests share: the slow evaluator, tiny models, and the code under test to compare with them.

`oracle_evaluator` and `oracle_scores` hold the slow twins, `oracle_models` the models and pairs they run on. Here
the same models, bases and groups are loaded through the harness. Tests read all of them from this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from basisbench.attribution.context import GroupContext
from basisbench.circuits.group import GroupPair
from basisbench.models.load import load_model
from basisbench.models.model import Model
from basisbench.protocols import Basis, BasisSpec
from basisbench.results.record import CellConfig
from basisbench.types import Ablation, ModelSpec, Scores
from basisbench_baselines.methods.gradient import PROVIDES, GradientMethod
from helpers.oracle_evaluator import (
    ABLATIONS,
    BASES,
    D_MLP,
    D_MODEL,
    DICTIONARIES,
    EXACT,
    FAMILIES,
    FAMILY,
    FAMILY_OUTPUT,
    LAYERS,
    POLICIES,
    POST_NORMS,
    READS,
    WRITES,
    Naive,
    NaiveBasis,
    Node,
    all_nodes,
    error_names,
    kept_error,
    naive_circuits,
    ranked,
    rotation,
    with_free_errors,
)
from helpers.oracle_models import (
    checkpoint,
    dictionaries,
    dictionary_folder,
    in_double_precision,
    naive,
    random_pairs,
    two_groups,
)
from helpers.oracle_names import ALL_ARCHITECTURES, ARCHITECTURES, COVERING_CELLS, OTHER_ARCHITECTURES, on_architectures
from helpers.oracle_scores import (
    COVERING,
    OLD,
    QUESTIONS,
    NaiveScores,
    Question,
    asking,
    gradient_with,
    mean_gradient,
    naive_magnitude,
    naive_patching,
    naive_scores,
    path_end,
    place_gradient,
    spliced_scores,
    target,
)
from helpers.oracle_sites import Where

__all__ = [
    "ABLATIONS",
    "ALL_ARCHITECTURES",
    "ARCHITECTURES",
    "BASES",
    "COVERING",
    "COVERING_CELLS",
    "DICTIONARIES",
    "D_MLP",
    "D_MODEL",
    "EXACT",
    "FAMILIES",
    "FAMILY",
    "FAMILY_OUTPUT",
    "LAYERS",
    "OLD",
    "OTHER_ARCHITECTURES",
    "POLICIES",
    "POST_NORMS",
    "QUESTIONS",
    "Naive",
    "NaiveBasis",
    "NaiveScores",
    "Node",
    "Question",
    "Where",
    "all_nodes",
    "asking",
    "basis",
    "basis_spec",
    "cell",
    "checkpoint",
    "contexts",
    "dictionaries",
    "dictionary_folder",
    "ends_of",
    "error_names",
    "gradient_method",
    "gradient_with",
    "hooks_of",
    "in_double_precision",
    "kept_error",
    "mean_gradient",
    "model",
    "naive",
    "naive_basis",
    "naive_circuits",
    "naive_magnitude",
    "naive_patching",
    "naive_scores",
    "on_architectures",
    "path_end",
    "place_gradient",
    "random_pairs",
    "random_scores",
    "ranked",
    "rotation",
    "score_of_nodes",
    "spliced_scores",
    "target",
    "two_groups",
    "with_free_errors",
]


@cache
def model(architecture: str, dtype: str = "float64") -> Model:
    """Load the tiny model through the harness."""
    folders = {basis: dictionary_folder(architecture, basis) for basis in DICTIONARIES}
    spec = ModelSpec(f"tiny-{architecture}", str(checkpoint(architecture)), "tiny random model", folders)
    return load_model(spec, dtype=dtype)


@cache
def basis_spec(name: str) -> BasisSpec:
    """Return the built-in basis of that name."""
    from basisbench_baselines.bases import neurons, rotation
    from basisbench_baselines.bases import saelens as kind_1

    specs = {spec.name: spec for module in (kind_1, neurons, rotation) for spec in module.PROVIDES}
    return specs[name]


@cache
def basis(architecture: str, name: str, dtype: str = "float64") -> Basis:
    """Build a basis through the harness."""
    return basis_spec(name).build(model(architecture, dtype))


def gradient_method(rule: str) -> GradientMethod:
    """Return the built-in method of a gradient rule."""
    return next(method for method in PROVIDES if isinstance(method, GradientMethod) and method.name == rule)


@cache
def naive_basis(architecture: str, name: str) -> NaiveBasis:
    """Return the slow twin of a built-in basis."""
    if name in DICTIONARIES:
        saes = dictionaries(architecture, name)
        return NaiveBasis(
            READS[name],
            WRITES[name],
            lambda layer, x: saes[layer].encode(x),
            lambda layer, f: saes[layer].decode(f),
            tuple(sae.cfg.d_sae for sae in saes),
            has_error=True,
        )
    if name == "mlp_act_rotated":
        rotations: Sequence[Tensor] = basis(architecture, name).rotations  # type: ignore[attr-defined]
        return NaiveBasis(
            "mlp_act",
            "mlp_act",
            # Coordinate u is the activation's component along row u.
            lambda layer, x: torch.einsum("...d,ud->...u", x, rotations[layer]),
            lambda layer, f: torch.einsum("...u,ud->...d", f, rotations[layer]),
            (D_MLP,) * LAYERS,
            has_error=False,
        )
    width = naive(architecture).width(READS[name])
    return NaiveBasis(READS[name], WRITES[name], lambda _, x: x, lambda _, f: f, (width,) * LAYERS, has_error=False)


def hooks_of(model: Model) -> dict[str, int]:
    """Return the hooks on every module of all views of a model, counted by name, and which modules are replaced."""
    registries = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_backward_pre_hooks",
        "fwd_hooks",
        "bwd_hooks",
    )
    found: dict[str, int] = {}
    for view, root in (("body", model.body), ("bridge", model.bridge), ("fast body", model.fast_body)):
        for name, module in root.named_modules():
            for registry in registries:
                found[f"{view} {name} {registry}"] = len(getattr(module, registry, None) or ())
            found[f"{view} {name} forward"] = id(vars(module).get("forward"))
    return found


@cache
def contexts(architecture: str, dtype: str = "float64") -> tuple[GroupPair, ...]:
    """Return the two groups as the harness holds them; methods may fill its caches."""
    groups, loaded = two_groups(), model(architecture, dtype)
    return tuple(
        GroupPair(GroupContext(loaded, first, 0), GroupContext(loaded, second, 0))
        for first, second in zip(groups.attribution, groups.evaluation, strict=True)
    )


def ends_of(context: GroupContext, hooks: Sequence[str], end: Ablation = "counterfactual") -> dict[str, Tensor]:
    """Return the activations that paths of `ig` run to."""
    values = {hook: context.activation(hook, "counterfactual") for hook in hooks}
    if end == "counterfactual":
        return values
    return {hook: (end == "mean") * value.mean(0, keepdim=True) for hook, value in values.items()}


def cell(name: str, **changes: Any) -> CellConfig:
    """Return a cell for a basis."""
    asked: dict[str, Any] = {
        "model": "tiny", "task": "stub", "task_version": "1", "basis": name, "family": FAMILY[name],
        "method": "random", "attribution_pairs": 8, "evaluation_pairs": 8,
    }  # fmt: skip
    return CellConfig(**(asked | changes))


def random_scores(twin: NaiveBasis, length: int, seed: int, policy: str = "coordinates") -> Scores:
    """Draw signed scores with many ties, of the nodes that there are under an error policy: multiples of a tenth."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * 10).round() / 10

    units = tuple(draw(length, size) for size in twin.units)
    names = error_names(policy) if twin.has_error else []
    return Scores(units, tuple(draw(length, len(names)) for _ in twin.units) if names else None)


def score_of_nodes(scores: Scores, twin: NaiveBasis, policy: str = "coordinates") -> dict[Node, float]:
    """Return scores as a mapping from nodes, in the order of `all_nodes`."""
    found: dict[Node, float] = {}
    names = error_names(policy)
    for layer, position, unit in all_nodes(twin, len(scores.units[0]), policy):
        if isinstance(unit, str):
            assert scores.errors is not None
            found[layer, position, unit] = float(scores.errors[layer][position, names.index(unit)])
        else:
            found[layer, position, unit] = float(scores.units[layer][position, unit])
    return found
