#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""compare_irq.py on made-up records: equal ones pass, and every doctored one fails."""

import copy
import json
import tempfile
import unittest
from pathlib import Path

import compare_irq
from compare import MARK_BEGIN, MARK_END, CutError
from records import Monitor, Truth

HANDLERS = {
    ("vector", 236): compare_irq.TIMER,
    ("vector", 253): "sysvec_reschedule_ipi",
    ("line", 4): "serial8250_interrupt",
    ("line", 5): compare_irq.MODULE_DRIVER[1],
    ("vector", 243): "sysvec_kvm_asyncpf_interrupt",
}
TID = 77


class Records:
    """Two CPUs, marks around them, interrupts that the guest traces 10 ticks within the hooks."""

    def __init__(self):
        self.rows, self.trace, self.tsc = [], [], 10_000
        self.interrupt(0, ("vector", 236))  # outside of the window
        for kind in (MARK_BEGIN, MARK_END):
            for cpu in (0, 1):
                self.mark(cpu, kind)
            if kind == MARK_BEGIN:
                for i in range(30):
                    for cpu in (0, 1):
                        self.interrupt(cpu, ("vector", 236))
                    self.interrupt(i % 2, ("line", 4))
                self.interrupt(1, ("vector", 253))
                self.interrupt(1, ("vector", 243), traced=False)
        self.interrupt(1, ("line", 5))
        self.interrupt(1, ("vector", 236))

    def time(self):
        self.tsc += 1000
        return self.tsc

    def row(self, cpu, kind, tsc, **more):
        # 1 tick is 1 ns
        time = f"2026-01-01T00:00:{tsc // 10**9:02}.{tsc % 10**9:09}Z"
        raw = {"tsc": str(tsc), "time": time, "cpu": cpu, "kind": kind, "tid": TID, "ring": cpu}
        self.rows.append(raw | more)

    def mark(self, cpu, kind):
        tsc = self.time()
        args = [2**64 - 1, kind, cpu, 0, 0, 0]
        call = {"name": "write", "nr": 1, "args": [hex(a) for a in args]}
        self.row(cpu, "syscall_enter", tsc, syscall=call)
        text = ", ".join("%x" % a for a in args)
        self.trace.append((cpu, tsc + 10, f"sys_enter: NR 1 ({text})"))

    def interrupt(self, cpu, what, traced=True):
        irq = {"handler": HANDLERS[what], what[0]: what[1], "vector": 38}
        irq[what[0]] = what[1]
        begin, end = self.time(), self.time()
        self.row(cpu, "irq_enter", begin, irq=irq)
        self.row(cpu, "irq_exit", end, irq=irq, duration_ns=end - begin)
        if traced and what[0] == "line":
            self.trace.append((cpu, begin + 10, f"irq_handler_entry: irq={what[1]} name=ttyS0"))
            self.trace.append((cpu, end - 10, f"irq_handler_exit: irq={what[1]} ret=handled"))
        elif traced:
            self.trace.append((cpu, begin + 10, f"some_entry: vector={what[1]}"))
            self.trace.append((cpu, end - 10, f"some_exit: vector={what[1]}"))


class CompareIrq(unittest.TestCase):
    kallsyms = "ffffffffc0001000 t vm_interrupt\t[virtio_mmio]\n"

    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self.temporary.cleanup)
        self.folder = Path(self.temporary.name)
        self.records = Records()
        self.rows = self.records.rows

    def inside(self, kind, line=False):
        found = [i for i, r in enumerate(self.rows) if r["kind"] == kind]
        return [i for i in found[2:-2] if ("line" in self.rows[i]["irq"]) == line]

    def failed(self, rows=None, trace=None, **summary):
        rows = copy.deepcopy(self.rows if rows is None else rows)
        for number, raw in enumerate(rows):
            raw["seq"] = number
        kinds = [r["kind"] for r in rows]
        total = {"kind": "summary", "lost": 0, "late": 0, "broken_rings": 0, "events": len(rows)}
        total["by_kind"] = {kind: kinds.count(kind) for kind in set(kinds)}
        lines = [json.dumps(r) + "\n" for r in [*rows, total | summary]]
        (self.folder / "events.json").write_text("".join(lines))
        trace = self.records.trace if trace is None else trace
        head = f"# entries-in-buffer/entries-written: {len(trace)}/{len(trace)}   #P:2\n"
        text = [f"  comm-{TID}   [{cpu:03}] d..2.  {tsc}: {what}\n" for cpu, tsc, what in trace]
        (self.folder / "trace").write_text(head + "".join(text))
        (self.folder / "stats").write_text("cpu0\noverrun: 0\n")
        hist = "{ %s: 1, %s: 1 } hitcount: 1\n    Dropped: 0\n"
        (self.folder / "hist-syscalls").write_text(hist % ("common_pid", "id"))
        (self.folder / "hist-switches").write_text(hist % ("prev_pid", "next_pid"))
        (self.folder / "kallsyms").write_text(self.kallsyms)
        (self.folder / "interrupts").write_text(
            "    CPU0  CPU1\n  4:  30  0  IO-APIC  4-edge  ttyS0\n  5:  1  0  IO-APIC  5-edge  virtio0\n"
            "LOC:  30  30  Local timer interrupts\n"
        )
        comparison = compare_irq.Comparison(
            Truth(self.folder), Monitor(self.folder / "events.json")
        )
        comparison.run()
        return {name.removeprefix("irq_") for name, problems in comparison.results if problems}

    def test_irq_equal_records_pass(self):
        self.assertEqual(self.failed(), set())

    def test_irq_outside_the_window_does_not_matter(self):
        self.assertEqual(self.failed(trace=self.records.trace[2:-4]), set())

    def test_irq_missing_one_fails(self):
        for kind in ("irq_enter", "irq_exit"):
            for line in (False, True):
                rows = copy.deepcopy(self.rows)
                del rows[self.inside(kind, line)[5]]
                self.assertIn("interrupts_equal", self.failed(rows), (kind, line))

    def test_irq_missing_in_the_guest_fails(self):
        for index in (20, 21, 22, 23):
            trace = list(self.records.trace)
            del trace[index]
            self.assertIn("interrupts_equal", self.failed(trace=trace))

    def test_irq_of_another_vector_line_process_or_cpu_fails(self):
        for change in (
            lambda r: r["irq"].update(vector=252),
            lambda r: r.update(cpu=1 - r["cpu"]),
            lambda r: r.update(tid=TID + 1),
            lambda r: r.update(kind="irq_exit", duration_ns=1),
        ):
            rows = copy.deepcopy(self.rows)
            change(rows[self.inside("irq_enter")[4]])
            self.assertIn("interrupts_equal", self.failed(rows))
        rows = copy.deepcopy(self.rows)
        rows[self.inside("irq_enter", True)[4]]["irq"]["line"] = 5
        self.assertIn("interrupts_equal", self.failed(rows))

    def test_irq_wrong_duration_fails(self):
        for change in (
            lambda r: r.update(duration_ns=r["duration_ns"] + 100),
            lambda r: r.update(duration_ns=r["duration_ns"] - 100),
            lambda r: r.pop("duration_ns") and r.update(unpaired=True),
            lambda r: r["irq"].update(handler="another"),
        ):
            rows = copy.deepcopy(self.rows)
            rows[self.inside("irq_exit")[4]]["irq"] = dict(
                rows[self.inside("irq_exit")[4]]["irq"]
            )
            change(rows[self.inside("irq_exit")[4]])
            self.assertEqual(self.failed(rows), {"durations_true"})

    def test_irq_time_outside_the_guests_fails(self):
        for kind, delta in (("irq_enter", 20), ("irq_exit", -20)):
            rows = copy.deepcopy(self.rows)
            raw = rows[self.inside(kind)[4]]
            raw["tsc"] = str(int(raw["tsc"]) + delta)
            self.assertIn("times_around_the_guests", self.failed(rows))

    def test_irq_loss_fails(self):
        for change in ({"lost": 1}, {"late": 1}, {"broken_rings": 1}, {"by_kind": {}}):
            self.assertEqual(self.failed(**change), {"nothing_lost"})

    def test_irq_both_sides_empty_fails(self):
        rows = [r for r in self.rows if "irq" not in r]
        trace = [t for t in self.records.trace if "sys_enter" in t[2]]
        rows += self.rows[:2]
        self.assertIn("interrupts_of_all_kinds", self.failed(rows, trace))

    def test_irq_no_device_fails(self):
        rows = [r for r in self.rows if "line" not in r.get("irq", {})]
        trace = [t for t in self.records.trace if "irq_handler" not in t[2]]
        self.assertEqual(
            self.failed(rows, trace), {"interrupts_of_all_kinds", "handlers_in_modules_named"}
        )

    def test_irq_handlers_of_modules_fail_under_other_names(self):
        for line, name in (
            (5, "0xffffffffc0001000"),
            (5, "?"),
            (5, "vm_interrupt"),
            (5, "vm_interrupt [virtio_ring]"),
            (4, compare_irq.MODULE_DRIVER[1]),
        ):
            rows = copy.deepcopy(self.rows)
            for raw in rows:
                if raw.get("irq", {}).get("line") == line:
                    raw["irq"]["handler"] = name
            self.assertEqual(self.failed(rows), {"handlers_in_modules_named"}, (line, name))
        self.kallsyms = "ffffffffc0001000 d vm_interrupt\t[virtio_mmio]\n"
        self.assertEqual(self.failed(), {"handlers_in_modules_named"})

    def test_irq_missing_mark_is_an_error(self):
        with self.assertRaises(CutError):
            self.failed([r for r in self.rows if r["kind"] != "syscall_enter"])


if __name__ == "__main__":
    unittest.main()
