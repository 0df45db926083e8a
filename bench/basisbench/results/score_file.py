"""Scores of all nodes in a file: the tensors `GROUP/layer N/units` (pos, unit) and `GROUP/layer N/errors` (pos, error).

A file is checked whole when it is read: a tensor too many, too few, of another shape, or with a value that is no finite
number is refused by its name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from pydantic import ValidationError

from basisbench.errors import RecordError
from basisbench.results.record import CellConfig, Identities
from basisbench.results.schema import describe_problem
from basisbench.types import Scores

if TYPE_CHECKING:
    from torch import Tensor

PathLike: TypeAlias = str | os.PathLike[str]
Roles: TypeAlias = Mapping[str, tuple[str, ...]]


def write_scores(
    path: PathLike,
    cell: CellConfig,
    identities: Identities,
    layers: Sequence[int],
    roles: Roles,
    groups: Mapping[str, Scores],
) -> None:
    """Write scores as safetensors.

    Args:
        path: the file.
        cell: the question that the scores belong to.
        identities: digests of the model, the dictionary and the pairs.
        layers: the layer of each site.
        roles: role of each position, by aligned group.
        groups: scores by aligned group.

    Raises:
        RecordError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {}
    for key, scores in groups.items():
        for kind, values in (("units", scores.units), ("errors", scores.errors or ())):
            for layer, value in zip(layers, values, strict=False):
                tensors[f"{key}/layer {layer}/{kind}"] = value.cpu().clone()
    about = {"cell": cell.model_dump_json(), "identities": identities.model_dump_json()}
    try:
        save_file(tensors, path, {**about, "roles": json.dumps(dict(roles))})
    except (OSError, SafetensorError) as error:
        raise RecordError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from error


def read_scores(path: PathLike) -> tuple[CellConfig, Identities, tuple[int, ...], Roles, Mapping[str, Scores]]:
    """Read what `write_scores` wrote; returns its arguments.

    Raises:
        RecordError: the file cannot be read, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a mapping
        cell = CellConfig.model_validate_json(about["cell"])
        identities = Identities.model_validate_json(about["identities"])
        roles = {key: tuple(names) for key, names in json.loads(about["roles"]).items()}
        layers = sorted({int(name.rsplit("/", 2)[1].removeprefix("layer ")) for name in tensors})
        groups = {key: _taken(tensors, key, len(names), layers) for key, names in roles.items()}
        if tensors:
            raise ValueError(f"the tensor '{min(tensors)}' belongs to no group")
        if len({tuple(values.shape[1] for values in scores.units) for scores in groups.values()}) != 1:
            raise ValueError("the aligned groups differ in their numbers of units")
    except ValidationError as error:
        raise RecordError(f"{path}: {describe_problem(error)}") from error
    except KeyError as error:
        raise RecordError(f"{path}: holds no scores that `NodeScores.save` wrote: {error} is missing") from error
    except (OSError, SafetensorError, ValueError, IndexError, AttributeError, TypeError) as error:
        raise RecordError(f"{path}: holds no scores that `NodeScores.save` wrote: {error}") from error
    return cell, identities, tuple(layers), roles, groups


def refuse_others(name: str, made_for: CellConfig, of: Identities, cell: CellConfig, own: Identities) -> None:
    """Refuse scores that were made for another model, task or basis than a cell's.

    Which pairs they were taken on is not held: they may be other ones of the same aligned groups.

    Args:
        name: of the method, for the message.
        made_for: the question that the scores belong to.
        of: digests of what they were made on.
        cell: the question that they are used for.
        own: digests of what that is asked of.

    Raises:
        RecordError: says what differs, and what the scores are of.
    """
    task, asked = (f"{each.task} version {each.task_version}" for each in (made_for, cell))
    for what, found, expected in (
        ("task", task, asked),
        ("basis", made_for.basis, cell.basis),
        ("weights of the model", of.model, own.model),
        ("weights of the dictionary", of.dictionary, own.dictionary),
    ):
        if found != expected:
            raise RecordError(f"method '{name}': its scores are of {what} {found}, the cell's is {expected}")


def _taken(tensors: dict[str, Tensor], key: str, positions: int, layers: Sequence[int]) -> Scores:
    """Take the scores of an aligned group out of a file's tensors; KeyError or ValueError where one is wrong."""
    exact = f"{key}/layer {layers[0]}/errors" not in tensors

    def tensor(layer: int, kind: str) -> Tensor:
        name = f"{key}/layer {layer}/{kind}"
        values = tensors.pop(name)
        if values.ndim != 2 or len(values) != positions:
            raise ValueError(f"the tensor '{name}' has the shape {tuple(values.shape)}, with {positions} positions")
        if not values.is_floating_point() or not bool(values.isfinite().all()):
            raise ValueError(f"the tensor '{name}' does not hold finite numbers")
        return values

    units = tuple(tensor(layer, "units") for layer in layers)
    return Scores(units, None if exact else tuple(tensor(layer, "errors") for layer in layers))
