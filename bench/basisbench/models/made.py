"""Models that code makes: written into a folder of this process when they are first asked for, gone with it.

Everything that reads a checkpoint or a dictionary reads these too, through the same files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from basisbench.errors import BasisBenchError, whole_message
from basisbench.types import ModelSpec


def made(spec: ModelSpec) -> ModelSpec:
    """Return a model with its checkpoint and its dictionaries in place; one that no code makes as it is.

    Args:
        spec: the model.

    Raises:
        BasisBenchError: no files can be written here, or the code fails.
    """
    if spec.build is None:
        return spec
    try:
        folder = Path(_written(spec.build).name)
    except OSError as error:
        raise BasisBenchError(
            f"model '{spec.name}' is made by code, and its files cannot be written: {error}; TMPDIR names another place"
        ) from error
    except Exception as error:  # of a plug-in
        raise BasisBenchError(f"model '{spec.name}' is made by code, which fails: {whole_message(error)}") from error
    dictionaries = {path.name: path for path in sorted((folder / "dictionaries").glob("*"))}
    return replace(spec, path=str(folder / "model"), dictionaries=dictionaries)


@cache
def _written(build: Callable[[Path], None]) -> TemporaryDirectory[str]:
    folder = TemporaryDirectory(prefix="basisbench-")
    build(Path(folder.name))
    return folder
