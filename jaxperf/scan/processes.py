"""Several processes or hosts, one scan: each takes every n-th unit, and all exchange the small parts at the end.

They meet on JAX's own distributed runtime and talk through its key-value store alone, so a scan is the same on CPUs and
GPUs, and one process that dies is an error message for the others, not a hang in a collective."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import InputError

HEARTBEAT_S = 10
"""After this long without a sign a process counts as dead [s]."""

_PIECE = 2**20
_POLL_S = 0.01


class LostProcessError(InputError):
    """Another process of the scan is gone; what was finished is in the journals."""


@dataclass(frozen=True)
class Processes:
    """This process's number and how many there are; `client` of the runtime, None where this one is alone."""

    index: int = 0
    count: int = 1
    client: Any = None

    def check(self) -> None:
        """**Raises** `LostProcessError` where one is dead."""
        if self.client is None:
            return
        alive = self.client.get_live_nodes(list(range(self.count)))
        dead = [index for index in range(self.count) if index not in alive]
        if dead:
            raise LostProcessError(_message(dead))

    def exchange(self, key: str, data: bytes) -> list[bytes]:
        """What every process gives under a key, in their order; waits for all. **Raises** `LostProcessError`."""
        if self.client is None:
            return [data]
        pieces = [data[start : start + _PIECE] for start in range(0, len(data), _PIECE)]
        for number, piece in enumerate(pieces):
            self.client.key_value_set_bytes(f"jaxperf/{key}/{self.index}/{number}", piece)
        self.client.key_value_set_bytes(f"jaxperf/{key}/{self.index}/count", str(len(pieces)).encode())
        return [data if index == self.index else self._receive(f"jaxperf/{key}/{index}") for index in range(self.count)]

    def _receive(self, prefix: str) -> bytes:
        count = int(self._wait(f"{prefix}/count"))
        return b"".join(self._wait(f"{prefix}/{number}") for number in range(count))

    def _wait(self, key: str) -> bytes:
        checked = time.monotonic()
        while (found := self._get(key)) is None:
            if time.monotonic() - checked > 1.0:
                try:
                    self.check()
                except LostProcessError:  # it may have written this and left while the check waited for it
                    found = self._get(key)
                    if found is None:
                        raise
                    return found
                checked = time.monotonic()
            time.sleep(_POLL_S)
        return found

    def _get(self, key: str) -> bytes | None:
        import jax

        try:
            return self.client.key_value_try_get_bytes(key)
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" in str(error):
                return None
            raise LostProcessError(_message([0])) from None

    def leave(self) -> None:
        """Waits until all are done, so that none finds another gone while it still needs it; the coordinator, whose end
        aborts the others, goes last."""
        if self.client is None:
            return
        self.exchange("leave", b"done")
        if self.index:
            import jax

            jax.distributed.shutdown()
            return
        late = time.monotonic() + HEARTBEAT_S
        while self.client.get_live_nodes(list(range(self.count))).keys() != {0} and time.monotonic() < late:
            time.sleep(_POLL_S)


def _message(dead: list[int]) -> str:
    names = " and ".join(f"process {index}" for index in dead)
    return (
        f"scan: {names} of the distributed scan died; finished work is in the journals: "
        "start all processes again with --resume"
    )


def connect(coordinator: str | None, count: int | None, index: int | None, timeout_s: int = 120) -> Processes:
    """Joins the distributed runtime; call before any other use of JAX.

    **Arguments:** the coordinator's HOST:PORT, how many processes there are, the number of this one. What is None comes
    from `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID`, or the cluster's own environment (Slurm, MPI,
    Kubernetes, TPU) as JAX finds it.

    **Raises** `InputError` where they are incomplete or contradict each other, or the others do not come.
    """
    count = _environment("JAX_NUM_PROCESSES", count, "--processes")
    index = _environment("JAX_PROCESS_ID", index, "--process-id")
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if coordinator is not None:
        host, colon, port = coordinator.rpartition(":")
        if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise InputError(f"--coordinator: '{coordinator}' is no HOST:PORT")
    if count is not None and index is not None and not 0 <= index < count:
        raise InputError(f"--process-id: {index} is out of range; with --processes {count} expected 0 to {count - 1}")
    if count == 1:
        return Processes()
    import jax

    jax.config.update("jax_enable_recoverability", True)  # one that dies must not take the others with it
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            initialization_timeout=timeout_s,
            heartbeat_timeout_seconds=HEARTBEAT_S,
            shutdown_timeout_seconds=HEARTBEAT_S,
        )
    except (ValueError, RuntimeError) as error:
        what = " ".join(str(error).split())[:160]
        raise InputError(f"--distributed: {what}; give --coordinator, --processes and --process-id") from None
    from jax._src import distributed  # the key-value store has no public name

    state = distributed.global_state
    if state.process_id:
        _say_when_the_coordinator_dies()
    return Processes(int(state.process_id or 0), int(state.num_processes or 1), state.client)


def _environment(name: str, given: int | None, option: str) -> int | None:
    if given is not None or name not in os.environ:
        return given
    try:
        return int(os.environ[name])
    except ValueError:
        raise InputError(f"{option}: {name}='{os.environ[name]}' is no whole number") from None


_HANDLERS: list[Any] = []


def _say_when_the_coordinator_dies() -> None:
    """The runtime aborts every process whose coordinator is gone, from a thread of its own where Python handles no
    signal. A handler of C's kind turns that into one line and exit code 2."""

    def aborted(_: int) -> None:
        os.write(2, f"jaxperf: error: {_message([0])}\n".encode())
        os._exit(2)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    _HANDLERS.append(handler)  # C keeps no reference of its own
    install: Callable[..., Any] = ctypes.CDLL(None).signal
    install.argtypes = [ctypes.c_int, type(handler)]
    install(signal.SIGABRT, handler)
