"""Where workers' output goes (S2-16): files of their own, a folder per gang, nothing outside."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spoke.logs import KEPT_LOGS, LogFiles


def opened(files: LogFiles, number: int, place: str | None, text: bytes = b"") -> tuple[str, tuple[int, int]]:
    base, fds = files.open(bytes([number]) * 28, place)
    os.write(fds[0], text)
    return base, fds


def finish(files: LogFiles, base: str, fds: tuple[int, int]) -> None:
    files.put_away(base, fds)
    for fd in fds:
        os.close(fd)


def test_gangs_share_no_file_and_a_restart_adds_one(tmp_path: Path) -> None:
    files = LogFiles(str(tmp_path), keep=True)
    first = opened(files, 1, "gang-aa/rank-0", b"one\n")
    other = opened(files, 2, "gang-bb/rank-0", b"two\n")
    finish(files, *first)
    again = opened(files, 3, "gang-aa/rank-0", b"three\n")
    assert (tmp_path / "gang-aa/rank-0.out").read_bytes() == b"three\n", "the link shows the latest attempt"
    assert Path(first[0] + ".out").read_bytes() == b"one\n" and (tmp_path / "gang-bb/rank-0.out").exists()
    assert not os.path.exists(first[0] + ".err"), "an empty file goes with its worker"
    for one in (other, again):
        finish(files, *one)
    assert sorted(os.listdir(tmp_path)) == ["gang-aa", "gang-bb"]


@pytest.mark.parametrize(
    "place", ["../x/rank-0", "gang-aa/../../x", "gang-aa", "/etc/x", "gang-aa/", "a b/c", ""]
)
def test_nothing_is_written_outside(tmp_path: Path, place: str) -> None:
    files = LogFiles(str(tmp_path / "logs"), keep=True)
    with pytest.raises(ValueError, match="no place"):
        files.open(b"x" * 28, place)
    assert not list(tmp_path.iterdir())


def test_a_directory_of_our_own_keeps_the_latest(tmp_path: Path) -> None:
    files = LogFiles(str(tmp_path), keep=False)
    finish(files, *opened(files, 1, "gang-aa/rank-0", b"old\n"))
    for number in range(KEPT_LOGS):
        finish(files, *opened(files, number % 250 + 2, None, b"text\n"))
    assert not (tmp_path / "gang-aa").exists(), "the folder goes with its last file"


def test_a_gang_has_its_folder(tmp_path: Path, fresh_cluster: Callable[..., Any], monkeypatch: Any) -> None:
    monkeypatch.setenv("SPOKE_LOG_DIR", str(tmp_path / "logs"))
    spoke = fresh_cluster(num_cpus=4)

    class Talker:
        def talk(self) -> None:
            print("rank", os.environ["RANK"], "speaks", flush=True)

    with spoke.gang_allocate(1, 2) as gang:
        gang.launch(Talker)
        spoke.get([rank.talk.remote() for rank in gang.handles], timeout=60)
        folder = tmp_path / "logs" / f"gang-{gang.id}"
        deadline = time.monotonic() + 30
        while not all((folder / f"rank-{rank}.out").exists() for rank in range(2)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for rank in range(2):
            assert f"rank {rank} speaks".encode() in (folder / f"rank-{rank}.out").read_bytes()
