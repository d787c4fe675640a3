"""How large the measurements are: as they are reported, or as a test runs them."""

from __future__ import annotations

from dataclasses import dataclass

SMALLEST = 2  # learners of the cohort that larger ones are compared with
# the methods of the first tables of the literature that have no stage of their own before training
SIX = ("kd", "dkd", "at", "sp", "fitnet", "pkt")


@dataclass(frozen=True)
class Setting:
    """Networks, sizes and repetitions of one run of the benchmarks.

    Attributes:
        teacher, student: the literature's pair with the largest gap in cost.
        small_teacher, small_student: a pair whose step is short.
        middle_teacher, middle_student: a pair of the literature between the two.
        assistants: of methods that train networks between teacher and student.
        batch_size: samples a step.
        epochs: of the recipe on CIFAR, which the rules of compilation go by.
        train_samples, test_samples: of the generated CIFAR-100.
        steps: of training in one timed round.
        rounds: timed rounds.
        workers: processes that load data for the reference, mdistiller's default.
        methods: what the tables of all methods hold; empty for every registered one.
        largest_cohort: learners of the largest cohort whose growth is measured.
        largest_matrix: side of the largest matrices whose product gives the machine's rate.
    """

    teacher: str = "cifar_resnet32x4"
    student: str = "cifar_resnet8x4"
    middle_teacher: str = "cifar_resnet56"
    middle_student: str = "cifar_resnet20"
    small_teacher: str = "cifar_resnet20"
    small_student: str = "cifar_resnet8"
    assistants: tuple[str, ...] = ("cifar_wrn_40_2", "cifar_wrn_16_2")
    batch_size: int = 64
    epochs: int = 240
    train_samples: int = 1280
    test_samples: int = 64
    steps: int = 3
    rounds: int = 3
    workers: int = 2
    methods: tuple[str, ...] = ()
    largest_cohort: int = 32
    largest_matrix: int = 4096


FULL = Setting()
TOY = Setting(
    teacher="cifar_resnet14",
    student="cifar_resnet8",
    middle_teacher="cifar_resnet14",
    middle_student="cifar_resnet8",
    small_teacher="cifar_resnet8",
    small_student="cifar_resnet8",
    assistants=("cifar_resnet8", "cifar_resnet8"),
    batch_size=4,
    epochs=40,
    train_samples=16,
    test_samples=4,
    steps=1,
    rounds=1,
    workers=1,
    methods=("student", "kd", "fitnet", "takd"),
    largest_cohort=4,
    largest_matrix=32,
)
