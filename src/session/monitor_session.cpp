// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/session/monitor_session.h"

#include "payload/symbols.h"
#include "src/compartment/compartment.h"
#include "src/compartment/payload_image.h"
#include "src/compartment/placement.h"
#include "src/events/shared_memory.h"
#include "src/session/guest_survey.h"
#include "src/session/irq_plan.h"

#include <algorithm>
#include <bit>

namespace shadowmon {

namespace {

/// Twice as many as vCPUs, so that a vCPU seldom finds its first choice taken.
uint32_t slots_for(size_t vcpus) {
    return std::min<uint32_t>(SM_MAX_SLOTS, std::bit_ceil(static_cast<uint32_t>(2 * vcpus)));
}

kvm_views_stats minus(const kvm_views_stats& a, const kvm_views_stats& b) {
    kvm_views_stats d = a;
    d.exits -= b.exits;
    d.switches -= b.switches;
    d.violations -= b.violations;
    d.bad_vmfunc -= b.bad_vmfunc;
    d.calls -= b.calls;
    d.region_faults -= b.region_faults;
    d.events_lost -= b.events_lost;
    d.ve_injected -= b.ve_injected;
    return d;
}

/// CR4.CET: supervisor indirect-branch tracking may be on.
constexpr uint64_t cr4_cet = uint64_t{1} << 23;

std::string size_text(uint64_t bytes) {
    return bytes >= 1u << 20 ? fmt::format("{} MiB", bytes >> 20)
                             : fmt::format("{} KiB", bytes >> 10);
}

} // namespace

Result<std::unique_ptr<MonitorSession>> MonitorSession::arm(std::unique_ptr<Views> views,
                                                            const Options& options, const Log& log,
                                                            HostClock clock) {
    auto memory = LiveMemory::of(*views);
    if (!memory)
        return fail(memory.error());
    std::unique_ptr<MonitorSession> session(
        new MonitorSession(std::move(views), std::move(*memory), std::move(clock)));
    SM_TRY(session->look_at_guest(options, log));
    SM_TRY(session->build(options, log));
    SM_TRY(session->start_reading());
    SM_TRY(session->place_hooks(options, log));
    SM_TRY(session->open_way(log));
    SM_TRY(session->hook_modules(options, log));
    return session;
}

Status MonitorSession::look_at_guest(const Options& options, const Log& log) {
    auto guest = survey_guest(*views_, memory_, options.symbols.get(), log);
    if (!guest)
        return fail(guest.error());
    cpus_ = std::move(guest->cpus);
    kernel_.emplace(std::move(guest->kernel));
    log(fmt::format("guest: {}", kernel_->banner));
    log(fmt::format("kernel at {:#x}, {} symbols from {}, {}-level page tables",
                    kernel_->image.start.value, kernel_->symbols.size(), kernel_->symbols.source(),
                    kernel_->image.levels));

    kvm_views_offer offer{};
    if (options.placement != Placement::host) {
        auto offered = views_->offer();
        if (!offered)
            return fail(offered.error());
        offer = *offered;
    }
    auto entry = plan_entry(*kernel_, cpus_, memory_, options.placement, offer);
    if (!entry)
        return fail(entry.error());
    entry_ = *entry;
    log(fmt::format("{:#x}: {}", SM_COMPARTMENT_GVA,
                    entry_.pud.offered      ? "reserved and offered by the guest"
                    : entry_.pud.value != 0 ? "reserved by the guest, without a valid offer"
                                            : "free in the guest's page tables"));
    auto monitors = plan_hooks(options.monitors, *kernel_, memory_);
    if (!monitors)
        return fail(monitors.error());
    monitors_ = std::move(*monitors);
    if (options.monitors.irq) {
        HookPolicy policy;
        policy.branch_tracking = cpus_.running.front().cr4 & cr4_cet;
        auto irq = plan_irq_hooks(*kernel_, memory_, policy);
        if (!irq)
            return fail(irq.error());
        for (const std::string& note : irq->notes)
            log(note);
        irq_offsets_ = irq->offsets;
        auto functions = ModuleFunctions::of(*kernel_, memory_);
        if (functions)
            module_functions_ = std::move(*functions);
        else
            log("interrupts: handlers in modules are told by their addresses only: " +
                functions.error().message());
        std::move(irq->requests.begin(), irq->requests.end(), std::back_inserter(monitors_));
    }

    if (auto symbol = kernel_->symbols.address("panic_cpu"))
        if (auto gpa = kernel_->to_gpa(*symbol))
            panic_cpu_ = *gpa;
    return {};
}

sm_config MonitorSession::guest_config(const Options& options) const {
    sm_config config{};
    config.full_mode = options.when_full == WhenFull::block ? SM_FULL_BLOCK : SM_FULL_DROP;
    config.task_size = kernel_->task_size;
    config.direct_map = kernel_->image.direct_map.value;
    config.la57 = kernel_->image.levels == 5;
    auto windows = kernel_->windows();
    // The payload is quickest in the first window: that is where the tasks are, which
    // the kernel allocates from all of its memory.
    std::stable_sort(windows.begin(), windows.end(),
                     [](const sm_window& a, const sm_window& b) { return a.size > b.size; });
    config.nr_windows = static_cast<uint32_t>(windows.size());
    std::copy(windows.begin(), windows.end(), config.windows);
    config.offsets = kernel_->offsets;
    config.irq = irq_offsets_;
    config.idt20_handler = entry_.chain_handler.value;
    return config;
}

Status MonitorSession::build(const Options& options, const Log& log) {
    auto payload = PayloadImage::parse(embedded_payload());
    if (!payload)
        return fail(payload.error());
    auto gate = payload->symbol(SM_SYMBOL_GATE_INT20);
    if (!gate)
        return fail(gate.error());
    gate_ = *gate;
    auto call_gate = payload->symbol(SM_SYMBOL_GATE_CALL);
    if (!call_gate)
        return fail(call_gate.error());
    call_gate_ = *call_gate;
    auto info = views_->info();
    if (!info)
        return fail(info.error());

    Geometry geometry;
    geometry.slots = slots_for(info->nr_vcpus);
    geometry.ring_size = static_cast<uint32_t>(options.ring_size);
    geometry.capacity = options.hook_capacity;
    geometry.text_size = static_cast<uint32_t>(payload->text().size);
    geometry.rodata_size = static_cast<uint32_t>(payload->rodata().size);
    geometry.data_size = static_cast<uint32_t>(payload->data().size);
    auto layout = Layout::make(geometry);
    if (!layout)
        return fail(layout.error());
    layout_ = std::move(*layout);

    unsigned bits = guest_phys_bits(*kernel_, memory_, info->phys_bits);
    auto gpa = choose_region(memory_.occupied(), bits, layout_->pages());
    if (!gpa)
        return fail(gpa.error());
    region_gpa_ = *gpa;
    SM_TRY(views_->set_region(region_gpa_, layout_->pages()));
    auto region = views_->map_region(layout_->pages());
    if (!region)
        return fail(region.error());
    region_ = std::move(*region);

    CompartmentContents contents;
    contents.config = guest_config(options);
    SM_TRY(fill_region(*layout_, *payload, contents, region_gpa_, region_->bytes()));
    for (const kvm_views_protect& range : layout_->protections(region_gpa_))
        SM_TRY(views_->protect(range));
    // The address itself stays secret: a log may end up where the guest can read it.
    log(fmt::format("compartment: {} in {} pages, {} rings of {}",
                    size_text(uint64_t{layout_->pages()} * SM_PAGE_SIZE), layout_->pages(),
                    geometry.slots, size_text(geometry.ring_size)));
    return {};
}

Status MonitorSession::start_reading() {
    auto vcpu = views_->vcpu(cpus_.running.front().index);
    if (!vcpu)
        return fail(vcpu.error());
    auto clock = ClockMap::make({vcpu->guest_tsc, vcpu->realtime_ns, vcpu->tsc_khz});
    if (!clock)
        return fail(clock.error());
    std::vector<RingReader> rings;
    std::vector<sm_slot*> slots;
    for (uint32_t i = 0; i < layout_->geometry().slots; i++) {
        auto reader = RingReader::make(i, ring_in(*layout_, region_->bytes(), i),
                                       ring_data_in(*layout_, region_->bytes(), i));
        if (!reader)
            return fail(reader.error());
        rings.push_back(std::move(*reader));
        slots.push_back(slot_in(*layout_, region_->bytes(), i));
    }
    slots_.assign(slots.begin(), slots.end());
    strays_.emplace(std::move(slots));
    merger_.emplace(std::move(rings), slots_, Decoder(*clock), clock_);
    return {};
}

Status MonitorSession::place_hooks(const Options& options, const Log& log) {
    auto region = region_->bytes();
    uint32_t slots = layout_->geometry().slots;
    auto table = HookTable::make(hooks_in(*layout_, region), layout_->geometry().capacity);
    if (!table)
        return fail(table.error());
    auto area = displaced_in(*layout_, region);
    DisplacedCode code(Gva(SM_COMPARTMENT_GVA + SM_DISPLACED_OFFSET), area.size());
    code.publish_to(area);
    std::vector<std::span<const uint64_t>> counters;
    for (uint32_t i = 0; i < slots; i++)
        counters.push_back(counters_in(*layout_, region, i));
    auto vcpu = views_->vcpu(cpus_.running.front().index);
    if (!vcpu)
        return fail(vcpu.error());
    hooks_.emplace(HookSet::Parts{*table, std::move(code), HookLimits(limits_in(*layout_, region)),
                                  HookCounters(std::move(counters), layout_->geometry().capacity),
                                  slots_, vcpu->tsc_khz, call_gate_});

    HookPolicy policy;
    policy.branch_tracking = vcpu->cr4 & cr4_cet;
    policy.call_gate = options.call_gate && !preempts_kernel_code(*kernel_, memory_);
    user_hooks_.emplace(*views_, *kernel_, memory_, *hooks_, policy);
    auto ids = hooks_->stage(monitors_);
    if (!ids)
        return fail(ids.error());
    if (!options.hooks.empty()) {
        auto planned = user_hooks_->plan(options.hooks, options.hook_limit, [] {});
        if (!planned)
            return fail(planned.error());
        for (const std::string& note : planned->notes)
            log(note);
        // Those have to wait until it is seen that a module goes.
        wants_modules_ = planned->concerns_modules();
        std::erase_if(planned->requests,
                      [](const HookRequest& request) { return request.module.has_value(); });
        if (auto user_ids = hooks_->stage(planned->requests); !user_ids)
            return fail(user_ids.error());
    }
    merger_->decoder().set_symbolizer([this](Gva at) { return function_name(at); });
    for (const HookStatus& hook : hooks_->list())
        introduce(hook, log);
    return {};
}

void MonitorSession::introduce(const HookStatus& hook, const Log& log) {
    name_hook(hook);
    log(fmt::format("hook {} ({}) in {} at {:#x}: {}", hook.id, hook.gate, hook.name, hook.address,
                    hooks_->request(hook.id).displaced.instructions.front().text()));
}

Status MonitorSession::hook_modules(const Options& options, const Log& log) {
    if (!wants_modules_)
        return {};
    auto ids = user_hooks_->add_in_modules(options.hooks, options.hook_limit);
    if (!ids)
        return fail(ids.error());
    for (uint32_t id : *ids)
        if (!user_hooks_->is_pending(id))
            introduce(hooks_->status(id), log);
    return {};
}

void MonitorSession::name_hook(const HookStatus& hook) {
    Decoder& decoder = merger_->decoder();
    const uint16_t type = hooks_->request(hook.id).type;
    std::string_view name = hook.name;
    if (type == SM_EVENT_IRQ_EXIT && name.ends_with(irq_exit_suffix))
        name.remove_suffix(irq_exit_suffix.size());
    if (type == SM_EVENT_IRQ_ENTER || type == SM_EVENT_IRQ_EXIT)
        decoder.set_irq_hook(hook.id, std::string(name));
    else
        decoder.set_hook_name(hook.id, hook.name);
}

/// Only what begins there exactly.
std::string MonitorSession::function_name(Gva at) {
    if (!kernel_->image.contains(at))
        return module_functions_ ? module_functions_->name_of(at) : std::string();
    auto symbol = kernel_->symbols.find_by_address(at);
    if (!symbol || symbol->absolute || Gva(symbol->value) != at)
        return {};
    return std::string(symbol->name);
}

Status MonitorSession::open_way(const Log& log) {
    kvm_views_enable enable{};
    enable.gate_gva = SM_COMPARTMENT_GVA;
    enable.gate_len = SM_COMPARTMENT_SIZE;
    SM_TRY(views_->enable(enable));

    // One batch: the guest never sees a hook without the way that it leads to.
    std::vector<kvm_views_patch> patches = entry_.patches(region_gpa_, gate_);
    std::vector<uint32_t> ids = hooks_->all();
    for (const kvm_views_patch& hook : hooks_->patches(ids))
        patches.push_back(hook);
    auto before = views_->stats();
    if (!before)
        return fail(before.error());
    auto patched = views_->patch(patches);
    if (!patched)
        return fail(patched.error());
    hooks_->armed(ids);
    at_arm_ = *before;
    pause_tsc_ = patched->pause_tsc;
    log(fmt::format("armed: {} hooks, the vCPUs stood still for {} TSC ticks", ids.size(),
                    pause_tsc_));
    return {};
}

Result<kvm_views_stats> MonitorSession::stats() const {
    if (at_detach_)
        return minus(*at_detach_, at_arm_);
    auto now = views_->stats();
    if (!now)
        return fail(now.error());
    return minus(*now, at_arm_);
}

Result<std::vector<kvm_views_event>> MonitorSession::take_events() {
    auto events = views_->read_events();
    if (!events)
        return fail(events.error());
    for (const kvm_views_event& event : *events) {
        if (event.type != KVM_VIEWS_EVENT_CALL)
            continue;
        parked_.insert(event.vcpu_id);
        // Before anybody can let that vCPU go on.
        if (event.arg == SM_CALL_HOLD)
            note(user_hooks_->module_passes());
    }
    return events;
}

void MonitorSession::note(const UserHooks::Changed& changed) {
    if (changed.notes.empty() && changed.added.empty())
        return;
    for (uint32_t id : changed.added)
        name_hook(hooks_->status(id));
    notes_.insert(notes_.end(), changed.notes.begin(), changed.notes.end());
    tell_hooks_changed();
}

void MonitorSession::check_modules() { note(user_hooks_->check_modules()); }

MonitorSession::News MonitorSession::take_news() {
    return {hooks_->take_retired(), std::exchange(notes_, {})};
}

Event MonitorSession::event_of(const RetiredHook& retired) {
    Event event;
    if (auto vcpu = views_->vcpu(cpus_.running.front().index))
        event.tsc = vcpu->guest_tsc;
    event.realtime_ns = merger_->decoder().clock_map().to_realtime_ns(event.tsc);
    event.hook = retired.id;
    std::string_view name = retired.name;
    event.body = HookRetired{name.substr(0, Decoder::max_hook_name), retired.why};
    return event;
}

Status MonitorSession::resume_parked() {
    auto parked = std::exchange(parked_, {});
    for (uint32_t vcpu_id : parked) {
        auto status = views_->resume(vcpu_id);
        // ENOENT: it has gone on by itself, because the VMM reset it or the VM is ending.
        if (!status && status.error().code() != ENOENT)
            return status;
    }
    return {};
}

Result<std::vector<FreedSlot>> MonitorSession::free_stray_slots() {
    return strays_->free_strays(*views_, now());
}

ShadowTime MonitorSession::shadow_time() const {
    ShadowTime time;
    for (const sm_slot* slot : slots_) {
        time.ticks += load_acquire(&slot->sampled_ticks);
        time.samples += load_acquire(&slot->sampled);
        time.cut += load_acquire(&slot->samples_cut);
    }
    return time;
}

bool MonitorSession::guest_panicked() const {
    constexpr int32_t no_cpu = -1;
    int32_t cpu = no_cpu;
    return panic_cpu_ &&
           memory_.read(*panic_cpu_, std::as_writable_bytes(std::span(&cpu, 1))).has_value() &&
           cpu != no_cpu;
}

void MonitorSession::resync_clock() {
    auto vcpu = views_->vcpu(cpus_.running.front().index);
    // A clock that is not corrected drifts a little; that is no reason to end a trace.
    if (vcpu)
        (void)merger_->decoder().clock_map().resync(
            {vcpu->guest_tsc, vcpu->realtime_ns, vcpu->tsc_khz});
}

Status MonitorSession::revert_hooks() {
    if (!hooks_ || hooks_->active().empty())
        return {};
    if (auto now = views_->stats())
        at_detach_ = *now;
    auto changed = hooks_->disable(*views_, hooks_->active());
    if (!changed)
        return fail(changed.error());
    return {};
}

HookReply MonitorSession::answer(const HookCommand& command,
                                 const UserHooks::Meanwhile& meanwhile) {
    HookReply reply = user_hooks_->answer(command, meanwhile);
    for (const HookStatus& hook : reply.hooks)
        if (hook.state == "on")
            name_hook(hook);
    if (command.verb != HookCommand::Verb::list)
        tell_hooks_changed();
    return reply;
}

/// An interrupt that is being handled now may end unseen.
void MonitorSession::tell_hooks_changed() {
    if (auto vcpu = views_->vcpu(cpus_.running.front().index))
        merger_->decoder().hooks_changed(vcpu->guest_tsc);
}

void MonitorSession::tick() {
    // Who waits for room in its ring is inside the compartment, and would be waited for.
    if (parked_.empty() && hooks_->leaving())
        hooks_->tick(*views_, !merger_->holding());
}

std::vector<std::string> MonitorSession::overwritten(std::span<const Gpa> places) {
    auto what = user_hooks_->overwritten(places);
    for (uint32_t id : what.added)
        name_hook(hooks_->status(id));
    tell_hooks_changed();
    return what.notes;
}

bool MonitorSession::quiet() const {
    return std::none_of(slots_.begin(), slots_.end(), [](const sm_slot* slot) {
        return __atomic_load_n(&slot->busy, __ATOMIC_ACQUIRE) != 0;
    });
}

Status MonitorSession::detach() {
    if (!at_detach_)
        if (auto now = views_->stats())
            at_detach_ = *now;
    SM_TRY(views_->disable());
    if (auto now = views_->stats())
        undo_conflicts_ = now->undo_conflicts;
    return {};
}

} // namespace shadowmon
