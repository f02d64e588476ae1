// SPDX-License-Identifier: GPL-2.0-or-later
// make_hook_seeds FOLDER: seeds for fuzz_hooks, the beginnings of functions of stock kernels.
#include "tests/unit/hooks/stock_functions.h"

#include <cstdio>
#include <filesystem>
#include <fstream>

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: make_hook_seeds FOLDER\n");
        return 1;
    }
    std::filesystem::create_directories(argv[1]);
    unsigned number = 0;
    for (const auto& function : shadowmon::stock_functions()) {
        std::ofstream out(std::string(argv[1]) + "/seed" + std::to_string(number++),
                          std::ios::binary);
        const char head[10] = {};
        out.write(head, sizeof(head));
        out.write(reinterpret_cast<const char*>(function.bytes.data()),
                  static_cast<std::streamsize>(function.bytes.size()));
        if (!out) {
            std::fprintf(stderr, "make_hook_seeds: cannot write to %s\n", argv[1]);
            return 1;
        }
    }
    return 0;
}
