// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/output/output.h"
#include "src/output/time_format.h"

#include <string>

namespace shadowmon {

/// One line per event, for people, grep and awk. Columns are separated by blanks and
/// never hold one, up to the last, which is as strace writes it:
///
///     # 2026-11-23 UTC
///     09:55:01.123456789 001 bash/412             enter   read(3, 0x7ffd5a3c2e10, 4096, 0, 0, 0)
///     09:55:01.123460211 001 bash/412             exit    read = 4096
///     09:55:01.123470030 001 bash/412             exit    openat = -2 (ENOENT)
///     09:55:01.123470030 000 bash/412             switch  S -> sshd/200
///     09:55:01.123470030 000 bash/412             lost    12 events (syscall_enter 8, ...)
///     09:55:01.123470030 000 bash/412             hook    vfs_read(0xffff888004a1c000, ...) ax=0
///     09:55:01.123470030 000 bash/412             irq     sysvec_apic_timer_interrupt vector 236
///     09:55:01.123479041 000 bash/412             irq end sysvec_apic_timer_interrupt vector 236 =
///     9011 ns 09:55:01.123480114 000 bash/412             irq     vring_interrupt vector 38 line
///     25 09:55:01.123470030 000 bash/412             unknown rip=0x... rsp=0x...
///
/// time of day (UTC; a line starting with # names the day), CPU, comm/tid, kind. All six
/// argument registers are shown, in decimal below 1048576, in hexadecimal from there on.
/// 32-bit calls have the suffix "@32" at their name. Marks at the end of a line: "[late]"
/// came out after an event with a later time, "[no task]", "[no body]" could not be read.
/// "irq" names the interrupted process; "irq end" with "[unpaired]" has an entry that is not known.
/// "hook" shows rdi, rsi, rdx, rcx, r8, r9 and rax at the hooked instruction.
/// "unknown" is an entry into the gate from no hook. The summary follows as # lines.
/// Comm bytes that are not printable, blanks and backslashes are escaped (escape.h).
class TextOutput final : public Output {
  public:
    explicit TextOutput(Sink sink) : sink_(std::move(sink)) {}

    void event(const Event& event) override;
    Status flush() override { return sink_.flush(); }
    Status finish(const Summary& summary) override;

  private:
    Sink sink_;
    TimeFormat time_;
    uint64_t day_ = ~uint64_t{0};
};

} // namespace shadowmon
