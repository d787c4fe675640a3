"""The interactive plots, as plotly's figures: plain values that page.js draws.

A colour is written `$name` and is the style sheet's `--name`, so that light and dark are decided there.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from kdbench.board.numbers import TIMES, known, with_unit
from kdbench.board.page.series import Curve, Reliability, unit_of
from kdbench.suites.grid import BASELINES
from kdbench.tasks.metrics import Metric

Figure = dict[str, Any]
BLANK: Figure = {"showlegend": False, "hovermode": "closest", "margin": {"l": 56, "r": 16, "t": 16, "b": 48}}


def cost_key(rows: Sequence[Mapping[str, Any]]) -> str:
    """What training costs: the multiple of the student's time where that is known, else seconds an epoch."""
    ratios = [row["time_ratio_to_student"] for row in rows if known(row["score_mean"])]
    return "time_ratio_to_student" if any(map(known, ratios)) else "seconds_per_epoch"


def cost_title(key: str) -> str:
    return f"training time, {TIMES} student's" if key == "time_ratio_to_student" else "training time, s an epoch"


def score_title(score: Metric) -> str:
    """The title of an axis; where lower is better, it says so."""
    return f"test {score.heading}{' (lower is better)' * (score.sign < 0)}"


def pareto(rows: Sequence[Mapping[str, Any]], score: Metric) -> Figure:
    """The score against training cost, the front joined by a line and named; the rest speak when pointed at."""
    key = cost_key(rows)
    points = sorted(
        (row for row in rows if known(row["score_mean"]) and known(row[key]) and row[key] > 0),
        key=lambda row: (row[key], score.sign * row["score_mean"]),
    )
    front = [row for row in points if row.get("pareto") is True]
    baselines = [row for row in points if row["name"] in BASELINES and row not in front]
    rest = [row for row in points if row not in front and row not in baselines]
    traces = [
        _points(rest, key, score, {"color": "$muted", "size": 8, "opacity": 0.75}),
        _points(
            baselines,
            key,
            score,
            {"color": "$paper", "size": 9, "symbol": "diamond", "line": _line("$ink", 1.5)},
            True,
        ),
        {
            **_points(front, key, score, {"color": "$series1", "size": 10}, True),
            "line": {**_line("$series1", 1.5), "shape": "hv"},
        },
    ]
    traces[-1]["mode"] = "lines+markers+text"
    first, rest_of_them = ("bottom center", "top left") if score.sign > 0 else ("top center", "bottom left")
    traces[-1]["textposition"] = [first, *[rest_of_them] * (len(front) - 1)]  # nothing is cheaper than the first
    ticks, least, most = cost_ticks([row[key] for row in points])
    layout = {
        **BLANK,
        "xaxis": {
            "title": {"text": f"{cost_title(key)} (log)"},
            "type": "log",
            "range": [round(math.log10(end), 4) for end in (least, most)],
            "tickvals": ticks,
            "ticktext": [f"{tick:g}" for tick in ticks],
        },
        "yaxis": {"title": {"text": score_title(score)}},
    }
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout}


def _points(
    rows: Sequence[Mapping[str, Any]], key: str, score: Metric, marker: Mapping[str, Any], named: bool = False
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers+text" if named else "markers",
        "x": [row[key] for row in rows],
        "y": [row["score_mean"] for row in rows],
        "error_y": {
            "type": "data",
            "array": [row["score_std"] if known(row["score_std"]) else 0 for row in rows],
            "color": "$muted",
            "thickness": 1,
            "width": 0,
        },
        "text": [html.escape(short(row["method"])) for row in rows],
        "hovertext": [html.escape(row["method"]) for row in rows],
        "textposition": "top left" if named else "top center",
        "textfont": {"color": "$ink", "size": 12},
        "customdata": [row["slug"] for row in rows],
        "marker": dict(marker),
        "hovertemplate": f"<b>%{{hovertext}}</b><br>{html.escape(score.title)} {_hovered(score)}<br>"
        "cost %{x:.3g}<extra></extra>",
        "cliponaxis": False,
    }


def _hovered(score: Metric) -> str:
    """The place of a score in what a plot says of a point."""
    return html.escape(with_unit(f"%{{y:.{score.decimals}f}}", score.unit))


def short(label: str, most: int = 28) -> str:
    """A label that fits beside a point."""
    return label if len(label) <= most else label[: most - 1] + "…"


def _line(colour: str, width: float) -> dict[str, Any]:
    return {"color": colour, "width": width}


def cost_ticks(values: Sequence[float]) -> tuple[list[float], float, float]:
    """Round ticks of a log axis (1, 2, 5, 10 ...), and its ends with room for the first label."""
    if not values:
        return [1.0], 1.0, 10.0
    low, high = math.log10(min(values)), math.log10(max(values))
    span = max(high - low, 0.2)
    least, most = 10 ** (low - 0.18 * span), 10 ** (high + 0.1 * span)
    ratio = most / least
    steps = (1, 1.5, 2, 3, 5, 7) if ratio < 12 else (1, 2, 5) if ratio < 200 else (1,)
    ticks = [step * 10.0**power for power in range(-6, 9) for step in steps]
    return [tick for tick in ticks if least <= tick <= most], least, most


def curves(series: Mapping[str, Curve], score: Metric) -> Figure:
    """Test score by epoch: two traces per method, the band of its seeds and their mean; page.js shows those chosen."""
    data: list[dict[str, Any]] = []
    for method, curve in series.items():
        band = {"x": [*curve.epochs, *reversed(curve.epochs)], "y": [*curve.high, *reversed(curve.low)]}
        common = {"type": "scatter", "name": html.escape(method), "meta": method}
        if curve.seeds > 1:
            data.append({**common, **band, "mode": "lines", "fill": "toself", "hoverinfo": "skip"})
        line = {"x": curve.epochs, "y": curve.mean, "mode": "lines+markers" if len(curve.epochs) < 4 else "lines"}
        data.append({**common, **line, "hovertemplate": _hovered(score)})
    layout = {
        **BLANK,
        "hovermode": "x unified",
        "xaxis": {"title": {"text": unit_of(series.values())}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": score_title(score)}},
    }
    return {"data": data, "layout": layout}


def calibration(series: Mapping[str, Reliability]) -> Figure:
    """Accuracy by confidence; a point's size says how many of the samples it stands for."""
    diagonal = {
        "type": "scatter",
        "mode": "lines",
        "x": [0, 100],
        "y": [0, 100],
        "line": {"color": "$muted", "width": 1, "dash": "dot"},
        "hoverinfo": "skip",
    }
    data = [diagonal]
    for method, bins in series.items():
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": html.escape(method),
                "meta": method,
                "x": [round(100 * value, 2) for value in bins.confidence],
                "y": [round(100 * value, 2) for value in bins.accuracy],
                "customdata": [round(100 * value, 2) for value in bins.share],
                "marker": {"size": [round(4 + 14 * math.sqrt(value), 1) for value in bins.share]},
                "hovertemplate": "confidence %{x:.1f} %<br>accuracy %{y:.1f} %<br>%{customdata:.1f} % of samples"
                "<extra>%{fullData.name}</extra>",
            }
        )
    layout = {
        **BLANK,
        "xaxis": {"title": {"text": "confidence, %"}, "range": [0, 102]},
        "yaxis": {"title": {"text": "accuracy, %"}, "range": [0, 102]},
    }
    return {"data": data, "layout": layout}
