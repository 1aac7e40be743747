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
    void answered() noexcept {
        failures_.store(0, std::memory_order_relaxed);
        told_.store(0, std::memory_order_relaxed);
    }
    // Returns true if it may be told something more that it does not answer. What it is told it
    // holds, files among it, so that is bounded if it is stopped.
    [[nodiscard]] bool may_tell() noexcept {
        constexpr std::uint32_t kMostTold = 64;
        return told_.fetch_add(1, std::memory_order_relaxed) < kMostTold;
    }

  private:
    std::uint64_t pause_ms_;
    std::atomic<std::uint64_t> not_before_ns_{0};
    std::atomic<std::uint32_t> failures_{0};
    std::atomic<std::uint32_t> told_{0}; // since it has answered
};

// Remembers, for all loads of a process, that nobody shares what it loads. Then it asks
// for a window only now and then: after 64 MiB, after 128 MiB more, at last every 4 GiB, or up to
// a quarter earlier.
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
    std::atomic<std::uint64_t> skip_{0};  // bytes between two questions; 0: always asks
    std::atomic<std::int64_t> ahead_{0};  // bytes until the next one
    std::atomic<std::uint64_t> turns_{0}; // how often that was chosen
};

// Of one load: by how much it is later than a plain read would be. What a plain read would
// have taken is reckoned from the shortest read of a piece, times what others that run on the
// same processors make of the load's own work; and from what was read plainly while nobody
// worked for this load. That may be wrong by much; so all talk and all waits together have a bound
// of their own: beyond what is granted at first, no more than the load has saved for sure. That is
// what finding memory would have taken on a processor, or took in plain reads of this load.
class Pace {
  public:
    static constexpr std::size_t kPiece = 256UL << 10U; // bytes; what times are known of

    // Finds out what is the same for all loads of a process, so that none of them has to.
    static void prepare() noexcept;
    // Patient: nobody waits for the load, which may come a second late.
    void begin(bool patient) noexcept;
    // Time went by that a plain read would not have taken: in waiting and talk, or in work, of
    // which so much on a processor.
    void spent(std::uint64_t ns) noexcept;
    void worked(std::uint64_t ns, std::uint64_t cpu_ns) noexcept;
    // So many bytes came without a plain read.
    void won(std::size_t bytes) noexcept;
    // Memory for a piece was found at once, which took so long.
    void prepared(std::uint64_t ns) noexcept { preparing_ns_ = ns; }
    // Reading a piece into memory that had existed, or had not before it was prepared, took so
    // long.
    void read(std::uint64_t ns, bool fresh) noexcept;
    // So many bytes were read plainly into memory that did not exist, while the broker did
    // nothing for this load.
    void plain(std::size_t bytes, std::uint64_t ns) noexcept;

    // Returns true if the broker may still be asked, without waiting for it.
    [[nodiscard]] bool may_ask() noexcept;
    // How long to wait for an answer, in ms; 0: it is there, or it is late.
    [[nodiscard]] int answer_ms() noexcept;
    // The same for a segment.
    [[nodiscard]] int making_ms() noexcept;

  private:
    // They bound how much later than a plain read a load comes, by the clock of a machine that
    // is not crowded: it waits for segments until it is so late, for answers until it is a bit
    // later, and asks nothing any more from kAskMs on, which leaves it 2 ms for asking.
    static constexpr std::int64_t kMakingMs = 10;
    static constexpr std::int64_t kAnswersMs = 16;
    static constexpr std::int64_t kAnswerMs = 8; // for one of them
    static constexpr std::int64_t kAskMs = 18;
    // No more than so much of what was won is kept for later: who reckons for long goes wrong
    // by much.
    static constexpr std::int64_t kMostCreditMs = 40;
    static constexpr std::int64_t kPatient = 100;
    // So many times as long others on its processors make a plain read, at most: the load waits for
    // some that run for it, too, and what is reckoned too high makes it late.
    static constexpr std::uint64_t kMostStretch = 4;
    // What a plain read was seen to take counts from so many bytes on.
    static constexpr std::uint64_t kEnough = 1UL << 20U;

    [[nodiscard]] std::int64_t scaled(std::int64_t ms) const noexcept {
        return ms * 1'000'000 * threads_ / processors_;
    }
    void look() noexcept;
    [[nodiscard]] int left_ms(std::int64_t bound) noexcept;
    [[nodiscard]] std::int64_t left_ns(std::int64_t bound) const noexcept;
    [[nodiscard]] std::int64_t saved_ns() const noexcept;
    [[nodiscard]] std::uint64_t reckoned_ns() const noexcept;
    [[nodiscard]] std::uint64_t plain_piece_ns() const noexcept;

    std::int64_t late_ns_ = 0;
    std::int64_t spent_ns_ = 0;  // all of it
    std::int64_t talk_ns_ = 0;   // of that, talk and waits
    std::uint64_t won_ = 0;      // bytes, all of them
    std::uint64_t piece_ns_ = 0; // the shortest; 0: not known
    std::uint64_t fresh_ns_ = 0; // the same into memory that did not exist
    std::uint64_t preparing_ns_ = 0;
    std::uint64_t work_ns_ = 0; // of own work
    std::uint64_t work_cpu_ns_ = 0;
    std::uint64_t plain_ns_ = 0;  // of plain reads
    std::uint64_t plain_ = 0;     // bytes
    std::int64_t threads_ = 1;    // that run or want to, or kPatient
    std::int64_t processors_ = 1; // no more than threads
    bool looked_ = true;          // how many of both there are is known
    bool huge_pages_ = false;     // the system gives them unasked
};

} // namespace upm::store

#endif // UPM_STORE_PACE_HPP
