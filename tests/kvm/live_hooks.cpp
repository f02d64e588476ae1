// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves that hooks come and go while vCPUs run into them: a hook is put in and reverted thousands
/// of times, and once PATCH says that nobody was inside, or QUIESCE has returned, its table entry
/// and its displaced code are turned into a trap at once, which no vCPU ever meets. QUIESCE does
/// not wait for ever: EAGAIN for a vCPU that is paused, parked or kept in the compartment.
#include "tests/kvm/lib/test.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <thread>
#include <unistd.h>

namespace shadowmon::kvmtest {

namespace {
constexpr unsigned gate_vector = 20;
constexpr unsigned round_count = 1200;
constexpr Gpa data_gpa{TG_DATA_GPA};
constexpr uint8_t int20_bytes[] = {0xcd, 0x14};
constexpr uint8_t site_bytes[] = {0xff, 0xc3}; // inc %ebx
constexpr uint32_t slot_size = 64;
constexpr uint8_t trap_byte = 0xcc;

struct Fixture {
    Vm vm;
    Views views = Views::attach(vm.fd());
    Compartment compartment{views};
    Gpa site = guest_text_gpa(guest_hook_site);

    explicit Fixture(unsigned vcpus, const uint8_t* gate) : vm({.vcpus = vcpus}) {
        vm.map_region_in_guest(compartment.gpa(), TG_REGION_PAGES);
        compartment.enable();
        vm.set_gate(gate_vector, gate_function(gate));
        SM_CHECK(!memcmp(vm.ram(site, 2), site_bytes, 2));
    }
    uint32_t hook() {
        auto patch = make_patch(site, site_bytes, int20_bytes, KVM_VIEWS_PATCH_HOOK);
        return apply(patch);
    }
    uint32_t unhook() {
        auto patch = make_patch(site, int20_bytes, site_bytes, KVM_VIEWS_PATCH_REVERT);
        return apply(patch);
    }
    uint32_t apply(kvm_views_patch& patch) {
        uint32_t inside = ~0u;
        SM_CHECK_EQ(views.patch({&patch, 1}, nullptr, nullptr, &inside), 0, "PATCH works");
        SM_CHECK(inside <= vm.nr_vcpus());
        return inside;
    }
};

/// Displaced code in the execute-only page: a long run of NOPs, so that vCPUs are met in it, the
/// instruction of the site, and the way back.
class DisplacedCode {
  public:
    DisplacedCode(const Fixture& fixture, uint32_t slot)
        : code_(fixture.compartment.page(TG_PAGE_XONLY) + slot * slot_size),
          gva_(region_gva(TG_PAGE_XONLY, slot * slot_size)),
          back_(fixture.site + sizeof(site_bytes)) {}

    Gva make() const {
        uint8_t bytes[slot_size];
        memset(bytes, 0x90, sizeof(bytes));
        uint8_t* end = bytes + slot_size - 8;
        memcpy(end, site_bytes, sizeof(site_bytes));
        end[2] = 0x68; // push $back; ret
        auto back = static_cast<uint32_t>(back_.value);
        memcpy(end + 3, &back, 4);
        end[7] = 0xc3;
        memcpy(code_, bytes, sizeof(bytes));
        return gva_;
    }
    void destroy() const { memset(code_, trap_byte, slot_size); }

  private:
    uint8_t* code_;
    Gva gva_;
    Gpa back_;
};

void test_under_load() {
    Fixture f(2, gate_int20_table);
    LoopControl* loops[2];
    for (unsigned i = 0; i < 2; i++) {
        loops[i] = &f.vm.at<LoopControl>(data_gpa + i * page_size);
        f.vm.vcpu(i).start(guest_function(guest_hook_loop), data_gpa + i * page_size);
    }
    // Anything but a hook that is in place leads to a trap.
    DisplacedCode trap(f, page_size / slot_size - 1);
    const Gva trap_gva = trap.make();
    trap.destroy();

    volatile RegionData& data = f.compartment.data();
    unsigned busy = 0;
    for (unsigned i = 0; i < round_count; i++) {
        DisplacedCode code(f, i % 3);
        data.resume = code.make().value;
        f.hook();
        uint64_t events = data.events;
        wait_until("the hook is met", [&] { return data.events > events; });
        if (f.unhook()) {
            busy++;
            SM_CHECK_EQ(f.views.quiesce(), 0, "QUIESCE works");
        } else if (i % 16 == 0) {
            SM_CHECK_EQ(f.views.quiesce(), 0, "QUIESCE with nobody inside works");
        }
        data.resume = trap_gva.value;
        code.destroy();
    }
    note("%u rounds, %u of them found vCPUs inside, %llu events", round_count, busy,
         (unsigned long long)data.events);
    SM_CHECK(busy > 0);
    for (unsigned i = 0; i < 2; i++) {
        *const_cast<volatile uint64_t*>(&loops[i]->stop) = 1;
        f.vm.vcpu(i).wait().must_return();
        SM_CHECK_EQ(loops[i]->errors, 0, "the displaced instruction ran once per pass");
    }
    SM_CHECK_EQ(f.views.disable(), 0, "DISABLE works");
    SM_CHECK(!memcmp(f.vm.ram(f.site, 2), site_bytes, 2));
    SM_CHECK_EQ(f.views.stats().undo_conflicts, 0, "nothing was changed by the guest");
}

/// A vCPU that is inside when the hook goes, and stays there until it is let go.
void test_stays_inside() {
    Fixture f(2, gate_int20_spin);
    Vcpu& vcpu = f.vm.vcpu(1);
    volatile RegionData& data = f.compartment.data();
    SM_CHECK_EQ(f.views.quiesce(), 0, "QUIESCE before any patch has nothing to wait for");
    SM_CHECK_EQ(f.hook(), 0, "nobody is inside");
    auto& loop = f.vm.at<LoopControl>(data_gpa);
    vcpu.start(guest_function(guest_hook_loop), data_gpa);
    wait_until("the vCPU is inside", [&] { return data.inside > 0; });
    SM_CHECK_EQ(f.unhook(), 1, "PATCH counts the vCPU that is inside");

    // The guest keeps it there, and runs.
    uint64_t start = monotonic_ms();
    SM_CHECK_EQ(f.views.quiesce(), -EAGAIN, "QUIESCE gives up on a vCPU that stays inside");
    note("gave up on a vCPU that runs after %llu ms", (unsigned long long)(monotonic_ms() - start));
    start = monotonic_ms();
    for (int i = 0; i < 10; i++)
        SM_CHECK_EQ(f.views.quiesce(KVM_VIEWS_QUIESCE_LOOK), -EAGAIN, "a look finds it inside");
    note("ten looks took %llu ms", (unsigned long long)(monotonic_ms() - start));
    SM_CHECK(monotonic_ms() - start < 500);
    SM_CHECK_EQ(f.views.quiesce(2), -EINVAL, "there is no other way to ask");
    // A signal ends the wait.
    pthread_t self = pthread_self();
    std::atomic<bool> ended = false;
    std::thread interrupter([self, &ended] {
        // One that comes before QUIESCE waits is lost.
        wait_until("QUIESCE has ended", [&] {
            pthread_kill(self, SIGUSR1);
            return ended.load();
        });
    });
    SM_CHECK_EQ(f.views.quiesce(), -EINTR, "a signal ends QUIESCE");
    ended = true;
    interrupter.join();
    // The VMM keeps it there.
    vcpu.stop();
    SM_CHECK(vcpu.wait().end == Outcome::End::stopped);
    start = monotonic_ms();
    SM_CHECK_EQ(f.views.quiesce(), -EAGAIN, "QUIESCE gives up on a vCPU that is paused inside");
    note("gave up on a vCPU that is paused after %llu ms",
         (unsigned long long)(monotonic_ms() - start));

    // A patch that has nothing to do with it does not lose track of it.
    const uint8_t old[2] = {}, ours[2] = {1, 2};
    auto patch = make_patch(data_gpa + 8 * page_size, old, ours);
    SM_CHECK_EQ(f.apply(patch), 1, "PATCH counts a paused vCPU that is inside");
    vcpu.resume_thread();
    data.release = 1;
    int result;
    do {
        result = f.views.quiesce(KVM_VIEWS_QUIESCE_LOOK);
    } while (result == -EAGAIN);
    SM_CHECK_EQ(result, 0, "a look finds that the vCPU has left");
    *const_cast<volatile uint64_t*>(&loop.stop) = 1;
    vcpu.wait().must_return();
    SM_CHECK_EQ(loop.errors, 0, "the displaced instruction ran once per pass");
    SM_CHECK_EQ(f.views.quiesce(), 0, "QUIESCE of a VM whose vCPUs are all outside");
}

/// At a VMCALL of the shadow view, waiting for the owner, who is the one that asks here.
void test_parked() {
    Fixture f(1, gate_int20);
    Vcpu& vcpu = f.vm.vcpu(0);
    vcpu.start(gate_function(gate_vmcall), 1);
    f.views.must_get_event(KVM_VIEWS_EVENT_CALL);
    f.hook();
    SM_CHECK_EQ(f.unhook(), 1, "PATCH counts the vCPU that is parked");
    SM_CHECK_EQ(f.views.quiesce(), -EAGAIN, "QUIESCE gives up on a parked vCPU");
    SM_CHECK_EQ(f.views.resume(0), 0, "RESUME works");
    vcpu.wait().must_return();
    SM_CHECK_EQ(f.views.quiesce(), 0, "QUIESCE returns once the vCPU has left");
}
} // namespace

void test_main() {
    require_hardware();
    set_time_limit(180);
    test_stays_inside();
    test_parked();
    test_under_load();
}

} // namespace shadowmon::kvmtest
