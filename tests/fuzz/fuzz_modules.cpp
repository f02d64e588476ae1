// SPDX-License-Identifier: GPL-2.0-or-later
//
// The list of modules and their symbols in hostile memory. An input says which kind of kernel it
// is, then how a good memory is changed: 8 bytes at an offset from the first module.
#include "tests/unit/guest/made_modules.h"

#include <cstdlib>
#include <cstring>

using namespace shadowmon;
using namespace shadowmon::test;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    struct Change {
        uint16_t at;
        uint64_t value;
    } __attribute__((packed));
    if (size == 0)
        return 0;
    MadeModules made(data[0] & 1 ? ModuleSeries::Core : ModuleSeries::Mem);
    made.add("brd");
    made.add("null_blk");
    for (size_t at = 1; at + sizeof(Change) <= size; at += sizeof(Change)) {
        Change change;
        std::memcpy(&change, data + at, sizeof(change));
        made.write(made.start(0) + 0x1000 + 2 * uint64_t{change.at}, change.value);
    }
    GuestModules read = made.read();
    if (read.modules.size() + read.problems.size() > 5000)
        std::abort();
    for (const GuestModule& module : read.modules) {
        if (module.name.empty() || module.text.end() < module.text.start)
            std::abort();
        (void)read.find(module.name);
        (void)read.around(module.text.start);
        const bool there =
            module.state == GuestModule::State::live || module.state == GuestModule::State::coming;
        if (still_loaded(read, module) != there)
            std::abort();
        auto found = read_module_symbols(made.memory(), made.layout, module);
        if (!found)
            continue;
        for (size_t i = 0; i < found->symbols.size(); i++)
            if (!module.contains(Gva(found->symbols[i].value)))
                std::abort();
        for (Gva end : found->ends)
            if (!module.text.contains(end - 1))
                std::abort();
    }
    return 0;
}
