// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/unit/guest/image_file.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace shadowmon::test {

ImageFile::ImageFile(const std::string& path) {
    int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat info {};
    if (fd < 0 || fstat(fd, &info) != 0)
        throw std::runtime_error("cannot open " + path);
    size_ = static_cast<uint64_t>(info.st_size);
    void* map = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (map == MAP_FAILED)
        throw std::runtime_error("cannot map " + path);
    data_ = static_cast<const std::byte*>(map);
    ram_ = {{Gpa(0), size_}};
}

ImageFile::~ImageFile() { munmap(const_cast<std::byte*>(data_), size_); }

Status ImageFile::read(Gpa gpa, std::span<std::byte> out) const {
    uint64_t end = ram_.front().size;
    if (gpa.value > end || out.size() > end - gpa.value)
        return failf("no RAM at {:#x} (+{:#x})", gpa.value, out.size());
    bytes_read += out.size();
    ++reads;
    chunks += (out.size() + (1u << 20) - 1) >> 20;
    std::memcpy(out.data(), data_ + gpa.value, out.size());
    auto page = changed_.lower_bound(gpa.page().value);
    for (; page != changed_.end() && page->first < gpa.value + out.size(); ++page) {
        uint64_t from = std::max(page->first, gpa.value);
        uint64_t to = std::min(page->first + 0x1000, gpa.value + out.size());
        std::memcpy(out.data() + (from - gpa.value), page->second.data() + (from - page->first),
                    to - from);
    }
    return {};
}

void ImageFile::write(Gpa gpa, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        auto [page, fresh] = changed_.try_emplace(gpa.page().value);
        if (fresh)
            page->second.assign(data_ + page->first, data_ + page->first + 0x1000);
        size_t size = std::min<uint64_t>(bytes.size(), 0x1000 - gpa.page_offset());
        std::memcpy(page->second.data() + gpa.page_offset(), bytes.data(), size);
        bytes = bytes.subspan(size);
        gpa = gpa + size;
    }
}

void ImageFile::fill(Gpa gpa, uint64_t size, uint8_t value) {
    std::vector<std::byte> bytes(size, std::byte{value});
    write(gpa, bytes);
}

std::string GuestImage::folder() {
    const char* folder = std::getenv("SM_GUEST_IMAGE");
    return folder ? folder : "";
}

std::string GuestImage::text(const std::string& name) const {
    std::ifstream file(path(name), std::ios::binary);
    if (!file)
        throw std::runtime_error("cannot open " + path(name));
    std::string all(std::filesystem::file_size(path(name)), '\0');
    if (!file.read(all.data(), static_cast<std::streamsize>(all.size())))
        throw std::runtime_error("cannot read " + path(name));
    return all;
}

namespace {

/// The hexadecimal number behind `key` in one vCPU's part of "info registers".
uint64_t number_after(const std::string& text, const std::string& key, size_t from) {
    size_t at = text.find(key, from);
    if (at == std::string::npos)
        throw std::runtime_error("no " + key + " in the registers");
    return std::stoull(text.substr(at + key.size()), nullptr, 16);
}

} // namespace

std::vector<CpuState> GuestImage::cpus(const std::string& snapshot) const {
    std::string registers = text(snapshot + ".regs");
    std::vector<CpuState> cpus;
    for (size_t at = 0; (at = registers.find("CPU#", at)) != std::string::npos; ++at) {
        CpuState cpu;
        cpu.cr0 = number_after(registers, "CR0=", at);
        cpu.cr3 = number_after(registers, "CR3=", at);
        cpu.cr4 = number_after(registers, "CR4=", at);
        cpu.efer = number_after(registers, "EFER=", at);
        cpu.cpl = static_cast<unsigned>(number_after(registers, "CPL=", at));
        cpu.idt_base = number_after(registers, "IDT=", at);
        size_t gs = registers.find("\nGS =", at);
        cpu.gs_base = number_after(registers, " ", gs + 5);
        cpus.push_back(cpu);
    }
    // QEMU prints neither LSTAR nor the swapped GS base: the guest told them.
    std::istringstream msrs(text("msr"));
    std::string name;
    unsigned index = 0;
    std::string value;
    while (msrs >> name >> index >> value) {
        if (name == "lstar")
            cpus.at(index).lstar = std::stoull(value, nullptr, 16);
        else if (name == "gs_base" && cpus.at(index).cpl == 3)
            cpus.at(index).kernel_gs_base = std::stoull(value, nullptr, 16);
    }
    return cpus;
}

} // namespace shadowmon::test
