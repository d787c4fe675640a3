"""The lock of a results folder: one run at a time, where the file system can tell; never a run that cannot begin."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from kdbench.errors import KDBenchError
from kdbench.records.lock import is_locked, locked


def test_two_runs_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(KDBenchError, match="another kdbench run is working in"), locked(tmp_path):
            pass
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO, errno.EBADF])
def test_a_file_system_without_locks_is_said_once_and_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path):
        assert not is_locked(tmp_path)
    said = capsys.readouterr().err
    assert f"kdbench: the file system of {str(tmp_path)!r} has no locks ({os.strerror(number)})" in said
    assert len(said.splitlines()) == 1


def test_every_user_of_a_shared_folder_may_take_the_lock(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with locked(tmp_path):
            assert (tmp_path / ".lock").stat().st_mode & 0o777 == 0o666
    finally:
        os.umask(before)


def test_a_lock_that_may_only_be_read_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".lock").write_text("")
    real = os.open

    def refuse(path: object, flags: int, *more: int) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY) and not flags & os.O_EXCL:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    with locked(tmp_path):
        assert is_locked(tmp_path)


def test_a_forked_child_does_not_hold_the_lock_of_its_parent(tmp_path: Path) -> None:
    ready, done = os.pipe(), os.pipe()
    with locked(tmp_path):
        if not (child := os.fork()):  # as a worker that reads images is
            os.write(ready[1], b".")
            os.read(done[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
    try:
        assert not is_locked(tmp_path)
    finally:
        os.write(done[1], b".")
        os.waitpid(child, 0)
