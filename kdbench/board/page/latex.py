"""The leaderboards as LaTeX tables for papers: booktabs, one per board."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from kdbench.board.captions import correction
from kdbench.board.numbers import capital, decimals, fixed, in_unit, known, scaled
from kdbench.board.page.cells import mark_of
from kdbench.board.page.data import Board, Results
from kdbench.board.seen import CLASSES
from kdbench.tasks.metrics import Metric

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "\n": " ",
}


def escape(text: str) -> str:
    """Text as LaTeX prints it; a pair's arrow becomes one."""
    return re.sub(
        r"->|[\\{}$&#%_~^<>|\"\n]", lambda found: SPECIAL.get(found[0], r"$\rightarrow$"), text
    )  # fmt: skip


def latex_tables(results: Results) -> str:
    """All boards; `\\usepackage{booktabs}` is all that they need."""
    head = "% Made by `kdbench report`; needs \\usepackage{booktabs}.\n"
    return head + "\n".join(_table(results, board) for board in results.boards)


def _table(results: Results, board: Board) -> str:
    baseline, score = results.baseline, results.metrics.primary
    lines: list[str] = []
    headings = ["Method", "Teachers", escape(capital(score.title)), "$n$"]
    headings += ["To student"] if baseline != "student" else []
    headings += [f"To {escape(baseline)}", "Time", "Extra parameters"]
    for name in board.classes:
        rows = [row for row in board.rows if row["sees"] == name]
        if len(board.classes) > 1:
            lines += [r"\midrule"] * bool(lines)
            lines.append(rf"\multicolumn{{{len(headings)}}}{{l}}{{\emph{{{CLASSES[name]}}}}} \\")
        best = next((row["score_mean"] for row in rows if known(row["score_mean"])), None)
        lines += [_row(row, baseline, best, score) for row in rows]
    engine = f" ({results.engine})" if results.engine else ""
    caption = (
        f"{escape(results.suite + engine)}, {escape(board.place.title)}: {escape(score.title + ' of the last epoch')}"
        f"{escape(in_unit(score.unit))}{', lower is better' * (score.sign < 0)}, mean $\\pm$ sample standard deviation "
        f"over seeds, $n$ runs; differences{escape(in_unit(score.points))}, paired by seed, with 95\\,\\% "
        f"intervals; $^{{+}}$, $^{{-}}$: better or worse than {escape(baseline)} with $p < 0.05$ after "
        f"{escape(correction(board.rows))}; training time as a multiple of the plain student's."
        f"{''.join(' ' + escape(note) for note in board.notes)}"
    )
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{board.place.key}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
            r"\toprule",
            " & ".join(headings) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _row(row: Mapping[str, Any], baseline: str, best: float | None, score: Metric) -> str:
    text = r"\multicolumn{1}{c}{--}"
    if known(row["score_mean"]):
        digits = decimals(row["score_std"], score.decimals)
        number = _dashed(fixed(row["score_mean"], digits))
        text = rf"\textbf{{{number}}}" if row["score_mean"] == best else number
        text += rf" $\pm$ {fixed(row['score_std'], digits)}" if known(row["score_std"]) else ""
    sign = {"better": "$^{+}$", "worse": "$^{-}$"}.get(mark_of(row, baseline, score), "")
    columns = [escape(row["method"]), f"{row['teachers']:.0f}", text, f"{row['n']:.0f}"]
    columns += [_difference(row, "student", score)] if baseline != "student" else []
    columns += [_difference(row, baseline, score) + sign]
    ratio = row["time_ratio_to_student"]
    columns += [rf"{ratio:.2f}$\times$" if known(ratio) else ""]
    columns += [scaled(row["extra_parameters"])]
    return " & ".join(columns) + r" \\"


def _difference(row: Mapping[str, Any], baseline: str, score: Metric) -> str:
    mean, low, high = (row[f"vs_{baseline}{part}"] for part in ("", "_ci95_low", "_ci95_high"))
    if not known(mean):
        return ""
    both = known(low) and known(high)
    digits = decimals((high - low) / 2 if both else math.nan, score.decimals)
    text = f"${fixed(mean, digits, True)}$"
    return _dashed(text + (f" $[{fixed(low, digits, True)}, {fixed(high, digits, True)}]$" if both else ""))


def _dashed(text: str) -> str:
    return text.replace("\u2212", "-")
