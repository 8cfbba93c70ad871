"""The helper process that makes one part of an environment, and ends.

It is a fork of the node's zygote, so that it costs little and nobody waits for it but who needs the part.
Its output goes to the log of the part; exit code 0 means that the part's facts are written.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Final, NoReturn

from spoke import _native
from spoke.envs import installers, packages
from spoke.envs.installers import Problem
from spoke.envs.parts import FACTS, FILES

DOWNLOAD_S: Final = 60.0  # without a byte
_WORK: Final = "work"


def main(order: dict[str, Any]) -> NoReturn:
    """Make the part; `order`: see `keeper.Keeper._start`."""
    _native.set_title("spoke-env")
    code = 1
    try:
        make(order)
        code = 0
    except Problem as error:
        print(error)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def make(order: dict[str, Any]) -> None:
    """Make the part's directory; its facts are written when all else is."""
    import shutil

    directory = order["directory"]
    shutil.rmtree(directory, ignore_errors=True)  # of a helper that did not get to its end
    files, work = os.path.join(directory, FILES), os.path.join(directory, _WORK)
    os.makedirs(files, mode=0o755)
    os.makedirs(work)
    kind, spec = order["kind"], order["spec"]
    if kind in ("package", "module"):
        facts = _package(order, files, work)
    else:
        facts = getattr(installers, kind)(spec, files, work, order.get("working_dir"))
    shutil.rmtree(work, ignore_errors=True)
    facts["bytes"] = _size(directory)
    part = os.path.join(directory, FACTS + ".part")
    with open(part, "w", encoding="utf-8") as file:
        json.dump(facts, file)
    os.rename(part, os.path.join(directory, FACTS))


def _package(order: dict[str, Any], files: str, work: str) -> dict[str, Any]:
    uri = order["spec"]["uri"]
    name = uri.partition("?")[0].rpartition("/")[2]
    ours = uri.startswith(packages.PREFIX)
    data = _from_hub(order, uri) if ours else _download(uri)
    try:
        packages.check_hash(uri, data)
        if name.endswith(".whl"):
            wheel = os.path.join(work, name)
            with open(wheel, "wb") as file:
                file.write(data)
            installers.install_wheel(wheel, files, work)
        else:
            packages.unpack(data, name, files, strip=not ours)
    except (ValueError, OSError) as error:
        raise Problem(f"the package {uri} cannot be used: {error}") from None
    return {}


def _from_hub(order: dict[str, Any], uri: str) -> bytes:
    from spoke.link import target_of
    from spoke.observer import Observer

    try:
        observer = Observer(target_of(order["hub"], order["node_id"]), order["token"])
        pieces: list[bytes] = []
        while True:
            found = observer.ask("package_get", DOWNLOAD_S, uri=uri, index=len(pieces))
            pieces.append(found["data"])
            if len(pieces) == found["count"]:
                break
        observer.close()
    except (ValueError, OSError) as error:
        raise Problem(str(error)) from None
    return b"".join(pieces)


def _download(uri: str) -> bytes:
    import urllib.request

    if not uri.startswith(("http://", "https://", "file://")):
        raise Problem(f"{uri}: this node fetches http, https and file URIs; give one, or a local path")
    try:
        with urllib.request.urlopen(uri, timeout=DOWNLOAD_S) as answer:
            data: bytes = answer.read()
            return data
    except (OSError, ValueError) as error:
        raise Problem(f"{uri} cannot be fetched: {error}") from None


def _size(directory: str) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        total += sum(os.lstat(os.path.join(folder, name)).st_size for name in names)
    return total
