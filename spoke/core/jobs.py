"""Submitted jobs: the hub's table of them, from PENDING to their end.

Rules of this module:

- A job's id is its name, below its parent's ("parent/child"); ids are unique for ever.  What it runs with
  and where is in its spec (`spoke/jobs/spec.py`), which the agent gets in RUN_JOB.
- Resources are taken when an attempt is given to an agent, and come back when its agent says that the
  processes are reaped, or with the node.  A report of another attempt or another node is ignored.
- The end of a job ends its children first: when a job is seen to have ended, nothing below it runs.
- The members of a group start together or not at all, are tried again together, and fail together.
- Who waits for a change is answered when it happens.  Every change is journaled; `restore` carries the
  table over a restart of the hub.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from spoke import wire
from spoke.core import Send
from spoke.core.choice import visible
from spoke.core.directory import DEFERRED, RequestError
from spoke.core.jobquestions import LogQuestions
from spoke.core.jobstates import (
    BUILDING,
    FAILED,
    FAILURE,
    KILLED,
    PENDING,
    PREEMPTION,
    RUNNING,
    SUCCEEDED,
    UNSCHEDULABLE,
    WORKER_FAILED,
    Attempt,
    move,
)
from spoke.core.schedulers import KINDS, Request, View
from spoke.core.state import Client, Item, Node, State
from spoke.core.submitted import Submitted
from spoke.limits import MAX_DEAD_RECORDS, MAX_JOB_RESULTS_BYTES, MAX_JOBS

ATTEMPTS_KEPT: Final = 200  # of one job, the latest
TERMINATED: Final = "Terminated by user"
_REPORTED: Final = {"BUILDING": BUILDING, "RUNNING": RUNNING}


class Submissions:
    """All submitted jobs; `place` and `check` are called by the hub."""

    def __init__(self, state: State) -> None:
        self.s = state
        self.jobs: dict[str, Submitted] = state.submissions
        self.groups: dict[str, list[Submitted]] = {}
        self.queue: dict[str, Submitted] = {}  # waiting for a node, in order of arrival
        self.reclaim: Callable[[Item], None] = lambda item: None
        self.keep_packages: Callable[[str, Any], None] = lambda job_id, uris: None
        self._result_bytes = 0
        self.logs = LogQuestions(state, self.find)
        self._serial = 0
        self._settle_at: float | None = None  # after a restart: what no agent claimed by then is lost
        self._restored = False
        self._tried_at = -1  # version of the capacity at which nothing more fitted
        self.requests = {
            "job_submit": self._submit,
            "jobs_submit_group": self._submit_group,
            "job": lambda client, args: self.find(args).describe(),
            "job_wait": self._wait,
            "job_result": self._result,
            "job_stop": self._stop,
            "jobs_stop_prefix": self._stop_prefix,
            "job_delete": self._delete,
            "submitted_jobs": self._list,
            **self.logs.requests,
        }

    def find(self, args: dict[str, Any]) -> Submitted:
        """The job of ``args["id"]``.

        Raises:
            RequestError: there is none.
        """
        found = self.jobs.get(args["id"])
        if found is None:
            raise RequestError("KeyError", f"no job {args['id']!r} is known")
        return found

    # -- submission

    def _submit(self, client: Client, args: dict[str, Any]) -> str:
        spec = args["spec"]
        known = self._said_before(spec)
        if known is not None:
            return known.submission_id
        job = self._new(spec)
        self._admit([job])
        return job.submission_id

    def _submit_group(self, client: Client, args: dict[str, Any]) -> list[str]:
        specs = args["specs"]
        if not specs:
            raise RequestError("ValueError", "a group has at least one job")
        known = [self._said_before(spec) for spec in specs]
        if None not in known:
            return [job.submission_id for job in known if job is not None]
        self._serial += 1
        group = str(specs[0].get("group") or f"group-{self._serial}")
        jobs: list[Submitted] = []
        for spec in specs:
            job = self._new({**spec, "group": group})
            if job.submission_id in [other.submission_id for other in jobs]:
                raise RequestError("ValueError", f"two jobs of the group are named {job.submission_id!r}")
            jobs.append(job)
        if group in self.groups:
            raise RequestError("ValueError", f"a group {group!r} exists already")
        self._admit(jobs)
        return [job.submission_id for job in jobs]

    def _said_before(self, spec: dict[str, Any]) -> Submitted | None:
        """The job of a submission that is said again, as after a restart of the hub."""
        name, parent = spec.get("name"), spec.get("parent")
        known = self.jobs.get(f"{parent}/{name}" if parent else str(name))
        if known is None or not spec.get("key") or known.spec.get("key") != spec["key"]:
            return None
        return known

    def _new(self, spec: dict[str, Any]) -> Submitted:
        """A checked job.

        Raises:
            RequestError: its name is taken, its parent is not there or has ended, its spec is wrong.
        """
        name, parent = spec.get("name"), spec.get("parent") or ""
        if not isinstance(name, str) or not name:
            raise RequestError("ValueError", "a job needs a name")
        if "/" in name:
            raise RequestError("ValueError", "Job name cannot contain '/'")
        job_id = f"{parent}/{name}" if parent else name
        known = self.jobs.get(job_id)
        if known is not None and not self._replaceable(known):
            raise RequestError("ValueError", f"job {job_id} already exists: an id is used once")
        if parent:
            above = self.jobs.get(parent)
            if above is None:
                raise RequestError("KeyError", f"the parent job {parent!r} is unknown")
            if not above.live or above.ending is not None:
                raise RequestError("ValueError", f"the parent job {parent!r} has ended")
            spec = {**spec, "parent_attempt": above.number}
        if len(self.queue) >= MAX_JOBS:
            raise RequestError("RuntimeError", f"{MAX_JOBS} jobs wait already")
        try:
            return Submitted(job_id, spec)
        except ValueError as error:
            raise RequestError("ValueError", str(error)) from None

    def _replaceable(self, known: Submitted) -> bool:
        """A child that an earlier attempt of its parent left makes room for its like."""
        above = self.jobs.get(known.parent)
        return not known.live and above is not None and known.spec.get("parent_attempt", 0) < above.number

    def _admit(self, jobs: list[Submitted]) -> None:
        for job in jobs:
            self.jobs[job.submission_id] = job
            self.keep_packages(job.submission_id, (job.spec.get("run") or {}).get("packages") or ())
            above = self.jobs.get(job.parent)
            if above is not None:
                above.children[job.submission_id] = job
            if job.group:
                self.groups.setdefault(job.group, []).append(job)
            self._enqueue(job, 0.0)
            self._changed(job)

    def _enqueue(self, job: Submitted, delay_s: float) -> None:
        s = self.s
        job.queued_at = s.now
        job.request = Request([job.shape.place], s.now, [job.shape.hard], job.shape.locality)
        job.ready_at = s.now + delay_s
        if delay_s:
            s.wake_at(job.ready_at)
        timeout = job.spec.get("scheduling_timeout_s") or 0
        if timeout:
            s.wake_at(s.now + delay_s + timeout)
        self.queue.pop(job.submission_id, None)
        self.queue[job.submission_id] = job
        s._seq += 1
        job.seq = s._seq
        self._tried_at = -1
        s.dirty = True

    # -- placing

    def place(self) -> None:
        """Start what fits; called by the scheduler whenever something may have become free."""
        s = self.s
        if not self.queue or self._tried_at == s.version:
            return
        waiting = self._waiting()
        if waiting:
            views = [self._view(node, waiting[0][0]) for node in s.alive]
            requests = [self._request(members) for members in waiting]
            for index, homes in KINDS[s.config.scheduler](requests, views, s.now):
                for job, home in zip(waiting[index], homes, strict=True):
                    self._start(job, s.nodes[home])
        self._tried_at = s.version
        head = next(iter(self.queue.values()), None)
        if head is not None and head.ready_at <= s.now:
            if head.blocked_since is None:
                head.blocked_since = s.now
            self.reclaim(head)

    def _waiting(self) -> list[list[Submitted]]:
        """Jobs and whole groups that may start now, in order."""
        found: list[list[Submitted]] = []
        groups: dict[str, bool] = {}
        for job in self.queue.values():
            if job.ready_at > self.s.now or job.stopping:
                continue
            if not job.group:
                found.append([job])
            elif job.group not in groups:
                groups[job.group] = True
                members = [one for one in self.groups[job.group] if one.live]
                if all(one.submission_id in self.queue and one.ready_at <= self.s.now for one in members):
                    found.append(members)
        return found

    def _view(self, node: Node, first: Submitted) -> View:
        jobs = 0
        if self.s.config.scheduler == "spread":
            jobs = sum(job.node is node for job in self.jobs.values())
        return View(node.node_id, visible(self.s, node, first).copy(), node.labels, jobs)

    def _request(self, members: list[Submitted]) -> Request:
        if len(members) == 1 and members[0].request is not None:
            return members[0].request
        return Request(
            [job.shape.place for job in members],
            members[0].queued_at,
            [job.shape.hard for job in members],
            members[0].shape.locality,
        )

    def _start(self, job: Submitted, node: Node) -> None:
        s = self.s
        share = node.ledger.take(job.shape.need)
        assert share is not None, "a scheduler chose a node that does not hold the job"
        del self.queue[job.submission_id]
        job.node, job.share = node, share
        job.blocked_since = None
        s.touched[node.node_id] = node
        job.attempts.append(Attempt(job.number, node.node_id))
        del job.attempts[:-ATTEMPTS_KEPT]
        job.message = "given to a node"
        root = job.submission_id.partition("/")[0]
        spec = {
            **(job.spec.get("run") or {}),
            "namespace": job.spec.get("namespace") or root,
            "parent": job.parent,
            "gpu_ids": list(share.gpu_ids) if node.has_gpu else None,
            "memory": int(job.spec.get("resources", {}).get("memory", 0)),
        }
        s.send(node.node_id, wire.RUN_JOB, job.submission_id, job.number, spec)
        self._changed(job)

    def _release(self, job: Submitted) -> None:
        """The processes of the attempt are gone: their resources are free."""
        node, share = job.node, job.share
        job.node = job.share = None
        if node is not None and share is not None and node.alive:
            node.ledger.give(share)
            self.s.touched[node.node_id] = node
            self.s.grew()

    # -- reports of agents

    def reported(self, node: Node, job_id: str, number: int, state: str, info: dict[str, Any]) -> None:
        """JOB_STATE of an agent."""
        s = self.s
        job = self.jobs.get(job_id)
        if job is None or job.node is not node or job.number != number or not job.attempts:
            s.log("warning", "stale report of a job ignored", job=job_id, attempt=number, state=state)
            return
        attempt = job.attempts[-1]
        if info.get("message"):
            job.message = str(info["message"])
        attempt.pid = info.get("pid") or attempt.pid
        attempt.ports = info.get("ports") or attempt.ports
        if state == "EXITED":
            self._exited(job, attempt, info)
            return
        attempt.state = job.state = move(job.state, _REPORTED[state])
        if state == "RUNNING":
            attempt.started_ms = info.get("at_ms", 0)
        self._changed(job)

    def _exited(self, job: Submitted, attempt: Attempt, info: dict[str, Any]) -> None:
        code, reason = info.get("code"), str(info.get("reason") or "")
        attempt.exit_code = job.exit_code = code
        attempt.finished_ms = info.get("at_ms", 0)
        attempt.error = "" if code == 0 and not reason else reason or f"exit code {code}"
        self._release(job)
        self._keep_result(job, info.get("result"))
        if job.stopping:
            self._attempt_ended(job, attempt, KILLED)
        elif code == 0 and not reason:
            self._attempt_ended(job, attempt, SUCCEEDED)
        else:
            attempt.state = FAILED
            job.failures += 1
            self._again(job, attempt, FAILURE, job.failures, FAILED)

    def _keep_result(self, job: Submitted, result: bytes | None) -> None:
        self._result_bytes += len(result or b"") - len(job.result or b"")
        job.result = result
        for other in self.jobs.values() if self._result_bytes > MAX_JOB_RESULTS_BYTES else ():
            if other is not job and not other.live and other.result is not None:
                self._result_bytes -= len(other.result)
                other.result = None
                if self._result_bytes <= MAX_JOB_RESULTS_BYTES:
                    return

    def node_died(self, node: Node, reason: str) -> None:
        """What ran there counts as preempted."""
        self.logs.node_died(node, reason)
        for job in list(self.jobs.values()):
            if job.node is not node:
                continue
            attempt = job.attempts[-1]
            attempt.is_worker_failure = True
            attempt.state, attempt.error = WORKER_FAILED, f"its node died: {reason}"
            self._release(job)
            if job.stopping:
                self._attempt_ended(job, attempt, KILLED)
                continue
            job.preemptions += 1
            self._again(job, attempt, PREEMPTION, job.preemptions, WORKER_FAILED)

    # -- what follows an attempt

    def _again(self, job: Submitted, attempt: Attempt, kind: str, count: int, otherwise: str) -> None:
        """Another attempt within the budget, else the end as `otherwise`."""
        members = [one for one in self.groups.get(job.group, [job]) if one.live]
        allowed = job.budget.allows(kind, count, attempt.exit_code)
        for other in members:
            if other is not job:
                used = other.failures if kind == FAILURE else other.preemptions
                allowed = allowed and other.budget.allows(kind, used + 1, None if kind == PREEMPTION else -1)
        if not allowed:
            self._attempt_ended(job, attempt, otherwise)
            return
        delay = job.budget.delay_s(job.submission_id, count)
        self._retry(job, delay, attempt.error)
        for other in members:
            if other is job:
                continue
            if other.node is None:
                self._enqueue(other, delay)
            elif not other.stopping:
                other.stopping = f"retried with {job.submission_id}"
                self._send_stop(other, False)

    def _retry(self, job: Submitted, delay_s: float, error: str) -> None:
        for child in list(job.children.values()):
            self.stop(child, False, "its parent is tried again")
        job.state = move(job.state, PENDING)
        job.number += 1
        job.stopping = ""
        job.message = f"attempt {job.number} follows: {error}"
        job.exit_code = None
        self._enqueue(job, delay_s)
        self._changed(job)

    def _attempt_ended(self, job: Submitted, attempt: Attempt, state: str) -> None:
        attempt.state = state
        if state == KILLED and job.stopping.startswith("retried with "):
            attempt.error = job.stopping
            partner = self.jobs.get(job.stopping.removeprefix("retried with "))
            delay = max(0.0, partner.ready_at - self.s.now) if partner is not None else 0.0
            self._retry(job, delay, job.stopping)
            return
        text = {SUCCEEDED: "", KILLED: job.stopping}.get(state, attempt.error)
        self._end(job, state, text)

    def _end(self, job: Submitted, state: str, message: str) -> None:
        """The end of a job, after that of everything below it."""
        if not job.live or job.ending is not None:
            return
        self.queue.pop(job.submission_id, None)
        job.ending = (state, message)
        for child in list(job.children.values()):
            self.stop(child, False, f"its parent {job.submission_id} ended")
        self._end_if_alone(job)

    def _end_if_alone(self, job: Submitted) -> None:
        if not any(child.live for child in job.children.values()):
            self._ended(job)

    def _ended(self, job: Submitted) -> None:
        assert job.ending is not None
        state, job.message = job.ending
        job.state = move(job.state, state)
        self._changed(job)
        if state != SUCCEEDED:
            for other in self.groups.get(job.group, ()):  # a gang whose member is gone would wait for ever
                if other is not job and other.live:
                    self.stop(other, False, f"{job.submission_id} of its group ended as {state}")
        above = self.jobs.get(job.parent)
        if above is not None and above.ending is not None and above.live:
            self._end_if_alone(above)
        self._forget_old()

    def _forget_old(self) -> None:
        if len(self.jobs) <= MAX_DEAD_RECORDS + len(self.queue):
            return
        for job in list(self.jobs.values()):
            if not job.live and not job.children:
                self._drop(job)
                return

    def _drop(self, job: Submitted) -> None:
        del self.jobs[job.submission_id]
        self._result_bytes -= len(job.result or b"")
        above = self.jobs.get(job.parent)
        if above is not None:
            above.children.pop(job.submission_id, None)
        group = self.groups.get(job.group)
        if group is not None:
            group.remove(job)
            if not group:
                del self.groups[job.group]
        self.s.note("submission", job.submission_id.encode(), None)

    # -- stopping

    def stop(self, job: Submitted, force: bool, why: str, grace_s: float | None = None) -> None:
        """End a job and all below it; its state follows when its processes are gone."""
        if not job.live:
            return
        for child in list(job.children.values()):
            self.stop(child, force, why, grace_s)
        if job.node is None:
            job.stopping = why
            self._end(job, KILLED, why)
            return
        if not job.stopping or force or job.stopping.startswith("retried with "):
            job.stopping = why
            self._send_stop(job, force, grace_s)

    def _send_stop(self, job: Submitted, force: bool, grace_s: float | None = None) -> None:
        assert job.node is not None
        grace = float(job.spec.get("grace_s", 5.0) if grace_s is None else grace_s)
        self.s.send(job.node.node_id, wire.STOP_JOB, job.submission_id, job.number, force, grace)

    def _stop(self, client: Client, args: dict[str, Any]) -> bool:
        """Whether there was something to stop."""
        job = self.find(args)
        live = job.live
        self.stop(job, bool(args.get("force")), TERMINATED, args.get("grace_s"))
        return live

    def _stop_prefix(self, client: Client, args: dict[str, Any]) -> list[str]:
        prefix, only_live = args["prefix"], args.get("exclude_finished", True)
        found = [job for job in self.jobs.values() if job.submission_id.startswith(prefix)]
        found = [job for job in found if job.live or not only_live]
        for job in reversed(found):  # children were submitted after their parents
            self.stop(job, False, TERMINATED)
        return [job.submission_id for job in found]

    def _delete(self, client: Client, args: dict[str, Any]) -> bool:
        job = self.find(args)
        if job.live:
            text = f"job {job.submission_id!r} is to be deleted, but it is in a non-terminal state"
            raise RequestError("RuntimeError", f"{text} ({job.state}): stop it before")
        self._drop(job)
        return True

    # -- answers

    def _list(self, client: Client, args: dict[str, Any]) -> list[dict[str, Any]]:
        prefix, states = args.get("prefix") or "", args.get("states")
        return [
            {**job.describe(), "attempts": []}
            for job in self.jobs.values()
            if job.submission_id.startswith(prefix) and (not states or job.state in states)
        ]

    def _result(self, client: Client, args: dict[str, Any]) -> bytes | None:
        return self.find(args).result

    def _wait(self, client: Client, args: dict[str, Any]) -> Any:
        """The job when its version is beyond ``version``; without one, when it has ended."""
        job = self.find(args)
        seen = args.get("version")
        if not job.live or (seen is not None and job.version > seen):
            return job.describe()
        job.waiters[client.peer, self.s.request_id] = seen
        return DEFERRED

    def _changed(self, job: Submitted) -> None:
        job.version += 1
        self.s.note("submission", job.submission_id.encode(), job)
        if not job.waiters:
            return
        told = None
        for (peer, request_id), seen in list(job.waiters.items()):
            if seen is not None or not job.live:
                del job.waiters[peer, request_id]
                told = told or job.describe()
                self.s.out.append(Send(peer, (wire.RESPONSE, request_id, None, told)))

    def client_lost(self, peer: bytes) -> None:
        """Nobody waits for its answers any more; the jobs it submitted go on."""
        for job in self.jobs.values():
            if job.waiters:
                for key in [key for key in job.waiters if key[0] == peer]:
                    del job.waiters[key]
        self.logs.client_lost(peer)

    # -- time

    def check(self) -> None:
        """Back-off that is over, jobs that waited too long."""
        s = self.s
        if self._restored:
            self._settle_restart()
        for job in list(self.queue.values()):
            if job.ready_at > s.now:
                s.wake_at(job.ready_at)
                continue
            limit = job.spec.get("scheduling_timeout_s") or 0
            waited = s.now - job.ready_at
            if limit and waited >= limit:
                self._end(job, UNSCHEDULABLE, f"Scheduling timeout exceeded ({limit:g}s)")
                continue
            if limit:
                s.wake_at(job.ready_at + limit)
        if self.queue:
            self._tried_at = -1
            s.dirty = True

    # -- a restart of the hub

    def restore(self, records: list[dict[str, Any]]) -> None:
        """The table as `record` told it, in order of submission.

        An attempt that was on a node goes on if its agent says so (`resume`) within `node_dead_s` of the
        first event, and counts as preempted otherwise.
        """
        self._restored = True
        self.s.wake_at(self.s.now)
        for record in records:
            job = self.jobs[record["id"]] = Submitted.of(record)
            self._result_bytes += len(job.result or b"")
            above = self.jobs.get(job.parent)
            if above is not None:
                above.children[job.submission_id] = job
            if job.group:
                self.groups.setdefault(job.group, []).append(job)
            if job.live and not record["node_id"]:
                self._enqueue(job, 0.0)

    def resume(self, node: Node, running: list[list[Any]]) -> None:
        """An agent that came back says which attempts still run: ``[job, attempt, pid, ports]``."""
        for job_id, number, pid, ports in running:
            job = self.jobs.get(job_id)
            share = None
            if job is not None and job.live and job.number == number and job.node is None:
                share = node.ledger.take(job.shape.need)
            if job is None or share is None or not job.attempts:
                self.s.send(node.node_id, wire.STOP_JOB, job_id, number, True, 0.0)
                continue
            self.queue.pop(job_id, None)
            job.node, job.share = node, share
            job.attempts[-1].pid, job.attempts[-1].ports = pid, ports
            if job.stopping:
                self._send_stop(job, False)
            self._changed(job)

    def _settle_restart(self) -> None:
        """What no agent claimed in time was lost with its node."""
        if self._settle_at is None:
            self._settle_at = self.s.now + self.s.config.node_dead_s
        self.s.wake_at(self._settle_at)
        if self.s.now < self._settle_at:
            return
        self._restored = False
        for job in list(self.jobs.values()):
            if job.live and job.node is None and job.submission_id not in self.queue and job.ending is None:
                if not job.attempts:
                    self._enqueue(job, 0.0)
                    continue
                attempt = job.attempts[-1]
                attempt.is_worker_failure, attempt.state = True, WORKER_FAILED
                attempt.error = "its node did not come back after a restart of the hub"
                if job.stopping:
                    self._attempt_ended(job, attempt, KILLED)
                    continue
                job.preemptions += 1
                self._again(job, attempt, PREEMPTION, job.preemptions, WORKER_FAILED)
