// SPDX-License-Identifier: GPL-2.0-or-later
#include "src/guest/kernel_info.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <string>
#include <string_view>

namespace shadowmon {

namespace {

constexpr size_t max_banner = 1024;
constexpr std::string_view banner_start = "Linux version ";
constexpr unsigned max_cpus = 8192;

/// "Linux version 6.1.0-56-cloud-amd64 (...) ..." -> release and its two numbers.
Status parse_banner(KernelInfo& info) {
    std::string_view rest = info.banner;
    if (!rest.starts_with(banner_start))
        return failf("banner: linux_banner does not begin with \"{}\"", banner_start);
    rest.remove_prefix(banner_start.size());
    info.release = rest.substr(0, rest.find(' '));
    const char* end = info.release.data() + info.release.size();
    auto major = std::from_chars(info.release.data(), end, info.version_major);
    if (major.ec != std::errc() || major.ptr == end || *major.ptr != '.' ||
        std::from_chars(major.ptr + 1, end, info.version_minor).ec != std::errc())
        return failf("banner: \"{}\" is no version number", info.release);
    return {};
}

Status find_banner(const VirtualMemory& kernel, KernelInfo& info) {
    auto address = info.symbols.address("linux_banner");
    if (!address)
        return fail(address.error().in("banner"));
    auto banner = kernel.read_string(*address, max_banner);
    if (!banner)
        return fail(banner.error().in("banner"));
    while (!banner->empty() && banner->back() == '\n')
        banner->pop_back();
    // It is shown to the user: nothing of it may control a terminal.
    if (std::any_of(banner->begin(), banner->end(),
                    [](unsigned char c) { return c < 0x20 || c > 0x7e; }))
        return failf("banner: linux_banner holds bytes that are not printable");
    info.banner = std::move(*banner);
    return parse_banner(info);
}

/// Where the running task's pointer is in the per-CPU area: a variable of its own, or
/// since 6.2 a member of pcpu_hot.
Result<uint32_t> find_current_task(const KernelInfo& info) {
    Result<uint64_t> offset = info.symbols.percpu_offset("current_task");
    if (!offset && info.symbols.find("pcpu_hot")) {
        offset = info.symbols.percpu_offset("pcpu_hot");
        auto member = info.btf.offset("pcpu_hot", "current_task");
        if (!member)
            return fail(member.error());
        if (offset)
            *offset += *member;
    }
    if (!offset)
        return fail(offset.error().in("current task"));
    if (*offset > UINT32_MAX)
        return failf("current task: offset {:#x} in the per-CPU area", *offset);
    return static_cast<uint32_t>(*offset);
}

Status find_offsets(KernelInfo& info) {
    struct Wanted {
        uint32_t* to;
        const char* struct_name;
        const char* member;
        uint32_t size; ///< what the payload reads there
    };
    const Wanted wanted[] = {
        {&info.offsets.task_pid, "task_struct", "pid", 4},
        {&info.offsets.task_tgid, "task_struct", "tgid", 4},
        {&info.offsets.task_real_parent, "task_struct", "real_parent", 8},
        {&info.offsets.task_cred, "task_struct", "cred", 8},
        {&info.offsets.task_comm, "task_struct", "comm", 16},
        {&info.offsets.task_state, "task_struct", "__state", 4},
        {&info.offsets.cred_uid, "cred", "uid", 4},
    };
    for (const Wanted& one : wanted) {
        auto member = info.btf.member(one.struct_name, one.member);
        if (!member)
            return fail(member.error());
        if (member->size != one.size)
            return failf("BTF: {}.{} has {} bytes, expected {}", one.struct_name, one.member,
                         member->size, one.size);
        *one.to = member->offset;
    }
    auto size = info.btf.size("task_struct");
    if (!size)
        return fail(size.error());
    info.task_size = *size;
    auto current = find_current_task(info);
    if (!current)
        return fail(current.error());
    info.offsets.current_task = *current;
    return {};
}

/// The symbols and the page tables must tell the same story, or one of them lies.
Status cross_check(const VirtualMemory& kernel, KernelInfo& info) {
    const KernelImage& image = info.image;
    if (auto variable = info.symbols.address("page_offset_base")) {
        auto base = kernel.read_value<uint64_t>(*variable);
        if (!base)
            return fail(base.error().in("page_offset_base"));
        if (Gva(*base) != image.direct_map)
            return failf("direct map: page_offset_base says {:#x}, the page tables {:#x}", *base,
                         image.direct_map.value);
    }

    auto idt = info.symbols.address("idt_table");
    if (!idt)
        return fail(idt.error().in("IDT"));
    auto idt_seen = kernel.tables().walk(image.idt);
    if (!idt_seen)
        return fail(idt_seen.error().in("IDT: walk of IDTR's base"));
    auto idt_gpa = info.to_gpa(*idt);
    if (!idt_gpa)
        return fail(idt_gpa.error().in("IDT"));
    if (*idt_gpa != idt_seen->gpa)
        return failf("IDT: IDTR's base {:#x} leads to {:#x}, but idt_table is at {:#x} -> {:#x}",
                     image.idt.value, idt_seen->gpa.value, idt->value, idt_gpa->value);
    info.idt = *idt;
    info.idt_gpa = *idt_gpa;
    return {};
}

/// Goes over from the page tables of whatever process the vCPU ran, which may be gone
/// at any moment, to the kernel's own. Both must lead to the table that all processes
/// share: what is entered there, all of them see.
Status adopt_kernel_tables(const PhysicalMemory& memory, KernelInfo& info) {
    KernelImage& image = info.image;
    const char* step = "kernel page tables";
    auto level3 = info.symbols.address("level3_kernel_pgt");
    auto top = info.symbols.address("init_top_pgt");
    if (!level3 || !top)
        return fail((level3 ? top : level3).error().in(step));
    auto level3_gpa = info.to_gpa(*level3);
    auto top_gpa = info.to_gpa(*top);
    if (!level3_gpa || !top_gpa)
        return fail((level3_gpa ? top_gpa : level3_gpa).error().in(step));
    for (Gpa root : {image.page_tables, *top_gpa}) {
        Gpa at = root;
        for (unsigned level = image.levels; level > 3; --level) {
            uint64_t entry = 0;
            auto bytes = std::as_writable_bytes(std::span(&entry, 1));
            if (auto status = memory.read(at + 8 * 511, bytes); !status)
                return fail(status.error().in(step));
            at = Gpa(entry & 0x000ffffffffff000);
        }
        if (at != *level3_gpa)
            return failf("{}: the last entries below {:#x} lead to {:#x}, but level3_kernel_pgt is "
                         "at {:#x} -> {:#x}",
                         step, root.value, at.value, level3->value, level3_gpa->value);
    }
    info.level3_kernel_gpa = *level3_gpa;
    image.page_tables = *top_gpa;
    auto seen = image.tables(memory).walk(image.direct_map + image.gpa.value);
    if (!seen)
        return fail(seen.error().in(step));
    if (seen->gpa != image.gpa)
        return failf("{}: init_top_pgt shows {:#x} in the direct map where the image is, not {:#x}",
                     step, seen->gpa.value, image.gpa.value);
    return {};
}

/// The task that the vCPU runs must look like one.
Status check_current(const VirtualMemory& kernel, const KernelInfo& info) {
    Gva percpu = info.image.percpu_base + info.offsets.current_task;
    auto task = kernel.read_value<uint64_t>(percpu);
    if (!task)
        return fail(task.error().in("current task: reading its pointer"));
    std::vector<std::byte> bytes(info.task_size);
    if (auto status = kernel.read(Gva(*task), bytes); !status)
        return fail(status.error().in("current task"));
    const char* comm = reinterpret_cast<const char*>(bytes.data()) + info.offsets.task_comm;
    if (strnlen(comm, 16) == 16)
        return failf("current task at {:#x}: its name does not end", *task);
    return {};
}

/// Whether the words that every Linux carries occur in the image: tells a Linux whose
/// symbols are missing from another system that lies at the same addresses.
bool looks_like_linux(const PhysicalMemory& memory, const KernelImage& image) {
    constexpr uint64_t chunk = 1 << 20;
    std::string buffer;
    for (const MappedRange& part : image.parts) {
        for (uint64_t done = 0; done < part.size; done += chunk) {
            buffer.resize(std::min<uint64_t>(chunk + banner_start.size(), part.size - done));
            if (memory.read(part.gpa + done, std::as_writable_bytes(std::span(buffer))) &&
                buffer.find(banner_start) != std::string::npos)
                return true;
        }
    }
    return false;
}

Result<Kallsyms> find_symbols(const PhysicalMemory& memory, const KernelImage& image,
                              const CpuState& cpu, const SymbolFile* file) {
    auto own = Kallsyms::find(memory, image);
    if (own) {
        if (file)
            SM_TRY(file->check(*own));
        return own;
    }
    if (file) {
        Kallsyms given = file->at(image.start);
        if (auto proven = prove_symbols(memory, image, cpu, given); !proven)
            return failf("the guest shows no symbols of its own ({}), and {} is not of its kernel: "
                         "{}",
                         own.error().message(), file->name(), proven.error().message());
        return given;
    }
    if (!looks_like_linux(memory, image))
        return fail(Error(fmt::format("not Linux: the words \"{}\" are nowhere in the kernel "
                                      "at {:#x}..{:#x}",
                                      banner_start, image.start.value, image.end().value),
                          ENOEXEC));
    return failf("{}; a System.map or vmlinux of this kernel can stand in for them",
                 own.error().message());
}

} // namespace

Result<Gpa> KernelInfo::to_gpa(Gva gva) const {
    if (image.contains(gva))
        return image.gpa + (gva - image.start);
    for (const DirectMapWindow& window : image.windows)
        if (gva >= window.start && gva - window.start < window.size)
            return window.gpa + (gva - window.start);
    return failf("{:#x} is neither in the kernel image nor in the direct map", gva.value);
}

Result<Gva> KernelInfo::percpu_area(const PhysicalMemory& memory, unsigned cpu) const {
    auto table = symbols.address("__per_cpu_offset");
    if (!table)
        return fail(table.error().in("per-CPU area"));
    if (cpu >= max_cpus)
        return failf("per-CPU area: CPU {} is above {}", cpu, max_cpus - 1);
    VirtualMemory kernel(image.tables(memory));
    auto base = kernel.read_value<uint64_t>(*table + 8 * uint64_t{cpu});
    if (!base)
        return fail(base.error().in(fmt::format("per-CPU area of CPU {}", cpu)));
    return Gva(*base);
}

std::vector<sm_window> KernelInfo::windows() const {
    std::vector<sm_window> windows;
    auto add = [&](Gva start, uint64_t size) {
        if (!windows.empty() && windows.back().start + windows.back().size == start.value)
            windows.back().size += size;
        else
            windows.push_back({start.value, size});
    };
    for (const MappedRange& part : image.parts)
        add(part.start, part.size);
    auto image_windows = static_cast<std::ptrdiff_t>(windows.size());
    for (const DirectMapWindow& window : image.windows)
        add(window.start, window.size);
    auto larger = [](const sm_window& a, const sm_window& b) { return a.size > b.size; };
    std::stable_sort(windows.begin(), windows.begin() + image_windows, larger);
    std::stable_sort(windows.begin() + image_windows, windows.end(), larger);
    if (windows.size() > SM_MAX_WINDOWS)
        windows.resize(SM_MAX_WINDOWS);
    return windows;
}

Result<KernelInfo> inspect_kernel(const PhysicalMemory& memory, const CpuState& cpu,
                                  const SymbolFile* file) {
    auto image = find_kernel_image(memory, cpu);
    if (!image)
        return fail(image.error());
    auto symbols = find_symbols(memory, *image, cpu, file);
    if (!symbols)
        return fail(symbols.error());
    KernelInfo info(std::move(*image), std::move(*symbols));
    SM_TRY(adopt_kernel_tables(memory, info));
    auto btf = Btf::find(memory, info.image, info.symbols);
    if (!btf)
        return fail(btf.error());
    info.btf = std::move(*btf);
    VirtualMemory kernel(info.image.tables(memory));
    SM_TRY(find_banner(kernel, info));
    SM_TRY(find_offsets(info));
    SM_TRY(cross_check(kernel, info));
    SM_TRY(check_current(kernel, info));
    return info;
}

} // namespace shadowmon
