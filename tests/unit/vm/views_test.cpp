// SPDX-License-Identifier: GPL-2.0-or-later
// The views fd's methods against a kernel played by a function: arguments go in as
// the ABI says, errors come out as sentences, partial work is continued.
#include "src/vm/views.h"

#include "src/vm/live_memory.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fcntl.h>
#include <map>

namespace shadowmon {
namespace {

/// Answers each request by a function or an errno; counts what nobody answers.
struct FakeKernel {
    std::map<unsigned long, std::function<int(void*)>> answers;

    IoctlFunction ioctl() {
        return [this](int, unsigned long request, void* argument) {
            auto found = answers.find(request);
            if (found == answers.end()) {
                errno = ENOTTY;
                return -1;
            }
            return found->second(argument);
        };
    }
    void offer(uint32_t version, uint32_t hardware) {
        answers[KVM_VIEWS_PROBE] = [=](void* argument) {
            auto* probe = static_cast<kvm_views_probe*>(argument);
            probe->version = version;
            probe->hardware = hardware;
            return 0;
        };
    }
    void fail_with(unsigned long request, int code) {
        answers[request] = [code](void*) {
            errno = code;
            return -1;
        };
    }
    Views views() { return Views(UniqueFd(open("/dev/null", O_RDWR | O_CLOEXEC)), ioctl()); }
};

std::string attach_error(FakeKernel& kernel) {
    auto views = Views::attach(0, "/dev/null", kernel.ioctl());
    return views ? "attached" : views.error().message();
}

TEST(Attach, SaysWhatIsWrong) {
    static constexpr struct {
        int code;
        const char* text;
    } cases[] = {
        {EEXIST, "being watched already"},  {EOPNOTSUPP, "nested virtualization"},
        {EBADF, "not a VM of this KVM"},    {EINVAL, "not a VM of this KVM"},
        {ENOMEM, "Cannot allocate memory"},
    };
    for (const auto& [code, text] : cases) {
        FakeKernel kernel;
        kernel.offer(KVM_VIEWS_API_VERSION, KVM_VIEWS_HW_REQUIRED);
        kernel.fail_with(KVM_VIEWS_CREATE, code);
        EXPECT_NE(attach_error(kernel).find(text), std::string::npos)
            << code << ": " << attach_error(kernel);
    }
}

/// What Linux' own KVM answers to every request that it does not know: EINVAL.
TEST(Attach, TellsStockKvmFromAFileThatIsNoVm) {
    for (int code : {EINVAL, ENOTTY}) {
        FakeKernel kernel;
        kernel.fail_with(KVM_VIEWS_PROBE, code);
        kernel.fail_with(KVM_VIEWS_CREATE, code);
        EXPECT_NE(attach_error(kernel).find("no EPT-view extension"), std::string::npos)
            << attach_error(kernel);
        EXPECT_NE(attach_error(kernel).find("kvm/README.md"), std::string::npos);
    }
}

TEST(Attach, NamesBothVersions) {
    FakeKernel kernel;
    kernel.offer(KVM_VIEWS_API_VERSION + 7, KVM_VIEWS_HW_REQUIRED);
    EXPECT_NE(
        attach_error(kernel).find(fmt::format("version {} of the EPT-view interface, this "
                                              "shadowmon version {}:",
                                              KVM_VIEWS_API_VERSION + 7, KVM_VIEWS_API_VERSION)),
        std::string::npos)
        << attach_error(kernel);
}

TEST(Attach, NamesMissingHardware) {
    FakeKernel kernel;
    kernel.offer(KVM_VIEWS_API_VERSION,
                 KVM_VIEWS_HW_EPT | KVM_VIEWS_HW_TDP_MMU | KVM_VIEWS_HW_EXEC_ONLY);
    EXPECT_NE(attach_error(kernel).find("lacks VMFUNC with EPTP switching;"), std::string::npos)
        << attach_error(kernel);
}

TEST(Attach, NoDevice) {
    FakeKernel kernel;
    auto views = Views::attach(0, "/dev/null/kvm", kernel.ioctl());
    ASSERT_FALSE(views);
    auto absent = Views::attach(0, "/nowhere/kvm", kernel.ioctl());
    ASSERT_FALSE(absent);
    EXPECT_NE(absent.error().message().find("is not there"), std::string::npos);
}

TEST(Attach, PassesVersionAndDescriptor) {
    FakeKernel kernel;
    kernel.offer(KVM_VIEWS_API_VERSION, KVM_VIEWS_HW_REQUIRED);
    kernel.answers[KVM_VIEWS_CREATE] = [](void* argument) {
        auto* create = static_cast<kvm_views_create*>(argument);
        EXPECT_EQ(create->version, uint32_t{KVM_VIEWS_API_VERSION});
        EXPECT_EQ(create->flags, 0u);
        EXPECT_EQ(create->vm_fd, 77);
        return open("/dev/null", O_RDWR | O_CLOEXEC);
    };
    auto views = Views::attach(77, "/dev/null", kernel.ioctl());
    ASSERT_TRUE(views) << views.error().message();
    EXPECT_GE(views->fd(), 0);
}

TEST(ReadMem, ContinuesAndSplits) {
    FakeKernel kernel;
    std::vector<std::pair<uint64_t, uint64_t>> calls;
    kernel.answers[KVM_VIEWS_READ_MEM] = [&](void* argument) {
        auto* mem = static_cast<kvm_views_mem*>(argument);
        calls.emplace_back(mem->gpa, mem->len);
        // The first call stops short, as it may at a slot's end.
        mem->done = calls.size() == 1 ? mem->len / 2 : mem->len;
        std::memset(reinterpret_cast<void*>(mem->buf), static_cast<int>(calls.size()), mem->done);
        return 0;
    };
    Views views = kernel.views();
    std::vector<std::byte> out((3 << 20) / 2);
    ASSERT_TRUE(views.read_mem(Gpa(0x1000), out));
    ASSERT_EQ(calls.size(), 2u);
    EXPECT_EQ(calls[0], (std::pair<uint64_t, uint64_t>(0x1000, 1 << 20)));
    EXPECT_EQ(calls[1], (std::pair<uint64_t, uint64_t>(0x81000, 1 << 20)));
    EXPECT_EQ(out.front(), std::byte{1});
    EXPECT_EQ(out.back(), std::byte{2});
}

TEST(ReadMem, NamesTheAddressThatIsNoRam) {
    FakeKernel kernel;
    kernel.answers[KVM_VIEWS_READ_MEM] = [](void* argument) {
        static_cast<kvm_views_mem*>(argument)->done = 16;
        errno = ENXIO;
        return -1;
    };
    Views views = kernel.views();
    std::vector<std::byte> out(64);
    auto status = views.read_mem(Gpa(0xa0000), out);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().message(), "guest-physical address 0xa0010 is not RAM");
}

TEST(ReadMem, NoProgressIsAnError) {
    FakeKernel kernel;
    kernel.answers[KVM_VIEWS_READ_MEM] = [](void*) { return 0; };
    Views views = kernel.views();
    std::vector<std::byte> out(64);
    EXPECT_FALSE(views.read_mem(Gpa(0), out));
}

TEST(Slots, GrowsTheBuffer) {
    FakeKernel kernel;
    kernel.answers[KVM_VIEWS_GET_SLOTS] = [](void* argument) {
        auto* slots = static_cast<kvm_views_slots*>(argument);
        uint32_t room = slots->nr;
        slots->nr = 100;
        if (room < 100) {
            errno = E2BIG;
            return -1;
        }
        auto* out = reinterpret_cast<kvm_views_slot*>(slots->slots);
        for (uint32_t i = 0; i < 100; i++)
            out[i] = {0x10000ull * i, 0x8000, 0, i == 99 ? KVM_VIEWS_SLOT_READONLY : 0, 0};
        return 0;
    };
    Views views = kernel.views();
    auto slots = views.slots();
    ASSERT_TRUE(slots) << slots.error().message();
    EXPECT_EQ(slots->size(), 100u);
    auto memory = LiveMemory::of(views);
    ASSERT_TRUE(memory);
    EXPECT_EQ(memory->ram().size(), 99u);
    EXPECT_EQ(memory->occupied().size(), 100u);
}

TEST(Patch, NamesTheStalePlace) {
    FakeKernel kernel;
    kernel.answers[KVM_VIEWS_PATCH] = [](void* argument) {
        auto* patches = static_cast<kvm_views_patches*>(argument);
        EXPECT_EQ(patches->nr, 2u);
        patches->failed_index = 1;
        errno = ESTALE;
        return -1;
    };
    Views views = kernel.views();
    std::array<std::byte, 2> a{}, b{std::byte{0xcd}, std::byte{0x14}};
    kvm_views_patch patches[] = {make_patch(Gpa(0x1000), a, b, KVM_VIEWS_PATCH_HOOK),
                                 make_patch(Gpa(0x2345), a, b, 0)};
    EXPECT_EQ(patches[0].len, 2u);
    EXPECT_EQ(patches[0].bytes[0], 0xcd);
    auto patched = views.patch(patches);
    ASSERT_FALSE(patched);
    EXPECT_EQ(patched.error().code(), ESTALE);
    EXPECT_NE(patched.error().message().find("0x2345"), std::string::npos);
}

TEST(Patch, TellsWhoWasInside) {
    FakeKernel kernel;
    kernel.answers[KVM_VIEWS_PATCH] = [](void* argument) {
        auto* patches = static_cast<kvm_views_patches*>(argument);
        patches->pause_tsc = 1000;
        patches->inside = 3;
        return 0;
    };
    Views views = kernel.views();
    std::array<std::byte, 2> a{}, b{std::byte{0xcd}, std::byte{0x14}};
    auto patched = views.patch(std::array{make_patch(Gpa(0x1000), a, b, KVM_VIEWS_PATCH_HOOK)});
    ASSERT_TRUE(patched) << patched.error().message();
    EXPECT_EQ(patched->pause_tsc, 1000u);
    EXPECT_EQ(patched->inside, 3u);
}

TEST(Quiesce, LooksAndExplainsWhoIsInside) {
    FakeKernel kernel;
    void* how = nullptr;
    kernel.answers[KVM_VIEWS_QUIESCE] = [&](void* argument) {
        how = argument;
        return 0;
    };
    Views views = kernel.views();
    EXPECT_TRUE(views.quiesce());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(how), KVM_VIEWS_QUIESCE_LOOK) << "nobody waits";
    kernel.fail_with(KVM_VIEWS_QUIESCE, EAGAIN);
    auto status = views.quiesce();
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code(), EAGAIN);
    EXPECT_NE(status.error().message().find("may be inside"), std::string::npos);
}

TEST(Errors, GoneVmIsNamed) {
    FakeKernel kernel;
    kernel.fail_with(KVM_VIEWS_GET_STATS, ENODEV);
    Views views = kernel.views();
    auto stats = views.stats();
    ASSERT_FALSE(stats);
    EXPECT_NE(stats.error().message().find("the VM is gone"), std::string::npos);
}

TEST(Offer, IsPassedOnAsItIs) {
    FakeKernel kernel;
    kernel.answers[KVM_VIEWS_GET_OFFER] = [](void* argument) {
        auto* offer = static_cast<kvm_views_offer*>(argument);
        EXPECT_EQ(offer->version, 0u);
        *offer = {7, 0, 0xffffffff40000000, 0x40000000, 0x2a15fe8, {}};
        return 0;
    };
    Views views = kernel.views();
    auto offer = views.offer();
    ASSERT_TRUE(offer) << offer.error().message();
    EXPECT_EQ(offer->version, 7u);
    EXPECT_EQ(offer->gva, 0xffffffff40000000u);
    EXPECT_EQ(offer->size, 0x40000000u);
    EXPECT_EQ(offer->entry_gpa, 0x2a15fe8u);
    kernel.fail_with(KVM_VIEWS_GET_OFFER, ENODEV);
    EXPECT_NE(views.offer().error().message().find("read what the guest offers: the VM is gone"),
              std::string::npos);
}

TEST(Region, RefusalsAreExplained) {
    FakeKernel kernel;
    kernel.fail_with(KVM_VIEWS_SET_REGION, EADDRINUSE);
    Views views = kernel.views();
    EXPECT_NE(views.set_region(Gpa(0x100000000), 10).error().message().find("has memory there"),
              std::string::npos);
}

TEST(JoinRanges, SortsAndJoins) {
    auto joined = join_ranges({{Gpa(0x3000), 0x1000},
                               {Gpa(0x0), 0x1000},
                               {Gpa(0x1000), 0x1000},
                               {Gpa(0x8000), 0},
                               {Gpa(0x3800), 0x1000}});
    ASSERT_EQ(joined.size(), 2u);
    EXPECT_EQ(joined[0].start, Gpa(0));
    EXPECT_EQ(joined[0].size, 0x2000u);
    EXPECT_EQ(joined[1].start, Gpa(0x3000));
    EXPECT_EQ(joined[1].size, 0x1800u);
}

} // namespace
} // namespace shadowmon
