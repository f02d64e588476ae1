// SPDX-License-Identifier: GPL-2.0-or-later
//
// A stock guest's memory, cut, overwritten and corrupted: inspection must end with a
// message that names the failing step, or with an answer; never in a crash or in endless
// work.
#include "src/guest/kernel_info.h"

#include "tests/unit/guest/stock_guest.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <random>

namespace shadowmon::test {
namespace {

const char* const steps[] = {"direct map",       "kernel image", "kallsyms",  "BTF",
                             "banner",           "current task", "IDT",       "kernel page tables",
                             "page_offset_base", "page walk",    "not Linux", "no RAM"};

bool names_a_step(const std::string& message) {
    for (const char* step : steps)
        if (message.rfind(step, 0) == 0)
            return true;
    return false;
}

class StockHostile : public StockGuest {
  protected:
    Gpa gpa(const char* symbol) const {
        return *kernel_->to_gpa(*kernel_->symbols.address(symbol));
    }

    std::string error() {
        auto info = inspect_kernel(*memory_, cpu_);
        return info ? "none" : info.error().message();
    }
    void expect_error(const std::string& text) {
        std::string message = error();
        EXPECT_NE(message.find(text), std::string::npos) << message;
    }
};

TEST_F(StockHostile, CutMemory) {
    for (uint64_t size = memory_->file_size(); size > 0;) {
        size = size * 7 / 8 & ~uint64_t{0xfff};
        memory_->cut(size);
        std::string message = error();
        EXPECT_TRUE(message == "none" || names_a_step(message)) << message;
    }
    memory_->cut(kernel_->image.gpa.value + 0x1000);
    EXPECT_TRUE(names_a_step(error())) << error();
}

TEST_F(StockHostile, OverwrittenTables) {
    for (const MappedRange& part : kernel_->image.parts) {
        if (!part.rights.writable && !part.rights.executable)
            memory_->fill(part.gpa, part.size, 0);
    }
    expect_error("kallsyms: no token table");
    memory_->restore();

    memory_->fill(gpa("__start_BTF"), 64, 0);
    expect_error("BTF header: magic");
    memory_->restore();
    memory_->fill(gpa("__start_BTF") + 4000, 64, 0xff);
    expect_error("BTF type");
    memory_->restore();
    memory_->fill(gpa("linux_banner"), 16, 0);
    expect_error("banner: linux_banner does not begin with");
    memory_->restore();
    memory_->fill(gpa("linux_banner") + 20, 1, 0x1b);
    expect_error("not printable");
    memory_->restore();
    memory_->fill(gpa("page_offset_base"), 8, 0x11);
    expect_error("page_offset_base says 0x1111111111111111");
    memory_->restore();

    auto task = kernel_->image.percpu_base + kernel_->offsets.current_task;
    memory_->fill(*kernel_->to_gpa(task), 8, 0x11);
    expect_error("current task");
    memory_->restore();
    EXPECT_EQ(error(), "none");
}

/// Where bytes occur in the read-only parts of the image.
std::vector<Gpa> find_bytes(const ImageFile& memory, const KernelImage& image,
                            std::string_view wanted) {
    std::vector<Gpa> found;
    for (const MappedRange& part : image.parts) {
        if (part.rights.writable || part.rights.executable)
            continue;
        std::string data(part.size, '\0');
        EXPECT_TRUE(memory.read(part.gpa, std::as_writable_bytes(std::span(data))));
        for (size_t at = 0; (at = data.find(wanted, at)) != std::string::npos; ++at)
            found.push_back(part.gpa + at);
    }
    return found;
}

TEST_F(StockHostile, OverwrittenTokenTable) {
    // In the token table the digits stand in a row. They may do so elsewhere, too.
    std::string digits("0\0001\0002\0003\0004\0005\0006\0007\0008\0009", 20);
    auto tables = find_bytes(*memory_, kernel_->image, digits);
    ASSERT_FALSE(tables.empty());
    for (Gpa table : tables)
        memory_->fill(table, 1, 'x');
    expect_error("kallsyms: no token table");
    memory_->restore();
    for (Gpa table : tables)
        memory_->fill(table, digits.size(), 0);
    expect_error("kallsyms: no token table");
    memory_->restore();
    // Names and markers come before it.
    for (Gpa table : tables) {
        Gpa from = std::max(table - (1 << 20), kernel_->image.gpa);
        memory_->fill(from, table - from - 2048, 0);
    }
    expect_error("kallsyms names");
    memory_->restore();
    EXPECT_EQ(error(), "none");
}

TEST_F(StockHostile, WrongRegisters) {
    CpuState good = cpu_;
    cpu_.idt_base = kernel_->image.start.value;
    expect_error("IDT: IDTR's base");
    cpu_.idt_base = 0x8000000000000000;
    expect_error("IDT: walk of IDTR's base");
    cpu_ = good;
    cpu_.gs_base = kernel_->image.start.value;
    expect_error("current task");
    cpu_ = good;
    cpu_.cr4 ^= 1 << 12; // the other number of levels
    EXPECT_TRUE(names_a_step(error())) << error();
    cpu_ = good;
    std::mt19937_64 random(1);
    for (unsigned i = 0; i < 300; ++i) {
        cpu_.cr3 = random() % (2 * memory_->file_size());
        std::string message = error();
        EXPECT_TRUE(message == "none" || names_a_step(message)) << message;
    }
}

/// Bytes anywhere in what inspection reads: tables, page tables, BTF, banner.
TEST_F(StockHostile, RandomCorruption) {
    const char* rounds_text = std::getenv("SM_HOSTILE_ROUNDS");
    unsigned rounds = rounds_text ? static_cast<unsigned>(std::atoi(rounds_text)) : 60;
    std::vector<std::pair<Gpa, uint64_t>> targets;
    for (const MappedRange& part : kernel_->image.parts)
        if (!part.rights.executable)
            targets.push_back({part.gpa, part.size});
    targets.push_back({kernel_->image.page_tables, 0x1000});
    targets.push_back({kernel_->level3_kernel_gpa, 0x1000});
    targets.push_back({gpa("level2_kernel_pgt"), 0x1000});
    auto btf = gpa("__start_BTF");
    targets.push_back(
        {btf, *kernel_->symbols.address("__stop_BTF") - *kernel_->symbols.address("__start_BTF")});
    std::map<std::string, unsigned> outcomes;
    for (unsigned seed = 0; seed < rounds; ++seed) {
        std::mt19937_64 random(seed);
        auto [start, size] = targets[random() % targets.size()];
        unsigned count = 1u << random() % 10;
        for (unsigned i = 0; i < count; ++i) {
            auto value = static_cast<std::byte>(random());
            memory_->write(start + random() % size, std::span(&value, 1));
        }
        auto info = inspect_kernel(*memory_, cpu_);
        if (info) {
            ++outcomes["fine"];
            EXPECT_EQ(info->image.start, kernel_->image.start) << seed;
        } else {
            const std::string& message = info.error().message();
            EXPECT_TRUE(names_a_step(message)) << seed << ": " << message;
            ++outcomes[message.substr(0, message.find_first_of(" :"))];
        }
        memory_->restore();
    }
    for (const auto& [outcome, count] : outcomes)
        std::cout << outcome << ": " << count << "\n";
}

} // namespace
} // namespace shadowmon::test
