"""What a suite may fix of how numbers are computed: no part of a cell's id, but records of others do not count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdbench.errors import KDBenchError

if TYPE_CHECKING:
    from kdbench.records import Record, Store
    from kdbench.suites.grid import Cell


@dataclass(frozen=True)
class Fixed:
    """The numerics that a suite asks for; what is None is left to the machine and the command line.

    Attributes:
        threads: of the CPU, for each learner.
        compile: whether networks are compiled.
    """

    threads: int | None = None
    compile: bool | None = None

    def check(self) -> None:
        """Refuse values that nothing can compute with.

        Raises:
            KDBenchError: naming the key.
        """
        if self.threads is not None and self.threads < 1:
            raise KDBenchError(f"numerics.threads is {self.threads}: give at least 1")

    @property
    def table(self) -> dict[str, Any]:
        """What is fixed."""
        every = {"threads": self.threads, "compile": self.compile}
        return {key: value for key, value in every.items() if value is not None}

    def choose(self, compile: str, threads: int | None) -> tuple[str, int | None]:
        """The command line's choice of compilation and threads, with what is fixed where it leaves them open.

        Raises:
            KDBenchError: where it chooses otherwise: the records would not count.
        """
        modes = {None: (compile,), True: ("on",), False: ("off",)}[self.compile]
        if compile not in ("auto", *modes):
            raise KDBenchError(_clash("compile", self.compile, f"--compile {compile}"))
        if None not in (threads, self.threads) and threads != self.threads:
            raise KDBenchError(_clash("threads", self.threads, f"--threads {threads}"))
        return (modes[0] if compile == "auto" else compile), threads if self.threads is None else self.threads

    def refused(self, record: Record) -> str:
        """Why a record of the suite does not count, or nothing; a method that does not apply computed nothing."""
        used: dict[str, Any] = dict(record["provenance"]["numerics"])
        wanted, precision = self.table, record["cell"]["recipe"].get("precision", "auto")
        if used["device"] != "cpu":
            wanted.pop("threads", None)  # an accelerator's result does not depend on them
        if precision != "auto":
            wanted["precision"] = precision
        other = [key for key, value in wanted.items() if used.get(key) != value]
        if not other or record["status"] == "not_applicable":
            return ""
        ours, theirs = (" and ".join(f"{key} {shown(part.get(key))}" for key in other) for part in (wanted, used))
        return f"the suite fixes {ours}, and it ran with {theirs}"


FREE = Fixed()


def fixed_of(table: Mapping[str, Any]) -> Fixed:
    """What a suite fixes, from the `numerics` of its table in a card; values of a wrong type fix nothing."""
    threads, compile = table.get("threads"), table.get("compile")
    return Fixed(threads if type(threads) is int else None, compile if isinstance(compile, bool) else None)


def shown(value: Any) -> str:
    """A value as TOML has it."""
    return {True: "true", False: "false", None: "unknown"}[value] if isinstance(value, bool | None) else str(value)


def _clash(key: str, value: Any, option: str) -> str:
    return f"the suite fixes {key} = {shown(value)}, so that records of {option} would not count: leave {option} out"


def refusal(store: Store, cell: Cell) -> str:
    """Why the record of a cell does not count; nothing if it does, is not there, or cannot be read."""
    try:
        return cell.fixed.refused(store.read(cell.id)) if store.has(cell.id) else ""
    except KDBenchError:
        return ""
