// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves that what a CALL led to stays until nobody can return there. An interrupt of the guest
/// has come on the first instruction of a page of the region, and its handler runs in kernel mode,
/// RIP far away. The hook's bytes go back at once, but the end of the views, and QUIESCE, wait
/// until the vCPU has been in user mode, halted or reset, so the interrupt returns to a page that
/// is still there. Hooks that are no CALLs are waited for by RIP alone, as ever. What is known of a
/// vCPU that is not in KVM_RUN counts: user mode lets it end, kernel mode does not.
#include "tests/kvm/lib/test.h"

#include <cerrno>
#include <cstring>
#include <sys/ioctl.h>

namespace shadowmon::kvmtest {

namespace {
constexpr unsigned ud_vector = 6, page_fault_vector = 14;
constexpr uint64_t secret_value = 0x5ec7e7; // what region_secret returns
constexpr uint32_t hook_flags = KVM_VIEWS_PATCH_HOOK;
constexpr uint32_t call_flags = KVM_VIEWS_PATCH_HOOK | KVM_VIEWS_PATCH_CALL;
constexpr uint64_t long_time = 500; // ms; many times what an end takes that waits for nobody
constexpr Gpa control_gpa{TG_DATA_GPA};
constexpr Gpa pud_entry_gpa{TG_PDPT_HIGH_GPA + TG_REGION_PUD_INDEX * 8};

using Five = std::array<uint8_t, 5>;
constexpr Five call_bytes{0xe8, 0, 0, 0, 0};

/// A VM with the region in its page tables and a hook of five bytes, both by PATCH.
class Scene {
  public:
    Vm vm;
    Views views;

    Scene(uint32_t flags, VmOptions options = {})
        : vm(options), views(Views::attach(vm.fd())), compartment_(views) {
        memcpy(old_.data(), vm.ram(site(), 5), 5);
        compartment_.enable();
        uint64_t pud = compartment_.build_tables();
        std::array<uint8_t, 8> old_pud{}, new_pud;
        memcpy(new_pud.data(), &pud, 8);
        kvm_views_patch patches[] = {make_patch(pud_entry_gpa, old_pud, new_pud),
                                     make_patch(site(), old_, call_bytes, flags)};
        SM_CHECK_EQ(views.patch(patches), 0, "the guest can be armed");
    }

    static Gpa site() { return guest_text_gpa(guest_patch_site); }
    bool region_mapped() const {
        return *const_cast<volatile uint64_t*>(&vm.at<uint64_t>(pud_entry_gpa)) != 0;
    }
    bool hook_gone() const { return !memcmp(vm.ram(site(), 5), old_.data(), 5); }
    /// Takes the hook out; returns how many vCPUs there are to wait for.
    uint32_t revert(uint32_t flags) {
        kvm_views_patch patch =
            make_patch(site(), call_bytes, old_, flags | KVM_VIEWS_PATCH_REVERT);
        uint32_t inside = ~0u;
        SM_CHECK_EQ(views.patch({&patch, 1}, nullptr, nullptr, &inside), 0, "REVERT works");
        return inside;
    }
    void patch_again(uint32_t flags) {
        kvm_views_patch patch = make_patch(site(), old_, call_bytes, flags);
        SM_CHECK_EQ(views.patch({&patch, 1}), 0, "PATCH works");
    }

    LoopControl& control() { return vm.at<LoopControl>(control_gpa); }
    uint64_t count() { return *const_cast<volatile uint64_t*>(&control().count); }
    /// The interrupt that is to return to the region runs from now on.
    void start_interrupt(unsigned vcpu = 0) {
        control() = {};
        vm.vcpu(vcpu).start(guest_function(guest_return_later), control_gpa,
                            region_gva(TG_PAGE_XONLY));
        wait_until("the guest is in its interrupt", [&] { return count() > 0; });
    }
    Outcome end_interrupt(unsigned vcpu = 0) {
        release();
        return vm.vcpu(vcpu).wait();
    }
    void start_user(unsigned vcpu = 0) {
        control() = {};
        vm.vcpu(vcpu).start(guest_function(guest_user_count), control_gpa);
        wait_until("the guest is in user mode", [&] { return count() > 0; });
    }
    void end_user(unsigned vcpu = 0) {
        release();
        vm.vcpu(vcpu).wait().must_raise(ud_vector);
    }
    void pause(unsigned vcpu = 0) {
        vm.vcpu(vcpu).stop();
        SM_CHECK(vm.vcpu(vcpu).wait().end == Outcome::End::stopped);
    }

    void must_stay_mapped(const char* why) {
        uint64_t start = monotonic_ms();
        while (monotonic_ms() - start < long_time) {
            if (!region_mapped())
                SM_FAIL("the region has gone, though %s", why);
            wait_step(why, start);
        }
        SM_CHECK_EQ(Views::try_attach(vm.fd()), -EEXIST, "until the end the VM is taken");
    }
    void wait_gone(const char* when) {
        wait_until(when, [&] { return !region_mapped(); });
        SM_CHECK(hook_gone());
        uint64_t start = monotonic_ms();
        int result;
        while ((result = Views::try_attach(vm.fd())) == -EEXIST)
            wait_step("the views are gone", start);
        SM_CHECK_EQ(result, 0, "one can attach again");
    }

  private:
    void release() { *const_cast<volatile uint64_t*>(&control().stop) = 1; }

    Compartment compartment_;
    Five old_;
};

/// Without CALLs RIP is all that counts: the guest has no such frames then, and if it makes one
/// itself, it is its own fault.
void test_without_calls() {
    note("no CALL");
    Scene scene(hook_flags);
    scene.start_interrupt();
    scene.views.close();
    scene.wait_gone("nobody is waited for");
    scene.end_interrupt().must_raise(page_fault_vector);
}

void test_close(bool user) {
    note("closed in an interrupt, then %s", user ? "user mode" : "HLT");
    Scene scene(call_flags);
    scene.start_interrupt();
    scene.views.close();
    wait_until("the hook goes at once", [&] { return scene.hook_gone(); });
    scene.must_stay_mapped("an interrupt is to return there");
    uint64_t count = scene.count();
    wait_until("the guest runs on meanwhile", [&] { return scene.count() > count; });
    SM_CHECK_EQ(scene.end_interrupt().must_return(), secret_value,
                "the interrupt returns to the page");
    scene.must_stay_mapped("the vCPU was last seen in kernel mode");
    if (user) {
        scene.start_user();
        scene.wait_gone("the vCPU is in user mode");
        scene.end_user();
    } else {
        SM_CHECK(scene.vm.vcpu(0).call(guest_function(guest_halt)).end == Outcome::End::halted);
        scene.wait_gone("the vCPU has executed HLT");
    }
}

/// Nobody has to run for the end: halted within KVM_RUN, waiting for a start-up IPI, never run.
void test_idle() {
    note("idle");
    Scene scene(call_flags, {.vcpus = 3, .irqchip = true});
    for (unsigned i = 0; i < 2; i++)
        scene.vm.vcpu(i).call(guest_function(guest_return_value)).must_return();
    kvm_mp_state uninitialized{KVM_MP_STATE_UNINITIALIZED};
    SM_CHECK_SYS(ioctl(scene.vm.vcpu(1).fd(), KVM_SET_MP_STATE, &uninitialized));
    scene.vm.vcpu(0).start(guest_function(guest_halt));
    wait_until("the vCPU is halted",
               [&] { return scene.views.vcpu(0).rip == guest_function(guest_halt).value + 2; });
    scene.views.close();
    scene.wait_gone("all vCPUs are idle");
    SM_CHECK(!scene.vm.vcpu(0).finished());
    scene.vm.send_message(0, Vm::Delivery::nmi);
    scene.vm.vcpu(0).wait().must_return();
}

/// The vCPU halts while it is looked for: no exit tells the work item.
void test_halts_later() {
    note("halts later");
    Scene scene(call_flags, {.vcpus = 1, .irqchip = true});
    scene.start_interrupt();
    scene.views.close();
    scene.must_stay_mapped("an interrupt is to return there");
    SM_CHECK_EQ(scene.end_interrupt().must_return(), secret_value,
                "the interrupt returns to the page");
    scene.vm.vcpu(0).start(guest_function(guest_halt));
    scene.wait_gone("the vCPU is halted");
    SM_CHECK(!scene.vm.vcpu(0).finished());
    scene.vm.send_message(0, Vm::Delivery::nmi);
    scene.vm.vcpu(0).wait().must_return();
}

void test_paused() {
    note("paused in user mode");
    {
        Scene scene(call_flags);
        scene.start_user();
        scene.pause();
        scene.views.close();
        scene.wait_gone("the paused vCPU is in user mode");
        scene.vm.vcpu(0).resume_thread();
        scene.end_user();
    }
    note("paused in kernel mode");
    Scene scene(call_flags);
    scene.start_interrupt();
    scene.pause();
    uint64_t before = monotonic_ms();
    scene.views.close();
    note("close took %llu ms", (unsigned long long)(monotonic_ms() - before));
    scene.must_stay_mapped("a paused vCPU is in an interrupt that is to return there");
    scene.vm.vcpu(0).resume_thread();
    SM_CHECK_EQ(scene.end_interrupt().must_return(), secret_value,
                "the interrupt returns to the page");
    scene.start_user();
    scene.wait_gone("the vCPU is in user mode");
    scene.end_user();
}

void test_quiesce() {
    note("QUIESCE");
    Scene scene(call_flags);
    scene.start_interrupt();
    SM_CHECK_EQ(scene.views.quiesce(), 0, "while the CALL is there, there is nothing to wait for");
    SM_CHECK_EQ(scene.revert(call_flags), 1, "the vCPU may return to the compartment");
    SM_CHECK_EQ(scene.views.quiesce(), -EAGAIN, "QUIESCE does not wait for ever");
    // A hook that comes and goes meanwhile does not end the waiting for the one before.
    scene.patch_again(hook_flags);
    SM_CHECK_EQ(scene.revert(hook_flags), 1, "the vCPU still may return");
    SM_CHECK_EQ(scene.views.quiesce(), -EAGAIN, "it is still in the interrupt");
    SM_CHECK_EQ(scene.end_interrupt().must_return(), secret_value,
                "the interrupt returns to the page");
    scene.start_user();
    SM_CHECK_EQ(scene.views.quiesce(), 0, "in user mode it does not return any more");
    // In user mode all the time.
    scene.patch_again(call_flags);
    scene.revert(call_flags);
    SM_CHECK_EQ(scene.views.quiesce(), 0, "it is in user mode already");
    // One patch in place of another, and one that the guest overwrites, are gone as well.
    scene.end_user();
    scene.start_interrupt();
    scene.patch_again(hook_flags);
    SM_CHECK_EQ(scene.revert(hook_flags), 0, "an INT is waited for by RIP alone");
    scene.patch_again(call_flags);
    kvm_views_patch other = make_patch(Scene::site(), call_bytes, call_bytes, hook_flags);
    uint32_t inside = 0;
    SM_CHECK_EQ(scene.views.patch({&other, 1}, nullptr, nullptr, &inside), 0, "PATCH works");
    SM_CHECK_EQ(inside, 1, "a CALL that was replaced is gone");
    SM_CHECK_EQ(scene.views.quiesce(), -EAGAIN, "the vCPU is in the interrupt");
    SM_CHECK_EQ(scene.end_interrupt().must_return(), secret_value,
                "the interrupt returns to the page");
    SM_CHECK(scene.vm.vcpu(0).call(guest_function(guest_halt)).end == Outcome::End::halted);
    SM_CHECK_EQ(scene.views.quiesce(), 0, "it was halted");
    scene.revert(hook_flags);
    scene.patch_again(call_flags | KVM_VIEWS_PATCH_HIDE);
    scene.vm.vcpu(0)
        .call(guest_function(guest_write8), Gva{Scene::site().value}, 0x9090909090909090)
        .must_return();
    SM_CHECK_EQ(scene.views.stats().overwritten, 1, "the guest has overwritten the CALL");
    SM_CHECK_EQ(scene.views.quiesce(), -EAGAIN, "the vCPU did that in kernel mode");
    SM_CHECK(scene.vm.vcpu(0).call(guest_function(guest_halt)).end == Outcome::End::halted);
    SM_CHECK_EQ(scene.views.quiesce(), 0, "it was halted");
    SM_CHECK_EQ(scene.views.disable(), 0, "DISABLE works");
}

void test_flags() {
    Scene scene(hook_flags);
    kvm_views_patch patch =
        make_patch(control_gpa, std::array<uint8_t, 5>{}, call_bytes, KVM_VIEWS_PATCH_CALL);
    SM_CHECK_EQ(scene.views.patch({&patch, 1}), -EINVAL, "CALL goes with HOOK");
}
} // namespace

void test_main() {
    require_hardware();
    test_flags();
    test_without_calls();
    test_close(true);
    test_close(false);
    test_idle();
    test_halts_later();
    test_paused();
    test_quiesce();
}

} // namespace shadowmon::kvmtest
