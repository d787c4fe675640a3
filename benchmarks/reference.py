"""The training loop of the field's code (RepDistiller, mdistiller), as its users run it: what cohorts are held against.

One run trains one method: a DataLoader with worker processes opens, crops, flips and normalises each image; the frozen
teacher runs on each batch for this run alone; then student, loss, backward, SGD, and meters of the loss, top-1 and
top-5 that are read at every step. fp32, channels-first, not compiled. Nothing is slower here than there, and nothing is
saved. The losses are written as there (softmax and log apart, a mask of 1000 in DKD); tests/test_benchmarks.py holds
them against kdbench's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR100

from kdbench import Network, Output

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


# --------------------------------------------------------------------------------------------------------------- losses


class Loss(nn.Module):
    """A method's loss: named terms, already weighted; layers that it trains are its own."""

    def forward(self, student: Output, teacher: Output, targets: Tensor, epoch: int) -> dict[str, Tensor]:
        raise NotImplementedError


class KD(Loss):
    def forward(self, student: Output, teacher: Output, targets: Tensor, epoch: int) -> dict[str, Tensor]:
        temperature = 4.0
        ours = F.log_softmax(student.logits / temperature, dim=1)
        theirs = F.softmax(teacher.logits / temperature, dim=1)
        divergence = F.kl_div(ours, theirs, reduction="none").sum(1).mean() * temperature**2
        return {"loss_ce": 0.1 * F.cross_entropy(student.logits, targets), "loss_kd": 0.9 * divergence}


class DKD(Loss):
    def forward(self, student: Output, teacher: Output, targets: Tensor, epoch: int) -> dict[str, Tensor]:
        alpha, beta, temperature, warmup = 1.0, 8.0, 4.0, 20
        is_target = F.one_hot(targets, student.logits.shape[1]).bool()  # [B, K]

        def target_and_rest(logits: Tensor) -> Tensor:  # [B, 2]
            p = F.softmax(logits / temperature, dim=1)
            return torch.cat([(p * is_target).sum(1, keepdim=True), (p * ~is_target).sum(1, keepdim=True)], dim=1)

        def summed_kl(log_ours: Tensor, theirs: Tensor) -> Tensor:
            return F.kl_div(log_ours, theirs, reduction="sum") * temperature**2 / len(targets)

        tckd = summed_kl(target_and_rest(student.logits).log(), target_and_rest(teacher.logits))
        ours, theirs = (output.logits / temperature - 1000.0 * is_target for output in (student, teacher))
        nckd = summed_kl(F.log_softmax(ours, dim=1), F.softmax(theirs, dim=1))
        ramp = min(epoch / warmup, 1.0)
        return {
            "loss_ce": F.cross_entropy(student.logits, targets),
            "loss_kd": ramp * (alpha * tckd + beta * nckd),
        }


class AT(Loss):
    def forward(self, student: Output, teacher: Output, targets: Tensor, epoch: int) -> dict[str, Tensor]:
        def attention(feature: Tensor) -> Tensor:  # [B, H W]
            return F.normalize(feature.pow(2).mean(1).flatten(1))

        gaps = [
            (attention(ours) - attention(theirs)).pow(2).mean()
            for ours, theirs in zip(student.features, teacher.features, strict=True)
        ]
        return {"loss_ce": F.cross_entropy(student.logits, targets), "loss_kd": 1000.0 * sum(gaps[1:], gaps[0])}


class SP(Loss):
    def forward(self, student: Output, teacher: Output, targets: Tensor, epoch: int) -> dict[str, Tensor]:
        def similarity(feature: Tensor) -> Tensor:  # [B, B]
            flat = feature.flatten(1)
            return F.normalize(flat @ flat.T)

        gap = similarity(teacher.features[-1]) - similarity(student.features[-1])
        distance = gap.pow(2).sum() / len(targets) ** 2
        return {"loss_ce": F.cross_entropy(student.logits, targets), "loss_kd": 3000.0 * distance}


class FitNet(Loss):
    """Maps of equal size at the second stage, as the literature's pairs of one family have them."""

    def __init__(self, student: Network, teacher: Network) -> None:
        super().__init__()
        ours, theirs = student.shapes.features[1][0], teacher.shapes.features[1][0]
        self.conv, self.bn = nn.Conv2d(ours, theirs, 1), nn.BatchNorm2d(theirs)

    def forward(self, student: Output, teacher: Output, targets: Tensor, epoch: int) -> dict[str, Tensor]:
        hint = F.relu(self.bn(self.conv(student.features[1])))
        distance = F.mse_loss(hint, teacher.features[1])
        return {"loss_ce": F.cross_entropy(student.logits, targets), "loss_kd": 100.0 * distance}


class PKT(Loss):
    def forward(self, student: Output, teacher: Output, targets: Tensor, epoch: int) -> dict[str, Tensor]:
        eps = 1e-7

        def probabilities(embedding: Tensor) -> Tensor:  # [B, B]
            unit = embedding / (embedding.norm(dim=1, keepdim=True) + eps)
            shifted = (unit @ unit.T + 1.0) / 2.0
            return shifted / shifted.sum(1, keepdim=True)

        theirs, ours = probabilities(teacher.embedding), probabilities(student.embedding)
        divergence = (theirs * torch.log((theirs + eps) / (ours + eps))).mean()
        return {"loss_ce": F.cross_entropy(student.logits, targets), "loss_kd": 30000.0 * divergence}


LOSSES: dict[str, Callable[[Network, Network], Loss]] = {
    "kd": lambda student, teacher: KD(),
    "dkd": lambda student, teacher: DKD(),
    "at": lambda student, teacher: AT(),
    "sp": lambda student, teacher: SP(),
    "fitnet": FitNet,
    "pkt": lambda student, teacher: PKT(),
}


# ----------------------------------------------------------------------------------------------------------------- loop


class Meter:
    """The running mean of one number."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, value: float, count: int) -> None:
        self.total, self.count = self.total + value * count, self.count + count

    @property
    def mean(self) -> float:
        return self.total / max(self.count, 1)


def loader(root: Path, batch_size: int, workers: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """CIFAR-100's training images with the literature's augmentation."""
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    images = CIFAR100(str(root), train=True, transform=transform)
    return DataLoader(images, batch_size=batch_size, shuffle=True, num_workers=workers)


class Loop:
    """One method's training.

    Attributes:
        meters: of the loss, top-1 and top-5 (in percent).
    """

    def __init__(
        self,
        method: str,
        student: Network,
        teacher: Network,
        images: DataLoader[tuple[Tensor, Tensor]],
        device: torch.device,
    ) -> None:
        self.device, self.images = device, images
        self.student, self.teacher = student.to(device).train(), teacher.to(device).eval()
        self.loss = LOSSES[method](student, teacher).to(device).train()
        trained = [*self.student.parameters(), *self.loss.parameters()]
        self.optimizer = torch.optim.SGD(trained, lr=0.05, momentum=0.9, weight_decay=5e-4)
        self.meters = {"loss": Meter(), "top1": Meter(), "top5": Meter()}
        self._batches: Iterator[tuple[Tensor, Tensor]] = iter(())
        self.epoch = 0

    def _next(self) -> tuple[Tensor, Tensor]:
        """The next batch; a new epoch, and with it new worker processes, where the last one is used up."""
        batch = next(self._batches, None)
        if batch is None:
            self.epoch += 1
            self._batches = iter(self.images)
            batch = next(self._batches)
        return batch

    def steps(self, count: int) -> None:
        # cuDNN as the field's scripts set it
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
            for _ in range(count):
                self._step(*self._next())  # reads its meters, and so waits for the device

    def _step(self, inputs: Tensor, targets: Tensor) -> None:
        inputs, targets = inputs.to(self.device), targets.to(self.device)
        self.optimizer.zero_grad()
        student = self.student(inputs)
        with torch.no_grad():
            teacher = self.teacher(inputs)
        terms = self.loss(student, teacher, targets, self.epoch)
        loss = torch.stack([term.mean() for term in terms.values()]).sum()
        loss.backward()
        self.optimizer.step()
        top1, top5 = accuracy(student.logits, targets)
        for name, value in (("loss", loss.item()), ("top1", top1), ("top5", top5)):
            self.meters[name].update(value, len(targets))


@torch.no_grad()
def accuracy(logits: Tensor, targets: Tensor) -> tuple[float, float]:
    """Top-1 and top-5 in percent."""
    hits = logits.topk(5, dim=1).indices == targets[:, None]  # [B, 5]
    return hits[:, 0].float().mean().item() * 100, hits.any(1).float().mean().item() * 100
