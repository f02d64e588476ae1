// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/explain_command.h"

#include "cli/exit_code.h"

#include <cstdio>
#include <fmt/format.h>
#include <shadowmonitor/escape.h>
#include <shadowmonitor/vm.h>
#include <spdlog/spdlog.h>

namespace shadowmon {

namespace {

constexpr size_t bytes_column = 30;

std::string line_of(const ListedInstruction& one, const char* mark) {
    std::string bytes;
    for (std::byte b : one.bytes)
        bytes += fmt::format("{:02x} ", static_cast<unsigned>(b));
    return fmt::format("  {} {:#x}  {:<{}} {}{}\n", mark, one.address.value, bytes, bytes_column,
                       one.text, one.names.empty() ? "" : "  ; " + escape(one.names, false));
}

} // namespace

std::string render_explanation(const Explanation& e) {
    std::string out = fmt::format("{:#x}", e.address.value);
    if (!e.symbol.empty())
        out += e.offset ? fmt::format("  {}+{:#x}", escape(e.symbol, false), e.offset)
                        : "  " + escape(e.symbol, false);
    if (e.function_end > e.function_start)
        out += fmt::format("  ({:#x}..{:#x})", e.function_start.value, e.function_end.value);
    out += "\n";
    for (const ListedInstruction& one : e.around) {
        bool replaced = one.address >= e.address && !e.displaced.empty() &&
                        one.address <= e.displaced.back().address;
        out += line_of(one, replaced ? "*" : one.address == e.address ? ">" : " ");
    }
    if (!e.refusal.empty())
        return out + escape(e.refusal, false) + "\n" +
               (e.call_site ? "The function can be hooked behind it.\n" : "");
    if (e.gate == Gate::call)
        return out + "Can be hooked, by CALL in place of the NOP marked *.\n";
    out += "Can be hooked, by INT 20; the instructions marked * run from the compartment:\n";
    for (const ListedPiece& piece : e.pieces) {
        out += fmt::format("  entered with interrupts {}:\n", piece.interrupts_on ? "on" : "off");
        for (const ListedInstruction& one : piece.code)
            out += line_of(one, " ");
    }
    return out;
}

int run_explain(const ExplainArguments& arguments) {
    auto failed = [](const Error& error) {
        spdlog::error("{}", error.message());
        return exit_failed;
    };
    auto vm = Vm::open(arguments.vm);
    if (!vm)
        return failed(vm.error());
    auto explanation =
        vm->explain(arguments.place, [](const std::string& step) { spdlog::debug("{}", step); });
    if (!explanation)
        return failed(explanation.error());
    std::string text = render_explanation(*explanation);
    for (const std::string& note : explanation->notes)
        text += note + "\n";
    std::fwrite(text.data(), 1, text.size(), stdout);
    return explanation->refusal.empty() ? exit_done : exit_failed;
}

} // namespace shadowmon
