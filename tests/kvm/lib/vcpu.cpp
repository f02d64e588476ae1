// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/kvm/lib/vcpu.h"

#include "tests/kvm/lib/check.h"
#include "tests/kvm/lib/vm.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <sched.h>
#include <sys/ioctl.h>

namespace shadowmon::kvmtest {

namespace {
constexpr uint8_t in_byte = 0x5a;
constexpr size_t mmio_log_size = 1024;

/// The head of kvm_cpuid2 and kvm_msrs. Their flexible arrays are declared such that C++ gives
/// the structs another size, which is part of the ioctl numbers.
template <typename Entry, unsigned Count> struct List {
    uint32_t count = Count;
    uint32_t padding = 0;
    Entry entries[Count] = {};
};
struct ListHead {
    uint32_t count, padding;
};
static_assert(sizeof(ListHead) == 8);
using CpuidList = List<kvm_cpuid_entry2, 256>;
using MsrList = List<kvm_msr_entry, 1>;
static_assert(offsetof(CpuidList, entries) == sizeof(ListHead));
static_assert(offsetof(MsrList, entries) == sizeof(ListHead));
constexpr unsigned long get_supported_cpuid = _IOWR(KVMIO, 0x05, ListHead);
constexpr unsigned long get_msrs = _IOWR(KVMIO, 0x88, ListHead);
constexpr unsigned long set_msrs = _IOW(KVMIO, 0x89, ListHead);
constexpr unsigned long set_cpuid2 = _IOW(KVMIO, 0x90, ListHead);

void on_kick(int) {}

void install_kick_handler() {
    struct sigaction action {};
    action.sa_handler = on_kick; // No SA_RESTART: KVM_RUN has to come back.
    SM_CHECK_SYS(sigaction(SIGUSR1, &action, nullptr));
}
} // namespace

uint64_t Outcome::must_return() const {
    if (end == End::exception)
        SM_FAIL("guest function ended by exception %llu, error 0x%llx, rip 0x%llx, cr2 0x%llx",
                (unsigned long long)vector, (unsigned long long)error, (unsigned long long)rip,
                (unsigned long long)cr2);
    if (end != End::returned)
        SM_FAIL("guest function did not return (end %d, rip 0x%llx)", static_cast<int>(end),
                (unsigned long long)rip);
    return value;
}

const Outcome& Outcome::must_raise(unsigned expected) const {
    if (end == End::returned)
        SM_FAIL("guest function returned 0x%llx, expected exception %u", (unsigned long long)value,
                expected);
    if (end != End::exception)
        SM_FAIL("guest function stopped (end %d, rip 0x%llx), expected exception %u",
                static_cast<int>(end), (unsigned long long)rip, expected);
    if (vector != expected)
        SM_FAIL("exception %llu (error 0x%llx, rip 0x%llx, cr2 0x%llx), expected %u",
                (unsigned long long)vector, (unsigned long long)error, (unsigned long long)rip,
                (unsigned long long)cr2, expected);
    return *this;
}

Vcpu::Vcpu(Vm& vm, int kvm_fd, unsigned id) : vm_(vm), id_(id) {
    install_kick_handler();
    fd_ = Fd(SM_CHECK_SYS(ioctl(vm.fd(), KVM_CREATE_VCPU, id)));
    size_t size = SM_CHECK_SYS(ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0));
    void* start = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    if (start == MAP_FAILED)
        SM_FAIL("mmap of the run structure: %m");
    run_map_ = Mapping(start, size);
    run_ = static_cast<kvm_run*>(start);
    set_cpuid(kvm_fd);
    if (vm.irqchip())
        set_up_apic();
    set_start_state();
}

Vcpu::~Vcpu() {
    if (thread_.joinable()) {
        stop();
        wait();
    }
}

void Vcpu::set_cpuid(int kvm_fd) {
    CpuidList cpuid;
    SM_CHECK_SYS(ioctl(kvm_fd, get_supported_cpuid, &cpuid));
    // KVM has it for every local APIC of its own, and leaves it to the VMM to say so.
    constexpr uint32_t tsc_deadline = 1 << 24;
    for (uint32_t i = 0; vm_.irqchip() && i < cpuid.count; i++) {
        if (cpuid.entries[i].function == 1)
            cpuid.entries[i].ecx |= tsc_deadline;
    }
    SM_CHECK_SYS(ioctl(fd_.get(), set_cpuid2, &cpuid));
}

void Vcpu::set_up_apic() {
    // KVM makes its map of APIC IDs before it adds a new vCPU, so that messages to the newest one
    // are lost until something changes the map. Every VMM sets the APIC's state at some time.
    kvm_lapic_state state;
    SM_CHECK_SYS(ioctl(fd_.get(), KVM_GET_LAPIC, &state));
    SM_CHECK_SYS(ioctl(fd_.get(), KVM_SET_LAPIC, &state));
}

void Vcpu::set_start_state() {
    kvm_sregs s = sregs();
    auto segment = [](uint16_t selector, uint8_t type, bool code) {
        kvm_segment result{};
        result.limit = 0xffffffff;
        result.selector = selector;
        result.type = type;
        result.present = 1;
        result.s = 1;
        result.l = code;
        result.db = !code;
        result.g = 1;
        return result;
    };
    s.cs = segment(TG_CODE_SELECTOR, 11, true);
    s.ds = s.es = s.ss = s.fs = s.gs = segment(TG_DATA_SELECTOR, 3, false);
    s.gs.base = TG_CONTEXT_GPA + id_ * page_size;
    s.tr = {};
    s.tr.base = TG_TSS_GPA + id_ * 0x80;
    s.tr.limit = 0x67;
    s.tr.selector = TG_TSS_SELECTOR + id_ * 16;
    s.tr.type = 11;
    s.tr.present = 1;
    s.ldt = {};
    s.ldt.unusable = 1;
    s.gdt.base = TG_GDT_GPA;
    s.gdt.limit = page_size - 1;
    s.idt.base = TG_IDT_GPA;
    s.idt.limit = page_size - 1;
    s.cr0 = 0x80050033; // PG AM WP NE ET MP PE
    s.cr3 = TG_PML4_GPA;
    s.cr4 = 0x620;  // PAE OSFXSR OSXMMEXCPT
    s.efer = 0xd01; // SCE LME LMA NXE
    set_sregs(s);
    kvm_mp_state state{};
    state.mp_state = KVM_MP_STATE_RUNNABLE;
    // Refused without an in-kernel irqchip, where vCPUs are always runnable.
    ioctl(fd_.get(), KVM_SET_MP_STATE, &state);
}

void Vcpu::prepare(Gva function, std::vector<uint64_t> args) {
    SM_CHECK(args.size() <= 6);
    args.resize(6);
    // A stop that came too late for the call before is not meant for this one.
    stop_ = false;
    __atomic_store_n(&run_->immediate_exit, 0, __ATOMIC_SEQ_CST);
    uint64_t top = TG_STACK_GPA + (id_ + 1) * TG_STACK_SIZE - 64;
    GuestContext& context = vm_.context(id_);
    context.vector = ~0ull;
    context.stack = top;
    vm_.at<uint64_t>(top) = guest_function(guest_done).value;
    kvm_regs r{};
    r.rip = function.value;
    r.rsp = top;
    // Interrupts on: Bochs does not end guest mode by an interrupt of the host while the guest
    // has them off, so that a loop would keep the CPU for itself.
    r.rflags = 0x202;
    r.rdi = args[0];
    r.rsi = args[1];
    r.rdx = args[2];
    r.rcx = args[3];
    r.r8 = args[4];
    r.r9 = args[5];
    set_regs(r);
}

Outcome Vcpu::finish(Outcome::End end) {
    Outcome outcome;
    outcome.end = end;
    kvm_regs r = regs();
    outcome.value = r.rax;
    outcome.rip = r.rip;
    if (end == Outcome::End::exception) {
        const GuestContext& context = vm_.context(id_);
        outcome.vector = context.vector;
        outcome.error = context.error;
        outcome.rip = context.rip;
        outcome.cr2 = context.cr2;
        outcome.cs = context.cs;
    }
    return outcome;
}

Outcome Vcpu::run() {
    runner_ = pthread_self();
    running_ = true;
    for (;;) {
        // A stop or interrupt before this point has set immediate_exit, one after it sends a
        // signal that ends KVM_RUN.
        int result = ioctl(fd_.get(), KVM_RUN, 0);
        user_exits_++;
        if (result < 0) {
            if (errno != EINTR && errno != EAGAIN)
                SM_FAIL("vcpu %u: KVM_RUN: %m (rip 0x%llx)", id_, regs().rip);
            interruptions_++;
            __atomic_store_n(&run_->immediate_exit, 0, __ATOMIC_SEQ_CST);
            if (stop_.exchange(false)) {
                running_ = false;
                return finish(Outcome::End::stopped);
            }
            continue;
        }
        switch (run_->exit_reason) {
        case KVM_EXIT_IO: {
            auto* data = reinterpret_cast<uint8_t*>(run_) + run_->io.data_offset;
            if (run_->io.direction == KVM_EXIT_IO_IN) {
                memset(data, in_byte, size_t{run_->io.size} * run_->io.count);
                continue;
            }
            if (run_->io.port == TG_NOTIFY_PORT) {
                notifications_++;
                continue;
            }
            running_ = false;
            if (run_->io.port == TG_DONE_PORT)
                return finish(Outcome::End::returned);
            if (run_->io.port == TG_FAULT_PORT)
                return finish(Outcome::End::exception);
            SM_FAIL("vcpu %u: output to port 0x%x", id_, run_->io.port);
        }
        case KVM_EXIT_MMIO: {
            MmioAccess access{Gpa{run_->mmio.phys_addr}, run_->mmio.len, run_->mmio.is_write != 0,
                              0};
            if (access.write)
                memcpy(&access.data, run_->mmio.data, sizeof run_->mmio.data);
            else
                memset(run_->mmio.data, 0xff, sizeof run_->mmio.data);
            std::lock_guard lock(mutex_);
            if (mmio_.size() < mmio_log_size)
                mmio_.push_back(access);
            continue;
        }
        case KVM_EXIT_HLT:
            running_ = false;
            return finish(Outcome::End::halted);
        case KVM_EXIT_INTERNAL_ERROR:
            running_ = false;
            return finish(Outcome::End::broken);
        default:
            SM_FAIL("vcpu %u: exit reason %u at rip 0x%llx", id_, run_->exit_reason, regs().rip);
        }
    }
}

void Vcpu::start_thread() {
    SM_CHECK(!thread_.joinable());
    finished_ = false;
    thread_ = std::thread([this] {
        // Many guests here never leave a CPU by themselves; whoever is to do something to them
        // need not wait for the end of their turn.
        const sched_param none{};
        SM_CHECK_SYS(sched_setscheduler(0, SCHED_IDLE, &none));
        outcome_ = run();
        finished_ = true;
    });
}

Outcome Vcpu::wait() {
    thread_.join();
    return outcome_;
}

void Vcpu::stop() {
    stop_ = true;
    interrupt();
}

void Vcpu::interrupt() {
    __atomic_store_n(&run_->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (running_)
        pthread_kill(runner_, SIGUSR1);
}

kvm_regs Vcpu::regs() const {
    kvm_regs r;
    SM_CHECK_SYS(ioctl(fd_.get(), KVM_GET_REGS, &r));
    return r;
}

void Vcpu::set_regs(const kvm_regs& r) { SM_CHECK_SYS(ioctl(fd_.get(), KVM_SET_REGS, &r)); }

kvm_sregs Vcpu::sregs() const {
    kvm_sregs s;
    SM_CHECK_SYS(ioctl(fd_.get(), KVM_GET_SREGS, &s));
    return s;
}

void Vcpu::set_sregs(const kvm_sregs& s) { SM_CHECK_SYS(ioctl(fd_.get(), KVM_SET_SREGS, &s)); }

uint64_t Vcpu::msr(uint32_t index) const {
    MsrList msrs;
    msrs.entries[0].index = index;
    SM_CHECK_EQ(ioctl(fd_.get(), get_msrs, &msrs), 1, "the MSR can be read");
    return msrs.entries[0].data;
}

void Vcpu::set_msr(uint32_t index, uint64_t value) {
    MsrList msrs;
    msrs.entries[0].index = index;
    msrs.entries[0].data = value;
    SM_CHECK_EQ(ioctl(fd_.get(), set_msrs, &msrs), 1, "the MSR can be written");
}

void Vcpu::nmi() { SM_CHECK_SYS(ioctl(fd_.get(), KVM_NMI, 0)); }

void Vcpu::interrupt_vector(uint8_t vector) {
    kvm_interrupt interrupt{vector};
    SM_CHECK_SYS(ioctl(fd_.get(), KVM_INTERRUPT, &interrupt));
}

std::vector<MmioAccess> Vcpu::mmio() const {
    std::lock_guard lock(mutex_);
    return mmio_;
}

void Vcpu::clear_mmio() {
    std::lock_guard lock(mutex_);
    mmio_.clear();
}

} // namespace shadowmon::kvmtest
