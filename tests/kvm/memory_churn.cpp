// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves that both views follow what happens to guest memory while two vCPUs pass the gate all
/// the time: memslots deleted and added again, dirty logging switched on and off (with a right
/// bitmap), backing pages dropped, replaced, copied on write and collapsed into large pages. The
/// contents stay right in both views.
#include "tests/kvm/lib/test.h"

#include <bit>
#include <cerrno>
#include <cstring>
#include <linux/kvm.h>
#include <map>
#include <random>
#include <sys/wait.h>

namespace shadowmon::kvmtest {

namespace {
constexpr uint32_t slot_number = 5;
constexpr Gpa slot_gpa{0x8000000};
constexpr uint32_t page_count = 64;
constexpr uint64_t slot_size = page_count * page_size;
constexpr Gpa control_gpa{TG_DATA_GPA};

uint64_t volatile& volatile_at(uint64_t& value) { return value; }

/// An extra memslot of private memory whose pages hold the pattern that check_pages expects, and
/// two vCPUs: 0 reads it in the shadow view, 1 in the main view.
class Churn {
  public:
    Vm vm;
    Views views = Views::attach(vm.fd());
    Compartment compartment{views};
    uint8_t* memory;

    explicit Churn(unsigned dirty_ring = 0)
        : vm({.vcpus = 2, .anonymous = true, .dirty_ring = dirty_ring}) {
        vm.map_region_in_guest(compartment.gpa(), TG_REGION_PAGES);
        compartment.enable();
        void* start =
            mmap(nullptr, slot_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        SM_CHECK(start != MAP_FAILED);
        memory = static_cast<uint8_t*>(start);
        fill();
        add();
    }
    ~Churn() { munmap(memory, slot_size); }

    static void fill_page(uint8_t* page, uint64_t number) {
        uint64_t value = number ^ 0x5a5a;
        memcpy(page, &value, sizeof value);
    }
    void fill() {
        for (uint32_t i = 0; i < page_count; i++)
            fill_page(memory + i * page_size, i);
    }
    void add(uint32_t flags = 0) {
        SM_CHECK_EQ(vm.set_slot(slot_number, slot_gpa, memory, slot_size, flags), 0,
                    "the memslot is accepted");
    }
    void remove() {
        SM_CHECK_EQ(vm.set_slot(slot_number, slot_gpa, memory, 0), 0, "the memslot is deleted");
    }
    LoopControl& control(unsigned vcpu) {
        return vm.at<LoopControl>(control_gpa + vcpu * page_size);
    }
    void start() {
        for (unsigned i = 0; i < 2; i++)
            control(i) = {};
        vm.vcpu(0).start(gate_function(gate_check_pages), control_gpa, slot_gpa, page_count);
        vm.vcpu(1).start(guest_function(guest_check_pages), control_gpa + page_size, slot_gpa,
                         page_count);
    }
    /// Both have read all pages since the last change.
    void let_pass() {
        for (unsigned i = 0; i < 2; i++) {
            uint64_t count = volatile_at(control(i).count);
            wait_until("the vCPU has read all pages",
                       [&] { return volatile_at(control(i).count) > count + 1; });
        }
    }
    /// The loops end; returns the errors that they saw.
    uint64_t stop() {
        uint64_t errors = 0;
        for (unsigned i = 0; i < 2; i++)
            volatile_at(control(i).stop) = 1;
        for (unsigned i = 0; i < 2; i++) {
            vm.vcpu(i).wait().must_return();
            errors += control(i).errors;
        }
        return errors;
    }
};

/// While the slot is gone the guest reads all ones from a hole; when it is back, its contents.
void test_slots() {
    Churn c;
    c.start();
    c.let_pass();
    SM_CHECK_EQ(c.stop(), 0, "both views read what is there");
    for (unsigned round = 0; round < 12; round++) {
        c.start();
        c.let_pass();
        c.remove();
        c.let_pass();
        c.add(round % 3 == 1 ? KVM_MEM_LOG_DIRTY_PAGES : 0);
        c.let_pass();
        uint64_t errors = c.stop();
        SM_CHECK(errors > 0); // It was gone, and both saw that.
        c.start();
        c.let_pass();
        SM_CHECK_EQ(c.stop(), 0, "both views read what is there when the slot is back");
        // Another backing for the same guest-physical range.
        if (round % 4 == 3) {
            c.remove();
            SM_CHECK_EQ(madvise(c.memory, slot_size, MADV_DONTNEED), 0, "madvise works");
            c.fill();
            c.add();
        }
    }
    note("violations %llu, region faults %llu, view changes seen %llu",
         (unsigned long long)c.views.stats().violations,
         (unsigned long long)c.views.stats().region_faults,
         (unsigned long long)c.views.stats().switches);
}

unsigned dirty_pages(const std::vector<uint64_t>& bitmap) {
    unsigned count = 0;
    for (uint64_t word : bitmap)
        count += std::popcount(word);
    return count;
}

void test_dirty_log() {
    Churn c;
    // The other vCPU keeps both views in use.
    c.control(0) = {};
    c.vm.vcpu(0).start(gate_function(gate_check_pages), control_gpa, slot_gpa, page_count);
    Vcpu& writer = c.vm.vcpu(1);
    std::mt19937 random(1);
    for (unsigned round = 0; round < 10; round++) {
        // Map everything writable first, so that switching it on has something to protect.
        for (uint32_t i = 0; i < page_count; i++)
            writer.call(guest_function(guest_write8), slot_gpa + i * page_size + 64, i)
                .must_return();
        c.add(KVM_MEM_LOG_DIRTY_PAGES);
        c.vm.dirty_log(slot_number, slot_size);
        for (unsigned pass = 0; pass < 3; pass++) {
            uint64_t expected = 0;
            for (unsigned i = 0; i < 10; i++) {
                uint32_t page = random() % page_count;
                expected |= uint64_t{1} << page;
                writer
                    .call(guest_function(guest_write8), slot_gpa + page * page_size + 64,
                          round * 100 + i)
                    .must_return();
            }
            // Reading it, in whatever view, is no write.
            for (uint32_t i = 0; i < page_count; i++) {
                writer.call(gate_function(gate_read), slot_gpa + i * page_size).must_return();
                writer.call(guest_function(guest_read8), slot_gpa + i * page_size).must_return();
            }
            auto bitmap = c.vm.dirty_log(slot_number, slot_size);
            if (bitmap[0] != expected)
                SM_FAIL("round %u, pass %u: dirty bitmap is 0x%llx, expected 0x%llx", round, pass,
                        (unsigned long long)bitmap[0], (unsigned long long)expected);
        }
        SM_CHECK_EQ(dirty_pages(c.vm.dirty_log(slot_number, slot_size)), 0,
                    "nothing is dirty when nobody has written");
        // A patch is a write as well.
        const std::array<uint8_t, 4> zero{}, ours{1, 2, 3, 4};
        kvm_views_patch patch = make_patch(slot_gpa + 7 * page_size + 128, zero, ours);
        SM_CHECK_EQ(c.views.patch({&patch, 1}), 0, "PATCH works");
        SM_CHECK_EQ(c.vm.dirty_log(slot_number, slot_size)[0], uint64_t{1} << 7,
                    "a patched page is dirty");
        patch = make_patch(slot_gpa + 7 * page_size + 128, ours, ours, KVM_VIEWS_PATCH_REVERT);
        SM_CHECK_EQ(c.views.patch({&patch, 1}), 0, "REVERT works");
        c.add(0);
    }
    volatile_at(c.control(0).stop) = 1;
    c.vm.vcpu(0).wait().must_return();
    SM_CHECK_EQ(c.control(0).errors, 0, "the shadow view read the right contents throughout");
}

/// With dirty rings instead of bitmaps a patch appears in the ring of a vCPU that runs.
void test_dirty_ring() {
    constexpr unsigned entry_count = 1024;
    Churn c(entry_count);
    size_t size = entry_count * sizeof(kvm_dirty_gfn);
    kvm_dirty_gfn* rings[2];
    for (unsigned i = 0; i < 2; i++) {
        void* start = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, c.vm.vcpu(i).fd(),
                           KVM_DIRTY_LOG_PAGE_OFFSET * page_size);
        if (start == MAP_FAILED)
            SM_FAIL("mmap of the dirty ring: %m");
        rings[i] = static_cast<kvm_dirty_gfn*>(start);
    }
    auto times_logged = [&](uint64_t page) {
        unsigned times = 0;
        for (auto* ring : rings) {
            for (unsigned i = 0; i < entry_count; i++) {
                uint32_t flags = *const_cast<volatile uint32_t*>(&ring[i].flags);
                times += (flags & KVM_DIRTY_GFN_F_DIRTY) &&
                         (ring[i].slot & 0xffff) == slot_number && ring[i].offset == page;
            }
        }
        return times;
    };
    c.add(KVM_MEM_LOG_DIRTY_PAGES);
    c.start();
    // KVM logs a page when it maps it writable. From then on nobody writes but PATCH.
    c.let_pass();
    const std::array<uint8_t, 4> zero{}, ours{1, 2, 3, 4};
    std::map<uint64_t, unsigned> times;
    for (uint64_t page : {3u, 9u, 4u}) {
        unsigned before = times_logged(page);
        kvm_views_patch patch = make_patch(slot_gpa + page * page_size + 128, zero, ours);
        SM_CHECK_EQ(c.views.patch({&patch, 1}), 0, "PATCH works");
        wait_until("the patch is in a dirty ring", [&] { return times_logged(page) > before; });
        times[page] = times_logged(page);
    }
    SM_CHECK_EQ(c.stop(), 0, "the pages read right in both views");
    auto& control = c.control(1);
    control = {};
    c.vm.vcpu(1).start(guest_function(guest_check_pages), control_gpa + page_size, slot_gpa,
                       page_count);
    c.views.close();
    wait_until("undoing a patch is in a dirty ring, too",
               [&] { return times_logged(9) > times[9]; });
    volatile_at(control.stop) = 1;
    c.vm.vcpu(1).wait().must_return();
    for (auto* ring : rings)
        munmap(ring, size);
}

/// A page of its own with the same contents takes the place of a backing page: the address stays,
/// the memory behind it is another.
void replace_page(Churn& c, uint32_t number) {
    void* fresh =
        mmap(nullptr, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    SM_CHECK(fresh != MAP_FAILED);
    Churn::fill_page(static_cast<uint8_t*>(fresh), number);
    void* moved = mremap(fresh, page_size, page_size, MREMAP_MAYMOVE | MREMAP_FIXED,
                         c.memory + number * page_size);
    SM_CHECK(moved == c.memory + number * page_size);
}

void test_replace() {
    Churn c;
    c.start();
    std::mt19937 random(2);
    for (unsigned i = 0; i < 300; i++) {
        replace_page(c, random() % page_count);
        if (i % 50 == 0)
            c.let_pass();
    }
    SM_CHECK_EQ(c.stop(), 0, "replaced pages read right in both views");
}

/// Dropped pages read as zero in both views, not as what they were.
void test_drop() {
    Churn c;
    c.start();
    c.let_pass();
    for (unsigned round = 0; round < 10; round++) {
        SM_CHECK_EQ(madvise(c.memory, slot_size, MADV_DONTNEED), 0, "madvise works");
        c.let_pass();
        c.fill();
        c.let_pass();
    }
    SM_CHECK(c.stop() > 0);
    c.start();
    c.let_pass();
    SM_CHECK_EQ(c.stop(), 0, "refilled pages read right in both views");
    SM_CHECK_EQ(madvise(c.memory, slot_size, MADV_DONTNEED), 0, "madvise works");
    for (uint32_t i = 0; i < page_count; i++) {
        SM_CHECK_EQ(
            c.vm.vcpu(0).call(gate_function(gate_read), slot_gpa + i * page_size).must_return(), 0,
            "a dropped page is zero in the shadow view");
    }
}

/// A child process shares all pages copy-on-write, so that each is write-protected and then
/// replaced at the guest's next write. The reader in the shadow view has to follow.
void test_copy_on_write() {
    Churn c;
    Vcpu& reader = c.vm.vcpu(0);
    auto& control = c.control(1);
    control = {};
    c.vm.vcpu(1).start(guest_function(guest_write_pages), control_gpa + page_size, slot_gpa,
                       page_count);
    for (unsigned round = 0; round < 15; round++) {
        int ends[2];
        SM_CHECK_SYS(pipe(ends));
        pid_t child = SM_CHECK_SYS(fork());
        if (!child) {
            // The VM's fds are only borrowed here; end without running any destructor.
            close(ends[1]);
            char byte;
            [[maybe_unused]] ssize_t size = read(ends[0], &byte, 1);
            _exit(0);
        }
        close(ends[0]);
        uint64_t count = volatile_at(control.count);
        uint64_t last = 0;
        wait_until("the writer has written every page", [&] {
            // What it writes only grows, and never further than it has come.
            uint64_t value = reader.call(gate_function(gate_read), slot_gpa + 8).must_return();
            if (value < last)
                SM_FAIL("round %u: the shadow view went back from %llu to %llu", round,
                        (unsigned long long)last, (unsigned long long)value);
            last = value;
            return volatile_at(control.count) > count + 2;
        });
        close(ends[1]);
        int status;
        SM_CHECK_EQ(waitpid(child, &status, 0), child, "the child ends");
    }
    volatile_at(control.stop) = 1;
    c.vm.vcpu(1).wait().must_return();
    SM_CHECK_EQ(control.errors, 0, "the writer found what it had written");
    for (uint32_t i = 0; i < page_count; i++)
        SM_CHECK_EQ(
            reader.call(gate_function(gate_read), slot_gpa + i * page_size + 8).must_return(),
            control.count, "the shadow view reads the last value of each page");
}

/// Collapsing into a large page moves all of it; needs transparent huge pages.
void test_collapse() {
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
    constexpr Gpa large_gpa{0x800000};
    constexpr uint32_t pages_of_large = 512;
    Churn c;
    uint8_t* memory = c.vm.ram(large_gpa, pages_of_large * page_size);
    if (madvise(memory, pages_of_large * page_size, MADV_NOHUGEPAGE)) {
        note("pages not moved by collapsing: no transparent huge pages");
        return;
    }
    for (uint32_t i = 0; i < pages_of_large; i++)
        Churn::fill_page(memory + i * page_size, i);
    for (unsigned i = 0; i < 2; i++)
        c.control(i) = {};
    c.vm.vcpu(0).start(gate_function(gate_check_pages), control_gpa, large_gpa, pages_of_large);
    c.vm.vcpu(1).start(guest_function(guest_check_pages), control_gpa + page_size, large_gpa,
                       pages_of_large);
    bool moved = false;
    for (unsigned round = 0; round < 5; round++) {
        c.let_pass();
        madvise(memory, pages_of_large * page_size, MADV_HUGEPAGE);
        moved |= !madvise(memory, pages_of_large * page_size, MADV_COLLAPSE);
        c.let_pass();
        // Back to small pages: dropping one splits the large one.
        SM_CHECK_EQ(c.views.protect(large_gpa + 5 * page_size, 1, KVM_VIEWS_MAIN, KVM_VIEWS_R), 0,
                    "PROTECT works");
        c.let_pass();
        SM_CHECK_EQ(c.views.clear_protection(large_gpa + 5 * page_size, 1, KVM_VIEWS_MAIN), 0,
                    "CLEAR works");
    }
    SM_CHECK_EQ(c.stop(), 0, "collapsed pages read right in both views");
    if (!moved)
        note("pages not moved by collapsing: the kernel did not do it");
}

/// Overrides outlive all of that.
void test_override_stays() {
    Churn c;
    Vcpu& vcpu = c.vm.vcpu(0);
    Gpa page = slot_gpa + 3 * page_size;
    SM_CHECK_EQ(c.views.protect(page, 1, KVM_VIEWS_MAIN, KVM_VIEWS_R, KVM_VIEWS_ON_INJECT), 0,
                "PROTECT works");
    auto still_protected = [&](const char* after) {
        Outcome outcome = vcpu.call(guest_function(guest_write8), page + 8, 0xbad);
        if (outcome.end != Outcome::End::exception || outcome.vector != 13)
            SM_FAIL("after %s the page can be written", after);
        SM_CHECK_EQ(vcpu.call(gate_function(gate_read), page).must_return(), 3 ^ 0x5a5a,
                    "the shadow view reads the page");
    };
    still_protected("PROTECT");
    replace_page(c, 3);
    still_protected("mremap");
    c.add(KVM_MEM_LOG_DIRTY_PAGES);
    still_protected("dirty logging on");
    c.vm.dirty_log(slot_number, slot_size);
    still_protected("reading the dirty log");
    c.add();
    still_protected("dirty logging off");
    c.remove();
    c.add();
    still_protected("the memslot's return");
    // Every page can still be written right beside it.
    vcpu.call(guest_function(guest_write8), page + page_size + 8, 1).must_return();
}
} // namespace

void test_main() {
    require_hardware();
    set_time_limit(180);
    note("slots that come and go");
    test_slots();
    note("dirty log");
    test_dirty_log();
    note("dirty ring");
    test_dirty_ring();
    note("pages replaced");
    test_replace();
    note("pages dropped");
    test_drop();
    note("copy on write");
    test_copy_on_write();
    note("pages collapsed");
    test_collapse();
    note("overrides");
    test_override_stays();
}

} // namespace shadowmon::kvmtest
