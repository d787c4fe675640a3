"""The tables of the report: rows of text."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks import figures
from benchmarks.figures import Results

# instructions that decide how fast matrices are multiplied, as /proc/cpuinfo calls them
FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "sve", "bf16", "asimd")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, its first column left, the others right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def seconds(value: float) -> str:
    """Three significant digits, in the unit that suits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.2g} µs"


def functions(profile: Sequence[tuple[str, float]]) -> list[list[str]]:
    return [[f"`{place}`", seconds(value)] for place, value in profile]


def by_name(results: Results) -> dict[str, list[list[str]]]:
    """The rows of the page's tables, by name; no rows where nothing was measured."""
    six, steps, floor = figures.six(results), figures.steps(results), figures.floor(results)
    return {
        "six_rows": six_rows(six) if six else [],
        "method_rows": [
            [method, seconds(theirs), seconds(ours)]
            for method, (theirs, ours) in (six.by_method.items() if six else ())
        ],
        "step_rows": step_rows(steps) if steps else [],
        "overhead_rows": [
            [one.suite, one.pair, one.method, seconds(one.bare), f"{one.share:+.1%}"]
            for one in figures.overheads(results)
        ],
        "growth_rows": [
            [str(s.learners), seconds(s.whole), seconds(s.own), f"{s.own_over_smallest:.3f}", f"{s.bytes / 2**20:.1f}"]
            for s in figures.growth(results)
        ],
        "floor_rows": [
            [part.what, f"{part.flops / 1e9:.1f}", seconds(part.floor), seconds(part.seconds), f"{part.distance:.1f}"]
            for part in (floor.parts.values() if floor else ())
        ],
        "profile_rows": profile_rows(floor) if floor else [],
        "batched_rows": [
            [network, way, seconds(value), f"{ratio:.2f}"] for network, way, value, ratio in figures.batched(results)
        ],
        "network_rows": [
            [row.about["network"], seconds(median(beside)), f"{row.over(beside):.2f}", row.about["automatic"]]
            for row in results.rows("a student's step in bf16 beside fp32")
            if (beside := row.about["fp32_seconds"])
        ],
        "compiled_rows": [
            [
                row.about["network"],
                "forward" if row.about["frozen"] else "forward and backward",
                seconds(median(beside)),
                f"{row.over(beside):.2f}",
                "compiled" if row.about["chosen"] else "plain",
            ]
            for row in results.rows("a network compiled beside plain")
            if (beside := row.about["plain_seconds"])
        ],
        "image_rows": image_rows(results),
        "wait_rows": over_the_first(results, "the wait for a batch", "when"),
        "startup_rows": over_the_first(results, "start-up", "what"),
    }


def six_rows(six: figures.Six) -> list[list[str]]:
    rows = [("the peers' loop, one after another", "fp32", six.reference)]
    for who, times in (("kdbench, one by one", six.alone), ("kdbench, one cohort", six.cohort)):
        rows += [(who, how, value) for how, value in reversed(times.items())]
    return [[who, how, seconds(value), f"{value / six.cohort[six.automatic]:.2f}"] for who, how, value in rows]


def step_rows(steps: figures.Steps) -> list[list[str]]:
    own = {method: f"{ratio:.2f}" for method, ratio in steps.own.items()}
    ordered = sorted(steps.alone.items(), key=lambda item: item[1])
    return [[f"`{method}`", f"{ratio:.2f}", own.get(method, "-")] for method, ratio in ordered]


def profile_rows(floor: figures.Floor, most: int = 10) -> list[list[str]]:
    """Operations down, parts of a step across; the largest shares of any part first."""
    shares = [dict(part.profile) for part in floor.parts.values()]
    largest = {name: max(share.get(name, 0.0) for share in shares) for share in shares for name in share}
    largest.pop("all others", None)
    names = sorted(largest, key=lambda name: -largest[name])[:most]
    rows = [[f"`{name}`", *(f"{share.get(name, 0.0):.1%}" for share in shares)] for name in names]
    return [*rows, ["all others", *(f"{1 - sum(share.get(name, 0.0) for name in names):.1%}" for share in shares)]]


def image_rows(results: Results) -> list[list[str]]:
    """Images a second by way of augmenting them, and how many times as fast kdbench is."""
    rows = results.rows("images augmented")
    rates = {(row.about["view"], row.about["way"]): row.about["images"] / row.median for row in rows}
    return [
        [view, way, f"{rate:,.0f}", f"{rates[view, 'kdbench'] / rate:.1f}"]
        for (view, way), rate in rates.items()
        if (view, "kdbench") in rates
    ]


def over_the_first(results: Results, group: str, name: str) -> list[list[str]]:
    """A group's times, and each over the first one's; `name` is what a benchmark calls itself by."""
    rows = results.rows(group)
    return [[row.about[name], seconds(row.median), f"{row.median / rows[0].median:.1f}"] for row in rows]


def accuracy_rows(file: Path) -> list[list[str]]:
    """What `python -m benchmarks.precision` wrote: top-1 in fp32, and what other arms change; no rows without it."""
    if not file.exists():
        return []
    rows: dict[str, list[str]] = {}
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if row["arm"] == "fp32":
                mean, spread = float(row["top1_mean"]), float(row["top1_std"])
                rows[row["method"]] = [f"`{row['method']}`", f"{mean:.2f} ± {spread:.2f}"]
            else:
                rows[row["method"]].append(f"{float(row['difference']):+.2f} (p {float(row['p']):.2g})")
    return list(rows.values())


def machine(results: Results) -> list[tuple[str, str]]:
    """What the figures depend on."""
    about = results.machine.get("kdbench", {})
    hardware, numerics = about.get("hardware", {}), about.get("numerics", {})
    flags = set(results.machine.get("cpu", {}).get("flags", []))
    versions = ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())
    commit = str(results.commit.get("id", ""))[:12] + (" with changes" if results.commit.get("dirty") else "")
    rule = numerics.get("precision_rule", "")
    return [
        ("processor", f"{hardware.get('processor', '')}, {hardware.get('cores', '?')} cores"),
        ("instructions", ", ".join(flag for flag in FEATURES if flag in flags)),
        ("accelerator", str(hardware.get("accelerator", "none"))),
        ("system", str(hardware.get("system", ""))),
        ("threads", str(numerics.get("threads", ""))),
        ("automatic precision", f"{numerics.get('precision', '')}" + (f": {rule}" if rule else "")),
        ("Python", str(about.get("python", ""))),
        ("versions", versions),
        ("load before the run", f"{about.get('load', 0):.2f}"),
        ("date", results.date),
        ("commit", commit),
    ]
