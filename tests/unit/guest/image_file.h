// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "src/guest/kernel_image.h"
#include "src/guest/memory.h"

#include <map>
#include <string>
#include <vector>

namespace shadowmon::test {

/// Guest memory from a raw image file (physical address = file offset), with pages
/// that a test overwrites kept beside it. Counts what is read.
class ImageFile : public PhysicalMemory {
  public:
    explicit ImageFile(const std::string& path);
    ~ImageFile() override;
    ImageFile(const ImageFile&) = delete;
    ImageFile& operator=(const ImageFile&) = delete;

    Status read(Gpa gpa, std::span<std::byte> out) const override;
    const std::vector<RamRange>& ram() const override { return ram_; }

    void write(Gpa gpa, std::span<const std::byte> bytes);
    void fill(Gpa gpa, uint64_t size, uint8_t value);
    void restore() { changed_.clear(); }
    /// RAM ends here from now on.
    void cut(uint64_t size) { ram_ = {{Gpa(0), size}}; }
    uint64_t file_size() const { return size_; }

    mutable uint64_t bytes_read = 0;
    mutable uint64_t reads = 0;
    mutable uint64_t chunks = 0; ///< reads if each takes 1 MiB at most

  private:
    const std::byte* data_ = nullptr;
    uint64_t size_ = 0;
    std::vector<RamRange> ram_;
    std::map<uint64_t, std::vector<std::byte>> changed_; ///< by page address
};

/// A folder made by make_image.sh.
class GuestImage {
  public:
    /// The folder that the environment names in SM_GUEST_IMAGE; empty when not set.
    static std::string folder();
    explicit GuestImage(std::string folder) : folder_(std::move(folder)) {}

    std::string path(const std::string& name) const { return folder_ + "/" + name; }
    std::string text(const std::string& name) const;
    /// The registers of all vCPUs in snapshot "idle" or "user".
    std::vector<CpuState> cpus(const std::string& snapshot) const;

  private:
    std::string folder_;
};

} // namespace shadowmon::test
