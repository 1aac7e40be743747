// SPDX-License-Identifier: MIT
//
// How long a load may wait for the broker, and how often it is worth to ask. A load must
// not come much later than a plain read of the same bytes would have; what it has won by
// sharing it may spend on waiting.
#ifndef UPM_STORE_PACE_HPP
#define UPM_STORE_PACE_HPP

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace upm::store {

// Remembers, for all loads of a process, whether the broker does something in time. If it
// does not, it is asked again later and later: after a pause, twice as long, at last 64
// times as long.
class Patience {
  public:
    explicit constexpr Patience(std::uint64_t pause_ms) noexcept : pause_ms_(pause_ms) {}
    // Returns true if the broker may be asked now.
    [[nodiscard]] bool good() const noexcept;
    void failed() noexcept;
    void answered() noexcept { failures_.store(0, std::memory_order_relaxed); }

  private:
    std::uint64_t pause_ms_;
    std::atomic<std::uint64_t> not_before_ns_{0};
    std::atomic<std::uint32_t> failures_{0};
};

// Remembers, for all loads of a process, that nobody shares what it loads. Then it asks
// for a window only now and then: after 64 MiB, after 128 MiB more, at last every 4 GiB.
class Luck {
  public:
    // Return true if so many bytes are to be read without asking: all of a load, or the next
    // window of one.
    [[nodiscard]] bool skips_all(std::size_t bytes) noexcept;
    [[nodiscard]] bool skips(std::size_t bytes) noexcept;
    // The broker makes no more for this process, since nobody has used what it made.
    void alone() noexcept;
    // Something was shared.
    void shared() noexcept { skip_.store(0, std::memory_order_relaxed); }

  private:
    std::atomic<std::uint64_t> skip_{0}; // bytes between two questions; 0: always asks
    std::atomic<std::int64_t> ahead_{0}; // bytes until the next one
};

// Of one load: by how much it is later than a plain read would be.
class Pace {
  public:
    static constexpr std::size_t kPiece = 256UL << 10U; // bytes; what times are known of

    // Patient: nobody waits for the load, which may come a second late.
    void begin(bool patient) noexcept;
    // Time went by that a plain read would not have taken.
    void spent(std::uint64_t ns) noexcept { late_ns_ += static_cast<std::int64_t>(ns); }
    // So many bytes came without a plain read.
    void won(std::size_t bytes) noexcept;
    // Reading a piece into memory that existed, or did not, took so long.
    void read(std::uint64_t ns, bool fresh) noexcept;

    // Returns true if the broker may still be asked.
    [[nodiscard]] bool may_ask() const noexcept { return late_ns_ < scaled(kAskMs); }
    // How long an answer may take, in ms.
    [[nodiscard]] int answer_ms() const noexcept;
    // The same for a segment; 0: it is there, or it is late.
    [[nodiscard]] int making_ms() const noexcept;

  private:
    // They bound how much later than a plain read a load comes: kAskMs + kAnswerMs, by the
    // clock of a machine that is not crowded.
    static constexpr std::int64_t kMakingMs = 10;
    static constexpr std::int64_t kAskMs = 12;
    static constexpr std::int64_t kAnswerMs = 8;
    static constexpr std::int64_t kPatient = 100;

    [[nodiscard]] std::int64_t scaled(std::int64_t ms) const noexcept {
        return ms * 1'000'000 * crowding_;
    }

    std::int64_t late_ns_ = 0;
    std::uint64_t piece_ns_ = 0; // the shortest; 0: not known
    std::uint64_t fresh_ns_ = 0;
    std::int64_t crowding_ = 1; // threads for each processor, or kPatient
    bool huge_pages_ = false;   // the system gives them unasked
};

} // namespace upm::store

#endif // UPM_STORE_PACE_HPP
