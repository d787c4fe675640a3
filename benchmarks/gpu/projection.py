"""How long the suite cifar100 would take on this GPU, at each rate that was measured."""

from __future__ import annotations

from benchmarks.gpu.sheet import Row, Sheet
from kdbench.suites.parse import load

STEPS = 782  # batches of 64 in CIFAR's 50,000 images


def projected(sheet: Sheet) -> list[Row]:
    """Hours of all learner-steps at a rate, as if all pairs were the one that was measured.

    A way that changed bits has no row.
    """
    total = sum(cell.recipe.epochs * STEPS for cell in load("cifar100").cells())
    cohorts = [row for part in ("cohorts", "whole_cohorts") for row in sheet.rows(part)]
    cohorts = [row for row in cohorts if row["learners"] and row["equal"] is not False]
    rows = cohorts + [row for row in sheet.rows("lanes") if row["equal"]]
    return [
        {
            "way": f"one cohort, {row['way']}" if row in cohorts else row["way"],
            "learners": row["learners"],
            "learner-steps": total,
            "hours": total / row["learner-steps/s"] / 3600,
        }
        for row in rows
    ]
