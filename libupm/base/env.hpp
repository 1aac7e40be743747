// SPDX-License-Identifier: MIT
//
// The environment variables of libupm, of the hook and of the tools: all of them,
// in this one table. A variable gets its row together with its first reader.
#ifndef UPM_BASE_ENV_HPP
#define UPM_BASE_ENV_HPP

#include <cstdint>
#include <string_view>

// X(id, name, type, default, meaning)
//
// Types: kChoice (one of a few words), kKey (32 hex digits), kPath (a file), kFlag
// ("" and "0" are off, everything else is on), kBytes (a number, with K, M or G for
// powers of 1024), kNumber.
#define UPM_ENV_TABLE(X)                                                                           \
    X(backend, "UPM_BACKEND", kChoice, "auto",                                                     \
      "backend: auto, kmod, store, ksm or none (auto: the first of them that works)")              \
    X(domain, "UPM_DOMAIN", kKey, "", "32 hex digits: key of the named domain to merge in")        \
    X(socket, "UPM_SOCKET", kPath, "",                                                             \
      "where upmd listens (backend store), if not where upmd(8) says")                             \
    X(verbose, "UPM_VERBOSE", kFlag, "0",                                                          \
      "say on stderr which backend is used and why, and at exit what the hook did")                \
    X(min_bytes, "UPM_MIN_BYTES", kBytes, "64K", "hook: smallest block that it looks after")       \
    X(trigger, "UPM_TRIGGER", kChoice, "idle", "hook: advise when: idle, manual or signal")        \
    X(idle_ms, "UPM_IDLE_MS", kNumber, "100", "hook: idle is that long without work, ms")          \
    X(scope, "UPM_SCOPE", kChoice, "blocks", "hook: advise blocks, or all private memory")         \
    X(enable, "UPM_ENABLE", kFlag, "0", "1: Python programs start with the hook (docs/python.md)") \
    X(profile, "UPM_PROFILE", kFlag, "0", "hook: tell at exit which allocations were merged")

namespace upm::env {

enum class Type : std::uint8_t { kChoice, kKey, kPath, kFlag, kBytes, kNumber };

struct Variable {
    const char *name;
    Type type;
    const char *fallback;
    const char *meaning;
};

#define UPM_ENV_DEFINE(id, name, type, fallback, meaning)                                          \
    inline constexpr Variable id{name, Type::type, fallback, meaning};
UPM_ENV_TABLE(UPM_ENV_DEFINE)
#undef UPM_ENV_DEFINE

#define UPM_ENV_LIST(id, name, type, fallback, meaning) id,
inline constexpr Variable kAll[] = {UPM_ENV_TABLE(UPM_ENV_LIST)};
#undef UPM_ENV_LIST

// The value, or the default when it is unset. Ignores the environment of a
// program that runs with more rights than its caller (setuid, capabilities).
std::string_view text(const Variable &variable) noexcept;

bool flag(const Variable &variable) noexcept;

// True and 16 bytes in `key` for exactly 32 hex digits.
bool parse_key(std::string_view digits, std::uint8_t (&key)[16]) noexcept;

} // namespace upm::env

#endif // UPM_BASE_ENV_HPP
