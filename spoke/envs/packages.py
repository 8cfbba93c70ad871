"""Packages: a directory or file as a zip named by its content, and the way back.

Rules of this module: equal content gives equal bytes (sorted names, one date, stored), so the name, the
SHA-256 of the bytes, says what is inside; whoever unpacks checks it.  Nothing is ever written outside of
the directory that a package is unpacked into.
"""

from __future__ import annotations

import io
import os
import posixpath
import stat
from collections.abc import Iterator
from hashlib import sha256
from typing import IO, Any, Final

from spoke.envs.ignores import IGNORE_FILES, Patterns

PREFIX: Final = "gcs://"  # the scheme that Ray uses for what the cluster itself keeps
NAME: Final = "_ray_pkg_"
ARCHIVES: Final = (".zip", ".tar.gz", ".tgz", ".tar.xz")
_DATE: Final = (1980, 1, 1, 0, 0, 0)
_EXECUTABLE: Final = 0o111
_NAME_HEX: Final = 40
_CHUNK: Final = 1 << 20


class TooLarge(ValueError):
    """A package is over the limit."""


def size_text(size: float) -> str:
    """``1.50MiB``."""
    return f"{size / 2**20:.2f}MiB"


def is_archive(path: str) -> bool:
    """Does the name say that it is an archive?"""
    return path.lower().endswith(ARCHIVES)


def uri_of(data: bytes, name: str = "") -> str:
    """The URI of a package; `name`: of the archive that it is, for its kind."""
    digest = sha256(data).hexdigest()[:_NAME_HEX]
    if name.endswith(".whl"):  # whose name says what it is for
        return f"{PREFIX}{NAME}{digest}/{os.path.basename(name)}"
    suffix = next((one for one in ARCHIVES if name.lower().endswith(one)), ".zip")
    return f"{PREFIX}{NAME}{digest}{suffix}"


def check_hash(uri: str, data: bytes) -> None:
    """Is this the package of that name?

    Raises:
        ValueError: it is not.
    """
    stem = uri.removeprefix(PREFIX + NAME)[:_NAME_HEX]
    if uri.startswith(PREFIX + NAME) and sha256(data).hexdigest()[:_NAME_HEX] != stem:
        raise ValueError(f"hash mismatch: what came for {uri} is not what its name says")


def files_below(root: str, excludes: list[str], use_gitignore: bool) -> Iterator[tuple[str, str]]:
    """(path, relative name) of the files of a directory, and of its empty directories (name ends in "/").

    Args:
        excludes: patterns as in a .gitignore at `root`.
        use_gitignore: heed .gitignore files; .rayignore files are always heeded.
    """
    names = IGNORE_FILES if use_gitignore else IGNORE_FILES[1:]
    yield from _walk(root, "", [("", Patterns(excludes))], names, (os.path.realpath(root),))


def _walk(
    path: str,
    relative: str,
    rules: list[tuple[str, Patterns]],
    names: tuple[str, ...],
    above: tuple[str, ...],
) -> Iterator[tuple[str, str]]:
    here = [*rules]
    for name in names:
        patterns = _read_patterns(os.path.join(path, name))
        if patterns:
            here.append((relative, patterns))
    empty = True
    for entry in sorted(os.scandir(path), key=lambda one: one.name):
        empty = False
        name = relative + entry.name
        is_dir = entry.is_dir()
        if any(patterns.excludes(name[len(base) :], is_dir) for base, patterns in here):
            continue
        if is_dir:
            real = os.path.realpath(entry.path)
            if real not in above:  # a link to a directory above has no end
                yield from _walk(entry.path, name + "/", here, names, (*above, real))
        elif entry.is_file():
            yield entry.path, name
    if empty and relative:
        yield path, relative


def _read_patterns(path: str) -> Patterns | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return Patterns(file)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def pack(path: str, excludes: list[str], use_gitignore: bool, limit: int, *, parent: bool = False) -> bytes:
    """A zip of a directory, or of one file.

    Args:
        limit: bytes that it may have.
        parent: put all into a directory of the name that `path` has.

    Raises:
        TooLarge: it has more; the text names the largest files.
        OSError: a file cannot be read.
    """
    import zipfile

    base = os.path.basename(os.path.abspath(path)) + "/" if parent else ""
    found = list(files_below(path, excludes, use_gitignore)) if os.path.isdir(path) else []
    if not os.path.isdir(path):
        found = [(path, os.path.basename(path))]
    sizes = [(os.path.getsize(file), name) for file, name in found if not name.endswith("/")]
    total = sum(size for size, _ in sizes)
    if total >= limit:
        raise TooLarge(_too_large(total, limit, sizes))
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        for file, name in found:
            info = zipfile.ZipInfo(base + name, _DATE)
            if name.endswith("/"):
                info.external_attr = (stat.S_IFDIR | 0o755) << 16
                archive.writestr(info, b"")
                continue
            executable = os.stat(file).st_mode & _EXECUTABLE
            info.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
            with open(file, "rb") as source:
                archive.writestr(info, source.read())
    data = output.getvalue()
    if len(data) >= limit:
        raise TooLarge(_too_large(len(data), limit, sizes))
    return data


def _too_large(size: int, limit: int, sizes: list[tuple[int, str]]) -> str:
    largest = ", ".join(f"{name} ({size_text(one)})" for one, name in sorted(sizes, reverse=True)[:3])
    return (
        f"Package size ({size_text(size)}) exceeds the maximum size of {size_text(limit)}. To exclude large "
        "files, add them to '.gitignore' or '.rayignore' files, or use the 'excludes' option in the "
        f"runtime_env, or provide a URI of a remote zip file. The largest files: {largest}"
    )


def read_archive(path: str, limit: int) -> bytes:
    """The bytes of an archive.

    Raises:
        TooLarge: it is over the limit.
        OSError: it cannot be read.
    """
    size = os.path.getsize(path)
    if size >= limit:
        raise TooLarge(_too_large(size, limit, [(size, os.path.basename(path))]))
    with open(path, "rb") as file:
        return file.read()


def unpack(data: bytes, name: str, directory: str, *, strip: bool = False) -> None:
    """Write the files of an archive below `directory`, which is there and empty.

    Args:
        name: of the archive; tells its kind.
        strip: leave out the one directory that all files are in, if there is one.

    Raises:
        ValueError: it is no archive, or a member would land outside of `directory`.
        OSError: a file cannot be written.
    """
    import tarfile
    import zipfile

    try:
        if name.lower().endswith(ARCHIVES[1:]):
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                members = [one for one in tar.getmembers() if one.isdir() or one.isfile()]
                odd = [one.name for one in tar.getmembers() if one not in members]
                if odd:
                    raise ValueError(f"the archive {name} has a link or device: {odd[0]!r}")
                top = _top([(one.name, one.isdir()) for one in members]) if strip else ""
                for one in members:
                    source = tar.extractfile(one) if one.isfile() else None
                    _write(directory, one.name, top, source, one.mode)
        else:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                infos = archive.infolist()
                top = _top([(one.filename, one.is_dir()) for one in infos]) if strip else ""
                for info in infos:
                    opened = None if info.is_dir() else archive.open(info)
                    _write(directory, info.filename, top, opened, info.external_attr >> 16)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise ValueError(f"{name} is not an archive that can be read: {error}") from None


def _top(members: list[tuple[str, bool]]) -> str:
    """The directory that all members are in, with "/"; else ""."""
    names = [posixpath.normpath(name) + ("/" if is_dir else "") for name, is_dir in members]
    names = [name for name in names if not name.startswith("__MACOSX/")]
    first = names[0].partition("/")[0] + "/" if names and "/" in names[0] else ""
    return first if first and all(name.startswith(first) for name in names) else ""


def _write(directory: str, name: str, top: str, source: IO[bytes] | Any, mode: int) -> None:
    plain = posixpath.normpath(name.replace("\\", "/"))
    if plain.startswith(("/", "../")) or plain == ".." or "\0" in plain:
        raise ValueError(f"the archive would write outside of its directory: {name!r}")
    if top:
        if not (plain + "/").startswith(top):
            return  # what an archiver of another system adds
        plain = plain[len(top) :] or "."
    path = os.path.join(directory, plain)
    if source is None:
        os.makedirs(path, exist_ok=True)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with source, open(path, "wb") as file:
        while chunk := source.read(_CHUNK):
            file.write(chunk)
    os.chmod(path, 0o755 if mode & _EXECUTABLE else 0o644)
