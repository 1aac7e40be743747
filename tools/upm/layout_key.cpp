// SPDX-License-Identifier: MIT
//
// Where the key of a keyed layout comes from.
#include "libupm/base/env.hpp"
#include "tools/common/descriptor.hpp"
#include "tools/common/errors.hpp"
#include "tools/common/text.hpp"
#include "tools/upm/keyed_layout.hpp"

#include <array>
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <optional>
#include <string_view>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

namespace upm::tool::cli {

namespace {

constexpr std::size_t kDigits = 32;
using KeyBytes = std::uint8_t[16];

// A file that others could write or read gives no secret.
std::string why_unsafe(const struct stat &status) {
    if (!S_ISREG(status.st_mode))
        return "is no file";
    if (status.st_uid != ::geteuid())
        return "belongs to another user";
    if ((status.st_mode & 077U) != 0)
        return "is open to others: its mode has to be 0600";
    return "";
}

// std::nullopt: there is no such file for this user.
std::optional<HashKey> read_key(const std::string &path) {
    const Descriptor file(
        ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY));
    if (!file && (errno == ENOENT || errno == ENOTDIR || errno == EACCES))
        return std::nullopt;
    struct stat status {};
    if (!file || ::fstat(file.get(), &status) != 0)
        throw SystemError("read", path, errno);
    if (const std::string why = why_unsafe(status); !why.empty())
        throw Failure(fmt::format("{} {}", printable(path), why));
    std::array<char, kDigits> digits{};
    const ssize_t got = ::read(file.get(), digits.data(), digits.size());
    KeyBytes key = {};
    if (got != static_cast<ssize_t>(kDigits) ||
        !env::parse_key(std::string_view(digits.data(), kDigits), key))
        throw Failure(fmt::format("{} holds no key; remove it to get a new one", printable(path)));
    return hash_key(key);
}

std::string new_key() {
    KeyBytes bytes = {};
    if (::getrandom(bytes, sizeof(bytes), 0) != static_cast<ssize_t>(sizeof(bytes)))
        throw Failure("cannot get random bytes", errno);
    std::string text;
    for (const std::uint8_t byte : bytes)
        text += fmt::format("{:02x}", byte);
    return text + "\n";
}

// Whole or not at all, and never over a key that somebody else has just made.
void make_key(const std::string &path) {
    std::string draft = path + ".XXXXXX";
    const Descriptor file(::mkostemp(draft.data(), O_CLOEXEC)); // mode 0600
    if (!file)
        throw SystemError("make", path, errno);
    const std::string text = new_key();
    const bool written =
        ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
    const bool named = written && (::link(draft.c_str(), path.c_str()) == 0 || errno == EEXIST);
    const int error = errno;
    (void)::unlink(draft.c_str());
    if (!named)
        throw SystemError("write", path, error);
}

std::vector<std::string> key_paths() {
    std::vector<std::string> paths;
    const auto absolute = [](const char *name) {
        const char *const value = std::getenv(name);
        return std::string(value != nullptr && *value == '/' ? value : "");
    };
    std::string state = absolute("XDG_STATE_HOME");
    if (const std::string home = absolute("HOME"); state.empty() && !home.empty())
        state = home + "/.local/state";
    if (!state.empty()) {
        std::error_code ignored; // of a folder that is missing, the key's file tells
        std::filesystem::create_directories(state + "/upm", ignored);
        paths.push_back(state + "/upm/layout-key");
    }
    std::string run = absolute("XDG_RUNTIME_DIR");
    if (run.empty())
        run = fmt::format("/run/user/{}", ::geteuid());
    paths.push_back(run + "/upm-layout-key");
    return paths;
}

// Throws Failure.
HashKey user_key() {
    std::string why;
    for (const std::string &path : key_paths()) {
        if (const auto key = read_key(path))
            return *key;
        try {
            make_key(path);
        } catch (const Failure &failure) {
            why += (why.empty() ? "" : "; ") + std::string(failure.what());
            continue;
        }
        if (const auto key = read_key(path))
            return *key;
    }
    throw Failure("no place for a key: " + why);
}

} // namespace

HashKey layout_key() {
    KeyBytes key = {};
    switch (env::get(env::domain, key)) {
    case env::KeyState::kValid:
        return hash_key(key);
    case env::KeyState::kBad:
        throw Failure("UPM_DOMAIN is no key of 32 hex digits, nor a file with one");
    case env::KeyState::kUnset:
        break;
    }
    return user_key();
}

} // namespace upm::tool::cli
