// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/hooks/off_limits.h"

#include <algorithm>
#include <array>

namespace shadowmon {

namespace {

struct NamedLimit {
    std::string_view name;
    Refusal why;
};

/// other_mappings: on the way up of a CPU before it has the kernel's IDT, on the way down when it
/// has it no more, and code that is copied to where other page tables are in force. ftrace:
/// templates and trampolines that it copies and patches. In the order of the names, because each
/// symbol of the kernel is looked for here.
constexpr std::array named_limits = std::to_array<NamedLimit>({
    {"__efi64_thunk", Refusal::other_mappings},
    {"__efi_call", Refusal::other_mappings},
    {"__fentry__", Refusal::ftrace},
    {"__restore_processor_state", Refusal::other_mappings},
    {"__x86_return_thunk", Refusal::speculation},
    {"call_depth_return_thunk", Refusal::speculation},
    {"clear_bhb_loop", Refusal::speculation},
    {"common_startup_64", Refusal::other_mappings},
    {"core_restore_code", Refusal::other_mappings},
    {"cpu_init_exception_handling", Refusal::other_mappings},
    {"cpu_init_secondary", Refusal::other_mappings},
    {"cr4_init", Refusal::other_mappings},
    {"do_suspend_lowlevel", Refusal::other_mappings},
    {"early_setup_idt", Refusal::other_mappings},
    {"entry_ibpb", Refusal::speculation},
    {"entry_untrain_ret", Refusal::speculation},
    {"ftrace_call", Refusal::ftrace},
    {"ftrace_caller", Refusal::ftrace},
    {"ftrace_caller_end", Refusal::ftrace},
    {"ftrace_caller_op_ptr", Refusal::ftrace},
    {"ftrace_epilogue", Refusal::ftrace},
    {"ftrace_graph_call", Refusal::ftrace},
    {"ftrace_regs_call", Refusal::ftrace},
    {"ftrace_regs_caller", Refusal::ftrace},
    {"ftrace_regs_caller_end", Refusal::ftrace},
    {"ftrace_regs_caller_jmp", Refusal::ftrace},
    {"ftrace_regs_caller_op_ptr", Refusal::ftrace},
    {"ftrace_stub", Refusal::ftrace},
    {"ftrace_stub_direct_tramp", Refusal::ftrace},
    {"ftrace_stub_graph", Refusal::ftrace},
    {"identity_mapped", Refusal::other_mappings},
    {"idt_invalidate", Refusal::other_mappings},
    {"its_return_thunk", Refusal::speculation},
    {"load_current_idt", Refusal::other_mappings},
    {"machine_kexec", Refusal::other_mappings},
    {"native_gdt_invalidate", Refusal::other_mappings},
    {"native_write_cr4", Refusal::other_mappings},
    {"pvh_start_xen", Refusal::other_mappings},
    {"relocate_kernel", Refusal::other_mappings},
    {"restore_image", Refusal::other_mappings},
    {"restore_processor_state", Refusal::other_mappings},
    {"restore_registers", Refusal::other_mappings},
    {"retbleed_return_thunk", Refusal::speculation},
    {"retbleed_untrain_ret", Refusal::speculation},
    {"secondary_startup_64", Refusal::other_mappings},
    {"secondary_startup_64_no_verify", Refusal::other_mappings},
    {"setup_getcpu", Refusal::other_mappings},
    {"sev_verify_cbit", Refusal::other_mappings},
    {"soft_restart_cpu", Refusal::other_mappings},
    {"srso_alias_return_thunk", Refusal::speculation},
    {"srso_alias_safe_ret", Refusal::speculation},
    {"srso_alias_untrain_ret", Refusal::speculation},
    {"srso_return_thunk", Refusal::speculation},
    {"srso_safe_ret", Refusal::speculation},
    {"srso_untrain_ret", Refusal::speculation},
    {"start_cpu0", Refusal::other_mappings},
    {"start_secondary", Refusal::other_mappings},
    {"startup_64", Refusal::other_mappings},
    {"swap_pages", Refusal::other_mappings},
    {"swsusp_arch_suspend", Refusal::other_mappings},
    {"vc_boot_ghcb", Refusal::other_mappings},
    {"verify_cpu", Refusal::other_mappings},
    {"virtual_mapped", Refusal::other_mappings},
    {"wakeup_long64", Refusal::other_mappings},
    {"write_ibpb", Refusal::speculation},
});

constexpr bool by_name(const NamedLimit& a, const NamedLimit& b) { return a.name < b.name; }
static_assert(std::is_sorted(named_limits.begin(), named_limits.end(), by_name));

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
    if (is_indirect_thunk(function))
        return Refusal::speculation;
    auto known = std::lower_bound(named_limits.begin(), named_limits.end(),
                                  NamedLimit{function, Refusal::none}, by_name);
    return known != named_limits.end() && known->name == function ? known->why : Refusal::none;
}

} // namespace shadowmon
