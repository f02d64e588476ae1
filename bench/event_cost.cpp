// SPDX-License-Identifier: GPL-2.0-or-later
/// What one monitored event costs a guest, in instructions and VM exits, beside one exit handled in
/// the kernel and one handled in user space, all in one run. For level 1 of the lab, where the TSC
/// counts instructions retired; on real hardware the same figures are TSC ticks.
///
/// The guest is the small one of tests/kvm. It has a task_struct, pt_regs and a per-CPU area of the
/// right shape, and payload.elf is loaded as shadowmon loads it. So this is also the first thing to
/// run when the gate or the payload has been changed.
#include "payload/asm_offsets.h"
#include "payload/symbols.h"
#include "src/compartment/compartment.h"
#include "src/compartment/page_tables.h"
#include "src/events/ring_reader.h"
#include "tests/kvm/lib/test.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>

extern "C" {
extern const uint8_t bench_text_begin[], bench_text_end[], bench_nothing[], bench_hooked[],
    bench_unhooked[], bench_called[], bench_uncalled[], bench_kernel_exit[], bench_user_exit[],
    bench_site[], bench_site_end[], bench_call_site[], bench_call_site_end[];
}

namespace shadowmon::kvmtest {

namespace {

constexpr unsigned kBatch = 50; // Short, so that most batches meet no interrupt of the host.
constexpr unsigned kBatches = 60;

// The guest's "kernel data"; guest-virtual and guest-physical are the same there.
constexpr uint64_t kText = TG_DATA_GPA;
constexpr uint64_t kResults = TG_DATA_GPA + 0x10000;
constexpr uint64_t kTask = TG_DATA_GPA + 0x20000;
constexpr uint64_t kNextTask = TG_DATA_GPA + 0x30000;
constexpr uint64_t kParent = TG_DATA_GPA + 0x40000;
constexpr uint64_t kCred = TG_DATA_GPA + 0x50000;
constexpr uint64_t kCurrentOffset = 0x800; // in the context page, which is the GS base
// pt_regs at the low end of the stack's 16 KiB, which the few calls here never reach.
constexpr uint64_t kRegs = TG_STACK_GPA + 0x100;

constexpr sm_offsets kOffsets = {.current_task = kCurrentOffset,
                                 .task_pid = 0x9a0,
                                 .task_tgid = 0x9a4,
                                 .task_real_parent = 0x9b0,
                                 .task_cred = 0xb78,
                                 .task_comm = 0xb88,
                                 .task_state = 0x18,
                                 .cred_uid = 8};

template <typename T> T must(Result<T> result) {
    if (!result)
        SM_FAIL("%s", result.error().message().c_str());
    return std::move(*result);
}

// The same memory once more, where a kernel's text is: in reach of the compartment's jumps.
constexpr uint64_t kHighHalf = 0xffffffff80000000;

uint64_t bench_offset(const uint8_t* symbol) {
    return static_cast<uint64_t>(symbol - bench_text_begin);
}
Gva bench_function(const uint8_t* symbol) { return Gva{kHighHalf + kText + bench_offset(symbol)}; }

struct Cost {
    uint64_t least, median;
    double exits;      // per event, of the batch that had the fewest
    double shadow = 0; // between claim and release of the slot: mean of the payload's samples
};

/// One of the two ways into the compartment.
struct Gate {
    uint32_t id; ///< of the hook
    const uint8_t* function;
    sm_hook* hook = nullptr;
};

/// The guest, the compartment in it, and one ring that is read as the events come.
class Bench {
  public:
    Bench();

    Cost measure(const uint8_t* function) {
        return measure(function, 0, 0, [] {});
    }
    /// Runs the hooked function and checks every record that it made.
    Cost measure_event(const Gate& gate, uint16_t type, uint64_t arg1, uint64_t arg2);
    const Gate& by_int() const { return int_; }
    const Gate& by_call() const { return call_; }
    uint64_t violations() const { return views_.stats().violations + views_.stats().bad_vmfunc; }

  private:
    template <typename AfterBatch>
    Cost measure(const uint8_t* function, uint64_t arg1, uint64_t arg2, AfterBatch after);
    void build_guest();
    void build_compartment();
    void check(const Record& record, uint32_t id, uint16_t type);
    double mean_sample();

    Vm vm_;
    Views views_;
    PayloadImage payload_;
    Layout layout_;
    Gpa region_gpa_{0x2'4000'0000};
    Mapping map_;
    std::span<std::byte> region_;
    std::vector<RingReader> rings_;
    Gate int_{7, bench_hooked};
    Gate call_{8, bench_called};
};

void write_task(Vm& vm, uint64_t at, uint32_t pid, const char* comm) {
    vm.at<uint32_t>(at + kOffsets.task_pid) = pid + 1;
    vm.at<uint32_t>(at + kOffsets.task_tgid) = pid;
    vm.at<uint64_t>(at + kOffsets.task_real_parent) = kParent;
    vm.at<uint64_t>(at + kOffsets.task_cred) = kCred;
    vm.at<uint32_t>(at + kOffsets.task_state) = 1;
    strncpy(&vm.at<char>(at + kOffsets.task_comm), comm, SM_COMM_SIZE);
}

Layout make_layout(const PayloadImage& payload) {
    Geometry geometry;
    geometry.slots = 2;
    geometry.ring_size = 1 << 16;
    geometry.text_size = payload.text().size;
    geometry.rodata_size = payload.rodata().size;
    geometry.data_size = payload.data().size;
    return must(Layout::make(geometry));
}

Bench::Bench()
    : views_(Views::attach(vm_.fd())), payload_(must(PayloadImage::parse(embedded_payload()))),
      layout_(make_layout(payload_)) {
    build_guest();
    build_compartment();
}

void Bench::build_guest() {
    memcpy(vm_.ram(Gpa{kText}, 0x1000), bench_text_begin,
           static_cast<size_t>(bench_text_end - bench_text_begin));
    write_task(vm_, kTask, 100, "bench");
    write_task(vm_, kNextTask, 200, "next");
    write_task(vm_, kParent, 1, "init");
    vm_.at<uint32_t>(kCred + kOffsets.cred_uid) = 33;
    vm_.at<uint64_t>(TG_CONTEXT_GPA + kCurrentOffset) = kTask;
    for (uint64_t i = 0; i < 21; i++)
        vm_.at<uint64_t>(kRegs + 8 * i) = 1000 + i;

    vm_.at<uint64_t>(TG_PDPT_HIGH_GPA + 510 * 8) = TG_PD_LOW_GPA | kPteKernelPage;

    // As Linux does where the CPU can, so that the payload reads the GS base in one instruction.
    kvm_sregs s = vm_.vcpu(0).sregs();
    s.cr4 |= 1 << 16;
    vm_.vcpu(0).set_sregs(s);
}

void Bench::build_compartment() {
    SM_CHECK_EQ(views_.set_region(region_gpa_, layout_.pages()), 0, "SET_REGION works");
    map_ = views_.map_region(layout_.pages());
    region_ = {reinterpret_cast<std::byte*>(map_.bytes()), map_.size()};

    // mov %rdi, %r9; sti; jmp back, and the same without sti.
    const uint64_t back = bench_function(bench_site_end).value;
    const Gva displaced{SM_COMPARTMENT_GVA + SM_DISPLACED_OFFSET};
    std::vector<uint8_t> code;
    auto emit = [&](bool sti) {
        Gva start = displaced + code.size();
        code.insert(code.end(), bench_site, bench_site_end);
        if (sti)
            code.push_back(0xfb);
        code.push_back(0xe9);
        auto rel = static_cast<uint32_t>(back - (displaced + code.size() + 4).value);
        for (unsigned i = 0; i < 4; i++)
            code.push_back(static_cast<uint8_t>(rel >> (8 * i)));
        return start.value;
    };
    sm_hook hook{};
    hook.rip = bench_function(bench_site).value + 2;
    hook.id = int_.id;
    hook.type = SM_EVENT_HOOK;
    hook.resume_if1 = emit(true);
    hook.resume_if0 = emit(false);

    CompartmentContents contents;
    contents.config.task_size = 0x1000;
    contents.config.direct_map = 0;
    contents.config.nr_windows = 1;
    contents.config.windows[0] = {0, TG_RAM_SIZE};
    contents.config.offsets = kOffsets;
    sm_hook call_hook{};
    call_hook.rip = bench_function(bench_call_site_end).value;
    call_hook.id = call_.id;
    call_hook.type = SM_EVENT_HOOK;
    call_hook.flags = SM_HOOK_CALL;
    contents.hooks = {hook, call_hook};
    contents.displaced = std::as_bytes(std::span(code));
    if (auto status = fill_region(layout_, payload_, contents, region_gpa_, region_); !status)
        SM_FAIL("%s", status.error().message().c_str());
    for (const kvm_views_protect& p : layout_.protections(region_gpa_))
        SM_CHECK_EQ(views_.protect(Gpa{p.gpa}, p.pages, p.view, p.rights), 0, "PROTECT works");
    for (uint32_t i = 0; i < layout_.geometry().slots; i++)
        rings_.push_back(must(
            RingReader::make(i, ring_in(layout_, region_, i), ring_data_in(layout_, region_, i))));

    for (sm_hook& entry : hooks_in(layout_, region_)) {
        if (entry.rip == hook.rip)
            int_.hook = &entry;
        if (entry.rip == call_hook.rip)
            call_.hook = &entry;
    }
    SM_CHECK(int_.hook && call_.hook);

    SM_CHECK_EQ(views_.enable(Gva{SM_COMPARTMENT_GVA}, SM_COMPARTMENT_SIZE), 0, "ENABLE works");
    vm_.at<uint64_t>(TG_PDPT_HIGH_GPA + pud_index * 8) = pud_entry(region_gpa_);
    const auto gate =
        IdtEntry::interrupt_gate(must(payload_.symbol(SM_SYMBOL_GATE_INT20)), TG_CODE_SELECTOR);
    memcpy(vm_.ram(Gpa{TG_IDT_GPA + 16 * gate_vector}, 16), &gate, sizeof(gate));
    const uint8_t int20[] = {0xcd, 0x14};
    uint8_t call[SM_ASM_CALL_LENGTH] = {0xe8};
    const auto rel =
        static_cast<uint32_t>(must(payload_.symbol(SM_SYMBOL_GATE_CALL)).value - call_hook.rip);
    memcpy(call + 1, &rel, sizeof(rel));
    kvm_views_patch patches[] = {make_patch(Gpa{kText + bench_offset(bench_site)}, {bench_site, 2},
                                            int20, KVM_VIEWS_PATCH_HOOK),
                                 make_patch(Gpa{kText + bench_offset(bench_call_site)},
                                            {bench_call_site, SM_ASM_CALL_LENGTH}, call,
                                            KVM_VIEWS_PATCH_HOOK)};
    SM_CHECK_EQ(views_.patch(patches), 0, "PATCH works");
}

template <typename AfterBatch>
Cost Bench::measure(const uint8_t* function, uint64_t arg1, uint64_t arg2, AfterBatch after) {
    std::vector<uint64_t> all;
    uint64_t fewest_exits = ~0ull;
    for (unsigned batch = 0; batch <= kBatches; batch++) {
        uint64_t before = views_.vcpu(0).exits;
        vm_.vcpu(0).call(bench_function(function), arg1, arg2, Gpa{kResults}, kBatch).must_return();
        uint64_t exits = views_.vcpu(0).exits - before - 1; // less the one that ends the call
        after();
        if (batch == 0)
            continue; // It maps what the others need.
        fewest_exits = std::min(fewest_exits, exits);
        const auto* results = &vm_.at<uint64_t>(kResults);
        all.insert(all.end(), results, results + kBatch);
    }
    std::sort(all.begin(), all.end());
    return {all.front(), all[all.size() / 2], static_cast<double>(fewest_exits) / kBatch};
}

void Bench::check(const Record& record, uint32_t id, uint16_t type) {
    const sm_event_header& h = record.header;
    SM_CHECK_EQ(h.type, type, "the event is of its hook's type");
    SM_CHECK_EQ(h.flags, 0, "task and body could be read");
    SM_CHECK_EQ(h.hook, id, "the event names its hook");
    SM_CHECK_EQ(h.task, kTask, "the event names the task");
    SM_CHECK_EQ(h.pid, 100, "pid");
    SM_CHECK_EQ(h.tid, 101, "tid");
    SM_CHECK_EQ(h.ppid, 1, "ppid");
    SM_CHECK_EQ(h.uid, 33, "uid");
    SM_CHECK_EQ(h.cr3 & ~0xfffull, TG_PML4_GPA, "cr3");
    SM_CHECK(memcmp(h.comm, "bench", 6) == 0);
    if (type == SM_EVENT_SYSCALL_ENTER) {
        const uint64_t args[6] = {1014, 1013, 1012, 1007, 1009, 1008};
        SM_CHECK_EQ(record.syscall_enter.nr, 1015, "number");
        SM_CHECK(memcmp(record.syscall_enter.args, args, sizeof(args)) == 0);
    } else if (type == SM_EVENT_SYSCALL_EXIT) {
        SM_CHECK_EQ(record.syscall_exit.nr, 1015, "number");
        SM_CHECK_EQ(record.syscall_exit.ret, 1010, "return value");
    } else if (type == SM_EVENT_HOOK) {
        SM_CHECK_EQ(record.hook.args[0], kRegs, "first argument");
        SM_CHECK_EQ(record.hook.args[1], kNextTask, "second argument");
        SM_CHECK_EQ(record.hook.ax, 0, "ax");
    } else {
        SM_CHECK_EQ(record.context_switch.next_task, kNextTask, "next task");
        SM_CHECK_EQ(record.context_switch.next_pid, 200, "next pid");
        SM_CHECK_EQ(record.context_switch.prev_state, 1, "state");
        SM_CHECK(memcmp(record.context_switch.next_comm, "next", 5) == 0);
    }
}

Cost Bench::measure_event(const Gate& gate, uint16_t type, uint64_t arg1, uint64_t arg2) {
    gate.hook->type = type;
    uint64_t recorded = 0, tsc = 0, batches = 0;
    mean_sample();
    Cost cost = measure(gate.function, arg1, arg2, [&] {
        for (RingReader& ring : rings_) {
            ring.refresh();
            while (const Record* record = ring.front()) {
                check(*record, gate.id, type);
                SM_CHECK(record->header.tsc > tsc);
                tsc = record->header.tsc;
                recorded++;
                ring.pop();
            }
            ring.release();
            SM_CHECK(!ring.broken());
        }
        SM_CHECK_EQ(recorded, ++batches * kBatch, "every pass made one event");
    });
    cost.shadow = mean_sample();
    return cost;
}

/// Since the last time.
double Bench::mean_sample() {
    uint64_t samples = 0, ticks = 0;
    for (uint32_t i = 0; i < layout_.geometry().slots; i++) {
        sm_slot* slot = slot_in(layout_, region_, i);
        samples += std::exchange(slot->sampled, 0);
        ticks += std::exchange(slot->sampled_ticks, 0);
    }
    return samples ? static_cast<double>(ticks) / static_cast<double>(samples) : 0;
}

void print(const char* what, const Cost& cost, const Cost& base) {
    printf("| %-58s | %8llu | %8llu | %5.2f |\n", what,
           (unsigned long long)(cost.least - base.least),
           (unsigned long long)(cost.median - base.median), cost.exits - base.exits);
}

/// As the summary of a trace has it: the mean of the events that were sampled.
void print_shadow(const char* what, const Cost& cost) {
    SM_CHECK(cost.shadow > 0);
    printf("| %-58s | %8s | %8.1f |       |\n", what, "mean", cost.shadow);
}

} // namespace

void test_main() {
    require_hardware();
    Bench bench;
    const Cost nothing = bench.measure(bench_nothing);
    const Cost unhooked = bench.measure(bench_unhooked);
    const Cost uncalled = bench.measure(bench_uncalled);
    struct Event {
        const char* name;
        uint16_t type;
        uint64_t arg1, arg2;
        Cost by_int{}, by_call{};
    } events[] = {
        {"function hook", SM_EVENT_HOOK, kRegs, kNextTask},
        {"system call, entry", SM_EVENT_SYSCALL_ENTER, kRegs, 0},
        {"system call, exit", SM_EVENT_SYSCALL_EXIT, kRegs, 0},
        {"process switch", SM_EVENT_SWITCH, kTask, kNextTask},
    };
    for (Event& event : events) {
        event.by_int = bench.measure_event(bench.by_int(), event.type, event.arg1, event.arg2);
        event.by_call = bench.measure_event(bench.by_call(), event.type, event.arg1, event.arg2);
    }
    const Cost kernel_exit = bench.measure(bench_kernel_exit);
    const Cost user_exit = bench.measure(bench_user_exit);
    printf("| %-58s | %8s | %8s | %5s |\n", "what", "least", "median", "exits");
    printf("|-%.58s-|---------:|---------:|------:|\n",
           "----------------------------------------------------------");
    for (const Event& event : events) {
        print(fmt::format("event by INT: {}", event.name).c_str(), event.by_int, unhooked);
        print_shadow("  its time with a slot", event.by_int);
        print(fmt::format("event by CALL: {}", event.name).c_str(), event.by_call, uncalled);
        print_shadow("  its time with a slot", event.by_call);
    }
    print("one exit handled in the kernel (CPUID)", kernel_exit, nothing);
    print("one exit handled in user space (port output)", user_exit, nothing);
    SM_CHECK_EQ(bench.violations(), 0, "no access was forbidden");
    for (const Event& event : events)
        SM_CHECK(event.by_int.exits == 0 && event.by_call.exits == 0);
}

} // namespace shadowmon::kvmtest
