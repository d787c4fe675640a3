"""Protocols change the training samples by what they say, reproducibly, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import toy_task

from kdbench import tasks
from kdbench.errors import KDBenchError
from kdbench.hardware.numerics import Numerics
from kdbench.seeding import generator
from kdbench.suites.parse import parse
from kdbench.tasks import protocols
from kdbench.tasks.image.data import ImageData, StreamedData, load_data
from kdbench.tasks.image.data.sets import Images

TOKENS: dict[str, Any] = {
    "pairs": [{"teacher": "tokens_24_3", "student": "tokens_8_2"}],
    "methods": ["student"],
    "recipe": {"epochs": 1, "batch_size": 16},
}


def draws() -> torch.Generator:
    return generator("test")


def in_memory(counts: list[int]) -> ImageData:
    """A set whose sample i has the pixel value i % 256."""
    targets = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    images = (torch.arange(len(targets)) % 256).to(torch.uint8)[:, None, None, None].repeat(1, 3, 2, 2)
    classes = tuple(f"class {c}" for c in range(len(counts)))
    return ImageData("toy", images, targets, images[:2], targets[:2], len(counts), classes, (0.5,) * 3, (0.5,) * 3)


class Numbers:
    """Stands for images on disk: item i is i itself."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index


def streamed(counts: list[int]) -> StreamedData:
    data = in_memory(counts)
    images: Images = Numbers(len(data.train_targets))
    return StreamedData(
        "toy",
        images,
        data.train_targets,
        Numbers(2),
        data.test_targets,
        len(counts),
        data.classes,
        data.mean,
        data.std,
        8,
    )


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.45, 1.0])
@pytest.mark.parametrize("kind", ["symmetric", "pairflip"])
def test_noise_changes_exactly_its_share_of_the_labels(kind, rate):
    targets = torch.arange(1000) % 10
    noisy = protocols.add_label_noise(targets, 10, kind, rate, draws())
    assert (noisy != targets).sum() == round(1000 * rate)


def test_symmetric_noise_reaches_every_other_class_evenly_and_never_the_true_one():
    targets = torch.zeros(9000, dtype=torch.int64)
    counts = torch.bincount(protocols.add_label_noise(targets, 10, "symmetric", 1.0, draws()), minlength=10)
    assert counts[0] == 0
    assert counts[1:].tolist() == pytest.approx([1000] * 9, abs=130)  # 4 standard deviations


def test_pairflip_noise_turns_a_class_into_the_next():
    targets = torch.arange(100) % 10
    noisy = protocols.add_label_noise(targets, 10, "pairflip", 0.3, draws())
    wrong = noisy != targets
    assert torch.equal(noisy[wrong], (targets[wrong] + 1) % 10)


def test_noise_keeps_clean_labels_and_the_test_set():
    data = load_data("digits", protocol={"label_noise": {"kind": "symmetric", "rate": 0.4}})
    clean = load_data("digits")
    assert torch.equal(data.clean_targets, clean.train_targets)
    assert torch.equal(data.test_targets, clean.test_targets)
    assert (data.train_targets != data.clean_targets).float().mean().item() == pytest.approx(0.4, abs=5e-4)


def test_imbalance_counts_follow_the_exponential():
    # CIFAR-100-LT of Cao et al. with factor 100: 500 images of the first class, 5 of the last.
    counts = protocols.imbalanced_counts(500, 100, 100)
    assert (counts[0], counts[-1], sum(counts)) == (500, 5, 10847)
    assert counts == sorted(counts, reverse=True)


def test_imbalance_keeps_these_counts_of_each_class():
    data = protocols.apply(in_memory([40] * 5), {"imbalance": {"kind": "exponential", "factor": 16}})
    assert torch.bincount(data.train_targets).tolist() == [40, 20, 10, 5, 2]


def test_subset_keeps_n_of_each_class():
    data = load_data("digits", protocol={"subset": {"per_class": 7}})
    assert torch.bincount(data.train_targets).tolist() == [7] * 10


def test_samples_keep_their_own_images():
    data = protocols.apply(in_memory([60, 60]), {"subset": {"per_class": 20}})
    assert torch.equal((data.train_images[:, 0, 0, 0] >= 60).long(), data.train_targets)


def test_validation_is_stratified_and_replaces_the_test_set():
    data = protocols.apply(in_memory([100, 50]), {"validation": {"fraction": 0.2}})
    assert torch.bincount(data.train_targets).tolist() == [80, 40]
    assert torch.bincount(data.test_targets).tolist() == [20, 10]
    train, held = (set(images[:, 0, 0, 0].tolist()) for images in (data.train_images, data.test_images))
    assert not train & held
    assert train | held == set(range(150))


def test_held_out_labels_stay_clean():
    protocol = {"label_noise": {"kind": "symmetric", "rate": 1.0}, "validation": {"fraction": 0.2}}
    data = protocols.apply(in_memory([100, 50]), protocol)
    assert torch.equal((data.test_images[:, 0, 0, 0] >= 100).long(), data.test_targets)
    assert (data.train_targets != data.clean_targets).all()


ALL = {
    "label_noise": {"kind": "pairflip", "rate": 0.3},
    "imbalance": {"kind": "exponential", "factor": 4, "seed": 1},
    "subset": {"per_class": 30},
    "validation": {"fraction": 0.1},
}


def test_a_streamed_set_gets_the_same_samples_and_labels_as_one_in_memory():
    memory, stream = (protocols.apply(make([50] * 4), ALL) for make in (in_memory, streamed))
    assert torch.equal(memory.train_targets, stream.train_targets)
    assert torch.equal(memory.clean_targets, stream.clean_targets)
    assert memory.train_images[:, 0, 0, 0].tolist() == [stream.train[i] for i in range(len(stream.train))]
    assert memory.test_images[:, 0, 0, 0].tolist() == [stream.test[i] for i in range(len(stream.test))]


def test_a_protocol_gives_the_same_data_each_time_and_other_data_for_another_seed():
    def pixels(seed: int) -> list[int]:
        data = protocols.apply(in_memory([50] * 4), {"subset": {"per_class": 10, "seed": seed}})
        return data.train_images[:, 0, 0, 0].tolist()

    assert pixels(0) == pixels(0) != pixels(1)


def test_protocols_leave_the_global_random_numbers_alone():
    before = torch.get_rng_state()
    protocols.apply(in_memory([50] * 4), ALL)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_resolved_protocol_with_its_seeds_is_kept():
    resolved = protocols.apply(in_memory([50] * 4), ALL).protocol
    assert list(resolved) == ["validation", "subset", "imbalance", "label_noise"]
    assert resolved["label_noise"] == {"kind": "pairflip", "rate": 0.3, "seed": 0}
    assert resolved["imbalance"]["seed"] == 1


@pytest.mark.parametrize("protocol", [None, {}])
def test_no_protocol_changes_nothing(protocol):
    data = in_memory([5, 5])
    assert protocols.apply(data, protocol).train_targets is data.train_targets


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ({"label_nose": {}}, "unknown protocol 'label_nose': did you mean 'label_noise'"),
        ({"label_noise": 0.4}, "protocol label_noise is 0.4, but it must be a table"),
        ({"label_noise": {"rate": 0.4}}, "lacks its key 'kind'"),
        ({"label_noise": {"kind": "pairflip"}}, "lacks its key 'rate'"),
        ({"label_noise": {"kind": "pair", "rate": 0.4}}, "unknown kind of protocol label_noise 'pair'"),
        (
            {"label_noise": {"kind": "pairflip", "rate": 40}},
            r"label_noise.rate is 40, but it must be a number from 0 to 1",
        ),
        ({"label_noise": {"kind": "pairflip", "rat": 0.4}}, "unknown key of protocol label_noise 'rat'"),
        ({"imbalance": {"factor": 0.01}}, "imbalance.factor is 0.01, but it must be the size of the largest class"),
        ({"subset": {"per_class": 2.5}}, "subset.per_class is 2.5, but it must be a whole number"),
        ({"subset": {"per_class": 51}}, "more than the 50 training samples of class 'class 0'"),
        ({"subset": {"per_class": 5, "seed": "a"}}, "subset.seed is 'a', but it must be a whole number"),
        ({"validation": {"fraction": 1.0}}, "validation.fraction is 1.0, but it must be a number between 0 and 1"),
        ({"validation": {"fraction": 0.001}}, "holds out no sample"),
    ],
)
def test_a_wrong_protocol_is_refused_in_one_sentence(protocol, message):
    with pytest.raises(KDBenchError, match=message):
        protocols.apply(in_memory([50] * 4), protocol)


def residues(**protocol: dict[str, Any]) -> toy_task.TokenTask:
    """A classification task that is not one of images."""
    cell = parse({**TOKENS, "datasets": [{"name": "residues", "task": "tokens", "protocol": protocol}]}).cells()[0]
    task = tasks.create(cell.dataset, cell.recipe, Numerics(torch.device("cpu")), None)
    assert isinstance(task, toy_task.TokenTask)
    return task


def test_a_task_without_images_has_them_too() -> None:
    clean, noisy = residues(), residues(label_noise={"kind": "symmetric", "rate": 0.5})
    assert (clean.training_set(0, False).targets != noisy.training_set(0, False).targets).sum() == 30
    assert torch.equal(clean.targets, noisy.targets)
    few = residues(validation={"fraction": 0.5}, subset={"per_class": 4})
    assert torch.bincount(few.training_set(0, False).targets).tolist() == [4, 4, 4]
    assert len(few.targets) == 29  # half of each class


def test_a_task_without_images_is_told_what_is_wrong_by_its_name() -> None:
    with pytest.raises(KDBenchError, match="of class 'none' of 'residues': give at most"):
        residues(subset={"per_class": 1000})
