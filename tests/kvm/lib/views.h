// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/kvm_views.h"
#include "src/base/address.h"
#include "tests/kvm/lib/fd.h"

#include <optional>
#include <span>
#include <vector>

namespace shadowmon::kvmtest {

/// Ends the test as skipped when this machine has no patched KVM, no VMX, or lacks one of
/// `hardware` (KVM_VIEWS_HW_*; the required ones are always asked for).
void require_hardware(uint32_t hardware = 0);

/// A views fd. Methods named like the ioctl return 0 or -errno; `must_...` ones are fatal.
/// Closing undoes whatever was done through it, which is the kernel's promise under test here.
class Views {
  public:
    /// The VM's fd in this process. Fatal when it does not work.
    static Views attach(int vm_fd);
    /// 0 or -errno, for arguments that are to be refused.
    static int try_attach(int vm_fd, Views* result = nullptr,
                          uint32_t version = KVM_VIEWS_API_VERSION, uint32_t flags = 0);
    /// Takes the VM's fd out of another process, as a monitor does.
    static Views attach_to_process(int pid, int remote_vm_fd);

    Views() = default;
    int fd() const { return fd_.get(); }
    bool valid() const { return fd_.valid(); }
    void close() { fd_.reset(); }

    int call(unsigned long request, void* argument = nullptr) const;

    kvm_views_info info() const;
    kvm_views_stats stats() const;
    kvm_views_offer offer() const;
    kvm_views_vcpu vcpu(uint32_t index) const;
    int get_vcpu(uint32_t index, kvm_views_vcpu& state) const;
    std::vector<kvm_views_slot> slots() const;
    int read_memory(Gpa gpa, std::span<uint8_t> buffer, uint64_t* done = nullptr) const;

    int set_region(Gpa gpa, uint32_t pages) const;
    Mapping map_region(uint32_t pages) const;
    int protect(Gpa gpa, uint32_t pages, uint8_t view, uint8_t rights,
                uint8_t on = KVM_VIEWS_ON_DENY) const;
    int clear_protection(Gpa gpa, uint32_t pages, uint8_t view) const;
    int enable(Gva gate, uint64_t length, uint32_t flags = 0, uint32_t ve_page = 0) const;
    int disable() const;
    int patch(std::span<kvm_views_patch> patches, uint32_t* failed_index = nullptr,
              uint64_t* pause_tsc = nullptr, uint32_t* inside = nullptr) const;
    int quiesce(unsigned long how = 0) const;
    int resume(uint32_t vcpu_id) const;

    /// The next event, or nothing when none came in time.
    std::optional<kvm_views_event> next_event(int timeout_ms) const;
    /// The next event, which must come and be of this type.
    kvm_views_event must_get_event(uint32_t type) const;
    /// poll(2) revents within the time.
    short poll(int timeout_ms) const;

  private:
    Fd fd_;
};

/// One entry for PATCH.
kvm_views_patch make_patch(Gpa gpa, std::span<const uint8_t> expect, std::span<const uint8_t> bytes,
                           uint32_t flags = 0);

} // namespace shadowmon::kvmtest
