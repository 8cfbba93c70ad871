"""A process whose memory is read, for test_reads.py: prints its address, then does as it is told."""

from __future__ import annotations

import sys

from spoke import _native

SIZE = 32 << 20


def main() -> None:
    engine = _native.RdmaEngine("system")
    created = _native.Segment.create("owner", SIZE)
    memory = _native.Segment.map(created.fd, SIZE, True)
    for start in range(0, SIZE, 1 << 20):
        memory.write(start, [bytes([start >> 20 & 0xFF, 7]) * (1 << 19)])
    region = engine.register_segment(memory)
    responder = None
    for line in sys.stdin:
        words = line.split()
        if words[0] == "connect":
            responder = _native.RdmaResponder(engine)
            responder.connect(bytes.fromhex(words[1]))
            print(responder.address.hex(), region.address, region.rkey, flush=True)
        elif words[0] == "revoke":  # and use the memory again at once
            assert responder is not None
            responder.close()
            memory.write(0, [b"\xee" * SIZE])
            print("revoked", flush=True)
        elif words[0] == "restore":
            for start in range(0, SIZE, 1 << 20):
                memory.write(start, [bytes([start >> 20 & 0xFF, 7]) * (1 << 19)])
            print("restored", flush=True)


if __name__ == "__main__":
    main()
