// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves overrides on guest RAM in the main view: with W, X or all rights taken away an access
/// does what ON_DENY, ON_ALLOW or ON_INJECT says and is reported; writes that KVM's instruction
/// emulator does for the guest do not get around it; the shadow view still reads the page; CLEAR
/// gives the default back; and a large page is split only where overrides are.
#include "tests/kvm/lib/test.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace shadowmon::kvmtest {

namespace {
constexpr unsigned gp_vector = 13;
constexpr Gpa page_gpa{TG_DATA_GPA + 0x7000};
constexpr Gpa target_gpa = page_gpa + 0x40;
constexpr uint64_t old_value = 0x01d01d01d01d01d0, new_value = 0x2e32e32e32e32e32;
/// A guest-physical hole: an access makes KVM emulate the instruction.
constexpr uint64_t hole_gpa = 0x3ff00000;

struct Fixture {
    Vm vm;
    Vcpu& vcpu = vm.vcpu(0);
    Views views = Views::attach(vm.fd());
    Compartment compartment{views};

    explicit Fixture(VmOptions options = {}) : vm(options) {
        vm.map_region_in_guest(compartment.gpa(), TG_REGION_PAGES);
        compartment.enable();
    }
    uint64_t& content() { return vm.at<uint64_t>(target_gpa); }
    void protect(uint8_t rights, uint8_t on) {
        SM_CHECK_EQ(views.protect(page_gpa, 1, KVM_VIEWS_MAIN, rights, on), 0,
                    "PROTECT of RAM works");
        content() = old_value;
        memcpy(vm.ram(page_gpa, 16), vm.ram(guest_text_gpa(guest_return_value), 16), 16);
    }
    void expect_event(uint32_t access, const char* what) {
        kvm_views_event event = views.must_get_event(KVM_VIEWS_EVENT_VIOLATION);
        if (!(event.access & access))
            SM_FAIL("%s: EVENT_VIOLATION has access %u, expected %u", what, event.access, access);
        SM_CHECK_EQ(event.gpa & ~0xfffull, page_gpa.value, "EVENT_VIOLATION: gpa");
        SM_CHECK_EQ(event.view, KVM_VIEWS_MAIN, "EVENT_VIOLATION: view");
        SM_CHECK_EQ(event.vcpu_id, 0, "EVENT_VIOLATION: vcpu_id");
    }
    void drain_events() {
        while (views.next_event(0)) {
        }
    }
};

/// Every way a guest function can write to the target. The last ones go through the emulator.
struct Writer {
    const char* name;
    Outcome (*run)(Vcpu& vcpu);
};
const Writer all_writers[] = {
    {"mov", [](Vcpu& v) { return v.call(guest_function(guest_write8), target_gpa, new_value); }},
    {"xchg", [](Vcpu& v) { return v.call(guest_function(guest_xchg8), target_gpa, new_value); }},
    {"lock cmpxchg",
     [](Vcpu& v) {
         return v.call(guest_function(guest_cmpxchg8), target_gpa, old_value, new_value);
     }},
    {"rep stos",
     [](Vcpu& v) { return v.call(guest_function(guest_stos), target_gpa, new_value, 1); }},
    {"rep movs from a hole",
     [](Vcpu& v) { return v.call(guest_function(guest_movs), target_gpa, hole_gpa, 1); }},
    {"sgdt", [](Vcpu& v) { return v.call(guest_function(guest_sgdt), target_gpa); }},
    {"rep ins", [](Vcpu& v) { return v.call(guest_function(guest_ins), target_gpa, 0x99, 8); }},
};

void test_write_denied() {
    Fixture f;
    for (uint8_t rights : {KVM_VIEWS_R | KVM_VIEWS_X, KVM_VIEWS_R}) {
        for (const Writer& writer : all_writers) {
            f.protect(rights, KVM_VIEWS_ON_DENY);
            writer.run(f.vcpu);
            if (f.content() != old_value)
                SM_FAIL("%s changed a page without W, rights %u", writer.name, rights);
            f.expect_event(KVM_VIEWS_W, writer.name);
            f.drain_events();
            SM_CHECK_EQ(f.vcpu.call(guest_function(guest_read8), target_gpa).must_return(),
                        old_value, "a page without W is read");
            SM_CHECK(!f.views.next_event(0));
        }
        // The plain store completes without an effect: the guest goes on behind it.
        f.vcpu.call(guest_function(guest_write8), target_gpa, new_value).must_return();
        f.drain_events();
    }
    // A store across the page's border: neither half of a denied one is torn into the page.
    f.protect(KVM_VIEWS_R | KVM_VIEWS_X, KVM_VIEWS_ON_DENY);
    f.vm.at<uint64_t>(page_gpa + page_size - 8) = old_value;
    f.vcpu.call(guest_function(guest_write8), page_gpa + page_size - 4, new_value);
    SM_CHECK_EQ(f.vm.at<uint64_t>(page_gpa + page_size - 8), old_value,
                "a store across the border changes nothing in the page");
    f.drain_events();
}

void test_write_allowed() {
    Fixture f;
    for (const Writer& writer : all_writers) {
        f.protect(KVM_VIEWS_R | KVM_VIEWS_X, KVM_VIEWS_ON_ALLOW);
        writer.run(f.vcpu).must_return();
        if (f.content() == old_value)
            SM_FAIL("%s was not let through by ON_ALLOW", writer.name);
        f.expect_event(KVM_VIEWS_W, writer.name);
        f.drain_events();
        // Once means once.
        f.vcpu.call(guest_function(guest_write8), target_gpa, new_value + 1).must_return();
        SM_CHECK_EQ(f.content(), new_value + 1, "the next store is let through too");
        f.expect_event(KVM_VIEWS_W, "the store after one that was allowed");
        f.drain_events();
    }
}

void test_write_injected() {
    Fixture f;
    for (const Writer& writer : all_writers) {
        f.protect(KVM_VIEWS_R | KVM_VIEWS_X, KVM_VIEWS_ON_INJECT);
        Outcome outcome = writer.run(f.vcpu);
        if (outcome.end != Outcome::End::exception || outcome.vector != gp_vector || outcome.error)
            SM_FAIL("%s: expected #GP(0), end %d, vector %llu, error 0x%llx", writer.name,
                    static_cast<int>(outcome.end), (unsigned long long)outcome.vector,
                    (unsigned long long)outcome.error);
        if (f.content() != old_value)
            SM_FAIL("%s changed the page though it got #GP", writer.name);
        f.expect_event(KVM_VIEWS_W, writer.name);
        f.drain_events();
    }
}

void test_fetch() {
    Fixture f;
    for (uint8_t on : {KVM_VIEWS_ON_DENY, KVM_VIEWS_ON_ALLOW, KVM_VIEWS_ON_INJECT}) {
        f.protect(KVM_VIEWS_R | KVM_VIEWS_W, on);
        Outcome outcome = f.vcpu.call(guest_function(guest_jump), Gva{page_gpa.value});
        outcome.must_raise(gp_vector);
        SM_CHECK_EQ(outcome.error, 0, "#GP has error code 0");
        SM_CHECK_EQ(outcome.rip, page_gpa.value, "#GP comes at the first instruction of the page");
        f.expect_event(KVM_VIEWS_X, "a fetch");
        SM_CHECK(!f.views.next_event(0));
        // Reading and writing it is free of charge.
        f.vcpu.call(guest_function(guest_write8), target_gpa, new_value).must_return();
        SM_CHECK_EQ(f.content(), new_value, "a page without X is written");
        SM_CHECK(!f.views.next_event(0));
    }
}

void test_read() {
    Fixture f;
    // Without R (and so without W), but with X.
    f.protect(KVM_VIEWS_X, KVM_VIEWS_ON_DENY);
    SM_CHECK_EQ(f.vcpu.call(guest_function(guest_jump), Gva{page_gpa.value}).must_return(),
                return_value, "a page that is execute-only runs");
    SM_CHECK(!f.views.next_event(0));
    Outcome outcome = f.vcpu.call(guest_function(guest_read8), target_gpa);
    if (outcome.returned() && outcome.value == old_value)
        SM_FAIL("a page without R was read");
    f.expect_event(KVM_VIEWS_R, "a read");
    f.drain_events();
    // Nor does a copy by the emulator read it.
    f.vm.at<uint64_t>(TG_DATA_GPA) = 0;
    f.vcpu.call(guest_function(guest_movs), hole_gpa, target_gpa, 1);
    for (const MmioAccess& access : f.vcpu.mmio())
        SM_CHECK(!access.write || access.data != old_value);
    f.vcpu.clear_mmio();
    f.drain_events();

    f.protect(KVM_VIEWS_X, KVM_VIEWS_ON_INJECT);
    f.vcpu.call(guest_function(guest_read8), target_gpa).must_raise(gp_vector);
    f.expect_event(KVM_VIEWS_R, "a read");
    f.drain_events();

    f.protect(KVM_VIEWS_X, KVM_VIEWS_ON_ALLOW);
    SM_CHECK_EQ(f.vcpu.call(guest_function(guest_read8), target_gpa).must_return(), old_value,
                "ON_ALLOW lets a read through");
    f.expect_event(KVM_VIEWS_R, "a read");
    f.drain_events();

    // No right at all.
    f.protect(0, KVM_VIEWS_ON_DENY);
    f.vcpu.call(guest_function(guest_write8), target_gpa, new_value);
    SM_CHECK_EQ(f.content(), old_value, "a page without any right is not written");
    f.drain_events();
    f.vcpu.call(guest_function(guest_jump), Gva{page_gpa.value}).must_raise(gp_vector);
    f.drain_events();
}

void test_shadow_and_clear() {
    Fixture f;
    for (uint8_t rights : {KVM_VIEWS_R, KVM_VIEWS_X, 0}) {
        f.protect(rights, KVM_VIEWS_ON_INJECT);
        SM_CHECK_EQ(f.vcpu.call(gate_function(gate_read), target_gpa).must_return(), old_value,
                    "the shadow view reads whatever the main view may do");
        SM_CHECK(!f.views.next_event(0));
        // The owner reads it as well.
        uint64_t value = 0;
        SM_CHECK_EQ(f.views.read_memory(target_gpa, {reinterpret_cast<uint8_t*>(&value), 8}), 0,
                    "READ_MEM of a protected page works");
        SM_CHECK_EQ(value, old_value, "READ_MEM reads a protected page");

        SM_CHECK_EQ(f.views.clear_protection(page_gpa, 1, KVM_VIEWS_MAIN), 0, "CLEAR works");
        f.vcpu.call(guest_function(guest_write8), target_gpa, new_value).must_return();
        SM_CHECK_EQ(f.content(), new_value, "after CLEAR the page is written");
        SM_CHECK_EQ(f.vcpu.call(guest_function(guest_jump), Gva{page_gpa.value}).must_return(),
                    return_value, "after CLEAR the page runs");
        SM_CHECK(!f.views.next_event(0));
    }
    // A range; and the pages beside it are untouched.
    SM_CHECK_EQ(f.views.protect(page_gpa, 3, KVM_VIEWS_MAIN, KVM_VIEWS_R, KVM_VIEWS_ON_INJECT), 0,
                "PROTECT of a range works");
    auto write = [&](uint64_t offset) {
        return f.vcpu.call(guest_function(guest_write8), page_gpa + offset, new_value);
    };
    Gpa before = page_gpa - 8;
    f.vcpu.call(guest_function(guest_write8), before, new_value).must_return();
    for (uint64_t page = 0; page < 3; page++)
        write(page * page_size).must_raise(gp_vector);
    write(3 * page_size).must_return();
    SM_CHECK_EQ(f.views.clear_protection(page_gpa + page_size, 1, KVM_VIEWS_MAIN), 0,
                "CLEAR of a part works");
    write(0).must_raise(gp_vector);
    write(page_size).must_return();
    write(2 * page_size).must_raise(gp_vector);
    f.drain_events();
    // DISABLE ends them all.
    SM_CHECK_EQ(f.views.disable(), 0, "DISABLE works");
    write(0).must_return();
    SM_CHECK_EQ(f.vm.at<uint64_t>(page_gpa), new_value, "after DISABLE the page is written");
}

/// RAM in the shadow view is R, whatever happens.
void test_shadow_is_read_only() {
    Fixture f;
    f.content() = old_value;
    SM_CHECK_EQ(f.views.protect(page_gpa, 1, KVM_VIEWS_SHADOW, KVM_VIEWS_R | KVM_VIEWS_W), -EINVAL,
                "RAM gets no override in the shadow view");
    f.vcpu.call(gate_function(gate_write), target_gpa, new_value);
    SM_CHECK_EQ(f.content(), old_value, "the shadow view does not write guest RAM");
    f.drain_events();
    f.vcpu.call(gate_function(gate_round_trips), 3).must_return();
}

uint64_t read_counter(const char* name) {
    char path[128];
    snprintf(path, sizeof path, "/sys/kernel/debug/kvm/%s", name);
    FILE* file = fopen(path, "r");
    if (!file)
        return ~0ull;
    unsigned long long value = ~0ull;
    if (fscanf(file, "%llu", &value) != 1)
        value = ~0ull;
    fclose(file);
    return value;
}

void test_large_pages() {
    if (read_counter("pages_2m") == ~0ull) {
        note("large pages not looked at: no KVM counters in debugfs");
        return;
    }
    Fixture f({.anonymous = true});
    constexpr Gpa large_gpa{0x800000}; // 8 MiB: four large pages from here on
    memset(f.vm.ram(large_gpa, 0x800000), 1, 0x800000);
    auto touch_all = [&] {
        for (uint64_t offset = 0; offset < 0x800000; offset += 0x200000) {
            f.vcpu.call(guest_function(guest_write8), large_gpa + offset, new_value).must_return();
            f.vcpu.call(guest_function(guest_write8), large_gpa + offset + 0x1ff000, new_value)
                .must_return();
        }
    };
    touch_all();
    uint64_t large = read_counter("pages_2m");
    if (large < 4) {
        note("large pages not looked at: the host backs guest RAM with small ones");
        return;
    }
    uint64_t small = read_counter("pages_4k");
    SM_CHECK_EQ(
        f.views.protect(large_gpa + 0x205000, 1, KVM_VIEWS_MAIN, KVM_VIEWS_R, KVM_VIEWS_ON_INJECT),
        0, "PROTECT inside a large page works");
    touch_all();
    f.vcpu.call(guest_function(guest_write8), large_gpa + 0x205000, new_value)
        .must_raise(gp_vector);
    f.vcpu.call(guest_function(guest_write8), large_gpa + 0x206000, new_value).must_return();
    note("2 MiB pages %llu -> %llu, 4 KiB pages %llu -> %llu", (unsigned long long)large,
         (unsigned long long)read_counter("pages_2m"), (unsigned long long)small,
         (unsigned long long)read_counter("pages_4k"));
    SM_CHECK_EQ(read_counter("pages_2m"), large - 2,
                "only the large page around it is split, in each view");
    f.drain_events();
    SM_CHECK_EQ(f.views.clear_protection(large_gpa + 0x205000, 1, KVM_VIEWS_MAIN), 0,
                "CLEAR works");
    touch_all();
    f.vcpu.call(guest_function(guest_write8), large_gpa + 0x205000, new_value).must_return();
}
} // namespace

void test_main() {
    require_hardware();
    note("write denied");
    test_write_denied();
    note("write allowed");
    test_write_allowed();
    note("write injected");
    test_write_injected();
    note("fetch");
    test_fetch();
    note("read");
    test_read();
    note("shadow and clear");
    test_shadow_and_clear();
    note("shadow is read only");
    test_shadow_is_read_only();
    note("large pages");
    test_large_pages();
}

} // namespace shadowmon::kvmtest
