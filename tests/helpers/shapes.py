"""Shapes as declared: in the tests every call of the packages that compute is checked against its annotations.

The packages import `Float` and `Tensor` for type checkers alone, so that listing things never loads torch. Names are
given to jaxtyping here; an annotation that names anything else that is not there at run time is not checked.
"""

from __future__ import annotations

import re
from typing import Any

import jaxtyping
import torch
from jaxtyping import _decorator, install_import_hook

PACKAGES = (
    "basisbench.attribution",
    "basisbench.circuits",
    "basisbench.models",
    "basisbench_baselines.bases",
    "basisbench_baselines.dictionaries",
)
NAMES = {"Tensor": torch.Tensor, **{name: getattr(jaxtyping, name) for name in ("Bool", "Float", "Int")}}


def check_shapes() -> None:
    """Check shapes in all modules of these packages that are imported from now on."""
    resolve = _decorator._destring_annotation

    def resolved(annotation: Any, namespace: dict[str, Any]) -> Any:
        has_shape = isinstance(annotation, str) and re.search(r"\b(Bool|Float|Int)\[", annotation)
        return resolve(annotation, {**NAMES, **namespace}) if has_shape else Any

    _decorator._destring_annotation = resolved
    install_import_hook(PACKAGES, "beartype.beartype")
