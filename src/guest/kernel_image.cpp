// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/guest/kernel_image.h"

#include <algorithm>

namespace shadowmon {

namespace {

constexpr uint64_t cr0_protected_mode = 1u << 0;
constexpr uint64_t cr0_paging = 1u << 31;
constexpr uint64_t cr4_la57 = 1u << 12;
constexpr uint64_t efer_syscall = 1u << 0;
constexpr uint64_t efer_long_mode_active = 1u << 10;
constexpr uint64_t cr3_address = 0x000ffffffffff000;

/// Linux' page-table isolation keeps a pair of top-level tables: the kernel's, and
/// the user's in the page above it (PTI_USER_PGTABLE_BIT).
constexpr uint64_t user_half = 1u << 12;

// Documentation/arch/x86/x86_64/mm.rst. The image is at most KERNEL_IMAGE_SIZE
// with KASLR; modules follow it. The direct map starts at or above the fixed
// addresses below, KASLR moves it up by multiples of 1 GiB.
constexpr Gva image_first{0xffffffff80000000};
constexpr uint64_t image_max = 1u << 30;
constexpr Gva direct_map_first4{0xffff888000000000};
constexpr Gva direct_map_first5{0xff11000000000000};
constexpr Gva cpu_entry_area{0xfffffe0000000000};
constexpr uint64_t direct_map_align = 1u << 30;

// How many page-table pages a look at them may take, from what Linux can need; tables
// in circles end there.
constexpr uint64_t search_tables = 512; ///< most of them empty, before the direct map
constexpr uint64_t upper_levels(uint64_t size) { return 16 + size / (1u << 30); }
constexpr uint64_t tables_for(uint64_t size) { return upper_levels(size) + size / (2u << 20); }

template <typename... Args>
Failure fail_code(int code, fmt::format_string<Args...> format, Args&&... args) {
    return fail(Error(fmt::format(format, std::forward<Args>(args)...), code));
}

/// Ranges that touch count as one.
bool in_ram(const PhysicalMemory& memory, Gpa gpa, uint64_t size) {
    for (const RamRange& range : memory.ram()) {
        if (gpa < range.start || gpa - range.start >= range.size)
            continue;
        uint64_t here = range.size - (gpa - range.start);
        if (size <= here)
            return true;
        gpa = gpa + here;
        size -= here;
    }
    return false;
}

Status check_mode(const CpuState& cpu) {
    if (!(cpu.cr0 & cr0_paging))
        return fail_code(EAGAIN,
                         "the guest is still in firmware or a boot loader: the vCPU is in {} mode "
                         "without paging (CR0={:#x})",
                         cpu.cr0 & cr0_protected_mode ? "protected" : "real", cpu.cr0);
    if (!(cpu.efer & efer_long_mode_active))
        return fail_code(ENOTSUP,
                         "not a 64-bit kernel: the guest runs 32-bit code with paging, without "
                         "long mode (CR0={:#x}, CR4={:#x}, EFER={:#x})",
                         cpu.cr0, cpu.cr4, cpu.efer);
    if (!(cpu.efer & efer_syscall) || cpu.lstar == 0)
        return fail_code(EAGAIN,
                         "no kernel yet: the vCPU is in long mode without a system-call entry, as "
                         "in UEFI firmware, a boot loader or early boot (EFER={:#x}, LSTAR={:#x})",
                         cpu.efer, cpu.lstar);
    if (cpu.lstar < image_first.value || cpu.lstar - image_first.value >= image_max)
        return fail_code(ENOEXEC,
                         "not Linux: the system-call entry {:#x} (LSTAR) is outside "
                         "{:#x}..{:#x}, where Linux has its image",
                         cpu.lstar, image_first.value, image_first.value + (image_max - 1));
    return {};
}

/// The direct map is the first thing mapped above its fixed lowest address, and what
/// it shows there says where guest-physical 0 would be.
Status find_direct_map(const PageTables& tables, KernelImage& image) {
    Gva first = tables.levels() == 5 ? direct_map_first5 : direct_map_first4;
    auto found = tables.first_mapped(first, cpu_entry_area - first, search_tables);
    if (!found)
        return fail(found.error().in("direct map"));
    std::optional<MappedRange> seen = *found;
    if (!seen)
        return failf("direct map: nothing is mapped in {:#x}..{:#x}", first.value,
                     cpu_entry_area.value - 1);
    image.direct_map = Gva(seen->start - Gva(seen->gpa.value));
    if (image.direct_map < first || image.direct_map.value % direct_map_align)
        return failf("direct map: the first mapping {:#x} -> {:#x} gives the base {:#x}, which is "
                     "below {:#x} or not aligned to 1 GiB",
                     seen->start.value, seen->gpa.value, image.direct_map.value, first.value);
    return {};
}

/// Something whose guest-physical address is known must be seen there.
Status prove_direct_map(const PageTables& tables, const KernelImage& image, Gpa known,
                        const char* what) {
    Gva through = image.direct_map + known.value;
    auto seen = tables.walk(through);
    if (!seen)
        return fail(seen.error().in(fmt::format("direct map at {:#x}: {} at {:#x}",
                                                image.direct_map.value, what, known.value)));
    if (seen->gpa != known)
        return failf("direct map at {:#x}: {:#x} leads to {:#x} instead of {} at {:#x}",
                     image.direct_map.value, through.value, seen->gpa.value, what, known.value);
    return {};
}

Status find_windows(const PhysicalMemory& memory, const PageTables& tables, KernelImage& image) {
    std::vector<DirectMapWindow>& windows = image.windows;
    for (const RamRange& ram : memory.ram()) {
        Gva start = image.direct_map + ram.start.value;
        if (ram.size == 0 || start < image.direct_map || !tables.canonical(start))
            continue;
        auto add = [&](const MappedRange& range) {
            if (Gva(range.gpa.value) + image.direct_map.value != range.start)
                return true;
            if (!windows.empty() && windows.back().start + windows.back().size == range.start &&
                windows.back().gpa >= ram.start)
                windows.back().size += range.size;
            else
                windows.push_back({range.start, range.gpa, range.size});
            return windows.size() < 4096;
        };
        if (auto status = tables.for_each_mapped(start, ram.size, add, tables_for(ram.size));
            !status)
            return fail(status.error().in("direct map"));
    }
    if (windows.empty())
        return failf("direct map at {:#x}: none of the RAM is mapped in it",
                     image.direct_map.value);
    return {};
}

/// The image keeps one distance between virtual and physical; parts of it (freed
/// initialization code) may be unmapped.
Status find_parts(const PhysicalMemory& memory, const PageTables& tables, const CpuState& cpu,
                  KernelImage& image) {
    auto entry = tables.walk(Gva(cpu.lstar));
    if (!entry)
        return fail(entry.error().in("kernel image: system-call entry (LSTAR)"));
    if (!entry->rights.executable)
        return failf("kernel image: the system-call entry {:#x} (LSTAR) is mapped, but not "
                     "executable",
                     cpu.lstar);
    uint64_t distance = cpu.lstar - entry->gpa.value;
    auto add = [&](const MappedRange& range) {
        if (range.start.value - range.gpa.value == distance)
            image.parts.push_back(range);
        return image.parts.size() < 4096;
    };
    if (auto status = tables.for_each_mapped(image_first, image_max, add, tables_for(image_max));
        !status)
        return fail(status.error().in("kernel image"));
    if (image.parts.empty())
        return failf("kernel image: the mapping of {:#x} changed while being read", cpu.lstar);
    image.start = image.parts.front().start;
    image.gpa = image.parts.front().gpa;
    image.size = image.parts.back().end() - image.start;
    if (image.start.value % (1u << 21) || !image.parts.front().rights.executable)
        return failf("kernel image: begins at {:#x} -> {:#x}, which is not executable or not "
                     "aligned to 2 MiB as Linux' text is",
                     image.start.value, image.gpa.value);
    if (!image.contains(Gva(cpu.lstar)))
        return failf("kernel image: {:#x}..{:#x} is without the system-call entry {:#x}",
                     image.start.value, image.end().value, cpu.lstar);
    for (const MappedRange& part : image.parts)
        if (!in_ram(memory, part.gpa, part.size))
            return failf("kernel image: {:#x} (+{:#x}) leads to {:#x}, outside RAM",
                         part.start.value, part.size, part.gpa.value);
    return {};
}

Result<KernelImage> find_with_root(const PhysicalMemory& memory, const CpuState& cpu, Gpa root) {
    KernelImage image{};
    image.page_tables = root;
    image.levels = cpu.cr4 & cr4_la57 ? 5 : 4;
    PageTables tables = image.tables(memory);
    SM_TRY(find_direct_map(tables, image));
    SM_TRY(find_parts(memory, tables, cpu, image));
    SM_TRY(prove_direct_map(tables, image, root, "the top-level page table"));
    SM_TRY(prove_direct_map(tables, image, image.gpa, "the kernel image"));
    SM_TRY(find_windows(memory, tables, image));

    // In user mode the two GS bases are swapped; so they are in the first
    // instructions of an entry.
    bool swapped = cpu.cpl == 3 || !(cpu.gs_base >> 63);
    image.percpu_base = Gva(swapped ? cpu.kernel_gs_base : cpu.gs_base);
    image.idt = Gva(cpu.idt_base);
    return image;
}

} // namespace

Result<KernelImage> find_kernel_image(const PhysicalMemory& memory, const CpuState& cpu) {
    SM_TRY(check_mode(cpu));
    Gpa root(cpu.cr3 & cr3_address);
    auto image = find_with_root(memory, cpu, root);
    if (image || !(root.value & user_half))
        return image;
    // Either the user's half of a pair, or a kernel without isolation whose table
    // happens to lie at an odd page: only what the tables show can tell.
    auto other = find_with_root(memory, cpu, Gpa(root.value & ~user_half));
    if (other)
        return other;
    return failf("{} (CR3 {:#x}); {} (CR3 {:#x}, as with page-table isolation)",
                 image.error().message(), root.value, other.error().message(),
                 root.value & ~user_half);
}

} // namespace shadowmon
