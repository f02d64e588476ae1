// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/config.h"
#include "src/base/address.h"
#include "src/base/result.h"
#include "src/guest/btf.h"
#include "src/guest/kallsyms.h"
#include "src/guest/kernel_image.h"
#include "src/guest/memory.h"
#include "src/guest/symbol_file.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace shadowmon {

/// All that attaching needs to know about the guest's kernel, found in its memory
/// and checked against itself. Movable; owns copies of everything.
struct KernelInfo {
    KernelInfo(KernelImage found_image, Kallsyms found_symbols)
        : image(std::move(found_image)), symbols(std::move(found_symbols)) {}

    KernelImage image; ///< page_tables is the kernel's own (init_top_pgt), which stays
    Kallsyms symbols;  ///< its own, or, where it carries none, of the user's file
    Btf btf;
    std::string banner;  ///< as /proc/version says it, without the line feed
    std::string release; ///< "6.1.0-56-cloud-amd64"
    unsigned version_major = 0;
    unsigned version_minor = 0;
    sm_offsets offsets{};
    uint32_t task_size = 0; ///< bytes of task_struct
    Gva idt;                ///< idt_table, in the image; what IDTR points at shows the same page
    Gpa idt_gpa;
    Gpa level3_kernel_gpa; ///< level3_kernel_pgt: the last 512 GiB, shared by all processes

    /// Guest-physical address of something in the image or the direct map, by arithmetic.
    Result<Gpa> to_gpa(Gva gva) const;

    /// The per-CPU area of one CPU, from __per_cpu_offset.
    Result<Gva> percpu_area(const PhysicalMemory& memory, unsigned cpu) const;

    /// What the payload may read without a page walk, at most SM_MAX_WINDOWS: the
    /// image first, then the direct map, the largest windows if there are too many.
    std::vector<sm_window> windows() const;
};

/// The whole way from one vCPU's registers. Errors begin with the step that failed. The
/// guest may run on meanwhile; if it frees the process whose page tables the registers
/// name, this fails, and one more try with fresh registers is worth it. `file` is the
/// user's: checked against the kernel's own symbols, taken where it has none.
Result<KernelInfo> inspect_kernel(const PhysicalMemory& memory, const CpuState& cpu,
                                  const SymbolFile* file = nullptr);

} // namespace shadowmon
