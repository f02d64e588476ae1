// SPDX-License-Identifier: GPL-2.0-or-later
//
// Kallsyms::parse on hostile read-only data. An input is either the data itself, or
// (first byte odd) a list of changes to good tables, which gets further inside.
#include "src/guest/kallsyms.h"
#include "tests/unit/guest/synthetic.h"

#include <cstdlib>
#include <cstring>

using namespace shadowmon;

namespace {

constexpr uint64_t Text = 0xffffffff81000000;

void use(const Kallsyms& symbols) {
    uint64_t previous = 0;
    for (size_t i = 0; i < symbols.size(); ++i) {
        Symbol symbol = symbols[i];
        auto found = symbols.find_all(symbol.name);
        if (symbol.value < previous || found.empty())
            std::abort();
        previous = symbol.value;
    }
    if (symbols.find("_text")->value != Text)
        std::abort();
    (void)symbols.find_by_address(Gva(previous));
    (void)symbols.next_address(Gva(previous / 2));
    (void)symbols.percpu_offset("current_task");
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0)
        return 0;
    std::vector<std::byte> input;
    if (data[0] & 1) {
        static const std::vector<std::byte> Good[] = {
            test::make_kallsyms(test::fake_symbols(Text), Text, test::TableOrder::Before64),
            test::make_kallsyms(test::fake_symbols(Text), Text, test::TableOrder::Before64WithSeqs),
            test::make_kallsyms(test::fake_symbols(Text), Text, test::TableOrder::Since64)};
        input = Good[data[0] / 2 % 3];
        for (size_t at = 1; at + 3 <= size; at += 3)
            input[(data[at] | data[at + 1] << 8) % input.size()] = std::byte{data[at + 2]};
    } else {
        input.resize(size - 1);
        if (size > 1)
            std::memcpy(input.data(), data + 1, size - 1);
    }
    if (auto symbols = Kallsyms::parse(input, Gva(Text)))
        use(*symbols);
    return 0;
}
