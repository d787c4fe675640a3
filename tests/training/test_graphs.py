"""Whole steps as graphs: to the bits of steps as they are, and as they are where there can be no graph."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.fake_graphs import FakeLanes
from torch import Tensor

from kdbench import Batch, Method, Output, register
from kdbench.hardware.numerics import Numerics
from kdbench.records import Store
from kdbench.testing import trial
from kdbench.testing.trial import Bench
from kdbench.training import graphs, hostside
from kdbench.training.cohort import Cohort
from kdbench.training.graphs import FIRST, LATER, Graphs
from kdbench.training.learner import Learner
from kdbench.training.steps import Steps, steps_of

EPOCHS = 4  # of eight whole batches and one that is not
BATCHES = 8


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("graphs")
    return Bench(folder, teacher="cifar_resnet8", samples=4 * BATCHES + 2, batch_size=4, image_size=8, epochs=EPOCHS)


def without_seconds(record: Any) -> dict[str, Any]:
    curve = [{key: value for key, value in point.items() if key != "seconds"} for point in record["curve"]]
    return {"status": record["status"], "result": record["result"], "curve": curve}


def run(bench: Bench, name: str, methods: list[Any], steps: Any = None) -> tuple[list[Any], list[dict[str, Tensor]]]:
    """Records, and the students' final weights."""
    cells = [
        bench.cell(method) if isinstance(method, str) else bench.cell(method[0], **method[1]) for method in methods
    ]
    store, weights = Store(bench.folder / name), {}

    def keep(learner: Any) -> None:
        state = learner.students[0].state_dict()
        weights[learner.cell.id] = {key: tensor.clone() for key, tensor in state.items()}

    cohort = Cohort(
        cells, bench.task, bench.teachers, store, bench.numerics, trial._Silent(), keep, timed=False, every=0.0
    )
    if steps is not None:
        cohort._steps = steps
    cohort.run()
    records = [store.read(cell.id) for cell in cells]
    return records, [weights.get(cell.id, {}) for cell in cells]


def assert_same_bits(bench: Bench, name: str, methods: list[Any], lanes: FakeLanes) -> list[Any]:
    """Train as graphs and as ever; gives the former's records."""
    ours, our_weights = run(bench, f"{name} graphs", methods, Graphs(bench.numerics, lanes))
    theirs, their_weights = run(bench, f"{name} plain", methods)
    for a, b, mine, others in zip(ours, theirs, our_weights, their_weights, strict=True):
        assert a["status"] == "done", a
        assert without_seconds(a) == without_seconds(b)
        assert mine.keys() == others.keys()
        assert all(torch.equal(mine[key], others[key]) for key in mine)
    return ours


CAPTURED = ["student", "at", "dml", "sskd", "byot"]  # of one, several and staged networks, with teachers and without


@pytest.mark.parametrize("method", CAPTURED)
def test_a_graphs_steps_have_the_bits_of_steps_as_they_are(bench: Bench, method: str) -> None:
    lanes = FakeLanes()
    assert_same_bits(bench, method, [method], lanes)
    assert lanes.graphs, "nothing was captured"
    replayed = sum(graph.replays for graph in lanes.graphs)
    assert replayed >= EPOCHS * (BATCHES - LATER) - FIRST


def test_a_ramps_number_changes_from_epoch_to_epoch_within_one_graph(bench: Bench) -> None:
    """Its learning rates are three, and so are its graphs; the ramp has another number in each of four epochs."""
    lanes = FakeLanes()
    assert_same_bits(bench, "ramp", [("dkd", {"warmup_share": 1.0})], lanes)
    assert len(lanes.graphs) == 3


@pytest.mark.parametrize("method", ["crd", "vid"])
def test_a_replay_draws_the_random_numbers_of_its_own_step(
    bench: Bench, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU's are the host's and would keep it from being captured; here they stand for the device's."""
    real = hostside._streams
    monkeypatch.setattr(hostside, "_streams", lambda: real()[:-1])
    lanes = FakeLanes()
    assert_same_bits(bench, f"{method} draws", [method], lanes)
    assert lanes.graphs


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("backward_kd", "on the host"),
        ("mmkd", "on the host"),
        ("dot", "it changes 'optimizer.state"),
        ("fcfd", "draws random numbers on the host"),
        ("dgkd", "draws random numbers on the host"),
    ],
)
def test_a_step_that_does_something_on_the_host_stays_as_it_is(
    bench: Bench, method: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes, reasons = FakeLanes(), []
    real = Learner.end_epoch

    def end_epoch(learner: Learner, *given: Any) -> None:
        reasons.append(learner.uncaptured)
        real(learner, *given)

    monkeypatch.setattr(Learner, "end_epoch", end_epoch)
    assert_same_bits(bench, method, [method], lanes)
    assert why in reasons[EPOCHS - 1]
    assert not lanes.graphs or method == "dgkd"  # which draws from its second phase on


def test_learners_side_by_side_have_graphs_of_their_own_on_the_streams_in_turns(bench: Bench) -> None:
    lanes = FakeLanes(2)
    assert_same_bits(bench, "side", ["student", "kd", "fitnet"], lanes)
    assert Counter(lane for what, lane in lanes.happened if what == "capture").keys() == {0, 1}


def test_for_each_batch_the_streams_begin_after_the_main_one_and_it_goes_on_after_them(bench: Bench) -> None:
    lanes = FakeLanes(2)
    run(bench, "order", ["student", "kd", "at"], Graphs(bench.numerics, lanes))
    happened = [each for each in lanes.happened if each[0] != "capture"]
    per_batch, batches = [], [*happened]
    first = [("fork", -1), *[e for lane in (0, 1, 0) for e in (("on", lane), ("join", -1), ("fork", -1))], ("join", -1)]
    other = [("fork", -1), ("on", 0), ("on", 1), ("on", 0), ("join", -1)]
    for _ in range(EPOCHS):
        per_batch += first + BATCHES * other
    assert batches == per_batch


def learner_and_batch(bench: Bench, method: str, **options: Any) -> tuple[Learner, Batch, list[Output]]:
    learner = bench.learner(bench.cell(method, **options))
    learner.begin_epoch()
    batch = next(iter(learner.data.epoch(0)))
    with torch.no_grad():
        outputs = [teacher(batch.inputs) for teacher in learner.teachers]
    return learner, batch, outputs if learner.method.uses_teacher else []


def take(steps: Graphs, learner: Learner, batch: Batch, outputs: list[Output], count: int) -> None:
    for number in range(count):
        lent, there = steps.lend(batch, dict(enumerate(outputs)))
        steps.take(learner, number, lent, list(there.values()))
        steps.join()


def test_a_graph_is_captured_after_some_steps_and_then_replayed(bench: Bench) -> None:
    lanes = FakeLanes()
    steps, given = Graphs(bench.numerics, lanes), learner_and_batch(bench, "kd")
    take(steps, *given, FIRST)
    assert not lanes.graphs
    take(steps, *given, 5)
    assert [graph.replays for graph in lanes.graphs] == [5]
    assert given[0].steps == FIRST + 5


def captures(bench: Bench, method: str, epochs: int, **options: Any) -> int:
    """How many graphs a learner has in so many epochs of one learning rate and one phase."""
    lanes = FakeLanes()
    steps, given = Graphs(bench.numerics, lanes), learner_and_batch(bench, method, **options)
    learner = given[0]
    for epoch in range(epochs):
        learner.epoch = epoch
        learner.begin_epoch()
        for group in learner.optimizer.param_groups:
            group["lr"] = 0.01
        take(steps, *given, FIRST + 2)
    assert not learner.uncaptured
    return len(lanes.graphs)


@pytest.mark.usefixtures("temporary")
def test_a_graph_serves_until_what_it_holds_as_a_constant_changes(bench: Bench) -> None:
    @register("reads_epoch", family="logits")
    class ReadsEpoch(Method):
        def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
            return {"ce": F.cross_entropy(student.logits, batch.targets) / self.epoch}

    wide = bench.variant("wide", epochs=40)  # of which none has a learning rate of its own but by the schedule
    assert captures(wide, "kd", 4) == 1
    assert captures(wide, "reads_epoch", 4) == 4
    assert captures(wide, "dkd", 4, warmup_share=0.5) == 1, "its ramp is a number of the device"
    assert captures(wide, "ctkd", 4, ramp_share=0.5) == 4, "its ramp goes through a cosine on the host"
    assert captures(wide, "ctkd", 4, ramp_share=0.01) == 1, "its ramp has ended"


def test_another_learning_rate_is_another_graph(bench: Bench) -> None:
    lanes = FakeLanes()
    steps, given = Graphs(bench.numerics, lanes), learner_and_batch(bench, "student")
    take(steps, *given, FIRST + 1)
    given[0].optimizer.param_groups[0]["lr"] /= 10
    take(steps, *given, LATER)
    assert len(lanes.graphs) == 1
    take(steps, *given, 1)
    assert len(lanes.graphs) == 2


def test_batches_are_copied_to_places_that_stay(bench: Bench) -> None:
    steps = Graphs(bench.numerics, FakeLanes())
    _, batch, outputs = learner_and_batch(bench, "kd")
    first, there = steps.lend(batch, {"t": outputs[0]})
    moved = dataclasses.replace(batch, inputs=batch.inputs + 1, targets=batch.targets.flip(0))
    other = dataclasses.replace(outputs[0], logits=outputs[0].logits * 2)
    second, again = steps.lend(moved, {"t": other})
    assert (first.inputs.data_ptr(), there["t"].logits.data_ptr()) != (batch.inputs.data_ptr(), 0)
    assert first is second
    assert there["t"] is again["t"]
    assert torch.equal(second.inputs, batch.inputs + 1)
    assert torch.equal(second.targets, batch.targets.flip(0))
    assert torch.equal(again["t"].logits, outputs[0].logits * 2)
    assert [f.stride() for f in again["t"].features] == [f.stride() for f in outputs[0].features]


def test_a_smaller_batch_has_places_of_its_own_and_runs_as_it_is(bench: Bench) -> None:
    lanes = FakeLanes()
    steps, (learner, batch, outputs) = Graphs(bench.numerics, lanes), learner_and_batch(bench, "student")
    small = Batch(batch.inputs[:2], batch.targets[:2], batch.indices[:2])
    take(steps, learner, small, outputs, FIRST + 3)
    assert not lanes.graphs
    assert not learner.uncaptured
    take(steps, learner, batch, outputs, FIRST + 1)
    assert len(lanes.graphs) == 1


def refused(bench: Bench, error: Exception) -> tuple[Learner, FakeLanes]:
    lanes = FakeLanes()
    lanes.refuse = error
    steps, (learner, batch, outputs) = Graphs(bench.numerics, lanes), learner_and_batch(bench, "kd")
    plain = bench.learner(learner.cell)
    plain.begin_epoch()
    take(steps, learner, batch, outputs, FIRST + 3)
    for number in range(FIRST + 3):
        plain.train_step(number, batch, outputs)
    pairs = zip(plain.students[0].state_dict().items(), learner.students[0].state_dict().items(), strict=True)
    assert all(torch.equal(a, b) for (_, a), (_, b) in pairs)
    assert plain.sums.keys() == learner.sums.keys()
    assert all(torch.equal(plain.sums[name], learner.sums[name]) for name in plain.sums)
    return learner, lanes


def test_where_a_capture_raises_the_step_is_taken_as_it_is_and_no_other_is_tried(bench: Bench) -> None:
    error = RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")
    learner, lanes = refused(bench, error)
    said = "it could not be captured (RuntimeError: CUDA error: operation not permitted when stream is capturing)"
    assert learner.uncaptured == said
    assert sum(what == "capture" for what, _ in lanes.happened) == 1


def test_where_memory_does_not_hold_a_graph_the_step_is_taken_as_it_is(bench: Bench) -> None:
    learner, _ = refused(bench, torch.OutOfMemoryError("CUDA out of memory"))
    assert learner.uncaptured == "no memory was left for a graph"


@pytest.mark.usefixtures("temporary")
def test_a_step_that_reads_a_number_back_is_not_captured(bench: Bench) -> None:
    @register("reads_back", family="logits")
    class ReadsBack(Method):
        def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
            loss = F.cross_entropy(student.logits, batch.targets)
            return {"ce": loss * (1 if loss.item() > 1 else 2)}

    lanes = FakeLanes()
    given = learner_and_batch(bench, "reads_back")
    take(Graphs(bench.numerics, lanes), *given, FIRST + 2)
    assert "stream is capturing" in given[0].uncaptured
    assert not lanes.graphs


def test_maps_that_are_moved_as_the_batch_was_are_not_captured(bench: Bench) -> None:
    @dataclasses.dataclass
    class Follows:
        calls: int = 0

        def __call__(self, maps: Tensor) -> Tensor:
            self.calls += 1
            return maps

    follow, (learner, batch, outputs) = Follows(), learner_and_batch(bench, "student")
    real = learner.method.loss

    def loss(batch: Batch, student: Output, teacher: Any) -> dict[str, Tensor]:
        assert batch.follow is not None
        batch.follow(batch.inputs)
        return real(batch, student, teacher)

    learner.method.loss = loss  # type: ignore[method-assign]
    take(Graphs(bench.numerics, FakeLanes()), learner, dataclasses.replace(batch, follow=follow), outputs, FIRST + 2)
    assert learner.uncaptured == "it moves maps as the batch's crops were drawn"
    assert follow.calls == FIRST + 2


def test_the_record_says_what_was_asked_for_and_what_became_of_it() -> None:
    cuda = Numerics(torch.device("cuda"), graphs=8)
    assert cuda.describe()["cuda_graphs"] is True
    assert cuda.describe()["cuda_graphs_rule"] == "asked for, on 8 streams; this one's steps ran as graphs"
    eager = dataclasses.replace(cuda, graphs=1, uncaptured="it draws random numbers on the host").describe()
    assert eager["cuda_graphs_rule"] == (
        "asked for, on 1 stream; this one's steps ran as they are: it draws random numbers on the host"
    )
    plain = Numerics(torch.device("cuda")).describe()
    assert plain["cuda_graphs"] is False
    assert "cuda_graphs_rule" not in plain


def test_the_reason_is_in_the_record_and_survives_a_checkpoint(bench: Bench) -> None:
    learner = bench.learner(bench.cell("kd"))
    learner.uncaptured = "a reason"
    again = bench.learner(learner.cell)
    again.load_state_dict(learner.state_dict())
    assert again.uncaptured == "a reason"
    asked = bench.variant("asked", numerics=dataclasses.replace(bench.numerics, graphs=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdbench.training.cohort.steps_of", lambda numerics: Graphs(numerics, FakeLanes(2)))
        (drawn, plain), _ = run(asked, "rule", ["fcfd", "student"])
    assert "draws random numbers on the host" in drawn["provenance"]["numerics"]["cuda_graphs_rule"]
    assert (
        plain["provenance"]["numerics"]["cuda_graphs_rule"] == "asked for, on 2 streams; this one's steps ran as graphs"
    )


def test_steps_are_as_they_are_unless_graphs_are_asked_for() -> None:
    steps = steps_of(Numerics(torch.device("cpu")))
    assert type(steps) is Steps


@pytest.mark.usefixtures("temporary")
def test_a_step_that_changes_its_ways_after_its_capture_fails_with_a_sentence(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    @register("changes", family="logits")
    class Changes(Method):
        counted = 0

        def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
            if self.capturing():
                self.counted = self.counted + 1
            return {"ce": F.cross_entropy(student.logits, batch.targets)}

        def capturing(self) -> bool:
            return Changes.now

        now = False

    lanes = FakeLanes()
    real = lanes.capture

    def capture(lane: int) -> Any:
        Changes.now = True
        return real(lane)

    monkeypatch.setattr(lanes, "capture", capture)
    given = learner_and_batch(bench, "changes")
    with pytest.raises(
        graphs.Misbehaved, match=r"steps of method 'changes' are not alike \(it changes 'method\.counted'"
    ):
        take(Graphs(bench.numerics, lanes), *given, FIRST + 1)
