"""A method's hooks may raise and return whatever they like: its cell fails, soon and with a sentence, and no other."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from support.sample_record import sample
from torch import Tensor, nn

from kdbench import Batch, KDBenchError, Method, Network, Output, Phase, register, registry
from kdbench.commands.progress import Display
from kdbench.executors.local import LocalExecutor
from kdbench.hardware import memory
from kdbench.method import Step
from kdbench.records import Record, Store, read_record
from kdbench.suites.parse import parse
from kdbench.testing.trial import Bench
from kdbench.training import cost
from kdbench.training.hooks import Calling, Misbehaved


class Right(Method):
    """Learns the labels; each method below gives something else in one hook."""

    steps = 0

    def loss(self, batch: Batch, student: Output, teacher: Output) -> Any:
        type(self).steps += 1
        return self.give(F.cross_entropy(student.logits, batch.targets))

    def give(self, term: Tensor) -> Any:
        return {"ce": term}


LOSSES: dict[str, tuple[Any, str]] = {
    "none": (lambda term: None, "gave None as its loss: return a dictionary of named terms"),
    "empty": (lambda term: {}, "gave an empty dict as its loss"),
    "tensor": (lambda term: term, "gave a tensor of shape [] as its loss"),
    "list": (lambda term: [term], "gave a list as its loss"),
    "float": (lambda term: {"ce": 1.0}, "loss term 'ce' of method 'gives' is a float: give a tensor of one number"),
    "int": (lambda term: {"ce": term, "kd": 1}, "loss term 'kd' of method 'gives' is an int"),
    "batch": (lambda term: {"ce": term.expand(16)}, "has shape [16], but a term is one number, of shape []"),
    "one": (lambda term: {"ce": term[None]}, "has shape [1], but a term is one number"),
    "int64": (lambda term: {"ce": term, "n": torch.tensor(3)}, "loss term 'n' of method 'gives' is of torch.int64"),
    "key": (lambda term: {"ce": term, 3: term}, "gave a loss term the name 3: names are strings"),
    "detached": (lambda term: {"ce": term.detach()}, "no loss term of method 'gives' (ce) depends on a weight"),
}


class Gives(Right):
    def __init__(self, what: str = "") -> None:
        super().__init__()
        self.what = what

    def give(self, term: Tensor) -> Any:
        return LOSSES[self.what][0](term)


class GivesFromStep(Right):
    def step(self, step: Step) -> Any:
        super().step(step)


class Deploys(Right):
    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        self.classes = classes

    def deploy(self, student: Network) -> Any:
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(self.classes)) if self.classes else None


class WatchesText(Right):
    def watch(self) -> Any:
        return {"temperature": "warm"}


class WatchesNaN(Right):
    def watch(self) -> Any:
        return {"temperature": torch.tensor(float("nan"))}


class Lost(nn.Module):
    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, inputs: Tensor) -> Tensor:
        return self.student(inputs).logits * float("nan")


class DeploysNaN(Right):
    def deploy(self, student: Network) -> nn.Module:
        return Lost(student)


class EndsInNaN(Right):
    """Its last update leaves nothing but NaN, which no loss term tells."""

    def step(self, step: Step) -> Any:
        terms = super().step(step)
        if self.epoch == self.epochs and len(step.batch) == 5:
            for parameter in step.students[0].parameters():
                parameter.data.fill_(float("nan"))
        return terms


class SharesTooLittle(Right):
    def phases(self) -> list[Phase]:
        return [Phase(share=0.9)]


class NoPhases(Right):
    def phases(self) -> Any:
        return None


RAISES: dict[str, tuple[BaseException, str]] = {
    "bug": (RuntimeError("boom"), "RuntimeError: boom"),
    "public": (KDBenchError("this needs two moons"), "this needs two moons"),
    "exit": (SystemExit(3), "method 'raises' ends the process in its {}: raise an error"),
    "memory": (RuntimeError("my queue is out of memory"), "RuntimeError: my queue is out of memory"),
    "silent": (AssertionError(), "AssertionError in _at (test_hooks.py, line"),
}
HOOKS = ("build", "prepare", "phases", "step", "deploy", "watch")


class Raises(Right):
    def __init__(self, hook: str = "", what: str = "") -> None:
        super().__init__()
        self.hook, self.what = hook, what

    def _at(self, hook: str) -> None:
        if hook == self.hook:
            raise RAISES[self.what][0]

    def build(self, student: Network, teacher: Any) -> None:
        self._at("build")

    def prepare(self, data: Any, teachers: Any) -> None:
        self._at("prepare")

    def phases(self) -> Any:
        self._at("phases")
        return super().phases()

    def loss(self, batch: Batch, student: Output, teacher: Output) -> Any:
        self._at("step")
        return super().loss(batch, student, teacher)

    def deploy(self, student: Network) -> nn.Module:
        self._at("deploy")
        return student

    def watch(self) -> Any:
        self._at("watch")
        return {}


class Checks(Right):
    """Its constructor and `members` are asked before anything trains."""

    def __init__(self, level: float = 1.0) -> None:
        super().__init__()
        if level <= 0:
            raise ValueError("level must be positive")


class Exits(Right):
    def __init__(self, status: int = 1) -> None:
        super().__init__()
        raise SystemExit(status)


class NoMembers(Right):
    def members(self) -> Any:
        raise LookupError("nobody is at home")


class Pupils(Right):
    def members(self) -> Any:
        return ("student", "pupil")


class OneMember(Right):
    def members(self) -> Any:
        return "student"


class NotBegun(Right):
    def __init__(self) -> None:
        pass


@pytest.fixture(scope="module", autouse=True)
def _known() -> Iterator[None]:
    """Register this file's methods for its tests, and do not wait for latencies."""
    registry.names()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_METHODS", dict(registry._METHODS))
        patch.setattr(cost, "SECONDS", 0.0)
        patch.setattr(cost, "CALLS", 1)
        for name, cls in list(globals().items()):
            if isinstance(cls, type) and issubclass(cls, Right):
                register(name.lower(), family="logits")(cls)
        yield


EARLY: dict[str, tuple[dict[str, Any], str]] = {
    "checks": (
        {"level": -1.0},
        "method 'checks' cannot be created with level=-1.0: ValueError: level must be positive",
    ),
    "exits": ({"status": 2}, "method 'exits' cannot be created with status=2: SystemExit: 2"),
    "nomembers": ({}, "method 'nomembers' cannot be created with its defaults: LookupError: nobody is at home"),
    "pupils": ({}, "method 'pupils' names a member 'pupil', which is no role: take 'student', 'teacher', 'assistant'"),
    "onemember": ({}, "method 'onemember' gave 'student' as its members: return a tuple of roles"),
    "notbegun": ({}, "method 'notbegun' does not call super().__init__() in its __init__: begin with it"),
    "residual_kd": ({"student_width": 2.0}, "residual_kd's widths are 2 and 0.25: give positive ones whose squares"),
}
# the method, its hyperparameters, and a part of the reason
LATE: dict[str, tuple[str, dict[str, Any], str]] = {
    **{f"gives {what}": ("gives", {"what": what}, words) for what, (_, words) in LOSSES.items()},
    "step gives None": ("givesfromstep", {}, "method 'givesfromstep' gave None as its loss"),
    "deploys None": ("deploys", {}, "method 'deploys' deploys None: return a module"),
    "deploys 3 classes": (
        "deploys",
        {"classes": 3},
        "gives logits of shape [3] a sample, but the student's are [10]: deploy a network with the same classes",
    ),
    "watches text": ("watchestext", {}, "watched number of watchestext 'temperature' is a str"),
    "watches NaN": ("watchesnan", {}, "watched number of watchesnan 'temperature' became nan in epoch 1"),
    **{
        name: (name, {}, f"the outputs of what {name} deploys on the test set became nan or infinite in epoch {epoch}")
        for name, epoch in (("deploysnan", 1), ("endsinnan", 2))
    },
    "shares": ("sharestoolittle", {}, "the phases of sharestoolittle have shares that sum to 0.9: make it 1"),
    "no phases": ("nophases", {}, "method 'nophases' gave None as its phases: give a list of kdbench.Phase"),
    **{
        f"{hook} raises {what}": ("raises", {"hook": hook, "what": what}, words.format(hook))
        for hook in HOOKS
        for what, (_, words) in RAISES.items()
    },
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    """All of `LATE` side by side with a method that does right, in one cohort."""
    bench = Bench(tmp_path_factory.mktemp("late"), epochs=2)
    cells = [bench.cell(method, **given) for method, given, _ in LATE.values()]
    records = bench.run([*cells, bench.cell("right")])
    return dict(zip([*LATE, "right"], records, strict=True))


@pytest.mark.parametrize("case", LATE)
def test_a_method_fails_alone_and_with_a_sentence(outcomes: dict[str, Record], case: str) -> None:
    assert outcomes[case]["status"] == "failed"
    assert LATE[case][2] in outcomes[case]["reason"]
    assert "\n" not in outcomes[case]["reason"]


def test_a_method_beside_those_that_fail_finishes(outcomes: dict[str, Record]) -> None:
    assert outcomes["right"]["status"] == "done", outcomes["right"]["reason"]


def test_what_a_hook_gives_is_checked_at_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gives", "deploys"):
        cls = registry.get(name)
        monkeypatch.setattr(cls, "steps", 0)
        bench = Bench(tmp_path / name)
        bench.run([bench.cell(name, **({"what": "batch"} if name == "gives" else {"classes": 3}))])
        assert cls.steps == 1  # type: ignore[attr-defined]


def test_an_exception_is_kept_with_its_traceback(outcomes: dict[str, Record]) -> None:
    assert "in _at" in outcomes["step raises bug"]["traceback"]
    assert "in _at" in outcomes["step raises public"]["traceback"]
    assert "traceback" not in outcomes["watches NaN"]


def test_methods_that_cannot_be_created_fail_before_anything_trains_and_the_others_run(tmp_path: Path) -> None:
    table = {
        "name": "early",
        "seeds": [0],
        "methods": [*({"name": name, **given} for name, (given, _) in EARLY.items()), "right"],
        "datasets": [{"name": "digits", "protocol": {"subset": {"per_class": 2}}}],
        "pairs": [{"teacher": "cifar_resnet8", "student": "cifar_resnet8"}],
        "recipe": {"epochs": 1, "batch_size": 16},
        "teacher_recipe": {"epochs": 1},
    }
    cells = parse(table).cells()
    ended: list[str] = []
    with Display(Console(file=io.StringIO()), len(cells), 0) as display:
        display.cell_ended = lambda cell, *_: ended.append(cell.method.name)  # type: ignore[method-assign]
        LocalExecutor(tmp_path, display, device="cpu").run(cells)
    assert ended == [*EARLY, "student", "right"]  # `student` is the teacher's training
    for cell in cells[:-1]:
        record = Store(tmp_path / "early").read(cell.id)
        assert record["status"] == "failed"
        assert record["reason"].startswith(EARLY[cell.method.name][1])
        assert record["cell"]["method"]["hyperparameters"].items() >= dict(cell.method.hyperparameters).items()
    assert Store(tmp_path / "early").read(cells[-1].id)["status"] == "done"
    assert len({cell.id for cell in cells}) == len(cells)


def retells() -> None:
    try:
        torch.empty(2**60)
    except RuntimeError:
        raise RuntimeError("out of memory, as far as I see")  # noqa: B904


def test_the_words_out_of_memory_are_not_a_full_memory_but_an_allocators_refusal_is() -> None:
    with pytest.raises(Misbehaved, match="my cache is out of memory") as told, Calling("mine", "loss"):
        raise RuntimeError("my cache is out of memory")
    assert not memory.ran_out(told.value)
    with pytest.raises(RuntimeError) as refused, Calling("mine", "loss"):
        torch.empty(2**60)
    assert memory.ran_out(refused.value)
    with pytest.raises(RuntimeError) as retold, Calling("mine", "loss"):
        retells()
    assert memory.ran_out(retold.value)


def test_a_record_is_never_written_with_nan_and_an_old_one_that_was_can_be_read(tmp_path: Path) -> None:
    record = sample(id="a", result={**sample()["result"], "nll": float("nan")})
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write(record)  # type: ignore[arg-type]
    assert not store.has("a")
    (store.folder / "records").mkdir()
    (store.folder / "records" / "a.json").write_text(json.dumps(record))
    assert read_record(store.folder / "records" / "a.json")["result"]["nll"] != 0
