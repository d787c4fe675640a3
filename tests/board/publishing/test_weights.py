"""Teachers' weights in published folders: the small ones are there, the large ones are named, and none is forged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kdbench.board.publishing import weights
from kdbench.board.publishing.merge import merge
from kdbench.board.publishing.publish import publish, remake
from kdbench.board.publishing.validate import validate
from kdbench.board.publishing.weights import LIMIT
from kdbench.commands.cli import app
from kdbench.errors import KDBenchError
from kdbench.records import Store
from kdbench.suites import parse
from kdbench.suites.grid import Suite

AT = "https://example.org/teachers"


@pytest.fixture
def runs(tiny_runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_runs, tmp_path / "runs"))


@pytest.fixture
def tiny(tiny_runs: Path) -> Suite:
    return parse.load(str(tiny_runs / "tiny.toml"))


@pytest.fixture(scope="module")
def published(tiny_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(parse.load(str(tiny_runs / "tiny.toml")), tiny_runs, tmp_path_factory.mktemp("published")).folder


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """The published suite, which may be changed."""
    return Path(shutil.copytree(published.parent, tmp_path / "results")) / "tiny"


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file of weights is too large to be published."""
    monkeypatch.setattr(weights, "LIMIT", 100)


def files(results: Path) -> list[Path]:
    return sorted((results / "teachers" / "weights").iterdir())


def problems(folder: Path) -> list[str]:
    return [str(problem) for report in validate(folder) for problem in report.problems]


def about(folder: Path) -> dict[str, dict[str, object]]:
    return dict(json.loads((folder / "card.json").read_text())["weights"])


def test_the_weights_of_every_teacher_are_published(folder: Path, runs: Path) -> None:
    theirs, ours = files(folder.parent), files(runs)
    assert [(path.name, path.read_bytes()) for path in theirs] == [(path.name, path.read_bytes()) for path in ours]
    assert {identity: entry["bytes"] for identity, entry in about(folder).items()} == {
        path.stem: path.stat().st_size for path in ours
    }
    assert ours[0].stat().st_size < LIMIT == 10_000_000
    assert problems(folder) == []


def test_publishing_from_records_alone_keeps_the_weights(folder: Path, runs: Path, tiny: Suite) -> None:
    card = (folder / "card.json").read_bytes()
    shutil.rmtree(runs / "teachers" / "weights")
    assert publish(tiny, runs, folder.parent).weights.lost == []
    remake(folder)
    assert (folder / "card.json").read_bytes() == card


def missing(results: Path) -> None:
    files(results)[0].unlink()


def forged(results: Path) -> None:
    first, second = files(results)
    shutil.copyfile(second, first)


def cut(results: Path) -> None:
    files(results)[0].write_bytes(files(results)[0].read_bytes()[:-4])


def changed(results: Path) -> None:
    """Bytes that no tensor is made of: the head says more."""
    path = files(results)[0]
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    path.write_bytes((size + 8).to_bytes(8, "little") + content[8 : 8 + size] + b" " * 8 + content[8 + size :])


def extra(results: Path) -> None:
    shutil.copyfile(files(results)[0], results / "teachers" / "weights" / "0123456789abcdef.safetensors")


def unlisted(results: Path) -> None:
    card = json.loads((results / "tiny" / "card.json").read_text())
    card["weights"].pop(files(results)[0].stem)
    (results / "tiny" / "card.json").write_text(json.dumps(card))


def taken_out(results: Path) -> None:
    unlisted(results)
    missing(results)


def of_nobody(results: Path) -> None:
    card = json.loads((results / "tiny" / "card.json").read_text())
    card["weights"]["0123456789abcdef"] = {"sha256": "0" * 64, "bytes": 1}
    (results / "tiny" / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("harm", "rule"),
    [
        (missing, "card.json names it, but it is not there"),
        (forged, "it is of the training"),
        (cut, "it cannot be read as weights"),
        (changed, "it was changed after it was published"),
        (extra, "it is of no teacher that has a record here"),
        (unlisted, "it is not in card.json: publish again"),
        (taken_out, "the teacher's weights are not there"),
        (of_nobody, "these are weights of none of its teachers"),
    ],
)
def test_weights_that_are_not_the_teachers_are_found(folder: Path, harm: Callable[[Path], None], rule: str) -> None:
    harm(folder.parent)
    found = problems(folder)
    assert len(found) == 1
    assert rule in found[0]


def test_a_student_that_saw_other_weights_is_found(folder: Path) -> None:
    path = next((folder / "records").iterdir())
    record = json.loads(path.read_text())
    record["teachers"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(record))
    remake(folder)
    assert len(found := problems(folder)) == 1
    assert "teachers[0].sha256" in found[0]


def test_a_card_with_no_weights_is_noted_only_if_no_run_could_tell(folder: Path) -> None:
    """Folders of an older kdbench have neither digests nor weights."""
    shutil.rmtree(folder.parent / "teachers" / "weights")
    for path in (folder.parent / "teachers" / "records").iterdir():
        record = json.loads(path.read_text())
        del record["weights_sha256"]
        path.write_text(json.dumps(record))
    card = json.loads((folder / "card.json").read_text())
    del card["weights"]
    (folder / "card.json").write_text(json.dumps(card))
    remake(folder)
    report = validate(folder)[0]
    assert report.problems == []
    assert any("it carries no teacher's weights" in note for note in report.notes)


def test_weights_that_are_damaged_are_not_published(runs: Path, tiny: Suite, tmp_path: Path) -> None:
    forged(runs)
    with pytest.raises(KDBenchError, match=r"nothing was published: weights .* are not those of the teacher's record"):
        publish(tiny, runs, tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.mark.usefixtures("large")
def test_large_weights_are_named_by_digest_and_address(runs: Path, tiny: Suite, tmp_path: Path) -> None:
    done = publish(tiny, runs, tmp_path / "results")
    assert done.weights.large == files(runs)
    assert not (tmp_path / "results" / "teachers" / "weights").exists()
    assert problems(done.folder) == []
    words = ["publish", str(runs / "tiny.toml"), "--out", str(runs), "--to", str(tmp_path / "results")]
    assert "too large to publish" in CliRunner().invoke(app, words).output
    said = CliRunner().invoke(app, [*words, "--weights-at", f"{AT}/"]).output
    assert "too large" not in said
    named = about(done.folder)
    assert [named[path.stem]["address"] for path in files(runs)] == [f"{AT}/{path.name}" for path in files(runs)]
    shutil.rmtree(runs / "teachers" / "weights")  # a machine that has the records only
    publish(tiny, runs, tmp_path / "results")
    assert about(done.folder) == named
    assert problems(done.folder) == []


@pytest.mark.usefixtures("large")
def test_a_run_says_where_large_weights_are_and_looks_at_what_was_fetched(
    runs: Path, tiny: Suite, tmp_path: Path
) -> None:
    folder = publish(tiny, runs, tmp_path / "results", AT).folder
    next(path for path in (folder / "records").iterdir() if '"name": "kd"' in path.read_text()).unlink()
    remake(folder)
    out = tmp_path / "mine"
    words = ["run", str(runs / "tiny.toml"), "--device", "cpu", "--out", str(out), "--from", str(folder)]
    first, second = files(runs)
    sentence = str(CliRunner().invoke(app, words).exception)
    needed = first if first.name in sentence else second
    assert f"get {AT}/{needed.name} (" in sentence
    assert f"sha256 {about(folder)[needed.stem]['sha256']}) and put it at" in sentence
    place = Store(out / "teachers").weights(needed.stem)
    place.parent.mkdir(parents=True)
    shutil.copyfile(second if needed is first else first, place)
    assert "are not those of teacher" in str(CliRunner().invoke(app, words).exception)
    for path in (first, second):
        shutil.copyfile(path, place.with_name(path.name))
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert len(Store(out / "tiny").paths()) == 6


def test_merging_takes_weights_from_whoever_has_them(runs: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(runs, tmp_path / "other"))
    shutil.rmtree(runs / "teachers" / "weights")
    merge([runs, other], tmp_path / "merged")
    assert [path.read_bytes() for path in files(tmp_path / "merged")] == [path.read_bytes() for path in files(other)]


def test_teachers_of_other_weights_are_not_merged(runs: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(runs, tmp_path / "other"))
    path = next((other / "teachers" / "records").iterdir())
    record = json.loads(path.read_text())
    record["weights_sha256"] = "0" * 64  # with the same scores
    path.write_text(json.dumps(record))
    with pytest.raises(KDBenchError, match="weights_sha256 is"):
        merge([runs, other], tmp_path / "merged")
