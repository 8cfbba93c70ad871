"""Builds spoke._native: our C++20 and nanobind's one combined source, without CMake.

Rules: our files are compiled with warnings as errors, nanobind's without; the result is stripped
and below 1 MB.  ``SPOKE_SANITIZE=address`` or ``thread`` builds with that sanitizer instead.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nanobind
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = sorted(str(path) for path in Path("csrc").glob("*.cpp"))
HEADERS = sorted(str(path) for path in Path("csrc").glob("*.h"))
NANOBIND = str(Path(nanobind.source_dir()) / "nb_combined.cpp")
NANOBIND_INCLUDES = [
    nanobind.include_dir(),
    str(Path(nanobind.source_dir()).parent / "ext" / "robin_map" / "include"),
]
SANITIZERS = {"address": "address,undefined", "thread": "thread"}

COMMON = ["-std=c++20", "-fvisibility=hidden", "-fno-strict-aliasing"]
COMMON += ["-ffunction-sections", "-fdata-sections"]
OURS = ["-O2", "-Wall", "-Wextra", "-Werror"]
THEIRS = ["-Os", "-w"]


def sanitizer_flags() -> list[str]:
    """Compiler and linker flags that SPOKE_SANITIZE asks for."""
    name = os.environ.get("SPOKE_SANITIZE", "")
    if not name:
        return []
    if name not in SANITIZERS:
        raise SystemExit(f"SPOKE_SANITIZE must be one of {sorted(SANITIZERS)}, not {name!r}")
    return [f"-fsanitize={SANITIZERS[name]}", "-g", "-fno-omit-frame-pointer"]


class BuildNative(build_ext):
    """Compiles the two groups of sources with flags of their own."""

    def build_extension(self, ext: Extension) -> None:
        sanitize = sanitizer_flags()
        target = self.get_ext_fullpath(ext.name)
        inputs = [*SOURCES, *HEADERS, NANOBIND, "setup.py"]
        stamp = Path(self.build_temp) / "flags"
        flags = repr((COMMON, OURS, THEIRS, sanitize))
        if not self.force and stamp.exists() and stamp.read_text() == flags and Path(target).exists():
            built = Path(target).stat().st_mtime
            if all(Path(path).stat().st_mtime < built for path in inputs):
                return
        macros: list[tuple[str, str | None]] = [("NDEBUG", None), ("NB_COMPACT_ASSERTIONS", None)]
        objects: list[str] = []
        for sources, extra in ((SOURCES, OURS), ([NANOBIND], THEIRS)):
            # -isystem: the warnings of other people's headers are not ours.
            includes = [flag for path in NANOBIND_INCLUDES for flag in ("-isystem", path)]
            objects += self.compiler.compile(
                sources,
                output_dir=self.build_temp,
                macros=macros,
                include_dirs=ext.include_dirs,
                extra_postargs=[*includes, *COMMON, *extra, *sanitize],
            )
        strip = [] if sanitize else ["-Wl,-s"]
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(
            objects,
            target,
            extra_postargs=["-Wl,--gc-sections", "-pthread", *strip, *sanitize],
            target_lang="c++",
            build_temp=self.build_temp,
        )
        stamp.write_text(flags)

    def copy_extensions_to_source(self) -> None:
        # Replaced, not overwritten: a running process keeps the file that it mapped.
        for ext in self.extensions:
            target = Path(*ext.name.split(".")[:-1]) / Path(self.get_ext_filename(ext.name)).name
            fresh = target.with_suffix(".new")
            shutil.copy2(Path(self.build_lib) / self.get_ext_filename(ext.name), fresh)
            os.replace(fresh, target)


setup(
    ext_modules=[Extension("spoke._native", sources=SOURCES, depends=HEADERS, language="c++")],
    cmdclass={"build_ext": BuildNative},
)
