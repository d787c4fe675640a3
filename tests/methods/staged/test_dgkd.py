"""dgkd's networks learn from all above them, as the authors' code has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import goldens
from support.chains import learner, networks_that_move, watched
from support.loops import (
    float64,  # noqa: F401  (a fixture for every test here)
    total,
)

from kdbench import KDBenchError, registry


@pytest.mark.equation
def test_chains_of_assistants_agree_with_the_authors_code_in_value_and_gradient() -> None:
    golden = goldens.load("takd_dgkd")
    goldens.require(golden["logits_s"])
    guides = [goldens.output(golden[key]) for key in ("logits_t", "logits_ta_0", "logits_ta_1", "logits_ta_2")]
    method = registry.create("dgkd", {"kd_weight": 0.7, "temperature": 5.0})
    terms = method.loss(goldens.batch(golden["target"]), goldens.output(golden["logits_s"]), guides)
    goldens.close(total(terms), golden["loss"])
    goldens.gradients_agree(total(terms), {"logits_s": golden["logits_s"]}, {}, golden)


def test_dgkds_networks_learn_from_all_above_and_the_student_from_all_but_one() -> None:
    assert watched("dgkd", "assistant_1", assistants=3) == (1, [(1, True)])
    assert watched("dgkd", "assistant_3", assistants=3) == (3, [(1, False), (2, False), (3, True)])
    kept = {tuple(watched("dgkd", "student", assistants=3)[1][:-1]) for _ in range(60)}
    everyone = [(1, False), (2, False), (3, False)]
    assert kept == {tuple(everyone), *(tuple(everyone[:i] + everyone[i + 1 :]) for i in range(3))}
    assert all(watched("dgkd", "student", assistants=3)[0] == 3 for _ in range(5))
    assert watched("dgkd", "student", assistants=3, dropped=0)[0] == 4


def test_in_a_chain_one_network_trains_after_the_other_and_the_rest_stays(tmp_path: Path) -> None:
    moves = networks_that_move(learner(tmp_path, "dgkd", assistants=2))
    assert moves == [[1], [2], [2], [0]]  # the norms' statistics of the others stay too


@pytest.mark.parametrize("option", [{"dropped": 3}])
def test_an_impossible_option_is_refused_in_a_sentence_that_names_it(option: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match=f"^dgkd.*{next(iter(option.values()))}"):
        registry.create("dgkd", option)
