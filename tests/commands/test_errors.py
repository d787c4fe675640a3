"""Bad input, as the command line answers it: one clear sentence, exit status 2, and nothing finished is lost."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from kdbench.commands import cli
from kdbench.executors.local import LocalExecutor
from kdbench.records.lock import locked
from kdbench.suites import parse
from kdbench.tasks.image.networks import create

SUITE = """
name = "tiny"
seeds = [0]
methods = ["student", "kd"]
[[datasets]]
name = "digits"
protocol = { subset = { per_class = 4 } }
[recipe]
epochs = 1
batch_size = 32
[[pairs]]
teacher = "cifar_resnet8"
student = "cifar_resnet8"
"""


@dataclass(frozen=True)
class Outcome:
    """What one command ended with."""

    code: int
    out: str
    err: str

    def refuses(self, *parts: str) -> None:
        """It was bad input, said in one sentence that holds these parts."""
        assert self.code == 2, (self.out, self.err)
        assert self.err.startswith("kdbench: ")
        assert len(self.err.splitlines()) == 1, self.err
        assert "Traceback" not in self.err + self.out
        for part in parts:
            assert part in self.err


Command = Callable[..., Outcome]


@pytest.fixture
def kdbench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line, in this process."""

    def command(*words: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["kdbench", *map(str, words)])
        capsys.readouterr()
        try:
            cli.main()
            code: Any = 0
        except SystemExit as end:
            code = end.code
        return Outcome(code or 0, *capsys.readouterr())

    return command


@pytest.fixture
def run(kdbench: Command, tmp_path: Path) -> Command:
    """`kdbench run` of a suite's text (or the default one) in the test's own folder."""

    def command(*words: str | Path, text: str = SUITE) -> Outcome:
        (tmp_path / "tiny.toml").write_text(text)
        return kdbench("run", tmp_path / "tiny.toml", "--out", tmp_path / "runs", "--device", "cpu", *words)

    return command


def changed(old: str, new: str) -> str:
    assert old in SUITE
    return SUITE.replace(old, new)


# --------------------------------------------------------------------------------------------------- wrong words


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (changed("epochs", "epoch"), ["unknown suite key 'epoch': did you mean 'epochs'", "in recipe"]),
        (changed("seeds", "seds"), ["unknown suite key 'seds': did you mean 'seeds'"]),
        (changed('"digits"', '"digit"'), ["unknown dataset 'digit': did you mean 'digits'"]),
        (changed('teacher = "cifar_resnet8"', 'teacher = "cifar_resnt8"'), ["unknown network", "'cifar_resnet8'"]),
        (changed('student = "cifar_resnet8"', 'student = "cifar_resnt8"'), ["unknown network", "'cifar_resnet8'"]),
        (changed("subset =", "subst ="), ["unknown protocol 'subst': did you mean 'subset'"]),
        (changed("per_class = 4", "per_clas = 4"), ["'per_clas': did you mean 'per_class'"]),
        (changed('"kd"]', '{ name = "kd", temperature = "hot" }]'), ["'temperature' of kd is 'hot'", "takes a float"]),
        (changed("[recipe]", '[recipe]\noptimizer = "sgdd"'), ["unknown optimizer 'sgdd': did you mean 'sgd'"]),
        (changed("[recipe]", '[recipe]\nschedule = "cosin"'), ["unknown schedule 'cosin': did you mean 'cosine'"]),
        (changed("[recipe]", '[recipe]\naugment = ["flp"]'), ["unknown augmentation 'flp': did you mean 'flip'"]),
        (changed("[recipe]", '[recipe]\nprecision = "fp16"'), ["unknown precision 'fp16'"]),
        (changed("[recipe]", "[recipe]\nlearning_rate = -1"), ["recipe.learning_rate is -1.0", "negative"]),
        (changed("[recipe]", "[recipe]\nmilestones = [150]"), ["recipe.milestones is [150]", "from 0 to 1"]),
        (changed("batch_size = 32", "batch_size = 0"), ["recipe.batch_size is 0", "at least 1"]),
        (changed('name = "tiny"', 'name = "../up"'), ["the suite's name is '../up'"]),
        (changed('name = "tiny"', 'name = "teachers"'), ["the suite's name is 'teachers'"]),
        (changed("seeds = [0]", "seeds = [true]"), ["seeds are [True]"]),
        (changed('["student", "kd"]', "[5]"), ["a method of the suite has no name"]),
        (changed('teacher = "cifar_resnet8"', "teacher = 5"), ["teacher is 5", "a table"]),
        (changed('student = "cifar_resnet8"', "student = 5"), ["pairs.student is 5", "type str"]),
        (SUITE + 'pool = "cifar_resnet8"\n', ["pool of a pair", "give a list"]),
        (changed("{ subset = { per_class = 4 } }", '"clean"'), ["datasets.protocol is 'clean'", "a table"]),
        ("teacher_recipe = 5\n" + SUITE, ["teacher_recipe is 5", "a table"]),
        ("student_recipes = 5\n" + SUITE, ["student_recipes is 5", "a table"]),
    ],
)
def test_a_wrong_suite_is_refused(run: Command, text: str, parts: list[str]) -> None:
    run(text=text).refuses(*parts)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--methods", "kdd"], ["unknown method 'kdd': did you mean 'kd'"]),
        (["--pairs", "cifar_resnet9"], ["unknown pair 'cifar_resnet9'", "of suite 'tiny'"]),
        (["--set", "kd.temprature=2"], ["unknown hyperparameter of kd 'temprature': did you mean 'temperature'"]),
        (["--set", "kd.temperature=hot"], ["hyperparameter 'temperature' of kd is 'hot'", "takes a float"]),
        (["--set", "recipe.epochs=soon"], ["recipe.epochs is 'soon'", "type int"]),
        (["--seeds", "one"], ["--seeds 'one'", "whole numbers"]),
        (["--seeds", "0,0"], ["seeds are [0, 0]"]),
        (["--epochs", "0"], ["--epochs is 0"]),
        (["--precision", "fp16"], ["unknown precision 'fp16': did you mean 'bf16'"]),
        (["--compile", "graphs"], ["unknown compile mode 'graphs'", "auto, off, on"]),
        (["--precision", "tf32"], ["device 'cpu' has no TF32", "give the precision as fp32"]),
        (["--graphs", "8"], ["device 'cpu' has no CUDA graphs", "leave --graphs out"]),
        (["--compile", "maybe"], ["unknown compile mode 'maybe'", "auto, off, on"]),
        (["--device", "cdua"], ["unknown device 'cdua': did you mean 'cuda'"]),
        (["--device", "xpu"], ["device 'xpu' is not available here"]),
    ],
)
def test_a_wrong_choice_is_refused(run: Command, words: list[str], parts: list[str]) -> None:
    run(*words).refuses(*parts)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["run", "digts"], ["unknown suite 'digts': did you mean 'digits'"]),
        (["run", "absent.toml"], ["suite file 'absent.toml' does not exist"]),
        (["status", "digts"], ["unknown suite 'digts'"]),
        (["leaderboard", "digts"], ["unknown suite 'digts'"]),
        (["list", "method"], ["unknown list 'method': did you mean 'methods'"]),
        (["check", "kdd"], ["unknown method 'kdd'"]),
        (["check", "absent.py"], ["absent.py' does not exist"]),
        (["new", "my-method"], ["'my-method' is no Python name"]),
        (["new", "kd"], ["method 'kd' exists already"]),
        (["new", "mine", "--family", "logts"], ["unknown family 'logts': did you mean 'logits'"]),
        (["compare", "kd", "student", "--out", "nowhere"], ["no records of this suite"]),
    ],
)
def test_a_wrong_word_of_any_command_is_refused(kdbench: Command, words: list[str], parts: list[str]) -> None:
    kdbench(*words).refuses(*parts)


def test_a_suite_that_is_no_text_is_refused(kdbench: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b'name = "\xe9"')
    kdbench("run", tmp_path / "mine.toml").refuses("mine.toml' is not valid TOML")


def test_new_does_not_write_over_a_file(kdbench: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("precious")
    kdbench("new", "mine", "--folder", tmp_path).refuses("mine.py' exists already")
    assert (tmp_path / "mine.py").read_text() == "precious"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("import nowhere_to_be_found", "cannot be imported: ModuleNotFoundError: No module named"),
        ("def half(:", "cannot be imported: SyntaxError"),
        ("weight = 1", "registers no method: put @register(...) above its class"),
    ],
)
def test_a_method_file_that_brings_no_method_is_refused(run: Command, tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    run("--methods", f"kd,{tmp_path / 'mine.py'}").refuses("mine.py'", part)


# ------------------------------------------------------------------------------------------------- wrong checkpoints


def checkpointed(path: Path, network: str = "cifar_resnet8", sha256: str = "", recipe: str = "") -> str:
    """A suite whose teacher is this checkpoint of this network."""
    digest = sha256 or (hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "0" * 64)
    teacher = f'teacher = {{ network = "{network}", weights = "{path}", sha256 = "{digest}" }}'
    return changed('teacher = "cifar_resnet8"', teacher).replace("[recipe]", f"[recipe]\n{recipe}")


def save(path: Path, network: str = "cifar_resnet8", **options: Any) -> Path:
    kwargs = {"num_classes": 10, "in_chans": 1, "input_size": (1, 8, 8), **options}
    state = create(network, **kwargs).core.state_dict()
    safetensors.torch.save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_checkpoint_that_fits_is_used(run: Command, tmp_path: Path, suffix: str) -> None:
    outcome = run("--methods", "kd", text=checkpointed(save(tmp_path / f"teacher{suffix}")))
    assert outcome.code == 0, outcome.err
    assert not (tmp_path / "runs" / "teachers" / "weights").exists()


def test_a_checkpoint_of_another_number_of_classes_is_refused(run: Command, tmp_path: Path) -> None:
    path = save(tmp_path / "teacher.safetensors", num_classes=5)
    outcome = run(text=checkpointed(path))
    outcome.refuses("network 'cifar_resnet8' does not fit", "there and [10", "number of classes")


def test_a_checkpoint_of_another_input_is_refused(run: Command, tmp_path: Path) -> None:
    path = save(tmp_path / "teacher.pt", "test_vit", input_size=(1, 64, 64))
    outcome = run(text=checkpointed(path, "test_vit", recipe="image_size = 32"))
    outcome.refuses("network 'test_vit' does not fit", "'pos_embed'", "another input")


def test_a_checkpoint_of_another_network_is_refused(run: Command, tmp_path: Path) -> None:
    path = save(tmp_path / "teacher.pt", "cifar_vgg8")
    run(text=checkpointed(path)).refuses("the checkpoint is not of network 'cifar_resnet8': it lacks '")


def test_a_checkpoint_of_another_digest_is_refused(run: Command, tmp_path: Path) -> None:
    path = save(tmp_path / "teacher.pt")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    run(text=checkpointed(path, sha256="f" * 64)).refuses(f"teacher.pt' has sha256 {found}, not ffff", "correct the")


def test_an_absent_checkpoint_is_refused(run: Command, tmp_path: Path) -> None:
    run(text=checkpointed(tmp_path / "teacher.pt")).refuses("teacher.pt' does not exist", "`weights`")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_damaged_checkpoint_is_refused(run: Command, tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"teacher{suffix}")
    path.write_bytes(path.read_bytes()[:1000])
    run(text=checkpointed(path)).refuses(f"teacher{suffix}' cannot be read as plain weights", "damaged")


class Payload:
    """Pickled, it is a call that would leave a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_code_in_a_checkpoint_is_not_executed(run: Command, tmp_path: Path, suffix: str) -> None:
    path, trace = tmp_path / f"teacher{suffix}", tmp_path / "executed"
    torch.save({"weight": Payload(trace)}, path)
    run(text=checkpointed(path)).refuses("cannot be read as plain weights", "holds code")
    assert not trace.exists()


# ------------------------------------------------------------------------------------------- networks and data sets


def test_a_network_that_cannot_take_the_images_is_refused(run: Command) -> None:
    outcome = run(text=changed('student = "cifar_resnet8"', 'student = "test_vit"'))
    outcome.refuses("network 'test_vit' cannot take inputs of 1x8x8", "`image_size`")


NEEDY = """
from kdbench import Method, register
@register("needy", family="features")
class Needy(Method):
    needs = frozenset({"preactivations"})
"""


@pytest.mark.usefixtures("temporary")
def test_a_network_without_the_needed_tap_is_recorded_as_not_applicable(
    run: Command, kdbench: Command, tmp_path: Path
) -> None:
    (tmp_path / "needy.py").write_text(NEEDY)
    words = ["--methods", f"student,{tmp_path / 'needy.py'}"]
    outcome = run(*words, text=changed('student = "cifar_resnet8"', 'student = "test_resnet"'))
    assert outcome.code == 0, outcome.err
    sentence = "not applicable: needy needs pre-activation maps, but network 'test_resnet' offers none"
    assert sentence in outcome.out
    status = kdbench("status", tmp_path / "tiny.toml", "--out", tmp_path / "runs", *words)
    assert "needy on cifar_resnet8 -> test_resnet, seed 0" in status.out
    assert status.out.endswith(sentence.removeprefix("not applicable: ") + "\n")


def test_an_absent_image_folder_is_refused(run: Command, tmp_path: Path) -> None:
    text = changed('"digits"', f'"folder:{tmp_path / "pictures"}"')
    run(text=text).refuses("pictures' is not in the data folder", "a folder train and a folder val")


@pytest.mark.parametrize("name", ["cifar100", "fashion_mnist", "tiny_imagenet", "imagenet"])
def test_a_data_set_that_is_absent_and_cannot_be_fetched_is_refused(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def no_internet(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", no_internet)
    monkeypatch.setattr("kdbench.tasks.image.data.fashion_mnist.DEBIAN_FOLDER", tmp_path / "no-such-package")
    outcome = run("--data", tmp_path / "data", text=changed('"digits"', f'"{name}"'))
    outcome.refuses(f"dataset {name!r} is not in the data folder '{tmp_path / 'data'}", "KDBENCH_DATA or --data")


# --------------------------------------------------------------------------------------------------- the results folder


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the suite, run once for all tests."""
    from rich.console import Console

    from kdbench.commands.progress import Display

    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.toml").write_text(SUITE)
    cells = parse.load(str(folder / "tiny.toml")).cells()
    with Display(Console(quiet=True), len(cells), 0) as display:
        LocalExecutor(folder / "runs", display, device="cpu").run(cells)
    return folder / "runs"


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Path:
    """A copy of these results where `run` works; returns the suite's own folder."""
    shutil.copytree(finished_once, tmp_path / "runs")
    (tmp_path / "tiny.toml").write_text(SUITE)
    return tmp_path / "runs" / "tiny"


def kd_record(finished: Path) -> Path:
    (path,) = (
        p for p in finished.glob("records/*.json") if json.loads(p.read_text())["cell"]["method"]["name"] == "kd"
    )
    return path


def records_of(finished: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in finished.glob("records/*.json")}


LOOKS = {
    "leaderboard": ("leaderboard",),
    "status": ("status",),
    "dry run": ("run", "--dry-run"),
    "report": ("report", "--no-plots", "-o", "site"),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_damaged_record_is_named_and_left_and_the_rest_is_shown(
    kdbench: Command, finished: Path, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    monkeypatch.chdir(finished)
    record = kd_record(finished)
    record.write_text("{")
    before = records_of(finished)
    command, *more = LOOKS[look]
    outcome = kdbench(command, finished.parents[1] / "tiny.toml", "--out", finished.parent, *more)
    assert outcome.code == 0
    assert f"kdbench: record {str(record)!r} is damaged" in outcome.err
    assert "kdbench: 1 record left out of what is shown" in outcome.err
    assert "Traceback" not in outcome.err
    assert records_of(finished) == before


@pytest.mark.parametrize("command", [("compare", "student", "kd", "--suite"), ("power", "--methods", "kd,student")])
def test_a_damaged_record_is_named_where_nothing_is_left_to_compare(
    kdbench: Command, finished: Path, command: tuple[str, ...]
) -> None:
    record = kd_record(finished)
    record.write_text("{")
    outcome = kdbench(*command, finished.parents[1] / "tiny.toml", "--out", finished.parent)
    assert outcome.code == 2
    assert f"kdbench: record {str(record)!r} is damaged" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("content", ["", '{"id": 1, "status": 1, "cell": 1, "schema": 1}'])
def test_a_run_puts_a_damaged_record_aside_and_makes_it_again(run: Command, finished: Path, content: str) -> None:
    record = kd_record(finished)
    whole = json.loads(record.read_text())
    record.write_text(content)
    before = records_of(finished)
    outcome = run()
    assert outcome.code == 0
    aside = finished / "records" / "damaged" / record.name
    assert f"kdbench: record {str(record)!r} is damaged" in outcome.err
    assert f"it is now {str(aside)!r}, and its cell runs again" in outcome.err
    assert aside.read_text() == content
    assert json.loads(record.read_text())["result"] == whole["result"]
    assert {n: c for n, c in records_of(finished).items() if n != record.name} == {
        n: c for n, c in before.items() if n != record.name
    }


def test_a_record_that_may_not_be_read_is_never_touched(
    kdbench: Command, run: Command, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, real = kd_record(finished), Path.read_bytes

    def refuse(self: Path) -> bytes:
        if self == record:
            raise PermissionError(13, "Permission denied")
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    for outcome in (run(), kdbench("status", finished.parents[1] / "tiny.toml", "--out", finished.parent)):
        assert outcome.code == 0
        assert f"record {str(record)!r} cannot be read (Permission denied): change its permissions" in outcome.err
        assert "delete" not in outcome.err
        assert "damaged" not in outcome.err
    assert "kd on cifar_resnet8 -> cifar_resnet8, seed 0, stays undone: record" in run().err
    monkeypatch.undo()
    assert json.loads(record.read_text())["status"] == "done"


def test_a_folder_of_records_that_may_not_be_looked_into_is_a_sentence(
    kdbench: Command, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("kdbench.records.os.listdir", refuse)
    outcome = kdbench("leaderboard", finished.parents[1] / "tiny.toml", "--out", finished.parent)
    outcome.refuses(f"folder {str(finished / 'records')!r} cannot be read (Permission denied)")


def test_what_a_finder_leaves_beside_records_stops_nothing(run: Command, finished: Path) -> None:
    (finished / "records" / f"._{kd_record(finished).name}").write_bytes(b"\0\5\x16\7")
    outcome = run()
    assert outcome.code == 0
    assert "is damaged" in outcome.err


def test_a_deleted_record_is_made_again_and_no_other(run: Command, finished: Path) -> None:
    before = records_of(finished)
    lost = kd_record(finished)
    lost.unlink()
    assert run().code == 0
    after = records_of(finished)
    assert before.keys() == after.keys()
    assert all(after[name] == before[name] for name in before if name != lost.name)
    results = [json.loads(content[lost.name])["result"] for content in (before, after)]
    assert results[0] == results[1]


def test_a_damaged_resume_checkpoint_is_set_aside_and_said(run: Command, finished: Path) -> None:
    record = kd_record(finished)
    before, result = records_of(finished), json.loads(record.read_text())["result"]
    record.unlink()
    checkpoint = finished / "checkpoints" / f"{record.stem}.pt"
    checkpoint.parent.mkdir(exist_ok=True)
    checkpoint.write_bytes(b"half a file")
    outcome = run()
    assert outcome.code == 0
    assert f"checkpoint {str(checkpoint)!r} is not used (it is no checkpoint of this version" in outcome.out
    assert json.loads(record.read_text())["result"] == result
    assert records_of(finished).keys() == before.keys()
    assert [path.name for path in checkpoint.parent.iterdir()] == [f"{checkpoint.name}.damaged"]


def test_damaged_weights_of_a_trained_teacher_are_set_aside_said_and_made_again(run: Command, finished: Path) -> None:
    kd_record(finished).unlink()
    (weights,) = (finished.parent / "teachers" / "weights").iterdir()
    whole = weights.read_bytes()
    weights.write_bytes(b"half a file")
    outcome = run()
    assert outcome.code == 0
    assert f"weights {str(weights)!r} are not used (it cannot be read as weights" in outcome.out
    assert weights.read_bytes() == whole


@pytest.mark.parametrize("change", [lambda text: "", lambda text: text.replace('"done"', '"failed"')])
def test_a_teacher_whose_record_is_of_no_use_trains_again(
    run: Command, finished: Path, change: Callable[[str], str]
) -> None:
    kd_record(finished).unlink()
    (record,) = (finished.parent / "teachers" / "records").glob("*.json")
    whole = json.loads(record.read_text())
    record.write_text(change(record.read_text()))
    assert run().code == 0
    again = json.loads(record.read_text())
    assert (again["result"], again["weights_sha256"]) == (whole["result"], whole["weights_sha256"])


def test_a_full_disk_ends_the_run_and_keeps_what_is_finished(
    run: Command, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real, calls = records_of(finished), os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 1:  # the folder itself can be written: the disk fills up during the run
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        outcome = run("--methods", "student,kd,dkd")
    outcome.refuses(
        "no space left on the disk of", "free some and run the same command again", "finished cells are kept"
    )
    assert records_of(finished) == before
    assert not list(finished.rglob("*.partial"))
    assert run("--methods", "student,kd,dkd").code == 0
    assert len(records_of(finished)) == 3


def test_a_results_folder_that_cannot_be_written_is_refused_before_training(
    kdbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.toml").write_text(SUITE)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(LocalExecutor, "_run_cohort", lambda *_: pytest.fail("it trained"))
    outcome = kdbench("run", tmp_path / "tiny.toml", "--out", tmp_path / "file" / "runs")
    outcome.refuses(f"cannot write {str(tmp_path / 'file' / 'runs')!r}"[:-1], "choose another folder with --out")


def test_two_runs_in_one_folder_are_refused(run: Command, finished: Path) -> None:
    with locked(finished.parent):
        run().refuses("another kdbench run is working in", "--out")
    assert run().code == 0


def test_an_unreadable_data_file_leaves_finished_cells(run: Command, finished: Path) -> None:
    before = records_of(finished)
    absent = '\n[[datasets]]\nname = "folder:/nowhere"\n[recipe]'
    run(text=changed("[recipe]", absent)).refuses("/nowhere")
    assert records_of(finished) == before


# ------------------------------------------------------------------------------------------------------- the end


def test_a_cell_that_fails_gives_status_1_and_says_how_to_go_on(
    run: Command, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kd_record(finished).unlink()
    from kdbench.training.learner import Learner

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "train_step", lambda *_: 1 / 0)
        outcome = run()
    assert outcome.code == 1
    assert "1 cells failed" in outcome.err
    assert "--retry-failed" in outcome.err
    assert run().code == 1  # a failure is not run again by itself
    assert run("--retry-failed").code == 0


def test_ctrl_c_says_how_to_go_on_and_gives_status_130(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(SUITE)
    command = ["run", tmp_path / "tiny.toml", "--out", tmp_path / "runs", "--device", "cpu", "--epochs", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "kdbench", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # whoever started the tests in the background may have let them inherit a SIGINT that is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert "teacher cifar_resnet8@0: top-1" in process.stdout.readline()  # now the students train, for long
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "kdbench: interrupted; the same command goes on from the last checkpoints\n"


def test_a_suite_that_is_nested_without_end_is_refused(run: Command) -> None:
    run(text=f"x = {'[' * 5000}{']' * 5000}\n{SUITE}").refuses("tiny.toml' is nested too deeply")


def test_a_suite_with_an_endless_name_is_refused(run: Command) -> None:
    run(text=changed('name = "tiny"', f'name = "{"x" * 300}"')).refuses("has 300 letters, and it names a folder")


def test_a_pretrained_teacher_of_other_classes_is_refused(run: Command) -> None:
    teacher = '{ network = "test_resnet.r160_in1k", weights = "pretrained" }'
    outcome = run(text=changed('teacher = "cifar_resnet8"', f"teacher = {teacher}"))
    outcome.refuses("'test_resnet.r160_in1k' were made for 1000 classes, but the data has 10")
