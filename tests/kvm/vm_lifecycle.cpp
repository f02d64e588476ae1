// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves that views follow the life of the VM: the VMM exits or is killed while attached and armed
/// (POLLHUP, and everything that is asked afterwards gets an answer), a vCPU is created after
/// ENABLE, a vCPU is reset; that GET_VCPU tells the state of running, halted, stopped and
/// never-started vCPUs; and that a fork and exec by the owner does not keep the views alive.
#include "tests/kvm/lib/test.h"

#include <cerrno>
#include <csignal>
#include <linux/kvm.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

namespace shadowmon::kvmtest {

namespace {
constexpr unsigned kUd = 6;
constexpr Gpa kControl{TG_DATA_GPA};
constexpr uint64_t kVmFd = 1;
constexpr uint64_t kAttached = 2;

/// A VMM of its own: two vCPUs in the counting loop; ends when told, or is killed.
void vmm(const Channel& channel, std::span<const uint64_t> args) {
    Vm vm({.vcpus = 2, .irqchip = args[0] != 0});
    vm.map_region_in_guest(Compartment::default_gpa(), TG_REGION_PAGES);
    for (unsigned i = 0; i < 2; i++)
        vm.vcpu(i).start(guest_function(guest_count_loop), kControl + i * kPageSize);
    channel.send({kVmFd, {static_cast<uint64_t>(vm.fd())}});
    Message order;
    channel.try_receive(order);
    if (order.what == kAttached) {
        // One vCPU into the gate, where it stays.
        vm.at<LoopControl>(kControl).stop = 1;
        vm.vcpu(0).wait().must_return();
        vm.vcpu(0).start(gate_function(gate_spin));
        channel.send({kAttached});
        channel.try_receive(order);
    }
    _exit(0); // As a VMM that ends with its threads in KVM_RUN.
}
Role vmm_role("vmm", vmm);

/// Attaches, arms, and stays; args: pid of the VMM, its VM fd.
void owner(const Channel& channel, std::span<const uint64_t> args) {
    Views views = Views::attach_to_process(args[0], args[1]);
    Compartment compartment(views);
    compartment.enable();
    // A child process that lives longer than this one must not keep the views.
    Child child("idle");
    child.channel().receive(kAttached);
    channel.send({kAttached, {static_cast<uint64_t>(child.pid())}});
    Message order;
    channel.try_receive(order);
    _exit(0);
}
Role owner_role("owner", owner);

/// Outlives the process that started it, until it is killed.
Role idle_role("idle", [](const Channel& channel, std::span<const uint64_t>) {
    SM_CHECK_SYS(prctl(PR_SET_PDEATHSIG, 0));
    channel.send({kAttached});
    for (;;)
        pause();
});

void check_answers_after_end(const Views& views, Compartment& compartment) {
    SM_CHECK(views.poll(20000) & POLLHUP);
    // Nothing hangs and nothing crashes; what the answers are is of no matter.
    kvm_views_vcpu state;
    views.get_vcpu(0, state);
    uint8_t byte;
    views.read_memory(Gpa{0}, {&byte, 1});
    std::array<uint8_t, 4> bytes{};
    kvm_views_patch patch = make_patch(Gpa{TG_DATA_GPA}, bytes, bytes);
    views.patch({&patch, 1});
    views.protect(compartment.gpa(), 1, KVM_VIEWS_MAIN, KVM_VIEWS_R);
    views.resume(0);
    views.call(KVM_VIEWS_GET_STATS, nullptr);
    views.disable();
    compartment.data().release = 1; // The region's memory is the owner's.
    SM_CHECK_EQ(compartment.data().release, 1, "the owner's mapping outlives the VM");
}

void test_vmm_ends(bool killed, bool inside, bool irqchip) {
    note("VMM %s, %s, %s irqchip", killed ? "killed" : "exits", inside ? "a vCPU inside" : "armed",
         irqchip ? "with" : "without");
    Child vmm("vmm", {irqchip});
    uint64_t fd = vmm.channel().receive(kVmFd).values[0];
    Views views = Views::attach_to_process(vmm.pid(), fd);
    Compartment compartment(views);
    compartment.enable();
    SM_CHECK(!(views.poll(0) & POLLHUP));
    if (inside) {
        vmm.channel().send({kAttached});
        vmm.channel().receive(kAttached);
        wait_until("the vCPU is inside", [&] { return compartment.data().inside >= 1; });
    }
    if (killed) {
        vmm.kill();
        vmm.reap_killed();
    } else {
        vmm.channel().send({0});
        vmm.must_exit();
    }
    check_answers_after_end(views, compartment);
}

void test_vcpu_created_late() {
    Vm vm;
    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    vm.map_region_in_guest(compartment.gpa(), TG_REGION_PAGES);
    compartment.enable();
    SM_CHECK_EQ(views.info().nr_vcpus, 1, "one vCPU at first");
    vm.vcpu(0).start(guest_function(guest_count_loop), kControl);
    Vcpu& late = vm.add_vcpu();
    SM_CHECK_EQ(views.info().nr_vcpus, 2, "the new vCPU is counted");
    late.call(gate_function(gate_round_trips), 10).must_return();
    late.call(gate_function(gate_write), region_gva(TG_PAGE_DATA, 512), 0x1a7e).must_return();
    SM_CHECK_EQ(*reinterpret_cast<uint64_t*>(compartment.page(TG_PAGE_DATA) + 512), 0x1a7e,
                "the new vCPU is armed");
    SM_CHECK_EQ(late.call(guest_function(guest_read8), region_gva(TG_PAGE_DATA)).must_return(),
                ~0ull, "the new vCPU's main view lacks the hidden page");
    views.close();
    late.call(guest_function(guest_vmfunc), 0, 1).must_raise(kUd);
    Vcpu& later = vm.add_vcpu();
    later.call(guest_function(guest_vmfunc), 0, 1).must_raise(kUd);
    vm.at<LoopControl>(kControl).stop = 1;
    vm.vcpu(0).wait().must_return();
}

/// INIT, as a VMM's reset or the guest's own start-up IPI gives it, to a vCPU that is armed and
/// one that is in the shadow view.
void test_reset() {
    Vm vm({.vcpus = 2, .irqchip = true});
    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    vm.map_region_in_guest(compartment.gpa(), TG_REGION_PAGES);
    compartment.enable();
    Vcpu& vcpu = vm.vcpu(1);
    vcpu.call(gate_function(gate_round_trips), 3).must_return();
    for (bool inside : {false, true}) {
        if (inside) {
            compartment.data().inside = 0;
            compartment.data().release = 0;
            vcpu.start(gate_function(gate_spin));
            wait_until("the vCPU is inside", [&] { return compartment.data().inside >= 1; });
            vcpu.stop();
            SM_CHECK(vcpu.wait().end == Outcome::End::stopped);
            SM_CHECK_EQ(views.vcpu(1).view, KVM_VIEWS_SHADOW, "it is in the shadow view");
        }
        vm.send_message(1, Vm::Delivery::init);
        // KVM_RUN takes the INIT and comes back, or blocks until the signal.
        vcpu.resume_thread();
        wait_until("the vCPU has taken the INIT", [&] {
            kvm_views_vcpu state = views.vcpu(1);
            return !(state.cr0 & 0x80000000);
        });
        vcpu.stop();
        SM_CHECK(vcpu.wait().end == Outcome::End::stopped);
        SM_CHECK_EQ(views.vcpu(1).view, KVM_VIEWS_MAIN, "after INIT it is in the main view");

        vcpu.set_start_state();
        SM_CHECK_EQ(vcpu.call(guest_function(guest_return_value)).must_return(), kReturnValue,
                    "after INIT the vCPU runs again");
        compartment.data().release = 1;
        vcpu.call(gate_function(gate_round_trips), 3).must_return();
        SM_CHECK_EQ(vcpu.call(guest_function(guest_read8), region_gva(TG_PAGE_DATA)).must_return(),
                    ~0ull, "its main view lacks the hidden page");
    }
    unsigned resets = 0;
    while (auto event = views.next_event(0)) {
        if (event->type == KVM_VIEWS_EVENT_RESET) {
            SM_CHECK_EQ(event->vcpu_id, 1, "EVENT_RESET: vcpu_id");
            resets++;
        }
    }
    note("%u reset events", resets);
    SM_CHECK_EQ(views.disable(), 0, "DISABLE works");
}

void expect_state(const kvm_views_vcpu& state, unsigned vcpu, const char* when) {
    note("%s: rip 0x%llx", when, (unsigned long long)state.rip);
    SM_CHECK_EQ(state.vcpu_id, vcpu, "GET_VCPU: vcpu_id");
    SM_CHECK_EQ(state.cr3, TG_PML4_GPA, "GET_VCPU: cr3");
    SM_CHECK_EQ(state.cr0, 0x80050033, "GET_VCPU: cr0");
    SM_CHECK_EQ(state.efer, 0xd01, "GET_VCPU: efer");
    SM_CHECK_EQ(state.cr4 & 0x20, 0x20, "GET_VCPU: cr4");
    SM_CHECK_EQ(state.gs_base, TG_CONTEXT_GPA + vcpu * kPageSize, "GET_VCPU: gs_base");
    SM_CHECK_EQ(state.idt_base, TG_IDT_GPA, "GET_VCPU: idt_base");
    SM_CHECK_EQ(state.idt_limit, kPageSize - 1, "GET_VCPU: idt_limit");
    SM_CHECK_EQ(state.gdt_base, TG_GDT_GPA, "GET_VCPU: gdt_base");
    SM_CHECK_EQ(state.cpl, 0, "GET_VCPU: cpl");
    SM_CHECK_EQ(state.cs_long, 1, "GET_VCPU: cs_long");
    SM_CHECK_EQ(state.view, KVM_VIEWS_MAIN, "GET_VCPU: view");
    SM_CHECK_EQ(state.lstar, 0xffffffff81234000 + vcpu, "GET_VCPU: lstar");
    SM_CHECK_EQ(state.kernel_gs_base, 0x7000 + vcpu, "GET_VCPU: kernel_gs_base");
}

void expect_rip_in(const kvm_views_vcpu& state, const uint8_t* from, uint64_t length) {
    uint64_t begin = guest_function(from).value;
    if (state.rip < begin || state.rip >= begin + length)
        SM_FAIL("GET_VCPU: rip 0x%llx is not in 0x%llx + 0x%llx", (unsigned long long)state.rip,
                (unsigned long long)begin, (unsigned long long)length);
}

void test_get_vcpu(bool armed) {
    Vm vm({.vcpus = 3, .irqchip = true});
    for (unsigned i = 0; i < 3; i++) {
        vm.vcpu(i).set_msr(0xc0000082, 0xffffffff81234000 + i); // LSTAR
        vm.vcpu(i).set_msr(0xc0000102, 0x7000 + i);             // KERNEL_GS_BASE
    }
    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    if (armed)
        compartment.enable();

    // Running.
    vm.vcpu(0).start(guest_function(guest_count_loop), kControl);
    wait_until("the vCPU runs", [&] {
        return *const_cast<volatile uint64_t*>(&vm.at<LoopControl>(kControl).count) > 0;
    });
    uint64_t tsc = 0, exits = 0;
    for (unsigned i = 0; i < 20; i++) {
        kvm_views_vcpu state = views.vcpu(0);
        if (i == 0)
            expect_state(state, 0, "running");
        expect_rip_in(state, guest_count_loop, 32);
        SM_CHECK(state.guest_tsc > tsc && state.exits >= exits);
        SM_CHECK(state.tsc_khz > 0 && state.realtime_ns > 0);
        tsc = state.guest_tsc;
        exits = state.exits;
    }
    // Halted, waiting in the kernel.
    vm.vcpu(1).start(guest_function(guest_halt));
    wait_until("the vCPU is halted", [&] {
        kvm_views_vcpu state = views.vcpu(1);
        return state.rip == guest_function(guest_halt).value + 2; // behind STI and HLT
    });
    for (unsigned i = 0; i < 5; i++)
        expect_state(views.vcpu(1), 1, "halted");
    SM_CHECK(!vm.vcpu(1).finished());
    // Outside KVM_RUN.
    vm.vcpu(2).prepare(guest_function(guest_return_value), {});
    kvm_views_vcpu state = views.vcpu(2);
    expect_state(state, 2, "not running");
    SM_CHECK_EQ(state.rip, guest_function(guest_return_value).value, "GET_VCPU: rip");
    SM_CHECK_EQ(state.rsp, vm.vcpu(2).regs().rsp, "GET_VCPU: rsp");
    SM_CHECK_EQ(state.rflags, vm.vcpu(2).regs().rflags, "GET_VCPU: rflags");
    // Waiting for its start-up IPI.
    kvm_mp_state uninitialized{KVM_MP_STATE_UNINITIALIZED};
    SM_CHECK_SYS(ioctl(vm.vcpu(2).fd(), KVM_SET_MP_STATE, &uninitialized));
    vm.vcpu(2).resume_thread();
    SM_CHECK(views.vcpu(2).flags & KVM_VIEWS_VCPU_NEVER_RAN);
    SM_CHECK(!(views.vcpu(0).flags & (KVM_VIEWS_VCPU_NEVER_RAN | KVM_VIEWS_VCPU_VMXON)));
    // Being asked did not wake or disturb any of them: a PATCH stops all three, too.
    if (armed) {
        std::array<uint8_t, 4> zero{}, ours{1, 2, 3, 4};
        kvm_views_patch patch = make_patch(kControl + 0x5000, zero, ours);
        SM_CHECK_EQ(views.patch({&patch, 1}), 0, "PATCH with a halted vCPU works");
        SM_CHECK_EQ(views.disable(), 0, "DISABLE with a halted vCPU works");
    }
    vm.vcpu(2).stop();
    SM_CHECK(vm.vcpu(2).wait().end == Outcome::End::stopped);
    SM_CHECK(!vm.vcpu(1).finished());
    vm.send_message(1, Vm::Delivery::nmi);
    vm.vcpu(1).wait().must_return();
    vm.at<LoopControl>(kControl).stop = 1;
    vm.vcpu(0).wait().must_return();
}

/// The fd is not inherited by a program that the owner starts.
void test_owner_execs() {
    Vm vm;
    Child first("owner", {static_cast<uint64_t>(getpid()), static_cast<uint64_t>(vm.fd())});
    auto idle = static_cast<pid_t>(first.channel().receive(kAttached).values[0]);
    SM_CHECK_EQ(Views::try_attach(vm.fd()), -EEXIST, "the VM is taken");
    first.channel().send({0});
    first.must_exit();
    uint64_t start = monotonic_ms();
    int result;
    while ((result = Views::try_attach(vm.fd())) == -EEXIST)
        wait_step("the views go with their owner, though its child lives", start);
    SM_CHECK_EQ(result, 0, "one can attach again");
    SM_CHECK_SYS(kill(idle, SIGKILL)); // It was alive all the time.
}
} // namespace

void test_main() {
    require_hardware();
    test_get_vcpu(false);
    test_get_vcpu(true);
    test_vcpu_created_late();
    test_owner_execs();
    test_reset();
    for (bool irqchip : {false, true}) {
        for (bool inside : {false, true}) {
            test_vmm_ends(false, inside, irqchip);
            test_vmm_ends(true, inside, irqchip);
        }
    }
}

} // namespace shadowmon::kvmtest
