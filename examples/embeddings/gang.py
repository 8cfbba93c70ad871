"""The tensor-parallel ranks as the launcher holds them: reserve, start, meet, load, embed, release.

A rank that dies, hangs or raises breaks the gang for good, because the others may have stopped at
different collectives: the error is a `GangBroken` that names the rank, and every later call repeats it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import spoke as ray
from spoke.util.placement_group import placement_group, remove_placement_group
from spoke.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from .rank import COLLECTIVE_TIMEOUT_S, Rank

RESERVE_TIMEOUT_S = 30.0
ROOT_CAUSE_S = 2.0  # after one rank's error, how long to wait for another rank's death, which explains it
# The collectives' own timeout names the cause, so it goes first.
ANSWER_TIMEOUT_S = COLLECTIVE_TIMEOUT_S + 5.0

Progress = Callable[[str, int, int], None]  # phase, steps done, steps in all


class GangBroken(RuntimeError):
    """A rank is lost, and the model with it."""


class Gang:
    """`world` ranks of one model, each in its own bundle of one placement group."""

    def __init__(self, model_dir: Path, world: int, threads: int) -> None:
        self.world = world
        self.pids: list[int] = []
        self.import_s = 0.0
        self.parameters: list[int] = []
        self._model_dir = model_dir
        self._threads = threads
        self._group: Any = None
        self._ranks: list[Any] = []
        self._broken: GangBroken | None = None

    def reserve(self) -> None:
        """Reserve one CPU per rank, all or nothing.

        Raises ValueError if the cluster is too small, TimeoutError if its CPUs stay taken for 30 s.
        """
        cpus = ray.cluster_resources().get("CPU", 0.0)
        if cpus < self.world:
            need = f"{self.world} ranks need {self.world} CPUs"
            raise ValueError(f"{need} and the cluster has {cpus:g}; see --num-cpus")
        # The ranks meet over loopback, so they must share a node.
        self._group = placement_group([{"CPU": 1}] * self.world, strategy="STRICT_PACK")
        if not self._group.wait(timeout_seconds=RESERVE_TIMEOUT_S):
            raise TimeoutError(f"no {self.world} free CPUs on one node within {RESERVE_TIMEOUT_S:g} s")

    def start(self, layers: int, progress: Progress) -> None:
        """Start the ranks, let them meet, and load the weights of a model of `layers` layers."""
        actor = ray.remote(Rank)
        for rank in range(self.world):
            place = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=rank)
            options = actor.options(num_cpus=1, scheduling_strategy=place)
            self._ranks.append(options.remote(rank, self.world, str(self._model_dir), self._threads))
        about = self._gather([rank.describe.remote() for rank in self._ranks], "starting ranks", progress)
        self.pids = [each["pid"] for each in about]
        self.import_s = max(each["import_s"] for each in about)
        port = self._gather([self._ranks[0].open_store.remote()])[0]
        self._gather([rank.join.remote(port) for rank in self._ranks], "joining ranks", progress)
        # Submitted part by part for the sake of progress; each rank runs them in this order.
        steps = [rank.load_embeddings.remote() for rank in self._ranks]
        for _ in range(layers):
            steps += [rank.load_layer.remote() for rank in self._ranks]
        self.parameters = self._gather(steps, "loading weights", progress)[-self.world :]

    def embed(self, rows: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """Unit vectors (texts, hidden) of token id lists.  Raises GangBroken.  Call it from one thread."""
        lengths = np.array([len(row) for row in rows], np.int32)
        ids = np.zeros((len(rows), int(lengths.max())), np.int32)
        for padded, row in zip(ids, rows, strict=True):
            padded[: len(row)] = row
        answers = self._gather([rank.embed.remote(ids, lengths) for rank in self._ranks])
        vectors: npt.NDArray[np.float32] = answers[0]
        return vectors

    def ping(self) -> None:
        """Return if every rank is alive, else raise GangBroken.  From the thread that calls `embed`."""
        self._gather([rank.ping.remote() for rank in self._ranks])

    def release(self) -> None:
        """Kill the ranks and give the reservation back; harmless when repeated."""
        for rank in self._ranks:
            ray.kill(rank)
        self._ranks = []
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None

    def _gather(self, refs: list[Any], phase: str = "", progress: Progress | None = None) -> list[Any]:
        """The values of `refs`, of which the i-th is of rank i modulo the world."""
        if self._broken:
            raise self._broken
        pending = list(refs)
        values: dict[Any, Any] = {}
        errors: dict[Any, Exception] = {}
        if progress:
            progress(phase, 0, len(refs))
        while pending:
            ready, pending = ray.wait(pending, timeout=ROOT_CAUSE_S if errors else ANSWER_TIMEOUT_S)
            if not ready:
                break
            try:
                values[ready[0]] = ray.get(ready[0])
            except Exception as error:  # whatever a rank raises breaks the gang, by its name
                errors[ready[0]] = error
            if progress:
                progress(phase, len(refs) - len(pending), len(refs))
        if len(values) < len(refs):
            self._broken = self._explain(refs, errors, pending)
            raise self._broken
        return [values[ref] for ref in refs]

    def _explain(self, refs: list[Any], errors: dict[Any, Exception], pending: list[Any]) -> GangBroken:
        """A death explains the other ranks' errors, an error explains another rank's silence."""
        deaths = [ref for ref in refs if isinstance(errors.get(ref), ray.exceptions.RayActorError)]
        for ref in deaths or list(errors):
            rank = refs.index(ref) % self.world
            what = "died" if deaths else "failed"
            pid = f" (pid {self.pids[rank]})" if self.pids else ""
            return GangBroken(f"tensor-parallel rank {rank}{pid} {what}: {_last_line(errors[ref])}")
        silent = sorted({refs.index(ref) % self.world for ref in pending})
        return GangBroken(f"tensor-parallel ranks {silent} gave no answer for {ANSWER_TIMEOUT_S:g} s")


def _last_line(error: Exception) -> str:
    """The line of a message that says what happened: a remote traceback ends with it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[0] if isinstance(error, ray.exceptions.RayActorError) else lines[-1]
