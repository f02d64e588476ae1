// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <shadowmonitor/explain.h>
#include <shadowmonitor/result.h>

#include <functional>
#include <memory>
#include <string>

namespace shadowmon {

/// Told about a step, or about something that happened, in one sentence without a line's end.
/// Carries no address of the monitor's own, so it may go to a log that the guest can read.
using Log = std::function<void(const std::string&)>;

/// A running VM of KVM, found by the process that runs it (QEMU or any other VMM, unmodified),
/// with the views that let it be watched. Owns a handle of each; nothing is changed in the VM
/// until a Monitor attaches to it. Only one Vm of a VM can exist on the host at a time. One
/// thread uses it.
class Vm {
  public:
    /// Fails with a sentence for: no such process, not a VMM, a VMM of several VMs, a process
    /// that is not ours to touch, a VM that is being watched already, a host that cannot do it.
    [[nodiscard]] static Result<Vm> open(int vmm_pid);

    Vm(Vm&& other) noexcept;
    Vm& operator=(Vm&& other) noexcept;
    ~Vm();

    int vmm_pid() const;
    const std::string& vmm_name() const; ///< the process's comm

    /// Says what is at a place of the guest's kernel (FUNCTION, FUNCTION+OFFSET, 0xADDRESS), and
    /// how it could be hooked. A place that cannot be is no error. Reads all of the kernel's code:
    /// takes a second.
    Result<Explanation> explain(const std::string& place, const Log& step = {}) const;

  private:
    friend class Monitor;
    struct Parts;
    explicit Vm(std::unique_ptr<Parts> parts);

    std::unique_ptr<Parts> parts_;
};

} // namespace shadowmon
