"""`import ray` unchanged finds Spoke: in a program, its workers, its children, beside real Ray.

Rules: every program runs in a process of its own, since a search path is a process's; where it matters
that real Ray is not touched, a package ``ray`` that refuses to be imported stands beside.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import ray_compat

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 100.0


def _environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "SPOKE_ADDRESS")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def _python(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=_environment(**more),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        cwd="/",
    )


def _run(tmp_path: Path, text: str, *arguments: str, **more: str) -> Any:
    """The JSON that a program prints as its last line; it runs under ``python -m ray_compat``."""
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(text))
    done = _python("-m", "ray_compat", str(script), *arguments, **more)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def poisoned(tmp_path: Path) -> str:
    """A folder with a real Ray that must never be imported, and its metadata."""
    package = tmp_path / "elsewhere" / "ray"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('real Ray was imported')\n")
    (package / "serve.py").write_text("raise SystemExit('real Ray was imported')\n")
    metadata = tmp_path / "elsewhere" / "ray-1.0.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 1.0.0\n")
    return str(tmp_path / "elsewhere")


# -- ways in --------------------------------------------------------------------------------------


def test_a_script_runs_as_by_the_interpreter_itself(tmp_path: Path) -> None:
    seen = _run(
        tmp_path,
        """
        import json, sys, ray

        class Unit:  # of __main__: pickled by value
            value = 3

        @ray.remote
        def f(x):
            return Unit.value + x

        print(json.dumps([__name__, sys.argv[1:], sys.path[0], ray.get(f.remote(4)), ray.__version__]))
        """,
        "a",
        "--flag",
    )
    assert seen == ["__main__", ["a", "--flag"], str(tmp_path), 7, "2.60.0"]


def test_module_code_and_exit_status() -> None:
    done = _python(
        "-m", "ray_compat", "-c", "import ray, sys; print(ray.__name__, sys.argv); sys.exit(7)", "x"
    )
    assert (done.returncode, done.stdout) == (7, "ray ['-c', 'x']\n")
    done = _python("-m", "ray_compat", "-m", "timeit", "-n1", "-r1", "import ray")
    assert done.returncode == 0 and "best of 1" in done.stdout


def test_wrong_usage_says_what_is_right() -> None:
    for arguments, word in (([], "usage"), (["-x"], "unknown option"), (["-m"], "needs an argument")):
        done = _python("-m", "ray_compat", *arguments)
        assert done.returncode == 2 and word in done.stderr, arguments
    lost = _python("-E", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['x', 'y.py']; "
                   "from ray_compat.__main__ import main; sys.exit(main())")  # fmt: skip
    assert lost.returncode == 2 and "PYTHONPATH" in lost.stderr


def test_the_environment_switch_reaches_children_beside_real_ray(poisoned: str) -> None:
    told = _python("-m", "ray_compat", "--path")
    assert told.stdout.strip() == ray_compat.search_path()
    code = """
import importlib.metadata, importlib.util, json, subprocess, sys
import ray
@ray.remote
def child():
    import ray as again
    code = "import ray, importlib.metadata as m; print(ray.__file__, m.version('ray'))"
    return again.__file__, subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
mine, theirs = ray.get(child.remote())
loaded = [m.__file__ for n, m in sys.modules.items() if n == "ray" or n.startswith("ray.")]
print(json.dumps([mine, theirs.split(), importlib.metadata.version("ray"),
                  importlib.util.find_spec("ray.serve") is None, loaded]))
"""
    path = os.pathsep.join([ray_compat.search_path(), poisoned, str(ROOT)])
    done = _python("-c", code, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    mine, theirs, version, no_serve, loaded = json.loads(done.stdout)
    init = os.path.join(ray_compat.search_path(), "ray", "__init__.py")
    assert (mine, theirs, version, no_serve) == (init, [init, "2.60.0"], "2.60.0", True)
    assert loaded and not [file for file in loaded if file and file.startswith(poisoned)]


def test_the_folder_alone_is_enough() -> None:
    done = _python("-c", "import ray; print(ray.get(ray.put(5)))", PYTHONPATH=ray_compat.search_path())
    assert done.stdout == "5\n", done.stderr


def test_without_the_switch_nothing_changes(poisoned: str) -> None:
    code = "import spoke, ray_compat, importlib.util as u; print(u.find_spec('ray').origin)"
    done = _python("-c", code, PYTHONPATH=os.pathsep.join([str(ROOT), poisoned]))
    assert done.stdout.strip() == os.path.join(poisoned, "ray", "__init__.py")


def test_install_in_a_running_program() -> None:
    code = """
import ray_compat, os, sys, subprocess
ray_compat.install(); ray_compat.install()
import ray
assert sys.path.count(ray_compat.search_path()) == 1
assert os.environ["PYTHONPATH"].split(os.pathsep).count(ray_compat.search_path()) == 1
@ray.remote
def f():
    import ray.util.queue
    return ray.__name__
print(ray.get(f.remote()))
"""
    done = _python("-c", code)
    assert done.stdout == "ray\n", done.stderr


def test_install_too_late_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("")
    done = _python("-c", "import ray, ray_compat; ray_compat.install()", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert "Real Ray is imported already" in done.stderr
    done = _python("-c", "import spoke, ray_compat; spoke.init(); ray_compat.install()")
    assert "before init()" in done.stderr


# -- what is found --------------------------------------------------------------------------------

CORNERS = """
import json
import ray
import ray._private.state, ray._private.services, ray._private.worker
from ray._private.accelerators import TPUAcceleratorManager
from ray._private.async_compat import has_async_methods
from ray._private.profiling import profile
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._private.worker import RemoteFunctionNoArgs, global_worker
from ray.actor import ActorClass, ActorHandle
from ray.runtime_env import RuntimeEnv
from ray.types import ObjectRef
from ray.util import placement_group_table
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
import ray.util.placement_group

seen = {"before": global_worker.mode, "duality": ray.util.placement_group is placement_group}
context = ray.init(num_cpus=2, num_gpus=2)
node = ray.nodes()[0]
free = ray._private.state.available_resources_per_node()
total = ray._private.state.total_resources_per_node()
seen["per node"] = [list(free) == [node["NodeID"]], total[node["NodeID"]]["GPU"]]
ip = node["NodeManagerAddress"]
seen["ip"] = [f"node:{ip}" in free[node["NodeID"]], ray._private.services.get_node_ip_address() == ip,
              ray.util.get_node_ip_address() == ip]
pg = placement_group([{"GPU": 1, f"node:{ip}": 0.001}, {"CPU": 1}])
ray.get(pg.ready())
table = ray._private.state.state.placement_group_table(pg.id)
seen["group"] = [table["state"], list(table["bundles_to_node_id"]), table == placement_group_table(pg)]
seen["address"] = [global_worker.gcs_client.address == ray.get_runtime_context().gcs_address,
                   global_worker.node.gcs_address == context["gcs_address"]]
seen["worker"] = [global_worker.connected, global_worker.mode == ray.SCRIPT_MODE,
                  global_worker.current_job_id == ray.get_runtime_context().job_id]
class Mixed:
    async def a(self): pass
seen["async"] = [has_async_methods(Mixed), has_async_methods(int)]
with profile("step"):
    seen["tpus"] = TPUAcceleratorManager.get_current_node_num_accelerators()
def annotated(x: ActorHandle | None, y: ObjectRef | None, z: PlacementGroup | None): pass
print(json.dumps(seen))
"""


def test_private_corners_of_known_clients(tmp_path: Path) -> None:
    assert _run(tmp_path, CORNERS) == {
        "before": None,
        "duality": True,
        "per node": [True, 2.0],
        "ip": [True, True, True],
        "group": ["CREATED", [0, 1], True],
        "address": [True, True],
        "worker": [True, True, True],
        "async": [True, False],
        "tpus": 0,
    }


def test_names_that_are_not_carried_say_so() -> None:
    code = """
import importlib.util, ray
assert importlib.util.find_spec("ray.rllib") is None
for line in ("import ray.rllib", "from ray import serve", "from ray.util import no_such_name"):
    try:
        exec(line)
    except ImportError as error:
        print(error)
"""
    done = _python("-m", "ray_compat", "-c", code)
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and "ray.rllib is not carried by Spoke" in lines[0], done.stderr
    assert "ray.serve is not carried by Spoke" in lines[1] and "no_such_name" in lines[2]


def test_what_is_set_on_a_mirror_stays_there() -> None:
    code = """
import ray, ray.util, spoke
ray.get = "replaced"
ray.util.list_named_actors = "replaced"
assert callable(spoke.get) and callable(spoke.util.list_named_actors)
print(ray.get, ray.util.list_named_actors, "get" in dir(ray), "get" in ray.__all__)
"""
    done = _python("-m", "ray_compat", "-c", code)
    assert done.stdout == "replaced replaced True True\n", done.stderr


# -- a second driver ------------------------------------------------------------------------------

SECOND = """
import os, pickle, sys
import ray
pg, actor = None, None
context = ray.init(address=None, runtime_env=None)
with open(sys.argv[1], "rb") as file:
    pg, actor = ray.cloudpickle.load(file)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Strategy
@ray.remote
def where():
    return ray.get_runtime_context().get_placement_group_id()
inside = ray.get(where.options(scheduling_strategy=Strategy(pg, placement_group_bundle_index=1)).remote())
print(ray.get(actor.add.remote(5)), inside == pg.id.hex(), pg.bundle_specs, pg.wait(10))
"""

FIRST = """
import json, os, subprocess, sys
import ray
from ray.util import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Strategy

@ray.remote
class Counter:
    def __init__(self):
        self.n = 1
    def add(self, k):
        self.n += k
        return self.n

@ray.remote
class Launcher:
    def run(self, pg, counter, second, folder, how):
        path = os.path.join(folder, "handles")
        with open(path, "wb") as file:
            ray.cloudpickle.dump((pg, counter), file)
        variables = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "SPOKE_ADDRESS")}
        variables[how] = ray.get_runtime_context().gcs_address
        done = subprocess.run([sys.executable, second, path], capture_output=True, text=True, env=variables)
        return done.stdout or done.stderr

ray.init(num_cpus=4)
pg = placement_group([{"CPU": 1}, {"CPU": 1}])
counter, launcher = Counter.remote(), Launcher.remote()
print(json.dumps([
    ray.get(launcher.run.remote(pg, counter, sys.argv[1], sys.argv[2], how))
    for how in ("RAY_ADDRESS", "SPOKE_ADDRESS")
]))
"""


def test_a_subprocess_of_an_actor_joins_as_a_second_driver(tmp_path: Path) -> None:
    second = tmp_path / "second.py"
    second.write_text(SECOND)
    seen = _run(tmp_path, FIRST, str(second), str(tmp_path))
    told = "True [{'CPU': 1.0}, {'CPU': 1.0}] True\n"
    assert seen == [f"6 {told}", f"11 {told}"]


# -- the command line -----------------------------------------------------------------------------


def _isolated(tmp_path: Path) -> dict[str, str]:
    runtime = tmp_path / "run"
    runtime.mkdir(exist_ok=True)
    return {"XDG_RUNTIME_DIR": str(runtime), "SPOKE_TMPDIR": str(tmp_path / "tmp")}


def test_ray_is_a_command_for_children(tmp_path: Path) -> None:
    """A start script written for Ray, as a child of a program under the switch."""
    found = _run(
        tmp_path,
        """
        import json, shutil, subprocess, sys

        def ray(*arguments):
            done = subprocess.run(["ray", *arguments], capture_output=True, text=True)
            return [done.returncode, done.stdout, done.stderr]

        def joins(module, arguments):
            code = f"import {module} as ray; print(ray.init({arguments}).address_info['address'])"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            return done.stdout.strip(), done.stderr

        seen = {
            "where": shutil.which("ray"),
            "start": ray("start", "--head", "--port=0", "--num-cpus", "1", "--dashboard-host=0.0.0.0",
                         "--disable-usage-stats", "--include-dashboard", "false"),
            "joined": [joins("ray", given) for given in ("", "num_cpus=1", "'local'")] + [joins("spoke", "")],
            "nodes": ray("list", "nodes", "--format", "json"),
            "health": ray("health-check"),
            "wrong": ray("list", "nodes", "--nonsense"),
            "stop": ray("stop", "-v"),
        }
        print(json.dumps(seen))
        """,
        **_isolated(tmp_path),
    )
    assert found["where"] == os.path.join(ray_compat.executables(), "ray")
    code, out, err = found["start"]
    assert code == 0 and out.startswith("ready: head") and "ray.init(" in out
    address = out.partition("ray start --address='")[2].partition("'")[0]  # where Ray's fixtures read it
    assert address.startswith("127.0.0.1:")
    assert [one == address for one, _ in found["joined"]] == [True, False, False, False]
    told = ["Connected to Ray cluster.", *["Started a local Ray instance."] * 2]  # `spoke` says nothing
    assert all(text in err for text, (_, err) in zip(told, found["joined"], strict=False)), found["joined"]
    assert "left out: --dashboard-host, --disable-usage-stats, --include-dashboard" in err
    assert found["nodes"][0] == 0 and json.loads(found["nodes"][1])[0]["state"] == "ALIVE"
    assert found["health"] == [0, "", ""]
    assert found["wrong"][0] == 2 and len(found["wrong"][2].splitlines()) == 1
    assert found["stop"][0] == 0 and "stopped 1" in found["stop"][1]


def test_the_command_as_a_module_and_by_its_path(tmp_path: Path) -> None:
    for command in (
        ["-m", "ray_compat", "-m", "ray.scripts.scripts", "list", "--help"],
        ["-c", "import os, ray_compat; ray_compat.install(); os.execvp('ray', ['ray', 'list', '--help'])"],
    ):
        done = _python(*command, **_isolated(tmp_path))
        assert done.returncode == 0 and "Usage: ray list" in done.stdout, done.stderr
    done = _python("-m", "ray_compat", "--bin")
    assert done.stdout.strip() == ray_compat.executables()


def test_what_a_job_runs_is_not_translated() -> None:
    code = """
import json, ray_compat
ray_compat.install()
from ray.scripts.scripts import translated
print(json.dumps([
    translated(["start", "--node-ip-address=10.0.0.1", "--temp-dir", "/x", "--block"]),
    translated(["job", "submit", "--verify", "true", "--", "prog", "-v", "--verify", "x"]),
    translated(["--logging-level", "info", "status"]),
]))
"""
    assert json.loads(_python("-c", code).stdout) == [
        [["start", "--host=10.0.0.1", "--block"], ["--temp-dir"]],
        [["job", "submit", "--", "prog", "-v", "--verify", "x"], ["--verify"]],
        [["status"], ["--logging-level"]],
    ]
