"""A snapshot is the state as it was, whatever happens to it afterwards, and a checkpoint of it the same."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdbench.records import Store
from kdbench.records.snapshots import Snapshot

CPU = torch.device("cpu")


def mixed() -> dict[str, Any]:
    """Tensors of all kinds that states have."""
    images = torch.arange(48.0).reshape(2, 2, 3, 4)
    shared = torch.arange(5)
    return {
        "epoch": 3,
        "students": [OrderedDict(a=torch.ones(2, 3), b=torch.tensor(7))],
        "channels_last": images.contiguous(memory_format=torch.channels_last),
        "pointwise": torch.arange(8.0).reshape(8, 1, 1, 1).as_strided((8, 1, 1, 1), (1, 1, 8, 8)),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "every other": torch.arange(10.0)[::2],
        "expanded": torch.ones(1).expand(4),
        "part": torch.arange(10, dtype=torch.int32)[3:7],
        "halves": torch.ones(3, dtype=torch.bfloat16),
        "masks": torch.tensor([True, False]),
        "complex": torch.complex(torch.ones(2), torch.zeros(2)),
        "none": torch.zeros(0, 4),
        "twice": [shared, shared],
        "trained": nn.Parameter(torch.ones(2)),
        "extra": ("a", 1, 2.5, None, b"x", {3}, {"deep": [torch.zeros(1)]}),
    }


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in leaves(inner)]
    if isinstance(value, list | tuple):
        return [leaf for inner in value for leaf in leaves(inner)]
    return [value]


def assert_same(ours: Any, theirs: Any) -> None:
    mine, others = leaves(ours), leaves(theirs)
    assert [type(leaf) for leaf in mine] == [type(leaf) for leaf in others]
    for a, b in zip(mine, others, strict=True):
        if isinstance(a, Tensor):
            assert (a.dtype, a.shape, a.requires_grad) == (b.dtype, b.shape, b.requires_grad)
            assert torch.equal(a, b)
        else:
            assert a == b


def test_a_snapshot_gives_the_state_back() -> None:
    state = mixed()
    found = Snapshot(state).state()
    assert_same(found, state)
    for name in ("channels_last", "pointwise", "turned"):
        assert found[name].stride() == state[name].stride()


def test_what_happens_to_the_state_afterwards_is_not_in_the_snapshot() -> None:
    state, before = mixed(), mixed()
    snapshot = Snapshot(state)
    for leaf in leaves(state):
        if isinstance(leaf, Tensor) and leaf.numel() and not leaf._is_view():
            leaf.detach().zero_()
    state["students"].append("more")
    state["extra"][-1]["deep"].clear()
    assert_same(snapshot.state(), before)


def test_what_comes_back_shares_no_memory() -> None:
    found = [leaf for leaf in leaves(Snapshot(mixed()).state()) if isinstance(leaf, Tensor) and leaf.numel()]
    assert len({tensor.untyped_storage().data_ptr() for tensor in found}) == len(found)


def test_the_versions_of_a_modules_layers_stay_with_its_state() -> None:
    layer = nn.BatchNorm1d(3)
    found = Snapshot({"epoch": 1, "layer": layer.state_dict()}).state()["layer"]
    assert type(found) is OrderedDict
    assert found._metadata == layer.state_dict()._metadata  # type: ignore[attr-defined]
    layer.load_state_dict(found)


def test_a_checkpoint_of_a_snapshot_is_one_of_the_state(tmp_path: Path) -> None:
    for name, state in (("plain", mixed()), ("copied", Snapshot(mixed()).state())):
        Store(tmp_path / name).save_checkpoint("abc", state)
    plain, copied = (
        Store(tmp_path / name).restore("abc", CPU, lambda state: state, pytest.fail) for name in ("plain", "copied")
    )
    assert_same(copied, plain)
    assert copied is not None
    assert copied["channels_last"].stride() == mixed()["channels_last"].stride()


def test_what_no_checkpoint_can_hold_is_refused_where_it_is_copied() -> None:
    with pytest.raises(TypeError, match=r"the state has method\.where \(pathlib\.PosixPath\), which no checkpoint"):
        Snapshot({"epoch": 1, "method": {"where": Path("here")}})


def test_a_state_is_copied_in_one_piece_for_each_dtype() -> None:
    joined = []
    real = torch.cat

    def cat(rows: list[Tensor]) -> Tensor:
        joined.append((rows[0].dtype, len(rows)))
        return real(rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "cat", cat)
        Snapshot({"epoch": 1, "a": torch.ones(2), "b": [torch.zeros(3, 3), torch.ones(2).long()]})
    assert sorted(joined, key=str) == [(torch.float32, 2), (torch.int64, 1)]
