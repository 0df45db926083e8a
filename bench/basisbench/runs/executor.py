"""Where the cells of a run are done: in processes on this machine, or on a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from basisbench.errors import BasisBenchError, unknown_name

Kind = Literal["local", "ray"]


@dataclass(frozen=True)
class Executor:
    """Where cells are done, and what one worker asks for.

    Attributes:
        kind: "local" for this machine, "ray" for a Ray cluster.
        address: of the Ray cluster, for example "auto" or "10.0.0.1:6379"; empty starts one on this machine.
        worker_gpus: GPUs of one Ray worker; None for one on a CUDA device and none on a CPU.
        worker_cpus: cores of one Ray worker; None for one.
        worker_memory: bytes of memory that one Ray worker reserves; None reserves nothing.
    """

    kind: Kind = "local"
    address: str = ""
    worker_gpus: float | None = None
    worker_cpus: float | None = None
    worker_memory: int | None = None


LOCAL = Executor()


def parse_executor(
    text: str,
    *,
    worker_gpus: float | None = None,
    worker_cpus: float | None = None,
    worker_memory_gib: float | None = None,
) -> Executor:
    """Read what `--executor` is given: "local", "ray", or "ray:ADDRESS".

    Args:
        text: the executor.
        worker_gpus: GPUs of one worker.
        worker_cpus: cores of one worker.
        worker_memory_gib: memory of one worker in GiB.

    Raises:
        BasisBenchError: it is none of these, or a worker is described to the local executor.
    """
    kind, _, address = text.partition(":")
    if kind not in ("local", "ray"):
        raise unknown_name("executor", kind, ["local", "ray", "ray:ADDRESS"])
    if kind == "local":
        if address:
            raise BasisBenchError(f"executor '{text}': 'local' takes no address; expected local, ray or ray:ADDRESS")
        if (worker_gpus, worker_cpus, worker_memory_gib) != (None, None, None):
            raise BasisBenchError("--worker-gpus, --worker-cpus and --worker-memory need --executor ray")
        return LOCAL
    memory = None if worker_memory_gib is None else int(worker_memory_gib * 2**30)
    return Executor("ray", address, worker_gpus, worker_cpus, memory)
