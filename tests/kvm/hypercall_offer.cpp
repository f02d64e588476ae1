// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves that the address range which a guest offers by hypercall is kept for its VM, with views
/// or without, and is given to the owner of the views as the guest said it; that ring 3 and 32-bit
/// code are refused, and every argument that cannot be; that an offer stays as it is while the
/// vCPUs are armed and ends with WITHDRAW or a reset of the boot vCPU, by the VMM or by INIT; that
/// two vCPUs which offer at once never make one offer of two; and that nothing of all this is
/// logged.
#include "abi/guest_offer.h"
#include "tests/kvm/lib/test.h"

#include <cstring>
#include <fcntl.h>
#include <string_view>
#include <thread>

namespace shadowmon::kvmtest {

namespace {
constexpr int64_t no_such_call = -1000; // KVM_ENOSYS
constexpr uint64_t range_gva = 0xffffffff40000000;
constexpr uint64_t range_size = 0x40000000;
constexpr uint64_t entry_gpa = TG_DATA_GPA + 509 * 8;

struct Registers {
    uint64_t number, operation, gva, size, entry;
};

int64_t hypercall(Vcpu& vcpu, const Registers& arguments) {
    vcpu.prepare(guest_function(guest_hypercall), {});
    kvm_regs r = vcpu.regs();
    r.rax = arguments.number;
    r.rbx = arguments.operation;
    r.rcx = arguments.gva;
    r.rdx = arguments.size;
    r.rsi = arguments.entry;
    vcpu.set_regs(r);
    // In ring 3 the OUT after it raises #GP; the answer is in RAX all the same.
    return static_cast<int64_t>(vcpu.run().value);
}

int64_t offer(Vcpu& vcpu, uint64_t gva = range_gva, uint64_t size = range_size,
              uint64_t entry = entry_gpa) {
    return hypercall(vcpu, {SM_HYPERCALL, SM_HYPERCALL_OFFER, gva, size, entry});
}

int64_t withdraw(Vcpu& vcpu) {
    return hypercall(vcpu, {SM_HYPERCALL, SM_HYPERCALL_WITHDRAW, 0, 0, 0});
}

void must_be(const kvm_views_offer& offer, uint64_t gva, uint64_t size, uint64_t entry) {
    SM_CHECK_EQ(offer.version, SM_OFFER_VERSION, "GET_OFFER: version");
    SM_CHECK_EQ(offer.gva, gva, "GET_OFFER: gva");
    SM_CHECK_EQ(offer.size, size, "GET_OFFER: size");
    SM_CHECK_EQ(offer.entry_gpa, entry, "GET_OFFER: entry_gpa");
}

void must_be_none(const Views& views) {
    const kvm_views_offer none{}, offer = views.offer();
    SM_CHECK(memcmp(&offer, &none, sizeof offer) == 0);
}

void check_bad_values(const Views& views, Vcpu& vcpu) {
    const struct {
        Registers registers;
        int64_t answer;
    } bad_cases[] = {
        {{SM_HYPERCALL + 1, SM_HYPERCALL_OFFER, range_gva, range_size, entry_gpa}, no_such_call},
        {{0, SM_HYPERCALL_OFFER, range_gva, range_size, entry_gpa}, no_such_call},
        {{SM_HYPERCALL | uint64_t{1} << 32, SM_HYPERCALL_OFFER, range_gva, range_size, entry_gpa},
         no_such_call},
        {{SM_HYPERCALL, 1, range_gva, range_size, entry_gpa}, -EOPNOTSUPP},
        {{SM_HYPERCALL, SM_HYPERCALL_OFFER + 0x10000, range_gva, range_size, entry_gpa},
         -EOPNOTSUPP},
        {{SM_HYPERCALL, ~0ull, range_gva, range_size, entry_gpa}, -EOPNOTSUPP},
        {{SM_HYPERCALL, SM_HYPERCALL_OFFER - 1, range_gva, range_size, entry_gpa}, -EINVAL},
        {{SM_HYPERCALL, SM_HYPERCALL_WITHDRAW + 1, 0, 0, 0}, -EINVAL},
        {{SM_HYPERCALL, SM_HYPERCALL_WITHDRAW, range_gva, 0, 0}, -EINVAL},
        {{SM_HYPERCALL, SM_HYPERCALL_WITHDRAW, 0, range_size, 0}, -EINVAL},
        {{SM_HYPERCALL, SM_HYPERCALL_WITHDRAW, 0, 0, entry_gpa}, -EINVAL},
        {{SM_HYPERCALL, SM_HYPERCALL_OFFER, range_gva, 0, entry_gpa}, -EINVAL},
        {{SM_HYPERCALL, SM_HYPERCALL_OFFER, range_gva + 8, range_size, entry_gpa}, -EINVAL},
        {{SM_HYPERCALL, SM_HYPERCALL_OFFER, range_gva, range_size + 1, entry_gpa}, -EINVAL},
        {{SM_HYPERCALL, SM_HYPERCALL_OFFER, range_gva, ~0ull << 12, entry_gpa}, -EINVAL},
        {{SM_HYPERCALL, SM_HYPERCALL_OFFER, ~0ull << 12, 0x2000, entry_gpa}, -EINVAL},
        {{SM_HYPERCALL, SM_HYPERCALL_OFFER, uint64_t{1} << 47, range_size, entry_gpa}, -EINVAL},
        {{SM_HYPERCALL, SM_HYPERCALL_OFFER, (uint64_t{1} << 47) - range_size, 2 * range_size,
          entry_gpa},
         -EINVAL},
        {{SM_HYPERCALL, SM_HYPERCALL_OFFER, range_gva, range_size, entry_gpa + 4}, -EINVAL},
        {{SM_HYPERCALL, SM_HYPERCALL_OFFER, range_gva, range_size, uint64_t{1} << 40}, -EINVAL},
        {{SM_HYPERCALL, SM_HYPERCALL_OFFER, range_gva, range_size, ~7ull}, -EINVAL},
    };
    for (const auto& bad : bad_cases) {
        SM_CHECK_EQ(hypercall(vcpu, bad.registers), bad.answer, "a bad hypercall is refused");
        must_be(views.offer(), range_gva, range_size, entry_gpa);
    }
}

void check_other_modes(const Views& views, Vcpu& vcpu) {
    kvm_sregs user = vcpu.sregs();
    user.cs.dpl = user.ss.dpl = 3;
    user.cs.selector = TG_USER_CODE_SELECTOR;
    user.ss.selector = TG_USER_DATA_SELECTOR;
    vcpu.set_sregs(user);
    SM_CHECK_EQ(withdraw(vcpu), -EPERM, "WITHDRAW in ring 3 is refused");
    vcpu.set_sregs(user);
    SM_CHECK_EQ(offer(vcpu, range_gva, range_size, entry_gpa - 8), -EPERM,
                "OFFER in ring 3 is refused");
    vcpu.set_start_state();

    kvm_sregs compat = vcpu.sregs();
    compat.cs.l = 0;
    compat.cs.db = 1;
    vcpu.set_sregs(compat);
    SM_CHECK_EQ(withdraw(vcpu), static_cast<uint32_t>(-EINVAL), "32-bit code is refused");
    vcpu.set_start_state();
    must_be(views.offer(), range_gva, range_size, entry_gpa);
}

void reset(Vcpu& vcpu) {
    kvm_sregs real = vcpu.sregs();
    real.cr0 = 0x60000010;
    real.efer = 0;
    real.cr4 = 0;
    real.cs.l = 0;
    vcpu.set_sregs(real);
    vcpu.set_start_state();
}

/// By INIT the guest's own code resets a vCPU: any other is a CPU that goes and comes, the boot
/// vCPU takes with it whoever made the offer.
void check_init(bool armed) {
    constexpr uint64_t init = 0x4500;
    Vm vm({.vcpus = 2, .irqchip = true});
    Vcpu &boot = vm.vcpu(0), &other = vm.vcpu(1);
    for (Vcpu* vcpu : {&boot, &other})
        vcpu->call(guest_function(guest_x2apic_on)).must_return();
    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    SM_CHECK_EQ(offer(boot), 0, "an offer is taken");
    if (armed)
        compartment.enable();

    other.start(guest_function(guest_halt));
    boot.call(guest_function(guest_send_ipi), uint64_t{1} << 32 | init).must_return();
    wait_until("the other vCPU has taken the INIT",
               [&] { return !(views.vcpu(1).cr0 & 0x80000000); });
    must_be(views.offer(), range_gva, range_size, entry_gpa);
    other.stop();
    SM_CHECK(other.wait().end == Outcome::End::stopped);
    other.set_start_state();

    alignas(page_size) static uint8_t rom[page_size];
    constexpr uint64_t entry_offset = 0xff0;
    rom[entry_offset] = 0xe6; // out %al, $port
    rom[entry_offset + 1] = TG_DONE_PORT;
    SM_CHECK_EQ(vm.set_slot(ram_slot + 1, Gpa{0xfffff000}, rom, page_size), 0, "a ROM");
    boot.start(guest_function(guest_halt));
    other.call(guest_function(guest_send_ipi), init).must_return();
    SM_CHECK_EQ(boot.wait().end, Outcome::End::returned, "the boot vCPU starts anew");
    must_be_none(views);
}

/// An offer whose three values belong together.
void check_race(const Views& views, Vm& vm) {
    constexpr uint64_t step_size = 0x10000;
    constexpr unsigned round_count = 200;
    auto offer_often = [](Vcpu& vcpu, uint64_t which) {
        for (uint64_t i = 0; i < round_count; i++) {
            uint64_t n = 2 * i + which;
            SM_CHECK_EQ(offer(vcpu, step_size * n, step_size * (n + 1), 8 * n), 0,
                        "an offer is taken");
        }
    };
    std::thread first([&] { offer_often(vm.vcpu(0), 0); });
    std::thread second([&] { offer_often(vm.vcpu(1), 1); });
    unsigned seen = 0;
    for (uint64_t last = ~0ull; last < 2 * round_count - 2 || last == ~0ull;) {
        kvm_views_offer now = views.offer();
        if (now.version == 0)
            continue;
        must_be(now, now.gva, now.gva + step_size, now.gva / step_size * 8);
        seen += now.gva / step_size != last;
        last = now.gva / step_size;
    }
    first.join();
    second.join();
    note("%u of the racing offers were seen", seen);
    SM_CHECK(seen > 2);
}

/// What the kernel has said since the descriptor was opened, of the views.
void must_be_silent(int log) {
    char line[2048];
    ssize_t size;
    while ((size = read(log, line, sizeof line - 1)) > 0)
        if (std::string_view(line, size).find("views") != std::string_view::npos)
            SM_FAIL("the kernel logged: %.*s", static_cast<int>(size), line);
}
} // namespace

void test_main() {
    require_hardware();
    Fd log(SM_CHECK_SYS(open("/dev/kmsg", O_RDONLY | O_NONBLOCK)));
    SM_CHECK_SYS(lseek(log.get(), 0, SEEK_END));
    Vm vm({.vcpus = 2});
    Vcpu& vcpu = vm.vcpu(0);

    // Nobody has views of the VM yet.
    SM_CHECK_EQ(withdraw(vcpu), -ENOENT, "there is nothing to withdraw");
    SM_CHECK_EQ(offer(vcpu), 0, "an offer is taken before there are views");
    Views views = Views::attach(vm.fd());
    must_be(views.offer(), range_gva, range_size, entry_gpa);

    check_bad_values(views, vcpu);
    check_other_modes(views, vm.vcpu(1));
    SM_CHECK_EQ(offer(vm.vcpu(1), range_gva + range_size, 0x1000, 0), 0, "a second offer is taken");
    must_be(views.offer(), range_gva + range_size, 0x1000, 0);
    SM_CHECK_EQ(withdraw(vcpu), 0, "WITHDRAW works");
    must_be_none(views);
    SM_CHECK_EQ(withdraw(vcpu), -ENOENT, "WITHDRAW works once");

    SM_CHECK_EQ(offer(vcpu), 0, "an offer after a WITHDRAW is taken");
    Compartment compartment(views);
    compartment.enable();
    SM_CHECK_EQ(withdraw(vcpu), -EBUSY, "nothing is withdrawn while the vCPUs are armed");
    SM_CHECK_EQ(offer(vm.vcpu(1), range_gva, range_size, 0), -EBUSY, "nor offered");
    must_be(views.offer(), range_gva, range_size, entry_gpa);
    SM_CHECK_EQ(vcpu.call(guest_function(guest_return_value)).must_return(), return_value,
                "the guest goes on");
    SM_CHECK_EQ(views.disable(), 0, "DISABLE works");
    must_be(views.offer(), range_gva, range_size, entry_gpa);
    views.close();
    wait_until("the VM can be attached to again",
               [&] { return Views::try_attach(vm.fd(), &views) == 0; });
    must_be(views.offer(), range_gva, range_size, entry_gpa);

    reset(vm.vcpu(1));
    must_be(views.offer(), range_gva, range_size, entry_gpa);
    reset(vcpu);
    must_be_none(views);
    check_race(views, vm);

    // The VM of another process's owner, say, has an offer of its own.
    Vm other;
    Views of_other = Views::attach(other.fd());
    must_be_none(of_other);
    SM_CHECK_EQ(offer(vcpu), 0, "an offer is taken");
    Compartment again(views);
    again.enable();
    reset(vcpu);
    must_be_none(views);
    SM_CHECK_EQ(views.disable(), 0, "DISABLE works");
    check_init(false);
    check_init(true);
    must_be_silent(log.get());
}

} // namespace shadowmon::kvmtest
