// SPDX-License-Identifier: GPL-2.0-or-later
//
// SymbolFile on hostile files: a System.map (first byte even) or a vmlinux, which is libelf's
// to read (odd); then all that is asked of it.
#include "src/guest/symbol_file.h"
#include "tests/unit/guest/synthetic.h"

#include <cstdlib>

using namespace shadowmon;

namespace {

constexpr uint64_t Text = 0xffffffff9a600000;

void use(const SymbolFile& file) {
    static const Kallsyms Own = *Kallsyms::parse(
        test::make_kallsyms(test::fake_symbols(Text), Text, test::TableOrder::Since64), Gva(Text));
    (void)file.check(Own);
    Kallsyms symbols = file.at(Gva(Text));
    uint64_t previous = 0;
    for (size_t i = 0; i < symbols.size(); ++i) {
        Symbol symbol = symbols[i];
        if (symbol.value < previous || symbols.find_all(symbol.name).empty())
            std::abort();
        previous = symbol.value;
    }
    if (symbols.find("_text")->absolute)
        std::abort();
    (void)symbols.find_by_address(Gva(previous));
    (void)symbols.next_address(Gva(previous / 2));
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0)
        return 0;
    auto file =
        data[0] & 1
            ? SymbolFile::parse_vmlinux(std::as_bytes(std::span(data + 1, size - 1)), "vmlinux")
            : SymbolFile::parse_system_map({reinterpret_cast<const char*>(data + 1), size - 1},
                                           "System.map");
    if (file)
        use(*file);
    return 0;
}
