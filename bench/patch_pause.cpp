// SPDX-License-Identifier: GPL-2.0-or-later
/// How long the vCPUs of a VM stand still for one KVM_VIEWS_PATCH, and how long the owner's call
/// takes: batches of 1, 16, 256 and 696 hooks while 1 and 2 vCPUs run guest code that never exits
/// by itself. Prints rows of event_cost's table. For level 1 of the lab with a CPU for each vCPU
/// and one for the owner.
#include "tests/kvm/lib/test.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <x86intrin.h>

namespace shadowmon::kvmtest {

namespace {

constexpr unsigned batch_count = 40;
constexpr unsigned most_hooks = 696;
constexpr unsigned vcpu_count = 2;
constexpr Gpa control_gpa{TG_DATA_GPA};
constexpr Gpa text_gpa{TG_DATA_GPA + 0x100000};
// As hooks lie in a kernel: a few in each page.
constexpr uint64_t site_distance = 0x200;
constexpr uint8_t old_bytes[] = {0x90, 0x90};
constexpr uint8_t int20_bytes[] = {0xcd, 0x14};

struct Pause {
    std::vector<uint64_t> ticks;
    std::vector<uint64_t> call;   // with what is done before and after the pause
    std::vector<uint64_t> revert; // the call that takes them out again
    uint64_t fewest_exits = ~0ull;
};

class Bench {
  public:
    Bench() {
        compartment_.enable();
        memset(vm_.ram(text_gpa, most_hooks * site_distance), old_bytes[0],
               most_hooks * site_distance);
    }

    void run(unsigned vcpus) {
        for (unsigned i = 0; i < vcpus; i++) {
            auto& control = vm_.at<LoopControl>(control_gpa + i * page_size);
            control = {};
            vm_.vcpu(i).start(guest_function(guest_count_loop), control_gpa + i * page_size);
        }
        for (unsigned i = 0; i < vcpus; i++)
            wait_for_progress(i);
        for (unsigned hooks : {1u, 16u, 256u, most_hooks})
            print(hooks, vcpus, measure(hooks, vcpus));
        for (unsigned i = 0; i < vcpus; i++) {
            const_cast<volatile uint64_t&>(vm_.at<LoopControl>(control_gpa + i * page_size).stop) =
                1;
            vm_.vcpu(i).wait().must_return();
        }
    }

  private:
    void wait_for_progress(unsigned vcpu) {
        volatile uint64_t& count = vm_.at<LoopControl>(control_gpa + vcpu * page_size).count;
        uint64_t before = count;
        wait_until("the vCPU runs", [&] { return count > before; });
    }

    Pause measure(unsigned hooks, unsigned vcpus) {
        Pause pause;
        std::vector<kvm_views_patch> set, revert;
        for (unsigned i = 0; i < hooks; i++) {
            Gpa gpa = text_gpa + i * site_distance;
            set.push_back(make_patch(gpa, old_bytes, int20_bytes,
                                     KVM_VIEWS_PATCH_HOOK | KVM_VIEWS_PATCH_HIDE));
            revert.push_back(make_patch(gpa, int20_bytes, old_bytes, KVM_VIEWS_PATCH_REVERT));
        }
        for (unsigned batch = 0; batch < batch_count; batch++) {
            for (unsigned i = 0; i < vcpus; i++)
                wait_for_progress(i);
            uint64_t before = views_.stats().exits, ticks = 0;
            uint64_t start = __rdtsc();
            SM_CHECK_EQ(views_.patch(set, nullptr, &ticks), 0, "PATCH works");
            uint64_t call = __rdtsc() - start;
            pause.fewest_exits =
                std::min<uint64_t>(pause.fewest_exits, views_.stats().exits - before);
            start = __rdtsc();
            SM_CHECK_EQ(views_.patch(revert), 0, "REVERT works");
            uint64_t back = __rdtsc() - start;
            if (batch == 0) // The first brings in what the others use.
                continue;
            pause.ticks.push_back(ticks);
            pause.call.push_back(call);
            pause.revert.push_back(back);
        }
        for (auto* ticks : {&pause.ticks, &pause.call, &pause.revert})
            std::sort(ticks->begin(), ticks->end());
        return pause;
    }

    static void print(unsigned hooks, unsigned vcpus, const Pause& pause) {
        char what[64];
        snprintf(what, sizeof(what), "pause for %u hook%s, %u vCPU%s running", hooks,
                 hooks == 1 ? "" : "s", vcpus, vcpus == 1 ? "" : "s");
        printf("| %-58s | %8llu | %8llu | %5.2f |\n", what, (unsigned long long)pause.ticks.front(),
               (unsigned long long)pause.ticks[pause.ticks.size() / 2],
               static_cast<double>(pause.fewest_exits));
        print_call("  the whole call", pause.call);
        print_call("  the call that takes them out again", pause.revert);
    }

    static void print_call(const char* what, const std::vector<uint64_t>& ticks) {
        printf("| %-58s | %8llu | %8llu | %5s |\n", what, (unsigned long long)ticks.front(),
               (unsigned long long)ticks[ticks.size() / 2], "");
    }

    Vm vm_{{.vcpus = vcpu_count}};
    Views views_ = Views::attach(vm_.fd());
    Compartment compartment_{views_};
};

} // namespace

void test_main() {
    require_hardware();
    Bench bench;
    bench.run(1);
    bench.run(2);
}

} // namespace shadowmon::kvmtest
