// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/survey.h"

#include <algorithm>
#include <vector>

namespace shadowmon {

namespace {

uint64_t& count_of(std::array<uint64_t, refusal_count>& counts, Refusal refusal) {
    return counts[static_cast<size_t>(refusal)];
}

void add_rows(std::string& out, const Survey& survey,
              const std::array<uint64_t, refusal_count>& counts, const char* indent) {
    std::vector<Refusal> order;
    for (size_t i = 0; i < refusal_count; i++)
        if (counts[i] > 0)
            order.push_back(static_cast<Refusal>(i));
    std::stable_sort(order.begin(), order.end(), [&](Refusal a, Refusal b) {
        return counts[static_cast<size_t>(a)] > counts[static_cast<size_t>(b)];
    });
    for (Refusal refusal : order) {
        uint64_t count = counts[static_cast<size_t>(refusal)];
        out += fmt::format("{:>9} {:7.3f} %  {}{}: {}\n", count, survey.share(count), indent,
                           name(refusal), describe(refusal));
    }
}

} // namespace

double Survey::share(uint64_t count) const {
    return instructions == 0
               ? 0
               : 100.0 * static_cast<double>(count) / static_cast<double>(instructions);
}

std::string Survey::table() const {
    std::string out = fmt::format("{:>9} {:7.3f} %  instructions, {} of padding not counted\n",
                                  instructions, share(instructions), padding);
    out += fmt::format("{:>9} {:7.3f} %  can be hooked\n", hookable, share(hookable));
    out += fmt::format("{:>9} {:7.3f} %    of one byte, {} instructions are\n", one_byte_hookable,
                       share(one_byte_hookable), one_byte);
    out += fmt::format("{:>9} {:7.3f} %  refused\n", instructions - hookable,
                       share(instructions - hookable));
    add_rows(out, *this, refused, "  ");
    if (std::any_of(successors.begin(), successors.end(), [](uint64_t n) { return n > 0; })) {
        out += "                     the successors that cannot be displaced\n";
        add_rows(out, *this, successors, "  ");
    }
    return out;
}

Survey survey(const HookPlanner& planner, Gva page, const SurveyVisitor& visit) {
    Survey out;
    const CodeMap& map = planner.code().map;
    for (Gva at = map.start(); at < map.end(); at = at + 1) {
        if (!map.is_start(at))
            continue;
        Judgement judgement = planner.judge(at);
        if (judgement.refusal == Refusal::padding) {
            out.padding++;
            continue;
        }
        bool short_one = map.instruction(at)->length() == 1;
        out.instructions++;
        out.one_byte += short_one;
        if (judgement.refusal == Refusal::none) {
            Displaced displaced = planner.displaced(at, judgement);
            if (displace(displaced, page, true) && displace(displaced, page, false)) {
                out.hookable++;
                out.one_byte_hookable += short_one;
                if (visit)
                    visit(at, displaced);
                continue;
            }
            judgement.refusal = Refusal::out_of_reach;
        }
        count_of(out.refused, judgement.refusal)++;
        if (judgement.refusal == Refusal::successor)
            count_of(out.successors, judgement.successor)++;
    }
    return out;
}

} // namespace shadowmon
