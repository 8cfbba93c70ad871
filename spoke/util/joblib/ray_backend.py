"""The joblib backend: batches of calls in the processes of a `spoke.util.multiprocessing.Pool`.

The processes stay for the next ``Parallel`` of the same size: most of what a new one would do first is
to import joblib and numpy again.  They take no CPU of the cluster, and end with the program.
"""

from __future__ import annotations

import weakref
from typing import Any

from joblib._parallel_backends import (
    FallbackToBackend,
    MultiprocessingBackend,
    SequentialBackend,
)

from spoke import api, current
from spoke.util.multiprocessing.pool import Pool


class _Warm:
    """The pool of the last ``Parallel``, for the next one."""

    def __init__(self) -> None:
        self._pool: Pool | None = None
        self._client: Any = None  # weak: whose pool it is

    def take(self, processes: int, options: dict[str, Any] | None) -> Pool:
        """A pool of so many processes that nobody uses."""
        pool, self._pool = self._pool, None
        if pool is not None and self._client() is current.client:
            if pool.processes == processes and not options:
                return pool
            pool.terminate()
        return Pool(processes, ray_remote_args=options)

    def keep(self, pool: Pool, options: dict[str, Any] | None) -> None:
        """Nobody uses it any more, and nothing runs there."""
        if self._pool is not None or options or current.client is None:
            pool.terminate()
        else:
            self._pool, self._client = pool, weakref.ref(current.client)


_warm = _Warm()


class RayBackend(MultiprocessingBackend):  # type: ignore[misc]
    """Runs joblib's batches on the cluster.

    Args:
        nesting_level, inner_max_num_threads, kwargs: as joblib passes them.
        ray_remote_args: options of the actors that do the work.
    """

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        ray_remote_args: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads, **kwargs)
        self.ray_remote_args = ray_remote_args
        self._pool: Pool | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many processes: -1 is all CPUs of the cluster, -2 all but one, and so on."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs > 0:
            return n_jobs
        if not api.is_initialized():
            api.init()
        cpus = int(api.cluster_resources().get("CPU", 1))
        return max(1, cpus + 1 + n_jobs)

    def configure(
        self, n_jobs: int = 1, parallel: Any = None, prefer: Any = None, require: Any = None, **ignored: Any
    ) -> int:
        """Make the pool; returns how many processes it has."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self._pool = _warm.take(n_jobs, self.ray_remote_args)
        self.parallel = parallel
        return n_jobs

    def terminate(self) -> None:
        """All results are there: the pool is left to the next ``Parallel``."""
        pool, self._pool = self._pool, None
        if pool is not None:
            _warm.keep(pool, self.ray_remote_args)
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Something failed: what runs is ended with its processes."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()
        self.reset_batch_stats()
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)
