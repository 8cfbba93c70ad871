"""The examples of jobs, pools and endpoints (rows F-48, F-58, F-59, M-23 to M-25), as rows expect them."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))

import pi  # noqa: E402
import rl_weights  # noqa: E402
import wordcount  # noqa: E402


def run(name: str, *arguments: str) -> list[str]:
    argv = [sys.executable, str(ROOT / "examples" / name), *arguments]
    out = subprocess.run(argv, capture_output=True, text=True, timeout=110, cwd=ROOT)
    assert out.returncode == 0, out.stderr
    return out.stdout.splitlines()


TEXT = "The cat's hat — das Öl, ÖL! 猫と犬 猫 x1 x1 _a the THE\n" * 7 + "naïve café\ttail"


@pytest.mark.usefixtures("spoke_cluster")
@pytest.mark.parametrize("size", [1, 2, 7, 64, 100_000])
def test_m23_wordcount_equals_counter(size: int) -> None:
    assert wordcount.word_count(TEXT, size) == Counter(wordcount.words(TEXT))


@pytest.mark.usefixtures("spoke_cluster")
def test_m23_wordcount_of_random_unicode_and_of_nothing() -> None:
    rng = random.Random(5)
    text = "".join(rng.choice("aB' \n-ßçé猫٣!") for _ in range(500))
    assert wordcount.word_count(text, 37) == Counter(wordcount.words(text))
    assert wordcount.word_count("") == {}
    with pytest.raises(ValueError, match="at least one character"):
        wordcount.word_count("a", 0)


def test_m23_wordcount_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("b a b", encoding="utf-8")
    assert [line.split() for line in run("wordcount.py", str(tmp_path / "t"))] == [["2", "b"], ["1", "a"]]


@pytest.mark.usefixtures("spoke_cluster")
def test_m24_pi() -> None:
    assert abs(pi.estimate(10_000_000) - 3.14159265) < 0.01
    assert pi.estimate(1000, 3) == pi.estimate(1000, 3)
    for wrong in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least one"):
            pi.estimate(*wrong)


def test_m25_actor_counter() -> None:
    assert run("actor_counter.py") == ["[1, 2, 3, 4, 5]", "2005"]


def test_f48_worker_pool() -> None:
    lines = run("worker_pool.py")
    assert lines[:3] == ["[1, 4, 9, 16, 25]", "[36, 49]", "[0, 1, 4]"] and lines[3].startswith("WorkerPool ")


def test_f48_actor_server() -> None:
    assert run("actor_server.py") == ["30 35", "['add(10, 20)', 'multiply(5, 7)']", "calc", "2"]


def test_f48_job_retries() -> None:
    assert run("job_retries.py") == [
        "done after 3 attempts", "[(0, 75), (1, 75), (2, 0)]", "['attempt 0', 'attempt 1', 'attempt 2']",
        "FAILED 64 1",
    ]  # fmt: skip


def test_f59_rl_weights_as_a_user_runs_it() -> None:
    assert run("rl_weights.py") == ["4500000.0 6"]


def test_f58_elastic_barrier() -> None:
    assert run("elastic_barrier.py") == ["[3, 3, 3]", "[2, 2]"]


@pytest.mark.usefixtures("spoke_cluster")
def test_f59_rl_weights_in_two_runs_that_do_not_see_each_other() -> None:
    assert rl_weights.train("one", players=2, rounds=3, size=1000) == (4500.0, 6)
    with ThreadPoolExecutor(2) as side_by_side:
        small = side_by_side.submit(rl_weights.train, "two", players=3, rounds=5, size=10)
        large = side_by_side.submit(rl_weights.train, "three", players=2, rounds=5, size=1000)
        assert (small.result(), large.result()) == ((100.0, 15), (7500.0, 10))


@pytest.mark.parametrize(
    ("section", "lines"),
    [
        ("Jobs", ["SUCCEEDED 42", "['training'] 0"]),
        ("Pools", ["[0, 1, 4, 9, 16]", "49 6"]),
        ("Endpoints", ["3 [7]"]),
    ],
)
def test_the_ten_lines_of_the_readme(section: str, lines: list[str], tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").split(f"## {section}\n", 1)[1]
    program = tmp_path / "program.py"
    program.write_text(text.split("```python\n", 1)[1].split("```", 1)[0])
    out = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=90, cwd=ROOT)
    assert out.stdout.splitlines() == lines, out.stderr
