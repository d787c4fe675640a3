"""Which of a Wide ResNet's two last maps a method reads: the literature's raw sum, or the map that its head pools."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from support.loops import (
    Whole,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    images,
    real,
)
from torch import Tensor

from kdbench import Batch, Network, Output, registry
from kdbench.reads import declared, taps_of

POOLED = {"byot", "camkd", "cat_kd", "fcfd", "norm", "ofa", "residual_kd", "scalekd", "sdd", "simkd", "srrl", "vkd"}
RAW = {
    *("at", "fsp", "ft", "hkd", "ickd", "kdsvd", "mgd", "mmkd", "nst", "reviewkd", "semckd", "sp", "sskd", "uhkd"),
    *("unikd", "vid", "wkd_f"),
}
MIDDLE = {"fitnet", "fitnet_mkd", "irg", "mhkd", "one"}  # do not read the last of three stages, or not by default
SIDE = 8  # of the images
PHASES = {"fsp": "init", "sskd": "stage_2"}
SEVERAL = {"camkd", "mmkd"}  # teachers


def wide_resnets() -> tuple[list[Network], list[Network]]:
    """A student, another one for mutual methods, and two teachers; norms that are not the identity."""
    found = [real("cifar_wrn_16_1", SIDE, seed) for seed in range(4)]
    for network in found:
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.normal_(module.bias)
    return found[:2], [network.requires_grad_(False).eval() for network in found[2:]]


def ready(name: str) -> tuple[Any, Batch, list[Network], list[Network]]:
    """The method on two Wide ResNets, after `prepare` and in the middle of its training."""
    students, teachers = wide_resnets()
    method, data = registry.create(name), images(SIDE)
    students = students[: len(method.members())]
    teachers = teachers[: 2 if name in SEVERAL else 1]
    method.bind(students, teachers)
    method.prepare(Whole(data), teachers)
    method.epoch, method.epochs, method.phase = 100, 240, PHASES.get(name, "train" if name == "ft" else "all")
    return method, data, students, teachers


def terms(method: Any, data: Batch, students: list[Output], teachers: list[Output]) -> list[Tensor]:
    torch.manual_seed(0)
    return list(method.compute(data, students, teachers).values())


def spoiled(output: Output, which: str) -> Output:
    """Another map in one of the two places."""
    if which == "final":
        return dataclasses.replace(output, final=output.unpooled.exp())
    return dataclasses.replace(output, features=(*output.features[:-1], output.features[-1].exp()))


@pytest.mark.parametrize("name", sorted(POOLED | RAW))
def test_a_method_reads_one_of_the_two_last_maps_of_a_wide_resnet_and_declares_it(name: str) -> None:
    method, data, students, teachers = ready(name)
    said = [student(data.inputs) for student in students]
    theirs = [teacher(data.inputs) for teacher in teachers]
    before = terms(method, data, said, theirs)
    for which in ("final", "features"):
        others = [spoiled(output, which) for output in said], [spoiled(output, which) for output in theirs]
        after = terms(method, data, *others)
        same = all(map(torch.equal, before, after))
        assert same == ((which == "final") == (name in RAW)), which
    shown = [declared(out, taps_of(method, network), name) for out, network in zip(said, students, strict=True)]
    assert all(map(torch.equal, before, terms(method, data, shown, theirs)))


def test_every_method_that_reads_stage_maps_is_looked_at_here() -> None:
    reading = {name for name in registry.names("image") if registry.get(name).needs & {"features", "maps", "unpooled"}}
    assert reading - MIDDLE == POOLED | RAW
    assert {name for name in reading if "unpooled" in registry.get(name).needs} == POOLED


def test_class_activation_maps_of_a_wide_resnet_average_to_its_logits() -> None:
    """The last map times the classifier is what the network says only for the map that the head pools."""
    (student, _), (teacher, _) = wide_resnets()
    method = registry.create("cat_kd", {"resolution": 1})
    method.bind([student], [teacher])
    said = student.eval()(images(SIDE).inputs)
    maps = method.attention(said.unpooled, student.classifier.weight)
    close(maps.flatten(1) + student.classifier.bias, said.logits)


@pytest.mark.parametrize("network", ["cifar_mobilenetv2", "cifar_shufflenetv2"])
def test_a_classifier_behind_a_convolution_in_the_head_can_be_reused(network: str) -> None:
    data, student = images(), real(network)
    teachers = [real(network, seed=seed).requires_grad_(False).eval() for seed in (1, 2)]
    outputs = [student(data.inputs)], [teacher(data.inputs) for teacher in teachers]
    for name, options in {"camkd": {}, "cat_kd": {}, "norm": {"n": 1}, "sdd": {}, "srrl": {}}.items():
        method = registry.create(name, options)
        method.bind([student], teachers if name == "camkd" else teachers[:1])
        method.prepare(Whole(data), teachers)
        method.epoch, method.epochs = 2, 2
        assert all(term.isfinite() for term in method.compute(data, *outputs).values()), name
