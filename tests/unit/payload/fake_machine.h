/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A machine for the payload's logic to run on in a test: guest-physical memory of pages, page
 * tables made of it, and a load() that knows what would fault on the real one. What does not fault
 * is decided by is_backed() alone, not by the page tables that the payload walks.
 */
#ifndef SHADOWMONITOR_TESTS_UNIT_PAYLOAD_FAKE_MACHINE_H
#define SHADOWMONITOR_TESTS_UNIT_PAYLOAD_FAKE_MACHINE_H

#include "payload/handler.h"
#include "tests/support/task_offsets.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

namespace shadowmon::payload::test {

class FakeMachine {
  public:
    static constexpr u64 ram_size = 64 << 20;
    static constexpr u64 direct_map = 0xffff888000000000;
    static constexpr u64 high_ram = u64{4} << 30; /* a second range of RAM, above the hole */
    static constexpr u64 kernel_image = 0xffffffff9a000000;
    static constexpr u64 kernel_image_gpa = 0x1000000;
    static constexpr u64 kernel_image_size = 0x400000;
    static constexpr u64 stack = 0xffffc90000120000; /* mapped by pages, all over RAM */
    static constexpr u32 capacity = 16;              /* hooks */
    static constexpr u64 tables = 0x2000000;         /* where map() takes table pages from */

    FakeMachine() {
        config_.magic = SM_CONFIG_MAGIC;
        config_.version = SM_ABI_VERSION;
        config_.slots = 2;
        config_.ring_size = 4096;
        config_.hook_mask = 15;
        config_.task_size = 0x1000;
        config_.direct_map = direct_map;
        config_.nr_windows = 3;
        config_.windows[0] = {direct_map, ram_size};
        config_.windows[1] = {direct_map + high_ram, ram_size};
        config_.windows[2] = {kernel_image, kernel_image_size};
        config_.offsets = task_offsets(0x20c0);
        hooks_.resize(16);
        config_.hook_capacity = capacity;
        limits_.resize(capacity);
        for (u32 i = 0; i < 2; i++) {
            counters_.push_back(std::make_unique<u64[]>(SM_COUNTERS * capacity));
            slots_.push_back(std::make_unique<sm_slot>());
            slots_[i]->index = i;
            rings_.push_back(std::make_unique<sm_ring>());
        }
        resize_rings(4096);
        cr3_ = new_table();
        for (u64 i = 0; i < 4; i++)
            map(stack + i * SM_PAGE_SIZE, stack_page(i), 12);
    }

    /* What the payload asks of a machine. */
    const sm_config& config() const {
        sm_derive(&config_); /* of what the test has changed */
        return config_;
    }
    const SavedRegs& saved_regs(const sm_slot&) const { return saved_; }
    u64 from_start(u64 at) const { return at - config().derived.start; }
    bool is_below_limit(u64 from_start) const { return from_start < config().derived.limit; }
    const sm_hook* hooks() const { return hooks_.data(); }
    const sm_hook* hook_at(u64 offset) const { return at_offset(hooks(), offset); }
    u64 offset_of(const sm_hook* hook) const {
        return reinterpret_cast<u64>(hook) - reinterpret_cast<u64>(hooks());
    }
    sm_ring& ring_of(const sm_slot& slot) const { return *rings_[slot.index]; }
    u8* ring_data(sm_ring& ring) const {
        for (size_t i = 0; i < rings_.size(); i++)
            if (rings_[i].get() == &ring)
                return reinterpret_cast<u8*>(data_[i].get());
        return nullptr;
    }
    u64* counters_of(sm_ring& ring) const {
        return counters_[&ring == rings_[0].get() ? 0 : 1].get();
    }
    u64& irq_count(u32 aux) const { return irq_counts_.at(aux % SM_MAX_VCPUS); }
    sm_limit& limit_of(const sm_hook& hook) const { return limits_.at(hook.id); }
    u64 cr3() const { return cr3_ | 0x3; /* PCID bits and the like */ }
    u64 gs_base() const { return gs_base_; }
    u64 call_host(u64 number) const { return on_call_(number); }
    u32 tsc_aux() const { return aux_; }
    u64 load_u32(Gva at) const { return load<u32>(at); }
    u64 load_int(Gva base, u64 from_base, u64 offset) const {
        return static_cast<u64>(s64{static_cast<s32>(load<u32>(base + from_base + offset))});
    }
    template <class T> T load(Gva base, u64 from_base, u64 offset) const {
        return load<T>(base + from_base + offset);
    }
    template <class T> T load(Gva at) const {
        loads_++;
        T value{};
        for (u64 i = 0; i < sizeof(T); i++) {
            const auto gpa = backing(raw(at) + i);
            if (!gpa) {
                ADD_FAILURE() << "load of " << sizeof(T) << " bytes at 0x" << std::hex << raw(at)
                              << " would fault";
                return value;
            }
            reinterpret_cast<u8*>(&value)[i] = read_byte(*gpa);
        }
        if (on_load_)
            on_load_(raw(at));
        return value;
    }

    /* Where an address is on the real machine if touching it is harmless. */
    std::optional<u64> backing(u64 gva) const {
        if (gva - stack < stack_block_size)
            return stack_page((gva - stack) / SM_PAGE_SIZE) + gva % SM_PAGE_SIZE;
        if (gva - direct_map < ram_size || gva - direct_map - high_ram < ram_size)
            return gva - direct_map;
        if (gva - kernel_image < kernel_image_size)
            return gva - kernel_image + kernel_image_gpa;
        return {};
    }

    u8 read_byte(u64 gpa) const {
        const auto page = pages_.find(gpa / SM_PAGE_SIZE);
        return page == pages_.end() ? 0 : page->second[gpa % SM_PAGE_SIZE];
    }
    template <class T> void write_gpa(u64 gpa, T value) {
        for (u64 i = 0; i < sizeof(T); i++)
            pages_[(gpa + i) / SM_PAGE_SIZE][(gpa + i) % SM_PAGE_SIZE] =
                reinterpret_cast<const u8*>(&value)[i];
    }
    template <class T> void write(u64 gva, T value) {
        for (u64 i = 0; i < sizeof(T); i++)
            write_gpa(backing(gva + i).value(), reinterpret_cast<const u8*>(&value)[i]);
    }
    void write_text(u64 gva, const char* text, u64 size) {
        for (u64 i = 0; i < size; i++)
            write(gva + i, static_cast<u8>(i < strlen(text) ? text[i] : 0));
    }

    /* Page tables in guest-physical memory; shift 12, 21 or 30 is the size of the page. */
    void map(u64 gva, u64 gpa, int shift) {
        u64 table = cr3_;
        for (int level = config_.la57 ? 48 : 39;; level -= 9) {
            const u64 entry_at = table + (gva >> level & 0x1ff) * 8;
            if (level == shift) {
                write_gpa(entry_at, gpa | 0x8000000000000063 | (shift > 12 ? 0x80 : 0));
                return;
            }
            u64 entry = read_gpa(entry_at);
            if (!(entry & 1)) {
                entry = new_table() | 0x67;
                write_gpa(entry_at, entry);
            }
            table = entry & 0x000ffffffffff000;
        }
    }
    u64 read_gpa(u64 gpa) const {
        u64 value = 0;
        for (u64 i = 0; i < 8; i++)
            value |= u64{read_byte(gpa + i)} << (8 * i);
        return value;
    }
    u64 new_table() {
        next_table_ += SM_PAGE_SIZE;
        return next_table_;
    }

    /* A task in the direct map, with cred behind it. */
    void make_task(u64 gva, u32 pid, u32 tgid, u64 parent, u32 uid, const char* comm) {
        const sm_offsets& o = config_.offsets;
        const u64 cred = gva + 0x2000;
        write(gva + o.task_pid, pid);
        write(gva + o.task_tgid, tgid);
        write(gva + o.task_real_parent, parent);
        write(gva + o.task_cred, cred);
        write(cred + o.cred_uid, uid);
        write_text(gva + o.task_comm, comm, SM_COMM_SIZE);
        write(gva + o.task_state, u32{1});
    }
    void set_current(u64 task) {
        gs_base_ = direct_map + 0x3c00000;
        write(gs_base_ + config_.offsets.current_task, task);
    }

    void add_hook(u64 rip, u32 id, u16 type, u16 flags = 0) {
        u32 i = sm_hook_index(rip, config_.hook_mask);
        while (hooks_[i].rip != 0)
            i = (i + 1) & config_.hook_mask;
        hooks_[i] = {rip, id, type, flags, rip + 0x1000000, rip + 0x2000000};
    }

    /* The frame that INT pushes and below it what the gate pushes; fills the slot as the gate. */
    void enter(u64 frame_at, u64 rip, u64 rflags, u64 rdi, u64 rsi) {
        write(frame_at, rip);
        write(frame_at + 8, u64{0x10});
        write(frame_at + 16, rflags);
        write(frame_at + 24, frame_at + 40);
        write(frame_at + 32, u64{0x18});
        slot().guest_rsp = frame_at - SM_ASM_FRAME_RIP;
        saved_ = {rsi, rdi, 8, 9, 10};
    }
    /* The same for a CALL: the address of return lies at return_at. */
    void enter_call(u64 return_at, u64 rip, u64 rflags, u64 rdi, u64 rsi) {
        write(return_at, rip);
        write(return_at - SM_ASM_CALL_RIP + SM_ASM_CALL_RFLAGS, rflags);
        slot().guest_rsp = return_at - SM_ASM_CALL_RIP;
        saved_ = {rsi, rdi, 8, 9, 10};
    }

    sm_slot& slot(u32 i = 0) { return *slots_[i]; }
    u64 counter(sm_counter kind, u32 id, u32 i = 0) const {
        return counters_[i][kind * capacity + id];
    }
    sm_ring& ring(u32 i = 0) { return *rings_[i]; }
    u8* data(u32 i = 0) { return reinterpret_cast<u8*>(data_[i].get()); }
    void resize_rings(u32 size) {
        config_.ring_size = size;
        data_.clear();
        for (size_t i = 0; i < rings_.size(); i++)
            data_.push_back(std::make_unique<u64[]>(size / 8));
    }

    mutable sm_config config_{};
    SavedRegs saved_{};
    std::vector<sm_hook> hooks_;
    mutable std::vector<sm_limit> limits_;
    u64 cr3_ = 0;
    u64 gs_base_ = direct_map;
    u32 aux_ = 0;
    std::function<u64(u64)> on_call_ = [](u64) { return u64{1}; };
    std::function<void(u64)> on_load_;
    mutable u64 loads_ = 0;
    mutable std::array<u64, SM_MAX_VCPUS> irq_counts_{};

  private:
    static u64 stack_page(u64 i) { return 0x800000 + (3 - i) * 0x10000; }

    std::map<u64, std::array<u8, SM_PAGE_SIZE>> pages_;
    std::vector<std::unique_ptr<sm_slot>> slots_;
    std::vector<std::unique_ptr<sm_ring>> rings_;
    std::vector<std::unique_ptr<u64[]>> data_;
    std::vector<std::unique_ptr<u64[]>> counters_;
    u64 next_table_ = tables;
};

} // namespace shadowmon::payload::test

#endif
