"""Which trial is chosen, and what tuned rows are compared with."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from support.page_records import PAIRS, page_record

from kdbench.board.results import Tables
from kdbench.board.sweeps.choice import chosen, rule
from kdbench.tasks.image.metrics import METRICS
from kdbench.tasks.metrics import Metric

NOISE = {"student": (0, 0.2, 0.5), "kd": (0.3, 0, 0.1), "dist": (0.1, 0.4, 0), "at": (0.2, 0.1, 0.6)}
LOSS = Metric("loss", "loss", "", "", False, 0.0, math.inf, 3)


def trials(*scores: float | None) -> list[dict[str, Any]]:
    return [{"score": score} for score in scores]


@pytest.mark.parametrize(
    ("scores", "best"),
    [((70.0, 71.0, 69.0), 1), ((71.0, 71.0), 0), ((None, 50.0), 1), ((None, None), None), ((), None)],
)
def test_the_best_last_epoch_is_chosen_the_first_of_equals_and_never_a_failed_trial(
    scores: tuple[float | None, ...], best: int | None
) -> None:
    assert chosen(trials(*scores), METRICS.primary) == best


def test_where_lower_is_better_the_lowest_is_chosen() -> None:
    assert chosen(trials(2.0, 1.0, 1.0), LOSS) == 1
    assert rule(LOSS).startswith("the lowest loss")
    assert rule(METRICS.primary).startswith("the highest top-1 of the last epoch on the validation split")


def tuned(label: str, seed: int, top1: float) -> dict[str, Any]:
    """A record of a tuned row, of four trials of 10 seconds."""
    record = page_record(f"{label} (tuned)", PAIRS[0], seed, name=label, top1=top1)
    found = [{"values": {}, "id": str(n), "status": "done", "score": 50.0, "seconds": 10.0} for n in range(4)]
    record["cell"]["method"] |= {"tuned": True, "tuning": {"space": {}, "trials": found, "choice": 0}}
    return record


@pytest.fixture(scope="module")
def tables() -> Tables:
    records = []
    for seed in range(3):
        for label, top1 in (("student", 70.0), ("kd", 71.0), ("dist", 71.5), ("at", 70.7)):
            noise = NOISE[label][seed]
            records += [page_record(label, PAIRS[0], seed, top1=top1 + noise), tuned(label, seed, top1 + 3 - noise)]
    return Tables(json.loads(json.dumps(records)))


def test_tuned_rows_are_compared_with_tuned_ones_and_default_rows_with_default_ones(tables: Tables) -> None:
    rows = tables.long[tables.long["pair"] == PAIRS[0]].set_index("method")
    for label, baseline in (("dist", "kd"), ("dist (tuned)", "kd (tuned)")):
        difference = rows.at[label, "top1_mean"] - rows.at[baseline, "top1_mean"]
        assert rows.at[label, "vs_kd"] == pytest.approx(difference)
    assert math.isnan(rows.at["kd (tuned)", "vs_kd"])
    assert math.isnan(rows.at["student (tuned)", "vs_student"])


def test_holm_s_family_is_all_tuned_rows(tables: Tables) -> None:
    rows = tables.long[tables.long["pair"] == PAIRS[0]]
    for own in (rows["trials"].isna(), rows["trials"].notna()):
        family = rows[own & rows["vs_kd_p"].notna()].sort_values("vs_kd_p")
        assert len(family) == 3
        assert family["vs_kd_p_holm"].iloc[0] == pytest.approx(min(3 * family["vs_kd_p"].iloc[0], 1.0))


def test_trials_and_what_they_cost_stand_beside_the_tuned_rows_alone(tables: Tables) -> None:
    for table in tables.files.values():
        of_tuned = table["method"].str.endswith("(tuned)")
        assert set(table.loc[of_tuned, "trials"]) == {4}
        assert set(table.loc[of_tuned, "trial_seconds"]) == {40.0}
        assert table.loc[~of_tuned, ["trials", "trial_seconds"]].isna().all(axis=None)
    remarks = dict(zip(tables.wide["method"], tables.wide["remark"], strict=True))
    assert remarks["kd (tuned)"] == "chosen by 4 trials on a validation split, and compared with the other tuned rows"
    assert not remarks["kd"]


def test_a_suite_without_tuned_rows_has_the_tables_that_it_always_had() -> None:
    plain = Tables([page_record("student"), page_record("kd")])
    assert not any({"trials", "trial_seconds"} & set(table.columns) for table in plain.files.values())
