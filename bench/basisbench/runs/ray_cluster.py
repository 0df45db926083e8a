"""A Ray cluster: where it is, whether anybody answers there, and how many workers it has room for."""

from __future__ import annotations

import logging
import socket
from typing import Any

from basisbench.errors import BasisBenchError, first_line
from basisbench.runs.workers import available_cores

_REACH_SECONDS = 10.0
"""How long a cluster may take to answer."""


def import_ray() -> Any:
    """Return the library.

    Raises:
        BasisBenchError: it is not installed.
    """
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise BasisBenchError("--executor ray needs Ray: python -m pip install 'basisbench[ray]'") from error
    return ray


def join(ray: Any, address: str, cores: float | None) -> None:
    """Start a cluster on this machine, or connect to a running one.

    Args:
        ray: the library.
        address: of a running cluster; empty starts one.
        cores: of the one that is started, at least; None for those of this machine.

    Raises:
        BasisBenchError: there is none at that address, or it cannot be reached.
    """
    arguments: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
    if not address:
        arguments["num_cpus"] = max(available_cores(), int(cores or 0))
    elif found := _found(address):
        _check_reachable(found)
    try:
        ray.init(**arguments, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
        where = f"at '{address}'" if address else "on this machine"
        raise BasisBenchError(
            f"no Ray cluster {where}: {first_line(error)}; 'ray status' on a node says what there is"
        ) from error


def _found(address: str) -> str | None:
    """Return the address that Ray takes for "auto", any other as it is; None where Ray finds none, and says so."""
    if address != "auto":
        return address
    try:  # no public function tells, and a cluster that was killed leaves its address behind
        from ray._private.services import get_ray_address_from_environment

        found = get_ray_address_from_environment(address, None)
    except (ImportError, TypeError, ConnectionError):
        return None
    return None if found == address else found


def _check_reachable(address: str) -> None:
    """Try an address: Ray itself waits for minutes where nobody answers."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise BasisBenchError(f"Ray address '{address}': expected auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise BasisBenchError(
            f"no Ray cluster at '{address}': {error}; 'ray status' on a node says what there is"
        ) from error


def workers_with_room(ray: Any, cpus: float, gpus: float, memory: int | None) -> int:
    """Return how many workers the cluster has room for, one at least.

    Raises:
        BasisBenchError: it has room for none.
    """
    found = ray.cluster_resources()
    asked = {"CPU": cpus, "GPU": gpus, "memory": float(memory or 0)}
    room = min((int(found.get(name, 0) // amount) for name, amount in asked.items() if amount), default=1)
    if room < 1:
        needs = ", ".join(f"{amount:g} {name}" for name, amount in asked.items() if amount)
        has = ", ".join(f"{found.get(name, 0):g} {name}" for name in asked)
        raise BasisBenchError(f"the Ray cluster has no room for a worker: it needs {needs}; the cluster has {has}")
    return room
