"""`--from`: the trials of another folder's sweep count here, so that its choices can be trained without them."""

from __future__ import annotations

from pathlib import Path

from kdbench.board.publishing.contents import read_entries
from kdbench.board.publishing.merge import stores
from kdbench.board.publishing.problem import Problem
from kdbench.board.sweeps.kept import save, saved, trials_of
from kdbench.errors import KDBenchError
from kdbench.records.files import write_atomically
from kdbench.suites.trials import FOLDER


def take_trials(source: Path, folder: Path) -> int:
    """Copy the records of trials that a suite's working folder lacks, as they are; the source stays as it is.

    Args:
        source: as `--from` names it.
        folder: the suite's working folder.

    Returns:
        how many came.

    Raises:
        KDBenchError: if a record there is not what a run leaves, or the trials here were made in another way.
    """
    theirs = stores(source).get(folder.name)
    how = saved(theirs) if theirs else None
    if theirs is None or how is None:
        return 0
    mine = saved(folder)
    if mine is not None and mine != how:
        raise KDBenchError(
            f"the trials in {str(folder)!r} were made in another way than those of {str(source)!r}, so that choices of "
            f"the two are not alike: choose a new folder with --out, or take {str(folder / FOLDER)!r} away"
        )
    problems, here = list[Problem](), trials_of(folder)
    found = read_entries(theirs / FOLDER / "records", f"{FOLDER}/records", problems)
    if problems:
        raise KDBenchError(f"nothing was taken from {str(source)!r}: {problems[0]}; `kdbench validate` lists all")
    new = {identity: entry for identity, entry in found.items() if not here.has(identity)}
    for identity, entry in new.items():
        write_atomically(here.path(identity), entry.content, flush=False)
    if mine is None:
        save(how, folder)
    return len(new)
