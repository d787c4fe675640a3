"""Checkpoints are written by a thread, one after the other in the order in which they come, while training goes on."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from kdbench.errors import KDBenchError

if TYPE_CHECKING:
    from kdbench.records import Store
    from kdbench.records.snapshots import Snapshot

WAITING = 4  # snapshots in memory at most; whoever brings one more waits for the disk


class Writer:
    """Writes snapshots to a store; each file appears whole or not at all, as if nobody else was at work.

    What goes wrong in the thread is raised where the next snapshot is brought, or by `wait`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread: ThreadPoolExecutor | None = None
        self._pending: deque[Future[None]] = deque()

    def bring(self, identity: str, snapshot: Snapshot) -> None:
        """Hand over a cell's snapshot.

        Raises:
            KDBenchError: if one before it could not be written: the disk is full, or the folder is gone.
        """
        while self._pending and (self._pending[0].done() or len(self._pending) >= WAITING):
            self._pending.popleft().result()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "kdbench-checkpoints")
        self._pending.append(self._thread.submit(self._write, identity, snapshot))

    def wait(self) -> None:
        """Return when everything that was brought is on disk.

        Raises:
            KDBenchError: as `bring`.
        """
        while self._pending:
            self._pending.popleft().result()

    def close(self) -> None:
        """The same, and end the thread; whatever goes wrong."""
        try:
            self.wait()
        finally:
            self._pending.clear()
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None

    def _write(self, identity: str, snapshot: Snapshot) -> None:
        try:
            self._store.save_checkpoint(identity, snapshot.state())
        except (KDBenchError, MemoryError, OSError):
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise KDBenchError(
                f"the checkpoint of cell {identity} could not be written ({reason}): the same command goes on from "
                "the one before it"
            ) from error
