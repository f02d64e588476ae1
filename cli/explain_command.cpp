// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/explain_command.h"

#include "cli/exit_code.h"
#include "src/hooks/place_finder.h"
#include "src/output/escape.h"
#include "src/session/guest_survey.h"
#include "src/vm/live_memory.h"
#include "src/vm/vm_process.h"

#include <cstdio>
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

Result<Explanation> explain_in(const Views& views, const std::string& place,
                               std::vector<std::string>& notes) {
    auto memory = LiveMemory::of(views);
    if (!memory)
        return fail(memory.error());
    auto guest = survey_guest(views, *memory, nullptr,
                              [](const std::string& text) { spdlog::debug("{}", text); });
    if (!guest)
        return fail(guest.error());
    HookPolicy policy;
    policy.call_gate = !preempts_kernel_code(guest->kernel, *memory);
    std::optional<HookPlanner> kernel_planner;
    PlaceFinder finder(guest->kernel, *memory, policy, {}, [&]() -> Result<const HookPlanner*> {
        if (!kernel_planner) {
            auto code = read_kernel_code(guest->kernel, *memory);
            if (!code)
                return fail(code.error());
            kernel_planner.emplace(std::move(*code), policy, &guest->kernel.symbols);
        }
        return &*kernel_planner;
    });
    auto located = finder.locate(place);
    if (!located)
        return fail(located.error());
    // A function is hooked where its arguments are, which may be behind its first instruction.
    if (auto found = finder.find({place}, 1)) {
        located->at = found->places.front().named.displaced.address();
        notes = std::move(found->notes);
    }
    return explain(*located->planner, guest->kernel, located->at);
}

} // namespace

CLI::App* add_explain_command(CLI::App& app, ExplainArguments& arguments) {
    CLI::App* command = app.add_subcommand(
        "explain", "Tell what is at a place in a VM's kernel, and how it could be hooked");
    command->add_option("--vm", arguments.vm, "Process id of the VMM (pgrep -a qemu)")
        ->required()
        ->check(CLI::PositiveNumber)
        ->type_name("PID");
    command
        ->add_option("PLACE", arguments.place,
                     "[MODULE:]FUNCTION, [MODULE:]FUNCTION+OFFSET or 0xADDRESS")
        ->required();
    command->footer("Changes nothing in the VM. Exit code 0 if the place can be hooked, 1 if not.");
    return command;
}

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
    auto process = VmProcess::open(arguments.vm);
    if (!process)
        return failed(process.error());
    auto views = Views::attach(process->vm_fd());
    if (!views)
        return failed(views.error());
    std::vector<std::string> notes;
    auto explanation = explain_in(*views, arguments.place, notes);
    if (!explanation)
        return failed(explanation.error());
    std::string text = render_explanation(*explanation);
    for (const std::string& note : notes)
        text += note + "\n";
    std::fwrite(text.data(), 1, text.size(), stdout);
    return explanation->refusal.empty() ? exit_done : exit_failed;
}

} // namespace shadowmon
