// SPDX-License-Identifier: MIT
#include "libupm/store/pace.hpp"

#include "libupm/base/system.hpp"

#include <charconv>
#include <fcntl.h>
#include <string_view>
#include <unistd.h>

namespace upm::store {

namespace {

constexpr std::uint64_t kNsPerMs = 1'000'000;
constexpr std::uint32_t kMostDoublings = 6;
constexpr std::uint64_t kFirstSkip = 64UL << 20U;
constexpr std::uint64_t kMostSkip = 4UL << 30U;

// The beginning of a small file.
std::string_view read_text(const char *path, char (&room)[128]) noexcept {
    const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t got = fd >= 0 ? ::read(fd, room, sizeof(room)) : -1;
    if (fd >= 0)
        ::close(fd);
    return {room, got > 0 ? static_cast<std::size_t>(got) : 0};
}

// How many threads there are for each processor just now, 1 at least: so many times as
// long it takes until the broker gets one, and a plain read as well.
std::int64_t crowding() noexcept {
    constexpr std::int64_t kMost = 16;
    char room[128];
    // "0.20 0.18 0.12 3/80 11206": three threads run or want to.
    std::string_view line = read_text("/proc/loadavg", room);
    for (int field = 0; field < 3; ++field)
        line.remove_prefix(std::min(line.size(), line.find(' ') + 1));
    std::int64_t running = 1;
    (void)std::from_chars(line.data(), line.data() + line.size(), running);
    const long processors = std::max(::sysconf(_SC_NPROCESSORS_ONLN), 1L);
    return std::clamp<std::int64_t>(running / processors, 1, kMost);
}

void keep_least(std::uint64_t &least, std::uint64_t ns) noexcept {
    least = least == 0 ? ns : std::min(least, ns);
}

} // namespace

bool Patience::good() const noexcept {
    return now_ns() >= not_before_ns_.load(std::memory_order_relaxed);
}

void Patience::failed() noexcept {
    const std::uint32_t before = failures_.fetch_add(1, std::memory_order_relaxed);
    const std::uint64_t pause = pause_ms_ * kNsPerMs << std::min(before, kMostDoublings);
    not_before_ns_.store(now_ns() + pause, std::memory_order_relaxed);
}

bool Luck::skips_all(std::size_t bytes) noexcept {
    return skip_.load(std::memory_order_relaxed) != 0 &&
           ahead_.load(std::memory_order_relaxed) >= static_cast<std::int64_t>(bytes) &&
           skips(bytes);
}

bool Luck::skips(std::size_t bytes) noexcept {
    if (skip_.load(std::memory_order_relaxed) == 0)
        return false;
    const auto size = static_cast<std::int64_t>(bytes);
    return ahead_.fetch_sub(size, std::memory_order_relaxed) > 0;
}

void Luck::alone() noexcept {
    const std::uint64_t before = skip_.load(std::memory_order_relaxed);
    const std::uint64_t skip =
        before == 0 ? kFirstSkip : std::min<std::uint64_t>(before * 2, kMostSkip);
    ahead_.store(static_cast<std::int64_t>(skip), std::memory_order_relaxed);
    skip_.store(skip, std::memory_order_relaxed);
}

void Pace::begin(bool patient) noexcept {
    char room[128];
    crowding_ = patient ? kPatient : crowding();
    huge_pages_ =
        read_text("/sys/kernel/mm/transparent_hugepage/enabled", room).starts_with("[always]");
}

void Pace::read(std::uint64_t ns, bool fresh) noexcept {
    keep_least(fresh ? fresh_ns_ : piece_ns_, ns);
}

// Less than a plain read takes rather than more. Where each page is a fault, memory that
// did not exist takes some eight times as long as memory that is in the cache; where the
// system gives huge pages, some three times.
void Pace::won(std::size_t bytes) noexcept {
    constexpr std::uint64_t kHugeFactor = 2;
    const std::uint64_t known = piece_ns_ != 0 ? piece_ns_ : fresh_ns_ / 8;
    const std::uint64_t ns =
        huge_pages_ || fresh_ns_ == 0 ? known * kHugeFactor : fresh_ns_ * 3 / 4;
    late_ns_ -= static_cast<std::int64_t>(ns * (bytes / kPiece)) * crowding_;
}

int Pace::answer_ms() const noexcept {
    return static_cast<int>(kAnswerMs * crowding_);
}

int Pace::making_ms() const noexcept {
    // What was won can be spent, but not without end: a broker may be stopped.
    constexpr std::int64_t kMost = 10'000'000'000;
    const std::int64_t left = std::min(scaled(kMakingMs) - late_ns_, kMost);
    return left > 0 ? static_cast<int>(left / 1'000'000) : 0;
}

} // namespace upm::store
