// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/vm/views.h"

#include <cassert>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>

namespace shadowmon {

namespace {

constexpr size_t max_read = size_t{1} << 20; // of one KVM_VIEWS_READ_MEM
constexpr uint32_t max_slots = 32764;        // of KVM for one address space

Result<UniqueFd> open_kvm(const std::string& device) {
    UniqueFd kvm(::open(device.c_str(), O_RDWR | O_CLOEXEC));
    if (kvm.valid())
        return kvm;
    if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
        return fail(Error(fmt::format("{} is not there: load the kvm-intel module with the "
                                      "EPT-view extension, see `shadowmon doctor`",
                                      device),
                          errno));
    if (errno == EACCES || errno == EPERM)
        return fail(Error(fmt::format("no permission to open {}: run as root or as a member of "
                                      "its group",
                                      device),
                          errno));
    return fail(Error::from_errno("open " + device));
}

/// KVM without the extension knows none of its requests, and answers each as it would
/// one with bad arguments (EINVAL). This one has no arguments that could be bad, so it
/// has to come before all others.
Result<ViewsProbe> ask_for_views(int kvm_fd, const IoctlFunction& ioctl) {
    kvm_views_probe probe{};
    if (ioctl(kvm_fd, KVM_VIEWS_PROBE, &probe) >= 0)
        return ViewsProbe{probe.version, probe.hardware};
    if (errno == ENOTTY || errno == EINVAL)
        return fail(Error("the KVM that runs here has no EPT-view extension: build the kvm and "
                          "kvm-intel modules of kvm/ (kvm/README.md), load them in place of these, "
                          "and start the VM anew; see `shadowmon doctor`",
                          ENOTTY));
    return fail(Error::from_errno("ask KVM for its EPT-view extension"));
}

Status check_fit(const ViewsProbe& probe) {
    if (probe.version != KVM_VIEWS_API_VERSION)
        return fail(
            Error(fmt::format("the loaded KVM module speaks version {} of the EPT-view interface, "
                              "this shadowmon version {}: install the two from the same release",
                              probe.version, KVM_VIEWS_API_VERSION),
                  EPROTO));
    if (auto missing = missing_hardware(probe.hardware); !missing.empty())
        return fail(Error(
            fmt::format("this host lacks {}; see `shadowmon doctor`", fmt::join(missing, ", ")),
            EOPNOTSUPP));
    return {};
}

} // namespace

IoctlFunction system_ioctl() {
    return [](int fd, unsigned long request, void* argument) {
        return ::ioctl(fd, request, argument);
    };
}

std::vector<std::string> missing_hardware(uint32_t hardware) {
    static constexpr struct {
        uint32_t bit;
        const char* name;
    } names[] = {
        {KVM_VIEWS_HW_EPT, "extended page tables (EPT)"},
        {KVM_VIEWS_HW_TDP_MMU, "KVM's TDP MMU (kvm.tdp_mmu=1)"},
        {KVM_VIEWS_HW_EPTP_SWITCHING, "VMFUNC with EPTP switching"},
        {KVM_VIEWS_HW_EXEC_ONLY, "execute-only EPT pages"},
    };
    std::vector<std::string> missing;
    for (const auto& [bit, name] : names)
        if (!(hardware & bit))
            missing.emplace_back(name);
    return missing;
}

Result<ViewsProbe> probe_views(const std::string& device, const IoctlFunction& ioctl) {
    auto kvm = open_kvm(device);
    if (!kvm)
        return fail(kvm.error());
    return ask_for_views(kvm->get(), ioctl);
}

Result<Views> Views::attach(int vm_fd, const std::string& device, IoctlFunction ioctl) {
    auto kvm = open_kvm(device);
    if (!kvm)
        return fail(kvm.error());
    auto probe = ask_for_views(kvm->get(), ioctl);
    if (!probe)
        return fail(probe.error());
    SM_TRY(check_fit(*probe));
    kvm_views_create create{};
    create.version = KVM_VIEWS_API_VERSION;
    create.vm_fd = vm_fd;
    int fd = ioctl(kvm->get(), KVM_VIEWS_CREATE, &create);
    if (fd >= 0)
        return Views(UniqueFd(fd), std::move(ioctl));

    int code = errno;
    switch (code) {
    case EEXIST:
        return fail(Error("the VM is being watched already: another shadowmon is attached to it, "
                          "or an earlier one is still leaving it",
                          code));
    case EOPNOTSUPP:
        return fail(Error("the VM cannot be watched: it runs a hypervisor of its own (nested "
                          "virtualization), or is a confidential VM; the kernel log says which",
                          code));
    case EBADF:
    case EINVAL:
        return fail(Error("the descriptor taken from the VMM is not a VM of this KVM module "
                          "(was the module exchanged while the VM ran?)",
                          code));
    default:
        return fail(Error::from_errno("make EPT views for the VM", code));
    }
}

template <typename T>
Status Views::call(unsigned long request, T& argument, const char* step) const {
    if (ioctl_(fd_.get(), request, &argument) >= 0)
        return {};
    if (errno == ENODEV || errno == ESRCH)
        return fail(Error(fmt::format("{}: the VM is gone", step), errno));
    return fail(Error::from_errno(step));
}

Result<kvm_views_info> Views::info() const {
    kvm_views_info info{};
    SM_TRY(call(KVM_VIEWS_GET_INFO, info, "read the state of the views"));
    return info;
}

Result<std::vector<kvm_views_slot>> Views::slots() const {
    std::vector<kvm_views_slot> slots(64);
    for (;;) {
        kvm_views_slots arguments{};
        arguments.slots = reinterpret_cast<uintptr_t>(slots.data());
        arguments.nr = static_cast<uint32_t>(slots.size());
        if (ioctl_(fd_.get(), KVM_VIEWS_GET_SLOTS, &arguments) >= 0) {
            if (arguments.nr > slots.size())
                return failf(
                    "read the memory slots: the kernel names more than there was room for");
            slots.resize(arguments.nr);
            return slots;
        }
        if (errno != E2BIG || arguments.nr <= slots.size() || arguments.nr > max_slots)
            return fail(Error::from_errno("read the memory slots of the VM"));
        slots.resize(arguments.nr);
    }
}

Status Views::read_mem(Gpa gpa, std::span<std::byte> out) const {
    while (!out.empty()) {
        kvm_views_mem mem{};
        mem.gpa = gpa.value;
        mem.buf = reinterpret_cast<uintptr_t>(out.data());
        mem.len = std::min(out.size(), max_read);
        if (ioctl_(fd_.get(), KVM_VIEWS_READ_MEM, &mem) < 0) {
            int code = errno;
            if (code == ENXIO)
                return fail(Error(
                    fmt::format("guest-physical address {:#x} is not RAM", gpa.value + mem.done),
                    code));
            return fail(Error::from_errno(
                fmt::format("read {} bytes of guest memory at {:#x}", out.size(), gpa.value),
                code));
        }
        if (mem.done == 0 || mem.done > mem.len)
            return failf("read guest memory at {:#x}: {} of {} bytes", gpa.value, mem.done,
                         mem.len);
        out = out.subspan(mem.done);
        gpa = gpa + mem.done;
    }
    return {};
}

Result<kvm_views_vcpu> Views::vcpu(uint32_t index) const {
    kvm_views_vcpu vcpu{};
    vcpu.index = index;
    if (ioctl_(fd_.get(), KVM_VIEWS_GET_VCPU, &vcpu) < 0)
        return fail(Error::from_errno(fmt::format("read the registers of vCPU {}", index)));
    return vcpu;
}

Result<kvm_views_stats> Views::stats() const {
    kvm_views_stats stats{};
    SM_TRY(call(KVM_VIEWS_GET_STATS, stats, "read the counters of the views"));
    return stats;
}

Result<kvm_views_offer> Views::offer() const {
    kvm_views_offer offer{};
    SM_TRY(call(KVM_VIEWS_GET_OFFER, offer, "read what the guest offers"));
    return offer;
}

Status Views::set_region(Gpa gpa, uint32_t pages) {
    kvm_views_region region{};
    region.gpa = gpa.value;
    region.pages = pages;
    if (ioctl_(fd_.get(), KVM_VIEWS_SET_REGION, &region) >= 0)
        return {};
    int code = errno;
    std::string step =
        fmt::format("place the hidden region of {} pages at {:#x}", pages, gpa.value);
    if (code == EADDRINUSE)
        return fail(Error(step + ": the guest has memory there", code));
    if (code == ENOMEM)
        return fail(Error(
            fmt::format("{}: the host has no {} MiB of memory left for it", step, pages / 256),
            code));
    return fail(Error::from_errno(step, code));
}

Result<RegionMapping> Views::map_region(uint32_t pages) const {
    return RegionMapping::map(fd_.get(), pages);
}

Status Views::protect(const kvm_views_protect& range) {
    kvm_views_protect arguments = range;
    if (ioctl_(fd_.get(), KVM_VIEWS_PROTECT, &arguments) >= 0)
        return {};
    return fail(Error::from_errno(fmt::format("give {} pages at {:#x} rights {} in view {}",
                                              range.pages, range.gpa, range.rights, range.view)));
}

Status Views::enable(const kvm_views_enable& arguments) {
    kvm_views_enable copy = arguments;
    if (ioctl_(fd_.get(), KVM_VIEWS_ENABLE, &copy) >= 0)
        return {};
    if (errno == EOPNOTSUPP)
        return fail(Error("arm the vCPUs: the VM runs a hypervisor of its own (nested "
                          "virtualization)",
                          errno));
    return fail(Error::from_errno("arm the vCPUs"));
}

Status Views::disable() {
    if (ioctl_(fd_.get(), KVM_VIEWS_DISABLE, nullptr) >= 0)
        return {};
    return fail(Error::from_errno("undo the views"));
}

Result<Views::Patched> Views::patch(std::span<const kvm_views_patch> patches, uint32_t* failed) {
    if (patches.size() > KVM_VIEWS_MAX_PATCHES)
        return failf("{} patches in one batch, at most {} are possible", patches.size(),
                     KVM_VIEWS_MAX_PATCHES);
    kvm_views_patches arguments{};
    arguments.patches = reinterpret_cast<uintptr_t>(patches.data());
    arguments.nr = static_cast<uint32_t>(patches.size());
    if (ioctl_(fd_.get(), KVM_VIEWS_PATCH, &arguments) >= 0)
        return Patched{arguments.pause_tsc, arguments.inside};
    int code = errno;
    if (failed)
        *failed = arguments.failed_index;
    if (code == ESTALE && arguments.failed_index < patches.size())
        return fail(Error(fmt::format("patch {} bytes of the guest at {:#x}: the guest has changed "
                                      "them since they were looked at",
                                      patches[arguments.failed_index].len,
                                      patches[arguments.failed_index].gpa),
                          code));
    return fail(
        Error::from_errno(fmt::format("patch the guest in {} places", patches.size()), code));
}

Status Views::quiesce() {
    // The argument is a number.
    if (ioctl_(fd_.get(), KVM_VIEWS_QUIESCE, reinterpret_cast<void*>(KVM_VIEWS_QUIESCE_LOOK)) >= 0)
        return {};
    int code = errno;
    if (code == EAGAIN)
        return fail(Error("see that the vCPUs have left the compartment: one of them may be "
                          "inside; let the VM run if it is paused, and try again",
                          code));
    return fail(Error::from_errno("see that the vCPUs have left the compartment", code));
}

Status Views::resume(uint32_t vcpu_id) {
    kvm_views_resume arguments{};
    arguments.vcpu_id = vcpu_id;
    if (ioctl_(fd_.get(), KVM_VIEWS_RESUME, &arguments) >= 0)
        return {};
    return fail(Error::from_errno(fmt::format("resume vCPU {}", vcpu_id)));
}

Result<std::vector<kvm_views_event>> Views::read_events() const {
    std::vector<kvm_views_event> events(64);
    pollfd p{fd_.get(), POLLIN, 0};
    if (::poll(&p, 1, 0) <= 0 || !(p.revents & POLLIN))
        return std::vector<kvm_views_event>();
    ssize_t got = ::read(fd_.get(), events.data(), events.size() * sizeof(kvm_views_event));
    if (got < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return std::vector<kvm_views_event>();
        return fail(Error::from_errno("read the events of the views"));
    }
    events.resize(static_cast<size_t>(got) / sizeof(kvm_views_event));
    return events;
}

kvm_views_patch make_patch(Gpa gpa, std::span<const std::byte> expect,
                           std::span<const std::byte> bytes, uint32_t flags) {
    assert(expect.size() == bytes.size() && !bytes.empty() &&
           bytes.size() <= KVM_VIEWS_MAX_PATCH_LEN);
    kvm_views_patch patch{};
    patch.gpa = gpa.value;
    patch.len = static_cast<uint32_t>(bytes.size());
    patch.flags = flags;
    std::memcpy(patch.expect, expect.data(), expect.size());
    std::memcpy(patch.bytes, bytes.data(), bytes.size());
    return patch;
}

} // namespace shadowmon
