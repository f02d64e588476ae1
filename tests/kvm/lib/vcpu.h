// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "tests/kvm/lib/fd.h"
#include "tests/kvm/lib/guest.h"

#include <atomic>
#include <linux/kvm.h>
#include <mutex>
#include <thread>
#include <vector>

namespace shadowmon::kvmtest {

class Vm;

/// How a call into the guest ended.
struct Outcome {
    enum class End {
        returned,  ///< the function returned, `value` is its RAX
        exception, ///< an exception ended it: vector, error, rip, cr2
        stopped,   ///< Vcpu::stop() did
        halted,    ///< HLT without an in-kernel irqchip
        broken,    ///< KVM could not go on (KVM_EXIT_INTERNAL_ERROR); `rip` says where
    };
    End end = End::stopped;
    uint64_t value = 0;
    uint64_t vector = 0;
    uint64_t error = 0;
    uint64_t rip = 0;
    uint64_t cr2 = 0;
    uint64_t cs = 0;

    bool returned() const { return end == End::returned; }
    /// Fatal unless the function returned.
    uint64_t must_return() const;
    /// Fatal unless this exception ended it.
    const Outcome& must_raise(unsigned vector) const;
};

/// One access to a guest-physical hole, which the VMM had to answer. Reads give all ones.
struct MmioAccess {
    Gpa gpa;
    uint32_t size;
    bool write;
    uint64_t data;
};

/// A vCPU and its KVM_RUN loop, run either by the caller (call) or by a thread of its own
/// (start ... wait). One call at a time.
class Vcpu {
  public:
    Vcpu(Vm& vm, int kvm_fd, unsigned id);
    Vcpu(const Vcpu&) = delete;
    ~Vcpu();

    int fd() const { return fd_.get(); }
    unsigned id() const { return id_; }

    /// Runs a guest function to its end.
    template <typename... Args> Outcome call(Gva function, Args... args) {
        prepare(function, {to_register(args)...});
        return run();
    }
    /// The same in a thread of its own.
    template <typename... Args> void start(Gva function, Args... args) {
        prepare(function, {to_register(args)...});
        start_thread();
    }
    /// Goes on after stop() where it was.
    Outcome run();
    void resume_thread() { start_thread(); }

    /// Waits for the end of start().
    Outcome wait();
    bool finished() const { return finished_; }
    /// Makes the loop leave the guest and stay out; run or resume_thread go on.
    void stop();
    /// The next signal to the thread that runs it does what stop() does; until prepare().
    void stop_at_signal() { stop_ = true; }
    /// Makes KVM_RUN return once with EINTR; the loop goes on at once.
    void interrupt();

    /// Sets the registers for a call without running it.
    void prepare(Gva function, std::vector<uint64_t> args);

    kvm_regs regs() const;
    void set_regs(const kvm_regs& regs);
    kvm_sregs sregs() const;
    void set_sregs(const kvm_sregs& sregs);
    uint64_t msr(uint32_t index) const;
    void set_msr(uint32_t index, uint64_t value);
    /// As all ioctls on a vCPU, these wait for KVM_RUN to come back: stop() first.
    void nmi();
    void interrupt_vector(uint8_t vector);

    /// What the guest did since the last clear (no more than the first 1024 accesses).
    std::vector<MmioAccess> mmio() const;
    void clear_mmio();
    uint64_t notifications() const { return notifications_; }
    /// Times that KVM_RUN came back with EINTR.
    uint64_t interruptions() const { return interruptions_; }
    uint64_t kvm_exits() const { return user_exits_; }

    /// 64-bit mode on the guest's tables; also after a reset.
    void set_start_state();

  private:
    static uint64_t to_register(Gva gva) { return gva.value; }
    static uint64_t to_register(Gpa gpa) { return gpa.value; }
    static uint64_t to_register(std::integral auto value) { return static_cast<uint64_t>(value); }

    void start_thread();
    Outcome finish(Outcome::End end);
    void set_cpuid(int kvm_fd);
    void set_up_apic();

    Vm& vm_;
    unsigned id_;
    Fd fd_;
    Mapping run_map_;
    kvm_run* run_;
    std::thread thread_;
    std::atomic<bool> stop_ = false;
    std::atomic<bool> finished_ = true;
    std::atomic<bool> running_ = false;
    std::atomic<pthread_t> runner_{};
    std::atomic<uint64_t> notifications_ = 0;
    std::atomic<uint64_t> interruptions_ = 0;
    std::atomic<uint64_t> user_exits_ = 0;
    mutable std::mutex mutex_;
    std::vector<MmioAccess> mmio_;
    Outcome outcome_;
};

} // namespace shadowmon::kvmtest
