// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/kvm/lib/views.h"

#include "tests/kvm/lib/check.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

namespace shadowmon::kvmtest {

namespace {
/// Long enough that only a lost event runs into it.
constexpr int event_timeout_ms = 3000;

Fd open_kvm() {
    Fd kvm(open("/dev/kvm", O_RDWR | O_CLOEXEC));
    if (!kvm.valid())
        skip("no /dev/kvm: %m");
    return kvm;
}

int result_of(int result) { return result < 0 ? -errno : result; }
} // namespace

void require_hardware(uint32_t hardware) {
    static constexpr struct {
        uint32_t bit;
        const char* name;
    } hardware_pieces[] = {
        {KVM_VIEWS_HW_EPT, "EPT"},
        {KVM_VIEWS_HW_TDP_MMU, "the TDP MMU"},
        {KVM_VIEWS_HW_EPTP_SWITCHING, "VMFUNC EPTP switching"},
        {KVM_VIEWS_HW_EXEC_ONLY, "execute-only EPT pages"},
        {KVM_VIEWS_HW_VE, "EPT-violation #VE"},
        {KVM_VIEWS_HW_VPID, "VPID"},
    };
    Fd kvm = open_kvm();
    kvm_views_probe probe{};
    if (ioctl(kvm.get(), KVM_VIEWS_PROBE, &probe))
        skip("this KVM has no EPT views: KVM_VIEWS_PROBE: %m");
    if (probe.version != KVM_VIEWS_API_VERSION)
        SM_FAIL("KVM_VIEWS_PROBE: version %u, tests are for %u", probe.version,
                KVM_VIEWS_API_VERSION);
    uint32_t missing = (hardware | KVM_VIEWS_HW_REQUIRED) & ~probe.hardware;
    for (const auto& piece : hardware_pieces) {
        if (missing & piece.bit)
            skip("the CPU or kernel lacks %s", piece.name);
    }
}

int Views::try_attach(int vm_fd, Views* result, uint32_t version, uint32_t flags) {
    Fd kvm = open_kvm();
    kvm_views_create create{};
    create.version = version;
    create.flags = flags;
    create.vm_fd = vm_fd;
    int fd = result_of(ioctl(kvm.get(), KVM_VIEWS_CREATE, &create));
    if (fd < 0)
        return fd;
    Views views;
    views.fd_ = Fd(fd);
    if (result)
        *result = std::move(views);
    return 0;
}

Views Views::attach(int vm_fd) {
    Views views;
    SM_CHECK_EQ(try_attach(vm_fd, &views), 0, "KVM_VIEWS_CREATE works");
    return views;
}

Views Views::attach_to_process(int pid, int remote_vm_fd) {
    Fd pidfd(static_cast<int>(SM_CHECK_SYS(syscall(SYS_pidfd_open, pid, 0))));
    Fd vm(static_cast<int>(SM_CHECK_SYS(syscall(SYS_pidfd_getfd, pidfd.get(), remote_vm_fd, 0))));
    return attach(vm.get());
}

int Views::call(unsigned long request, void* argument) const {
    return result_of(ioctl(fd_.get(), request, argument));
}

kvm_views_info Views::info() const {
    kvm_views_info info{};
    SM_CHECK_EQ(call(KVM_VIEWS_GET_INFO, &info), 0, "GET_INFO works");
    return info;
}

kvm_views_stats Views::stats() const {
    kvm_views_stats stats{};
    SM_CHECK_EQ(call(KVM_VIEWS_GET_STATS, &stats), 0, "GET_STATS works");
    return stats;
}

kvm_views_offer Views::offer() const {
    kvm_views_offer offer{};
    SM_CHECK_EQ(call(KVM_VIEWS_GET_OFFER, &offer), 0, "GET_OFFER works");
    return offer;
}

int Views::get_vcpu(uint32_t index, kvm_views_vcpu& state) const {
    state = {};
    state.index = index;
    return call(KVM_VIEWS_GET_VCPU, &state);
}

kvm_views_vcpu Views::vcpu(uint32_t index) const {
    kvm_views_vcpu state;
    SM_CHECK_EQ(get_vcpu(index, state), 0, "GET_VCPU works");
    return state;
}

std::vector<kvm_views_slot> Views::slots() const {
    std::vector<kvm_views_slot> list(64);
    kvm_views_slots request{};
    request.slots = reinterpret_cast<uint64_t>(list.data());
    request.nr = list.size();
    SM_CHECK_EQ(call(KVM_VIEWS_GET_SLOTS, &request), 0, "GET_SLOTS works");
    SM_CHECK(request.nr <= list.size());
    list.resize(request.nr);
    return list;
}

int Views::read_memory(Gpa gpa, std::span<uint8_t> buffer, uint64_t* done) const {
    kvm_views_mem request{};
    request.gpa = gpa.value;
    request.buf = reinterpret_cast<uint64_t>(buffer.data());
    request.len = buffer.size();
    int result = call(KVM_VIEWS_READ_MEM, &request);
    if (done)
        *done = request.done;
    return result;
}

int Views::set_region(Gpa gpa, uint32_t pages) const {
    kvm_views_region region{};
    region.gpa = gpa.value;
    region.pages = pages;
    return call(KVM_VIEWS_SET_REGION, &region);
}

Mapping Views::map_region(uint32_t pages) const {
    size_t size = size_t{pages} * 4096;
    void* start = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    if (start == MAP_FAILED)
        SM_FAIL("mmap of the hidden region, %u pages: %m", pages);
    return Mapping(start, size);
}

int Views::protect(Gpa gpa, uint32_t pages, uint8_t view, uint8_t rights, uint8_t on) const {
    kvm_views_protect request{};
    request.gpa = gpa.value;
    request.pages = pages;
    request.view = view;
    request.rights = rights;
    request.on = on;
    return call(KVM_VIEWS_PROTECT, &request);
}

int Views::clear_protection(Gpa gpa, uint32_t pages, uint8_t view) const {
    kvm_views_protect request{};
    request.gpa = gpa.value;
    request.pages = pages;
    request.view = view;
    request.flags = KVM_VIEWS_PROTECT_CLEAR;
    return call(KVM_VIEWS_PROTECT, &request);
}

int Views::enable(Gva gate, uint64_t length, uint32_t flags, uint32_t ve_page) const {
    kvm_views_enable request{};
    request.gate_gva = gate.value;
    request.gate_len = length;
    request.flags = flags;
    request.ve_page = ve_page;
    return call(KVM_VIEWS_ENABLE, &request);
}

int Views::disable() const { return call(KVM_VIEWS_DISABLE); }

int Views::patch(std::span<kvm_views_patch> patches, uint32_t* failed_index, uint64_t* pause_tsc,
                 uint32_t* inside) const {
    kvm_views_patches request{};
    request.patches = reinterpret_cast<uint64_t>(patches.data());
    request.nr = patches.size();
    request.failed_index = ~0u;
    int result = call(KVM_VIEWS_PATCH, &request);
    if (failed_index)
        *failed_index = request.failed_index;
    if (pause_tsc)
        *pause_tsc = request.pause_tsc;
    if (inside)
        *inside = request.inside;
    return result;
}

int Views::quiesce(unsigned long how) const {
    return call(KVM_VIEWS_QUIESCE, reinterpret_cast<void*>(how));
}

int Views::resume(uint32_t vcpu_id) const {
    kvm_views_resume request{};
    request.vcpu_id = vcpu_id;
    return call(KVM_VIEWS_RESUME, &request);
}

short Views::poll(int timeout_ms) const {
    pollfd entry{fd_.get(), POLLIN, 0};
    SM_CHECK_SYS(::poll(&entry, 1, timeout_ms));
    return entry.revents;
}

std::optional<kvm_views_event> Views::next_event(int timeout_ms) const {
    if (!(poll(timeout_ms) & POLLIN))
        return std::nullopt;
    kvm_views_event event{};
    ssize_t size = SM_CHECK_SYS(read(fd_.get(), &event, sizeof event));
    SM_CHECK_EQ(size, sizeof event, "read gives whole records");
    return event;
}

kvm_views_event Views::must_get_event(uint32_t type) const {
    auto event = next_event(event_timeout_ms);
    if (!event)
        SM_FAIL("no event came, expected one of type %u", type);
    SM_CHECK_EQ(event->type, type, "the next event is of the expected type");
    return *event;
}

kvm_views_patch make_patch(Gpa gpa, std::span<const uint8_t> expect, std::span<const uint8_t> bytes,
                           uint32_t flags) {
    SM_CHECK(expect.size() <= KVM_VIEWS_MAX_PATCH_LEN);
    SM_CHECK(bytes.empty() || bytes.size() == expect.size());
    kvm_views_patch patch{};
    patch.gpa = gpa.value;
    patch.len = expect.size();
    patch.flags = flags;
    memcpy(patch.expect, expect.data(), expect.size());
    memcpy(patch.bytes, bytes.data(), bytes.size());
    return patch;
}

} // namespace shadowmon::kvmtest
