"""The commands about methods, and lists of all there is to choose from: list, show, new, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdbench.commands.options import console


def list_(
    what: Annotated[str, typer.Argument(help="methods, suites, networks or datasets")] = "methods",
    papers: Annotated[bool, typer.Option("--papers", help="the methods' papers: title, venue, arXiv, code")] = False,
    task: Annotated[str, typer.Option(help="only methods that apply to it: image, text, translation, detection")] = "",
) -> None:
    """List the methods with family, source and needs; or the suites, networks or data sets."""
    from kdbench.commands.listing import print_list

    print_list(console(), what, papers, task)


def show(
    method: Annotated[str, typer.Argument(help="a registered name, a composition (crd+kd), or a .py file")],
) -> None:
    """Show a method: its equation, hyperparameters, needs and deviations, and what its paper reports."""
    from kdbench.commands.show import print_method
    from kdbench.suites.method_files import load_methods

    for name in load_methods(method) if method.endswith(".py") else [method]:
        print_method(console(), name)


def new(
    name: Annotated[str, typer.Argument(help="the method's name, e.g. my_method")],
    family: Annotated[
        str, typer.Option(help="logits, features, relations, mutual, multi_teacher, multi_head, staged, inputs")
    ] = "",
    task: Annotated[
        str, typer.Option(help="image, or text, translation, detection: what networks there offer alone")
    ] = "image",
    folder: Annotated[Path, typer.Option(help="where to write the file")] = Path(),
) -> None:
    """Write the file of a new method that already runs, to be filled with your own loss."""
    from kdbench.commands.scaffold import template_of, write_method

    path = write_method(name, family or template_of(task), folder)
    check, suite = (f"{path}", "digits") if task == "image" else (f"{path} --task {task}", f"{task}_small")
    print(f"wrote {path}; next: kdbench check {check}, then kdbench run {suite} --methods student,{path}")


def check(
    method: Annotated[str, typer.Argument(help="a registered name, or a .py file that registers methods")],
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps")] = "cpu",
    task: Annotated[str, typer.Option(help="image, text, translation or detection; else the method's first")] = "",
) -> None:
    """Hold a method to the contract: finite terms, gradients, odd batches, bf16, compile, resume, cohort."""
    from kdbench import registry
    from kdbench.hardware.numerics import resolve
    from kdbench.registry import applies
    from kdbench.suites.method_files import load_methods
    from kdbench.testing.checks import first_task, print_checks

    names = load_methods(method) if method.endswith(".py") else [registry.get(method).info.name]
    if task:
        applies.check_task(task)
        for name in names:
            applies.check(registry.get(name), task)
    numerics = resolve(device, "fp32", "off")
    failed = [name for name in names if not print_checks(console(), name, numerics, task or first_task(name))]
    if failed:
        raise typer.Exit(1)
