// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "abi/config.h"
#include "src/session/monitor_session.h"
#include "tests/unit/guest/image_file.h"

#include <fcntl.h>
#include <map>
#include <sys/mman.h>
#include <sys/stat.h>

namespace shadowmon::test {

/// The kernel side of a views fd, played over the memory of a stock guest: it answers
/// every ioctl, applies patches to the image and remembers what it was asked. The
/// region is a memfd, which stands for the views fd too.
class FakeVm {
  public:
    FakeVm(const std::string& folder, const std::string& snapshot)
        : guest(folder), memory(guest.path(snapshot + ".mem")) {
        for (const CpuState& state : guest.cpus(snapshot)) {
            kvm_views_vcpu vcpu{};
            vcpu.index = vcpu.vcpu_id = static_cast<uint32_t>(vcpus.size());
            vcpu.flags = KVM_VIEWS_VCPU_RDTSCP;
            vcpu.cr0 = state.cr0;
            vcpu.cr3 = state.cr3;
            vcpu.cr4 = state.cr4;
            vcpu.efer = state.efer;
            vcpu.lstar = state.lstar;
            vcpu.idt_base = state.idt_base;
            vcpu.idt_limit = 0xfff;
            vcpu.gs_base = state.gs_base;
            vcpu.kernel_gs_base = state.kernel_gs_base;
            vcpu.cpl = state.cpl;
            vcpu.guest_tsc = 1'000'000'000;
            vcpu.realtime_ns = 1'700'000'000'000'000'000;
            vcpu.tsc_khz = 1'000'000;
            vcpus.push_back(vcpu);
        }
        fd_ = memfd_create("views", MFD_CLOEXEC);
        // Reads of events find none until some are queued.
        if (fd_ < 0 || lseek(fd_, events_at, SEEK_SET) != events_at)
            throw std::runtime_error("memfd");
    }
    ~FakeVm() { close(fd_); }
    FakeVm(const FakeVm&) = delete;
    FakeVm& operator=(const FakeVm&) = delete;

    std::unique_ptr<Views> views() {
        return std::make_unique<Views>(UniqueFd(dup(fd_)),
                                       [this](int, unsigned long request, void* argument) {
                                           return ioctl(request, argument);
                                       });
    }

    void queue(const kvm_views_event& event) {
        if (pwrite(fd_, &event, sizeof(event), queued_) != sizeof(event))
            throw std::runtime_error("pwrite");
        queued_ += sizeof(event);
    }

    /// How often a request was made.
    size_t count(unsigned long request) const {
        size_t n = 0;
        for (unsigned long made : requests)
            n += made == request;
        return n;
    }

    GuestImage guest;
    ImageFile memory;
    std::vector<kvm_views_vcpu> vcpus;
    std::vector<unsigned long> requests;
    std::map<unsigned long, int> fail_with; ///< errno by request
    kvm_views_region region{};
    std::vector<kvm_views_protect> protections;
    std::vector<std::vector<kvm_views_patch>> batches;
    std::vector<uint32_t> resumed;
    kvm_views_stats stats{};
    kvm_views_offer offer{};
    size_t waits = 0; ///< requests that may have the caller wait for vCPUs while a trace runs
    std::function<void()> on_resume = [] {};

  private:
    static constexpr off_t events_at = off_t{1} << 32;

    int ioctl(unsigned long request, void* argument) {
        requests.push_back(request);
        if (request == KVM_VIEWS_QUIESCE)
            waits += reinterpret_cast<uintptr_t>(argument) != KVM_VIEWS_QUIESCE_LOOK;
        if (auto found = fail_with.find(request); found != fail_with.end()) {
            errno = found->second;
            return -1;
        }
        switch (request) {
        case KVM_VIEWS_GET_INFO: {
            auto* info = static_cast<kvm_views_info*>(argument);
            info->nr_vcpus = static_cast<uint32_t>(vcpus.size());
            info->phys_bits = 46;
            info->nr_slots = 1;
            return 0;
        }
        case KVM_VIEWS_GET_SLOTS: {
            auto* slots = static_cast<kvm_views_slots*>(argument);
            slots->nr = 1;
            auto* out = reinterpret_cast<kvm_views_slot*>(slots->slots);
            *out = {0, memory.file_size(), 0, 0, 0};
            return 0;
        }
        case KVM_VIEWS_READ_MEM: {
            auto* mem = static_cast<kvm_views_mem*>(argument);
            std::span out(reinterpret_cast<std::byte*>(mem->buf), mem->len);
            if (!memory.read(Gpa(mem->gpa), out)) {
                errno = ENXIO;
                return -1;
            }
            mem->done = mem->len;
            return 0;
        }
        case KVM_VIEWS_GET_VCPU: {
            auto* vcpu = static_cast<kvm_views_vcpu*>(argument);
            *vcpu = vcpus.at(vcpu->index);
            return 0;
        }
        case KVM_VIEWS_SET_REGION:
            region = *static_cast<kvm_views_region*>(argument);
            // Its pages start zeroed, for each who attaches.
            return fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                             off_t{region.pages} * 4096) |
                   ftruncate(fd_, off_t{region.pages} * 4096);
        case KVM_VIEWS_PROTECT:
            protections.push_back(*static_cast<kvm_views_protect*>(argument));
            return 0;
        case KVM_VIEWS_PATCH:
            return patch(static_cast<kvm_views_patches*>(argument));
        case KVM_VIEWS_RESUME:
            resumed.push_back(static_cast<kvm_views_resume*>(argument)->vcpu_id);
            on_resume();
            return 0;
        case KVM_VIEWS_GET_STATS:
            *static_cast<kvm_views_stats*>(argument) = stats;
            return 0;
        case KVM_VIEWS_GET_OFFER:
            *static_cast<kvm_views_offer*>(argument) = offer;
            return 0;
        case KVM_VIEWS_ENABLE:
        case KVM_VIEWS_QUIESCE:
        case KVM_VIEWS_DISABLE:
            return 0;
        }
        errno = ENOTTY;
        return -1;
    }

    int patch(kvm_views_patches* arguments) {
        std::span patches(reinterpret_cast<const kvm_views_patch*>(arguments->patches),
                          arguments->nr);
        for (uint32_t i = 0; i < patches.size(); i++) {
            std::vector<std::byte> now(patches[i].len);
            if (!memory.read(Gpa(patches[i].gpa), now) ||
                memcmp(now.data(), patches[i].expect, now.size()) != 0) {
                arguments->failed_index = i;
                errno = ESTALE;
                return -1;
            }
        }
        for (const kvm_views_patch& p : patches) {
            if (p.flags & KVM_VIEWS_PATCH_REVERT) {
                memory.write(Gpa(p.gpa), undo_.at(p.gpa));
                continue;
            }
            auto& old = undo_[p.gpa];
            old.resize(p.len);
            (void)memory.read(Gpa(p.gpa), old);
            memory.write(Gpa(p.gpa), std::as_bytes(std::span(p.bytes, p.len)));
        }
        batches.emplace_back(patches.begin(), patches.end());
        arguments->pause_tsc = 1234;
        return 0;
    }

    int fd_;
    off_t queued_ = events_at;
    std::map<uint64_t, std::vector<std::byte>> undo_;
};

} // namespace shadowmon::test
