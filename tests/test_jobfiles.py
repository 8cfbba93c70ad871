"""Files of jobs' output are used again, and only when nobody else has them open."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from spoke.jobfiles import KEPT_BYTES, OutputFiles
from spoke.joblogs import Output, Reader, start_offsets


def written(files: OutputFiles, path: Path, data: bytes) -> Output:
    output = files.open(str(path))
    os.write(output.fd, data)
    output.look(1000)
    return output


def lines(output: Output, **args: int) -> bytes:
    outputs = {"stdout": output}
    reader = Reader(1, start_offsets(outputs, args), False)
    answer = reader.answer(outputs, True)
    assert answer is not None and answer["done"]
    return bytes(answer["chunks"]["stdout"][1]) if answer["chunks"] else b""


def test_a_little_output_is_kept_in_memory_and_its_file_gets_the_next_name(tmp_path: Path) -> None:
    files = OutputFiles(False)
    first = written(files, tmp_path / "one", b"a\nb\n")
    inode = (tmp_path / "one").stat().st_ino
    files.settle(first)
    second = files.open(str(tmp_path / "two"))
    assert (tmp_path / "two").stat().st_ino == inode and os.listdir(tmp_path) == ["two"]
    os.write(second.fd, b"c\n")
    assert lines(first) == b"a\nb\n" and lines(first, tail=1) == b"b\n" and lines(first, since_ms=2000) == b""
    assert (tmp_path / "two").read_bytes() == lines(second) == b"c\n"
    files.forget(first)
    assert (tmp_path / "two").exists()
    files.settle(second)
    files.close()
    assert os.listdir(tmp_path) == []


def test_what_a_process_still_has_open_is_never_anothers(tmp_path: Path) -> None:
    files = OutputFiles(False)
    output = written(files, tmp_path / "one", b"a\n")
    code = "import sys; sys.stdin.read(); print('late')"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=output.fd) as holder:
        files.settle(output)
        other = files.open(str(tmp_path / "two"))
        assert holder.stdin is not None
        holder.stdin.close()
        holder.wait(30)
    assert lines(output) == b"a\nlate\n" and lines(other) == b"" and (tmp_path / "one").exists()
    for one in (output, other):
        files.forget(one)
    assert os.listdir(tmp_path) == []


def test_what_is_large_stays_or_was_replaced_is_not_used_again(tmp_path: Path) -> None:
    for keep, size in ((False, KEPT_BYTES + 1), (True, 1)):
        files = OutputFiles(keep)
        output = written(files, tmp_path / "one", b"x" * size)
        files.settle(output)
        other = files.open(str(tmp_path / "two"))
        assert lines(output) == b"x" * size == (tmp_path / "one").read_bytes()
        files.forget(output)
        files.forget(other)
        assert bool(os.listdir(tmp_path)) is keep
        files.close()
    for change in (os.unlink, lambda path: os.rename(tmp_path / "other", path)):
        files = OutputFiles(False)
        output = written(files, tmp_path / "moved", b"mine")
        (tmp_path / "other").write_bytes(b"not ours")
        change(tmp_path / "moved")
        files.settle(output)
        other = files.open(str(tmp_path / "next"))
        assert lines(output) == b"mine" and lines(other) == b""
        files.forget(output)
        files.forget(other)
        files.close()
