"""A method reads the maps that it declares, and no others: compiled or not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, NotApplicable, Output, Shapes, register, registry
from kdbench.reads import Taps, Undeclared, declared, taps_of
from kdbench.tasks.image.networks import create
from kdbench.testing.trial import Bench

pytestmark = pytest.mark.usefixtures("temporary")

STAGES = 3


@pytest.fixture(scope="module")
def output() -> Output:
    network = create("cifar_resnet8", num_classes=5, in_chans=3, input_size=(3, 16, 16))
    return network(torch.rand(2, 3, 16, 16))


@dataclass(frozen=True)
class Boxes(Output):
    """An output with fields of its own, one of them the answer."""

    boxes: Tensor = None  # type: ignore[assignment]  # follows fields with defaults
    levels: tuple[Tensor, ...] = ()

    @property
    def answer(self) -> Tensor:
        return self.boxes


def test_an_output_holds_all_its_tensors_a_second_views_and_a_subclasss_too() -> None:
    z, e, f, g, b, s, second, its, box, level, deep = held = [torch.tensor(number) for number in range(11)]
    output = Boxes(z, e, (f, g), (b,), s, Output(second, its), box, (level, deep))
    assert [id(tensor) for tensor in output.tensors()] == [id(tensor) for tensor in held]
    assert [int(tensor) for tensor in Output(z, e).tensors()] == [0, 1]


def test_what_is_read_of_a_subclass_is_one_with_its_own_fields() -> None:
    output = Boxes(torch.ones(1), torch.ones(1), (torch.ones(1),), boxes=torch.ones(4), levels=(torch.ones(2),))
    read: Any = output.only(Taps())
    assert read.features == ()
    assert read.answer is output.boxes
    assert read.levels is output.levels


def test_what_is_declared_comes_as_it_is(output: Output) -> None:
    everything = declared(output, Taps((0, 1, 2, 3), True), "mine")
    assert everything == output


@pytest.mark.parametrize("reduce", [lambda output, taps: output, Output.only])
@pytest.mark.parametrize(
    "use",
    [
        lambda output: output.features[0].mean(),
        lambda output: F.mse_loss(output.features[0], torch.zeros(())),
        lambda output: torch.zeros(()) - output.features[0],
        lambda output: [feature.shape for feature in output.features],
        lambda output: output.stem.mean(),
        lambda output: torch.relu(output.stem),
        lambda output: list(output.preactivations),
        lambda output: output.preactivations[-1],
    ],
)
def test_what_is_not_declared_answers_any_use_with_a_sentence(
    output: Output, reduce: Callable[[Output, Taps], Output], use: Callable[[Any], Any]
) -> None:
    taps = Taps((2, 3))
    shown = declared(reduce(output, taps), taps, "mine")
    assert shown.features[1] is output.features[1]
    assert shown.features[-1] is output.features[-1]
    with pytest.raises(Undeclared, match="method 'mine' uses a student's"):
        use(shown)


@pytest.mark.parametrize("use", [len, bool, list, lambda features: features[-1], lambda features: (*features, 1)])
def test_without_features_in_needs_there_are_none_to_use(output: Output, use: Callable[[Any], Any]) -> None:
    with pytest.raises(Undeclared, match="its `needs` does not name them"):
        use(declared(output, Taps(), "mine").features)


@pytest.mark.parametrize(
    ("network", "method", "taps"),
    [
        ("cifar_resnet8", "cat_kd", Taps((3,))),  # what the head pools is the last stage's map
        ("cifar_resnet8", "fcfd", Taps((1, 2, 3))),
        ("cifar_wrn_16_1", "cat_kd", Taps((), unpooled=True)),
        ("cifar_wrn_16_1", "fcfd", Taps((1, 2), unpooled=True)),
        ("cifar_wrn_16_1", "at", Taps((1, 2, 3), unpooled=False)),
        ("cifar_wrn_16_1", "at+cat_kd", Taps((1, 2, 3), unpooled=True)),
        ("cifar_wrn_16_1", "kd", Taps((), unpooled=False)),
    ],
)
def test_the_map_that_the_head_pools_is_declared_and_costs_nothing_where_it_is_a_stages(
    network: str, method: str, taps: Taps
) -> None:
    student = create(network, num_classes=5, in_chans=3, input_size=(3, 16, 16))
    assert taps_of(registry.create(method, {}), student) == taps


@pytest.mark.parametrize("reduce", [lambda output, taps: output, Output.only])
def test_the_map_that_the_head_pools_is_withheld_from_who_does_not_declare_it(
    reduce: Callable[[Output, Taps], Output],
) -> None:
    output = create("cifar_wrn_16_1", num_classes=5, in_chans=3, input_size=(3, 16, 16))(torch.rand(2, 3, 16, 16))
    for taps in (Taps((1, 2, 3), unpooled=False), Taps((), unpooled=False)):
        shown = declared(reduce(output, taps), taps, "mine")
        with pytest.raises(Undeclared, match="method 'mine' uses a student's unpooled map, but its `needs`"):
            shown.unpooled.mean()
    taps = Taps((1,), unpooled=True)
    shown = declared(reduce(output, taps), taps, "mine")
    assert shown.unpooled is output.final
    with pytest.raises(Undeclared, match="maps of a stage"):
        shown.features[-1].mean()


def test_who_reads_the_unpooled_map_alone_is_told_so_where_it_is_a_stages(output: Output) -> None:
    with pytest.raises(Undeclared, match="method 'mine' uses a student's"):
        declared(output, Taps(), "mine").unpooled.mean()


def test_a_network_without_maps_has_none_that_is_pooled() -> None:
    bare = SimpleNamespace(name="bare", shapes=Shapes(5, 4), offers=frozenset())
    for method in ("simkd", "vkd"):
        with pytest.raises(NotApplicable, match=f"{method} needs stage features, but network 'bare' offers none"):
            registry.create(method, {}).check_taps([bare])  # type: ignore[list-item]


def test_an_output_with_undeclared_maps_can_be_copied_and_printed(output: Output) -> None:
    shown = declared(output, Taps((1,)), "mine")
    assert "features" in repr(shown)
    copied = copy.copy(shown.features[2])
    with pytest.raises(Undeclared):
        copied.mean()


@pytest.mark.parametrize(
    ("name", "hyperparameters", "features", "preactivations"),
    [
        ("kd", {}, (), False),
        ("at", {}, (1, 2, 3), False),
        ("fsp", {}, (0, 1, 2, 3), False),
        ("sp", {}, (3,), False),
        ("fitnet", {}, (2,), False),
        ("fitnet", {"stage": 1}, (1,), False),
        ("ab", {}, (), True),
        ("sp+fitnet", {}, (2, 3), False),
        ("kd+sp", {}, (3,), False),
    ],
)
def test_what_methods_read(
    name: str, hyperparameters: dict[str, Any], features: tuple[int, ...], preactivations: bool
) -> None:
    student = create("cifar_resnet8", num_classes=5, in_chans=3, input_size=(3, 16, 16))
    assert len(student.shapes.features) == STAGES
    assert taps_of(registry.create(name, hyperparameters), student) == Taps(features, preactivations)


def test_a_method_that_reads_more_than_it_declares_fails_alone_with_a_sentence(tmp_path: Path) -> None:
    @register("sly", family="features")
    class Sly(Method):
        def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
            return {"maps": sum(feature.mean() for feature in student.features)}  # type: ignore[dict-item]

    bench = Bench(tmp_path)
    sly, plain = bench.run([bench.cell("sly"), bench.cell("student")])
    assert plain["status"] == "done"
    assert sly["status"] == "failed"
    assert sly["reason"].startswith("Undeclared: method 'sly' uses a student's features, but its `needs`")
