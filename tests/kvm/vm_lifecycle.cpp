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
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

namespace shadowmon::kvmtest {

namespace {
constexpr unsigned ud_vector = 6;
constexpr Gpa control_gpa{TG_DATA_GPA};
constexpr uint64_t vm_fd = 1;
constexpr uint64_t attached = 2;

/// A VMM of its own: two vCPUs in the counting loop; ends when told, or is killed.
void vmm(const Channel& channel, std::span<const uint64_t> args) {
    Vm vm({.vcpus = 2, .irqchip = args[0] != 0});
    vm.map_region_in_guest(Compartment::default_gpa(), TG_REGION_PAGES);
    for (unsigned i = 0; i < 2; i++)
        vm.vcpu(i).start(guest_function(guest_count_loop), control_gpa + i * page_size);
    channel.send({vm_fd, {static_cast<uint64_t>(vm.fd())}});
    Message order;
    channel.try_receive(order);
    if (order.what == attached) {
        // One vCPU into the gate, where it stays.
        vm.at<LoopControl>(control_gpa).stop = 1;
        vm.vcpu(0).wait().must_return();
        vm.vcpu(0).start(gate_function(gate_spin));
        channel.send({attached});
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
    child.channel().receive(attached);
    channel.send({attached, {static_cast<uint64_t>(child.pid())}});
    Message order;
    channel.try_receive(order);
    _exit(0);
}
Role owner_role("owner", owner);

/// Outlives the process that started it, until it is killed.
Role idle_role("idle", [](const Channel& channel, std::span<const uint64_t>) {
    SM_CHECK_SYS(prctl(PR_SET_PDEATHSIG, 0));
    channel.send({attached});
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
    note("the VMM %s, vCPU %s, %s irqchip", killed ? "is killed" : "ends",
         inside ? "inside" : "outside", irqchip ? "with" : "without");
    Child vmm("vmm", {irqchip});
    uint64_t fd = vmm.channel().receive(vm_fd).values[0];
    Views views = Views::attach_to_process(vmm.pid(), fd);
    Compartment compartment(views);
    compartment.enable();
    SM_CHECK(!(views.poll(0) & POLLHUP));
    if (inside) {
        vmm.channel().send({attached});
        vmm.channel().receive(attached);
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

void wait_until_free(const Vm& vm, const char* what) {
    uint64_t start = monotonic_ms();
    int result;
    while ((result = Views::try_attach(vm.fd())) == -EEXIST)
        wait_step(what, start);
    SM_CHECK_EQ(result, 0, "one can attach again");
}

void test_vcpu_created_late() {
    note("a vCPU that is created late");
    Vm vm;
    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    vm.map_region_in_guest(compartment.gpa(), TG_REGION_PAGES);
    compartment.enable();
    SM_CHECK_EQ(views.info().nr_vcpus, 1, "one vCPU at first");
    vm.vcpu(0).start(guest_function(guest_count_loop), control_gpa);
    Vcpu& late = vm.add_vcpu();
    SM_CHECK_EQ(views.info().nr_vcpus, 2, "the new vCPU is counted");
    late.call(gate_function(gate_round_trips), 10).must_return();
    late.call(gate_function(gate_write), region_gva(TG_PAGE_DATA, 512), 0x1a7e).must_return();
    SM_CHECK_EQ(*reinterpret_cast<uint64_t*>(compartment.page(TG_PAGE_DATA) + 512), 0x1a7e,
                "the new vCPU is armed");
    SM_CHECK_EQ(late.call(guest_function(guest_read8), region_gva(TG_PAGE_DATA)).must_return(),
                ~0ull, "the new vCPU's main view lacks the hidden page");
    views.close();
    // Closing only starts the end.
    wait_until_free(vm, "the views are gone");
    late.call(guest_function(guest_vmfunc), 0, 1).must_raise(ud_vector);
    Vcpu& later = vm.add_vcpu();
    later.call(guest_function(guest_vmfunc), 0, 1).must_raise(ud_vector);
    vm.at<LoopControl>(control_gpa).stop = 1;
    vm.vcpu(0).wait().must_return();
}

/// The next RESET, which must be of vCPU 1.
kvm_views_event must_get_reset(const Views& views) {
    for (;;) {
        auto event = views.next_event(5000);
        SM_CHECK(event.has_value());
        if (event->type != KVM_VIEWS_EVENT_RESET)
            continue;
        SM_CHECK_EQ(event->vcpu_id, 1, "EVENT_RESET: vcpu_id");
        return *event;
    }
}

/// After a reset vCPU 1 has its views, and is in the main one.
void check_after_reset(Vm& vm, const Compartment& compartment) {
    Vcpu& vcpu = vm.vcpu(1);
    vcpu.set_start_state();
    SM_CHECK_EQ(vcpu.call(guest_function(guest_return_value)).must_return(), return_value,
                "the vCPU runs again");
    compartment.data().release = 1;
    vcpu.call(gate_function(gate_round_trips), 3).must_return();
    SM_CHECK_EQ(vcpu.call(guest_function(guest_read8), region_gva(TG_PAGE_DATA)).must_return(),
                ~0ull, "its main view lacks the hidden page");
    compartment.data().release = 0;
}

void start_inside(Vm& vm, const Compartment& compartment) {
    compartment.data().inside = 0;
    compartment.data().release = 0;
    vm.vcpu(1).start(gate_function(gate_spin));
    wait_until("the vCPU is inside", [&] { return compartment.data().inside >= 1; });
}

/// INIT by the guest's other vCPU, as when it takes a CPU down and up, to a vCPU that is armed
/// and to one in the shadow view; then a reset by the VMM. The event tells them apart.
void test_reset() {
    constexpr uint64_t init_to_one = 1ull << 32 | 0x4500;
    Vm vm({.vcpus = 2, .irqchip = true});
    note("resets");
    vm.vcpu(0).call(guest_function(guest_x2apic_on)).must_return();
    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    vm.map_region_in_guest(compartment.gpa(), TG_REGION_PAGES);
    compartment.enable(KVM_VIEWS_ENABLE_VE);
    auto& ve_busy = *reinterpret_cast<volatile uint32_t*>(compartment.page(TG_PAGE_VE + 1) + 4);
    Vcpu& vcpu = vm.vcpu(1);
    vcpu.call(gate_function(gate_round_trips), 3).must_return();
    for (bool inside : {false, true}) {
        if (inside)
            start_inside(vm, compartment);
        else
            vcpu.start(guest_function(guest_halt));
        // As if it were handling a #VE.
        ve_busy = inside ? ~0u : 0;
        vm.vcpu(0).call(guest_function(guest_send_ipi), init_to_one).must_return();
        kvm_views_event event = must_get_reset(views);
        SM_CHECK_EQ(event.arg, KVM_VIEWS_RESET_INIT, "INIT of one vCPU is told as such");
        SM_CHECK_EQ(event.view, inside ? KVM_VIEWS_SHADOW : KVM_VIEWS_MAIN,
                    "EVENT_RESET: where it was");
        wait_until("the vCPU has taken the INIT", [&] {
            kvm_views_vcpu state = views.vcpu(1);
            return !(state.cr0 & 0x80000000);
        });
        SM_CHECK_EQ(views.vcpu(1).view, KVM_VIEWS_MAIN, "after INIT it is in the main view");
        SM_CHECK_EQ(ve_busy, 0, "nobody handles a #VE any more");
        // It waits for its start-up IPI until the VMM takes it out.
        SM_CHECK(!vcpu.finished());
        vcpu.stop();
        SM_CHECK(vcpu.wait().end == Outcome::End::stopped);
        check_after_reset(vm, compartment);
    }

    start_inside(vm, compartment);
    vcpu.stop();
    SM_CHECK(vcpu.wait().end == Outcome::End::stopped);
    kvm_sregs real_mode = vcpu.sregs();
    real_mode.cr0 = 0x60000010;
    real_mode.cr4 = 0;
    real_mode.efer = 0;
    real_mode.cs.l = 0;
    vcpu.set_sregs(real_mode);
    kvm_views_event event = must_get_reset(views);
    SM_CHECK_EQ(event.arg, 0, "a reset by the VMM is no INIT");
    check_after_reset(vm, compartment);
    SM_CHECK(!views.next_event(0));
    SM_CHECK_EQ(views.disable(), 0, "DISABLE works");
}

/// The views end while the vCPU that was inside waits for its start-up IPI.
void test_reset_while_draining() {
    constexpr uint64_t init_to_one = 1ull << 32 | 0x4500;
    Vm vm({.vcpus = 2, .irqchip = true});
    vm.vcpu(0).call(guest_function(guest_x2apic_on)).must_return();
    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    vm.map_region_in_guest(compartment.gpa(), TG_REGION_PAGES);
    compartment.enable();
    start_inside(vm, compartment);
    note("a reset while draining");
    views.close();
    SM_CHECK_EQ(Views::try_attach(vm.fd()), -EEXIST, "a vCPU is inside");
    vm.vcpu(0).call(guest_function(guest_send_ipi), init_to_one).must_return();
    wait_until_free(vm, "the views are gone, though the vCPU does not run");
    SM_CHECK(!vm.vcpu(1).finished());
    vm.vcpu(1).stop();
    SM_CHECK(vm.vcpu(1).wait().end == Outcome::End::stopped);
}

void expect_state(const kvm_views_vcpu& state, unsigned vcpu, const char* when) {
    note("%s: rip 0x%llx", when, (unsigned long long)state.rip);
    SM_CHECK_EQ(state.vcpu_id, vcpu, "GET_VCPU: vcpu_id");
    SM_CHECK_EQ(state.cr3, TG_PML4_GPA, "GET_VCPU: cr3");
    SM_CHECK_EQ(state.cr0, 0x80050033, "GET_VCPU: cr0");
    SM_CHECK_EQ(state.efer, 0xd01, "GET_VCPU: efer");
    SM_CHECK_EQ(state.cr4 & 0x20, 0x20, "GET_VCPU: cr4");
    SM_CHECK_EQ(state.gs_base, TG_CONTEXT_GPA + vcpu * page_size, "GET_VCPU: gs_base");
    SM_CHECK_EQ(state.idt_base, TG_IDT_GPA, "GET_VCPU: idt_base");
    SM_CHECK_EQ(state.idt_limit, page_size - 1, "GET_VCPU: idt_limit");
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
    vm.vcpu(0).start(guest_function(guest_count_loop), control_gpa);
    wait_until("the vCPU runs", [&] {
        return *const_cast<volatile uint64_t*>(&vm.at<LoopControl>(control_gpa).count) > 0;
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
        kvm_views_patch patch = make_patch(control_gpa + 0x5000, zero, ours);
        SM_CHECK_EQ(views.patch({&patch, 1}), 0, "PATCH with a halted vCPU works");
        SM_CHECK_EQ(views.disable(), 0, "DISABLE with a halted vCPU works");
    }
    vm.vcpu(2).stop();
    SM_CHECK(vm.vcpu(2).wait().end == Outcome::End::stopped);
    SM_CHECK(!vm.vcpu(1).finished());
    vm.send_message(1, Vm::Delivery::nmi);
    vm.vcpu(1).wait().must_return();
    vm.at<LoopControl>(control_gpa).stop = 1;
    vm.vcpu(0).wait().must_return();
}

/// The calling thread on one CPU, and what it starts meanwhile.
class OnOneCpu {
  public:
    OnOneCpu() {
        SM_CHECK_SYS(sched_getaffinity(0, sizeof before_, &before_));
        cpu_set_t first;
        CPU_ZERO(&first);
        CPU_SET(0, &first);
        SM_CHECK_SYS(sched_setaffinity(0, sizeof first, &first));
    }
    OnOneCpu(const OnOneCpu&) = delete;
    ~OnOneCpu() { sched_setaffinity(0, sizeof before_, &before_); }

  private:
    cpu_set_t before_{};
};

kvm_vcpu_events events_of(const Vcpu& vcpu) {
    kvm_vcpu_events events{};
    SM_CHECK_SYS(ioctl(vcpu.fd(), KVM_GET_VCPU_EVENTS, &events));
    return events;
}

void block_nmis(const Vcpu& vcpu, bool block) {
    kvm_vcpu_events events = events_of(vcpu);
    events.nmi.masked = block;
    SM_CHECK_SYS(ioctl(vcpu.fd(), KVM_SET_VCPU_EVENTS, &events));
}

/// A vCPU in an NMI's handler may go back into the compartment from there: the views stay until it
/// has left the handler. It blocks nothing for a vCPU that has its CPU afterwards.
void test_nmis_blocked() {
    note("NMIs blocked");
    OnOneCpu on_one_cpu;
    Vm other;
    block_nmis(other.vcpu(0), true);
    SM_CHECK_EQ(other.vcpu(0).call(guest_function(guest_return_value)).must_return(), return_value,
                "a vCPU whose NMIs are blocked runs");
    SM_CHECK(events_of(other.vcpu(0)).nmi.masked);

    Vm vm;
    Vcpu& vcpu = vm.vcpu(0);
    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    compartment.enable();
    vcpu.call(guest_function(guest_return_value)).must_return();
    SM_CHECK(!events_of(vcpu).nmi.masked);

    block_nmis(vcpu, true);
    auto& control = vm.at<LoopControl>(control_gpa);
    vcpu.start(guest_function(guest_count_loop), control_gpa);
    wait_until("the vCPU runs",
               [&] { return *const_cast<volatile uint64_t*>(&control.count) > 0; });
    views.vcpu(0); // It has made an exit.
    views.close();
    SM_CHECK_EQ(Views::try_attach(vm.fd()), -EEXIST, "it may return");
    control.stop = 1;
    vcpu.wait().must_return();
    SM_CHECK_EQ(Views::try_attach(vm.fd()), -EEXIST, "it may return once it runs again");
    block_nmis(vcpu, false);
    vcpu.call(guest_function(guest_return_value)).must_return();
    wait_until_free(vm, "the views are gone");
}

/// The fd is not inherited by a program that the owner starts.
void test_owner_execs() {
    note("the owner starts a program");
    Vm vm;
    Child first("owner", {static_cast<uint64_t>(getpid()), static_cast<uint64_t>(vm.fd())});
    auto idle = static_cast<pid_t>(first.channel().receive(attached).values[0]);
    SM_CHECK_EQ(Views::try_attach(vm.fd()), -EEXIST, "the VM is taken");
    first.channel().send({0});
    first.must_exit();
    wait_until_free(vm, "the views go with their owner, though its child lives");
    SM_CHECK_SYS(kill(idle, SIGKILL)); // It was alive all the time.
}
} // namespace

void test_main() {
    require_hardware(KVM_VIEWS_HW_VE);
    test_get_vcpu(false);
    test_get_vcpu(true);
    test_nmis_blocked();
    test_vcpu_created_late();
    test_owner_execs();
    test_reset();
    test_reset_while_draining();
    for (bool irqchip : {false, true}) {
        for (bool inside : {false, true}) {
            test_vmm_ends(false, inside, irqchip);
            test_vmm_ends(true, inside, irqchip);
        }
    }
}

} // namespace shadowmon::kvmtest
