"""HPM-KD: Hierarchical Progressive Multi-Teacher Knowledge Distillation for Efficient Model Compression (Haase and
Dourado, 2025).

A network that weighs the teachers by the image teaches an assistant, which teaches the next one, and the last of them
the student, at a temperature that falls. Each link of this chain trains with

    L = (1 - kd_weight) CE(z, y) + kd_weight KL_T(p || z) + entropy_weight mean_i sum_m a_m log a_m
    p = sum_m a_m(x) z_tm,  a(x) = softmax(MLP2(MLP1([x; t_1; ...; t_M])))        (first link; the MLP learns with it)
    p = logits of the link above                                                  (further links; no third term)
    T = T_min + (T_max - T_min) s,  s = (1 + cos(pi epoch / epochs)) / 2          (`schedule="cosine"`)
        s = (L - L_min) / (L_max - L_min), of the losses of the link's batches so far          ("loss")
        s = 1 - exp(-slope_rate |L - L of the batch before|)                                   ("slope")

T in [2, 6], 4 where s is not known yet, MLPs of two layers of 128 with dropout 0.2, entropy_weight 0.01. `attention`
and `schedule` "heuristic" are those of the authors' library DeepBridge; `assistants=0` has no chain.

Deviations, from a draft that leaves much open and that its authors' raw results contradict (there it is plain KD):
- The cosine runs over the link's epochs, where the draft prints T_max; "slope" is the opposite of the formula, as the
  text around it wants.
- The chain is the pair's assistants, in fixed number: the draft makes them, in geometric sizes, and ends it when a link
  gains less than 1 % over its larger teacher, nearly always at once. Links share the epochs equally, as in `takd`.
- Inferred are T^2 before KL, kd_weight 0.7 (that of the draft's KD), the schedule (picked in the first 10 % of the
  training, by no rule), slope_rate 1, t_m of 16 numbers, and x: pixels, pooled where a side is longer than 32. T is set
  every epoch ("loss", "slope": every batch), in the draft every 10; the heuristic's 200 epochs are the link's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kdbench
from kdbench import Batch, Dataset, KDBenchError, MultiTeacherMethod, Network, Output, Paper, Phase, Step, register
from kdbench.connectors import chain_link, chain_phases, pool_to, require_images
from kdbench.losses import kl, log_kl, wide


class Attention(nn.Module):
    """MLP1 and MLP2 on images `[B, C, H, W]` and learned embeddings of the teachers: weights `[B, M]`."""

    def __init__(self, images: Tensor, teachers: int, width: int = 128, embedding: int = 16) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(torch.randn(teachers * embedding))
        size = self.pixels(images).shape[1] + teachers * embedding
        layers = [
            (nn.Linear(c_in, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, c_out))
            for c_in, c_out in ((size, width), (width, teachers))
        ]
        self.net = nn.Sequential(*layers[0], nn.ReLU(), *layers[1])

    @staticmethod
    def pixels(images: Tensor) -> Tensor:
        return pool_to(images, [min(length, 32) for length in images.shape[2:]]).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.cat([self.pixels(images), self.embeddings.expand(len(images), -1)], 1)
        return wide(self.net(x)).softmax(1)


def heuristic_attention(teachers: Tensor, student: Tensor, accuracies: Tensor, progress: float | None = None) -> Tensor:
    """DeepBridge's weights `[M]`, from probabilities `[M, N, classes]` and `[N, classes]` and the teachers' accuracies
    `[M]`; `progress` is how much of the training is over, None for a mixture of no given time.
    """
    votes, log_p = teachers.argmax(2), teachers.clamp(min=1e-10).log()
    agreement = (votes[:, None] == votes[None]).to(teachers).mean(2).sum(1) - 1  # with the other teachers
    ours, mean = student.clamp(min=1e-10).log(), teachers.mean(0).clamp(min=1e-10).log()
    diversity = torch.stack([log_kl(mean, each).mean() for each in log_p])
    alignment = torch.stack([log_kl(each, ours).mean() for each in log_p]).neg().exp()
    factors = torch.stack([accuracies.to(teachers), agreement, diversity, alignment, teachers.amax(2).mean(1)])
    mixture = (0.3, 0.25, 0.2, 0.15, 0.1)
    if progress is not None:
        mixture = (0.4 - 0.2 * progress, 0.3 - 0.1 * progress, 0.1 + 0.2 * progress, 0.1 + 0.1 * progress, 0.1)
    factors = factors + torch.finfo(factors.dtype).tiny  # equal shares of a factor that no teacher has
    return torch.stack([part * each / each.sum() for part, each in zip(mixture, factors, strict=True)]).sum(0)


def heuristic_temperature(epoch: float, divergence: Tensor, lead: Tensor) -> Tensor:
    """DeepBridge's temperature at `epoch` of 200, from KL(teacher || student) and the teacher's lead in accuracy."""
    value = 3.0 * (1 + 0.2 * (divergence > 1).to(divergence) - 0.2 * (divergence < 0.1).to(divergence))
    value = value * (1 + 0.1 * (lead > 0.2).to(lead) - 0.1 * (lead < 0.05).to(lead))
    return (value * (1 - 0.3 * min(epoch / 200, 1.0) if epoch > 50 else 1)).clamp(0.5, 10.0)


@register(
    "hpm_kd",
    family="multi_teacher",
    paper=Paper(
        title="HPM-KD: Hierarchical Progressive Multi-Teacher Knowledge Distillation for Efficient Model Compression",
        authors="Haase et al.",
        year=2025,
        arxiv="2512.09886",
        code="DeepBridge-Validation/DeepBridge",
    ),
    fidelity="reconstructed",
)
class HPMKD(MultiTeacherMethod):
    search_space = kdbench.Space(kd_weight=kdbench.Uniform(0.1, 0.9), entropy_weight=kdbench.Around())

    def __init__(
        self,
        assistants: int = 1,
        kd_weight: float = 0.7,
        entropy_weight: float = 0.01,
        attention: str = "mlp",
        schedule: str = "cosine",
        min_temperature: float = 2.0,
        max_temperature: float = 6.0,
        initial_temperature: float = 4.0,
        slope_rate: float = 1.0,
    ) -> None:
        super().__init__()
        fits = attention in ("mlp", "heuristic") and schedule in ("cosine", "loss", "slope", "heuristic")
        if not fits or assistants < 0:
            raise KDBenchError(
                f"hpm_kd cannot have {assistants} assistants, attention {attention!r}, schedule {schedule!r}"
            )
        self.assistants, self.kd_weight, self.entropy_weight = assistants, kd_weight, entropy_weight
        self.attention, self.schedule, self.slope_rate = attention, schedule, slope_rate
        self.low, self.high, self.first = min_temperature, max_temperature, initial_temperature
        self.counted_epoch = 0
        links = assistants + 1  # for each: its losses (last, the one before, smallest, largest), and the last and this
        self.register_buffer("losses", torch.full((links, 4), torch.nan))  # epoch's samples, KL, both sides' hits
        self.register_buffer("sums", torch.zeros(links, 2, 4))

    def members(self) -> tuple[str, ...]:
        return ("student",) + ("assistant",) * self.assistants

    def phases(self) -> tuple[Phase, ...]:
        return chain_phases(self.assistants)

    @torch.no_grad()
    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        if self.attention == "mlp":
            require_images("hpm_kd", teachers[0], data)
            self.attend = Attention(next(iter(data.batches())).inputs, len(teachers))
        else:
            hits = [[t(batch.inputs).logits.argmax(1) == batch.targets for t in teachers] for batch in data.batches()]
            self.register_buffer("accuracies", torch.cat([torch.stack(each) for each in hits], 1).float().mean(1))

    def step(self, step: Step) -> Mapping[str, Tensor]:
        pupil, above = chain_link(self.phase, self.assistants)
        with torch.no_grad():
            guides = [step.forward(above)] if above else step.teacher_outputs
        terms = self.loss(step.batch, step.forward(pupil), guides)
        step.update(terms)
        return terms

    def loss(self, batch: Batch, student: Output, teacher: Sequence[Output]) -> dict[str, Tensor]:
        """`student` is the network that trains; `teacher` are the teachers, or the link above alone."""
        pupil, _ = chain_link(self.phase, self.assistants)
        if self.epoch != self.counted_epoch:
            self.counted_epoch = self.epoch
            self.sums[pupil] = torch.stack([self.sums[pupil, 1], torch.zeros_like(self.sums[pupil, 1])])
        terms, logits = {}, torch.stack([output.logits for output in teacher])  # [M, B, classes]
        target = logits[0]
        if len(teacher) > 1:
            weights = self.weights(batch, student, logits)  # [B or 1, M]
            target = (weights.T[:, :, None] * logits).sum(0)
            if self.attention == "mlp":
                entropies = -(weights * weights.clamp(min=1e-12).log()).sum(1)
                terms["attention"] = -self.entropy_weight * entropies.mean()
        terms["ce"] = (1 - self.kd_weight) * F.cross_entropy(student.logits, batch.targets)
        terms["kd"] = self.kd_weight * kl(student.logits, target, self.temperature(pupil))
        self.observe(pupil, batch, student.logits, target, terms)
        return terms

    def weights(self, batch: Batch, student: Output, logits: Tensor) -> Tensor:
        if self.attention == "mlp":
            return self.attend(batch.inputs)
        ours, theirs = student.logits.detach().softmax(1), logits.softmax(2)
        return heuristic_attention(theirs, ours, self.accuracies, self.progress())[None]

    def progress(self) -> float:
        """How much of the link's training was over at the start of this epoch."""
        links = [phase.name for phase in self.phases()]
        return min(max((self.epoch - 1) / self.epochs * len(links) - links.index(self.phase), 0.0), 1.0)

    def temperature(self, pupil: int) -> Tensor:
        last, before, smallest, largest = self.losses[pupil]
        if self.schedule == "heuristic":
            samples, divergence, ours, theirs = self.sums[pupil, 0]
            return heuristic_temperature(200 * self.progress(), divergence / samples, (theirs - ours) / samples)
        if self.schedule == "cosine":
            share = torch.full_like(last, (1 + math.cos(math.pi * self.progress())) / 2)
        elif self.schedule == "loss":
            share = (last - smallest) / (largest - smallest)
        else:
            share = 1 - torch.exp(-self.slope_rate * (last - before).abs())
        return torch.where(share.isnan(), self.first, self.low + (self.high - self.low) * share)

    @torch.no_grad()
    def observe(self, pupil: int, batch: Batch, ours: Tensor, theirs: Tensor, terms: Mapping[str, Tensor]) -> None:
        loss, (last, _, smallest, largest) = torch.stack(list(terms.values())).sum(), self.losses[pupil]
        self.losses[pupil] = torch.stack([loss, last, torch.fmin(smallest, loss), torch.fmax(largest, loss)])
        hits = [(logits.argmax(1) == batch.targets).sum().to(loss) for logits in (ours, theirs)]
        self.sums[pupil, 1] += torch.stack([torch.full_like(loss, len(batch)), len(batch) * kl(ours, theirs), *hits])
