// SPDX-License-Identifier: GPL-2.0-or-later
//
// Planner and re-encoder on hostile code. An input is a Head, then the code. Whatever can be
// hooked has to come out in a bounded piece that the reader of pieces agrees with.
#include "src/hooks/displaced_code.h"
#include "src/hooks/hook_planner.h"
#include "tests/unit/hooks/piece_reader.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

using namespace shadowmon;

namespace {

struct Head {
    uint8_t place;      // of the code: three kinds
    uint8_t policy;     // bits of HookPolicy
    uint8_t entries[4]; // functions begin there
    uint8_t targets[2]; // a table leads there
    uint8_t faults;     // has an entry in the exception table
    uint8_t patched;
};

constexpr uint64_t places[] = {0xffffffff81000ff0, 0xffffffffc0800000, 0x00007fff00000000};
constexpr Gva pages[] = {Gva(0xffffffff40002000), Gva(0xffffffff00002000)};
constexpr size_t longest_code = 4096;

void check(const HookPlanner& planner, Gva at) {
    Judgement judgement = planner.judge(at);
    auto plan = planner.plan(at);
    if (plan.has_value() != (judgement.refusal == Refusal::none))
        std::abort();
    if (!plan) {
        if (plan.error().message().empty() || judgement.displaced != 0)
            std::abort();
        return;
    }
    if (plan->address() != at || plan->instructions.size() != judgement.displaced ||
        plan->bytes.size() != plan->end() - at)
        std::abort();
    for (Gva page : pages) {
        for (bool interrupts : {false, true}) {
            auto piece = displace(*plan, page, interrupts);
            if (!piece)
                continue; // out of reach
            auto wrong = test::read_piece(*plan, *piece, page, interrupts);
            if (piece->size() > max_piece_size || !wrong.empty()) {
                std::fprintf(stderr, "%s\n", wrong.c_str());
                std::abort();
            }
        }
    }
    DisplacedCode code(pages[0], 4096);
    (void)code.add(*plan);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Head head;
    if (size <= sizeof(head) || size > longest_code)
        return 0;
    std::memcpy(&head, data, sizeof(head));
    Gva start(places[head.place % std::size(places)]);
    std::vector<std::byte> bytes(size - sizeof(head));
    std::memcpy(bytes.data(), data + sizeof(head), bytes.size());
    std::vector<Gva> entries{start};
    for (uint8_t entry : head.entries)
        entries.push_back(start + entry);
    std::sort(entries.begin(), entries.end());
    CodeMap map(start, bytes, entries, std::vector<Gva>{start + head.entries[0]});
    for (uint8_t target : head.targets)
        if (target != 0)
            map.add_target(start + target);
    std::vector<Refusal> functions(map.function_count(), Refusal::none);
    KernelCode code{std::move(map),
                    functions,
                    {start + head.faults},
                    {{start + head.patched, Refusal::static_key}},
                    {}};
    HookPlanner planner(std::move(code), {(head.policy & 1) != 0, (head.policy & 2) != 0}, nullptr);
    for (Gva at = start - 1; at <= start + bytes.size() + 1; at = at + 1)
        check(planner, at);
    return 0;
}
