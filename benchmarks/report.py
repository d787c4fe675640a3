"""`python -m benchmarks.report results.json`: from pytest-benchmark's results to docs/performance.md and its plots."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, StrictUndefined

from benchmarks import figures, plots
from benchmarks.figures import Results
from benchmarks.targets import METHOD_STEP, targets

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
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
        ("compiled", "yes" if numerics.get("compile") else "no"),
        ("Python", str(about.get("python", ""))),
        ("versions", versions),
        ("load before the run", f"{about.get('load', 0):.2f}"),
        ("date", results.date),
        ("commit", commit),
    ]


def render(results: Results) -> str:
    """The page."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"table": table, "seconds": seconds, "functions": functions, "percentages": percentages}
    content: dict[str, Any] = {
        "targets": targets(results),
        "machine": machine(results),
        "six": figures.six(results),
        "steps": figures.steps(results),
        "overheads": figures.overheads(results),
        "growth": figures.growth(results),
        "floor": figures.floor(results),
        "batched": figures.batched(results),
    }
    template = (HERE / "performance.md.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(content, **tables(results)) + "\n"


def functions(profile: Sequence[tuple[str, float]]) -> list[list[str]]:
    return [[f"`{place}`", seconds(value)] for place, value in profile]


def percentages(profile: Sequence[tuple[str, float]]) -> list[list[str]]:
    return [[f"`{name}`", f"{share:.1%}"] for name, share in profile]


def tables(results: Results) -> dict[str, list[list[str]]]:
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
            [str(s.learners), seconds(s.whole), seconds(s.own), f"{s.drift:.3f}", f"{s.bytes / 2**20:.1f}"]
            for s in figures.growth(results)
        ],
        "floor_rows": [
            [part.what, f"{part.flops / 1e9:.1f}", seconds(part.floor), seconds(part.seconds), f"{part.distance:.1f}"]
            for part in (floor.parts.values() if floor else ())
        ],
        "batched_rows": [
            [network, way, seconds(value), f"{ratio:.2f}"] for network, way, value, ratio in figures.batched(results)
        ],
        "startup_rows": startup_rows(results),
    }


def six_rows(six: figures.Six) -> list[list[str]]:
    cohort = six.cohort[six.precision]
    rows = [("the peers' loop, one after another", "fp32", six.reference)]
    rows += [("kdbench, one by one", precision, value) for precision, value in sorted(six.alone.items(), reverse=True)]
    rows += [("kdbench, one cohort", precision, value) for precision, value in sorted(six.cohort.items(), reverse=True)]
    return [[who, precision, seconds(value), f"{value / cohort:.2f}"] for who, precision, value in rows]


def step_rows(steps: figures.Steps) -> list[list[str]]:
    own = {method: f"{ratio:.2f}" for method, ratio in steps.own.items()}
    ordered = sorted(steps.alone.items(), key=lambda item: item[1])
    return [[f"`{method}`", f"{ratio:.2f}", own.get(method, "-")] for method, ratio in ordered]


def startup_rows(results: Results) -> list[list[str]]:
    rows = results.rows("start-up")
    return [[f"`{row.about['what']}`", seconds(row.median), f"{row.median / rows[0].median:.1f}"] for row in rows]


def write(results: Results, folder: Path) -> list[Path]:
    """Write the page and its plots; a plot without figures is taken away."""
    pictures = folder / "performance"
    pictures.mkdir(parents=True, exist_ok=True)
    page = folder / "performance.md"
    page.write_text(render(results), encoding="utf-8")
    sizes, steps = figures.growth(results), figures.steps(results)
    with matplotlib.rc_context():
        plots.styled()
        drawn = {
            "cost_of_a_cell.svg": plots.cost_of_a_cell(sizes) if sizes else None,
            "steps.svg": plots.cost_of_a_step(steps, METHOD_STEP) if steps else None,
        }
        for name, figure in drawn.items():
            if figure is None:
                (pictures / name).unlink(missing_ok=True)
            else:
                (pictures / name).write_bytes(plots.svg(figure))
    return [page, *(pictures / name for name, figure in drawn.items() if figure is not None)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="what `pytest benchmarks --benchmark-json` wrote")
    parser.add_argument("--to", type=Path, default=DOCS, help="the folder of the page")
    arguments = parser.parse_args()
    for path in write(Results.read(arguments.results), arguments.to):
        print(path)


if __name__ == "__main__":
    main()
