#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""usage: ring_corpus.py DIRECTORY

Writes inputs for fuzz_ring to start from: rings with good records of every type, with a
wrap, and with each of the faults that the reader knows. The fuzzer finds the rest.
"""
import pathlib
import struct
import sys

RING = 4096
BODIES = {1: 64, 2: 56, 3: 16, 4: 40, 5: 16}


def record(kind, tsc, seq, size=None, flags=0):
    size = 80 + BODIES[kind] if size is None else size
    header = struct.pack("<HHIIIQQQIIIIQ16s", kind, flags, size, 1, 0, seq, tsc,
                         0xFFFF888000001000, 11, 10, 1, 1000, 0x1000, b"a\\b\xff\x1b \xc3\xa4")
    return header + bytes(i % 7 for i in range(BODIES[kind]))


def ring(records, tail=0, busy=0, last_tsc=None, extra=0):
    """Header part and data part of one ring."""
    used = sum(map(len, records)) + extra
    data = bytearray(RING)
    at = tail % RING
    for part in records:
        for byte in part:
            data[at % RING] = byte
            at += 1
    last = 10 * len(records) if last_tsc is None else last_tsc
    return struct.pack("<QHQBQ", tail, used & 0xFFFF, last, busy, 0), bytes(data)


def write(directory, name, first, second):
    body = first[0] + second[0] + first[1]
    # The second ring takes half of what is left after the first one has.
    (directory / name).write_bytes(body + second[1] + second[1] + bytes(range(32)))


def main():
    directory = pathlib.Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    good = [record(kind, 10 * n, n) for n, kind in enumerate((2, 3, 4, 5, 2, 3))]
    lost = [record(2, 5, 0), record(1, 15, 4, flags=2), record(3, 15, 4)]
    empty = ring([])
    pad = struct.pack("<HHI", 0, 0, 64) + bytes(56)
    write(directory, "good", ring(good), ring(lost))
    write(directory, "busy", ring(good, busy=1), ring(lost))
    write(directory, "wrap", ring([pad] + good, tail=RING - 64), ring(good, tail=1 << 63))
    write(directory, "absurd_time", ring([record(3, 1 << 63, 0), record(3, 1, 1)]), ring(good))
    write(directory, "size", ring([record(2, 1, 0, size=8)]), empty)
    write(directory, "type", ring([record(5, 1, 0)[:0] + b"\x06" + record(5, 1, 0)[1:]]), empty)
    write(directory, "cut", ring(good, extra=-8), ring(good, extra=8))
    write(directory, "misaligned", ring(good, tail=RING - 3, extra=3), ring(good))
    write(directory, "empty", empty, empty)


main()
