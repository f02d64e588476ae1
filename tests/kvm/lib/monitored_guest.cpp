// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/kvm/lib/monitored_guest.h"

#include "payload/asm_offsets.h"
#include "payload/symbols.h"
#include "tests/support/task_offsets.h"

#include <cstring>
#include <elf.h>
#include <utility>

namespace shadowmon::kvmtest {

namespace {
constexpr sm_offsets guest_offsets = task_offsets(MonitoredGuest::current_offset);

constexpr uint8_t int20_bytes[] = {0xcd, gate_vector};
constexpr Gpa pud_entry_gpa{TG_PDPT_HIGH_GPA + pud_index * 8};
constexpr Gpa idt_entry_gpa{TG_IDT_GPA + 16 * gate_vector};

Layout make_layout(const PayloadImage& payload, const MonitoredGuest::Options& options) {
    Geometry geometry;
    geometry.slots = options.slots;
    geometry.ring_size = options.ring_size;
    geometry.text_size = payload.text().size;
    geometry.rodata_size = payload.rodata().size;
    geometry.data_size = payload.data().size;
    return must(Layout::make(geometry));
}

void append_jump(std::vector<uint8_t>& code, Gva start, uint64_t target) {
    code.push_back(0xe9);
    const auto rel = static_cast<uint32_t>(target - (start + code.size() + 4).value);
    for (unsigned i = 0; i < 4; i++)
        code.push_back(static_cast<uint8_t>(rel >> (8 * i)));
}

/// Name and offset of the symbol of the payload that is nearest below.
std::string payload_symbol(uint64_t rip) {
    const auto file = embedded_payload();
    const auto* bytes = reinterpret_cast<const uint8_t*>(file.data());
    Elf64_Ehdr header;
    memcpy(&header, bytes, sizeof(header));
    std::vector<Elf64_Shdr> sections(header.e_shnum);
    memcpy(sections.data(), bytes + header.e_shoff, sections.size() * sizeof(Elf64_Shdr));
    std::string best = "?";
    uint64_t distance = ~0ull;
    for (const Elf64_Shdr& section : sections) {
        if (section.sh_type != SHT_SYMTAB)
            continue;
        const char* names =
            reinterpret_cast<const char*>(bytes) + sections[section.sh_link].sh_offset;
        for (uint64_t at = 0; at < section.sh_size; at += sizeof(Elf64_Sym)) {
            Elf64_Sym symbol;
            memcpy(&symbol, bytes + section.sh_offset + at, sizeof(symbol));
            const auto type = ELF64_ST_TYPE(symbol.st_info);
            if (!symbol.st_name || type == STT_SECTION || type == STT_FILE ||
                symbol.st_value > rip || rip - symbol.st_value >= distance)
                continue;
            distance = rip - symbol.st_value;
            best = names + symbol.st_name;
        }
    }
    return fmt::format("{}+0x{:x}", best, distance);
}
} // namespace

MonitoredGuest::MonitoredGuest(GuestText text, const std::vector<HookSite>& sites, Options options)
    : text_(text), vm_(options.vm), payload_(must(PayloadImage::parse(embedded_payload()))),
      layout_(make_layout(payload_, options)) {
    for (const HookSite& site : sites) {
        Hooked hooked;
        hooked.site = site;
        hooked.old.assign(site.site, site.is_call ? site.end : site.site + sizeof(int20_bytes));
        if (site.is_call) {
            SM_CHECK_EQ(site.end - site.site, SM_ASM_CALL_LENGTH, "a CALL replaces a NOP of five");
            hooked.bytes = {0xe8};
            const auto rel = static_cast<uint32_t>(
                must(payload_.symbol(SM_SYMBOL_GATE_CALL)).value - function(site.end).value);
            for (unsigned i = 0; i < 4; i++)
                hooked.bytes.push_back(static_cast<uint8_t>(rel >> (8 * i)));
        } else {
            SM_CHECK(site.end - site.site >= static_cast<long>(sizeof(int20_bytes)));
            hooked.bytes.assign(std::begin(int20_bytes), std::end(int20_bytes));
        }
        hooks_.push_back(std::move(hooked));
    }
    build_guest();
}

void MonitoredGuest::write_task(uint64_t at, uint32_t pid, const char* comm) {
    vm_.at<uint32_t>(at + guest_offsets.task_pid) = pid + 1;
    vm_.at<uint32_t>(at + guest_offsets.task_tgid) = pid;
    vm_.at<uint64_t>(at + guest_offsets.task_real_parent) = parent_gpa;
    vm_.at<uint64_t>(at + guest_offsets.task_cred) = cred_gpa;
    vm_.at<uint32_t>(at + guest_offsets.task_state) = 1;
    strncpy(&vm_.at<char>(at + guest_offsets.task_comm), comm, SM_COMM_SIZE);
}

void MonitoredGuest::build_guest() {
    const auto size = static_cast<size_t>(text_.end - text_.begin);
    memcpy(vm_.ram(Gpa{text_gpa}, size), text_.begin, size);
    write_task(task_gpa, 100, "bench");
    write_task(next_task_gpa, 200, "next");
    write_task(parent_gpa, 1, "init");
    vm_.at<uint32_t>(cred_gpa + guest_offsets.cred_uid) = 33;
    // The same memory once more, where a kernel's text is: in reach of the compartment's jumps.
    vm_.at<uint64_t>(TG_PDPT_HIGH_GPA + 510 * 8) = TG_PD_LOW_GPA | pte_kernel_page;
    for (unsigned vcpu = 0; vcpu < vm_.nr_vcpus(); vcpu++) {
        vm_.at<uint64_t>(TG_CONTEXT_GPA + vcpu * page_size + current_offset) = task_gpa;
        for (uint64_t i = 0; i < 21; i++)
            vm_.at<uint64_t>(regs_at(vcpu) + 8 * i) = 1000 + i;
        // As Linux does where the CPU can, so that the payload reads the GS base in one
        // instruction.
        kvm_sregs s = vm_.vcpu(vcpu).sregs();
        s.cr4 |= 1 << 16;
        vm_.vcpu(vcpu).set_sregs(s);
    }
}

/// The instruction, sti, and the jump back; and the same without sti.
void MonitoredGuest::build_displaced(Hooked& hooked, std::vector<uint8_t>& code) {
    const Gva start{SM_COMPARTMENT_GVA + SM_DISPLACED_OFFSET};
    auto emit = [&](bool sti) {
        const uint64_t address = start.value + code.size();
        code.insert(code.end(), hooked.site.site, hooked.site.end);
        if (sti)
            code.push_back(0xfb);
        append_jump(code, start, function(hooked.site.end).value);
        return address;
    };
    hooked.resume_if1 = emit(true);
    hooked.resume_if0 = emit(false);
}

void MonitoredGuest::fill() {
    CompartmentContents contents;
    contents.config.task_size = 0x1000;
    contents.config.direct_map = 0;
    contents.config.nr_windows = 1;
    contents.config.windows[0] = {0, TG_RAM_SIZE};
    contents.config.offsets = guest_offsets;
    std::vector<uint8_t> code;
    for (Hooked& hooked : hooks_) {
        sm_hook hook{};
        hook.id = hooked.site.id;
        hook.type = hooked.site.type;
        if (hooked.site.is_call) {
            hook.rip = function(hooked.site.end).value;
            hook.flags = SM_HOOK_CALL;
        } else {
            hook.rip = function(hooked.site.site).value + sizeof(int20_bytes);
            build_displaced(hooked, code);
            hook.resume_if1 = hooked.resume_if1;
            hook.resume_if0 = hooked.resume_if0;
        }
        contents.hooks.push_back(hook);
    }
    contents.displaced = std::as_bytes(std::span(code));
    if (auto status = fill_region(layout_, payload_, contents, region_gpa_, region_); !status)
        SM_FAIL("%s", status.error().message().c_str());
}

void MonitoredGuest::attach() {
    unmonitored_ = patched_pages();
    views_ = Views::attach(vm_.fd());
    SM_CHECK_EQ(views_.set_region(region_gpa_, layout_.pages()), 0, "SET_REGION works");
    map_ = views_.map_region(layout_.pages());
    region_ = {reinterpret_cast<std::byte*>(map_.bytes()), map_.size()};
    fill();
    for (const kvm_views_protect& p : layout_.protections(region_gpa_))
        SM_CHECK_EQ(views_.protect(Gpa{p.gpa}, p.pages, p.view, p.rights), 0, "PROTECT works");
    rings_ = make_rings();
    SM_CHECK_EQ(views_.enable(Gva{SM_COMPARTMENT_GVA}, SM_COMPARTMENT_SIZE), 0, "ENABLE works");

    const uint64_t pud = pud_entry(region_gpa_);
    std::array<uint8_t, 8> pud_bytes;
    memcpy(pud_bytes.data(), &pud, sizeof(pud));
    const auto gate =
        IdtEntry::interrupt_gate(must(payload_.symbol(SM_SYMBOL_GATE_INT20)), TG_CODE_SELECTOR);
    std::array<uint8_t, 16> gate_bytes;
    static_assert(sizeof(gate) == sizeof(gate_bytes));
    memcpy(gate_bytes.data(), &gate, sizeof(gate));
    std::vector<kvm_views_patch> patches = {
        make_patch(pud_entry_gpa, vm_.ram_span(pud_entry_gpa, pud_bytes.size()), pud_bytes),
        make_patch(idt_entry_gpa, vm_.ram_span(idt_entry_gpa, gate_bytes.size()), gate_bytes)};
    for (const Hooked& hooked : hooks_)
        patches.push_back(patch_of(hooked));
    SM_CHECK_EQ(views_.patch(patches), 0, "PATCH works");
}

kvm_views_patch MonitoredGuest::patch_of(const Hooked& hooked) const {
    return make_patch(gpa(hooked.site.site), hooked.old, hooked.bytes,
                      KVM_VIEWS_PATCH_HOOK | (hooked.site.is_call ? KVM_VIEWS_PATCH_CALL : 0));
}

uint32_t MonitoredGuest::patch_in(const HookSite& site) {
    kvm_views_patch patch = patch_of(hooked(site.id));
    uint32_t inside = ~0u;
    SM_CHECK_EQ(views_.patch({&patch, 1}, nullptr, nullptr, &inside), 0, "PATCH works");
    return inside;
}

uint32_t MonitoredGuest::take_out(const HookSite& site) {
    const Hooked& h = hooked(site.id);
    kvm_views_patch patch = make_patch(gpa(site.site), h.bytes, h.old,
                                       KVM_VIEWS_PATCH_REVERT | KVM_VIEWS_PATCH_HOOK |
                                           (site.is_call ? KVM_VIEWS_PATCH_CALL : 0));
    uint32_t inside = ~0u;
    SM_CHECK_EQ(views_.patch({&patch, 1}, nullptr, nullptr, &inside), 0, "REVERT works");
    return inside;
}

bool MonitoredGuest::is_hooked(const HookSite& site) {
    const Hooked& h = hooked(site.id);
    const uint8_t* now = vm_.ram(gpa(site.site), h.bytes.size());
    if (!memcmp(now, h.bytes.data(), h.bytes.size()))
        return true;
    SM_CHECK(!memcmp(now, h.old.data(), h.old.size()));
    return false;
}

std::vector<uint8_t> MonitoredGuest::patched_pages() {
    std::vector<uint8_t> bytes;
    for (uint64_t gpa : {uint64_t{TG_PDPT_HIGH_GPA}, uint64_t{TG_IDT_GPA}, text_gpa}) {
        const auto page = vm_.ram_span(Gpa{gpa}, page_size);
        bytes.insert(bytes.end(), page.begin(), page.end());
    }
    return bytes;
}

bool MonitoredGuest::is_clean() { return patched_pages() == unmonitored_; }

MonitoredGuest::Hooked& MonitoredGuest::hooked(uint32_t id) {
    for (Hooked& h : hooks_) {
        if (h.site.id == id)
            return h;
    }
    SM_FAIL("the guest has no hook %u", id);
}

sm_hook& MonitoredGuest::hook(uint32_t id) {
    for (sm_hook& entry : hooks_in(layout_, region_)) {
        if (entry.rip && entry.id == id)
            return entry;
    }
    SM_FAIL("the hook table has no hook %u", id);
}

uint64_t MonitoredGuest::no_slot() {
    const uint64_t offset =
        must(payload_.symbol(SM_SYMBOL_NO_SLOT)).value - (SM_COMPARTMENT_GVA + SM_DATA_OFFSET);
    const uint64_t at = layout_.area(AreaKind::data).first_page * page_size + offset;
    return __atomic_load_n(reinterpret_cast<uint64_t*>(map_.bytes() + at), __ATOMIC_ACQUIRE);
}

std::vector<RingReader> MonitoredGuest::make_rings() {
    std::vector<RingReader> rings;
    for (uint32_t i = 0; i < slots(); i++)
        rings.push_back(must(
            RingReader::make(i, ring_in(layout_, region_, i), ring_data_in(layout_, region_, i))));
    return rings;
}

std::vector<Record> MonitoredGuest::take_records() {
    std::vector<Record> records;
    for (RingReader& ring : rings_) {
        ring.refresh();
        while (const Record* record = ring.front()) {
            records.push_back(*record);
            ring.pop();
        }
        ring.release();
        if (ring.broken())
            SM_FAIL("%s", ring.error()->message().c_str());
        SM_CHECK_EQ(ring.missing(), 0, "no sequence number is missing");
    }
    return records;
}

std::string MonitoredGuest::name_of(uint64_t rip) const {
    const uint64_t displaced = SM_COMPARTMENT_GVA + SM_DISPLACED_OFFSET;
    std::string name;
    if (rip - displaced < SM_DISPLACED_MAX_SIZE)
        name = fmt::format("displaced+0x{:x}", rip - displaced);
    else if (rip - SM_COMPARTMENT_GVA < SM_COMPARTMENT_SIZE)
        name = payload_symbol(rip);
    else
        name = fmt::format("guest text+0x{:x}", rip - high_half - text_gpa);
    return fmt::format("0x{:x} ({})", rip, name);
}

} // namespace shadowmon::kvmtest
