// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/kvm_views.h"
#include "src/base/address.h"
#include "src/base/result.h"
#include "src/vm/region_mapping.h"
#include "src/vm/unique_fd.h"

#include <functional>
#include <span>
#include <string>
#include <vector>

namespace shadowmon {

/// How the ioctls are made; tests put their own in its place. Returns like
/// ioctl(2), with errno set on -1.
using IoctlFunction = std::function<int(int fd, unsigned long request, void* argument)>;
IoctlFunction system_ioctl();

/// What the module and the CPU offer, from KVM_VIEWS_PROBE.
struct ViewsProbe {
    uint32_t version;
    uint32_t hardware; ///< KVM_VIEWS_HW_*
};

inline constexpr const char* kvm_device = "/dev/kvm";

/// Opens /dev/kvm and asks for the EPT-view extension.
Result<ViewsProbe> probe_views(const std::string& device = kvm_device,
                               const IoctlFunction& ioctl = system_ioctl());

/// A views file descriptor: the only way to the watched VM. Owns it; closing it
/// undoes every intrusion, in the kernel. One method per ioctl of
/// abi/kvm_views.h; errors say which step failed and what can be done about it.
class Views {
  public:
    /// Makes views for the VM behind `vm_fd`. Nothing changes in the VM yet.
    [[nodiscard]] static Result<Views> attach(int vm_fd, const std::string& device = kvm_device,
                                              IoctlFunction ioctl = system_ioctl());

    /// Wraps an open views fd.
    Views(UniqueFd fd, IoctlFunction ioctl) : fd_(std::move(fd)), ioctl_(std::move(ioctl)) {}

    int fd() const { return fd_.get(); }

    Result<kvm_views_info> info() const;
    Result<std::vector<kvm_views_slot>> slots() const;
    Status read_mem(Gpa gpa, std::span<std::byte> out) const;
    Result<kvm_views_vcpu> vcpu(uint32_t index) const;
    Result<kvm_views_stats> stats() const;

    /// The address range that a module in the guest offers; its version is 0 if there is none.
    /// The guest's word, to be verified.
    Result<kvm_views_offer> offer() const;

    Status set_region(Gpa gpa, uint32_t pages);
    Result<RegionMapping> map_region(uint32_t pages) const;
    Status protect(const kvm_views_protect& range);
    Status enable(const kvm_views_enable& arguments);

    /// Waits until every vCPU is outside the compartment and all is undone.
    /// Error code EINTR: a signal came first; the kernel goes on undoing.
    Status disable();

    /// What one stop-the-world batch did.
    struct Patched {
        uint64_t pause_tsc; ///< host TSC ticks that the vCPUs stood still
        uint32_t inside;    ///< vCPUs that were inside the compartment: quiesce() asks for them
    };
    /// All of them or none. Error code ESTALE: the guest's bytes are not as
    /// expected, the message says where and `failed` which patch it is.
    Result<Patched> patch(std::span<const kvm_views_patch> patches, uint32_t* failed = nullptr);

    /// Looks whether every vCPU has been outside the compartment since the last patch(): what a
    /// reverted hook led to can be used again then. Never waits. Error code EAGAIN: a vCPU may
    /// still be inside (or is paused there by the VMM); nothing is to be used again, ask later.
    Status quiesce();

    Status resume(uint32_t vcpu_id);

    /// The events queued on the fd, none if there are none. Does not block.
    Result<std::vector<kvm_views_event>> read_events() const;

  private:
    template <typename T> Status call(unsigned long request, T& argument, const char* step) const;

    UniqueFd fd_;
    IoctlFunction ioctl_;
};

/// "EPT", "VMFUNC EPTP switching", ... of the KVM_VIEWS_HW_REQUIRED bits missing in `hardware`.
std::vector<std::string> missing_hardware(uint32_t hardware);

/// A patch of `bytes` over `expect`, which are of one length.
kvm_views_patch make_patch(Gpa gpa, std::span<const std::byte> expect,
                           std::span<const std::byte> bytes, uint32_t flags);

} // namespace shadowmon
