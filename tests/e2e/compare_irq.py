#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Proves the monitor's record of a guest's interrupts against the guest's own.

usage: compare_irq.py TRUTH EVENTS

TRUTH is a folder made by truth.sh (`truth start irq`), with two more files of the guest's:
kallsyms, the symbols of its modules, and interrupts, its /proc/interrupts. EVENTS is the monitor's
JSON lines of the same time. Both have the same clock, the guest's TSC, and are cut on each CPU at
the marks of window.c: at the later of both records' begin marks and the earlier of the end marks. No interrupt lies
across a mark, which is a system call on that CPU. In between, the sequence of begun and ended
interrupts of each CPU must be the same, by line (of a device) or vector; the monitor's must lie
around the guest's; and each duration must be what the monitor's own times say, and cover the
guest's. Handlers in modules must be named as the guest's kallsyms has them, and be those of the
lines that the guest's list of interrupts gives to the driver. Prints `ok NAME` and `not ok NAME`
lines; status 1 if one is not ok.
"""

import sys
from collections import Counter
from datetime import datetime
from itertools import zip_longest
from pathlib import Path

from compare import MARK_BEGIN, MARK_END, SHOWN, CutError, is_mark
from records import IRQ_ENTER, IRQ_EXIT, Monitor, Truth

# The kernel has no tracepoint in these.
UNTRACED = {
    "sysvec_kvm_asyncpf_interrupt",
    "sysvec_kvm_posted_intr_ipi",
    "sysvec_kvm_posted_intr_nested_ipi",
    "sysvec_kvm_posted_intr_wakeup_ipi",
    "sysvec_irq_move_cleanup",
    "sysvec_reboot",
}
TIMER = "sysvec_apic_timer_interrupt"
LEAST_TIMERS = 20  # on each CPU
# The driver of the control channel: whose requests interrupt the guest, by device.
MODULE_DRIVER = ("virtio", "vm_interrupt [virtio_mmio]")


def marks(events, side):
    found = {MARK_BEGIN: {}, MARK_END: {}}
    for event in events:
        for kind, by_cpu in found.items():
            if is_mark(event, kind):
                by_cpu.setdefault(event.cpu, event.tsc)
    if not found[MARK_BEGIN] or found[MARK_BEGIN].keys() != found[MARK_END].keys():
        raise CutError(f"{side}: marks on CPUs {[sorted(m) for m in found.values()]}")
    return found[MARK_BEGIN], found[MARK_END]


def nanoseconds(time):
    """Of CLOCK_REALTIME, from RFC 3339 with nine digits."""
    whole, _, fraction = time.rstrip("Z").partition(".")
    return int(datetime.fromisoformat(whole + "+00:00").timestamp()) * 10**9 + int(fraction)


def module_symbols(folder):
    """"name [module]", as kallsyms has them: of text."""
    found = set()
    for line in (Path(folder) / "kallsyms").read_text().splitlines():
        _, kind, name, module = line.split()
        if kind in "tT":
            found.add(f"{name} {module}")
    return found


def lines_of(folder, driver):
    """Lines of devices of that name, from /proc/interrupts: "  5:  1  2  IO-APIC  5-edge  virtio0"."""
    found = set()
    for line in (Path(folder) / "interrupts").read_text().splitlines():
        number, _, rest = line.strip().partition(":")
        if number.isdigit() and rest.split()[-1].startswith(driver):
            found.add(int(number))
    return found


class Comparison:
    def __init__(self, truth, monitor):
        self.truth, self.monitor = truth, monitor
        self.results = []
        self.symbols = module_symbols(truth.folder)
        self.module_lines = lines_of(truth.folder, MODULE_DRIVER[0])
        ours, theirs = marks(monitor.events, "monitor"), marks(truth.events, "guest")
        if ours[0].keys() != theirs[0].keys():
            raise CutError(f"marks on CPUs {sorted(ours[0])}, guest: {sorted(theirs[0])}")
        self.ours, self.theirs = {}, {}
        for cpu in ours[0]:
            begin = max(ours[0][cpu], theirs[0][cpu])
            end = min(ours[1][cpu], theirs[1][cpu])
            inside = [e for e in monitor.irqs if e.cpu == cpu and begin < e.tsc < end]
            self.ours[cpu] = [e for e in inside if e.raw["irq"]["handler"] not in UNTRACED]
            self.theirs[cpu] = [e for e in truth.irqs if e.cpu == cpu and begin < e.tsc < end]

    def run(self):
        for name in (
            "guest_record_complete",
            "nothing_lost",
            "interrupts_equal",
            "interrupts_of_all_kinds",
            "times_around_the_guests",
            "durations_true",
            "handlers_in_modules_named",
        ):
            self.results.append((f"irq_{name}", list(getattr(self, name)())))
        return all(not problems for _, problems in self.results)

    def guest_record_complete(self):
        return self.truth.problems

    def nothing_lost(self):
        yield from self.monitor.losses()
        summary = self.monitor.summary or {}
        counts = Counter(e.kind for e in self.monitor.irqs)
        for kind in (IRQ_ENTER, IRQ_EXIT):
            if summary.get("by_kind", {}).get(kind) != counts[kind]:
                yield f"summary: {kind} is {summary.get('by_kind')}, the file has {counts[kind]}"

    def interrupts_equal(self):
        for cpu, ours in self.ours.items():
            for index, (a, b) in enumerate(zip_longest(ours, self.theirs[cpu])):
                if a is None or b is None or (a.kind, a.what, a.tid) != (b.kind, b.what, b.tid):
                    yield f"cpu {cpu}, event {index}: monitor: {a}; guest: {b}"
                    break

    def interrupts_of_all_kinds(self):
        """Guards against both records being empty."""
        for cpu, ours in self.ours.items():
            timers = sum(
                1 for e in ours if e.kind == IRQ_ENTER and e.raw["irq"]["handler"] == TIMER
            )
            if timers < LEAST_TIMERS:
                yield f"cpu {cpu}: {timers} interrupts of the timer"
        everything = [e for ours in self.ours.values() for e in ours if e.kind == IRQ_ENTER]
        if not any(e.what[0] == "line" for e in everything):
            yield "no device interrupted"
        handlers = {e.raw["irq"]["handler"] for e in everything if e.what[0] == "vector"}
        if len(handlers) < 2:
            yield f"vectors of the system: only {handlers}"

    def times_around_the_guests(self):
        for cpu, ours in self.ours.items():
            for a, b in zip(ours, self.theirs[cpu]):
                if not (a.tsc < b.tsc if a.kind == IRQ_ENTER else b.tsc < a.tsc):
                    yield f"{a} at {a.tsc}; guest at {b.tsc}"

    def durations_true(self):
        everything = sorted(self.monitor.irqs, key=lambda e: e.tsc)
        first, last = everything[0], everything[-1]
        ticks = last.tsc - first.tsc
        span = nanoseconds(last.raw["time"]) - nanoseconds(first.raw["time"])
        for cpu, ours in self.ours.items():
            open_ = []
            for index, (a, b) in enumerate(zip(ours, self.theirs[cpu])):
                if a.kind == IRQ_ENTER:
                    open_.append((a, b))
                    continue
                if not open_:
                    yield f"{a} was never begun"
                    continue
                entered, entered_there = open_.pop()
                duration = a.raw.get("duration_ns")
                if duration is None or a.raw.get("unpaired"):
                    yield f"{a} has no duration"
                    continue
                expected = (a.tsc - entered.tsc) * span / ticks
                least = (b.tsc - entered_there.tsc) * span / ticks
                if abs(duration - expected) > 2 + expected / 1000:
                    yield f"{a}: {duration} ns, by its times {expected:.0f}"
                if duration < least:
                    yield f"{a}: {duration} ns, the guest was at it for {least:.0f}"
                if a.raw["irq"] != entered.raw["irq"]:
                    yield f"{a}: {a.raw['irq']} ends what began as {entered.raw['irq']}"
            if open_:
                yield f"cpu {cpu}: {len(open_)} never ended"

    def handlers_in_modules_named(self):
        """Of the whole trace: the channel is quiet within the marks."""
        seen = set()
        for event in self.monitor.irqs:
            if event.what[0] != "line":
                continue
            handler = event.raw["irq"]["handler"]
            if handler.startswith("0x") or handler == "?":
                yield f"{event} has no name: {handler}"
            if handler.endswith("]") and handler not in self.symbols:
                yield f"{event}: the guest has no {handler}"
            of_driver = handler == MODULE_DRIVER[1]
            if of_driver != (event.what[1] in self.module_lines):
                yield f"{event}: {handler}, the driver's lines are {sorted(self.module_lines)}"
            if of_driver:
                seen.add(event.what[1])
        if not seen:
            yield f"no interrupt was handled by {MODULE_DRIVER[1]}"

    def report(self, out):
        for name, problems in self.results:
            print("not ok" if problems else "ok", name, file=out)
            for problem in problems[:SHOWN]:
                print(f"    {problem}", file=out)
            if len(problems) > SHOWN:
                print(f"    and {len(problems) - SHOWN} more", file=out)
        counts = Counter(
            e.raw["irq"]["handler"]
            for ours in self.ours.values()
            for e in ours
            if e.kind == IRQ_ENTER
        )
        text = ", ".join(f"{name} {n}" for name, n in counts.most_common())
        print(f"# compared: {sum(counts.values())} interrupts: {text}", file=out)


def main(argv):
    if len(argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        comparison = Comparison(Truth(argv[1]), Monitor(argv[2]))
    except (OSError, CutError) as error:
        print(f"not ok irq_records_readable\n    {error}")
        return 1
    good = comparison.run()
    comparison.report(sys.stdout)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
