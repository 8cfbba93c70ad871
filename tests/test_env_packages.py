"""Packages of runtime environments: what is in them, what they are named, what they may not do."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from spoke.envs import packages
from spoke.envs.ignores import Patterns

MIB = 1 << 20


@pytest.mark.parametrize(
    ("pattern", "path", "is_dir", "excluded"),
    [
        ("*.log", "a.log", False, True),
        ("*.log", "deep/er/a.log", False, True),
        ("*.log", "a.logs", False, False),
        ("/top.txt", "top.txt", False, True),
        ("/top.txt", "sub/top.txt", False, False),
        ("sub/x", "sub/x", False, True),
        ("sub/x", "other/sub/x", False, False),
        ("build/", "build", True, True),
        ("build/", "build", False, False),
        ("build/", "deep/build", True, True),
        ("**/cache", "a/b/cache", True, True),
        ("**/cache", "cache", True, True),
        ("a/**/z", "a/z", False, True),
        ("a/**/z", "a/b/c/z", False, True),
        ("a/**", "a/b/c", False, True),
        ("a/**", "a", True, False),
        ("file?.txt", "file1.txt", False, True),
        ("file?.txt", "file/.txt", False, False),
        ("[abc].py", "b.py", False, True),
        ("[!abc].py", "b.py", False, False),
        ("[!abc].py", "d.py", False, True),
        ("[a-c]x", "bx", False, True),
        ("[unclosed", "[unclosed", False, True),
        ("# comment", "# comment", False, False),
        ("\\#kept", "#kept", False, True),
        ("trailing ", "trailing", False, True),
        ("trailing\\ ", "trailing ", False, True),
        ("a*b", "a/b", False, False),
        ("", "", False, False),
    ],
)
def test_patterns_as_git_has_them(pattern: str, path: str, is_dir: bool, excluded: bool) -> None:
    assert Patterns([pattern + "\n"]).excludes(path, is_dir) is excluded


def test_the_last_pattern_decides() -> None:
    patterns = Patterns(["*.txt", "!keep.txt", "keep.txt.old"])
    assert patterns.excludes("a.txt", False) and not patterns.excludes("keep.txt", False)


def tree(root: Path, **files: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def names(data: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(data)).namelist()


def test_f17_equal_content_has_one_name_and_an_edit_another(tmp_path: Path) -> None:
    one = tree(tmp_path / "one", a_DOT_py="1", sub__b_DOT_py="2")
    two = tree(tmp_path / "two", sub__b_DOT_py="2", a_DOT_py="1")
    os.utime(two / "a.py", (1, 1))
    assert packages.pack(str(one), [], True, MIB) == packages.pack(str(two), [], True, MIB)
    first = packages.uri_of(packages.pack(str(one), [], True, MIB))
    (one / "a.py").write_text("3")
    second = packages.uri_of(packages.pack(str(one), [], True, MIB))
    assert first != second and first.startswith("gcs://_ray_pkg_") and first.endswith(".zip")


def test_f17_ignored_files_are_left_out(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "r", kept_DOT_py="", a_DOT_log="", sub__b_DOT_log="", sub__only_DOT_here="",
        out__x_DOT_bin="", _DOT_gitignore="*.log\nout/\n", sub___DOT_rayignore="only.here\n",
    )  # fmt: skip
    (root / "empty").mkdir()
    everything = [".gitignore", "empty/", "kept.py", "sub/.rayignore"]
    assert names(packages.pack(str(root), [], True, MIB)) == everything
    assert "a.log" in names(packages.pack(str(root), [], False, MIB))
    assert names(packages.pack(str(root), ["sub", "/empty"], True, MIB)) == [".gitignore", "kept.py"]


def test_links_and_modes(tmp_path: Path) -> None:
    root = tree(tmp_path / "r", run_DOT_sh="#!/bin/sh\n", data="x")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to(root / "data")
    (root / "round").symlink_to(root)
    packed = packages.pack(str(root), [], True, MIB)
    assert names(packed) == ["data", "link", "run.sh"]
    out = tmp_path / "out"
    out.mkdir()
    packages.unpack(packed, "x.zip", str(out))
    assert os.access(out / "run.sh", os.X_OK) and not os.access(out / "data", os.X_OK)
    assert (out / "link").read_text() == "x" and not (out / "link").is_symlink()


def test_f17_over_the_limit_is_a_value_error_that_names_the_largest(tmp_path: Path) -> None:
    root = tree(tmp_path / "r", small="x", large="y" * 5000)
    with pytest.raises(ValueError, match=r"exceeds the maximum size.*large \(0\.00MiB\)"):
        packages.pack(str(root), [], True, 4000)
    assert packages.pack(str(root), ["large"], True, 4000)


@pytest.mark.parametrize("name", ["../out.txt", "/abs.txt", "a/../../out.txt", "..", "a\\..\\..\\out.txt"])
def test_f17_a_member_that_escapes_is_a_value_error(tmp_path: Path, name: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("fine.txt", "x")
        archive.writestr(name, "evil")
    target = tmp_path / "in"
    target.mkdir()
    with pytest.raises(ValueError, match="outside of its directory"):
        packages.unpack(buffer.getvalue(), "x.zip", str(target))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["fine.txt", "in"]


def test_tars_and_what_is_no_archive(tmp_path: Path) -> None:
    def tar(link: bool) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            info = tarfile.TarInfo("top/a.txt")
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
            if link:
                info = tarfile.TarInfo("top/link")
                info.type, info.linkname = tarfile.SYMTYPE, "/etc"
                archive.addfile(info)
        return buffer.getvalue()

    packages.unpack(tar(False), "x.tar.gz", str(tmp_path), strip=True)
    assert (tmp_path / "a.txt").read_text() == "abc"
    with pytest.raises(ValueError, match="link or device: 'top/link'"):
        packages.unpack(tar(True), "x.tar.gz", str(tmp_path))
    with pytest.raises(ValueError, match="not an archive that can be read"):
        packages.unpack(b"nonsense", "x.zip", str(tmp_path))


def test_f17_other_bytes_than_the_name_says_are_a_value_error() -> None:
    uri = packages.uri_of(b"one")
    packages.check_hash(uri, b"one")
    with pytest.raises(ValueError, match="hash mismatch"):
        packages.check_hash(uri, b"two")
    wheel = packages.uri_of(b"one", "/some/where/x-1-py3-none-any.whl")
    packages.check_hash(wheel, b"one")
    assert wheel.endswith("/x-1-py3-none-any.whl")
