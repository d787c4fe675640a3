"""Compiled networks: one graph per architecture, whole batches only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from kdbench.hardware import compiled as compiled_module
from kdbench.hardware.compiled import Compiled
from kdbench.reads import Taps
from kdbench.tasks.image.networks import TimmNetwork, create
from kdbench.testing.trial import FP32, Bench

BATCH = 4


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def student(name: str = "cifar_resnet8") -> TimmNetwork:
    torch.manual_seed(0)
    return create(name, num_classes=5, in_chans=3, input_size=(3, 16, 16))


class Backend:
    """Runs graphs as they are and counts them."""

    graphs = 0

    def __call__(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


def compiled(network: TimmNetwork, backend: Backend, taps: Taps | None = None) -> Compiled:
    run = Compiled(network, BATCH, taps=taps)
    run.graph = torch.compile(compiled_module._forward, backend=backend, dynamic=False)
    return run


def test_all_networks_of_one_architecture_share_a_graph() -> None:
    backend = Backend()
    images = torch.rand(BATCH, 3, 16, 16)
    for _ in range(5):
        compiled(student(), backend)(images).logits.sum().backward()
    assert backend.graphs == 1
    compiled(student("cifar_resnet14"), backend)(images)
    assert backend.graphs == 2


def test_a_graph_gives_the_maps_that_are_read_and_no_others() -> None:
    backend, images = Backend(), torch.rand(BATCH, 3, 16, 16)
    plain = student()(images)
    for taps in (Taps((2,)), Taps((2,)), Taps()):
        output = compiled(student(), backend, taps)(images)
        torch.testing.assert_close(output.logits, plain.logits)
        given = [number for number, feature in enumerate(output.features, 1) if feature is not None]
        assert given == list(taps.features)
        assert output.stem is None
        assert output.preactivations == ()
    assert backend.graphs == 2


def test_a_graph_gives_the_map_that_the_head_pools_where_it_is_read() -> None:
    images = torch.rand(BATCH, 3, 16, 16)
    for name, own in (("cifar_wrn_16_1", True), ("cifar_mobilenetv2", True), ("cifar_resnet8", False)):
        plain = student(name)(images)
        assert (plain.final is not None) == own
        output = compiled(student(name), Backend(), Taps((), unpooled=True) if own else Taps((3,)))(images)
        torch.testing.assert_close(output.unpooled, plain.unpooled)
        assert compiled(student(name), Backend(), Taps((1,)))(images).final is None
        everything = compiled(student(name), Backend())(images)
        assert (everything.unpooled is everything.features[-1]) != own
        output.unpooled.square().sum().backward()


def test_networks_that_share_a_graph_keep_their_own_weights_and_gradients() -> None:
    images = torch.rand(BATCH, 3, 16, 16)
    first, second, backend = student(), student(), Backend()
    with torch.no_grad():
        second.core.classifier.weight.mul_(2)
    for network in (first, second):
        compiled(network, backend)(images).logits.square().sum().backward()
    plain = student()
    with torch.no_grad():
        plain.core.classifier.weight.mul_(2)
    plain(images).logits.square().sum().backward()
    assert backend.graphs == 1
    for ours, expected in zip(second.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)
    assert not torch.allclose(first.core.stem[0].weight.grad, second.core.stem[0].weight.grad)


def test_a_batch_that_is_not_whole_runs_uncompiled() -> None:
    backend, network = Backend(), student()
    run = compiled(network, backend)
    run(torch.rand(BATCH - 1, 3, 16, 16))
    assert backend.graphs == 0
    run(torch.rand(BATCH, 3, 16, 16))
    run(torch.rand(2 * BATCH, 3, 16, 16))  # two views in one pass
    assert backend.graphs == 2


def test_many_graphs_of_one_class_do_not_fall_back_to_no_graph() -> None:
    """Dynamo's own limit is 8."""
    backend, network = Backend(), student()
    for size in range(1, 13):
        compiled(network, backend).graph(network, None, torch.rand(size, 3, 16, 16))
    assert backend.graphs == 12


def test_graphs_are_kept_where_they_outlive_the_machines_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    Compiled(student(), BATCH)
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    assert Path(cache_dir()) == Path("~/.cache/kdbench/compiled").expanduser()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    Compiled(student(), BATCH)
    assert cache_dir() == "/elsewhere"


def test_a_compiled_cohort_learns_what_an_uncompiled_one_does(tmp_path: Path) -> None:
    losses = []
    for number, compile in enumerate((False, True)):
        numerics = dataclasses.replace(FP32, compile=compile, backend="aot_eager")
        bench = Bench(tmp_path / str(number), numerics=numerics, student="cifar_resnet8", epochs=2)
        records = bench.run([bench.cell("kd"), bench.cell("student")])
        losses.append([point["loss"] for record in records for point in record["curve"]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
