"""The README of a published suite: which methods beat kd, how sure that is, what they cost, and how it was run."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdbench.board.captions import correction, notes
from kdbench.board.columns import rows_of
from kdbench.board.grid import STATES, Grid, Place
from kdbench.board.maps.gains import Map, sentence
from kdbench.board.maps.markdown import markdown as map_markdown
from kdbench.board.numbers import capital, fixed, in_unit, interval, known, scaled
from kdbench.board.publishing.card import Card
from kdbench.board.results import Tables
from kdbench.board.runs import place_name, protocol_of
from kdbench.board.seen import CLASSES, class_of
from kdbench.board.statistics.intervals import LEAST_SEEDS, SURE
from kdbench.board.tables import OVERALL
from kdbench.suites.grid import BASELINES
from kdbench.suites.teacher_seeds import ONE, SAID
from kdbench.tasks.metrics import Metric, of_tasks

STUDENT, KD = "student", "kd"
RIGHT = ("#", "teachers", "n", "gap closed", "time", "extra parameters")
Row = Mapping[str, Any]


def readme(card: Card, tables: Tables, plots: Sequence[str]) -> str:
    """The page as Markdown; text that comes from records carries no markup into it.

    Args:
        card: of the suite.
        tables: as `kdbench.board.publishing.publish.suite_tables` makes them.
        plots: paths of images, seen from the page.
    """
    suite = card["suite"]
    metrics = of_tasks(dataset["task"] for dataset in suite["datasets"])
    score = metrics.primary
    boards = _boards(tables, score)
    runs = rows_of(tables.runs, metrics)
    parts = [
        f"# {text(suite['name'])}",
        text(suite["description"]),
        "Made by `kdbench publish` from the files in `records/`, and never edited. kdbench's `docs/results.md` explains"
        " every file and column.",
        "## In short",
        _summary(boards, card, runs, score, bool(tables.grid.elsewhere.any()), tables.map),
        *(_map(tables.map) if tables.map else ()),
        "## Leaderboard",
        _caption(score),
        *(part for board in boards if board.begun for part in _shown(board, tables.grid, score)),
        *(f"No method has finished {board.where}." for board in boards if not board.begun),
        *(f"![{text(path.removeprefix('plots/').removesuffix('.png'))}]({path})" for path in plots),
        "## What did not finish",
        _unfinished(runs),
        "## The suite",
        _suite(suite),
        "## How it was run",
        _provenance(card),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _map(found: Map) -> tuple[str, str]:
    """What methods gain over data and networks."""
    labelled = {text(label): field for label, field in found.gains.items()}
    return "## The map", map_markdown(dataclasses.replace(found, gains=labelled))


def _shown(board: _Board, grid: Grid, score: Metric) -> list[str]:
    """A leaderboard with its title and what it can tell."""
    told = [f"Marked after {correction(board.rows)}.", *notes(grid, board.place)]
    return [f"### {board.title}", " ".join(map(text, told)), _markdown(board.rows, score)]


def text(value: object) -> str:
    """Text that Markdown shows as it is: no HTML, no table cell's end, no code, no emphasis, no second line."""
    plain = "".join(c if c.isprintable() else " " for c in str(value))
    for sign in "\\`*[]|~$":
        plain = plain.replace(sign, f"\\{sign}")
    return plain.replace("&", "&amp;").replace("<", "&lt;").strip()


@dataclass(frozen=True)
class _Board:
    """One leaderboard: its title, where its numbers are from, its place (nothing for all), and its rows, those that see
    as many teachers together and best first.
    """

    title: str
    where: str
    place: tuple[str, ...]
    rows: Sequence[Row]

    @property
    def begun(self) -> bool:
        """Whether any method has a mean here."""
        return any(known(row["score_mean"]) for row in self.rows)

    @property
    def classes(self) -> dict[str, list[Row]]:
        """Its rows by how many teachers the method sees."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(class_of(row["teachers"]), []).append(row)
        return found


def _boards(tables: Tables, score: Metric) -> list[_Board]:
    """One per place, and before them the one over all if there are several."""
    places: dict[Place, list[Row]] = {}
    for row in rows_of(tables.long, tables.metrics):
        if row["pair"] != OVERALL:
            places.setdefault((row["dataset"], row["protocol"], row["pair"]), []).append(row)
    boards = []
    for place, rows in sorted(places.items()):
        name = text(place_name(place))
        teacher = next((row["teacher_score"] for row in rows if known(row["teacher_score"])), None)
        beside = "" if teacher is None else f", teacher {fixed(teacher, score.decimals)}"
        boards.append(_Board(name + beside, f"on {name}", place, rows))
    if len(boards) > 1:
        what = f"over all {len(boards)} pairs"
        boards.insert(0, _Board(what.capitalize(), what, (), rows_of(tables.wide, tables.metrics)))
    return boards


# ------------------------------------------------------------------------------------------ the summary


def _summary(
    boards: Sequence[_Board], card: Card, runs: Sequence[Row], score: Metric, unlike: bool, found: Map | None
) -> str:
    """The verdict over all pairs, or on each; of a map what decides, for its places are told of in its tables.

    Args:
        unlike: whether pairs have other methods, so that not all are compared over all pairs.
        found: the suite's map, if it has one.
    """
    never = _never(runs)
    states = Counter(row["status"] for row in runs if row["method"] not in never)
    counts = ", ".join(f"{states[state]} {state.replace('_', ' ')}" for state in ("done", *STATES) if states[state])
    without = f"; no run at all of {len(never)} methods" if never else ""
    lines = [f"Runs: {counts}{without}; seeds {_seeds(card['suite'])}."]
    tested = {board.where: _tested(board) for board in boards}
    most = max(tested.values())
    if found:
        lines.append(text(sentence(found)))
        boards = [board for board in boards[:1] if tested[board.where]]
    elif len(boards) > 1 and unlike:
        lines.append("Pairs have other methods, so each pair is told of by itself.")
        boards = boards[1:]
    elif most and not tested[boards[0].where]:
        lines.append("No method can be compared with kd over all pairs, so each pair is told of by itself.")
        boards = boards[1:]
    else:
        boards = boards[:1]
    for board in boards:
        lines += _best(board, score)
        if tested[board.where]:
            lines += [line for part in _families(board) for line in _verdicts(part, score)]
    if not most:
        lines.append("Nothing can be compared with kd here: there is no seed that kd and another method finished.")
    return "\n".join(f"- {line}" for line in lines)


def _tested(board: _Board) -> int:
    """How many methods of a board can be compared with kd."""
    return sum(known(row["vs_kd"]) for row in board.rows)


def _families(board: _Board) -> Iterator[_Board]:
    """The rows that are compared with one another: those of the suite's own settings, and the tuned ones."""
    tuned = [row for row in board.rows if known(row.get("trials"))]
    yield dataclasses.replace(board, rows=[row for row in board.rows if row not in tuned])
    if any(known(row["vs_kd"]) for row in tuned):
        trials = max(row["trials"] for row in tuned)
        where = f"{board.where}, tuned by {trials:.0f} trials, against the tuned kd"
        yield dataclasses.replace(board, rows=tuned, where=where)


def _best(board: _Board, score: Metric) -> list[str]:
    """The best mean among the methods that see one teacher, several, and none; of few seeds only where all have few."""
    lines = []
    for name, rows in board.classes.items():
        scored = [row for row in rows if known(row["score_mean"])]
        enough = [row for row in scored if row["n"] >= LEAST_SEEDS]
        best = next(iter(enough or scored), None)
        if best is not None:
            rest = "" if scored[0] is best else f"; methods with fewer than {LEAST_SEEDS} seeds do not count"
            gains = (f"{_difference(best, base, score)} to {base}" for base in BASELINES if known(best[f"vs_{base}"]))
            beside = f" ({', '.join(gains)})" if known(best["vs_student"]) or known(best["vs_kd"]) else ""
            mean = fixed(best["score_mean"], score.decimals)
            lines.append(f"**Best with {CLASSES[name]}** {board.where}: {text(best['method'])} {mean}{beside}{rest}.")
    return lines


def _verdicts(board: _Board, score: Metric) -> list[str]:
    """Which methods are better than kd, not told apart, and worse, and the cheapest of the better ones."""
    tested = [row for row in board.rows if known(row["vs_kd"])]
    methods = [row for row in tested if row["name"] != STUDENT]
    sure = [row for row in methods if known(row["vs_kd_p_holm"]) and row["vs_kd_p_holm"] < SURE]
    above, below = ([row for row in sure if row["vs_kd"] * sign > 0] for sign in (score.sign, -score.sign))
    better, worse, those = ("Above", "Below", "above") if score.sign > 0 else ("Better than", "Worse than", "better")
    alike = [row for row in methods if row not in sure]
    alone = [row for row in alike if known(row["vs_kd_p"]) and row["vs_kd_p"] < SURE]
    test = f"{board.where}, p < {SURE:g} after {correction(tested)}"
    named = _by_class(above, lambda row: f"{text(row['method'])} {_difference(row, KD, score)}")
    lines = [f"**{better} kd** ({test}): {named}."]
    if above:
        cheap = min(above, key=lambda row: (_cost(row), row["method"]))
        lines.append(
            f"**Cheapest of those {those}**: {_named([cheap], score)}, at {_times(cheap)} the plain student's training"
            f" time, and with {_count(cheap['extra_parameters'])} extra parameters in training."
        )
    lines.append(f"**Not told apart from kd**: {_named(alike, score)}.")
    if alone:
        lines.append(
            f"Of these, {_named(alone, score)} would differ if it were the only comparison; of many, some do by chance."
        )
    lines.append(f"**{worse} kd**: {_named(below, score)}.")
    own = next((row for row in board.rows if row["name"] == KD and known(row["vs_student"])), None)
    if own:
        lines.append(f"kd itself against the plain student: {_difference(own, STUDENT, score)}.")
    if not any(known(row["vs_kd_p"]) for row in tested):
        lines.append("With so few seeds nothing can be told apart: run at least three, better five.")
    return lines


def _named(rows: Sequence[Row], score: Metric) -> str:
    return _by_class(rows, lambda row: f"{text(row['method'])} {fixed(row['vs_kd'], score.decimals, True)}")


def _by_class(rows: Sequence[Row], named: Callable[[Row], str]) -> str:
    """Methods in a line; where they do not all see one teacher, by how many they see."""
    parts = {name: [named(row) for row in rows if class_of(row["teachers"]) == name] for name in CLASSES}
    told = [f"{', '.join(own)}{f' ({CLASSES[name]})' * (name != 'one')}" for name, own in parts.items() if own]
    return "; ".join(told) or "none"


def _cost(row: Row) -> float:
    return row["time_ratio_to_student"] if known(row["time_ratio_to_student"]) else math.inf


# ------------------------------------------------------------------------------------------ the tables


def _caption(score: Metric) -> str:
    lower = " Lower is better." if score.sign < 0 else ""
    return (
        f"{capital(score.title)} of the last epoch{in_unit(score.unit)}, mean ± sample standard deviation over seeds;"
        f" n: finished runs.{lower} Differences{in_unit(score.points)}, paired by seed, [95 % t interval]; `*`: p <"
        f" {SURE:g} after Holm's correction. Fewer than three seeds, or equal differences, tell nothing. Ranks are"
        " among methods that see as many teachers. Gap closed: the share of the teacher's lead over the plain student"
        " that is won. Time: a step's, as a multiple of the plain student's beside it. Extra parameters are trained"
        " beside the student and not deployed."
    )


def _markdown(rows: Sequence[Row], score: Metric) -> str:
    """The rows that have a run; methods without any are told of below the tables."""
    header = (
        "#",
        "method",
        "teachers",
        score.heading,
        "n",
        "vs student",
        "vs kd",
        "gap closed",
        "time",
        "extra parameters",
        "remark",
    )
    ran = [row for row in rows if any(row[state] for state in ("n", *STATES[:-1]))]
    several = len({class_of(row["teachers"]) for row in ran}) > 1
    cells: list[tuple[str, ...]] = []
    for place, row in enumerate(ran):
        name = class_of(row["teachers"])
        if several and (not place or class_of(ran[place - 1]["teachers"]) != name):
            cells.append(("", f"**{CLASSES[name]}**", *[""] * (len(header) - 2)))
        cells.append(_cells(row, score))
    lines = [header, tuple("---:" if name in RIGHT else "---" for name in header), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if cells else "No run yet."


def _cells(row: Row, score: Metric) -> tuple[str, ...]:
    mean, std = (fixed(row[key], score.decimals) if known(row[key]) else "" for key in ("score_mean", "score_std"))
    return (
        f"{row['rank']:.0f}" if known(row["rank"]) else "",
        text(row["method"]),
        f"{row['teachers']:.0f}",
        f"{mean} ± {std}" if std else mean,
        f"{row['n']:.0f}",
        _marked(row, STUDENT, score),
        _marked(row, KD, score),
        f"{fixed(100 * row['gap_closed'], 0)} %" if known(row["gap_closed"]) else "",
        _times(row),
        _count(row["extra_parameters"]),
        text(row["remark"] or ""),
    )


def _marked(row: Row, baseline: str, score: Metric) -> str:
    """The difference, with a star if it stands after Holm's correction."""
    p = row[f"vs_{baseline}_p_holm"]
    return _difference(row, baseline, score) + (r" \*" if known(p) and p < SURE else "")


def _difference(row: Row, baseline: str, score: Metric) -> str:
    digits = score.decimals
    value, low, high = (row[f"vs_{baseline}{part}"] for part in ("", "_ci95_low", "_ci95_high"))
    return f"{fixed(value, digits, True)} {interval(low, high, digits)}".strip() if known(value) else ""


def _times(row: Row) -> str:
    ratio = row["time_ratio_to_student"]
    return f"{ratio:.2f}x" if known(ratio) else ""


def _count(value: Any) -> str:
    return scaled(value) if known(value) else ""


# ------------------------------------------------------------------------------------------ what is not there


def _unfinished(runs: Sequence[Row]) -> str:
    """Runs that are not done, by what they are; alike ones in one line."""
    never = _never(runs)
    seeds: dict[tuple[str, str, str, str], list[int]] = {}  # (state, place, reason, method) -> seeds
    for row in runs:
        if row["status"] != "done" and row["method"] not in never:
            place = place_name((row["dataset"], row["protocol"], row["pair"]))
            seeds.setdefault((row["status"], place, row["reason"] or "", row["method"]), []).append(row["seed"])
    methods: dict[tuple[str, str, str, str], list[str]] = {}  # (state, place, reason, seeds) -> methods
    for (state, place, reason, method), which in sorted(seeds.items()):
        methods.setdefault((state, place, reason, ", ".join(map(str, sorted(which)))), []).append(method)
    lines = [
        f"- {state.replace('_', ' ')} on {text(place)}, seeds {which}: {', '.join(map(text, names))}"
        f"{' (' + text(reason) + ')' if reason else ''}"
        for (state, place, reason, which), names in methods.items()
    ]
    lines += [f"- no run at all ({len(never)}): {', '.join(map(text, never))}"] if never else []
    return "\n".join(lines) or "Nothing: every run of the suite finished."


def _never(runs: Sequence[Row]) -> list[str]:
    """The methods without any run."""
    return sorted({row["method"] for row in runs} - {row["method"] for row in runs if row["status"] != "missing"})


# ------------------------------------------------------------------------------------------ what it is, how it was run


def _suite(suite: Mapping[str, Any]) -> str:
    datasets = [f"{text(d['name'])} ({text(protocol_of(d))})" for d in suite["datasets"]]
    lines = [f"Data: {', '.join(datasets)}", f"Seeds: {_seeds(suite)}"]
    lines.append(f"Teachers: {SAID.get(suite.get('teacher_seeds', ONE), 'of unknown seeds')}")
    for pair in suite["pairs"]:
        pool = ", ".join(f"{text(t['network'])}@{t['seed']}" for t in pair["pool"])
        assistants = ", ".join(map(text, pair["assistants"]))
        files = dict.fromkeys(
            f"{text(t['network'])}@{t['seed']} from a file of sha256 {text(t['sha256'])}"
            for t in (pair["teacher"], *pair["pool"])
            if t["sha256"]
        )
        beside = [f"pool {pool}"] * bool(pool) + [f"assistants {assistants}"] * bool(assistants) + list(files)
        beside += [f"only {', '.join(map(text, pair['methods']))}"] if pair.get("methods") else []
        lines.append(f"Pair: {text(pair['name'])}" + (f" ({'; '.join(beside)})" if beside else ""))
    lines.append(f"Recipe of the students: {_settings(suite['recipe'])}")
    changes = {key: value for key, value in suite["teacher_recipe"].items() if suite["recipe"].get(key) != value}
    lines.append(f"Recipe of the teachers: {_settings(changes) + ', the rest alike' if changes else 'the same'}")
    for who in ("student", "teacher"):
        for network, values in sorted(suite[f"{who}_recipes"].items()):
            lines.append(f"For the {who} {text(network)}: {_settings(values)}")
    if sweep := suite.get("sweep"):
        lines.append(
            f"Tuned rows: {sweep['trials']} trials of the recipe by the plain student, then of each method, scored on "
            f"{100 * sweep['fraction']:g} % of the training set, each for {100 * sweep['share']:.3g} % of the epochs, "
            f"with seed {sweep['seed']}; their records are in `sweep/`"
        )
    if suite.get("numerics"):
        lines.append(f"Numerics that the suite fixes: {_settings(suite['numerics'])}")
    return "\n".join(f"- {line}" for line in lines)


def _seeds(suite: Mapping[str, Any]) -> str:
    """Those of all methods, and of the methods that have their own."""
    own: dict[str, list[str]] = {}
    for entry in suite["methods"]:
        if entry.get("seeds"):
            own.setdefault(", ".join(map(str, entry["seeds"])), []).append(text(entry["label"]))
    beside = [f"; {', '.join(labels)}: {seeds}" for seeds, labels in own.items()]
    return ", ".join(map(str, suite["seeds"])) + "".join(beside)


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{text(key.replace('_', ' '))} {_setting(value)}" for key, value in sorted(values.items()))


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return " + ".join(map(text, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else text(value)


def _provenance(card: Card) -> str:
    lines = [
        f"{title}: {_settings(entry)}"
        for title, key in (("Hardware", "hardware"), ("Numerics", "numerics"), ("Versions", "versions"))
        for entry in card[key]
    ]
    lines.append(f"kdbench's engine: {', '.join(map(str, card['engines'])) or 'unknown'}")
    lines.append(f"kdbench's git revision: {', '.join(text(_revision(revision)) for revision in card['git'])}")
    lines.append(
        f"Runs finished: {' to '.join(dict.fromkeys(text(card['dates'][end][:10]) for end in ('first', 'last')))}"
    )
    if card["left_out"]:
        lines.append(
            f"{len(card['left_out'])} records in `records/` are not in the tables: they are of older sources of a"
            " method, of another engine, or of another recipe"
        )
    return "\n".join(f"- {line}" for line in lines)


def _revision(revision: str | None) -> str:
    if not revision:
        return "unknown"
    return f"{revision[:12]}{' with uncommitted changes' if revision.endswith('+') else ''}"
