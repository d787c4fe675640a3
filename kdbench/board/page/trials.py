"""The trials that chose a tuned row's settings: the score against each hyperparameter, and all of them as a table."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdbench.board.numbers import fixed
from kdbench.board.page.data import Place, Results
from kdbench.board.page.plots import BLANK, Figure
from kdbench.tasks.metrics import Metric

KIND = "trials"  # how page.js calls these plots, with the method's page and the hyperparameter behind it


@dataclass(frozen=True)
class Tried:
    """A tuned row's trials at one place.

    Attributes:
        place: where.
        names: of what was searched.
        rows: one per trial: its number, its values, the score, and what is to say of it.
        rule: how the choice was made.
    """

    place: Place
    names: list[str]
    rows: list[tuple[str, list[str], str, str]]
    rule: str


def tuning_of(results: Results, place: Place, label: str) -> dict[str, Any] | None:
    """How the settings of a label were chosen at a place; None if they were not."""
    for record in results.at(place).get(label, ()):
        if tuning := record["cell"]["method"].get("tuning"):
            return tuning
    return None


def tried(results: Results, label: str) -> list[Tried]:
    """A label's trials, place after place; none of a row that is not tuned."""
    found = [(place, tuning_of(results, place, label)) for place in results.places]
    return [_tried(place, tuning, results.metrics.primary) for place, tuning in found if tuning]


def _tried(place: Place, tuning: Mapping[str, Any], metric: Metric) -> Tried:
    names = list(tuning["space"])
    rows = []
    for number, trial in enumerate(tuning["trials"]):
        said = ["the suite's own setting"] * (number == 0) + ["chosen"] * (number == tuning["choice"])
        said += [trial["status"].replace("_", " ")] * (trial["status"] != "done")
        score = "" if trial["score"] is None else fixed(trial["score"], metric.decimals)
        rows.append((str(number), [shown(trial["values"].get(name)) for name in names], score, ", ".join(said)))
    return Tried(place, names, rows, tuning["rule"])


def shown(value: Any) -> str:
    """A hyperparameter's value."""
    return f"{value:.4g}" if isinstance(value, float) else "library's own" if value is None else str(value)


def kinds(results: Results, label: str) -> list[tuple[str, str]]:
    """The plots of a label's page: what page.js calls each, and the hyperparameter."""
    names = dict.fromkeys(name for one in tried(results, label) for name in one.names)
    return [(_kind(results, label, name), name) for name in names]


def _kind(results: Results, label: str, name: str) -> str:
    return f"{KIND}-{results.slugs[label]}-{name}"


def figures(results: Results, place: Place) -> dict[str, Figure]:
    """The plots of a place, for every tuned row and hyperparameter."""
    found = {}
    for label in results.at(place):
        if tuning := tuning_of(results, place, label):
            for name in tuning["space"]:
                found[_kind(results, label, name)] = figure(tuning, name, results.metrics.primary)
    return found


def figure(tuning: Mapping[str, Any], name: str, metric: Metric) -> Figure:
    """The score of each trial against one hyperparameter; the choice is large, the suite's own setting a diamond."""
    trials = list(enumerate(tuning["trials"]))
    scored = [(number, trial) for number, trial in trials if trial["score"] is not None]
    choice, space = tuning["choice"], tuning["space"][name]
    named = space["kind"] == "choice"
    parts = [
        ({"color": "$muted", "size": 8}, [t for n, t in scored if n not in (0, choice)], "trial"),
        ({"color": "$ink", "size": 9, "symbol": "diamond"}, [t for n, t in scored if n == 0 != choice], "own setting"),
        (
            {"color": "$series1", "size": 13, "symbol": "diamond" if choice == 0 else "circle"},
            [t for n, t in scored if n == choice],
            "chosen",
        ),
    ]
    axis: dict[str, Any] = {"title": {"text": html.escape(name)}}
    if named:
        values = [*space["values"], *(trial["values"][name] for _, trial in trials[:1])]
        axis |= {"type": "category", "categoryarray": list(dict.fromkeys(map(shown, values)))}
    elif space["kind"] == "log_uniform" and all(trial["values"][name] > 0 for _, trial in trials):
        axis |= {"type": "log", "title": {"text": f"{html.escape(name)} (log)"}}
    data = [_points(points, name, named, metric, marker, said) for marker, points, said in parts if points]
    title = f"validation {metric.heading}{' (lower is better)' * (metric.sign < 0)}"
    return {"data": data, "layout": {**BLANK, "xaxis": axis, "yaxis": {"title": {"text": title}}}}


def _points(
    trials: list[Mapping[str, Any]], name: str, named: bool, metric: Metric, marker: Mapping[str, Any], said: str
) -> dict[str, Any]:
    values = [trial["values"][name] for trial in trials]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [shown(value) for value in values] if named else values,
        "y": [trial["score"] for trial in trials],
        "hovertext": [
            "<br>".join(html.escape(f"{key} {shown(value)}") for key, value in trial["values"].items())
            for trial in trials
        ],
        "marker": dict(marker),
        "hovertemplate": f"<b>{said}</b>, %{{y:.{metric.decimals}f}}<br>%{{hovertext}}<extra></extra>",
        "cliponaxis": False,
    }
