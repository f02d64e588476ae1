// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves what a guest meets that reads and writes its own text where hooks are hidden: every kind
/// of read gives the original bytes; a write beside a hook goes through and leaves the hook; a
/// write that touches a hook meets whole original instructions, is reported with EVENT_OVERWRITTEN,
/// and vCPUs that execute the place never run a mixture; what KVM's emulator cannot do neither
/// stops nor kills the guest; afterwards all bytes are the guest's own and nothing counts as a
/// conflict.
#include "tests/kvm/lib/test.h"

#include <cerrno>
#include <cstring>

namespace shadowmon::kvmtest {

namespace {
constexpr unsigned gate_vector = 20;
constexpr uint32_t hide_flags = KVM_VIEWS_PATCH_HOOK | KVM_VIEWS_PATCH_HIDE;
constexpr uint8_t int20_bytes[] = {0xcd, 0x14};
constexpr Gpa page_gpa{TG_DATA_GPA + 0x7000};
constexpr Gpa scratch_gpa{TG_DATA_GPA + 0x1000};
/// At the borders of the page, across a cache line, and two that touch each other.
constexpr uint64_t hook_offsets[] = {0, 0x100, 0x17f, 0x200, 0x202, 0xffe};
constexpr size_t nr_hooks = std::size(hook_offsets);

uint8_t original(uint64_t offset) { return static_cast<uint8_t>(offset * 7 + offset / 256 + 3); }

struct Fixture {
    Vm vm;
    Vcpu& vcpu = vm.vcpu(0);
    Views views = Views::attach(vm.fd());
    Compartment compartment{views};

    explicit Fixture(VmOptions options = {}) : vm(options) {
        for (uint64_t i = 0; i < 3 * page_size; i++)
            vm.at<uint8_t>(page_gpa - page_size + i) = original(i);
        vm.map_region_in_guest(compartment.gpa(), TG_REGION_PAGES);
        compartment.enable();
        vm.set_gate(gate_vector, gate_function(gate_int20));
    }
    /// The guest's own bytes at an offset of the page; negative ones lie in the page before.
    uint64_t own(int64_t offset, unsigned bytes) const {
        uint64_t value = 0;
        for (unsigned i = 0; i < bytes; i++)
            value |= uint64_t{original(page_size + offset + i)} << (8 * i);
        return value;
    }
    kvm_views_patch hook_at(uint64_t offset) const {
        const uint8_t old[] = {original(page_size + offset), original(page_size + offset + 1)};
        return make_patch(page_gpa + offset, old, int20_bytes, hide_flags);
    }
    void hook() {
        std::vector<kvm_views_patch> batch;
        for (uint64_t offset : hook_offsets)
            batch.push_back(hook_at(offset));
        SM_CHECK_EQ(views.patch(batch), 0, "PATCH works");
    }
    bool is_hooked(uint64_t offset) const {
        return !memcmp(vm.ram(page_gpa + offset, 2), int20_bytes, 2);
    }
    uint64_t call(const uint8_t* function, Gpa gpa, uint64_t value = 0, uint64_t more = 0) {
        return vcpu.call(guest_function(function), gpa, value, more).must_return();
    }
    kvm_views_event must_be_overwritten(uint64_t offset, const char* what) {
        kvm_views_event event = views.must_get_event(KVM_VIEWS_EVENT_OVERWRITTEN);
        if (event.gpa != (page_gpa + offset).value)
            SM_FAIL("%s: EVENT_OVERWRITTEN of 0x%llx", what, (unsigned long long)event.gpa);
        SM_CHECK_EQ(event.access, KVM_VIEWS_W, "EVENT_OVERWRITTEN: access");
        SM_CHECK_EQ(event.view, KVM_VIEWS_MAIN, "EVENT_OVERWRITTEN: view");
        return event;
    }
    void check_no_event() {
        if (auto event = views.next_event(0))
            SM_FAIL("an event of type %u at gpa 0x%llx came", event->type,
                    (unsigned long long)event->gpa);
    }
    void drain_events() {
        while (views.next_event(0)) {
        }
    }
};

void test_reads() {
    Fixture f;
    f.hook();
    for (uint64_t hook : hook_offsets)
        SM_CHECK(f.is_hooked(hook));
    for (uint64_t hook : hook_offsets) {
        for (auto at = static_cast<int64_t>(hook) - 17; at < static_cast<int64_t>(hook) + 4; at++) {
            Gpa gpa = page_gpa + at;
            SM_CHECK_EQ(f.call(guest_read1, gpa), f.own(at, 1), "a read of 1 byte");
            SM_CHECK_EQ(f.call(guest_read2, gpa), f.own(at, 2), "a read of 2 bytes");
            SM_CHECK_EQ(f.call(guest_read4, gpa), f.own(at, 4), "a read of 4 bytes");
            SM_CHECK_EQ(f.call(guest_read8, gpa), f.own(at, 8), "a read of 8 bytes");
            f.call(guest_read16, gpa, scratch_gpa.value);
            SM_CHECK_EQ(f.vm.at<uint64_t>(scratch_gpa), f.own(at, 8), "a read of 16 bytes");
            SM_CHECK_EQ(f.vm.at<uint64_t>(scratch_gpa + 8), f.own(at + 8, 8), "a read of 16 bytes");
        }
    }
    // The whole page and what is around it, by both kinds of copies.
    for (const uint8_t* copy : {guest_movs, guest_movsb}) {
        const uint64_t bytes = page_size + 32;
        memset(f.vm.ram(scratch_gpa, bytes), 0, bytes);
        f.call(copy, scratch_gpa, page_gpa.value - 16, copy == guest_movs ? bytes / 8 : bytes);
        for (uint64_t i = 0; i < bytes; i++) {
            if (f.vm.at<uint8_t>(scratch_gpa + i) != f.own(static_cast<int64_t>(i) - 16, 1))
                SM_FAIL("a copied page differs at offset %lld", (long long)i - 16);
        }
    }
    f.check_no_event();
    kvm_views_stats stats = f.views.stats();
    SM_CHECK(stats.hidden_reads > 0);
    SM_CHECK_EQ(stats.hidden_writes + stats.exposed + stats.violations, 0, "reads are but reads");
    // The owner and the shadow view see what is there.
    uint8_t seen[2];
    SM_CHECK_EQ(f.views.read_memory(page_gpa, seen), 0, "READ_MEM works");
    SM_CHECK(!memcmp(seen, int20_bytes, 2));
    SM_CHECK_EQ(f.vcpu.call(gate_function(gate_read), page_gpa).must_return() & 0xffff, 0x14cd,
                "the shadow view reads the hook");

    // Without its hooks the page is a page as any other.
    std::vector<kvm_views_patch> batch;
    for (uint64_t hook : hook_offsets)
        batch.push_back(
            make_patch(page_gpa + hook, int20_bytes, int20_bytes, KVM_VIEWS_PATCH_REVERT));
    SM_CHECK_EQ(f.views.patch(batch), 0, "REVERT works");
    f.call(guest_read8, page_gpa);
    stats = f.views.stats();
    SM_CHECK_EQ(f.call(guest_read8, page_gpa + 0x100), f.own(0x100, 8),
                "the guest reads its bytes");
    SM_CHECK_EQ(f.views.stats().hidden_reads, stats.hidden_reads, "a page without hooks is free");
    // A batch that failed leaves none behind.
    auto wrong = f.hook_at(0x300);
    wrong.expect[0] ^= 1;
    SM_CHECK_EQ(f.views.patch({&wrong, 1}), -ESTALE, "a failed expectation is ESTALE");
    f.call(guest_write8, page_gpa + 0x300, 1);
    SM_CHECK_EQ(f.views.stats().hidden_writes, 0, "a page without hooks is free");
}

struct Write {
    const char* name;
    unsigned bytes;
    void (*run)(Fixture& f, Gpa to);
};
constexpr uint64_t new_value = 0xa1a2a3a4a5a6a7a8;
const Write all_writes[] = {
    {"mov, 1 byte", 1, [](Fixture& f, Gpa to) { f.call(guest_write1, to, new_value); }},
    {"mov, 2 bytes", 2, [](Fixture& f, Gpa to) { f.call(guest_write2, to, new_value); }},
    {"mov, 4 bytes", 4, [](Fixture& f, Gpa to) { f.call(guest_write4, to, new_value); }},
    {"mov, 8 bytes", 8, [](Fixture& f, Gpa to) { f.call(guest_write8, to, new_value); }},
    {"movups", 16,
     [](Fixture& f, Gpa to) {
         f.vm.at<uint64_t>(scratch_gpa) = f.vm.at<uint64_t>(scratch_gpa + 8) = new_value;
         f.call(guest_write16, to, scratch_gpa.value);
     }},
    {"rep stos", 24, [](Fixture& f, Gpa to) { f.call(guest_stos, to, new_value, 3); }},
    {"rep movsb", 5,
     [](Fixture& f, Gpa to) {
         f.vm.at<uint64_t>(scratch_gpa) = new_value;
         f.call(guest_movsb, to, scratch_gpa.value, 5);
     }},
    {"xchg", 8, [](Fixture& f, Gpa to) { f.call(guest_xchg8, to, new_value); }},
    {"lock cmpxchg", 8,
     [](Fixture& f, Gpa to) { f.call(guest_cmpxchg8, to, f.call(guest_read8, to), new_value); }},
    {"sgdt", 10, [](Fixture& f, Gpa to) { f.call(guest_sgdt, to); }},
};

/// What a write leaves where nothing is hidden.
std::vector<uint8_t> written_by(Fixture& f, const Write& write, uint64_t offset_in_line) {
    const Gpa plain = page_gpa + 8 * page_size + offset_in_line;
    memset(f.vm.ram(plain, write.bytes), 0, write.bytes);
    write.run(f, plain);
    return {f.vm.ram(plain, write.bytes), f.vm.ram(plain, write.bytes) + write.bytes};
}

void test_writes_beside() {
    for (const Write& write : all_writes) {
        Fixture f;
        f.hook();
        for (bool behind : {false, true}) {
            uint64_t to = behind ? 0x102 : 0x100 - write.bytes;
            auto expected = written_by(f, write, 0);
            write.run(f, page_gpa + to);
            if (memcmp(f.vm.ram(page_gpa + to, write.bytes), expected.data(), write.bytes) != 0)
                SM_FAIL("%s beside a hook did not write what it should", write.name);
            if (!f.is_hooked(0x100))
                SM_FAIL("%s beside a hook changed the hook", write.name);
            SM_CHECK_EQ(f.call(guest_read2, page_gpa + 0x100), f.own(0x100, 2),
                        "the guest reads its own bytes between what it has written");
        }
        f.check_no_event();
        kvm_views_stats stats = f.views.stats();
        SM_CHECK(stats.hidden_writes >= 2);
        SM_CHECK_EQ(stats.overwritten + stats.exposed, 0, "no hook was touched");
        SM_CHECK_EQ(stats.undo_entries, nr_hooks, "all hooks are there");
        SM_CHECK_EQ(f.views.disable(), 0, "DISABLE works");
        for (uint64_t hook : hook_offsets)
            SM_CHECK(!f.is_hooked(hook));
        SM_CHECK_EQ(f.views.stats().undo_conflicts, 0, "no conflict");
    }
}

void test_writes_over() {
    for (const Write& write : all_writes) {
        Fixture f;
        f.hook();
        // The last byte of the write is the first of the hook, then the other way round.
        struct {
            uint64_t hook;
            int64_t to;
        } places[] = {{0x100, 0x101 - static_cast<int64_t>(write.bytes)}, {0x17f, 0x180}};
        for (const auto& place : places) {
            auto expected = written_by(f, write, 0);
            write.run(f, page_gpa + place.to);
            kvm_views_event event = f.must_be_overwritten(place.hook, write.name);
            SM_CHECK(event.gva <= (page_gpa + place.hook + 1).value &&
                     event.gva + write.bytes > (page_gpa + place.hook).value);
            if (memcmp(f.vm.ram(page_gpa + place.to, write.bytes), expected.data(), write.bytes) !=
                0)
                SM_FAIL("%s over a hook did not write what it should", write.name);
            // What it left of the hook's place is the guest's own byte.
            uint64_t rest =
                place.to > static_cast<int64_t>(place.hook) ? place.hook : place.hook + 1;
            SM_CHECK_EQ(f.vm.at<uint8_t>(page_gpa + rest), f.own(rest, 1),
                        "the rest of the instruction is whole");
        }
        f.check_no_event();
        SM_CHECK_EQ(f.views.stats().overwritten, 2, "what was overwritten is counted");
        SM_CHECK_EQ(f.views.stats().undo_entries, nr_hooks - 2, "the others are there");
        // The owner learns it from REVERT as well.
        auto revert =
            make_patch(page_gpa + 0x100, int20_bytes, int20_bytes, KVM_VIEWS_PATCH_REVERT);
        SM_CHECK_EQ(f.views.patch({&revert, 1}), -ESTALE, "a hook that is gone cannot be reverted");
        std::vector<uint8_t> before(f.vm.ram(page_gpa, page_size),
                                    f.vm.ram(page_gpa, page_size) + page_size);
        for (uint64_t hook : {0ul, 0x200ul, 0x202ul, 0xffeul}) {
            before[hook] = original(page_size + hook);
            before[hook + 1] = original(page_size + hook + 1);
        }
        SM_CHECK_EQ(f.views.disable(), 0, "DISABLE works");
        SM_CHECK(!memcmp(f.vm.ram(page_gpa, page_size), before.data(), page_size));
        SM_CHECK_EQ(f.views.stats().undo_conflicts, 0, "no conflict");
    }
    // One write over two hooks.
    Fixture f;
    f.hook();
    f.call(guest_write4, page_gpa + 0x200, 0x11223344);
    SM_CHECK_EQ(f.must_be_overwritten(0x200, "mov").arg, 0x11223344, "EVENT_OVERWRITTEN: arg");
    kvm_views_event event = f.must_be_overwritten(0x202, "mov");
    SM_CHECK_EQ(event.rip, guest_function(guest_write4).value, "EVENT_OVERWRITTEN: rip");
    SM_CHECK_EQ(event.gva, (page_gpa + 0x200).value, "EVENT_OVERWRITTEN: gva");
    SM_CHECK_EQ(event.cr3, TG_PML4_GPA, "EVENT_OVERWRITTEN: cr3");
    // A breakpoint as a debugger sets it, and the bytes back.
    f.call(guest_write1, page_gpa + 0x100, 0xcc);
    f.must_be_overwritten(0x100, "mov");
    SM_CHECK_EQ(f.call(guest_read2, page_gpa + 0x100), 0xcc | (f.own(0x101, 1) << 8),
                "a breakpoint over a hook is a breakpoint");
    f.call(guest_write1, page_gpa + 0x100, original(page_size + 0x100));
    auto again = f.hook_at(0x100);
    SM_CHECK_EQ(f.views.patch({&again, 1}), 0, "the place can be hooked again");
    SM_CHECK_EQ(f.call(guest_read2, page_gpa + 0x100), f.own(0x100, 2), "and is hidden again");
}

/// Two vCPUs run into the hook while a third one writes over it, byte by byte.
void test_write_under_load() {
    constexpr unsigned round_count = 60;
    Fixture f({.vcpus = 3});
    constexpr Gpa loops_gpa{TG_DATA_GPA + 0x20000};
    LoopControl* loops[2];
    for (unsigned i = 0; i < 2; i++) {
        loops[i] = &f.vm.at<LoopControl>(loops_gpa + i * page_size);
        f.vm.vcpu(i).start(guest_function(guest_hook_loop), loops_gpa + i * page_size);
    }
    const Gpa site = guest_text_gpa(guest_hook_site);
    uint8_t own[8];
    memcpy(own, f.vm.ram(site, 8), 8);
    volatile RegionData& data = f.compartment.data();
    for (unsigned i = 0; i < round_count; i++) {
        auto patch = make_patch(site, std::span(own).first(2), int20_bytes, hide_flags);
        SM_CHECK_EQ(f.views.patch({&patch, 1}), 0, "PATCH works");
        uint64_t events = data.events;
        wait_until("the hook is met", [&] { return data.events > events; });
        // The same bytes that were there: in the middle of a hook they are no instruction.
        Vcpu& writer = f.vm.vcpu(2);
        uint64_t eight;
        memcpy(&eight, own, 8);
        if (i % 3 == 0)
            writer.call(guest_function(guest_write1), site, own[0]).must_return();
        else if (i % 3 == 1)
            writer.call(guest_function(guest_write1), site + 1, own[1]).must_return();
        else
            writer.call(guest_function(guest_xchg8), site, eight).must_return();
        SM_CHECK(!memcmp(f.vm.ram(site, 8), own, 8));
        kvm_views_event event = f.views.must_get_event(KVM_VIEWS_EVENT_OVERWRITTEN);
        SM_CHECK_EQ(event.gpa, site.value, "EVENT_OVERWRITTEN: gpa");
        SM_CHECK_EQ(event.vcpu_id, 2, "EVENT_OVERWRITTEN: vcpu_id");
        SM_CHECK_EQ(f.views.quiesce(), 0, "QUIESCE works");
    }
    for (unsigned i = 0; i < 2; i++) {
        *const_cast<volatile uint64_t*>(&loops[i]->stop) = 1;
        f.vm.vcpu(i).wait().must_return();
        SM_CHECK_EQ(loops[i]->errors, 0, "nobody ran a mixture");
        for (uint64_t n = 0; n < f.vm.context(i).irqs; n++)
            SM_FAIL("vcpu %u took an interrupt", i);
    }
    SM_CHECK_EQ(f.views.stats().undo_entries, 0, "no hook is left");
    SM_CHECK_EQ(f.views.disable(), 0, "DISABLE works");
    SM_CHECK_EQ(f.views.stats().undo_conflicts, 0, "no conflict");
}

/// A vCPU writes to pages beside their hooks while hooks come and go there, and others read them.
void test_writes_while_hooks_change() {
    constexpr uint64_t page_count = 3;
    constexpr unsigned round_count = 150;
    constexpr Gpa control_gpa{TG_DATA_GPA + 0x20000};
    Fixture f({.vcpus = 2});
    for (uint64_t i = 0; i < page_count; i++) {
        f.vm.at<uint64_t>(page_gpa + i * page_size) = i ^ 0x5a5a;
        f.vm.at<uint64_t>(page_gpa + i * page_size + 8) = 0;
    }
    auto& writer = f.vm.at<LoopControl>(control_gpa);
    auto& reader = f.vm.at<LoopControl>(control_gpa + page_size);
    f.vm.vcpu(0).start(guest_function(guest_write_pages), control_gpa, page_gpa, page_count);
    f.vm.vcpu(1).start(guest_function(guest_check_pages), control_gpa + page_size, page_gpa,
                       page_count);
    for (unsigned round = 0; round < round_count; round++) {
        // In what the reader checks, and right behind what the writer writes.
        std::vector<kvm_views_patch> hooks, reverts;
        for (uint64_t i = 0; i < page_count; i++) {
            for (uint64_t offset : {6ul, 16ul}) {
                Gpa gpa = page_gpa + i * page_size + offset;
                uint8_t old[2];
                memcpy(old, f.vm.ram(gpa, 2), 2);
                hooks.push_back(make_patch(gpa, old, int20_bytes, hide_flags));
                reverts.push_back(
                    make_patch(gpa, int20_bytes, int20_bytes, KVM_VIEWS_PATCH_REVERT));
            }
        }
        SM_CHECK_EQ(f.views.patch(hooks), 0, "PATCH works");
        if (round % 4 == 0) {
            uint64_t count = writer.count;
            wait_until("the writer goes on",
                       [&] { return *const_cast<volatile uint64_t*>(&writer.count) > count; });
        }
        SM_CHECK_EQ(f.views.patch(reverts), 0, "REVERT works");
    }
    *const_cast<volatile uint64_t*>(&writer.stop) = 1;
    *const_cast<volatile uint64_t*>(&reader.stop) = 1;
    f.vm.vcpu(0).wait().must_return();
    f.vm.vcpu(1).wait().must_return();
    note("%llu passes of writes, %llu of reads", (unsigned long long)writer.count,
         (unsigned long long)reader.count);
    SM_CHECK_EQ(writer.errors, 0, "no write was lost");
    SM_CHECK_EQ(reader.errors, 0, "no hook was ever read");
    f.check_no_event();
    SM_CHECK_EQ(f.views.stats().undo_conflicts, 0, "no conflict");
}

/// Instructions that KVM's emulator does not know.
void test_not_emulated() {
    Fixture f;
    f.hook();
    // A read happens as it is, and is reported.
    SM_CHECK_EQ(f.call(guest_rorx8, page_gpa + 0x300), f.own(0x300, 8), "a read is let through");
    kvm_views_event event = f.views.must_get_event(KVM_VIEWS_EVENT_VIOLATION);
    SM_CHECK_EQ(event.access, KVM_VIEWS_R, "EVENT_VIOLATION: access");
    SM_CHECK_EQ(event.rip, guest_function(guest_rorx8).value, "EVENT_VIOLATION: rip");
    SM_CHECK_EQ(f.views.stats().exposed, 1, "an exposed page is counted");
    for (uint64_t hook : hook_offsets)
        SM_CHECK(f.is_hooked(hook));
    // Not for long.
    wait_until("the page is hidden again",
               [&] { return f.call(guest_read8, page_gpa + 0x100) == f.own(0x100, 8); });
    f.check_no_event();

    // A write beside the hooks happens as well, after all of them went.
    f.call(guest_movlps8, page_gpa + 0x300, new_value);
    event = f.views.must_get_event(KVM_VIEWS_EVENT_VIOLATION);
    SM_CHECK_EQ(event.access, KVM_VIEWS_W, "EVENT_VIOLATION: access");
    for (uint64_t hook : hook_offsets)
        f.must_be_overwritten(hook, "movlps");
    f.check_no_event();
    SM_CHECK_EQ(f.vm.at<uint64_t>(page_gpa + 0x300), new_value, "a write is let through");
    for (uint64_t hook : hook_offsets)
        SM_CHECK_EQ(f.vm.at<uint8_t>(page_gpa + hook), f.own(hook, 1),
                    "the guest's bytes are back");
    uint64_t writes = f.views.stats().hidden_writes;
    f.call(guest_movlps8, page_gpa + 0x100, new_value);
    SM_CHECK_EQ(f.views.stats().hidden_writes, writes, "a page without hooks is free");
    SM_CHECK_EQ(f.views.disable(), 0, "DISABLE works");
    SM_CHECK_EQ(f.vm.at<uint64_t>(page_gpa + 0x100), new_value, "the guest's bytes stay");
    SM_CHECK_EQ(f.views.stats().undo_conflicts, 0, "no conflict");
}

/// The CPU itself reads and writes such pages: page tables, the IDT, a stack.
void test_cpu_accesses() {
    Fixture f;
    auto hide = [&](uint64_t gpa) {
        uint8_t old[2];
        memcpy(old, f.vm.ram(Gpa{gpa}, 2), 2);
        auto patch = make_patch(Gpa{gpa}, old, int20_bytes, KVM_VIEWS_PATCH_HIDE);
        SM_CHECK_EQ(f.views.patch({&patch, 1}), 0, "PATCH works");
    };
    // Entries that nobody uses.
    hide(TG_PD_LOW_GPA + 0xff8);
    SM_CHECK_EQ(f.call(guest_read8, page_gpa), f.own(0, 8), "a page table may be in such a page");
    hide(TG_IDT_GPA + 200 * 16);
    f.vcpu.call(guest_function(guest_jump), Gva{0x7fff'ffff'0000}).must_raise(14);
    hide(TG_STACK_GPA + TG_STACK_SIZE - page_size + 16);
    f.vcpu.call(guest_function(guest_jump), Gva{0x7fff'ffff'0000}).must_raise(14);
    SM_CHECK_EQ(f.call(guest_read8, page_gpa), f.own(0, 8), "the guest goes on");
    f.drain_events();
    SM_CHECK_EQ(f.views.disable(), 0, "DISABLE works");
    SM_CHECK_EQ(f.views.stats().undo_conflicts, 0, "no conflict");
    SM_CHECK_EQ(f.call(guest_read8, page_gpa), f.own(0, 8), "the guest goes on");
}

/// An override of the same page says what is forbidden, hidden or not.
void test_with_override() {
    Fixture f;
    f.hook();
    SM_CHECK_EQ(
        f.views.protect(page_gpa, 1, KVM_VIEWS_MAIN, KVM_VIEWS_R | KVM_VIEWS_X, KVM_VIEWS_ON_DENY),
        0, "PROTECT works");
    for (uint64_t offset : {0x100ul, 0x300ul}) {
        f.call(guest_write8, page_gpa + offset, new_value);
        SM_CHECK_EQ(f.views.must_get_event(KVM_VIEWS_EVENT_VIOLATION).access, KVM_VIEWS_W,
                    "EVENT_VIOLATION: access");
        SM_CHECK_EQ(f.call(guest_read8, page_gpa + offset), f.own(static_cast<int64_t>(offset), 8),
                    "a denied write changes nothing, a read shows the original");
    }
    f.check_no_event();
    SM_CHECK(f.is_hooked(0x100));
    SM_CHECK_EQ(f.views.clear_protection(page_gpa, 1, KVM_VIEWS_MAIN), 0, "CLEAR works");
    SM_CHECK_EQ(f.call(guest_read8, page_gpa + 0x100), f.own(0x100, 8),
                "the hooks are still hidden");
}
} // namespace

void test_main() {
    require_hardware();
    set_time_limit(240);
    note("reads");
    test_reads();
    note("writes beside");
    test_writes_beside();
    note("writes over");
    test_writes_over();
    note("writes under load");
    test_write_under_load();
    note("writes while hooks change");
    test_writes_while_hooks_change();
    note("not emulated");
    test_not_emulated();
    note("accesses of the CPU");
    test_cpu_accesses();
    note("with an override");
    test_with_override();
}

} // namespace shadowmon::kvmtest
