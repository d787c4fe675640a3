"""Scores against scikit-learn's, and the cost of a deployed network against a count by hand."""

from __future__ import annotations

import pytest
import torch
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from support.waits import Waits
from torch import Tensor, nn

from kdbench.method import Output, answer_of
from kdbench.tasks.classification import classification, group, reliability
from kdbench.training.cost import deployed_cost

CLASSES = 12


@pytest.fixture
def logits() -> Tensor:
    return 2 * torch.randn(200, CLASSES, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def teacher_logits() -> Tensor:
    return 2 * torch.randn(200, CLASSES, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def targets() -> Tensor:
    return torch.arange(200) % CLASSES


def test_scores_are_scikit_learns(logits: Tensor, targets: Tensor) -> None:
    scores = classification(logits, targets, None)
    labels = range(CLASSES)
    assert scores["top1"] == pytest.approx(100 * accuracy_score(targets, logits.argmax(1)))
    assert scores["top5"] == pytest.approx(100 * top_k_accuracy_score(targets, logits, k=5, labels=labels))
    assert scores["nll"] == pytest.approx(log_loss(targets, logits.double().softmax(1), labels=labels), rel=1e-6)


def test_the_teacher_is_compared_by_top_class_and_by_kl(
    logits: Tensor, teacher_logits: Tensor, targets: Tensor
) -> None:
    scores = classification(logits, targets, teacher_logits)
    assert scores["agreement"] == pytest.approx(100 * accuracy_score(teacher_logits.argmax(1), logits.argmax(1)))
    ours, theirs = (log_softmax(values.double().numpy(), axis=1) for values in (logits, teacher_logits))
    expected = (torch.tensor(theirs).exp() * torch.tensor(theirs - ours)).sum(1).mean().item()
    assert scores["kl_to_teacher"] == pytest.approx(expected, rel=1e-5)


def test_without_a_teacher_there_is_nothing_to_compare_with(logits: Tensor, targets: Tensor) -> None:
    scores = classification(logits, targets, None)
    assert scores["agreement"] is None
    assert scores["kl_to_teacher"] is None


def test_a_student_agrees_with_itself(logits: Tensor, targets: Tensor) -> None:
    scores = classification(logits, targets, logits)
    assert scores["agreement"] == 100
    assert scores["kl_to_teacher"] == pytest.approx(0, abs=1e-6)


def test_with_fewer_than_five_classes_top5_counts_every_class() -> None:
    logits = torch.eye(3)[[0, 1, 2, 0]]
    scores = classification(logits, torch.tensor([0, 1, 1, 2]), None)
    assert (scores["top1"], scores["top5"]) == (50, 100)


def test_half_precision_logits_are_scored_in_float32(logits: Tensor, targets: Tensor) -> None:
    half = logits.bfloat16()
    assert classification(half, targets, half) == classification(half.float(), targets, half.float())


def test_a_group_is_scored_by_its_students_their_ensemble_and_their_disagreement() -> None:
    targets = torch.tensor([0, 1, 0, 1])
    sure = torch.tensor([[4.0, 0.0], [0.0, 4.0], [0.0, 1.0], [1.0, 0.0]])  # right twice, wrong twice without conviction
    other = torch.tensor([[0.0, 1.0], [1.0, 0.0], [4.0, 0.0], [0.0, 4.0]])  # the other way round
    third = sure.clone()
    assert group([sure, other], targets) == {"mean_student_top1": 50, "ensemble_top1": 100, "disagreement": 100}
    scores = group([sure, other, third], targets)
    assert scores["disagreement"] == pytest.approx(200 / 3)  # two of the three pairs differ, on every sample


def test_the_ensemble_is_the_mean_of_probabilities_not_of_logits() -> None:
    members = [torch.tensor([[10.0, 0.0]]), torch.tensor([[0.0, 3.0]]), torch.tensor([[0.0, 3.0]])]
    assert group(members, torch.tensor([1]))["ensemble_top1"] == 100  # the mean of the logits names class 0


class Small(nn.Module):
    """Two convolutions, a classifier, and a head that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4)
        self.classifier = nn.Linear(16, 10)
        self.unused = nn.Linear(16, 100)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.norm(self.first(x)).relu())
        return self.classifier(x.mean((2, 3)))


# first 3*8*9, norm 2*8, second (8/4)*16*9 + 16, classifier 16*10 + 10
PARAMETERS = 216 + 16 + 304 + 170
# first at 8x8, second at 4x4, classifier once
MACS = 216 * 64 + 288 * 16 + 160


def test_the_cost_is_that_of_the_layers_the_logits_depend_on() -> None:
    cost = deployed_cost(Small(), torch.zeros(1, 3, 8, 8))
    assert cost == {"deployed_parameters": PARAMETERS, "deployed_macs": MACS}


def test_counting_leaves_no_trace() -> None:
    network = Small().train()
    network.classifier.weight.requires_grad_(False)
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    gradient = network.first.weight.grad
    stream = torch.get_rng_state()
    deployed_cost(network, torch.zeros(1, 3, 8, 8))
    assert torch.equal(torch.get_rng_state(), stream)
    assert network.training
    assert network.first.weight.grad is gradient
    assert not network.classifier.weight.requires_grad
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_frozen_parameters_that_are_deployed_count() -> None:
    network = Small().requires_grad_(False)
    assert deployed_cost(network, torch.zeros(1, 3, 8, 8))["deployed_parameters"] == PARAMETERS


def test_a_deployed_module_may_give_logits_or_an_output() -> None:
    plain = torch.ones(1, 2)
    assert answer_of(plain) is plain
    assert answer_of(Output(plain, torch.ones(1, 4))) is plain


def test_reliability_bins_hold_every_sample_once_and_their_means(logits: Tensor, targets: Tensor) -> None:
    bins = reliability(logits, targets)
    confidence, predicted = logits.double().softmax(1).max(1)
    for b in range(15):
        inside = [i for i in range(len(logits)) if b / 15 < confidence[i] <= (b + 1) / 15]
        assert bins["count"][b] == len(inside)
        if inside:
            assert bins["confidence"][b] == pytest.approx(confidence[inside].mean().item())
            hits = sum(bool(predicted[i] == targets[i]) for i in inside)
            assert bins["accuracy"][b] == pytest.approx(hits / len(inside))
    assert sum(bins["count"]) == len(logits)


def test_calibration_error_is_the_mean_gap_between_confidence_and_accuracy(logits: Tensor, targets: Tensor) -> None:
    bins = reliability(logits, targets)
    gaps = [n / 200 * abs(a - c) for n, a, c in zip(bins["count"], bins["accuracy"], bins["confidence"], strict=True)]
    assert classification(logits, targets, None)["ece"] == pytest.approx(100 * sum(gaps))


def test_a_network_that_is_always_sure_and_right_half_the_time_is_off_by_half() -> None:
    logits = torch.tensor([[50.0, 0.0]]).repeat(10, 1)
    assert classification(logits, torch.arange(10) % 2, None)["ece"] == pytest.approx(50)


def test_scores_are_summed_on_the_cpu(logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> None:
    """An accelerator adds by a weighted `bincount` in a random order; whatever else it sums it may sum otherwise."""
    for work, sent in (
        (lambda: classification(logits, targets, teacher_logits), 3),
        (lambda: reliability(logits, targets), 2),
        (lambda: group([logits, teacher_logits], targets), 3),
    ):
        with Waits() as waits:
            work()
        assert waits.found == {"cpu": sent}  # nothing that the device has is read, or counted on it, afterwards
