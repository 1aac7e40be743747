// SPDX-License-Identifier: MIT
#include "libupm/store/pace.hpp"

#include "libupm/base/system.hpp"
#include "libupm/base/wander.hpp"

#include <charconv>
#include <fcntl.h>
#include <string_view>
#include <unistd.h>
#include <utility>

namespace upm::store {

namespace {

constexpr std::uint64_t kNsPerMs = 1'000'000;
constexpr std::uint32_t kMostDoublings = 6;
// So many times slower than it is reckoned to be is what a plain read is taken for, at most.
constexpr std::uint64_t kMostSlower = 4;
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

// How many threads run or want to, on all processors. 0: not known.
std::int64_t running_threads() noexcept {
    char room[128];
    // "0.20 0.18 0.12 3/80 11206": three threads run or want to.
    std::string_view line = read_text("/proc/loadavg", room);
    for (int field = 0; field < 3; ++field)
        line.remove_prefix(std::min(line.size(), line.find(' ') + 1));
    std::int64_t running = 0;
    (void)std::from_chars(line.data(), line.data() + line.size(), running);
    return running;
}

// Read once: libc reads a file for it.
std::int64_t online_processors() noexcept {
    static constinit std::atomic<long> known{0};
    if (known.load(std::memory_order_relaxed) == 0)
        known.store(std::max(::sysconf(_SC_NPROCESSORS_ONLN), 1L), std::memory_order_relaxed);
    return known.load(std::memory_order_relaxed);
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
    const std::uint64_t turn = turns_.fetch_add(1, std::memory_order_relaxed);
    ahead_.store(static_cast<std::int64_t>(wandering_pause(skip, turn)), std::memory_order_relaxed);
    skip_.store(skip, std::memory_order_relaxed);
}

void Pace::prepare() noexcept {
    (void)online_processors();
}

void Pace::begin(bool patient) noexcept {
    looked_ = patient;
    threads_ = patient ? kPatient : 1;
}

// So many times as long as on an idle machine it takes until the broker gets a processor,
// and a plain read as well. Small loads that wait for nothing do without a look.
void Pace::look() noexcept {
    constexpr std::int64_t kMost = 16; // times
    if (std::exchange(looked_, true))
        return;
    processors_ = online_processors();
    threads_ = std::clamp(running_threads(), processors_, processors_ * kMost);
}

bool Pace::may_ask() noexcept {
    if (left_ns(kAskMs) > 0)
        return true;
    look();
    return left_ns(kAskMs) > 0;
}

void Pace::spent(std::uint64_t ns) noexcept {
    spent_ns_ += static_cast<std::int64_t>(ns);
    late_ns_ += static_cast<std::int64_t>(ns);
    talk_ns_ += static_cast<std::int64_t>(ns);
}

void Pace::read(std::uint64_t ns, bool fresh) noexcept {
    keep_least(fresh ? fresh_ns_ : piece_ns_, fresh ? ns + preparing_ns_ : ns);
}

void Pace::worked(std::uint64_t ns, std::uint64_t cpu_ns) noexcept {
    spent_ns_ += static_cast<std::int64_t>(ns);
    late_ns_ += static_cast<std::int64_t>(ns);
    work_ns_ += ns;
    work_cpu_ns_ += cpu_ns;
}

// What a plain read of a piece takes: less rather than more. Where each page is a fault, memory
// that did not exist takes some eight times as long as memory that is in the cache; where the
// system gives huge pages, some three times.
std::uint64_t Pace::reckoned_ns() const noexcept {
    constexpr std::uint64_t kHugeFactor = 2;
    const std::uint64_t known = piece_ns_ != 0 ? piece_ns_ : fresh_ns_ / 8;
    const std::uint64_t alone =
        huge_pages_ || fresh_ns_ == 0 ? known * kHugeFactor : fresh_ns_ * 3 / 4;
    if (work_cpu_ns_ == 0)
        return alone;
    // Others that run take their part of a plain read's time, too.
    return alone * std::clamp(work_ns_, work_cpu_ns_, work_cpu_ns_ * kMostStretch) / work_cpu_ns_;
}

std::uint64_t Pace::plain_piece_ns() const noexcept {
    const std::uint64_t reckoned = reckoned_ns();
    return plain_ < kEnough ? reckoned
                            : std::min(plain_ns_ * kPiece / plain_, reckoned * kMostSlower);
}

// The load reads all bytes as well, so what it saves is that it finds no memory for them.
std::int64_t Pace::saved_ns() const noexcept {
    std::uint64_t finding = fresh_ns_ - std::min(fresh_ns_, piece_ns_);
    if (huge_pages_)
        finding = piece_ns_;
    else if (piece_ns_ == 0)
        finding = fresh_ns_ * 3 / 4;
    if (plain_ >= kEnough) {
        const std::uint64_t seen = plain_ns_ * kPiece / plain_;
        finding = std::min(seen - std::min(seen, piece_ns_), finding * kMostSlower);
    }
    return static_cast<std::int64_t>(finding * (won_ / kPiece));
}

void Pace::won(std::size_t bytes) noexcept {
    look();
    if (won_ == 0) {
        char room[128];
        huge_pages_ =
            read_text("/sys/kernel/mm/transparent_hugepage/enabled", room).starts_with("[always]");
    }
    won_ += bytes;
    const std::uint64_t ns = plain_piece_ns() * bytes / kPiece;
    late_ns_ = std::max(late_ns_ - static_cast<std::int64_t>(ns), -scaled(kMostCreditMs));
}

// What was won till now was worth so much, not what it was reckoned to be.
void Pace::plain(std::size_t bytes, std::uint64_t ns) noexcept {
    plain_ += bytes;
    plain_ns_ += ns;
    if (plain_ < kEnough)
        return;
    const auto worth = static_cast<std::int64_t>(plain_piece_ns() * (won_ / kPiece));
    late_ns_ = std::min(late_ns_, std::max<std::int64_t>(spent_ns_ - worth, 0));
}

std::int64_t Pace::left_ns(std::int64_t bound) const noexcept {
    return scaled(bound) - std::max(late_ns_, talk_ns_ - saved_ns());
}

int Pace::left_ms(std::int64_t bound) noexcept {
    look();
    return static_cast<int>(std::max<std::int64_t>(left_ns(bound), 0) / 1'000'000);
}

int Pace::answer_ms() noexcept {
    const int left = left_ms(kAnswersMs);
    return std::min(static_cast<int>(scaled(kAnswerMs) / 1'000'000), left);
}

int Pace::making_ms() noexcept {
    return left_ms(kMakingMs);
}

} // namespace upm::store
