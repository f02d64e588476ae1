// SPDX-License-Identifier: GPL-2.0-or-later
// Attaching to stock guests, with the kernel side played over their memory: what is
// patched is right for that kernel, in one batch and in order; what must be refused
// is, with a sentence of its own and nothing changed. SM_GUEST_IMAGE names the guest.
#include "tests/unit/session/fake_vm.h"

#include "src/compartment/compartment.h"
#include "src/compartment/page_tables.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace shadowmon::test {
namespace {

class Arm : public testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        if (GuestImage::folder().empty())
            GTEST_SKIP() << "SM_GUEST_IMAGE is not set";
        vm_.emplace(GuestImage::folder(), GetParam());
        options_.monitors = {true, true};
        options_.ring_size = 0x10000;
    }
    Result<std::unique_ptr<MonitorSession>> arm() {
        return MonitorSession::arm(vm_->views(), options_, [](const std::string&) {});
    }
    std::string refusal() {
        auto session = arm();
        EXPECT_TRUE(vm_->batches.empty());
        return session ? "armed" : session.error().message();
    }
    void write64(Gpa gpa, uint64_t value) {
        vm_->memory.write(gpa, std::as_bytes(std::span(&value, 1)));
    }
    KernelInfo kernel() {
        auto views = vm_->views();
        auto cpus = survey_cpus(*views);
        EXPECT_TRUE(cpus);
        auto kernel = survey_kernel(*cpus, vm_->memory);
        EXPECT_TRUE(kernel) << kernel.error().message();
        return std::move(*kernel);
    }

    std::optional<FakeVm> vm_;
    Options options_;
};

#define EXPECT_SAYS(text) EXPECT_NE(refusal().find(text), std::string::npos) << refusal()

TEST_P(Arm, PatchesOneBatchInOrder) {
    KernelInfo info = kernel();
    uint64_t chain_before;
    ASSERT_TRUE(vm_->memory.read(info.idt_gpa + 20 * 16,
                                 std::as_writable_bytes(std::span(&chain_before, 1))));
    auto session = arm();
    ASSERT_TRUE(session) << session.error().message();

    auto at = [&](unsigned long request) {
        return std::find(vm_->requests.begin(), vm_->requests.end(), request);
    };
    EXPECT_LT(at(KVM_VIEWS_SET_REGION), at(KVM_VIEWS_PROTECT));
    EXPECT_LT(at(KVM_VIEWS_PROTECT), at(KVM_VIEWS_ENABLE));
    EXPECT_LT(at(KVM_VIEWS_ENABLE), at(KVM_VIEWS_PATCH));
    ASSERT_EQ(vm_->batches.size(), 1u);
    const auto& batch = vm_->batches[0];
    ASSERT_EQ(batch.size(), 2 + (*session)->hooks().size());
    EXPECT_EQ(batch[0].gpa, info.level3_kernel_gpa.value + 509 * 8);
    EXPECT_EQ(batch[1].gpa, info.idt_gpa.value + 20 * 16);
    EXPECT_EQ(batch[1].len, 16u);
    for (size_t i = 2; i < batch.size(); i++) {
        EXPECT_EQ(batch[i].flags, KVM_VIEWS_PATCH_HOOK | KVM_VIEWS_PATCH_HIDE);
        // The whole instruction, whose end stays as it is.
        EXPECT_GE(batch[i].len, 2u);
        for (uint32_t byte = 2; byte < batch[i].len; byte++)
            EXPECT_EQ(batch[i].bytes[byte], batch[i].expect[byte]);
        EXPECT_EQ(batch[i].bytes[0], 0xcd);
        EXPECT_EQ(batch[i].bytes[1], 0x14);
    }
    // The region is above RAM and within what the guest takes for a physical address.
    EXPECT_GE(vm_->region.gpa, vm_->memory.file_size());
    EXPECT_LT(vm_->region.gpa + vm_->region.pages * 4096ull, uint64_t{1} << 46);

    // Both kernels have do_syscall_64, int80, fast 32-bit, exit and switch.
    EXPECT_EQ((*session)->hooks().size(), 5u);
    for (const HookStatus& hook : (*session)->hooks().list()) {
        auto symbol = info.symbols.find_by_address(Gva(hook.address));
        ASSERT_TRUE(symbol);
        EXPECT_EQ(symbol->name, hook.name);
        EXPECT_LT(hook.address - symbol->value, 64u);
    }
    vm_->stats.exits = 7;
    EXPECT_EQ((*session)->stats()->exits, 7u);
}

TEST_P(Arm, GuestReachesTheGate) {
    KernelInfo info = kernel();
    auto session = arm();
    ASSERT_TRUE(session) << session.error().message();
    // As the CPU would: through the guest's own tables into the region.
    class WithRegion final : public PhysicalMemory {
      public:
        WithRegion(FakeVm& vm, RegionMapping region) : vm_(vm), region_(std::move(region)) {
            ram_ = vm.memory.ram();
            ram_.push_back({Gpa(vm.region.gpa), region_.bytes().size()});
        }
        Status read(Gpa gpa, std::span<std::byte> out) const override {
            if (gpa.value < vm_.region.gpa)
                return vm_.memory.read(gpa, out);
            auto from = region_.bytes().subspan(gpa.value - vm_.region.gpa, out.size());
            std::copy(from.begin(), from.end(), out.begin());
            return {};
        }
        const std::vector<RamRange>& ram() const override { return ram_; }

      private:
        FakeVm& vm_;
        RegionMapping region_;
        std::vector<RamRange> ram_;
    };
    auto region = (*session)->views().map_region(vm_->region.pages);
    ASSERT_TRUE(region);
    WithRegion memory(*vm_, std::move(*region));
    VirtualMemory virt(info.image.tables(memory));
    auto entry = virt.read_value<IdtEntry>(Gva(vm_->vcpus[0].idt_base) + 20 * 16);
    ASSERT_TRUE(entry) << entry.error().message();
    EXPECT_TRUE(entry->present());
    EXPECT_TRUE(in_compartment(entry->handler()));
    auto gate = virt.tables().walk(entry->handler());
    ASSERT_TRUE(gate) << gate.error().message();
    EXPECT_TRUE(gate->rights.executable);
    EXPECT_FALSE(gate->rights.writable);

    // Every hook's frame is found in the table and leads to code that ends behind the hook.
    auto config = virt.read_value<sm_config>(Gva(SM_COMPARTMENT_GVA + SM_CONFIG_OFFSET));
    ASSERT_TRUE(config);
    EXPECT_EQ(config->task_size, info.task_size);
    EXPECT_EQ(config->direct_map, info.image.direct_map.value);
    EXPECT_EQ(config->la57, info.image.levels == 5);
    ASSERT_GT(config->nr_windows, 1u);
    // Tasks are in the first window, the largest part of the direct map.
    EXPECT_GE(config->windows[0].start, config->direct_map);
    EXPECT_LT(config->windows[0].start, config->direct_map + vm_->memory.file_size());
    for (uint32_t i = 1; i < config->nr_windows; i++)
        EXPECT_LE(config->windows[i].size, config->windows[0].size);
    for (uint32_t id : (*session)->hooks().all()) {
        const Displaced& displaced = (*session)->hooks().request(id).displaced;
        uint64_t rip = displaced.address().value + 2;
        uint64_t index = sm_hook_index(rip, config->hook_mask);
        auto found = virt.read_value<sm_hook>(Gva(SM_COMPARTMENT_GVA + SM_HOOKS_OFFSET) +
                                              index * sizeof(sm_hook));
        ASSERT_TRUE(found);
        EXPECT_EQ(found->rip, rip) << "or displaced by a collision";
        std::array<std::byte, 32> code;
        ASSERT_TRUE(virt.read(Gva(found->resume_if0), code));
        auto moved = Instruction::decode(Gva(found->resume_if0), code);
        ASSERT_TRUE(moved);
        auto back = Instruction::decode(moved->end(), std::span(code).subspan(moved->length()));
        ASSERT_TRUE(back);
        EXPECT_EQ(back->branch_target(), displaced.end());
    }
}

TEST_P(Arm, RevertPutsBackTheGuestsBytes) {
    auto session = arm();
    ASSERT_TRUE(session);
    ASSERT_TRUE((*session)->revert_hooks());
    for (uint32_t id : (*session)->hooks().all()) {
        const HookRequest& hook = (*session)->hooks().request(id);
        std::vector<std::byte> now(hook.displaced.bytes.size());
        ASSERT_TRUE(vm_->memory.read(hook.gpa, now));
        EXPECT_EQ(now, hook.displaced.bytes);
    }
    EXPECT_TRUE((*session)->detach());
}

TEST_P(Arm, OnlyTheMonitorsAsked) {
    options_.monitors = {false, true};
    auto session = arm();
    ASSERT_TRUE(session);
    ASSERT_EQ((*session)->hooks().size(), 1u);
    EXPECT_EQ((*session)->hooks().list()[0].name, "__switch_to");
}

TEST_P(Arm, RefusesUnfitVms) {
    auto good = vm_->vcpus;
    vm_->vcpus[1].flags = 0;
    EXPECT_SAYS("no RDTSCP");
    vm_->vcpus[1].flags = KVM_VIEWS_VCPU_RDTSCP | KVM_VIEWS_VCPU_VMXON;
    EXPECT_SAYS("nested virtualization");
    vm_->vcpus[0].flags = vm_->vcpus[1].flags = KVM_VIEWS_VCPU_NEVER_RAN;
    EXPECT_SAYS("no vCPU of the VM has started");
    vm_->vcpus.assign(65, good[0]);
    EXPECT_SAYS("65 vCPUs");
    vm_->vcpus = good;
    vm_->vcpus[1].idt_base = 0xffffffff12345000;
    EXPECT_SAYS("does not use the kernel's IDT");
}

TEST_P(Arm, RefusesGuestsThatAreNoRunningLinux) {
    for (auto& vcpu : vm_->vcpus) {
        vcpu.cr0 &= ~uint64_t{0x80000001};
        vcpu.efer = 0;
    }
    std::string text = refusal();
    EXPECT_NE(text, "armed");
    EXPECT_NE(text.find("firmware"), std::string::npos) << text;
    for (auto& vcpu : vm_->vcpus) {
        vcpu.cr0 |= 0x80000001;
        vcpu.lstar = 0;
    }
    text = refusal();
    EXPECT_NE(text.find("32-bit"), std::string::npos) << text;
}

TEST_P(Arm, RefusesLeftovers) {
    KernelInfo info = kernel();
    write64(info.level3_kernel_gpa + 509 * 8, 0x123456067);
    EXPECT_SAYS("page-table entry");
    vm_->memory.restore();
    IdtEntry entry = IdtEntry::interrupt_gate(Gva(SM_COMPARTMENT_GVA + 0x1040), 0x10);
    vm_->memory.write(info.idt_gpa + 20 * 16, std::as_bytes(std::span(&entry, 1)));
    EXPECT_SAYS("interrupt vector 20");
    vm_->memory.restore();
    auto symbol = info.symbols.address("do_syscall_64");
    ASSERT_TRUE(symbol);
    const std::array<std::byte, 8> hooked{std::byte{0xf3}, std::byte{0x0f}, std::byte{0x1e},
                                          std::byte{0xfa}, std::byte{0xcd}, std::byte{0x14}};
    vm_->memory.write(*info.to_gpa(*symbol), hooked);
    EXPECT_SAYS("carries a hook at");
}

TEST_P(Arm, TakesTheRangeThatTheGuestOffers) {
    const Gpa entry = kernel().level3_kernel_gpa + 509 * 8;
    const uint64_t reservation = 0x2a34000 | SM_RESERVATION_BITS;
    vm_->offer = {SM_OFFER_VERSION, 0, SM_COMPARTMENT_GVA, SM_COMPARTMENT_SIZE, entry.value, {}};
    options_.placement = Placement::guest;
    EXPECT_SAYS("has not reserved it");
    write64(entry, 0x123456067);
    EXPECT_SAYS("is in use");
    write64(entry, reservation);
    for (Placement placement : {Placement::guest, Placement::automatic}) {
        options_.placement = placement;
        auto session = arm();
        ASSERT_TRUE(session) << session.error().message();
        const kvm_views_patch& patch = vm_->batches.back()[0];
        EXPECT_EQ(patch.gpa, entry.value);
        uint64_t expect, bytes;
        std::memcpy(&expect, patch.expect, sizeof(expect));
        std::memcpy(&bytes, patch.bytes, sizeof(bytes));
        EXPECT_EQ(expect, reservation);
        EXPECT_EQ(bytes, pud_entry(Gpa(vm_->region.gpa)));
        vm_->memory.restore();
        vm_->batches.clear();
        write64(entry, reservation);
    }
    options_.placement = Placement::host;
    EXPECT_SAYS("is reserved by a module in the guest");
    write64(entry, 0);
    EXPECT_TRUE(arm());
}

TEST_P(Arm, BelievesNoOfferThatTheWalkDoesNotBear) {
    const Gpa entry = kernel().level3_kernel_gpa + 509 * 8;
    options_.placement = Placement::guest;
    EXPECT_SAYS("the guest offers no address range");
    vm_->offer = {SM_OFFER_VERSION, 0, SM_COMPARTMENT_GVA, SM_COMPARTMENT_SIZE,
                  entry.value - 8,  {}};
    // A reservation at both places.
    write64(entry, 0x2a34000 | SM_RESERVATION_BITS);
    write64(entry - 8, 0x2a34000 | SM_RESERVATION_BITS);
    EXPECT_SAYS("not to be believed");
    // Whoever does not ask for an offer takes the reservation for what it is: nothing to the CPU.
    options_.placement = Placement::automatic;
    auto session = arm();
    ASSERT_TRUE(session) << session.error().message();
    EXPECT_EQ(vm_->batches.back()[0].gpa, entry.value);
}

TEST_P(Arm, ChainsToTheGuestsOwnHandler) {
    KernelInfo info = kernel();
    auto handler = info.symbols.address("asm_exc_page_fault");
    ASSERT_TRUE(handler);
    IdtEntry entry = IdtEntry::interrupt_gate(*handler, 0x10);
    vm_->memory.write(info.idt_gpa + 20 * 16, std::as_bytes(std::span(&entry, 1)));
    auto session = arm();
    ASSERT_TRUE(session) << session.error().message();
    auto region = (*session)->views().map_region(vm_->region.pages);
    ASSERT_TRUE(region);
    bool found = false;
    auto bytes = region->bytes();
    for (size_t i = 0; i + sizeof(uint64_t) <= bytes.size(); i += sizeof(uint64_t)) {
        uint64_t magic;
        std::memcpy(&magic, bytes.data() + i, sizeof(magic));
        if (magic != SM_CONFIG_MAGIC)
            continue;
        sm_config config;
        std::memcpy(&config, bytes.data() + i, sizeof(config));
        EXPECT_EQ(config.idt20_handler, handler->value);
        found = true;
        break;
    }
    EXPECT_TRUE(found);
}

TEST_P(Arm, EveryFailingStepIsNamed) {
    for (unsigned long request :
         {KVM_VIEWS_GET_INFO, KVM_VIEWS_GET_SLOTS, KVM_VIEWS_READ_MEM, KVM_VIEWS_GET_VCPU,
          KVM_VIEWS_SET_REGION, KVM_VIEWS_PROTECT, KVM_VIEWS_ENABLE, KVM_VIEWS_PATCH,
          KVM_VIEWS_GET_STATS, KVM_VIEWS_GET_OFFER}) {
        vm_->fail_with = {{request, EIO}};
        auto session = arm();
        ASSERT_FALSE(session) << request;
        EXPECT_FALSE(session.error().message().empty());
        EXPECT_TRUE(vm_->batches.empty());
    }
    vm_->fail_with = {{KVM_VIEWS_PATCH, ESTALE}};
    EXPECT_SAYS("has changed them since");
}

INSTANTIATE_TEST_SUITE_P(Snapshots, Arm, testing::Values("idle", "user"),
                         [](const auto& info) { return std::string(info.param); });

} // namespace
} // namespace shadowmon::test
