// SPDX-License-Identifier: MIT
//
// Whether a range is worth another advise: what earlier ones found there decides.
#ifndef UPM_PRELOAD_HISTORY_HPP
#define UPM_PRELOAD_HISTORY_HPP

#include <upm/upm.h>

#include <cstdint>

namespace upm::hook {

class History {
  public:
    // Each pass at least twice as late as the one before, and this many at most:
    // what changes for ever costs no more than that.
    static constexpr std::uint64_t kFirstPauseNs = 1'000'000'000;
    static constexpr unsigned kMaxPasses = 8;
    // Passes that found a tenth of the range broken again, until it is given up.
    static constexpr unsigned kMaxStrikes = 2;
    static constexpr std::uint64_t kBrokenShare = 10;
    // Passes in a row that found nothing new, until it is left alone.
    static constexpr unsigned kMaxQuiet = 2;

    // `forced`: somebody asked for it. Even then what keeps breaking is left out.
    [[nodiscard]] bool due(std::uint64_t now_ns, bool forced) const noexcept {
        return !retired_ && (forced || (!done_ && now_ns >= due_ns_));
    }
    [[nodiscard]] bool waits() const noexcept { return !retired_ && !done_; }
    [[nodiscard]] std::uint64_t due_ns() const noexcept { return due_ns_; }
    [[nodiscard]] bool retired() const noexcept { return retired_; }

    // A part of the range was advised, with this result.
    void add(const upm_counts &part) noexcept {
        again_ += part.merged + part.inserted;
        already_ += part.already;
        pages_ += part.pages;
    }

    // The whole range was. `once`: the backend needs no second call (ksm).
    void finish(std::uint64_t now_ns, bool once) noexcept {
        const std::uint64_t broken = settled_ > already_ ? settled_ - already_ : 0;
        if (broken > 0 && broken * kBrokenShare >= pages_)
            ++strikes_;
        quiet_ = again_ == 0 && passes_ > 0 ? quiet_ + 1 : 0;
        ++passes_;
        retired_ = strikes_ >= kMaxStrikes;
        done_ = once || quiet_ >= kMaxQuiet || passes_ >= kMaxPasses;
        due_ns_ = now_ns + (kFirstPauseNs << (passes_ - 1 < kMaxPasses ? passes_ - 1 : kMaxPasses));
        settled_ = already_ + again_;
        again_ = already_ = pages_ = 0;
    }

  private:
    std::uint64_t due_ns_ = 0;
    std::uint64_t settled_ = 0; // pages that were shared at the end of the last pass
    std::uint64_t again_ = 0;   // of this pass, until now
    std::uint64_t already_ = 0;
    std::uint64_t pages_ = 0;
    unsigned passes_ = 0;
    unsigned strikes_ = 0;
    unsigned quiet_ = 0;
    bool done_ = false;
    bool retired_ = false;
};

} // namespace upm::hook

#endif // UPM_PRELOAD_HISTORY_HPP
