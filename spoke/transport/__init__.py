"""How the bytes of a block reach a reader: mapped, by RDMA, or over a socket.

`base` is what a path has to do, `shm`, `tcp` (and `rdma`) are the paths, `router` chooses among them
and counts what went where.  A path moves bytes and nothing else: which object they belong to, and what
keeps it alive meanwhile, is the caller's affair.
"""

from __future__ import annotations
