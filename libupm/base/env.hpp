// SPDX-License-Identifier: MIT
//
// The environment variables of the library, the hook and cuda-cow: one table, and one
// parser for each type. A value that cannot be understood is reported on standard error,
// once in a process, and another one is used. A program that runs with more rights than
// its caller (setuid, capabilities) has no environment here.
#ifndef UPM_BASE_ENV_HPP
#define UPM_BASE_ENV_HPP

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace upm::env {

enum class Backend : std::uint8_t { kAuto, kKmod, kStore, kKsm, kNone };
enum class Trigger : std::uint8_t { kIdle, kManual, kSignal };
enum class Scope : std::uint8_t { kLoads, kBlocks, kAll };
enum class Use : std::uint8_t { kRead, kWrite };

// The types of variables. An empty value is an unset one.

struct Variable {
    const char *name;
    const char *meaning; // one line, for `upm --help`
    unsigned index;      // in kAll
};

// Any text: a path, or what the reader of it checks itself.
struct Text : Variable {
    const char *fallback;
};

// 1, yes, on or true; 0, no, off or false. Unset is off.
struct Flag : Variable {};

// One of a few words, in the order of Enum: the first of them if unset, `otherwise` for
// anything else.
template <typename Enum, std::size_t N>
struct Choice : Variable {
    const char *words[N];
    Enum otherwise = Enum{};
};

// A whole number from `least` to `most`; of bytes: with K, M, G or T for a power of 1024.
struct Number : Variable {
    bool bytes;
    std::uint64_t fallback;
    std::uint64_t least;
    std::uint64_t most;
};

// 32 hex digits, or the path of a file that holds them: begins with a slash.
struct Key : Variable {};

// X(type, id, "NAME", "meaning", what the type has besides)
#define UPM_ENV_TABLE(X)                                                                           \
    X(BackendChoice, backend, "UPM_BACKEND",                                                       \
      "backend: auto, kmod, store, ksm or none (auto: the first of them that works)",              \
      {"auto", "kmod", "store", "ksm", "none"}, Backend::kNone)                                    \
    X(Key, domain, "UPM_DOMAIN",                                                                   \
      "key of the named domain to merge in: 32 hex digits, or the path of a file with them")       \
    X(Text, socket, "UPM_SOCKET", "where upmd listens (backend store), if not where upmd(8) says", \
      "")                                                                                          \
    X(Key, seed, "UPM_SEED", "32 hex digits: what loads get is kept for that seed (upm seed)")     \
    X(Flag, verbose, "UPM_VERBOSE",                                                                \
      "say on stderr which backend is used and why, and at exit what the hook did")                \
    X(Number, min_bytes, "UPM_MIN_BYTES", "hook: smallest block that it looks after", true,        \
      64UL << 10, 4096, std::uint64_t{1} << 46)                                                    \
    X(TriggerChoice, trigger, "UPM_TRIGGER", "hook: advise when: idle, manual or signal",          \
      {"idle", "manual", "signal"})                                                                \
    X(Number, idle_ms, "UPM_IDLE_MS", "hook: idle is that long without work, ms", false, 100, 1,   \
      3'600'000)                                                                                   \
    X(ScopeChoice, scope, "UPM_SCOPE",                                                             \
      "hook: share what is read (loads), or merge idle blocks, or all private memory",             \
      {"loads", "blocks", "all"})                                                                  \
    X(Flag, enable, "UPM_ENABLE", "1: Python programs start with the hook (docs/python.md)")       \
    X(Flag, profile, "UPM_PROFILE", "hook: tell at exit which allocations were merged")            \
    X(Text, cuda_driver, "UPM_CUDA_DRIVER", "GPU: library to load as the CUDA driver",             \
      "libcuda.so.1")                                                                              \
    X(Text, cuda_socket, "UPM_CUDA_SOCKET",                                                        \
      "GPU: socket of upm-cudad, if not upm-cudad.sock in $XDG_RUNTIME_DIR or /run", "")           \
    X(UseChoice, cuda_unproven, "UPM_CUDA_UNPROVEN",                                               \
      "GPU: what a kernel does through a pointer that nothing is known about: read or write",      \
      {"read", "write"})                                                                           \
    X(Text, cuda_writes, "UPM_CUDA_WRITES",                                                        \
      "GPU: file with lines 'FUNCTION INDEX...': pointer parameters that are written", "")         \
    X(Number, cuda_learn, "UPM_CUDA_LEARN",                                                        \
      "GPU: learn what a function writes from its first N launches before an advise", false, 0, 0, \
      1'000'000)

using BackendChoice = Choice<Backend, 5>;
using TriggerChoice = Choice<Trigger, 3>;
using ScopeChoice = Choice<Scope, 3>;
using UseChoice = Choice<Use, 2>;

enum class Index : unsigned {
#define UPM_ENV_INDEX(type, id, ...) id,
    UPM_ENV_TABLE(UPM_ENV_INDEX)
#undef UPM_ENV_INDEX
};

#define UPM_ENV_DEFINE(type, id, name, meaning, ...)                                               \
    inline constexpr type id{{name, meaning, static_cast<unsigned>(Index::id)} __VA_OPT__(, )      \
                                 __VA_ARGS__};
UPM_ENV_TABLE(UPM_ENV_DEFINE)
#undef UPM_ENV_DEFINE

inline constexpr const Variable *kAll[] = {
#define UPM_ENV_LIST(type, id, ...) &id,
    UPM_ENV_TABLE(UPM_ENV_LIST)
#undef UPM_ENV_LIST
};

// The values. They are read anew at each call, but a bad one is reported once.

const char *get(const Text &variable) noexcept;
bool get(const Flag &variable) noexcept;
std::uint64_t get(const Number &variable) noexcept;

// Returns the place of the word among `count` words, `otherwise` for another one.
unsigned get_choice(const Variable &variable, const char *const *words, unsigned count,
                    unsigned otherwise) noexcept;

template <typename Enum, std::size_t N>
Enum get(const Choice<Enum, N> &variable) noexcept {
    return static_cast<Enum>(
        get_choice(variable, variable.words, N, static_cast<unsigned>(variable.otherwise)));
}

// `key` is filled in for kValid only.
enum class KeyState : std::uint8_t { kUnset, kValid, kBad };
KeyState get(const Key &variable, std::uint8_t (&key)[16]) noexcept;

// The value as it is, empty if unset. Nothing is checked.
std::string_view raw(const Variable &variable) noexcept;

// Reports every bad value now. Other copies of this code in the process then are silent:
// the hook, which is loaded first, speaks for all.
void report_all() noexcept;

// Returns true and fills `key` for exactly 32 hex digits.
bool parse_key(std::string_view digits, std::uint8_t (&key)[16]) noexcept;
// The key that the value of a variable is, or that the file holds which it names: a regular
// file with 32 hex digits and at most one newline. Returns true and fills `key`.
bool find_key(std::string_view value, std::uint8_t (&key)[16]) noexcept;
// "4096", "64K", "2M", "1G", "1T"; small letters as well. False for anything else.
bool parse_bytes(std::string_view text, std::uint64_t &bytes) noexcept;

} // namespace upm::env

#endif // UPM_BASE_ENV_HPP
