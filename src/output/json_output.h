// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/output/output.h"
#include "src/output/time_format.h"

#include <string>

namespace shadowmon {

/// JSON lines: one object per event, one object with the summary at the end. UTF-8.
///
/// Every event has
///   "time"   string, RFC 3339 in UTC with nine digits: "2026-11-23T09:55:01.123456789Z"
///   "tsc"    string, the guest TSC in decimal (64 bits do not fit a JSON number)
///   "cpu"    number, as the guest states it
///   "ring", "seq"  numbers: which ring it came through, its number there
///   "kind"   "syscall_enter", "syscall_exit", "switch", "lost", "hook", "irq_enter",
///            "irq_exit", "unknown_hook", "hook_retired"
///   "pid", "tid", "ppid", "uid"  numbers
///   "comm"   string, escaped (below)
///   "task"   string, address of the task_struct: "0xffff8881002b8000"
///   "cr3"    string in hexadecimal
/// and only where it is so
///   "late": true      an event with a later TSC came out before
///   "no_task": true   the task could not be read, pid to comm are 0
///   "no_body": true   the arguments, the result or the next task could not be read
/// By kind:
///   syscall_enter  "syscall": {"name", "nr", "compat": true if 32-bit, "args": [6 strings
///                  in hexadecimal]}
///   syscall_exit   "syscall": {"name", "nr", "compat"}, "ret": number, and for errors
///                  "error": "ENOENT"
///   switch         "prev", "next": {"pid", "tid", "comm", "task"}, "prev" also with
///                  "state": the letter of ps, "state_raw": string in hexadecimal
///   lost           "lost": {kind: number, ...}, "total": number
///   hook           "hook": string, "args": [rdi, rsi, rdx, rcx, r8, r9], "ax", "sp", "flags":
///                  strings in hexadecimal, the registers before the hooked instruction
///   irq_enter      "irq": {"handler": string, "vector": number, "line": number}; the process is
///                  the interrupted one. "handler" is the device's handler: a symbol, with its
///                  module behind it in brackets if it is in one, or an address where there is no
///                  symbol for it; of a system vector the kernel's entry function. "line" is the
///                  number that /proc/interrupts has, and only there for a device; "vector" only
///                  where it is known
///   irq_exit       "irq": the same, and "duration_ns": number, from the entry to the exit by the
///                  guest's TSC, without softirqs, with the monitor's own work in between; or
///                  "unpaired": true, where its entry is not known for sure (before attaching,
///                  lost, hooks changed): then "irq" tells only what the hook itself does
///   unknown_hook   "rip", "rsp": strings in hexadecimal
///   hook_retired   of the host, when it noticed: only "time", "tsc", "kind", "hook", and "reason",
///                  why the guest has ended this hook
/// The summary has "kind": "summary"; its keys are those of to_json().
///
/// Numbers beyond +-(2^53 - 1), which only "ret", "seq" and counts could reach, are
/// written as decimal strings, as not every reader keeps them exact.
///
/// A comm is any bytes the guest likes. Valid UTF-8 is kept; a backslash becomes \\ and
/// a byte that is a control character or no valid UTF-8 becomes \xNN, in the string as it
/// is after JSON's own unescaping. escape.h says exactly, and undoes it.
class JsonOutput final : public Output {
  public:
    explicit JsonOutput(Sink sink) : sink_(std::move(sink)) {}

    void event(const Event& event) override;
    Status flush() override { return sink_.flush(); }
    Status finish(const Summary& summary) override;

  private:
    Sink sink_;
    TimeFormat time_;
};

} // namespace shadowmon
