// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/base/result.h"
#include "src/vm/unique_fd.h"

#include <string>
#include <vector>

#include <sys/types.h>

namespace shadowmon {

/// The VMM process that runs the VM: QEMU or any other user of KVM, unmodified.
/// Owns a copy of its VM file descriptor, taken with pidfd_getfd, and a pidfd
/// that becomes readable when the process ends. Runs in the host process; the
/// VMM is neither stopped nor asked.
class VmProcess {
  public:
    /// Fails with a sentence for: no such process, not a VMM, a VMM of several
    /// VMs, a process that is not ours to touch, a kernel without pidfd_getfd.
    [[nodiscard]] static Result<VmProcess> open(pid_t pid);

    pid_t pid() const { return pid_; }
    const std::string& name() const { return name_; } ///< the process's comm
    int vm_fd() const { return vm_fd_.get(); }
    int pidfd() const { return pidfd_.get(); }
    bool alive() const;

  private:
    VmProcess(pid_t pid, std::string name, UniqueFd pidfd, UniqueFd vm_fd)
        : pid_(pid), name_(std::move(name)), pidfd_(std::move(pidfd)), vm_fd_(std::move(vm_fd)) {}

    pid_t pid_;
    std::string name_;
    UniqueFd pidfd_;
    UniqueFd vm_fd_;
};

/// Numbers of the descriptors in `fd_dir` (a /proc/PID/fd) that are KVM VMs,
/// ascending. Fails with the errno of opening the directory.
Result<std::vector<int>> find_vm_fds(const std::string& fd_dir);

} // namespace shadowmon
