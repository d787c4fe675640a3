"""Where a sweep's trials lie: beside its suite's records, with how they were made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from kdbench.board.sweeps.choice import Read
from kdbench.board.sweeps.state import Sweeping
from kdbench.errors import KDBenchError
from kdbench.records import Record, Store
from kdbench.records.files import write_atomically
from kdbench.suites.grid import Suite
from kdbench.suites.sweep import Sweep
from kdbench.suites.trials import FOLDER, SETTINGS


def trials_of(folder: Path) -> Store:
    """The trials' records, of a suite's folder."""
    return Store(folder / FOLDER)


def save(sweep: Sweep, folder: Path) -> None:
    """Keep how a suite's trials are made, in its folder."""
    text = json.dumps(sweep.table, indent=1, sort_keys=True) + "\n"
    write_atomically(folder / FOLDER / SETTINGS, text.encode())


def saved(folder: Path) -> Sweep | None:
    """How the trials in a suite's folder were made; None if there are none.

    Raises:
        KDBenchError: if the file is not what `save` writes.
    """
    path = folder / FOLDER / SETTINGS
    try:
        sweep = Sweep(**json.loads(path.read_text(encoding="utf-8")))
        sweep.check()
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError, KDBenchError) as error:
        raise KDBenchError(f"{str(path)!r} cannot be read ({error}): `kdbench sweep` writes it anew") from error
    return sweep


def sweeping(suite: Suite, folder: Path) -> Sweeping | None:
    """The sweep whose trials lie in a suite's folder, if there is one."""
    sweep = saved(folder)
    return Sweeping(suite, sweep, reader(trials_of(folder), suite)) if sweep else None


def reader(store: Store, suite: Suite, come: Mapping[str, Record] = MappingProxyType({})) -> Read:
    """Gives a trial's record; one that cannot be read, or of other numerics than the suite fixes, is missing.

    Args:
        come: records by id that count as if they were in the store.
    """
    known: dict[str, Record] = {}

    def read(identity: str) -> Record | None:
        if identity in known:
            return known[identity]
        record = _read(store, identity) or come.get(identity)
        if record and not suite.numerics.refused(record):
            known[identity] = record
        return known.get(identity)

    return read


def _read(store: Store, identity: str) -> Record | None:
    try:
        return store.read(identity) if store.has(identity) else None
    except KDBenchError:
        return None
