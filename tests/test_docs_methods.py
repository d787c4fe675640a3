"""docs/methods.md is true: each of its examples is loaded as a method file, trained, and does what the text claims."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdbench import KDBenchError, Output, registry
from kdbench.losses import kl
from kdbench.method import Method
from kdbench.records import Record
from kdbench.testing.checks import leaves_the_teacher, moves_the_student, resumes_to_the_same_bits
from kdbench.testing.trial import Bench
from kdbench.training.learner import Learner

PAGE = (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NAMES = [re.findall(r'@register\("(\w+)"', block) for block in BLOCKS]
HOOKS = ("build", "prepare", "reads", "phases", "loss", "step", "deploy", "respond", "members")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The random images, with the page's examples registered; they are forgotten afterwards."""
    folder = tmp_path_factory.mktemp("examples")
    registry.names()
    with pytest.MonkeyPatch.context() as patch:
        for held in ("_METHODS", "_ALIASES", "_COMPOSED"):
            patch.setattr(registry, held, dict(getattr(registry, held)))
        for (name,), block in zip(NAMES, BLOCKS, strict=True):
            (folder / f"{name}.py").write_text(block, encoding="utf-8")
            assert registry.load_file(folder / f"{name}.py") == [name]
        yield Bench(folder / "bench")


@pytest.fixture(scope="module")
def records(bench: Bench) -> dict[str, Record]:
    """Every example after four epochs, all in one cohort, and the plain student."""
    methods = ["student", *(name for (name,) in NAMES), "last_attention+kd", "adapter+kd"]
    return dict(zip(methods, bench.run([bench.cell(method) for method in methods]), strict=True))


def learner(bench: Bench, method: str, **hyperparameters: Any) -> Learner:
    return bench.learner(bench.cell(method, **hyperparameters))


def train_epoch(learner: Learner, epoch: int) -> None:
    """One epoch of one learner, as the cohort runs it."""
    learner.epoch = epoch
    learner.begin_epoch()
    for number, batch in enumerate(learner.data.epoch(epoch)):
        with torch.no_grad():
            outputs = [teacher(batch.inputs) for teacher in learner.teachers]
        learner.train_step(number, batch, outputs)


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def terms_of(record: Record) -> list[set[str]]:
    """The names of the terms in each epoch's point of the curve."""
    return [set(point["terms"]) for point in record["curve"]]


# ---------------------------------------------------------------------------------------------- the page as a whole


def test_every_section_of_a_hook_has_one_example() -> None:
    assert all(len(names) == 1 for names in NAMES)
    for hook in HOOKS:
        assert sum(f"def {hook}(" in block for block in BLOCKS), f"no example has {hook}"
    links = re.findall(r"\]\(#([\w-]+)\)", PAGE)
    titles = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    assert set(links) <= {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", [name for names in NAMES for name in names])
def test_an_example_trains(records: dict[str, Record], name: str) -> None:
    assert (records[name]["status"], records[name]["reason"]) == ("done", "")


# ---------------------------------------------------------------------------------------------- a loss, outputs


def test_the_curve_has_each_term_and_the_ramp_makes_it_whole(records: dict[str, Record], bench: Bench) -> None:
    assert terms_of(records["soft_labels"])[-1] == {"ce", "kd"}
    method = registry.create("soft_labels")
    method.epochs = 4
    ramp = []
    for method.epoch in (1, 2, 3, 4):
        ramp.append(method.warmup(0.5))
    assert ramp == [0.5, 1.0, 1.0, 1.0]
    assert bench.cell("soft_labels").id != bench.cell("soft_labels", weight=0.5).id


def test_the_table_of_outputs_is_true(bench: Bench) -> None:
    fields = re.findall(r"^\| `(\w+)` \| .*\| .*\|$", PAGE.partition("## Output")[2].partition("## Stages")[0], re.M)
    assert fields == ["unpooled" if name == "final" else name for name in Output.__dataclass_fields__]
    network = learner(bench, "student").students[0].eval()
    output, shapes = network(torch.randn(5, 3, 16, 16)), network.shapes
    assert output.logits.shape == (5, shapes.num_classes)
    assert output.embedding.shape == (5, shapes.embedding)
    torch.testing.assert_close(network.classifier(output.embedding), output.logits)
    assert [feature.shape[1:] for feature in output.features] == [torch.Size(shape) for shape in shapes.features]
    assert len(network.stage_parameters()) == len(output.features) + 1
    assert output.stem is not None
    torch.testing.assert_close(network.tail(0)(output.stem).logits, output.logits)


# ---------------------------------------------------------------------------------------------- maps


def test_a_map_that_is_not_declared_fails_the_cell_with_a_sentence(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.get("last_attention"), "reads", lambda self, stages: (1,))
    record = bench.run([bench.cell("last_attention", weight=1.0)], name="undeclared")[0]
    assert record["status"] == "failed"
    assert "'last_attention' uses a student's maps of a stage" in record["reason"]


def test_an_object_may_narrow_what_it_needs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = registry.get("last_attention")
    before = learner(bench, "last_attention")
    original = cls.__init__

    def narrowed(self: Method, weight: float = 100.0) -> None:
        original(self, weight)  # type: ignore[call-arg]
        self.needs = frozenset()  # type: ignore[misc]

    monkeypatch.setattr(cls, "__init__", narrowed)
    assert before.taps[0].features == (3,)
    assert learner(bench, "last_attention").taps[0].features == ()


# ---------------------------------------------------------------------------------------------- layers


def test_what_deploy_gives_is_what_is_counted(records: dict[str, Record], bench: Bench) -> None:
    cost, it = records["borrowed_head"]["cost"], learner(bench, "borrowed_head")
    (student,), teacher = it.students, it.teachers[0]
    project: Any = it.method.project
    body = size(student) - size(student.classifier)
    assert cost["deployed_parameters"] == body + size(project) + size(teacher.classifier)
    assert cost["extra_parameters"] == size(project)
    plain = records["student"]["cost"]
    assert (plain["deployed_parameters"], plain["extra_parameters"]) == (size(student), 0)


def test_what_prepare_computes_is_the_training_sets_and_survives_a_stop(bench: Bench) -> None:
    it = learner(bench, "class_means")
    data = it.data
    with torch.no_grad():
        embeddings = torch.cat([it.teachers[0](batch.inputs).embedding for batch in data.batches()])
    means = torch.stack([embeddings[data.targets == k].mean(0) for k in range(data.num_classes)])
    torch.testing.assert_close(it.method.means, means)
    assert "means" in it.state_dict()["method"]
    resumes_to_the_same_bits(bench, "class_means")


def test_layers_behind_the_last_stage_change_what_all_parts_see(records: dict[str, Record], bench: Bench) -> None:
    it = learner(bench, "adapter+kd")
    student, teacher = it.students[0].eval(), it.teachers[0]
    batch = next(iter(it.data.batches()))
    plain, target = student(batch.inputs), teacher(batch.inputs)
    seen = it.method.respond(plain)
    assert not torch.allclose(seen.logits, plain.logits)
    terms = it.method.compute(batch, [plain], [target])
    torch.testing.assert_close(terms["kd"], 0.9 * kl(seen.logits, target.logits, 4.0))
    torch.testing.assert_close(it.deployed().eval()(batch.inputs), seen.logits)
    adapter: Any = learner(bench, "adapter").method.adapter
    assert records["adapter"]["cost"]["deployed_parameters"] == size(student) + size(adapter)


# ---------------------------------------------------------------------------------------------- training


def test_each_phase_trains_what_it_names_and_nothing_else(bench: Bench) -> None:
    it = learner(bench, "bottom_up")
    student = it.students[0]
    assert [phase.name for phase in it.phases] == ["stage 0", "stage 1", "stage 2", "head"]
    norms = {name for name, _ in student.named_buffers() if "running_mean" in name}
    for epoch, phase in enumerate(it.phases):
        before, statistics = weights(student), {name: b.clone() for name, b in student.named_buffers()}
        regressors = weights(it.method)
        train_epoch(it, epoch)
        moved = {name for name, weight in weights(student).items() if not torch.equal(weight, before[name])}
        assert moved
        assert moved <= set(phase.student or ())
        theirs = {name for name, weight in weights(it.method).items() if not torch.equal(weight, regressors[name])}
        assert theirs == {name for name in regressors if name.startswith(tuple(phase.modules or ("none",)))}
        stages = {name.rpartition(".")[0] for name in phase.student or ()}
        changed = {name for name in norms if not torch.equal(dict(student.named_buffers())[name], statistics[name])}
        assert changed == {name for name in norms if name.rpartition(".")[0] in stages}


def test_each_phase_starts_the_optimizer_anew(bench: Bench) -> None:
    it = learner(bench, "bottom_up")
    train_epoch(it, 0)
    first = it.optimizer
    train_epoch(it, 1)
    assert it.optimizer is not first
    assert terms_of(bench.run([bench.cell("bottom_up")])[0]) == [{"hint"}] * 3 + [{"ce"}]


def test_a_step_may_run_the_networks_on_other_inputs(records: dict[str, Record], bench: Bench) -> None:
    assert terms_of(records["noisy_view"]) == [{"kd", "noisy"}] * 4
    moves_the_student(bench, "noisy_view")
    leaves_the_teacher(bench, "noisy_view")


# ---------------------------------------------------------------------------------------------- several networks


def test_members_beside_the_first_are_extra_and_one_is_deployed(records: dict[str, Record]) -> None:
    cost, plain = records["three_peers"]["cost"], records["student"]["cost"]
    assert cost["extra_parameters"] == 2 * plain["deployed_parameters"]
    assert cost["deployed_parameters"] == plain["deployed_parameters"]
    assert any("ensemble" in name for name in records["three_peers"]["result"]["extra"])


def test_the_first_member_starts_like_every_methods_student(bench: Bench) -> None:
    peers, plain = learner(bench, "three_peers").students, learner(bench, "student").students
    first, second, alone = (weights(network) for network in (peers[0], peers[1], plain[0]))
    assert all(torch.equal(weight, alone[name]) for name, weight in first.items())
    assert not all(torch.equal(weight, second[name]) for name, weight in first.items())


def test_a_pool_that_is_too_small_is_not_applicable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.get("mean_logits"), "min_teachers", 3)
    record = bench.run([bench.cell("mean_logits")], name="small pool")[0]
    assert record["status"] == "not_applicable"
    assert "needs at least 3 teachers" in record["reason"]


# ---------------------------------------------------------------------------------------------- compositions


def test_a_composition_adds_terms_and_names_hyperparameters_by_part(records: dict[str, Record]) -> None:
    assert terms_of(records["last_attention+kd"])[0] == {"ce", "attention", "kd"}
    names = registry.hyperparameters(registry.get("last_attention+kd"))
    assert {"last_attention.weight", "kd.temperature"} <= set(names)


@pytest.mark.parametrize("part", ["bottom_up", "three_peers", "mean_logits", "noisy_view"])
def test_a_part_with_a_loop_of_its_own_is_refused(bench: Bench, part: str) -> None:
    with pytest.raises(KDBenchError, match=f"{part!r} cannot be a part of"):
        registry.get(f"{part}+kd")


def test_two_parts_that_deploy_other_networks_are_refused(bench: Bench) -> None:
    with pytest.raises(KDBenchError, match="borrowed_head and adapter each deploy another network"):
        registry.get("borrowed_head+adapter")


def test_a_wrapper_hands_on_to_its_base_and_is_told_apart(bench: Bench) -> None:
    record = bench.run([bench.cell("early_stop", base="dkd")], name="wrapped")[0]
    terms = [point["terms"] for point in record["curve"]]
    assert set(terms[0]) == set(terms_of(bench.run([bench.cell("dkd")], name="wrapped")[0])[0])
    taught = [any(value for name, value in point.items() if name != "ce") for point in terms]
    assert taught == [True, True, False, False]
    assert bench.cell("early_stop", base="dkd").method.label == "early_stop(base=dkd)"
