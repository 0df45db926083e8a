"""Old files stay readable: a record of an earlier schema is turned into one of the present schema while it is read.

1. Each earlier version n has one function in `UPGRADES` that turns the content of a file from version n into version
   n + 1. It is pure: it returns a new mapping and changes nothing.
2. Reading applies them one after the other, from the file's version to the present one; the file stays as it is.
3. A file of a later version than we know is refused with the advice to upgrade BasisBench.

There is one version of the record so far. Fields that came later (`cell.layers`, `endpoints.empty_at`, `sources`) have
defaults that say what was the case before them, so that records of BasisBench 0.1 and 0.2 need no upgrade. A schema is
superseded, never edited: what alters the meaning of a field, or takes one away, needs a new version and an upgrade.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from basisbench.errors import RecordError
from basisbench.version import __version__

Content: TypeAlias = "Mapping[str, Any]"
Upgrade: TypeAlias = "Callable[[Content], Content]"

UPGRADES: dict[int, Upgrade] = {}
"""Version n of the record's schema to the function that turns such content into version n + 1."""


def upgraded(content: Content, current: int, upgrades: Mapping[int, Upgrade] | None = None) -> Content:
    """Turn the content of a file into the present schema.

    Args:
        content: what the file holds.
        current: the present version.
        upgrades: functions by version; by default those of the record.

    Returns:
        Content of the present version; the content itself where it has that version, or none that we know.

    Raises:
        RecordError: the content is of a later version, or not what its version calls for.
    """
    upgrades = UPGRADES if upgrades is None else upgrades
    version = content.get("schema_version")
    if type(version) is not int:  # true is an instance of int too
        return content
    if version > current:
        found = str(version) if version < 10**9 else "a huge number"
        raise RecordError(
            f"schema_version: found {found}, but BasisBench {__version__} knows versions up to {current}; "
            "upgrade BasisBench to read it"
        )
    while version < current and version in upgrades:
        try:
            content = {**upgrades[version](content), "schema_version": version + 1}
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise RecordError(
                f"schema_version: is {version}, but the file is not what that version calls for: "
                f"{type(error).__name__}: {error}"
            ) from error
        version += 1
    return content


def upgraded_text(data: bytes, current: int) -> bytes | None:
    """Turn the text of a file into the present schema, where it is of another one.

    Args:
        data: what the file holds; it need not be JSON.
        current: the present version.

    Returns:
        JSON of the present version; None where there is nothing to upgrade.

    Raises:
        RecordError: as `upgraded`.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):  # told better by the parser that reads records
        return None
    if not isinstance(content, dict):
        return None
    new = upgraded(content, current)
    return None if new is content else json.dumps(new).encode()
