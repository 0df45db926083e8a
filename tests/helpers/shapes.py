"""Shapes as declared: in the tests every call of the packages that compute is checked against its annotations.

The packages import `Float` and `Tensor` for type checkers alone, so that listing things never loads torch. Names are
given to jaxtyping here; an annotation that names anything else that is not there at run time is not checked. Functions
inside functions are not checked either: they would be compiled anew at every call, which doubles the time of the tests.
"""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from typing import Any

import jaxtyping
import torch
from jaxtyping import _decorator, _import_hook, install_import_hook

PACKAGES = (
    "basisbench.attribution",
    "basisbench.circuits",
    "basisbench.models",
    "basisbench_baselines.bases",
    "basisbench_baselines.dictionaries",
)
NAMES = {"Tensor": torch.Tensor, **{name: getattr(jaxtyping, name) for name in ("Bool", "Float", "Int")}}


@cache
def check_shapes() -> None:
    """Check shapes in all modules of these packages that are imported from now on."""
    early = [name for name in sys.modules if name.startswith(PACKAGES)]
    assert not early, f"imported before their shapes are checked: {early}"
    resolve = _decorator._destring_annotation

    def resolved(annotation: Any, namespace: dict[str, Any]) -> Any:
        has_shape = isinstance(annotation, str) and re.search(r"\b(Bool|Float|Int)\[", annotation)
        return resolve(annotation, {**NAMES, **namespace}) if has_shape else Any

    _decorator._destring_annotation = resolved
    visit = _import_hook.JaxtypingTransformer.visit_FunctionDef

    def visit_outermost(transformer: Any, node: ast.FunctionDef) -> ast.FunctionDef:
        inside = any(isinstance(parent, ast.FunctionDef) for parent in transformer._parents)
        return node if inside else visit(transformer, node)

    _import_hook.JaxtypingTransformer.visit_FunctionDef = visit_outermost
    install_import_hook(PACKAGES, "beartype.beartype")
