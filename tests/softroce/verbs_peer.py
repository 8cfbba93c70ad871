"""An independent verbs program, on Debian's pyverbs: a queue pair that reads and is read from.

Run by the system's Python.  One JSON request per line of standard input, one JSON answer per line:

- ``{"do": "open", "bytes": n}``: device, a region of n bytes and a queue pair; answers where they are.
- ``{"do": "connect", "qpn", "psn", "gid"}``: to a queue pair of another program.
- ``{"do": "fill", "seed": s}``: pseudo-random bytes into the region; answers their sha256.
- ``{"do": "read" | "write", "addr", "rkey", "length", "wait_s"}``: one RDMA operation between the region's
  first bytes and the other side; answers the completion's status (0 is success, -1 that there was none
  within wait_s, by default 60) and the region's sha256.

It knows nothing of Spoke, so that both cannot be wrong in the same way.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from typing import Any

import pyverbs.enums as e
from pyverbs.addr import GID, AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.device import Context, get_device_list
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, SendWR

GID_INDEX = 1  # RoCE v2 over IPv4 on rxe0
PORT = 1
ALL_ACCESS = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_READ | e.IBV_ACCESS_REMOTE_WRITE


class Endpoint:
    """One region and one reliable queue pair."""

    def __init__(self, size: int, access: int = ALL_ACCESS) -> None:
        name = get_device_list()[0].name.decode()
        self.context = Context(name=name)
        self.pd = PD(self.context)
        self.mr = MR(self.pd, size, access)
        self.size = size
        self.cq = CQ(self.context, 64)
        init = QPInitAttr(
            qp_type=e.IBV_QPT_RC, scq=self.cq, rcq=self.cq, cap=QPCap(16, 16, 4, 4, 0), sq_sig_all=1
        )
        self.qp = QP(self.pd, init)
        self.psn = random.SystemRandom().randrange(1 << 24)
        self.gid = self.context.query_gid(PORT, GID_INDEX).gid

    def where(self) -> dict[str, Any]:
        return {
            "qpn": self.qp.qp_num, "psn": self.psn, "gid": self.gid,
            "addr": self.mr.buf, "rkey": self.mr.rkey, "length": self.size,
        }  # fmt: skip

    def connect(self, qpn: int, psn: int, gid: str) -> None:
        """Through INIT and RTR to RTS."""
        attr = QPAttr(port_num=PORT)
        attr.qp_access_flags = ALL_ACCESS
        self.qp.to_init(attr)
        route = GlobalRoute(dgid=GID(gid), sgid_index=GID_INDEX)
        route.hop_limit = 64
        attr.ah_attr = AHAttr(gr=route, is_global=1, port_num=PORT)
        attr.dest_qp_num, attr.rq_psn, attr.path_mtu = qpn, psn, e.IBV_MTU_1024
        attr.max_dest_rd_atomic, attr.min_rnr_timer = 1, 12
        self.qp.to_rtr(attr)
        attr.sq_psn, attr.timeout, attr.retry_cnt, attr.rnr_retry, attr.max_rd_atomic = self.psn, 14, 7, 7, 1
        self.qp.to_rts(attr)

    def operate(self, what: str, addr: int, rkey: int, length: int, wait_s: float = 60) -> dict[str, Any]:
        """One READ or WRITE; waits for its completion."""
        opcode = e.IBV_WR_RDMA_READ if what == "read" else e.IBV_WR_RDMA_WRITE
        request = SendWR(num_sge=1, sg=[SGE(self.mr.buf, length, self.mr.lkey)], opcode=opcode)
        request.set_wr_rdma(rkey, addr)
        self.qp.post_send(request)
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            count, done = self.cq.poll(1)
            if count:
                return {"status": done[0].status, "sha256": self.digest(length)}
            time.sleep(0.0005)
        return {"status": -1, "sha256": ""}

    def fill(self, seed: int) -> str:
        data = random.Random(seed).randbytes(self.size)
        self.mr.write(data, self.size)
        return hashlib.sha256(data).hexdigest()

    def digest(self, length: int) -> str:
        return hashlib.sha256(self.mr.read(length, 0)).hexdigest()


def main() -> None:
    endpoint: Endpoint | None = None
    for line in sys.stdin:
        request = json.loads(line)
        what = request.pop("do")
        answer: dict[str, Any] = {}
        if what == "open":
            endpoint = Endpoint(request["bytes"])
            answer = endpoint.where()
        elif endpoint is None:
            answer = {"error": "open comes first"}
        elif what == "connect":
            endpoint.connect(**request)
        elif what == "fill":
            answer = {"sha256": endpoint.fill(request["seed"])}
        else:
            answer = endpoint.operate(what, **request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
