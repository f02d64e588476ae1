// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/vm/vm_process.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <fstream>
#include <memory>
#include <poll.h>
#include <string_view>
#include <sys/syscall.h>

namespace shadowmon {

namespace {

constexpr std::string_view vm_link = "anon_inode:kvm-vm";
constexpr int kcmp_file = 0; // KCMP_FILE of linux/kcmp.h

int pidfd_open(pid_t pid) { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)); }

int pidfd_getfd(int pidfd, int fd) {
    return static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd, fd, 0));
}

std::string read_comm(pid_t pid) {
    std::ifstream in(fmt::format("/proc/{}/comm", pid));
    std::string comm;
    std::getline(in, comm);
    return comm;
}

/// Reads a "Key:\tvalue" line of /proc/PID/status as a number, -1 if absent.
long status_number(pid_t pid, std::string_view key) {
    std::ifstream in(fmt::format("/proc/{}/status", pid));
    for (std::string line; std::getline(in, line);) {
        if (line.starts_with(key) && line.size() > key.size() && line[key.size()] == ':')
            return std::strtol(line.c_str() + key.size() + 1, nullptr, 10);
    }
    return -1;
}

Failure not_ours(pid_t pid, const std::string& name) {
    long owner = status_number(pid, "Uid");
    return fail(Error(
        fmt::format("process {} ({}){} is not ours to touch: taking its VM needs the right to "
                    "ptrace it; run shadowmon as root or with CAP_SYS_PTRACE in the namespaces of "
                    "that process, and see /proc/sys/kernel/yama/ptrace_scope",
                    pid, name, owner >= 0 ? fmt::format(" of user {}", owner) : std::string()),
        EPERM));
}

/// Two descriptor numbers of one process may be the same open file (dup).
bool same_file(pid_t pid, int a, int b) {
    return ::syscall(SYS_kcmp, pid, pid, kcmp_file, a, b) == 0;
}

} // namespace

Result<std::vector<int>> find_vm_fds(const std::string& fd_dir) {
    std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(fd_dir.c_str()), ::closedir);
    if (!dir)
        return fail(Error::from_errno("open " + fd_dir));
    std::vector<int> fds;
    while (const dirent* entry = ::readdir(dir.get())) {
        int number = 0;
        const char* end = entry->d_name + std::strlen(entry->d_name);
        if (auto [rest, bad] = std::from_chars(entry->d_name, end, number);
            bad != std::errc() || rest != end)
            continue;
        char target[64];
        ssize_t length = ::readlinkat(::dirfd(dir.get()), entry->d_name, target, sizeof(target));
        if (length > 0 && std::string_view(target, static_cast<size_t>(length)) == vm_link)
            fds.push_back(number);
    }
    std::sort(fds.begin(), fds.end());
    return fds;
}

Result<VmProcess> VmProcess::open(pid_t pid) {
    if (pid <= 0)
        return failf("{} is not a process id; --vm takes the pid of the VMM, see `pgrep -a qemu`",
                     pid);
    UniqueFd pidfd(pidfd_open(pid));
    if (!pidfd.valid()) {
        if (errno == ESRCH)
            return fail(Error(fmt::format("there is no process {}; `pgrep -a qemu` or `virsh "
                                          "qemu-monitor-command` shows the pid of a VM",
                                          pid),
                              ESRCH));
        if (errno == ENOSYS)
            return fail(
                Error("this kernel has no pidfd_open (Linux 5.3) and pidfd_getfd (5.6)", ENOSYS));
        if (errno == EINVAL || errno == ENOENT) {
            long tgid = status_number(pid, "Tgid");
            return fail(Error(
                fmt::format("{} is a thread, not a process{}", pid,
                            tgid > 0 ? fmt::format("; its process is {}", tgid) : std::string()),
                EINVAL));
        }
        return fail(Error::from_errno(fmt::format("pidfd_open of process {}", pid)));
    }
    std::string name = read_comm(pid);

    auto fds = find_vm_fds(fmt::format("/proc/{}/fd", pid));
    if (!fds) {
        if (fds.error().code() == EACCES || fds.error().code() == EPERM)
            return not_ours(pid, name);
        if (fds.error().code() == ENOENT)
            return fail(Error(fmt::format("process {} has just ended", pid), ESRCH));
        return fail(fds.error());
    }
    if (fds->empty())
        return failf("process {} ({}) is not a VMM: none of its files is a KVM VM. Name the "
                     "process that opened /dev/kvm (`pgrep -a qemu`), and note that a QEMU without "
                     "-enable-kvm or -accel kvm runs no KVM VM",
                     pid, name);
    int first = fds->front();
    for (int other : *fds) {
        if (other != first && !same_file(pid, first, other))
            return failf("process {} ({}) runs several VMs (descriptors {}); this version watches "
                         "VMMs with one VM each",
                         pid, name, fmt::join(*fds, ", "));
    }

    UniqueFd vm_fd(pidfd_getfd(pidfd.get(), first));
    if (!vm_fd.valid()) {
        switch (errno) {
        case EPERM:
            return not_ours(pid, name);
        case ENOSYS:
            return fail(Error("this kernel has no pidfd_getfd (Linux 5.6), or a seccomp filter "
                              "such as a container's denies it",
                              ENOSYS));
        case ESRCH:
        case EBADF:
            return fail(Error(
                fmt::format("process {} ({}) has just ended or closed its VM", pid, name), ESRCH));
        default:
            return fail(Error::from_errno(
                fmt::format("pidfd_getfd of descriptor {} of process {} ({})", first, pid, name)));
        }
    }
    return VmProcess(pid, std::move(name), std::move(pidfd), std::move(vm_fd));
}

bool VmProcess::alive() const {
    pollfd p{pidfd_.get(), POLLIN, 0};
    return ::poll(&p, 1, 0) == 0;
}

} // namespace shadowmon
