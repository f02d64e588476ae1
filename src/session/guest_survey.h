// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/kernel_info.h"
#include "src/vm/views.h"

#include <functional>
#include <string>
#include <vector>

namespace shadowmon {

/// The vCPUs of a VM, looked at once and found fit to be watched.
struct GuestCpus {
    std::vector<kvm_views_vcpu> running; ///< those that have left reset

    static CpuState state_of(const kvm_views_vcpu& vcpu);
};

/// Reads the registers of every vCPU. Refuses, each with its own sentence: too many
/// vCPUs, none started, a vCPU in VMX operation, a guest without RDTSCP.
Result<GuestCpus> survey_cpus(const Views& views);

/// The kernel as seen from the first vCPU that shows it. The error is that of the
/// first vCPU if none does. `file` may be null.
Result<KernelInfo> survey_kernel(const GuestCpus& cpus, const PhysicalMemory& memory,
                                 const SymbolFile* file = nullptr);

/// A guest that was looked at and found fit to be watched.
struct SurveyedGuest {
    GuestCpus cpus;
    KernelInfo kernel;
};

/// Both of the above, again if the page tables that were used became something else meanwhile,
/// which `log` is told. `file` may be null.
Result<SurveyedGuest> survey_guest(const Views& views, const PhysicalMemory& memory,
                                   const SymbolFile* file,
                                   const std::function<void(const std::string&)>& log);

/// True if the guest's kernel may schedule in an interrupt of its own code (PREEMPT, also as chosen
/// at boot), or does not say that it does not.
bool preempts_kernel_code(const KernelInfo& kernel, const PhysicalMemory& memory);

/// How wide the guest takes physical addresses to be: page-table entries beyond that
/// are malformed to it. At most `limit`, which is what the VM can translate.
unsigned guest_phys_bits(const KernelInfo& kernel, const PhysicalMemory& memory, unsigned limit);

} // namespace shadowmon
