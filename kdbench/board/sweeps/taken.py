"""`--from`: the trials of another folder's sweep count here, so that its choices can be trained without them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kdbench.board.publishing.contents import read_entries
from kdbench.board.publishing.merge import Entry, stores
from kdbench.board.publishing.problem import Problem
from kdbench.board.sweeps.choice import Read
from kdbench.board.sweeps.kept import reader, save, saved, trials_of
from kdbench.board.sweeps.state import Sweeping
from kdbench.errors import KDBenchError
from kdbench.records.files import write_atomically
from kdbench.suites.grid import Suite
from kdbench.suites.sweep import Sweep
from kdbench.suites.trials import FOLDER


@dataclass
class TrialsToCome:
    """The trials that a suite's working folder lacks and other folders have.

    Attributes:
        folder: the suite's working folder.
        sweep: how the trials here were made, or those that would come; None if there are none.
        records: those that would come, by id.
        counts: how many of each folder.
    """

    folder: Path
    sweep: Sweep | None
    records: dict[str, Entry] = field(default_factory=dict)
    counts: dict[Path, int] = field(default_factory=dict)

    @property
    def sentences(self) -> Iterator[str]:
        """What comes, for the screen."""
        return (f"from {source}: {count} trials" for source, count in self.counts.items() if count)

    def reader(self, suite: Suite) -> Read:
        """Gives a trial's record, also of one that would come."""
        come = {identity: entry.record for identity, entry in self.records.items()}
        return reader(trials_of(self.folder), suite, come)

    def sweeping(self, suite: Suite) -> Sweeping | None:
        """The suite's sweep with what would come; None without trials."""
        return Sweeping(suite, self.sweep, self.reader(suite)) if self.sweep else None

    def bring(self) -> None:
        """Copy them, as they are; the sources stay as they are."""
        here = trials_of(self.folder)
        for identity, entry in self.records.items():
            write_atomically(here.path(identity), entry.content, flush=False)
        if self.sweep and not saved(self.folder):
            save(self.sweep, self.folder)


def look(sources: Iterable[Path], folder: Path) -> TrialsToCome:
    """What would come of folders that `--from` names.

    Args:
        folder: the suite's working folder.

    Raises:
        KDBenchError: if a record there is not what a run leaves, or trials were made in another way than these.
    """
    found = TrialsToCome(folder, saved(folder))
    here, first = {path.stem for path in trials_of(folder).paths()}, folder
    for source in sources:
        theirs = stores(source).get(folder.name)
        how = saved(theirs) if theirs else None
        if theirs is None or how is None:
            continue
        if found.sweep not in (None, how):
            raise KDBenchError(
                f"the trials in {str(first)!r} were made in another way than those of {str(source)!r}, so that choices "
                f"of the two are not alike: {_remedy(first, folder)}"
            )
        if found.sweep is None:
            found.sweep, first = how, source
        problems = list[Problem]()
        new = read_entries(theirs / FOLDER / "records", f"{FOLDER}/records", problems, leave={*here, *found.records})
        if problems:
            raise KDBenchError(f"nothing was taken from {str(source)!r}: {problems[0]}; `kdbench validate` lists all")
        found.records |= new
        found.counts[source] = len(new)
    return found


def _remedy(first: Path, folder: Path) -> str:
    if first != folder:
        return "leave --from of one of them out"
    return f"choose a new folder with --out, or take {str(folder / FOLDER)!r} away"
