// SPDX-License-Identifier: MIT
#include "libupm/base/env.hpp"

#include "libupm/base/plain_read.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <iterator>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

// Exported by the hook (upm/hook.h), so null where it is not loaded.
extern "C" [[gnu::weak, gnu::visibility("default")]] std::uint64_t upm_hook_mark();

namespace upm::env {

namespace {

static_assert(std::size(kAll) <= 32, "a bit for each variable");
constinit std::atomic<std::uint32_t> reported{0};
constinit std::atomic<bool> reporting_all{false};

// Text for one line, built without memory of the heap.
class Line {
  public:
    [[gnu::format(printf, 2, 3)]] void add(const char *format, ...) noexcept {
        std::va_list arguments;
        va_start(arguments, format);
        // NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): it does not know va_start here
        const int wanted = std::vsnprintf(text_ + size_, sizeof(text_) - size_, format, arguments);
        va_end(arguments);
        const std::size_t room = sizeof(text_) - 1 - size_;
        size_ += std::min(static_cast<std::size_t>(std::max(wanted, 0)), room);
    }
    // What others chose must not steer a terminal.
    void add_value(std::string_view value) noexcept {
        constexpr std::size_t kMost = 64;
        for (const char c : value.substr(0, kMost))
            add("%c", c >= ' ' && c <= '~' ? c : '?');
        if (value.size() > kMost)
            add("...");
    }
    // One write, so that lines of many processes do not mix.
    void print() noexcept {
        add("\n");
        const int before = errno;
        const ssize_t unused = ::write(STDERR_FILENO, text_, size_);
        (void)unused;
        errno = before;
    }

  private:
    char text_[512] = "";
    std::size_t size_ = 0;
};

// Returns true for the first bad value of this variable, unless the hook has told of it.
bool first_report(const Variable &variable) noexcept {
    const std::uint32_t bit = 1U << variable.index;
    if ((reported.fetch_or(bit) & bit) != 0)
        return false;
    return upm_hook_mark == nullptr || reporting_all.load(std::memory_order_relaxed);
}

Line begin_report(const Variable &variable, std::string_view value) noexcept {
    Line line;
    line.add("upm[%d]: %s=", ::getpid(), variable.name);
    line.add_value(value);
    line.add(" is not ");
    return line;
}

// "64K", or the plain number.
void add_bytes(Line &line, std::uint64_t bytes) noexcept {
    constexpr std::string_view kUnits = " KMGT";
    std::size_t unit = 0;
    while (unit + 1 < kUnits.size() && bytes != 0 && bytes % 1024 == 0) {
        bytes /= 1024;
        ++unit;
    }
    line.add("%llu", static_cast<unsigned long long>(bytes));
    if (unit != 0)
        line.add("%c", kUnits[unit]);
}

void add_number(Line &line, const Number &variable, std::uint64_t value) noexcept {
    if (variable.bytes)
        add_bytes(line, value);
    else
        line.add("%llu", static_cast<unsigned long long>(value));
}

void report(const Number &variable, std::string_view value, std::uint64_t used) noexcept {
    if (!first_report(variable))
        return;
    Line line = begin_report(variable, value);
    line.add(variable.bytes ? "a number of bytes (K, M, G, T: powers of 1024) from "
                            : "a number from ");
    add_number(line, variable, variable.least);
    line.add(" to ");
    add_number(line, variable, variable.most);
    line.add("; using ");
    add_number(line, variable, used);
    line.print();
}

int hex_digit(char c) noexcept {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool parse_number(std::string_view text, std::uint64_t &value) noexcept {
    const char *const end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data(), end, value);
    return error == std::errc() && rest == end;
}

// Reads the value for its report alone.
void check(const Text & /*variable*/) noexcept {}
void check(const Flag &variable) noexcept {
    (void)get(variable);
}
void check(const Number &variable) noexcept {
    (void)get(variable);
}
template <typename Enum, std::size_t N>
void check(const Choice<Enum, N> &variable) noexcept {
    (void)get(variable);
}
void check(const Key &variable) noexcept {
    std::uint8_t key[16];
    (void)get(variable, key);
}

} // namespace

std::string_view raw(const Variable &variable) noexcept {
    const char *const value = ::secure_getenv(variable.name);
    return value != nullptr ? value : "";
}

const char *get(const Text &variable) noexcept {
    const std::string_view value = raw(variable);
    return value.empty() ? variable.fallback : value.data();
}

bool get(const Flag &variable) noexcept {
    constexpr std::array<std::string_view, 4> kOn = {"1", "yes", "on", "true"};
    constexpr std::array<std::string_view, 4> kOff = {"0", "no", "off", "false"};
    const std::string_view value = raw(variable);
    if (std::find(kOn.begin(), kOn.end(), value) != kOn.end())
        return true;
    const bool known = value.empty() || std::find(kOff.begin(), kOff.end(), value) != kOff.end();
    if (!known && first_report(variable)) {
        Line line = begin_report(variable, value);
        line.add("0 or 1; using 0");
        line.print();
    }
    return false;
}

std::uint64_t get(const Number &variable) noexcept {
    const std::string_view text = raw(variable);
    if (text.empty())
        return variable.fallback;
    std::uint64_t value = 0;
    const bool understood = variable.bytes ? parse_bytes(text, value) : parse_number(text, value);
    // Of numbers out of range the nearest is meant.
    const std::uint64_t used =
        understood ? std::clamp(value, variable.least, variable.most) : variable.fallback;
    if (!understood || used != value)
        report(variable, text, used);
    return used;
}

unsigned get_choice(const Variable &variable, const char *const *words, unsigned count,
                    unsigned otherwise) noexcept {
    const std::string_view value = raw(variable);
    if (value.empty())
        return 0;
    for (unsigned i = 0; i < count; ++i)
        if (value == words[i])
            return i;
    if (first_report(variable)) {
        Line line = begin_report(variable, value);
        for (unsigned i = 0; i < count; ++i)
            line.add("%s%s", i == 0 ? "" : i + 1 == count ? " or " : ", ", words[i]);
        line.add("; using %s", words[otherwise]);
        line.print();
    }
    return otherwise;
}

bool find_key(std::string_view value, std::uint8_t (&key)[16]) noexcept {
    if (!value.starts_with('/'))
        return parse_key(value, key);
    char path[PATH_MAX];
    if (value.size() >= sizeof(path))
        return false;
    value.copy(path, value.size());
    path[value.size()] = '\0';
    const int before = errno;
    // A pipe that nobody writes to must not hold up the program.
    const int fd = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        errno = before;
        return false;
    }
    char digits[2 * sizeof(key) + 2] = "";
    struct stat status {};
    std::int64_t got = -1;
    if (::fstat(fd, &status) == 0 && S_ISREG(status.st_mode))
        got = plain_read(fd, 0, reinterpret_cast<std::byte *>(digits), sizeof(digits));
    (void)::close(fd);
    errno = before;
    std::string_view text(digits, static_cast<std::size_t>(std::max<std::int64_t>(got, 0)));
    if (text.ends_with('\n'))
        text.remove_suffix(1);
    return parse_key(text, key);
}

KeyState get(const Key &variable, std::uint8_t (&key)[16]) noexcept {
    const std::string_view value = raw(variable);
    if (value.empty())
        return KeyState::kUnset;
    if (find_key(value, key))
        return KeyState::kValid;
    if (value.starts_with('/') && first_report(variable)) {
        Line line = begin_report(variable, value);
        line.add("a file that can be read and holds a key of 32 hex digits; nothing is merged");
        line.print();
    } else if (first_report(variable)) {
        // It is a secret, even with a mistake in it.
        Line line = begin_report(variable, "(a secret)");
        line.add("a key of 32 hex digits, but has %zu characters; nothing is merged", value.size());
        line.print();
    }
    return KeyState::kBad;
}

void report_all() noexcept {
    reporting_all.store(true, std::memory_order_relaxed);
#define UPM_ENV_CHECK(type, id, ...) check(id);
    UPM_ENV_TABLE(UPM_ENV_CHECK)
#undef UPM_ENV_CHECK
}

bool parse_key(std::string_view digits, std::uint8_t (&key)[16]) noexcept {
    if (digits.size() != 2 * sizeof(key))
        return false;
    for (std::size_t i = 0; i < sizeof(key); ++i) {
        const int high = hex_digit(digits[2 * i]);
        const int low = hex_digit(digits[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        key[i] = static_cast<std::uint8_t>(high * 16 + low);
    }
    return true;
}

bool parse_bytes(std::string_view text, std::uint64_t &bytes) noexcept {
    constexpr std::string_view kUnits = "kmgt";
    unsigned shift = 0;
    if (!text.empty()) {
        const auto small = static_cast<char>(text.back() | 0x20);
        if (const std::size_t unit = kUnits.find(small); unit != std::string_view::npos) {
            shift = 10 * (static_cast<unsigned>(unit) + 1);
            text.remove_suffix(1);
        }
    }
    std::uint64_t value = 0;
    if (!parse_number(text, value) || value > (UINT64_MAX >> shift))
        return false;
    bytes = value << shift;
    return true;
}

} // namespace upm::env
