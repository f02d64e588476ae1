// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/session/incident.h"

#include "src/compartment/compartment.h"

#include <fmt/format.h>

namespace shadowmon {

namespace {

std::string access_text(uint32_t access) {
    if (access & KVM_VIEWS_X)
        return "execute";
    if (access & KVM_VIEWS_W)
        return "write to";
    return "read";
}

const char* view_name(uint32_t view) {
    return view == KVM_VIEWS_MAIN ? "main view" : "shadow view";
}

std::string size_text(uint64_t bytes) {
    return bytes % (1u << 20) == 0 ? fmt::format("{} MiB", bytes >> 20)
                                   : fmt::format("{} KiB", bytes >> 10);
}

/// The gate's own code can be expelled, too, when the guest takes its page tables away.
std::string escape_text(const kvm_views_event& event) {
    std::string text =
        in_compartment(Gva(event.rip))
            ? fmt::format("was stopped within the monitor at {:#x}, whose page tables the guest "
                          "may have changed, and sent back",
                          event.rip)
            : fmt::format("entered the shadow view outside the gate at {:#x} and was sent back",
                          event.rip);
    if (auto slot = slot_of_stack(Gva(event.arg)))
        text += fmt::format("; its stack pointer was in slot {}", *slot);
    return text;
}

std::string init_text(const kvm_views_event& event) {
    std::string text = event.view == KVM_VIEWS_MAIN
                           ? fmt::format("was reset by the guest (INIT) at {:#x}", event.rip)
                           : std::string("was reset by the guest (INIT) in the middle of an event, "
                                         "which is lost");
    return text + (event.arg & KVM_VIEWS_RESET_BOOT
                       ? "; it goes on in the firmware, so the guest may start anew"
                       : "; it is watched again as soon as the guest starts it");
}

std::string text_of(const kvm_views_event& event) {
    switch (event.type) {
    case KVM_VIEWS_EVENT_VIOLATION:
        return fmt::format("forbidden attempt to {} guest-virtual {:#x} by the code at {:#x}, "
                           "in the {}",
                           access_text(event.access), event.gva, event.rip, view_name(event.view));
    case KVM_VIEWS_EVENT_BAD_VMFUNC:
        return fmt::format("VMFUNC with eax={:#x} ecx={:#x} at {:#x} refused with #UD",
                           event.arg & 0xffffffff, event.arg >> 32, event.rip);
    case KVM_VIEWS_EVENT_ESCAPE:
        return escape_text(event);
    case KVM_VIEWS_EVENT_NESTED:
        return fmt::format("VMXON at {:#x} refused with #UD: no nested virtualization while the "
                           "VM is watched",
                           event.rip);
    case KVM_VIEWS_EVENT_DEBUG:
        return fmt::format("a breakpoint or single step of the guest (DR6 {:#x}) met the monitor's "
                           "code at {:#x} and was not delivered there",
                           event.arg, event.rip);
    case KVM_VIEWS_EVENT_RESET:
        return event.arg & KVM_VIEWS_RESET_INIT ? init_text(event) : "was reset by the VMM";
    default:
        return fmt::format("event {} from the kernel, which this program does not know",
                           event.type);
    }
}

} // namespace

std::string describe(const kvm_views_event& event) {
    if (event.type == KVM_VIEWS_EVENT_SLOT)
        return fmt::format("the VMM has put {} of memory over the monitor's hidden pages: they "
                           "stay, so the guest cannot use that part of it; attach anew to have "
                           "them elsewhere",
                           size_text(event.arg));
    return fmt::format("vCPU {}: {}", event.vcpu_id, text_of(event));
}

} // namespace shadowmon
