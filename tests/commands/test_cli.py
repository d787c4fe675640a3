"""The command line: what each command takes, that shared options are one thing everywhere, and how it is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from kdbench.commands.cli import COMMANDS, app
from kdbench.commands.options import Selection, selecting
from kdbench.hardware.numerics import Numerics

NARROW = "SUITE --methods --pairs --epochs --set --teacher --precision --out"
GRID = f"{NARROW} --seeds --tuned"
RUNNING = "--data --device --compile --threads --graphs --cohort-size --from --stop-after --retry-failed"
# what scripts may say: nothing of it may go
TAKES = {
    "run": f"{GRID} {RUNNING} --dry-run --keep-students",
    "use": "SUITE METHOD GIVEN... --pair --dataset --seed --epochs --set --teacher --precision --out --data --device",
    "status": GRID,
    "sweep": f"{NARROW} {RUNNING} --trials --epochs-share --dry-run",
    "leaderboard": f"{GRID} --common --teachers",
    "report": f"{GRID} --site -o --latex --plots --no-plots --all --teachers",
    "map": GRID,
    "agreement": GRID,
    "compare": "A B --suite --epochs --set --teacher --precision --out",
    "power": "SUITE --methods --delta --sd --pairs --seeds --epochs --set --teacher --precision --out",
    "list": "WHAT --papers --task",
    "show": "METHOD",
    "reproduce": f"METHOD --paper --datasets --pairs --teacher --seeds --epochs --precision --out {RUNNING} --dry-run "
    "--report",
    "new": "NAME --family --task --folder",
    "check": "METHOD --device --task",
    "publish": "SUITE --out --to --methods --weights-at",
    "validate": "PATH --rerun --data --device --threads",
    "merge": "FOLDER... --to",
    "tune": "SUITE --pairs --out --data --device --threads",
}
OPTIONAL = {
    "run",
    "status",
    "sweep",
    "leaderboard",
    "report",
    "map",
    "agreement",
    "power",
    "tune",
    "list",
}  # their argument has a default


def parameters(command: str) -> list[Any]:
    group: Any = typer.main.get_command(app)
    return list(group.commands[command].params)


def spelled(parameter: Any) -> list[str]:
    if parameter.param_type_name == "argument":
        return [(parameter.metavar or parameter.name).upper()]
    return [*parameter.opts, *parameter.secondary_opts]


def test_the_commands_are_those_of_the_list() -> None:
    assert TAKES.keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", TAKES)
def test_a_command_takes_what_it_always_took(command: str) -> None:
    taken = [word for parameter in parameters(command) for word in spelled(parameter)]
    assert sorted(taken) == sorted(TAKES[command].split())
    arguments = [parameter for parameter in parameters(command) if parameter.param_type_name == "argument"]
    assert [parameter.required for parameter in arguments] == [command not in OPTIONAL] * len(arguments)


def test_a_shared_option_is_the_same_in_every_command() -> None:
    reference = {parameter.name: parameter for parameter in parameters("run")}
    own = {
        ("power", "methods"),
        ("reproduce", "seeds"),
        ("reproduce", "dry_run"),
        ("publish", "out"),
        ("publish", "methods"),
        ("check", "device"),  # the contract is held on the CPU unless another device is named
    }
    for command in COMMANDS:
        for parameter in parameters(command):
            same = reference.get(parameter.name)
            if same and parameter.param_type_name == same.param_type_name and (command, parameter.name) not in own:
                for fact in ("opts", "default", "envvar", "help", "type", "multiple", "is_flag"):
                    ours, theirs = getattr(parameter, fact, None), getattr(same, fact, None)
                    ours, theirs = (getattr(value, "name", value) for value in (ours, theirs))  # of a type
                    assert ours == theirs, (command, parameter.name, fact)


def test_a_command_gets_its_shared_options_as_one_selection() -> None:
    seen: dict[str, Any] = {}

    @selecting("suite_name", "epochs", "out", seeds=Annotated[str, typer.Option("--only")])
    def tried(chosen: Selection, word: Annotated[str, typer.Argument()], loud: bool = False) -> None:
        seen.update(chosen=chosen, word=word, loud=loud)

    mine = typer.Typer()
    mine.command()(tried)
    result = CliRunner().invoke(mine, ["hello", "fashion", "--epochs", "3", "--only", "1,2", "--loud"])
    assert result.exit_code == 0, result.output
    chosen = seen.pop("chosen")
    assert seen == {"word": "hello", "loud": True}
    assert (chosen.suite_name, chosen.epochs, chosen.seed_numbers) == ("fashion", 3, [1, 2])
    assert (chosen.out, chosen.methods, chosen.device) == (Path("runs"), "", None)
    assert CliRunner().invoke(mine, ["hello", "--methods", "kd"]).exit_code == 2  # not one of its options


def test_a_selection_is_a_grid_with_its_store(tiny_suite: Path, tmp_path: Path) -> None:
    chosen = Selection(suite_name=str(tiny_suite), methods="kd", seeds="1", out=tmp_path)
    assert [(cell.method.label, cell.seed) for cell in chosen.cells] == [("kd", 1)]
    assert chosen.store.folder == tmp_path / "tiny"
    assert chosen.cells is chosen.cells  # made once


def test_the_results_folder_can_come_from_the_environment(tiny_suite: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["leaderboard", str(tiny_suite)], env={"KDBENCH_OUT": str(tmp_path / "there")})
    assert result.exit_code == 0, result.output
    assert (tmp_path / "there" / "tiny" / "leaderboard.csv").is_file()


def test_a_selection_can_be_typed_again() -> None:
    assert Selection().typed == "digits"
    chosen = Selection("fashion", seeds="0,1", epochs=2, settings=["kd.temperature=2"], out=Path("my runs"))
    assert chosen.typed == "fashion --seeds 0,1 --epochs 2 --out 'my runs' --set kd.temperature=2"


def test_a_dry_run_switches_nothing_and_writes_nothing(
    tiny_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[Numerics] = []
    monkeypatch.setattr(Numerics, "apply", lambda self: applied.append(self))
    result = CliRunner().invoke(app, ["run", str(tiny_suite), "--out", str(tmp_path / "runs"), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "4 of 4 cells to run, about" in result.output
    assert applied == []
    assert not (tmp_path / "runs").exists()


# what a suite of digits has wrong: what is said of it
FAULTS = {
    'student = "cifar_resnet9000"': "unknown network 'cifar_resnet9000'",
    'student = "cifar_resnet8(widh=2)"': "does not take these options",
    'task = "imge"': "unknown task 'imge': did you mean 'image'?",
    "options = { foo = 1 }": "dataset 'digits' has options",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("words", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_what_a_run_refuses_is_refused_before_anything_trains_and_by_a_dry_run(
    fault: str, words: list[str], tiny_suite: Path, tmp_path: Path
) -> None:
    key, text = fault.partition(" =")[0], tiny_suite.read_text()
    if key == "student":  # of the last pair: the first could train
        text += f'\n[[pairs]]\nteacher = "cifar_resnet8"\n{fault}\n'
    else:
        text = text.replace('name = "digits"', f'name = "digits"\n{fault}')
    suite, out = tmp_path / "bad.toml", tmp_path / "runs"
    suite.write_text(text)
    said = CliRunner().invoke(app, ["run", str(suite), "--out", str(out), *words])
    assert said.exit_code != 0
    assert FAULTS[fault] in str(said.exception)
    assert not list(out.rglob("*.json"))


def test_a_dry_run_names_what_cannot_run(tiny_suite: Path, tmp_path: Path) -> None:
    suite = tmp_path / "bad.toml"
    suite.write_text(tiny_suite.read_text().replace("methods = [", 'methods = ["cross_kd", '))
    said = CliRunner().invoke(app, ["run", str(suite), "--out", str(tmp_path / "runs"), "--dry-run"])
    assert said.exit_code == 0, said.output
    assert "cannot run: cross_kd needs detector, which no network for image offers" in said.output


def test_python_m_kdbench_is_kdbench() -> None:
    words = [sys.executable, "-m", "kdbench"]
    listed = subprocess.run([*words, "list", "datasets"], capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    assert "digits" in listed.stdout.split()
    refused = subprocess.run([*words, "list", "method"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr == "kdbench: unknown list 'method': did you mean 'methods'?\n"
