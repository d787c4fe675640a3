"""Workers go on from one pass over a set to the next, and nobody can tell by the images."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Sequence

import pytest
import torch
from PIL import Image
from torch import Tensor

from kdbench.errors import KDBenchError
from kdbench.method import Batch
from kdbench.tasks.image.data import StreamedData, StreamLoader

TRAIN, TEST, BATCH = 22, 10, 4  # the last training batch is not full
PATIENCE = 60  # seconds; only a test that fails waits so long


class Sheets:
    """Images that are unlike each other, and know how many of them were opened, and which cannot be."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.opened = multiprocessing.Semaphore(0)
        self.broken = multiprocessing.Value("i", -1)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Image.Image:
        self.opened.release()
        if index == self.broken.value:
            raise KDBenchError(f"image {index} cannot be read: replace it")
        return Image.frombytes("RGB", (16, 12), bytes((index * 7 + i * i) % 256 for i in range(3 * 16 * 12)))

    def were_opened(self, count: int) -> bool:
        """Whether so many are opened within the test's patience, beside those that this was asked of before."""
        return all(self.opened.acquire(timeout=PATIENCE) for _ in range(count))


def sheets() -> StreamedData:
    train, test = torch.arange(TRAIN) % 2, torch.arange(TEST) % 2
    grey = (0.5,) * 3
    return StreamedData("sheets", Sheets(TRAIN), train, Sheets(TEST), test, 2, ("a", "b"), grey, grey, image_size=8)


def loader(data: StreamedData, workers: int, **options: bool) -> StreamLoader:
    return StreamLoader(data, BATCH, workers=workers, seed=5, test_batch_size=BATCH, **options)


def processes() -> set[int | None]:
    return {process.pid for process in multiprocessing.active_children()}


def shown(batches: Sequence[Batch]) -> Tensor:
    return torch.cat([batch.inputs for batch in batches])


def test_the_workers_of_both_splits_survive_epochs_and_evaluations() -> None:
    before, stream = processes(), loader(sheets(), workers=2)
    list(stream.epoch(0)), list(stream.test_batches())
    first = processes() - before
    list(stream.epoch(1)), list(stream.test_batches())
    assert len(first) == 4
    assert processes() - before == first


def test_the_next_epoch_is_begun_before_anyone_asks_for_it() -> None:
    data = sheets()
    stream = loader(data, workers=2)
    list(stream.epoch(0))
    ahead = 2 * 2 * BATCH  # two batches a worker
    assert data.train.were_opened(TRAIN + ahead)
    assert not data.train.opened.acquire(block=False)
    list(stream.epoch(1))
    assert data.train.were_opened(TRAIN)  # what was read ahead was not read again


def test_the_test_set_is_not_read_ahead() -> None:
    data = sheets()
    stream = loader(data, workers=1)
    list(stream.test_batches())
    list(stream.test_batches())
    assert data.test.were_opened(2 * TEST)
    assert not data.test.opened.acquire(block=False)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_epochs_images_depend_on_neither_workers_nor_what_was_read_before(workers: int) -> None:
    stream = loader(sheets(), workers)
    for number in (0, 1, 3, 3, 2):
        alone = loader(sheets(), workers=0).epoch(number)
        assert torch.equal(shown(list(stream.epoch(number))), shown(list(alone)))


@pytest.mark.parametrize("number", [0, 1])
def test_an_epoch_left_early_is_forgotten(number: int) -> None:
    stream = loader(sheets(), workers=2)
    for batch in stream.epoch(0):
        assert len(batch) == BATCH
        break
    assert torch.equal(shown(list(stream.epoch(number))), shown(list(loader(sheets(), workers=0).epoch(number))))


def test_two_epochs_at_a_time_do_not_mix() -> None:
    stream = loader(sheets(), workers=1)
    first, second = zip(*zip(stream.epoch(0), stream.epoch(1), strict=True), strict=True)
    for number, batches in enumerate((first, second)):
        assert torch.equal(shown(batches), shown(list(loader(sheets(), workers=0).epoch(number))))


@pytest.mark.parametrize("workers", [0, 2])
def test_after_an_error_the_next_epoch_is_read_anew(workers: int) -> None:
    data, before = sheets(), processes()
    stream = loader(data, workers)
    data.train.broken.value = 13
    with pytest.raises(KDBenchError, match=r"^image 13 cannot be read: replace it$"):
        list(stream.epoch(0))
    assert processes() == before
    data.train.broken.value = -1
    assert torch.equal(shown(list(stream.epoch(0))), shown(list(loader(sheets(), workers=0).epoch(0))))


def test_an_error_in_an_epoch_that_is_read_ahead_is_not_this_epochs() -> None:
    data = sheets()
    stream = loader(data, workers=1)
    batches = stream.epoch(0)
    started = [next(batches) for _ in range(stream.steps_per_epoch - 1)]
    assert data.train.were_opened(TRAIN)
    data.train.broken.value = int(stream.order.batches(1)[1][0])
    assert len(shown([*started, *batches])) == TRAIN
    with pytest.raises(KDBenchError, match="cannot be read"):
        list(stream.epoch(1))


def test_a_loader_with_a_strong_view_has_no_second_set_of_workers() -> None:
    data, before = sheets(), processes()
    plain, strong = loader(data, workers=2), loader(data, workers=2, strong=True)
    first = shown(list(plain.epoch(0)))
    batches = list(strong.epoch(0))
    assert len(processes() - before) == 2
    assert torch.equal(first, shown(batches))
    assert all(batch.strong is not None for batch in batches)


def test_no_process_outlives_its_loader() -> None:
    before = processes()
    stream = loader(sheets(), workers=2)
    list(stream.epoch(0)), list(stream.test_batches()), list(stream.batches())
    assert len(processes() - before) == 4
    del stream
    assert processes() == before


def test_workers_of_a_loader_in_a_cycle_end_of_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    def terminate(process: multiprocessing.process.BaseProcess) -> None:
        raise AssertionError("a worker was waited for in vain")

    before, holder = processes(), {}
    holder["self"], holder["stream"] = holder, loader(sheets(), workers=1)
    list(holder["stream"].epoch(0))
    del holder
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "terminate", terminate)
    gc.collect()
    assert processes() == before
