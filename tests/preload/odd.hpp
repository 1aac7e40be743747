// SPDX-License-Identifier: MIT
//
// What the parts of upm-hook-odd have in common (odd.cpp says what that is): a file that comes
// to share while it is read, and the things to try, by their subjects.
#ifndef UPM_TESTS_PRELOAD_ODD_HPP
#define UPM_TESTS_PRELOAD_ODD_HPP

#include "tests/preload/check.hpp"
#include "tests/preload/free_later.hpp"

#include <cstddef>
#include <cstdint>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

namespace odd {

inline constexpr std::size_t kMib = 1024 * kKib;
inline constexpr std::size_t kBlock = 8 * kMib;
inline constexpr int kNothingTried = 4;

// Of 8 MiB and more.
extern const char *path;

void sleep_ms(int ms);
// Seconds, since some time.
double now();
std::uint64_t bytes_loaded();
char *allocate(std::size_t size);
void read_into(char *block, std::size_t size = kBlock);
// A block whose content is shared. Ends the program if there is none to be had.
char *load();

// Runs in a child, and returns what waitpid(2) says of it.
template <class Function>
int in_child(Function function) {
    const pid_t child = ::fork();
    UPM_CHECK(child >= 0);
    if (child == 0)
        ::_exit(function());
    int status = -1;
    UPM_CHECK(::waitpid(child, &status, 0) == child);
    return status;
}

// Each returns what the program is to exit with.

// odd_cancel.cpp
int cancelled();
int cancelled_in_reads();

// odd_memory.cpp
int protect_meanwhile();
int no_more_mappings();
int key();
int guard();
int holes();
int process_advice();
int locked();
int attach();
int limit();
int cut();
int stacks();
int tight();
int arenas();
int pinned();

// odd_files.cpp
int lease();
int locks();
int few_descriptors();
int close_meanwhile();
int decides();
int served();
int forked_meanwhile();

// odd_process.cpp
int user(uid_t other);
int read_long();
int leave(const char *how);
int rounds(int count);
int alone();
int rights();
int wait_together();

// odd_sandbox.cpp
int lock_all_in();
int lock_strictly();
int locked_in(char **command);
int thread_locked_in(char **command);

} // namespace odd

#endif // UPM_TESTS_PRELOAD_ODD_HPP
