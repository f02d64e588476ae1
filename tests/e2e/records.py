# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the two records of one guest: its own tracing's and the monitor's.

Both come out as the same Event, so that what compares them need not know where one is from.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

ENTER, EXIT, SWITCH = "syscall_enter", "syscall_exit", "switch"
IRQ_ENTER, IRQ_EXIT = "irq_enter", "irq_exit"


@dataclass
class Event:
    kind: str
    cpu: int
    tsc: int
    tid: int  # of a switch: the previous task
    what: tuple  # enter: nr, args; exit: nr, value; switch: previous comm, next tid and comm;
    # interrupt: "line" and its number, of a device, or "vector" and its number
    where: str  # file and line, for messages
    raw: dict = field(default_factory=dict)  # the monitor's own record of it

    @property
    def key(self):
        """What must be the same on both sides."""
        return (self.kind, self.tid, self.what)

    def __str__(self):
        if self.kind == ENTER:
            text = "call %d(%s)" % (self.what[0], ", ".join("%#x" % a for a in self.what[1]))
        elif self.kind == EXIT:
            text = "call %d returns %d" % self.what
        elif self.kind in (IRQ_ENTER, IRQ_EXIT):
            text = f"{self.kind} {self.what[0]} {self.what[1]}"
        else:
            text = "switch from %s to %d %s" % self.what
        return f"cpu {self.cpu} tid {self.tid} {text} [{self.where}]"


def nr32(nr):
    """The kernel looks at the low 32 bits of the number, as a signed one."""
    nr &= 0xFFFFFFFF
    return nr - (1 << 32) if nr & 0x80000000 else nr


class Truth:
    """A folder made by truth.sh in the guest."""

    LINE = re.compile(r"^ *(.+)-(\d+) +\[(\d+)\] +\S+ +(\d+): (\w+): (.*)$")
    CALL = re.compile(r"^NR (-?\d+) \((.*)\)$")
    RETURN = re.compile(r"^NR (-?\d+) = (-?\d+)$")
    SWITCH = re.compile(
        r"^prev_comm=(.*) prev_pid=(\d+) prev_prio=-?\d+ prev_state=\S+ ==> "
        r"next_comm=(.*) next_pid=(\d+) next_prio=-?\d+$"
    )

    LINE_IRQ = re.compile(r"^irq=(\d+) (?:name|ret)=.*$")
    VECTOR = re.compile(r"^vector=(\d+)$")

    def __init__(self, folder):
        self.folder = Path(folder)
        self.problems = []
        events = list(self._read_trace())
        self.events = [e for e in events if e.kind not in (IRQ_ENTER, IRQ_EXIT)]
        self.irqs = [e for e in events if e.kind in (IRQ_ENTER, IRQ_EXIT)]
        self._read_stats()
        self.call_counts = self._read_hist("hist-syscalls", ("common_pid", "id"))
        self.switch_counts = self._read_hist("hist-switches", ("prev_pid", "next_pid"))

    def _lines(self, name):
        text = (self.folder / name).read_text(encoding="utf-8", errors="surrogateescape")
        return text.split("\n")

    def _read_trace(self):
        counted = None
        found = 0
        for number, line in enumerate(self._lines("trace"), 1):
            if line.startswith("#"):
                if m := re.search(r"entries-in-buffer/entries-written: (\d+)/(\d+)", line):
                    counted = (int(m[1]), int(m[2]))
                continue
            if not line:
                continue
            where = f"trace:{number}"
            m = self.LINE.match(line)
            event = self._event(m, where) if m else None
            if not event:
                self.problems.append(f"{where} is not understood: {line}")
                continue
            found += 1
            yield event
        if counted is None or counted != (found, found):
            self.problems.append(f"trace has {found} events, its header says {counted}")

    def _event(self, m, where):
        tid, cpu, tsc, name, rest = int(m[2]), int(m[3]), int(m[4]), m[5], m[6]
        if name == "sys_enter" and (c := self.CALL.match(rest)):
            args = tuple(int(a, 16) for a in c[2].split(", "))
            return Event(ENTER, cpu, tsc, tid, (nr32(int(c[1])), args), where)
        if name == "sys_exit" and (c := self.RETURN.match(rest)):
            return Event(EXIT, cpu, tsc, tid, (nr32(int(c[1])), int(c[2])), where)
        if name == "sched_switch" and (c := self.SWITCH.match(rest)):
            what = (c[1], int(c[4]), c[3])
            return Event(SWITCH, cpu, tsc, int(c[2]), what, where)
        kind = {"entry": IRQ_ENTER, "exit": IRQ_EXIT}.get(name.rpartition("_")[2])
        if kind and (c := self.LINE_IRQ.match(rest)):
            return Event(kind, cpu, tsc, tid, ("line", int(c[1])), where)
        if kind and (c := self.VECTOR.match(rest)):
            return Event(kind, cpu, tsc, tid, ("vector", int(c[1])), where)
        return None

    def _read_stats(self):
        seen = 0
        for line in self._lines("stats"):
            name, _, value = line.partition(": ")
            if name in ("overrun", "commit overrun", "dropped events"):
                seen += 1
                if int(value):
                    self.problems.append(f"the guest's trace buffer: {line}")
        if not seen:
            self.problems.append("stats says nothing about overruns")

    def _read_hist(self, name, keys):
        counts = {}
        pattern = re.compile(
            r"^\{ %s: +(-?\d+), %s: +(-?\d+) \} hitcount: +(\d+)$" % keys
        )
        dropped = None
        for line in self._lines(name):
            if m := pattern.match(line.strip()):
                counts[(int(m[1]), nr32(int(m[2])))] = int(m[3])
            elif m := re.match(r"^ *Dropped: (\d+)$", line):
                dropped = int(m[1])
        if dropped != 0 or not counts:
            self.problems.append(f"{name}: {len(counts)} entries, dropped: {dropped}")
        return counts


def unescape(text):
    return re.sub(
        r"\\(\\|x[0-9a-f]{2})",
        lambda m: "\\" if m[1] == "\\" else chr(int(m[1][1:], 16)),
        text,
    )


class Monitor:
    """JSON lines written by shadowmon trace --format json."""

    def __init__(self, path):
        self.problems = []
        self.events = []
        self.irqs = []
        self.others = []  # lost, unknown_hook: none is expected
        self.summary = None
        self.rings = {}  # ring -> sequence numbers in the order of the file
        name = Path(path).name
        lines = Path(path).read_bytes().split(b"\n")
        if lines.pop() != b"":
            self.problems.append("the last line is cut")
        for number, line in enumerate(lines, 1):
            self._read_line(line, f"{name}:{number}")
        if self.summary is None:
            self.problems.append("there is no summary")

    def losses(self):
        """What says that the record is not whole."""
        yield from self.problems
        for raw in self.others:
            yield f"unexpected event {raw}"
        summary = self.summary or {}
        for key in ("lost", "late", "broken_rings"):
            if summary.get(key) != 0:
                yield f"summary: {key} is {summary.get(key)}"

    def _read_line(self, line, where):
        try:
            raw = json.loads(line)
            kind = raw["kind"]
            if self.summary is not None:
                self.problems.append(f"{where}: a line after the summary")
            if kind == "summary":
                self.summary = raw
                return
            self.rings.setdefault(raw["ring"], []).append(int(raw["seq"]))
            for flag in ("late", "no_task", "no_body"):
                if raw.get(flag):
                    self.problems.append(f"{where}: marked {flag}")
            event = self._event(raw, kind, where)
        except (ValueError, KeyError, TypeError) as error:
            self.problems.append(f"{where}: {error!r} in {line[:200]!r}")
            return
        if event and kind in (IRQ_ENTER, IRQ_EXIT):
            self.irqs.append(event)
        elif event:
            self.events.append(event)
        else:
            self.others.append(raw)

    @staticmethod
    def _event(raw, kind, where):
        cpu, tsc, tid = raw["cpu"], int(raw["tsc"]), raw["tid"]
        if kind == ENTER:
            args = tuple(int(a, 16) for a in raw["syscall"]["args"])
            what = (nr32(raw["syscall"]["nr"]), args)
        elif kind == EXIT:
            what = (nr32(raw["syscall"]["nr"]), int(raw["ret"]))
        elif kind == SWITCH:
            now = raw["next"]
            tid = raw["prev"]["tid"]
            what = (unescape(raw["prev"]["comm"]), now["tid"], unescape(now["comm"]))
        elif kind in (IRQ_ENTER, IRQ_EXIT):
            irq = raw["irq"]
            what = ("line", irq["line"]) if "line" in irq else ("vector", irq.get("vector"))
        else:
            return None
        return Event(kind, cpu, tsc, tid, what, where, raw)
