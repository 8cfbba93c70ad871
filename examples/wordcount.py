"""Counts words with map tasks, one per chunk, and a tree of reduce tasks.

A word is a run of letters, digits and apostrophes in any script, in lower case.  The answer equals
``collections.Counter`` over the same words, whatever the chunk size.

    python examples/wordcount.py FILE [--chunk-bytes 65536] [--top 10]
"""

from __future__ import annotations

import argparse
import re
from collections import Counter

import spoke as ray

WORD = re.compile(r"[\w']+")


def words(text: str) -> list[str]:
    """The words of a text."""
    return WORD.findall(text.lower())


def chunks(text: str, size: int) -> list[str]:
    """Pieces of about `size` characters, cut where no word is cut.

    Raises:
        ValueError: a size below 1.
    """
    if size < 1:
        raise ValueError(f"a chunk has at least one character, not {size}")
    found = []
    start = 0
    while start < len(text):
        end = min(len(text), start + size)
        while end < len(text) and WORD.match(text[end - 1 : end + 1]) and not text[end].isspace():
            end += 1
        found.append(text[start:end])
        start = end
    return found


@ray.remote
def count(text: str) -> Counter[str]:
    """The map step."""
    return Counter(words(text))


@ray.remote
def merge(*counts: Counter[str]) -> Counter[str]:
    """The reduce step."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return total


def word_count(text: str, chunk_size: int = 65536, fan_in: int = 4) -> Counter[str]:
    """The words of a text and how often each occurs; empty for an empty text."""
    level = [count.remote(piece) for piece in chunks(text, chunk_size)]
    while len(level) > 1:
        level = [merge.remote(*level[start : start + fan_in]) for start in range(0, len(level), fan_in)]
    return ray.get(level[0]) if level else Counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--chunk-bytes", type=int, default=65536)
    parser.add_argument("--top", type=int, default=10)
    options = parser.parse_args()
    with open(options.file, encoding="utf-8") as file:
        text = file.read()
    for word, number in word_count(text, options.chunk_bytes).most_common(options.top):
        print(f"{number:8d} {word}")


if __name__ == "__main__":
    main()
