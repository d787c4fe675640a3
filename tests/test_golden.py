"""The methods against the authors' (or the field's reference) code: golden vectors, values and all stored gradients.

`tests/data/golden/*.npz` hold inputs, parameters, losses and gradients in float64 on seeded random tensors; `meta` in
each names the repository and the commit they come from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from goldens import CLASSES, GOLDEN, batch, close, gradients_agree, load, load_parameters, network, output, require
from torch import Tensor, nn

from kdbench import Output, registry
from kdbench.losses import attention_map


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.npz")), ids=lambda path: path.stem)
def test_a_golden_file_names_its_source(path: Path) -> None:
    with np.load(path) as file:
        meta = json.loads(str(file["meta"]))
    assert meta["repo"]
    assert meta["commit"]


def test_kd_agrees_with_repdistiller_in_value_and_gradient() -> None:
    golden = load("kd")
    require(golden["logits_s"])
    at_defaults = registry.create("kd").loss(
        batch(golden["target"]), output(golden["logits_s"]), output(golden["logits_t"])
    )
    close(sum(at_defaults.values()), golden["loss_total"])
    close(at_defaults["ce"] / 0.1, golden["loss_ce"])
    loss = at_defaults["kd"] / 0.9
    close(loss, golden["loss"])
    close(loss, golden["loss_mdistiller"])
    gradients_agree(loss, {"logits_s": golden["logits_s"]}, {}, golden)


@pytest.mark.parametrize("case", ["same", "down", "up", "valid"])
def test_fitnet_agrees_with_repdistiller_in_value_and_gradient(case: str) -> None:
    golden = load("fitnet")
    ours, theirs = golden[f"feat_s_{case}"], golden[f"feat_t_{case}"]
    require(ours)
    method = registry.create("fitnet", {"stage": 1})
    method.build(network([ours]), network([theirs]))
    method.double()
    load_parameters(method.hint, golden, f"{case}.")
    loss = method.loss(batch(), output(features=[ours]), output(features=[theirs]))["feature"]
    close(loss / 100, golden[f"loss_{case}"])
    gradients_agree(loss / 100, {f"feat_s_{case}": ours}, {f"{case}.": method.hint}, golden)


def test_fitnet_takes_its_hint_from_the_second_stage_behind_the_stem() -> None:
    golden = load("fitnet")
    ours, theirs = golden["feat_s_same"], golden["feat_t_same"]
    method = registry.create("fitnet")
    method.build(network([theirs, ours, theirs]), network([ours, theirs, ours]))
    method.double()
    load_parameters(method.hint, golden, "same.")
    loss = method.loss(batch(), output(features=[theirs, ours, theirs]), output(features=[ours, theirs, ours]))
    close(loss["feature"] / 100, golden["loss_same"])


def test_at_agrees_with_repdistiller_in_value_and_gradient() -> None:
    golden = load("at")
    ours, theirs = ([golden[f"feat_{side}_{k}"] for k in range(3)] for side in "st")
    require(*ours)
    loss = registry.create("at").loss(batch(), output(features=ours), output(features=theirs))["attention"] / 1000
    close(loss, golden["loss"])
    close(loss, golden["loss_mdistiller"])
    gradients_agree(loss, {f"feat_s_{k}": feature for k, feature in enumerate(ours)}, {}, golden)


def test_the_attention_map_agrees_with_repdistiller() -> None:
    golden = load("at")
    close(attention_map(golden["feat_s_0"]), golden["out_att_s_0"])


class Body(nn.Module):
    """A deployed student's body that gives one stored map."""

    def __init__(self, feature: Tensor) -> None:
        super().__init__()
        self.feature = feature

    def forward(self, inputs: Tensor) -> Output:
        return output(features=[self.feature])


def simkd(case: str) -> tuple[Any, dict[str, Tensor]]:
    golden = load("simkd")
    ours, theirs = golden[f"feat_s_{case}"], golden[f"feat_t_{case}"]
    classifier = nn.Linear(theirs.shape[1], CLASSES).double()
    load_parameters(classifier, golden, f"{case}.teacher_fc.")
    method = registry.create("simkd")
    method.build(network([ours]), network([theirs], classifier))
    method.double()
    load_parameters(method.transfer, golden, f"{case}.transfer.")
    return method, golden


@pytest.mark.parametrize("case", ["same", "s_larger", "t_larger"])
def test_simkd_agrees_with_the_authors_code_in_value_and_gradient(case: str) -> None:
    method, golden = simkd(case)
    ours, theirs = golden[f"feat_s_{case}"], golden[f"feat_t_{case}"]
    require(ours)
    terms = method.loss(batch(), output(features=[ours]), output(features=[theirs]))
    assert terms.keys() == {"feature"}  # no label, no cross-entropy
    close(terms["feature"], golden[f"loss_{case}"])
    gradients_agree(terms["feature"], {f"feat_s_{case}": ours}, {f"{case}.transfer.": method.transfer}, golden)


@pytest.mark.parametrize("case", ["same", "s_larger", "t_larger"])
def test_simkd_deploys_the_logits_of_the_authors_code(case: str) -> None:
    method, golden = simkd(case)
    deployed = method.deploy(Body(golden[f"feat_s_{case}"]))
    close(deployed(torch.zeros(8, 1)), golden[f"out_logits_{case}"])


def test_aver_mkd_agrees_with_the_ca_mkd_code_in_value_and_gradient() -> None:
    golden = load("aver_mkd")
    require(golden["logits_s"])
    teachers = [output(golden[f"logits_t_{k}"]) for k in range(3)]
    terms = registry.create("aver_mkd").loss(batch(golden["target"]), output(golden["logits_s"]), teachers)
    close(terms["ce"], golden["loss_ce"])
    close(terms["kd"], golden["loss_kd"])
    close(sum(terms.values()), golden["loss_total"])
    gradients_agree(sum(terms.values()), {"logits_s": golden["logits_s"]}, {}, golden)


@pytest.mark.parametrize("n_fc", [1, 2])
def test_mhkd_agrees_with_the_first_authors_code_in_value_and_gradient(n_fc: int) -> None:
    golden = load("mhkd")
    name = f"nfc{n_fc}"
    ours, theirs = ([golden[f"feat_{side}_{k}"] for k in range(3)] for side in "st")
    require(golden["logits_s"], *ours)
    method = registry.create("mhkd", {"n_fc": n_fc, "width": 16, "include_last": True})
    method.build(network(ours), network(theirs))
    method.double()
    load_parameters(method.heads_student, golden, f"{name}_s.")
    load_parameters(method.heads_teacher, golden, f"{name}_t.")
    student, teacher = output(golden["logits_s"], ours), output(golden["logits_t"], theirs)
    terms = method.loss(batch(golden["target"]), student, teacher)
    close(terms["ce"] + terms["kd"], golden[f"loss_{name}_final"])
    close(terms["heads"] / 0.5, golden[f"loss_{name}_heads"])
    close(terms["teacher_heads"], golden[f"loss_{name}_teacher_heads_ce"])
    total = sum(terms.values())
    close(total, golden[f"loss_{name}_total"])
    inputs = {f"{name}_feat_s_{k}": feature for k, feature in enumerate(ours)}
    inputs[f"{name}_logits_s"] = golden["logits_s"]
    modules = {f"{name}_s.": method.heads_student, f"{name}_t.": method.heads_teacher}
    gradients_agree(total, inputs, modules, golden)
