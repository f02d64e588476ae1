// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/vm/host_probe.h"

#include "src/vm/vm_process.h"

#include <algorithm>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <set>
#include <sstream>
#include <sys/stat.h>

namespace shadowmon {

namespace {

using State = HostCheck::State;

std::optional<std::string> read_line(const std::string& path) {
    std::ifstream in(path);
    std::string line;
    if (!std::getline(in, line))
        return std::nullopt;
    return line;
}

std::set<std::string> words_of(const std::string& cpuinfo, const std::string& key) {
    std::ifstream in(cpuinfo);
    for (std::string line; std::getline(in, line);) {
        if (!line.starts_with(key))
            continue;
        size_t colon = line.find(':');
        if (colon == std::string::npos || line.find_first_not_of(" \t", key.size()) != colon)
            continue;
        std::istringstream words(line.substr(colon + 1));
        std::set<std::string> out;
        for (std::string word; words >> word;)
            out.insert(word);
        return out;
    }
    return {};
}

/// A VMX capability MSR through the msr module, nothing if that is not there.
std::optional<uint64_t> read_msr(const std::string& root, uint32_t msr) {
    UniqueFd fd(::open((root + "/dev/cpu/0/msr").c_str(), O_RDONLY | O_CLOEXEC));
    uint64_t value;
    if (!fd.valid() || ::pread(fd.get(), &value, sizeof(value), msr) != sizeof(value))
        return std::nullopt;
    return value;
}

constexpr uint32_t msr_procbased_ctls2 = 0x48b; // high half: may be 1
constexpr uint32_t msr_ept_vpid_cap = 0x48c;
constexpr uint32_t msr_vmfunc = 0x491;

/// One CPU feature and the three places that tell of it.
struct Feature {
    const char* name;
    bool required;
    uint32_t probe_bit;   // of KVM_VIEWS_PROBE, 0: none
    const char* vmx_flag; // in "vmx flags" of /proc/cpuinfo, null: none
    uint32_t msr;         // 0: none
    uint64_t msr_mask;
    const char* advice;
};

constexpr Feature features[] = {
    {"EPT", true, KVM_VIEWS_HW_EPT, "ept", msr_procbased_ctls2, uint64_t{1} << 33,
     "load kvm-intel with ept=1; a CPU without EPT cannot do it"},
    {"execute-only EPT pages", true, KVM_VIEWS_HW_EXEC_ONLY, "ept_x_only", msr_ept_vpid_cap, 1,
     "use an Intel CPU from Nehalem on; inside a VM, one whose host offers the feature"},
    {"VMFUNC", true, KVM_VIEWS_HW_EPTP_SWITCHING, "eptp_switching", msr_procbased_ctls2,
     uint64_t{1} << 45, "use an Intel CPU from Haswell on; inside a VM, one whose host offers it"},
    {"VMFUNC leaf 0 (EPTP switching)", true, KVM_VIEWS_HW_EPTP_SWITCHING, "eptp_switching",
     msr_vmfunc, 1, "use an Intel CPU from Haswell on; inside a VM, one whose host offers it"},
    {"EPT-violation #VE", false, KVM_VIEWS_HW_VE, "ept_violation_ve", msr_procbased_ctls2,
     uint64_t{1} << 50, "not needed for tracing; there from Broadwell on"},
    {"VPID", false, KVM_VIEWS_HW_VPID, "vpid", msr_procbased_ctls2, uint64_t{1} << 37,
     "not needed, but every VM exit flushes the TLB without it"},
};

class Prober {
  public:
    Prober(std::optional<pid_t> pid, const HostPaths& paths) : pid_(pid), paths_(paths) {}

    std::vector<HostCheck> run() {
        ask_kvm();
        cpu();
        kvm();
        permissions();
        if (pid_)
            vm();
        return std::move(checks_);
    }

  private:
    std::string path(const std::string& p) const { return paths_.root + p; }

    void add(const char* group, std::string name, State state, std::string detail,
             std::string advice = {}) {
        if (state == State::ok)
            advice.clear();
        checks_.push_back({group, std::move(name), state, std::move(detail), std::move(advice)});
    }

    void ask_kvm() {
        auto probe = probe_views(path("/dev/kvm"), paths_.ioctl);
        if (probe)
            probe_ = *probe;
        else
            probe_error_ = probe.error();
    }

    void cpu() {
        auto flags = words_of(path("/proc/cpuinfo"), "flags");
        auto vmx_flags = words_of(path("/proc/cpuinfo"), "vmx flags");
        add("CPU", "VT-x", flags.contains("vmx") ? State::ok : State::missing,
            flags.contains("vmx") ? "/proc/cpuinfo has vmx" : "/proc/cpuinfo has no vmx",
            flags.contains("svm")
                ? "this is an AMD CPU; AMD has nothing like VMFUNC"
                : "enable virtualization in the firmware; inside a VM, enable nested "
                  "virtualization in its host. Or use the lab, which needs none");
        for (const Feature& feature : features)
            cpu_feature(feature, vmx_flags);
    }

    /// KVM's own word counts most, then the MSR, then what the kernel shows.
    void cpu_feature(const Feature& feature, const std::set<std::string>& vmx_flags) {
        std::optional<bool> there;
        std::string source;
        if (auto msr = feature.msr ? read_msr(paths_.root, feature.msr) : std::nullopt) {
            there = (*msr & feature.msr_mask) != 0;
            source = fmt::format("MSR {:#x} = {:#x}", feature.msr, *msr);
        } else if (!vmx_flags.empty() && feature.vmx_flag) {
            there = vmx_flags.contains(feature.vmx_flag);
            source = fmt::format("/proc/cpuinfo {} {}", *there ? "has" : "does not have",
                                 feature.vmx_flag);
        }
        if (probe_ && feature.probe_bit) {
            there = (probe_->hardware & feature.probe_bit) != 0;
            source = fmt::format("KVM says {}{}", *there ? "yes" : "no",
                                 source.empty() ? "" : "; " + source);
        }
        State state = !there             ? State::unknown
                      : *there           ? State::ok
                      : feature.required ? State::missing
                                         : State::optional;
        if (state == State::unknown && !feature.required)
            state = State::optional;
        add("CPU", feature.name, state, there ? source : "no source tells",
            there ? feature.advice : "load the patched KVM, or the msr module (modprobe msr)");
    }

    void kvm() {
        auto loaded = [&](const char* module) {
            struct stat st {};
            return ::stat(path(std::string("/sys/module/") + module).c_str(), &st) == 0;
        };
        for (const char* module : {"kvm", "kvm_intel"}) {
            bool there = loaded(module);
            add("KVM", fmt::format("module {}", module), there ? State::ok : State::missing,
                there ? "loaded" : "not loaded", "modprobe kvm-intel");
        }
        if (auto tdp = read_line(path("/sys/module/kvm/parameters/tdp_mmu")); tdp)
            add("KVM", "TDP MMU", *tdp == "Y" ? State::ok : State::missing, "tdp_mmu=" + *tdp,
                "load kvm with tdp_mmu=1");
        if (probe_) {
            bool same = probe_->version == KVM_VIEWS_API_VERSION;
            add("KVM", "EPT-view extension", same ? State::ok : State::missing,
                fmt::format("version {}", probe_->version),
                fmt::format("this shadowmon needs version {}: install both from one release",
                            KVM_VIEWS_API_VERSION));
        } else {
            bool stock = probe_error_->code() == ENOTTY;
            add("KVM", "EPT-view extension", State::missing,
                stock ? "this KVM has no EPT-view extension" : probe_error_->message(),
                "build the kvm and kvm-intel modules of kvm/ (kvm/README.md), load them in place "
                "of these, start VMs anew");
        }
        if (auto nested = read_line(path("/sys/module/kvm_intel/parameters/nested")); nested) {
            bool off = *nested == "N" || *nested == "0";
            add("KVM", "nested virtualization off", off ? State::ok : State::optional,
                "nested=" + *nested,
                "a guest that runs a hypervisor of its own is refused; kvm-intel nested=0 "
                "keeps guests from doing so");
        }
    }

    void permissions() {
        std::string device = path("/dev/kvm");
        if (::access(device.c_str(), F_OK) != 0)
            add("Permissions", "/dev/kvm", State::missing, "not there", "modprobe kvm-intel");
        else if (UniqueFd fd(::open(device.c_str(), O_RDWR | O_CLOEXEC)); !fd.valid())
            add("Permissions", "/dev/kvm", State::missing, std::strerror(errno),
                "run as root, or join the group kvm");
        else
            add("Permissions", "/dev/kvm", State::ok, "can be opened");

        bool root = ::geteuid() == 0;
        bool ptrace = has_capability(19); // CAP_SYS_PTRACE
        add("Permissions", "taking a VM from its VMM", ptrace ? State::ok : State::optional,
            ptrace ? "CAP_SYS_PTRACE is there"
                   : fmt::format("no CAP_SYS_PTRACE{}", root ? " (a container?)" : ""),
            "without it only VMMs of the same user can be watched, where ptrace_scope allows");
        auto scope = read_line(path("/proc/sys/kernel/yama/ptrace_scope"));
        bool open = !scope || *scope == "0" || (*scope != "3" && ptrace);
        add("Permissions", "ptrace scope", open ? State::ok : State::missing,
            scope ? "ptrace_scope=" + *scope : "no Yama",
            scope && *scope == "3"
                ? "boot with another kernel.yama.ptrace_scope; 3 cannot be undone"
                : "sysctl kernel.yama.ptrace_scope=0, or run as root");
    }

    bool has_capability(unsigned bit) const {
        std::ifstream in("/proc/self/status");
        for (std::string line; std::getline(in, line);)
            if (line.starts_with("CapEff:"))
                return std::strtoull(line.c_str() + 7, nullptr, 16) >> bit & 1;
        return false;
    }

    void vm() {
        auto process = VmProcess::open(*pid_);
        if (!process) {
            add("VM", fmt::format("process {}", *pid_), State::missing, process.error().message(),
                "name the process of a running KVM VM");
            return;
        }
        add("VM", fmt::format("process {}", *pid_), State::ok,
            fmt::format("{} runs a VM and lets it be taken", process->name()));
        if (!probe_)
            return;
        auto views = Views::attach(process->vm_fd(), path("/dev/kvm"), paths_.ioctl);
        if (!views) {
            add("VM", "EPT views", State::missing, views.error().message(),
                "see the kernel log (dmesg)");
            return;
        }
        auto info = views->info();
        add("VM", "EPT views", info ? State::ok : State::missing,
            info ? fmt::format("can be made: {} vCPUs, {} memory slots, {} physical-address bits",
                               info->nr_vcpus, info->nr_slots, info->phys_bits)
                 : info.error().message());
    }

    std::optional<pid_t> pid_;
    const HostPaths& paths_;
    std::optional<ViewsProbe> probe_;
    std::optional<Error> probe_error_;
    std::vector<HostCheck> checks_;
};

} // namespace

std::vector<HostCheck> probe_host(std::optional<pid_t> pid, const HostPaths& paths) {
    return Prober(pid, paths).run();
}

std::vector<HostCheck> probe_host(std::optional<int> vmm_pid) { return probe_host(vmm_pid, {}); }

bool host_is_ready(const std::vector<HostCheck>& checks) {
    return std::all_of(checks.begin(), checks.end(), [](const HostCheck& check) {
        return check.state == State::ok || check.state == State::optional;
    });
}

} // namespace shadowmon
