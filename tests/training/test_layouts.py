"""Checkpoints of the field's code bases are read by order and shape; the layouts are made here, not downloaded."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdbench.errors import KDBenchError
from kdbench.tasks.image.networks import create
from kdbench.training.layouts import COUNTER, OWN, fitted
from kdbench.training.weights import read_weights

NETWORKS = (
    "cifar_resnet8", "cifar_resnet20", "cifar_resnet8x4", "cifar_wrn_16_2", "cifar_wrn_40_1",
    "cifar_vgg8", "cifar_vgg13", "cifar_mobilenetv2", "cifar_shufflenetv1", "cifar_shufflenetv2",
)  # fmt: skip


def network(name: str, classes: int = 100) -> Any:
    return create(name, num_classes=classes, in_chans=3, input_size=(3, 32, 32))


def foreign(name: str, counters: bool = True) -> dict[str, Tensor]:
    """The weights of such a network under names of another code base, in the same order."""
    torch.manual_seed(7)
    own = network(name).core.state_dict()
    kept = {key: value for key, value in own.items() if counters or not key.endswith(COUNTER)}
    return {
        f"block{n}.{key.rpartition('.')[2]}": torch.rand_like(value) if value.is_floating_point() else value
        for n, (key, value) in enumerate(kept.items())
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_of_any_code_base_fits_its_network_and_no_other(name: str) -> None:
    weights, own = foreign(name), network(name)
    named, layout = fitted(own, weights)
    assert layout == "RepDistiller's and mdistiller's, by order and shape"
    own.core.load_state_dict(named)
    for value, theirs in zip(own.core.state_dict().values(), weights.values(), strict=True):
        assert torch.equal(value, theirs)
    for other in NETWORKS:
        if other != name:
            with pytest.raises(KDBenchError, match=f"the checkpoint is not of network '{other}'"):
                fitted(network(other), weights)


LAYOUTS = {
    "RepDistiller's best": lambda w: {"epoch": 240, "model": w, "best_acc": np.float64(72.5), "optimizer": {"lr": 0.1}},
    "RepDistiller's last": lambda w: {"opt": argparse.Namespace(model="resnet20", lr=0.05), "model": w},
    "RepDistiller's on a GPU": lambda w: {"model": w, "accuracy": torch.tensor(72.5)},
    "mdistiller's best": lambda w: {"model": w},
    "mdistiller's latest": lambda w: {
        "epoch": 240,
        "model": {f"module.{who}.{k}": v + (who == "teacher") for who in ("student", "teacher") for k, v in w.items()},
        "optimizer": {},
        "best_acc": np.float32(72.5),
    },
    "of several GPUs": lambda w: {"state_dict": {f"module.{key}": value for key, value in w.items()}},
    "bare": lambda w: w,
}  # fmt: skip


@pytest.mark.parametrize("counters", [True, False], ids=["counters", "old torch"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "format of 2019"])
def test_what_they_save_is_read(tmp_path: Path, layout: str, counters: bool, zipped: bool) -> None:
    weights = foreign("cifar_resnet8", counters)
    torch.save(LAYOUTS[layout](weights), tmp_path / "ckpt.pth", _use_new_zipfile_serialization=zipped)
    read = read_weights(tmp_path / "ckpt.pth")
    own = network("cifar_resnet8")
    named, _ = fitted(own, read)
    own.core.load_state_dict(named)
    kept = [value for key, value in own.core.state_dict().items() if not key.endswith(COUNTER)]
    theirs = [value for key, value in weights.items() if not key.endswith(COUNTER)]
    assert all(torch.equal(a, b) for a, b in zip(kept, theirs, strict=True))


def test_numpy_1s_scalars_are_read(tmp_path: Path) -> None:
    """They name a module that numpy 2 calls otherwise."""
    torch.save({"model": foreign("cifar_resnet8"), "best_acc": np.float64(72.5)}, tmp_path / "new.pth",
               _use_new_zipfile_serialization=False)  # fmt: skip
    content = (tmp_path / "new.pth").read_bytes()
    old, new = b"cnumpy.core.multiarray\nscalar", b"cnumpy._core.multiarray\nscalar"
    for name in (old, new):
        (tmp_path / "ckpt.pth").write_bytes(
            content.replace(new, name) if new in content else content.replace(old, name)
        )
        assert len(read_weights(tmp_path / "ckpt.pth")) == len(foreign("cifar_resnet8"))


class Nasty:
    def __reduce__(self) -> Any:
        return (print, ("code ran",))


def test_code_is_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": foreign("cifar_resnet8"), "opt": Nasty()}, tmp_path / "ckpt.pth")
    with pytest.raises(KDBenchError, match="cannot be read as plain weights"):
        read_weights(tmp_path / "ckpt.pth")
    assert "code ran" not in capsys.readouterr().out


def test_kdbenchs_own_names_come_first_and_a_lack_is_named() -> None:
    own = network("cifar_resnet8")
    weights = dict(own.core.state_dict())
    assert fitted(own, weights)[1] == OWN
    assert fitted(own, {key: v for key, v in weights.items() if not key.endswith(COUNTER)})[1] == OWN
    lost = next(key for key in weights if key.endswith("weight"))
    with pytest.raises(KDBenchError, match=f"it lacks '{lost}'"):
        fitted(own, {key: value for key, value in weights.items() if key != lost})
    with pytest.raises(KDBenchError, match="another number of classes or another input"):
        fitted(own, network("cifar_resnet8", classes=10).core.state_dict())


def test_other_networks_are_not_guessed_at() -> None:
    own = create("test_resnet", num_classes=10, in_chans=3, input_size=(3, 32, 32))
    renamed = {f"x.{key}": value for key, value in own.core.state_dict().items()}
    with pytest.raises(KDBenchError, match="the checkpoint is not of network 'test_resnet'"):
        fitted(own, renamed)
