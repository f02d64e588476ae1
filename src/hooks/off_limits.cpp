// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/off_limits.h"

#include <algorithm>
#include <array>

namespace shadowmon {

namespace {

using std::string_view_literals::operator""sv;

/// On the way up of a CPU before it has the kernel's IDT, on the way down when it has it no
/// more, and code that is copied to where other page tables are in force.
constexpr std::array other_mappings{
    "startup_64"sv,
    "secondary_startup_64"sv,
    "secondary_startup_64_no_verify"sv,
    "common_startup_64"sv,
    "verify_cpu"sv,
    "sev_verify_cbit"sv,
    "start_cpu0"sv,
    "soft_restart_cpu"sv,
    "vc_boot_ghcb"sv,
    "early_setup_idt"sv,
    "pvh_start_xen"sv,
    "start_secondary"sv,
    "cr4_init"sv,
    "native_write_cr4"sv,
    "cpu_init_exception_handling"sv,
    "cpu_init_secondary"sv,
    "setup_getcpu"sv,
    "load_current_idt"sv,
    "wakeup_long64"sv,
    "do_suspend_lowlevel"sv,
    "restore_processor_state"sv,
    "__restore_processor_state"sv,
    "machine_kexec"sv,
    "idt_invalidate"sv,
    "native_gdt_invalidate"sv,
    "relocate_kernel"sv,
    "identity_mapped"sv,
    "virtual_mapped"sv,
    "swap_pages"sv,
    "core_restore_code"sv,
    "restore_image"sv,
    "restore_registers"sv,
    "swsusp_arch_suspend"sv,
    "__efi_call"sv,
    "__efi64_thunk"sv,
};

/// Templates and trampolines that ftrace copies and patches.
constexpr std::array ftrace_code{
    "__fentry__"sv,
    "ftrace_call"sv,
    "ftrace_caller"sv,
    "ftrace_caller_end"sv,
    "ftrace_caller_op_ptr"sv,
    "ftrace_epilogue"sv,
    "ftrace_graph_call"sv,
    "ftrace_regs_call"sv,
    "ftrace_regs_caller"sv,
    "ftrace_regs_caller_end"sv,
    "ftrace_regs_caller_jmp"sv,
    "ftrace_regs_caller_op_ptr"sv,
    "ftrace_stub"sv,
    "ftrace_stub_direct_tramp"sv,
    "ftrace_stub_graph"sv,
};

constexpr std::array speculation_code{
    "__x86_return_thunk"sv,
    "call_depth_return_thunk"sv,
    "clear_bhb_loop"sv,
    "entry_ibpb"sv,
    "entry_untrain_ret"sv,
    "its_return_thunk"sv,
    "retbleed_return_thunk"sv,
    "retbleed_untrain_ret"sv,
    "srso_alias_return_thunk"sv,
    "srso_alias_safe_ret"sv,
    "srso_alias_untrain_ret"sv,
    "srso_return_thunk"sv,
    "srso_safe_ret"sv,
    "srso_untrain_ret"sv,
    "write_ibpb"sv,
};

template <size_t N>
bool among(const std::array<std::string_view, N>& names, std::string_view name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

} // namespace

bool is_indirect_thunk(std::string_view function) {
    return function.starts_with("__x86_indirect_");
}

Result<OffLimits> OffLimits::find(const Kallsyms& symbols) {
    struct Wanted {
        const char* start;
        const char* end;
        Refusal why;
        bool needed;
    };
    static constexpr Wanted wanted[] = {
        {"__entry_text_start", "__entry_text_end", Refusal::entry_code, true},
        {"__noinstr_text_start", "__noinstr_text_end", Refusal::noinstr, true},
        {"__init_begin", "__init_end", Refusal::init_code, false},
    };
    OffLimits out;
    for (const Wanted& one : wanted) {
        auto start = symbols.address(one.start);
        auto end = symbols.address(one.end);
        if (start && end)
            out.ranges_.push_back({*start, *end, one.why});
        else if (one.needed)
            return fail((start ? end : start).error().in("find where no hook may be"));
    }
    return out;
}

Refusal OffLimits::at(Gva gva) const {
    for (const Range& range : ranges_)
        if (gva >= range.start && gva < range.end)
            return range.why;
    return Refusal::none;
}

Refusal OffLimits::named(std::string_view function) {
    if (function.starts_with("__pfx_"))
        return Refusal::padding;
    if (function.starts_with("__SCT__"))
        return Refusal::static_call;
    if (is_indirect_thunk(function) || among(speculation_code, function))
        return Refusal::speculation;
    if (among(ftrace_code, function))
        return Refusal::ftrace;
    if (among(other_mappings, function))
        return Refusal::other_mappings;
    return Refusal::none;
}

} // namespace shadowmon
