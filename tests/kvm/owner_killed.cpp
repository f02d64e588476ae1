// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves that the guest survives its monitor: 200 times a process attaches to a VM whose two
/// vCPUs never stop running the hooked code, arms it, patches page table, IDT and hook in, and is
/// killed at a random moment. Afterwards the guest's text and tables are byte for byte what they
/// were, and the guest has lost and doubled nothing. Then the hard moments one by one: close and
/// DISABLE while a vCPU is inside the gate, spinning in the shadow view, and while it is paused
/// outside KVM_RUN there.
///
/// The seed is printed; SM_SEED repeats a run, SM_ROUNDS changes the number of rounds. On a kernel
/// with lockdep there are fewer: locks are taken in the same order in each, and the moments of
/// death are for the other kernel to try.
#include "tests/kvm/lib/test.h"

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <random>
#include <thread>
#include <unistd.h>

namespace shadowmon::kvmtest {

namespace {
constexpr unsigned gate_vector = 20;
constexpr Gpa control_gpa{TG_DATA_GPA};
constexpr Gpa pud_entry_gpa{TG_PDPT_HIGH_GPA + TG_REGION_PUD_INDEX * 8};
constexpr Gpa idt_entry_gpa{TG_IDT_GPA + gate_vector * 16};
constexpr uint64_t is_armed = 1, is_ready_to_close = 2, is_closed = 3;

/// What the owner does at the end of its life.
enum Ending : uint64_t {
    stay,           ///< wait to be killed
    repeat,         ///< arm and disarm until killed
    close_inside,   ///< close while a vCPU is inside the gate, then release it
    disable_inside, ///< the same with DISABLE, from a thread
    leave_inside,   ///< end without releasing the vCPU that is inside
};

std::array<uint8_t, 16> bytes_of(const Views& views, Gpa gpa, size_t size) {
    std::array<uint8_t, 16> bytes{};
    SM_CHECK_EQ(views.read_memory(gpa, std::span(bytes).first(size)), 0, "READ_MEM works");
    return bytes;
}

/// Page-table entry, IDT entry and hook, as one batch; everything is read through the views fd.
int arm(const Views& views, const Compartment& compartment, const uint8_t* gate) {
    Gpa site = guest_text_gpa(guest_hook_site);
    auto old_pud = bytes_of(views, pud_entry_gpa, 8);
    auto old_idt = bytes_of(views, idt_entry_gpa, 16);
    auto old_site = bytes_of(views, site, 2);
    uint64_t pud = compartment.build_tables();
    std::array<uint8_t, 8> new_pud;
    memcpy(new_pud.data(), &pud, 8);
    auto new_idt = Vm::gate_descriptor(gate_function(gate));
    const std::array<uint8_t, 2> new_site{0xcd, gate_vector};
    kvm_views_patch patches[] = {
        make_patch(pud_entry_gpa, std::span(old_pud).first(8), new_pud),
        make_patch(idt_entry_gpa, old_idt, new_idt),
        make_patch(site, std::span(old_site).first(2), new_site, KVM_VIEWS_PATCH_HOOK),
    };
    return views.patch(patches);
}

void wait_for_order(const Channel& channel) {
    Message order;
    channel.try_receive(order);
}

/// args: pid of the VMM, its VM fd, how it ends.
void own(const Channel& channel, std::span<const uint64_t> args) {
    auto ending = static_cast<Ending>(args[2]);
    bool spin = ending >= close_inside;
    for (bool first = true;; first = false) {
        Views views = Views::attach_to_process(args[0], args[1]);
        Compartment compartment(views);
        compartment.enable();
        SM_CHECK_EQ(arm(views, compartment, spin ? gate_int20_spin : gate_int20), 0,
                    "the guest can be armed");
        if (first)
            channel.send({is_armed});
        volatile RegionData& data = compartment.data();
        switch (ending) {
        case stay:
            wait_for_order(channel);
            return;
        case repeat: {
            uint64_t events = data.events;
            wait_until("hooks fire", [&] { return data.events > events + 50; });
            SM_CHECK_EQ(views.disable(), 0, "DISABLE works");
            break;
        }
        case close_inside:
            wait_until("both vCPUs are inside", [&] { return data.inside >= 2; });
            channel.send({is_ready_to_close});
            wait_for_order(channel);
            views.close(); // The mapping keeps the region's memory.
            channel.send({is_closed});
            wait_for_order(channel);
            data.release = 1;
            return;
        case disable_inside: {
            wait_until("both vCPUs are inside", [&] { return data.inside >= 2; });
            channel.send({is_ready_to_close});
            std::thread releaser([&] {
                // DISABLE is under way as soon as the state says so.
                wait_until("DISABLE drains",
                           [&] { return views.info().state == KVM_VIEWS_STATE_DRAINING; });
                data.release = 1;
            });
            SM_CHECK_EQ(views.disable(), 0, "DISABLE waits for vCPUs inside and succeeds");
            releaser.join();
            SM_CHECK_EQ(views.info().state, KVM_VIEWS_STATE_IDLE, "after DISABLE it is idle");
            channel.send({is_closed});
            wait_for_order(channel);
            return;
        }
        case leave_inside:
            wait_until("both vCPUs are inside", [&] { return data.inside >= 2; });
            channel.send({is_ready_to_close});
            wait_for_order(channel);
            data.release = 1; // The word that the vCPU waits for, then the end at once.
            return;
        }
    }
}
Role role("own", own);

/// A VM whose vCPUs run the hooked loop, with a copy of what must not change.
class Guest {
  public:
    Vm vm{{.vcpus = 2}};

    Guest() : text_(copy(Gpa{TG_TEXT_GPA}, 0x10000)), tables_(copy(Gpa{0}, TG_PT_REGION_GPA)) {}

    std::vector<uint64_t> owner_args(Ending ending) const {
        return {static_cast<uint64_t>(getpid()), static_cast<uint64_t>(vm.fd()), ending};
    }
    LoopControl& control(unsigned vcpu) {
        return vm.at<LoopControl>(control_gpa + vcpu * page_size);
    }
    uint64_t count(unsigned vcpu) { return *const_cast<volatile uint64_t*>(&control(vcpu).count); }
    void start() {
        for (unsigned i = 0; i < 2; i++) {
            control(i) = {};
            vm.vcpu(i).start(guest_function(guest_hook_loop), control_gpa + i * page_size);
        }
    }
    void check_running(const char* when) {
        for (unsigned i = 0; i < 2; i++) {
            uint64_t before = count(i);
            uint64_t start = monotonic_ms();
            while (count(i) < before + 100) {
                if (vm.vcpu(i).finished()) {
                    Outcome outcome = vm.vcpu(i).wait();
                    SM_FAIL("%s vcpu %u has stopped: end %d, vector %llu, rip 0x%llx", when, i,
                            static_cast<int>(outcome.end), (unsigned long long)outcome.vector,
                            (unsigned long long)outcome.rip);
                }
                wait_step("the guest counts on", start);
            }
        }
        check_undamaged(when);
    }
    void check_undamaged(const char* when) {
        for (unsigned i = 0; i < 2; i++) {
            uint64_t damage = *const_cast<volatile uint64_t*>(&control(i).errors);
            if (damage)
                SM_FAIL("%s vcpu %u has run the displaced instruction not exactly once, %llu times",
                        when, i, (unsigned long long)damage);
        }
    }
    bool restored() const {
        return !memcmp(vm.ram(Gpa{TG_TEXT_GPA}), text_.data(), text_.size()) && tables_restored();
    }
    void wait_restored(const char* when) {
        uint64_t start = monotonic_ms();
        while (!restored())
            wait_step(when, start);
    }
    void stop() {
        for (unsigned i = 0; i < 2; i++)
            *const_cast<volatile uint64_t*>(&control(i).stop) = 1;
        for (unsigned i = 0; i < 2; i++)
            vm.vcpu(i).wait().must_return();
    }

  private:
    std::vector<uint8_t> copy(Gpa gpa, size_t size) const {
        auto span = vm.ram_span(gpa, size);
        return {span.begin(), span.end()};
    }
    /// All of the low pages but the vCPUs' context pages, which the guest writes.
    bool tables_restored() const {
        auto same = [&](uint64_t from, uint64_t to) {
            return !memcmp(vm.ram(Gpa{from}), tables_.data() + from, to - from);
        };
        return same(0, TG_CONTEXT_GPA) && same(TG_PML4_GPA, TG_PT_REGION_GPA);
    }

    std::vector<uint8_t> text_;
    std::vector<uint8_t> tables_;
};

uint64_t environment(const char* name, uint64_t fallback) {
    const char* value = getenv(name);
    return value ? strtoull(value, nullptr, 0) : fallback;
}

void test_killed_at_random() {
    uint64_t seed = environment("SM_SEED", time(nullptr));
    const bool has_lockdep = access("/proc/lockdep_stats", F_OK) == 0;
    uint64_t rounds = environment("SM_ROUNDS", has_lockdep ? 40 : 200);
    note("seed %llu, %llu rounds", (unsigned long long)seed, (unsigned long long)rounds);
    std::mt19937_64 random(seed);
    Guest guest;
    guest.start();
    unsigned armed = 0;
    for (uint64_t round = 0; round < rounds; round++) {
        Child owner("own", guest.owner_args(random() % 2 ? stay : repeat));
        // Some die while they attach, some while they are armed.
        bool wait_for_arming = random() % 4 != 0;
        if (wait_for_arming) {
            Message message;
            if (!owner.channel().try_receive(message))
                owner.must_exit(); // Says why.
            armed++;
        }
        // Not a condition: the moment of its death.
        std::this_thread::sleep_for(
            std::chrono::microseconds(random() % (wait_for_arming ? 20'000 : 60'000)));
        owner.kill();
        owner.reap_killed();
        guest.wait_restored("after the owner was killed the guest is as it was");
        guest.check_running("after the owner was killed");
        // The VM is free for the next one as soon as the guest is out.
        uint64_t start = monotonic_ms();
        int result;
        while ((result = Views::try_attach(guest.vm.fd())) == -EEXIST)
            wait_step("the views of a killed owner are gone", start);
        SM_CHECK_EQ(result, 0, "one can attach again");
    }
    note("%u of them were armed; the guest counted to %llu and %llu", armed,
         (unsigned long long)guest.count(0), (unsigned long long)guest.count(1));
    guest.stop();
    guest.check_undamaged("at the end");
    SM_CHECK(guest.restored());
}

/// The owner goes while both vCPUs spin in the shadow view. Hooks go back at once, the rest when
/// they are out.
void test_inside(Ending ending, const char* what) {
    note("%s", what);
    Guest guest;
    Gpa site = guest_text_gpa(guest_hook_site);
    uint16_t site_before = guest.vm.at<uint16_t>(site);
    Child owner("own", guest.owner_args(ending));
    owner.channel().receive(is_armed);
    guest.start();
    owner.channel().receive(is_ready_to_close);
    if (ending == close_inside) {
        owner.channel().send({0});
        owner.channel().receive(is_closed);
        wait_until("hooks go back while vCPUs are inside", [&] {
            return *const_cast<volatile uint16_t*>(&guest.vm.at<uint16_t>(site)) == site_before;
        });
        // They are inside: what they need to get out must still be there.
        SM_CHECK(!guest.restored());
        SM_CHECK_EQ(Views::try_attach(guest.vm.fd()), -EEXIST, "until then the VM is taken");
        owner.channel().send({0});
    } else if (ending == disable_inside) {
        owner.channel().receive(is_closed);
        SM_CHECK(guest.restored());
        owner.channel().send({0});
    } else {
        owner.channel().send({0});
    }
    owner.must_exit();
    guest.wait_restored("the guest is as it was");
    guest.check_running(what);
    guest.stop();
}

/// The VMM has paused a vCPU that is inside: close must not wait for it, and all ends well when it
/// runs again, or when the VM goes without that.
void test_paused_inside(bool run_again) {
    note("vCPU paused inside, %s", run_again ? "runs again" : "VM goes");
    auto guest = std::make_unique<Guest>();
    Vcpu& paused = guest->vm.vcpu(0);
    {
        Views views = Views::attach(guest->vm.fd());
        Compartment compartment(views);
        compartment.enable();
        SM_CHECK_EQ(arm(views, compartment, gate_int20_spin), 0, "the guest can be armed");
        guest->start();
        wait_until("both vCPUs are inside", [&] { return compartment.data().inside >= 2; });
        paused.stop();
        SM_CHECK(paused.wait().end == Outcome::End::stopped);
        SM_CHECK_EQ(views.vcpu(0).view, KVM_VIEWS_SHADOW, "it was paused in the shadow view");
        compartment.data().release = 1;
        uint64_t before = monotonic_ms();
        views.close();
        note("close took %llu ms", (unsigned long long)(monotonic_ms() - before));
    }
    SM_CHECK(!guest->restored());
    uint64_t count = guest->count(1);
    wait_until("the other vCPU counts on", [&] { return guest->count(1) > count + 100; });
    if (run_again) {
        paused.resume_thread();
        guest->wait_restored("the guest is as it was");
        guest->check_running("after the paused vCPU ran again");
        guest->stop();
    } else {
        guest->vm.vcpu(1).stop();
        SM_CHECK(guest->vm.vcpu(1).wait().end == Outcome::End::stopped);
        guest.reset();
    }
}

/// DISABLE that waits for a paused vCPU can be interrupted by a signal.
void test_disable_is_interruptible() {
    Guest guest;
    Views views = Views::attach(guest.vm.fd());
    Compartment compartment(views);
    compartment.enable();
    SM_CHECK_EQ(arm(views, compartment, gate_int20_spin), 0, "the guest can be armed");
    guest.start();
    wait_until("both vCPUs are inside", [&] { return compartment.data().inside >= 2; });
    for (unsigned i = 0; i < 2; i++) {
        guest.vm.vcpu(i).stop();
        SM_CHECK(guest.vm.vcpu(i).wait().end == Outcome::End::stopped);
    }
    pthread_t self = pthread_self();
    std::atomic<bool> done = false;
    std::thread signaller([&] {
        wait_until("DISABLE drains",
                   [&] { return views.info().state == KVM_VIEWS_STATE_DRAINING; });
        uint64_t start = monotonic_ms();
        while (!done) {
            pthread_kill(self, SIGUSR1);
            wait_step("a signal ends DISABLE", start);
        }
    });
    int result = views.disable();
    done = true;
    signaller.join();
    SM_CHECK_EQ(result, -EINTR, "a signal ends DISABLE");
    compartment.data().release = 1;
    for (unsigned i = 0; i < 2; i++)
        guest.vm.vcpu(i).resume_thread();
    // It can be asked again, and then finishes.
    do {
        result = views.disable();
    } while (result == -EINTR);
    SM_CHECK_EQ(result, 0, "DISABLE can be asked again");
    SM_CHECK(guest.restored());
    guest.check_running("after an interrupted DISABLE");
    guest.stop();
}
} // namespace

void test_main() {
    require_hardware();
    set_time_limit(1200);
    test_inside(close_inside, "closed while inside");
    test_inside(disable_inside, "DISABLE while inside");
    test_inside(leave_inside, "owner ends while inside");
    test_paused_inside(true);
    test_paused_inside(false);
    test_disable_is_interruptible();
    test_killed_at_random();
}

} // namespace shadowmon::kvmtest
