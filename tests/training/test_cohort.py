"""The loop's properties, each with a test that fails without it. Stop anywhere: test_stop_anywhere.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support import toy_task  # noqa: F401  (registers the task `tokens`)
from torch import Tensor

from kdbench import Batch, Method, Network, Output, register
from kdbench.commands.progress import Display
from kdbench.executors.local import LocalExecutor
from kdbench.seeding import derive_seed, seed_all
from kdbench.suites.parse import parse
from kdbench.testing.trial import Bench
from kdbench.training import learner

COHORT = ["student", "kd", "dml", "camkd", "sskd", "mhkd", "crd", "simkd"]
SMALL = {"mhkd": {"width": 8}, "crd": {"negatives": 16}}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_cell_trains_to_the_same_bits_alone_and_in_a_cohort(tmp_path: Path) -> None:
    together = Bench(tmp_path / "together")
    cells = [together.cell(name, **SMALL.get(name, {})) for name in COHORT]
    assert [record["status"] for record in together.run(cells)] == ["done"] * len(COHORT)
    for name, cell in zip(COHORT, cells, strict=True):
        alone = Bench(tmp_path / name)
        alone.run([cell])
        for key, tensor in alone.weights["results", cell.id].items():
            assert torch.equal(tensor, together.weights["results", cell.id][key]), (name, key)


def test_the_teacher_runs_once_a_batch_whatever_the_cohorts_size(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench.training.teachers import Teacher

    calls = []
    real = Teacher.__call__
    monkeypatch.setattr(Teacher, "__call__", lambda self, batch: calls.append(1) or real(self, batch))
    bench.run([bench.cell(name) for name in ("student", "kd", "dkd", "at")])
    steps = bench.task.test.steps_per_epoch * bench.cell("kd").recipe.epochs
    assert len(calls) == steps


def test_a_cohort_that_needs_no_teacher_runs_none(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench.training.teachers import Teacher

    monkeypatch.setattr(Teacher, "__call__", lambda self, batch: pytest.fail("a teacher ran"))
    assert bench.run([bench.cell("student")])[0]["status"] == "done"


@pytest.mark.usefixtures("temporary")
def test_every_method_of_one_seed_sees_the_same_student_batches_and_random_numbers(bench: Bench) -> None:
    seen: dict[str, list[object]] = {"a": [], "b": []}

    def watcher(name: str) -> None:
        @register(f"watch_{name}", family="logits")
        class Watch(Method):
            def build(self, student: Network, teacher: Network) -> None:
                seen[name].append([p.detach().clone() for p in student.parameters()])
                if name == "b":
                    torch.rand(1000)  # one method's drawing must not shift another's numbers

            def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
                seen[name].append([batch.inputs, batch.targets, batch.indices, torch.rand(1)])
                return {"ce": F.cross_entropy(student.logits, batch.targets)}

    watcher("a")
    watcher("b")
    bench.run([bench.cell("watch_a"), bench.cell("watch_b")])
    assert len(seen["a"]) == len(seen["b"]) > 1
    for a, b in zip(seen["a"], seen["b"], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))  # type: ignore[call-overload]


@pytest.mark.usefixtures("temporary")
def test_a_learner_fails_alone(bench: Bench) -> None:
    @register("explodes", family="logits")
    class Explodes(Method):
        def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
            if self.epoch == 2:
                raise RuntimeError("out of something")
            return {"ce": F.cross_entropy(student.logits, batch.targets)}

    @register("diverges", family="logits")
    class Diverges(Method):
        def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
            return {"good": torch.zeros(()), "bad": student.logits.sum() * float("nan")}

    @register("demands", family="logits")
    class Demands(Method):
        needs = frozenset({"preactivations"})

        def build(self, student: Network, teacher: Network) -> None:
            from kdbench import NotApplicable

            raise NotApplicable("demands needs two moons")

    names = ["explodes", "student", "diverges", "demands", "kd"]
    cells = [bench.cell(name) for name in names]
    records = dict(zip(names, bench.run(cells), strict=True))
    assert records["explodes"]["reason"] == "RuntimeError: out of something"
    assert "in loss" in records["explodes"]["traceback"]
    assert records["diverges"]["reason"] == "loss term 'bad' became nan in epoch 1"
    assert records["demands"]["status"] == "not_applicable"
    assert records["demands"]["reason"] == "demands needs two moons"
    alone = Bench(bench.folder / "alone")
    for name in ("student", "kd"):
        cell = cells[names.index(name)]
        assert records[name]["status"] == "done"
        alone.run([cell])
        here, there = (each.weights["results", cell.id] for each in (bench, alone))
        assert all(torch.equal(tensor, here[key]) for key, tensor in there.items())


def test_a_staged_method_trains_only_what_its_phase_names(bench: Bench) -> None:
    learner = bench.learner(bench.cell("sskd"))
    student = learner.students[0]
    stages = student.stage_parameters()
    learner.begin_epoch()
    assert learner.method.phase == learner.phases[0].name
    assert {name for name, p in student.named_parameters() if p.requires_grad} == set(stages[0])
    learner.epoch = learner.bounds[-2]
    learner.begin_epoch()
    assert {name for name, p in student.named_parameters() if p.requires_grad} == set(stages[-1])
    frozen = [m for m in student.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert frozen
    assert not any(module.training for module in frozen)


def test_the_learning_rate_drops_after_the_literatures_epochs(bench: Bench) -> None:
    import dataclasses

    cell = bench.cell("student")
    recipe = dataclasses.replace(cell.recipe, epochs=240, learning_rate=0.05)
    learner = bench.learner(dataclasses.replace(cell, recipe=recipe))
    rates = []
    for epoch in range(240):
        learner.epoch = epoch
        learner.begin_epoch()
        rates.append(learner.optimizer.param_groups[0]["lr"])
    assert rates[0] == rates[149] == pytest.approx(0.05)
    assert rates[150] == rates[179] == pytest.approx(0.005)
    assert rates[180] == rates[209] == pytest.approx(0.0005)
    assert rates[210] == rates[239] == pytest.approx(0.00005)


def test_a_record_holds_config_result_cost_curve_and_provenance(bench: Bench) -> None:
    record = bench.run([bench.cell("simkd")])[0]
    assert record["cell"]["method"]["hyperparameters"].keys() >= {"factor"}
    assert len(record["curve"]) == record["cell"]["recipe"]["epochs"]
    assert record["result"]["top1"] == record["curve"][-1]["top1"]
    assert record["result"]["best_top1"] == max(point["top1"] for point in record["curve"])
    assert record["cost"]["own_seconds_per_epoch"] < record["cost"]["seconds_per_epoch"]
    assert record["cost"]["peak_memory_mb"] > 0
    assert {"torch", "timm", "python"} <= record["provenance"]["versions"].keys()
    assert record["provenance"]["numerics"]["precision"] == "fp32"
    json.dumps(record, allow_nan=False)


def test_deployed_cost_counts_what_the_logits_depend_on(bench: Bench) -> None:
    records = {name: bench.run([bench.cell(name)])[0]["cost"] for name in ("student", "mhkd", "simkd")}
    plain = records["student"]
    assert plain["deployed_parameters"] == plain["student_parameters"]
    assert plain["extra_parameters"] == 0
    assert records["mhkd"]["deployed_parameters"] == plain["student_parameters"]  # its heads are dropped
    assert records["mhkd"]["extra_parameters"] > 0
    seed_all(0)
    simkd = bench.learner(bench.cell("simkd"))
    head = sum(p.numel() for p in simkd.students[0].classifier.parameters())
    extra = sum(p.numel() for p in simkd.method.parameters())  # projector and the teacher's classifier
    assert records["simkd"]["deployed_parameters"] == plain["student_parameters"] - head + extra
    assert records["simkd"]["deployed_macs"] > plain["deployed_macs"]


def test_a_second_task_without_images_goes_through_the_unchanged_loop(tmp_path: Path) -> None:
    from rich.console import Console

    table = {
        "name": "toy",
        "seeds": [0],
        "methods": ["student", "kd", "dml", {"name": "fitnet", "stage": 1}],
        "datasets": [{"name": "residues", "task": "tokens"}],
        "pairs": [{"teacher": "tokens_24_3", "student": "tokens_8_2"}],
        "recipe": {"epochs": 6, "batch_size": 16},
    }
    cells = parse(table).cells()
    with Display(Console(quiet=True), len(cells), 0) as display:
        LocalExecutor(tmp_path, display, device="cpu").run(cells)
    for cell in cells:
        record = json.loads((tmp_path / "toy" / "records" / f"{cell.id}.json").read_text())
        assert record["status"] == "done", record["reason"]
        losses = [point["loss"] for point in record["curve"]]
        assert losses[-1] < losses[0]


def test_the_fused_kernel_of_cuda_takes_weights_that_get_their_first_gradient_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's own start of the momentum fails there; in numbers nothing changes beyond rounding."""
    losses = []
    for name, kernels in (("plain", {}), ("fused", {"fused": True})):
        monkeypatch.setattr(learner, "_kernels", lambda *_, kernels=kernels: kernels)
        bench = Bench(tmp_path / name)
        records = bench.run([bench.cell("camkd")])
        assert records[0]["status"] == "done", records[0]["reason"]
        losses.append([point["loss"] for point in records[0]["curve"]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator to seed")
def test_seeding_leaves_nothing_queued_for_a_cuda_that_is_not_there() -> None:
    """`torch.manual_seed` keeps a stack trace a call until CUDA is used: time and memory with every step."""
    before = len(torch.cuda._queued_calls)
    seed_all("a", "step")
    assert len(torch.cuda._queued_calls) == before
    first = torch.rand(3)
    torch.manual_seed(derive_seed("a", "step"))
    assert torch.equal(first, torch.rand(3))
