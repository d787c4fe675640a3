"""What a command shows of a suite's folder: the grid that was asked for, or, of a published folder, its card's view."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdbench.commands.options import CARD, Selection, remark, words
from kdbench.commands.unusable import records_of, tell
from kdbench.errors import KDBenchError, unknown

if TYPE_CHECKING:
    from kdbench.board.results import Shown
    from kdbench.board.views import View
    from kdbench.records import Record, Store


def view_of(chosen: Selection, *, teachers: str = "", every: bool = False, run: bool = False) -> tuple[View, Store]:
    """The runs that were chosen, and where their records lie; what is left out is told on standard error.

    Args:
        chosen: the options; `--methods` narrows what is shown, and no number.
        teachers: show only the methods that see none, one or several.
        every: every record of the folder, not only those of the suite as it is now.
        run: whether they have just been trained: then the grid that was asked for is shown, and all methods beside it.

    Raises:
        KDBenchError: if a name is unknown, or a published folder is asked for under another recipe than its own.
    """
    from kdbench.board import views
    from kdbench.board.results import Shown

    store = chosen.store if run else chosen.published or chosen.store
    if every:
        records = records_of(store)
        view = views.everything(store.folder.name, records, _shown(chosen, teachers, records))
    elif chosen.published and not run:
        view = _published(chosen, store, teachers)
    else:
        remark(chosen.suite.absent_data())
        narrows = bool(chosen.methods) and not run
        labels = frozenset(spec.label for spec in chosen.suite.methods) if narrows else None
        shown = Shown(labels, known_class(teachers))
        view = views.of_cells(chosen.suite.name, chosen.suite.description, chosen.shown, records_of(store), shown)
    tell(view.left_out)
    remark([*view.remarks, *told_states(view)])
    return view, store


def _shown(
    chosen: Selection, teachers: str, records: Sequence[Record], methods: Sequence[Mapping[str, Any]] = ()
) -> Shown:
    """What is shown of a folder's records, and of the methods of its card."""
    from kdbench.board.results import Shown

    known = {method["label"]: method["name"] for method in (*(r["cell"]["method"] for r in records), *methods)}
    found = frozenset(label for entry in words(chosen.methods) for label in labels_of(entry, known))
    return Shown(found if chosen.methods else None, known_class(teachers))


def known_class(teachers: str) -> str:
    """`--teachers`, if it is one of `kdbench.board.seen.CLASSES` or empty."""
    from kdbench.board.seen import CLASSES

    if teachers and teachers not in CLASSES:
        raise unknown("number of teachers", teachers, CLASSES, "--teachers")
    return teachers


def told_states(view: View) -> list[str]:
    """A sentence about runs that were made and do not count, by state."""
    from kdbench.board.select import OLDER_SOURCE, OTHER_ENGINE

    counts = view.tables.states
    told = {
        OLDER_SOURCE: "ran with an older source of their method",
        OTHER_ENGINE: "ran by another engine of kdbench",
    }
    return [
        f"{counts[state]} runs {what} and do not count: `kdbench run` makes them again, `kdbench status` names them"
        for state, what in told.items()
        if state in counts and not view.published
    ]


def _published(chosen: Selection, store: Store, teachers: str) -> View:
    from kdbench.board import views
    from kdbench.board.publishing.card import read_card

    given = [f"--{name}" for name in ("epochs", "settings", "precision") if chosen.is_given(name)]
    if given:
        raise KDBenchError(
            f"{str(store.folder)!r} is published, and shown as its card has it: leave "
            f"{' and '.join(given).replace('--settings', '--set')} out"
        )
    try:
        card = read_card(store.folder / CARD)
    except KDBenchError as error:
        raise KDBenchError(f"{str(store.folder / CARD)!r}: {error}") from error
    suite, records = card["suite"], records_of(store)
    shown = _shown(chosen, teachers, records, suite["methods"])
    return views.of_card(card, records, shown, _wanted(chosen, suite))


def labels_of(entry: str, names: Mapping[str, str]) -> list[str]:
    """The labels that an entry of `--methods` stands for: a label, a registered name, or a file that registers names.

    Args:
        names: label -> registered name.
    """
    from kdbench.suites.method_files import load_methods

    if entry.endswith(".py"):
        own = load_methods(entry)
        return [*own, *(label for label, name in names.items() if name in own and label not in own)]
    found = [label for label, name in names.items() if entry in (label, name)]
    if not found:
        raise unknown("method", entry, names, "of this suite")
    return found


def _wanted(chosen: Selection, suite: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a row's pair and seed are asked for; both are held against what there is."""
    from kdbench.board.results import grid_rows

    seeds, parts, pairs = chosen.seed_numbers, words(chosen.pairs), [pair["name"] for pair in suite["pairs"]]
    for part in parts:
        if not any(part in pair for pair in pairs):
            raise unknown("pair", part, pairs, f"of suite {suite['name']!r}")
    planned = sorted({row["seed"] for row in grid_rows(suite)})
    if strangers := [seed for seed in seeds if seed not in planned]:
        raise unknown("seed", str(strangers[0]), map(str, planned), f"of suite {suite['name']!r}")

    def wanted(row: Mapping[str, Any]) -> bool:
        return (not seeds or row["seed"] in seeds) and (not parts or any(part in row["pair"] for part in parts))

    return wanted
