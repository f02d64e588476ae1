// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/address.h"
#include "src/base/result.h"
#include "src/guest/memory.h"
#include "src/guest/page_walk.h"

#include <cstdint>
#include <vector>

namespace shadowmon {

/// The registers of one vCPU that say where the guest's kernel is.
struct CpuState {
    uint64_t cr0 = 0;
    uint64_t cr3 = 0;
    uint64_t cr4 = 0;
    uint64_t efer = 0;
    uint64_t lstar = 0;
    uint64_t idt_base = 0;
    uint64_t gs_base = 0;
    uint64_t kernel_gs_base = 0;
    unsigned cpl = 0;
};

/// The part of the direct map that shows one range of RAM.
struct DirectMapWindow {
    Gva start;
    Gpa gpa;
    uint64_t size;
};

/// Where a 64-bit Linux kernel lies in a guest: found from one vCPU's registers and
/// the page tables they lead to, whatever KASLR did. Plain data.
struct KernelImage {
    Gpa page_tables;                ///< root of the kernel's (not the user's) view of this process
    unsigned levels;                ///< 4 or 5
    Gva start;                      ///< first mapped byte of the image: `_text`
    Gpa gpa;                        ///< of start; the whole image is contiguous from here
    uint64_t size;                  ///< up to the last mapped byte of the image
    std::vector<MappedRange> parts; ///< of the image, by rights, ascending
    Gva direct_map;                 ///< where guest-physical 0 is or would be (`page_offset_base`)
    std::vector<DirectMapWindow> windows; ///< all RAM that the direct map shows
    Gva percpu_base;                      ///< kernel GS base of the vCPU asked
    Gva idt;

    Gva end() const { return start + size; }
    bool contains(Gva gva) const { return gva >= start && gva < end(); }
    PageTables tables(const PhysicalMemory& memory) const {
        return PageTables(memory, page_tables, levels);
    }
};

/// Finds the kernel. Fails with a message of its own for a vCPU without paging or
/// still in firmware, a 32-bit guest, and something that is 64-bit but no Linux.
/// A vCPU in user mode under page-table isolation will do.
Result<KernelImage> find_kernel_image(const PhysicalMemory& memory, const CpuState& cpu);

} // namespace shadowmon
