// SPDX-License-Identifier: MIT
//
// What few programs do to memory that was loaded while it was read, to themselves, and to the
// file. Exits 0 only if all was as without the hook, 4 if nothing came to share, so that nothing
// was tried. Used by odd_test.py, with the backend store.
//
//   upm-hook-odd WHAT FILE [ARGUMENT]     FILE: of 8 MiB and more
#include "tests/preload/odd.hpp"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <fcntl.h>
#include <string_view>
#include <thread>
#include <upm/hook.h>

namespace odd {

const char *path = nullptr;

void sleep_ms(int ms) {
    std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

std::uint64_t bytes_loaded() {
    using Report = int (*)(upm_hook_stats *);
    const auto report = reinterpret_cast<Report>(::dlsym(RTLD_DEFAULT, "upm_hook_report"));
    upm_hook_stats stats{};
    if (report == nullptr || report(&stats) != 0)
        return 0;
    return stats.loaded_shared + stats.loaded_made;
}

char *allocate(std::size_t size) {
    void *const memory = std::malloc(size);
    UPM_CHECK(memory != nullptr);
    return static_cast<char *>(memory);
}

void read_into(char *block, std::size_t size) {
    const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
    UPM_CHECK(fd >= 0);
    UPM_CHECK(::pread(fd, block, size, 0) == static_cast<ssize_t>(size));
    UPM_CHECK(::close(fd) == 0);
}

char *load() {
    constexpr int kTries = 200;
    for (int i = 0; i < kTries; ++i) {
        char *const block = allocate(kBlock);
        const std::uint64_t before = bytes_loaded();
        read_into(block);
        if (bytes_loaded() - before > kBlock / 2)
            return block;
        free_later(block);
        sleep_ms(20);
    }
    (void)std::fprintf(stderr, "nothing came to share\n");
    std::_Exit(kNothingTried);
}

} // namespace odd

using namespace odd; // NOLINT(google-build-using-namespace): the program is made of it

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    const std::string_view what = argv[1];
    path = argv[2];
    const int number = argc > 3 ? std::atoi(argv[3]) : 0;
    if (what == "user")
        return user(static_cast<uid_t>(number));
    if (what == "leave")
        return leave(argc > 3 ? argv[3] : "");
    if (what == "rounds")
        return rounds(number);
    if (what == "thread-locked-in")
        return thread_locked_in(argv + 3);
    if (what == "locked-in")
        return locked_in(argv + 3);
    struct {
        std::string_view name;
        int (*run)();
    } constexpr kTries[] = {{"load",
                             [] {
                                 free_later(load());
                                 return 0;
                             }},
                            {"cancelled", cancelled},
                            {"cancelled-in-reads", cancelled_in_reads},
                            {"protect-meanwhile", protect_meanwhile},
                            {"no-more-mappings", no_more_mappings},
                            {"key", key},
                            {"guard", guard},
                            {"holes", holes},
                            {"process-advice", process_advice},
                            {"attach", attach},
                            {"locked", locked},
                            {"limit", limit},
                            {"cut", cut},
                            {"stacks", stacks},
                            {"tight", tight},
                            {"arenas", arenas},
                            {"pinned", pinned},
                            {"lease", lease},
                            {"locks", locks},
                            {"few-descriptors", few_descriptors},
                            {"close-meanwhile", close_meanwhile},
                            {"decides", decides},
                            {"served", served},
                            {"forked-meanwhile", forked_meanwhile},
                            {"alone", alone},
                            {"rights", rights},
                            {"wait-together", wait_together},
                            {"read-long", read_long},
                            {"lock-all-in", lock_all_in},
                            {"lock-strictly", lock_strictly}};
    for (const auto &test : kTries)
        if (what == test.name)
            return test.run();
    return 2;
}
