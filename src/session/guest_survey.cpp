// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/session/guest_survey.h"

#include "abi/layout.h"

#include <algorithm>
#include <optional>

namespace shadowmon {

namespace {

/// The page tables through which a guest is looked at are those of whatever ran; when that
/// process ends meanwhile, they become something else.
constexpr unsigned survey_attempts = 5;

/// True for what another look would not change: firmware, 32 bits, not Linux, not the
/// kernel that the user says it is.
bool says_what_guest_is(const Error& error) {
    return error.code() == EAGAIN || error.code() == ENOTSUP || error.code() == ENOEXEC;
}

} // namespace

CpuState GuestCpus::state_of(const kvm_views_vcpu& vcpu) {
    CpuState state;
    state.cr0 = vcpu.cr0;
    state.cr3 = vcpu.cr3;
    state.cr4 = vcpu.cr4;
    state.efer = vcpu.efer;
    state.lstar = vcpu.lstar;
    state.idt_base = vcpu.idt_base;
    state.gs_base = vcpu.gs_base;
    state.kernel_gs_base = vcpu.kernel_gs_base;
    state.cpl = vcpu.cpl;
    return state;
}

Result<GuestCpus> survey_cpus(const Views& views) {
    auto info = views.info();
    if (!info)
        return fail(info.error());
    if (info->nr_vcpus > SM_MAX_VCPUS)
        return failf("the VM has {} vCPUs; this version watches VMs with up to {}", info->nr_vcpus,
                     SM_MAX_VCPUS);
    GuestCpus cpus;
    for (uint32_t i = 0; i < info->nr_vcpus; i++) {
        auto vcpu = views.vcpu(i);
        if (!vcpu)
            return fail(vcpu.error());
        if (vcpu->flags & KVM_VIEWS_VCPU_VMXON)
            return failf("vCPU {} is in VMX operation: the guest runs a hypervisor of its own "
                         "(nested virtualization), which this version does not watch",
                         i);
        if (vcpu->flags & KVM_VIEWS_VCPU_NEVER_RAN)
            continue;
        if (!(vcpu->flags & KVM_VIEWS_VCPU_RDTSCP))
            return failf(
                "the guest's CPU model has no RDTSCP, which time stamps need: start the VM "
                "with -cpu host, or add +rdtscp to its model");
        cpus.running.push_back(*vcpu);
    }
    if (cpus.running.empty())
        return failf("no vCPU of the VM has started yet");
    return cpus;
}

Result<KernelInfo> survey_kernel(const GuestCpus& cpus, const PhysicalMemory& memory,
                                 const SymbolFile* file) {
    std::optional<Error> first;
    for (const kvm_views_vcpu& vcpu : cpus.running) {
        auto kernel = inspect_kernel(memory, GuestCpus::state_of(vcpu), file);
        if (kernel)
            return kernel;
        if (!first)
            first = kernel.error();
    }
    return fail(*first);
}

Result<SurveyedGuest> survey_guest(const Views& views, const PhysicalMemory& memory,
                                   const SymbolFile* file,
                                   const std::function<void(const std::string&)>& log) {
    for (unsigned attempt = 1;; attempt++) {
        auto cpus = survey_cpus(views);
        if (!cpus)
            return fail(cpus.error());
        auto kernel = survey_kernel(*cpus, memory, file);
        if (kernel)
            return SurveyedGuest{std::move(*cpus), std::move(*kernel)};
        if (attempt == survey_attempts || says_what_guest_is(kernel.error()))
            return fail(kernel.error());
        log(kernel.error().message() + "; looking again");
    }
}

bool preempts_kernel_code(const KernelInfo& kernel, const PhysicalMemory& memory) {
    constexpr int32_t none = 0, voluntary = 1; // kernel/sched/core.c: preempt_dynamic_mode
    if (kernel.banner.find("PREEMPT") == std::string::npos)
        return false;
    auto symbol = kernel.symbols.address("preempt_dynamic_mode");
    auto gpa = symbol ? kernel.to_gpa(*symbol) : fail(symbol.error());
    int32_t mode = -1;
    return !gpa || !memory.read(*gpa, std::as_writable_bytes(std::span(&mode, 1))) ||
           (mode != none && mode != voluntary);
}

unsigned guest_phys_bits(const KernelInfo& kernel, const PhysicalMemory& memory, unsigned limit) {
    auto data = kernel.symbols.address("boot_cpu_data");
    auto member = kernel.btf.member("cpuinfo_x86", "x86_phys_bits");
    if (!data || !member || member->size != 1)
        return limit;
    auto gpa = kernel.to_gpa(*data + member->offset);
    uint8_t bits = 0;
    if (!gpa || !memory.read(*gpa, std::as_writable_bytes(std::span(&bits, 1))))
        return limit;
    // The guest may say what it likes; it only ever makes the choice narrower.
    return bits >= 36 ? std::min<unsigned>(bits, limit) : limit;
}

} // namespace shadowmon
