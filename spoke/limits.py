"""Every bound of the system, in one place (LIM-1): at a bound a queue pushes back or fails by name.

Units are in the names or the comments.  Nothing here is read from the environment; what a user may
turn is in `spoke.config`.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

# -- frames
MAX_META_BYTES: Final = 16 * MIB  # of one control message
MAX_PAYLOAD_BYTES: Final = 2 * GIB  # of one frame; larger values travel as blocks
MAX_HANDSHAKE_BYTES: Final = 4 * KIB  # of any frame before the peer has proven the token
LINK_SEND_QUEUE_BYTES: Final = 256 * MIB  # unsent bytes on one link before senders wait
HANDSHAKE_TIMEOUT_S: Final = 10.0
MAX_UNPROVEN_LINKS: Final = 256  # accepted connections that have not finished the handshake

# -- calls
CALL_WINDOW: Final = 1024  # calls in flight to one actor before the sender keeps the rest
TASK_PIPELINE: Final = 16  # tasks sent ahead to one leased worker
STREAM_WINDOW: Final = 64  # items of a generator sent ahead of its reader
MAX_QUEUED_CALLS: Final = 1_000_000  # unsent calls of one process
MAX_PENDING_LEASE_CLASSES: Final = 10_000
MAX_ACTORS: Final = 100_000
MAX_GROUPS: Final = 100_000
MAX_ENDPOINTS: Final = 100_000
MAX_JOBS: Final = 100_000  # submitted and waiting
MAX_JOB_BLOB_BYTES: Final = 8 * MIB  # of a job's pickled function and arguments, and of its result
MAX_PACKAGES_BYTES: Final = 2 * GIB  # of all packages of runtime environments that the hub keeps
PACKAGE_PIECE_BYTES: Final = 4 * MIB  # that a package travels in
MAX_SETUP_HOOK_BYTES: Final = MIB  # of a pickled worker_process_setup_hook
MAX_JOB_RESULTS_BYTES: Final = 256 * MIB  # of all results together; the oldest are dropped
MAX_BUNDLES: Final = 10_000  # of one placement group
MAX_WORKERS_PER_NODE: Final = 4096
MAX_NAME_CHARS: Final = 255
MAX_NUM_RETURNS: Final = 100_000
ENDED_CALLS_KEPT: Final = 4096  # answered calls that each worker remembers, for timeline and lists
ERRORS_KEPT: Final = 256  # texts of what calls raised, beside them
ERROR_CHARS: Final = 500

# -- hub
MAX_KV_VALUE_BYTES: Final = 512 * MIB
MAX_DEAD_RECORDS: Final = 10_000  # dead actors, nodes and groups that are remembered
MAX_TASK_EVENTS: Final = 100_000  # rows of calls or objects that one look into all processes gives
MAX_LOG_LINES_QUEUED: Final = 10_000
MAX_LOG_LINE_CHARS: Final = 20_000
STDERR_TAIL_LINES: Final = 20  # of a dead worker, shown in the error of its calls

# -- resources
RESOURCE_UNIT: Final = 1e-4  # the smallest share of a resource
