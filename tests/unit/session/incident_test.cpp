// SPDX-License-Identifier: GPL-2.0-or-later
// Every kind of event of the views fd has its sentence.
#include "src/session/incident.h"

#include "abi/layout.h"

#include <gtest/gtest.h>

namespace shadowmon::test {
namespace {

kvm_views_event event_of(uint32_t type) {
    kvm_views_event event{};
    event.type = type;
    event.vcpu_id = 3;
    event.rip = 0xffffffff81234567;
    event.cr3 = 0x1000;
    return event;
}

void expect_text(const kvm_views_event& event, const char* text) {
    EXPECT_EQ(describe(event), text);
}

TEST(Incident, Violation) {
    kvm_views_event event = event_of(KVM_VIEWS_EVENT_VIOLATION);
    event.access = KVM_VIEWS_R | KVM_VIEWS_W;
    event.gva = 0xfffffe0000000000;
    event.view = KVM_VIEWS_MAIN;
    expect_text(event, "vCPU 3: forbidden attempt to write to guest-virtual 0xfffffe0000000000 by "
                       "the code at 0xffffffff81234567, in the main view");
    event.access = KVM_VIEWS_R;
    event.view = KVM_VIEWS_SHADOW;
    expect_text(event, "vCPU 3: forbidden attempt to read guest-virtual 0xfffffe0000000000 by "
                       "the code at 0xffffffff81234567, in the shadow view");
}

TEST(Incident, BadVmfunc) {
    kvm_views_event event = event_of(KVM_VIEWS_EVENT_BAD_VMFUNC);
    event.arg = 0x5'00000001;
    expect_text(event,
                "vCPU 3: VMFUNC with eax=0x1 ecx=0x5 at 0xffffffff81234567 refused with #UD");
}

TEST(Incident, Escape) {
    kvm_views_event event = event_of(KVM_VIEWS_EVENT_ESCAPE);
    event.arg = 0xffffc90000001000;
    expect_text(event, "vCPU 3: entered the shadow view outside the gate at 0xffffffff81234567 and "
                       "was sent back");
    event.rip = SM_COMPARTMENT_GVA + SM_TEXT_OFFSET + 0x123;
    event.arg = SM_COMPARTMENT_GVA + SM_SLOTS_OFFSET + 5 * SM_SLOT_STRIDE + SM_SLOT_STACK_TOP;
    expect_text(event, "vCPU 3: was stopped within the monitor at 0xffffffff40020123, whose page "
                       "tables the guest may have changed, and sent back; its stack pointer was in "
                       "slot 5");
}

TEST(Incident, Nested) {
    expect_text(event_of(KVM_VIEWS_EVENT_NESTED),
                "vCPU 3: VMXON at 0xffffffff81234567 refused with #UD: no nested virtualization "
                "while the VM is watched");
}

TEST(Incident, Debug) {
    kvm_views_event event = event_of(KVM_VIEWS_EVENT_DEBUG);
    event.arg = 0x4000;
    expect_text(event, "vCPU 3: a breakpoint or single step of the guest (DR6 0x4000) met the "
                       "monitor's code at 0xffffffff81234567 and was not delivered there");
}

TEST(Incident, Init) {
    kvm_views_event event = event_of(KVM_VIEWS_EVENT_RESET);
    event.arg = KVM_VIEWS_RESET_INIT;
    event.view = KVM_VIEWS_MAIN;
    expect_text(event, "vCPU 3: was reset by the guest (INIT) at 0xffffffff81234567; it is watched "
                       "again as soon as the guest starts it");
    event.arg |= KVM_VIEWS_RESET_BOOT;
    event.view = KVM_VIEWS_SHADOW;
    expect_text(event, "vCPU 3: was reset by the guest (INIT) in the middle of an event, which is "
                       "lost; it goes on in the firmware, so the guest may start anew");
}

TEST(Incident, ResetByTheVmm) {
    expect_text(event_of(KVM_VIEWS_EVENT_RESET), "vCPU 3: was reset by the VMM");
}

/// Where the region is, the log does not say.
TEST(Incident, Slot) {
    kvm_views_event event{};
    event.type = KVM_VIEWS_EVENT_SLOT;
    event.vcpu_id = ~0u;
    event.gpa = 0x2'4000'0000;
    event.arg = 16 << 20;
    expect_text(event, "the VMM has put 16 MiB of memory over the monitor's hidden pages: they "
                       "stay, so the guest cannot use that part of it; attach anew to have them "
                       "elsewhere");
    event.arg = 4096;
    EXPECT_NE(describe(event).find(" 4 KiB "), std::string::npos);
    EXPECT_EQ(describe(event).find("24000"), std::string::npos);
}

TEST(Incident, OfALaterKernel) {
    expect_text(event_of(99), "vCPU 3: event 99 from the kernel, which this program does not know");
}

} // namespace
} // namespace shadowmon::test
