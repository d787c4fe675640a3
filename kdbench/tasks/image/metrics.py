"""The metrics of image classification."""

from __future__ import annotations

from kdbench.tasks.metrics import Metric, Metrics

METRICS = Metrics(
    "image",
    (
        Metric("top1", "top-1", "%", "top-1 accuracy, %", low=0, high=100),
        Metric("top5", "top-5", "%", "top-5 accuracy, %", low=0, high=100),
        Metric("nll", "NLL", "nats", "negative log-likelihood, nats", higher_is_better=False, low=0, decimals=3),
        Metric(
            *("ece", "ECE", "%", "expected calibration error, 15 bins, %"),
            higher_is_better=False,
            low=0,
            high=100,
            shown=True,
        ),
        Metric(
            *("agreement", "agreement", "%", "test samples on which the teacher names the same class, %"),
            higher_is_better=None,
            low=0,
            high=100,
            of_teacher=True,
            shown=True,
        ),
        Metric(
            *("kl_to_teacher", "KL to the teacher", "nats", "divergence from the teacher's prediction, nats"),
            higher_is_better=None,
            low=-1e-4,  # how far below zero rounding may bring a divergence
            decimals=3,
            of_teacher=True,
        ),
    ),
    extra=(
        Metric("mean_student_top1", "students' top-1", "%", "top-1 of the students, on average, %", low=0, high=100),
        Metric("ensemble_top1", "ensemble's top-1", "%", "top-1 of the students' mean softmax, %", low=0, high=100),
        Metric(
            *("disagreement", "disagreement", "%", "test samples on which two students name different classes, %"),
            higher_is_better=None,
            low=0,
            high=100,
        ),
    ),
)
