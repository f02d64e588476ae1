// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves that breakpoints of the guest neither stop nor divert the shadow view: one on an
/// instruction there and one on the memory it reads are passed over, each with one EVENT_DEBUG, and
/// the gate does its work; in the main view the same breakpoints work as they always did.
#include "tests/kvm/lib/test.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>

namespace shadowmon::kvmtest {

namespace {
constexpr unsigned debug_vector = 1;
constexpr Gpa data_gpa{TG_DATA_GPA};
/// In gate_read and gate_write: xor %eax,%eax; mov $1,%ecx; vmfunc.
constexpr uint64_t to_shadow_length = 10;

enum Kind : uint64_t { on_execute = 0, on_access = 3 };

void set_breakpoint(const Vcpu& vcpu, unsigned number, Gva address, Kind kind) {
    kvm_debugregs registers{};
    SM_CHECK_SYS(ioctl(vcpu.fd(), KVM_GET_DEBUGREGS, &registers));
    registers.db[number] = address.value;
    uint64_t length = kind == on_execute ? 0 : 2; // 8 bytes
    registers.dr7 &= ~(0xfull << (16 + 4 * number));
    registers.dr7 |= 2ull << (2 * number) | kind << (16 + 4 * number) | length << (18 + 4 * number);
    SM_CHECK_SYS(ioctl(vcpu.fd(), KVM_SET_DEBUGREGS, &registers));
}

void clear_breakpoints(const Vcpu& vcpu) {
    kvm_debugregs registers{};
    registers.dr6 = 0xffff0ff0;
    registers.dr7 = 0x400;
    SM_CHECK_SYS(ioctl(vcpu.fd(), KVM_SET_DEBUGREGS, &registers));
}

void must_get_debug_event(const Views& views, unsigned number) {
    kvm_views_event event = views.must_get_event(KVM_VIEWS_EVENT_DEBUG);
    SM_CHECK_EQ(event.arg & 0xf, uint64_t{1} << number, "EVENT_DEBUG: arg names the breakpoint");
    SM_CHECK_EQ(event.view, KVM_VIEWS_SHADOW, "EVENT_DEBUG: view");
    SM_CHECK_EQ(event.vcpu_id, 0, "EVENT_DEBUG: vcpu_id");
}
} // namespace

void test_main() {
    require_hardware();
    Vm vm;
    Vcpu& vcpu = vm.vcpu(0);
    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    vm.map_region_in_guest(compartment.gpa(), TG_REGION_PAGES);
    compartment.enable();
    vm.at<uint64_t>(data_gpa) = 0x1122334455667788;
    Gva reader = gate_function(gate_read);
    auto read_in_shadow = [&] {
        SM_CHECK_EQ(vcpu.call(reader, data_gpa).must_return(), 0x1122334455667788,
                    "the shadow view reads on");
    };

    // Once before, so that no EPT violation makes the instruction begin twice.
    read_in_shadow();
    set_breakpoint(vcpu, 0, reader + to_shadow_length, on_execute);
    for (unsigned i = 0; i < 10; i++) {
        read_in_shadow();
        must_get_debug_event(views, 0);
    }
    SM_CHECK(!views.next_event(0));

    clear_breakpoints(vcpu);
    set_breakpoint(vcpu, 1, Gva{data_gpa.value}, on_access);
    for (unsigned i = 0; i < 10; i++) {
        read_in_shadow();
        must_get_debug_event(views, 1);
    }
    SM_CHECK(!views.next_event(0));
    vcpu.call(guest_function(guest_read8), data_gpa).must_raise(debug_vector);

    clear_breakpoints(vcpu);
    set_breakpoint(vcpu, 2, reader, on_execute);
    vcpu.call(reader, data_gpa).must_raise(debug_vector);
    clear_breakpoints(vcpu);
    read_in_shadow();
    SM_CHECK(!views.next_event(0));
}

} // namespace shadowmon::kvmtest
