// SPDX-License-Identifier: GPL-2.0-or-later
// The doctor's checks on hosts made of a directory tree and a kernel played by a function.
#include "src/vm/host_probe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

namespace shadowmon {
namespace {

class FakeHost : public testing::Test {
  protected:
    FakeHost() {
        std::string name = testing::TempDir() + "hostXXXXXX";
        root_ = mkdtemp(name.data());
        paths_.root = root_;
        paths_.ioctl = [this](int, unsigned long request, void* argument) {
            if (request != KVM_VIEWS_PROBE || !hardware_) {
                errno = EINVAL; // as Linux' own KVM does
                return -1;
            }
            auto* probe = static_cast<kvm_views_probe*>(argument);
            probe->version = KVM_VIEWS_API_VERSION;
            probe->hardware = *hardware_;
            return 0;
        };
    }
    ~FakeHost() override { std::filesystem::remove_all(root_); }

    void file(const std::string& path, const std::string& text) {
        std::filesystem::path full = root_.string() + path;
        std::filesystem::create_directories(full.parent_path());
        std::ofstream(full) << text;
    }
    void good_host() {
        file("/proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu vmx rdtscp\n"
                              "vmx flags\t: vnmi ept ept_x_only eptp_switching vpid\n");
        file("/sys/module/kvm/parameters/tdp_mmu", "Y\n");
        file("/sys/module/kvm_intel/parameters/nested", "N\n");
        file("/proc/sys/kernel/yama/ptrace_scope", "0\n");
        file("/dev/kvm", "");
        hardware_ = KVM_VIEWS_HW_REQUIRED;
    }
    HostCheck check(const std::string& name) {
        auto checks = probe_host({}, paths_);
        auto found = std::find_if(checks.begin(), checks.end(),
                                  [&](const HostCheck& c) { return c.name == name; });
        EXPECT_NE(found, checks.end()) << name;
        return found == checks.end() ? HostCheck{} : *found;
    }

    std::filesystem::path root_;
    HostPaths paths_;
    std::optional<uint32_t> hardware_;
};

TEST_F(FakeHost, GoodHostIsReady) {
    good_host();
    auto checks = probe_host({}, paths_);
    for (const HostCheck& c : checks)
        EXPECT_TRUE(c.state == HostCheck::State::ok || c.state == HostCheck::State::optional)
            << c.name << ": " << c.detail;
    EXPECT_TRUE(host_is_ready(checks));
    EXPECT_EQ(check("EPT-violation #VE").state, HostCheck::State::optional);
}

TEST_F(FakeHost, EmptyHostIsNotReady) {
    auto checks = probe_host({}, paths_);
    EXPECT_FALSE(host_is_ready(checks));
    for (const HostCheck& c : checks) {
        if (c.state == HostCheck::State::missing) {
            EXPECT_FALSE(c.advice.empty()) << c.name;
        }
    }
    EXPECT_EQ(check("VT-x").state, HostCheck::State::missing);
    EXPECT_EQ(check("/dev/kvm").state, HostCheck::State::missing);
}

TEST_F(FakeHost, KvmsWordCountsMost) {
    good_host();
    hardware_ = KVM_VIEWS_HW_REQUIRED & ~KVM_VIEWS_HW_EXEC_ONLY;
    HostCheck c = check("execute-only EPT pages");
    EXPECT_EQ(c.state, HostCheck::State::missing);
    EXPECT_NE(c.detail.find("KVM says no"), std::string::npos) << c.detail;
}

TEST_F(FakeHost, StockKvmIsToldApart) {
    good_host();
    hardware_.reset();
    HostCheck c = check("EPT-view extension");
    EXPECT_EQ(c.state, HostCheck::State::missing);
    EXPECT_NE(c.detail.find("no EPT-view extension"), std::string::npos) << c.detail;
    EXPECT_EQ(check("EPT").state, HostCheck::State::ok); // /proc/cpuinfo still tells
}

TEST_F(FakeHost, CpuFeaturesFromCpuinfoAlone) {
    good_host();
    hardware_.reset();
    file("/proc/cpuinfo", "flags\t\t: vmx\nvmx flags\t: ept vpid\n");
    EXPECT_EQ(check("VMFUNC").state, HostCheck::State::missing);
    EXPECT_EQ(check("execute-only EPT pages").state, HostCheck::State::missing);
}

TEST_F(FakeHost, TdpMmuOff) {
    good_host();
    file("/sys/module/kvm/parameters/tdp_mmu", "N\n");
    EXPECT_EQ(check("TDP MMU").state, HostCheck::State::missing);
}

} // namespace
} // namespace shadowmon
