"""How large the measurements are: as they are reported, or as a test runs them on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.setting import SIX


@dataclass(frozen=True)
class Scale:
    """Networks, sizes and repetitions of one run.

    Attributes:
        methods: empty for every one that applies to images.
        teacher, student: the pair on which every method is looked at.
        image_size, samples, batch_size, epochs: of its random images and its recipe; four steps an epoch.
        processes: children that compute at the same time where nothing is timed; 1: none, but for what needs one.
        compiled: methods whose bits are looked at when networks are compiled.
        tf32: methods whose losses leave autocast, with TF32 on and off.
        pairs: methods that are tried on pairs of unlike networks.
        teachers: networks whose BatchNorms are folded.
        together: learners of the cohort that does not fit into memory.
        pictures: JPEGs of the folder that is streamed.
        students: networks whose step is timed.
        batch: samples of a timed step.
        warm, count: steps before a timing, and of one.
        train_samples, test_samples: of the generated CIFAR-100.
        cohort: methods of the small cohort.
        streams, numbers_of_processes: how many learners run side by side.
        graphs: on how many streams a cohort's steps are replayed as graphs.
        graph_samples: of the random images when bits are looked at: enough steps an epoch for most to be replayed.
        window: seconds of running side by side.
        augmented: batches that are augmented together; 0 for all of an epoch.
        kills: how often a user's run is killed.
        user_methods, user_epochs: of that run.
    """

    methods: tuple[str, ...] = ()
    teacher: str = "cifar_resnet20"
    student: str = "cifar_resnet8"
    image_size: int = 32
    samples: int = 61
    batch_size: int = 16
    epochs: int = 4
    processes: int = 4
    compiled: tuple[str, ...] = ("student", "kd", "at", "reviewkd")
    tf32: tuple[str, ...] = ("hkd", "dlkd", "semckd", "rkd", "sp")
    pairs: tuple[str, ...] = ("kd", "dkd", "at", "fitnet", "sp", "rkd", "reviewkd", "ofa")
    teachers: tuple[str, ...] = ("cifar_resnet56", "cifar_resnet32x4", "cifar_wrn_40_2", "cifar_vgg13")
    together: int = 16
    pictures: int = 2000
    students: tuple[str, ...] = (
        "cifar_resnet20", "cifar_resnet8x4", "cifar_wrn_16_2", "cifar_vgg8", "cifar_mobilenetv2", "cifar_shufflenetv2",
    )  # fmt: skip
    batch: int = 64
    warm: int = 10
    count: int = 50
    train_samples: int = 50_000
    test_samples: int = 10_000
    cohort: tuple[str, ...] = SIX
    streams: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    numbers_of_processes: tuple[int, ...] = (2, 4, 8)
    graphs: tuple[int, ...] = (1, 8, 16)
    graph_samples: int = 141
    augmented: tuple[int, ...] = (1, 5, 50, 0)
    window: float = 2.0
    kills: int = 3
    user_methods: tuple[str, ...] = ("student", "kd", "dkd", "fitnet", "at", "simkd", "aver_mkd", "camkd", "sp", "rkd")
    user_epochs: int = 3


FULL = Scale()
TOY = Scale(
    methods=("student", "kd", "takd"),
    teacher="cifar_resnet8",
    image_size=8,
    samples=7,
    batch_size=4,
    processes=1,
    compiled=("kd",),
    tf32=("sp",),
    pairs=("kd",),
    teachers=("cifar_resnet8",),
    together=3,
    pictures=8,
    students=("cifar_resnet8",),
    batch=4,
    warm=1,
    count=2,
    train_samples=16,
    test_samples=4,
    cohort=("kd", "at"),
    streams=(1, 2),
    numbers_of_processes=(2,),
    graphs=(1, 8),
    graph_samples=34,
    augmented=(1, 2, 0),
    window=0.1,
    kills=1,
    user_methods=("student", "kd"),
    user_epochs=1,
)
