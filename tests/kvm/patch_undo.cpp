// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves PATCH and the undo list: an instruction that two running vCPUs execute is rewritten
/// again and again by another process and neither ever runs a mixture; a batch with a failed
/// expectation changes nothing and names its index; REVERT and DISABLE put the old bytes back;
/// bytes that the guest has changed in the meantime are left alone and counted.
#include "tests/kvm/lib/test.h"

#include <cerrno>
#include <cstring>

namespace shadowmon::kvmtest {

namespace {
constexpr unsigned rewrite_count = 300;
constexpr uint64_t first_value = 0x1111111111111111, second_value = 0xeeeeeeeeeeeeeeee;
constexpr Gpa data_gpa{TG_DATA_GPA};
constexpr uint64_t is_ready = 1, is_done = 2;

using Bytes = std::array<uint8_t, 10>;

/// movabs $value, %rax
Bytes load_instruction(uint64_t value) {
    Bytes bytes{0x48, 0xb8};
    memcpy(bytes.data() + 2, &value, 8);
    return bytes;
}

/// The owner: a process of its own that knows the guest only through the views fd.
/// args: pid of the VMM, its VM fd.
void rewrite(const Channel& channel, std::span<const uint64_t> args) {
    Views views = Views::attach_to_process(args[0], args[1]);
    Compartment compartment(views);
    compartment.enable();
    channel.send({is_ready});
    Gpa site = guest_text_gpa(guest_patch_site);

    Bytes first = load_instruction(first_value), second = load_instruction(second_value);
    Bytes seen;
    SM_CHECK_EQ(views.read_memory(site, seen), 0, "READ_MEM of the VMM's guest works");
    SM_CHECK(seen == first);
    uint64_t longest = 0;
    for (unsigned i = 0; i < rewrite_count; i++) {
        kvm_views_patch patch =
            i % 2 ? make_patch(site, second, first) : make_patch(site, first, second);
        uint64_t pause = 0;
        SM_CHECK_EQ(views.patch({&patch, 1}, nullptr, &pause), 0, "PATCH works");
        SM_CHECK(pause > 0);
        longest = std::max(longest, pause);
        SM_CHECK_EQ(views.read_memory(site, seen), 0, "READ_MEM works");
        SM_CHECK(seen == (i % 2 ? first : second));
    }
    note("%u rewrites, longest pause %llu ticks", rewrite_count, (unsigned long long)longest);
    // Several writes to one place are one intrusion; what counts is what was there at first.
    kvm_views_patch last = make_patch(site, first, second);
    SM_CHECK_EQ(views.patch({&last, 1}), 0, "PATCH works");
    channel.send({is_done});
    Message end;
    channel.try_receive(end);
    // The process ends with the fd open.
}
Role role("rewrite", rewrite);

void test_never_torn() {
    Vm vm({.vcpus = 2});
    Child owner("rewrite", {static_cast<uint64_t>(getpid()), static_cast<uint64_t>(vm.fd())});
    owner.channel().receive(is_ready);
    LoopControl* loops[2];
    for (unsigned i = 0; i < 2; i++) {
        loops[i] = &vm.at<LoopControl>(data_gpa + i * page_size);
        vm.vcpu(i).start(guest_function(guest_patch_loop), data_gpa + i * page_size, first_value,
                         second_value);
    }
    owner.channel().receive(is_done);
    Gpa site = guest_text_gpa(guest_patch_site);
    Bytes second = load_instruction(second_value), first = load_instruction(first_value);
    SM_CHECK(!memcmp(vm.ram(site, 10), second.data(), 10));
    owner.channel().send({0});
    owner.must_exit();
    // Undo is done when the fd closes, without waiting for anybody outside the compartment.
    wait_until("the text is as it was",
               [&] { return !memcmp(vm.ram(site, 10), first.data(), 10); });

    for (unsigned i = 0; i < 2; i++) {
        uint64_t count = loops[i]->count;
        wait_until("the vCPU goes on",
                   [&] { return *const_cast<volatile uint64_t*>(&loops[i]->count) > count; });
        *const_cast<volatile uint64_t*>(&loops[i]->stop) = 1;
        vm.vcpu(i).wait().must_return();
        note("vcpu %u: %llu calls of the site", i, (unsigned long long)loops[i]->count);
        if (loops[i]->errors)
            SM_FAIL("vcpu %u ran a torn instruction %llu times, last value 0x%llx", i,
                    (unsigned long long)loops[i]->errors,
                    (unsigned long long)loops[i]->first_error);
    }
}

void test_batches() {
    Vm vm;
    Vcpu& vcpu = vm.vcpu(0);
    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    auto place = [&](unsigned i) { return data_gpa + i * 2 * page_size + i; };
    const std::array<uint8_t, 4> old{1, 2, 3, 4}, ours{0xa, 0xb, 0xc, 0xd}, theirs{9, 9, 9, 9};
    for (unsigned i = 0; i < 8; i++)
        memcpy(vm.ram(place(i), 4), old.data(), 4);
    auto holds = [&](unsigned i, const std::array<uint8_t, 4>& bytes) {
        return !memcmp(vm.ram(place(i), 4), bytes.data(), 4);
    };

    compartment.enable();
    std::vector<kvm_views_patch> batch;
    for (unsigned i = 0; i < 8; i++)
        batch.push_back(make_patch(place(i), old, ours));

    // An expectation that fails, first, in the middle and last.
    for (unsigned bad : {0u, 3u, 7u}) {
        auto wrong = batch;
        wrong[bad].expect[2] ^= 0x80;
        uint32_t failed = ~0u;
        SM_CHECK_EQ(views.patch(wrong, &failed), -ESTALE, "a failed expectation is ESTALE");
        SM_CHECK_EQ(failed, bad, "failed_index names the patch");
        for (unsigned i = 0; i < 8; i++)
            SM_CHECK(holds(i, old));
        SM_CHECK_EQ(views.stats().undo_entries, 0, "a refused batch leaves no undo entry");
    }
    // A patch outside RAM refuses the whole batch as well.
    auto outside = batch;
    outside[7].gpa = TG_RAM_SIZE + 0x100000;
    SM_CHECK(views.patch(outside) < 0);
    SM_CHECK(holds(0, old));

    SM_CHECK_EQ(views.patch(batch), 0, "the batch is applied");
    for (unsigned i = 0; i < 8; i++)
        SM_CHECK(holds(i, ours));
    SM_CHECK_EQ(views.stats().undo_entries, 8, "the undo list has an entry per patch");
    SM_CHECK_EQ(vcpu.call(guest_function(guest_read8), place(0)).must_return() & 0xffffffff,
                0x0d0c0b0a, "the guest sees the patch");

    // REVERT of one, with a right and a wrong idea of what is there.
    kvm_views_patch revert = make_patch(place(1), ours, {}, KVM_VIEWS_PATCH_REVERT);
    revert.expect[0] ^= 1;
    SM_CHECK(views.patch({&revert, 1}) < 0);
    SM_CHECK(holds(1, ours));
    revert = make_patch(place(1), ours, ours, KVM_VIEWS_PATCH_REVERT);
    SM_CHECK_EQ(views.patch({&revert, 1}), 0, "REVERT works");
    SM_CHECK(holds(1, old));
    SM_CHECK_EQ(views.stats().undo_entries, 7, "REVERT takes the entry off the undo list");
    // What was never patched cannot be reverted.
    kvm_views_patch never = make_patch(place(1), old, old, KVM_VIEWS_PATCH_REVERT);
    SM_CHECK(views.patch({&never, 1}) < 0);
    SM_CHECK(holds(1, old));
    // A reverted place can be patched again.
    SM_CHECK_EQ(views.patch({&batch[1], 1}), 0, "a reverted place can be patched again");

    // The guest changes bytes under patches 2 and 5; 6 it changes and restores.
    uint32_t theirs_word;
    memcpy(&theirs_word, theirs.data(), 4);
    vcpu.call(guest_function(guest_write8), place(2), 0x0909090909090909).must_return();
    vcpu.call(guest_function(guest_write8), place(5), 0x0909090909090909).must_return();
    SM_CHECK(holds(2, theirs));

    SM_CHECK_EQ(views.disable(), 0, "DISABLE works");
    for (unsigned i = 0; i < 8; i++) {
        if (i == 2 || i == 5)
            SM_CHECK(holds(i, theirs));
        else if (!holds(i, old))
            SM_FAIL("patch %u was not undone by DISABLE", i);
    }
    kvm_views_stats stats = views.stats();
    SM_CHECK_EQ(stats.undo_conflicts, 2, "what the guest has changed is counted");
    SM_CHECK_EQ(stats.undo_entries, 0, "the undo list is empty after DISABLE");
}

void test_limits() {
    Vm vm;
    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    compartment.enable();
    const std::array<uint8_t, 16> zero{}, ones = [] {
        std::array<uint8_t, 16> a;
        a.fill(0xff);
        return a;
    }();
    // The longest patch, up to the last byte of a page; one that would cross it is refused.
    kvm_views_patch fits = make_patch(data_gpa + page_size - 16, zero, ones);
    SM_CHECK_EQ(views.patch({&fits, 1}), 0, "a patch may end with its page");
    kvm_views_patch crosses = make_patch(data_gpa + 3 * page_size - 15, zero, ones);
    SM_CHECK_EQ(views.patch({&crosses, 1}), -EINVAL, "a patch must not cross a page");
    kvm_views_patch empty = make_patch(data_gpa, {}, {});
    SM_CHECK_EQ(views.patch({&empty, 1}), -EINVAL, "a patch must not be empty");
    kvm_views_patch too_long = fits;
    too_long.len = KVM_VIEWS_MAX_PATCH_LEN + 1;
    SM_CHECK_EQ(views.patch({&too_long, 1}), -EINVAL, "a patch must not be too long");
    kvm_views_patch odd = make_patch(data_gpa, std::span(zero).first(4), std::span(ones).first(4));
    odd.flags = 0x80;
    SM_CHECK_EQ(views.patch({&odd, 1}), -EINVAL, "unknown patch flags are refused");
    // A whole batch of the allowed size.
    std::vector<kvm_views_patch> many;
    for (unsigned i = 0; i < KVM_VIEWS_MAX_PATCHES; i++)
        many.push_back(make_patch(data_gpa + 0x100000 + i * 64, std::span(zero).first(8),
                                  std::span(ones).first(8), i % 2 ? KVM_VIEWS_PATCH_HOOK : 0));
    uint64_t start = monotonic_ms();
    SM_CHECK_EQ(views.patch(many), 0, "the largest batch is applied");
    // A kernel that proves all its locks takes many times as long, for both.
    uint64_t took = monotonic_ms() - start;
    many.push_back(many.back());
    SM_CHECK(views.patch(many) < 0);
    start = monotonic_ms();
    views.close();
    wait_until(
        "all is undone",
        [&] {
            for (unsigned i = 0; i < KVM_VIEWS_MAX_PATCHES; i++) {
                Gpa gpa = data_gpa + 0x100000 + i * 64;
                if (*const_cast<volatile uint64_t*>(&vm.at<uint64_t>(gpa)))
                    return false;
            }
            return vm.at<uint64_t>(data_gpa + page_size - 16) == 0;
        },
        wait_limit + 2 * took);
    note("%u patches took %llu ms, and were undone within %llu ms", KVM_VIEWS_MAX_PATCHES,
         (unsigned long long)took, (unsigned long long)(monotonic_ms() - start));
}
} // namespace

void test_main() {
    require_hardware();
    set_time_limit(180);
    test_batches();
    test_limits();
    test_never_torn();
}

} // namespace shadowmon::kvmtest
