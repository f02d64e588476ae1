// SPDX-License-Identifier: GPL-2.0-or-later
//
// Page walks, scans and the search for the kernel over hostile page tables. An input
// is one CpuInput, then changes to a memory that is zero otherwise.
#include "tests/fuzz/page_walk_input.h"

#include "src/guest/kernel_image.h"
#include "tests/unit/guest/synthetic.h"

#include <cstdlib>
#include <cstring>

using namespace shadowmon;
using namespace shadowmon::test;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    CpuInput head;
    if (size < sizeof(head))
        return 0;
    std::memcpy(&head, data, sizeof(head));
    SmallMemory memory(FuzzRam);
    for (size_t at = sizeof(head); at + sizeof(EntryInput) <= size; at += sizeof(EntryInput)) {
        EntryInput entry;
        std::memcpy(&entry, data + at, sizeof(entry));
        memory.word(Gpa(entry.slot % (FuzzRam / 8) * 8)) = entry.value;
    }
    CpuState cpu;
    cpu.cr0 = 0x80000001;
    cpu.cr3 = head.cr3;
    cpu.cr4 = head.la57 & 1 ? 1 << 12 : 0;
    cpu.efer = 0x501;
    cpu.lstar = head.lstar;
    PageTables tables(memory, Gpa(cpu.cr3), cpu.cr4 ? 5 : 4);
    for (uint64_t gva : {head.gva, head.lstar}) {
        if (auto seen = tables.walk(Gva(gva))) {
            bool inside =
                (seen->gpa.value & (seen->page_size - 1)) == (gva & (seen->page_size - 1));
            if (!inside || seen->level < 1 || seen->level > 3)
                std::abort();
            // The walk read that entry: it is in memory.
            auto entry = tables.entry_of(Gva(gva), seen->level);
            if (!entry || entry->value > FuzzRam - 8)
                std::abort();
        }
        for (unsigned level = 0; level <= 6; level++)
            (void)tables.entry_of(Gva(gva), level);
        std::byte bytes[64];
        (void)VirtualMemory(tables).read(Gva(gva), bytes);
    }
    uint64_t last = 0;
    (void)tables.for_each_mapped(
        Gva(head.gva), head.span,
        [&](const MappedRange& range) {
            if (range.size == 0 || range.start.value < head.gva || range.start.value < last)
                std::abort();
            last = range.start.value + (range.size - 1);
            return true;
        },
        200);
    if (auto image = find_kernel_image(memory, cpu)) {
        for (const MappedRange& part : image->parts)
            if (part.gpa.value > FuzzRam || part.size > FuzzRam - part.gpa.value)
                std::abort();
        for (const DirectMapWindow& window : image->windows)
            if (window.gpa.value > FuzzRam || window.size > FuzzRam - window.gpa.value)
                std::abort();
    }
    return 0;
}
