// SPDX-License-Identifier: MIT
//
// A program for the hook to be preloaded into, which reads a file part by part
// (streams_test.py). For each line "KIND SIZE COUNT" on standard input it reads so many parts
// of so many KiB, and goes on at the file's beginning behind its end:
//
//   same   all into one block
//   fresh  each into a block of its own, which is freed at once
//   next   the same, but it is freed when the next one was read
//   kept   each into a block of its own, which stays
//
// It checks every byte, and says: bytes that were shared and made, in how many places they were.
#include "tests/preload/check.hpp"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <iostream>
#include <set>
#include <string>
#include <string_view>
#include <sys/stat.h>
#include <unistd.h>
#include <upm/hook.h>
#include <utility>
#include <vector>

namespace {

int file = -1;
std::vector<char> content;
std::size_t at = 0;

char *allocate(std::size_t size) {
    auto *const block = static_cast<char *>(std::malloc(size));
    UPM_CHECK(block != nullptr);
    return block;
}

void read_part(char *block, std::size_t size) {
    if (content.size() - at < size)
        at = 0;
    UPM_CHECK(::pread(file, block, size, static_cast<off_t>(at)) == static_cast<ssize_t>(size));
    UPM_CHECK(std::memcmp(block, content.data() + at, size) == 0);
    at += size;
}

void read_all(std::string_view kind, std::size_t size, unsigned count, std::set<char *> &places) {
    static std::vector<char *> kept;
    char *const same = kind == "same" ? allocate(size) : nullptr;
    char *last = nullptr;
    for (unsigned i = 0; i < count; ++i) {
        char *const block = same != nullptr ? same : allocate(size);
        read_part(block, size);
        places.insert(block);
        if (kind == "kept")
            kept.push_back(block);
        else if (kind == "fresh")
            std::free(block);
        else if (kind == "next")
            std::free(std::exchange(last, block));
    }
    std::free(same);
    std::free(last);
}

// In small parts, which are nothing to the hook.
void look_at_file(const char *path) {
    constexpr std::size_t kPart = 16 * kKib;
    file = ::open(path, O_RDONLY | O_CLOEXEC);
    struct stat status {};
    UPM_CHECK(file >= 0 && ::fstat(file, &status) == 0);
    content.resize(static_cast<std::size_t>(status.st_size));
    for (std::size_t done = 0; done < content.size(); done += kPart) {
        const std::size_t part = std::min(kPart, content.size() - done);
        UPM_CHECK(::pread(file, content.data() + done, part, static_cast<off_t>(done)) ==
                  static_cast<ssize_t>(part));
    }
}

} // namespace

int main(int argc, char **argv) {
    UPM_CHECK(argc == 2);
    const auto report =
        reinterpret_cast<decltype(&upm_hook_report)>(::dlsym(RTLD_DEFAULT, "upm_hook_report"));
    UPM_CHECK(report != nullptr);
    look_at_file(argv[1]);
    std::puts("ready");
    (void)std::fflush(stdout);
    std::string kind;
    std::size_t kib = 0;
    unsigned count = 0;
    while (std::cin >> kind >> kib >> count) {
        std::set<char *> places;
        read_all(kind, kib * kKib, count, places);
        upm_hook_stats stats{};
        UPM_CHECK(report(&stats) == 0);
        std::printf("%" PRIu64 " %" PRIu64 " %zu\n", stats.loaded_shared, stats.loaded_made,
                    places.size());
        (void)std::fflush(stdout);
    }
    return 0;
}
