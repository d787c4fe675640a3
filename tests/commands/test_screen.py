"""The terminal shows text and obeys none of it: no markup, no escape sequence, whatever suites and records hold."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kdbench.commands import screen
from kdbench.commands.cli import app
from kdbench.commands.progress import Display
from kdbench.commands.screen import PlainConsole
from kdbench.records.plain import plain
from kdbench.suites.parse import load

HOSTILE = "A [/x] [link=http://x]B[/link] [red] :smile: \x1b]0;PWNED\x07\x1b[2J \u202e\x00 C"
SHOWN = "A [/x] [link=http://x]B[/link] [red] :smile: ]0;PWNED[2J  C"


def test_plain_text_holds_nothing_that_a_terminal_obeys() -> None:
    assert plain(HOSTILE) == SHOWN
    assert plain("a\nb\tc ± é 猫 \ud800") == "a\nb\tc ± é 猫 "
    assert plain(KeyError("x")) == "'x'"


@pytest.fixture
def hostile(tiny_runs: Path, tmp_path: Path) -> Path:
    """Finished runs of a suite whose pair has a name that means harm, and whose records have such labels and reasons."""
    out = Path(shutil.copytree(tiny_runs, tmp_path / "runs"))
    suite = out / "tiny.toml"
    name = json.dumps(HOSTILE).replace("\\u0000", "\\u0000")
    suite.write_text(suite.read_text() + f"name = {name}\n")
    for number, path in enumerate(sorted((out / "tiny" / "records").iterdir())):
        record = json.loads(path.read_text())
        record["cell"]["pair"] = HOSTILE
        if not number:
            record.update(status="failed", reason=HOSTILE)
        path.write_text(json.dumps(record))
    return out


COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "status": lambda suite: ["status", suite],
    "leaderboard": lambda suite: ["leaderboard", suite],
    "common": lambda suite: ["leaderboard", suite, "--common"],
    "dry run": lambda suite: ["run", suite, "--dry-run"],
    "compare": lambda suite: ["compare", "kd", "student", "--suite", suite],
    "power": lambda suite: ["power", suite, "--methods", "kd,student"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_labels_of_suites_and_records_are_shown_and_not_obeyed(hostile: Path, command: str) -> None:
    words = COMMANDS[command](str(hostile / "tiny.toml"))
    result = CliRunner().invoke(app, [*words, "--out", str(hostile)])
    assert result.exit_code == 0, result.output
    assert "A [/x] [link=http://x]B[/link]" in " ".join(result.output.split())
    assert not [c for c in result.output if not c.isprintable() and c != "\n"]


def test_the_display_of_a_run_shows_labels_and_obeys_none(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = load(str(hostile / "tiny.toml")).cells()
    console = PlainConsole()
    console.file = io.StringIO()
    with Display(console, len(cells), 0) as display:
        display.cohort_started(cells)
        display.step_done(0, 1, 1, 1)
        display.epoch_done(cells[0], 1, {"top1": 1.0})
        console.print(display._steps, display._scores)
        display.cell_ended(cells[0], "failed", HOSTILE, {})
        display.cohort_split((1, 1), HOSTILE)
        display.notice(HOSTILE)
    shown = console.file.getvalue()
    assert "[/x]" in shown
    assert "\x1b" not in shown


def test_an_error_about_a_hostile_name_is_one_plain_sentence(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "kdbench", "status", "\x1b]0;PWNED\x07.toml"]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "\x1b" not in done.stderr


def test_a_terminal_that_knows_few_characters_shows_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    screen.showable()
    PlainConsole().print("71.2 ± 0.3")
    print("T → S", file=sys.stderr)
    for stream in streams:
        stream.flush()
    assert [stream.buffer.getvalue().decode() for stream in streams] == ["71.2 ? 0.3\n", "T ? S\n"]  # type: ignore[attr-defined]
