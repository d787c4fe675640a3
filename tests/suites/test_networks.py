"""Networks take options in a suite, as timm's."""

from __future__ import annotations

from typing import Any

import pytest

from kdbench.commands.options import words
from kdbench.errors import KDBenchError
from kdbench.suites import parse
from kdbench.suites.networks import canonical, split
from kdbench.tasks.image.networks import create
from kdbench.training.precision import layers_of

BASE: dict[str, Any] = {
    "datasets": ["digits"],
    "methods": ["student", "kd"],
    "recipe": {"epochs": 2},
    "pairs": [{"teacher": "cifar_resnet20", "student": "cifar_resnet8"}],
}


def suite(**pair: Any) -> Any:
    return parse.parse({**BASE, "pairs": [{**BASE["pairs"][0], **pair}]})


@pytest.mark.parametrize(
    ("written", "spelt"),
    [
        ("cifar_resnet8", "cifar_resnet8"),
        ("cifar_resnet8()", "cifar_resnet8"),
        (" cifar_resnet8( width_factor=0.50 )", "cifar_resnet8(width_factor=0.5)"),
        ("cifar_resnet8(width_factor=2.0)", "cifar_resnet8(width_factor=2)"),
        ("vit(img_size=[64, 64], depth=3)", "vit(depth=3, img_size=(64, 64))"),
        ("net.tag_in1k(act_layer='silu', pool=True)", "net.tag_in1k(act_layer='silu', pool=True)"),
    ],
)
def test_a_network_has_one_spelling(written: str, spelt: str) -> None:
    assert canonical(written) == spelt == canonical(spelt)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cifar_resnet8(width_factor=2", "no name with options in one pair of brackets"),
        ("(width_factor=2)", "no name with options"),
        ("cifar_resnet8(2)", "an option has no name"),
        ("cifar_resnet8(**x)", "an option has no name"),
        ("cifar_resnet8(width_factor=)", "cannot be read"),
        ("cifar_resnet8(width_factor=f())", "the value of 'width_factor' is no number"),
    ],
)
def test_a_malformed_name_says_how_to_write_it(name: str, said: str) -> None:
    with pytest.raises(KDBenchError, match=said) as error:
        split(name)
    assert repr(name) in str(error.value)
    assert "write it like cifar_resnet8(width_factor=0.5)" in str(error.value)


def test_options_are_part_of_pair_and_cell() -> None:
    thin, spaced, plain = (
        suite(student=name).cells()[1]
        for name in ("cifar_resnet8(width_factor=0.5)", "cifar_resnet8(width_factor = 0.50)", "cifar_resnet8")
    )
    assert thin.id == spaced.id != plain.id
    assert str(thin.pair) == "cifar_resnet20 -> cifar_resnet8(width_factor=0.5)"
    assert thin.config["student"] == "cifar_resnet8(width_factor=0.5)"


def test_a_teacher_has_options_and_a_seed_and_its_recipe_is_found() -> None:
    wide = "cifar_resnet20(width_factor=2)"
    pair = {"teacher": wide, "pool": [wide, f"{wide}@1"], "student": "cifar_resnet8"}
    table = {**BASE, "pairs": [pair], "teacher_recipes": {"cifar_resnet20(width_factor=2.0)": {"epochs": 7}}}
    cell = parse.parse(table).cells()[1]
    assert [(t.network, t.seed) for t in cell.pair.pool] == [(wide, 0), (wide, 1)]
    assert cell.teacher_recipes[0].epochs == 7


def test_a_network_is_built_with_its_options() -> None:
    data = {"num_classes": 10, "in_chans": 1, "input_size": (1, 28, 28)}
    thin = create("cifar_resnet8(width_factor = 0.50)", **data)
    assert thin.name == "cifar_resnet8(width_factor=0.5)"
    assert [shape[0] for shape in thin.shapes.features] == [8, 16, 32]
    assert [shape[0] for shape in create(thin.name, width_factor=0.5, **data).shapes.features] == [4, 8, 16]
    large = create("test_vit(img_size=64)", num_classes=10, in_chans=3, input_size=(3, 32, 32))
    assert large.core.patch_embed.img_size == (64, 64)
    assert layers_of("cifar_resnet8(width_factor=0.5)") == layers_of("cifar_resnet8")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cifar_resnet8(widthfactor=2)", "does not take these options: .*widthfactor"),
        ("cifar_resnet8(num_classes=3)", "gives 'num_classes', which data and suite decide"),
        ("cifar_resnet9(width_factor=2)", "unknown network 'cifar_resnet9': did you mean"),
    ],
)
def test_options_that_a_network_lacks_are_named(name: str, said: str) -> None:
    with pytest.raises(KDBenchError, match=said):
        create(name, num_classes=10, in_chans=1, input_size=(1, 28, 28))


def test_commas_in_brackets_separate_nothing() -> None:
    assert words("kd(beta=1, temperature=2), dkd,") == ["kd(beta=1, temperature=2)", "dkd"]
