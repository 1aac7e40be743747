// SPDX-License-Identifier: MIT
//
// Recognizes a program that streams: what it loads it frees soon, so that nobody has the time
// to share it. From then on its reads are plain, and it gets the memory again that it has
// just freed, as from libc.
//
// A block *passes* if it is freed before more than one other was loaded into. Not more than one
// block passes between two loads: a program that ends its use of a model frees all of it, and
// that is no stream. Two blocks that pass one after the other, of 16 MiB together, make a stream.
// It ends with blocks that stay, or when others have or want what it reads, which is asked
// after 64 MiB, 128 MiB more, at last after each 4 GiB, or up to a quarter earlier, so that the
// questions wander through a file that is read again and again. Each time that it was no end, twice
// as many blocks must stay, up to 64.
//
// A read four times as large as what passes is no part of it: the model whose file was read before,
// piece by piece, for a checksum.
//
// Lock-free, since free() may be called by a signal's handler: calls at the same time may
// miscount, which costs a plain read or a load.
#ifndef UPM_PRELOAD_SHORT_LIVED_HPP
#define UPM_PRELOAD_SHORT_LIVED_HPP

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace upm::hook {

class ShortLived {
  public:
    static constexpr std::uint32_t kPassing = 2;
    static constexpr std::size_t kPassingBytes = (16UL << 20U) * 15 / 16; // of whole pages, roughly
    static constexpr std::uint32_t kMostStaying = 64;
    static constexpr std::size_t kOutlier = 4;
    static constexpr std::uint64_t kFirstPause = 64UL << 20U; // bytes
    static constexpr std::uint64_t kMostPause = 4UL << 30U;

    // What is known of one block.
    class Life {
      public:
        void begin() noexcept {
            turn_.store(0, std::memory_order_relaxed);
            bytes_.store(0, std::memory_order_relaxed);
        }

      private:
        friend class ShortLived;
        std::atomic<std::uint64_t> turn_{0}; // of loads; 0: nothing was loaded there
        std::atomic<std::size_t> bytes_{0};  // that were
    };

    // Nothing counts as a stream. Before the first load.
    void never() noexcept { never_ = true; }
    // So much is being loaded into a block. Returns true if with that a stream ends.
    bool loads(Life &life, std::size_t bytes) noexcept;
    // Others share it.
    void shares() noexcept;
    void frees(Life &life) noexcept;

    [[nodiscard]] bool is_stream() const noexcept {
        return stream_.load(std::memory_order_relaxed);
    }
    // The same for a read of so many bytes.
    [[nodiscard]] bool is_part(std::size_t bytes) const noexcept {
        return is_stream() && bytes / kOutlier < largest_.load(std::memory_order_relaxed);
    }
    // So much more of a stream is read. Returns true if others are to be asked about it.
    [[nodiscard]] bool asks(std::size_t bytes) noexcept;
    // The answer: they have it, or want it.
    void end() noexcept;

  private:
    [[nodiscard]] std::atomic<std::uint64_t> &slot(std::uint64_t turn) noexcept {
        return recent_[turn % recent_.size()];
    }
    std::int64_t next_pause() noexcept;

    bool never_ = false;
    std::atomic<bool> stream_{false};
    std::atomic<std::uint64_t> turns_{0};
    // The blocks that were loaded into last and still live, by their turns.
    std::array<std::atomic<std::uint64_t>, 2> recent_{};
    std::atomic<bool> freed_{false};        // one of them was, since the last load
    std::atomic<std::uint32_t> passing_{0}; // one after the other
    std::atomic<std::size_t> passed_{0};    // bytes of these
    std::atomic<std::size_t> largest_{0};   // of one of them, or of what passes in the stream
    std::atomic<std::uint32_t> stayed_{0};  // while it streams
    std::atomic<std::uint32_t> needed_{1};  // of those, for its end
    std::atomic<std::uint64_t> pause_{kFirstPause};
    std::atomic<std::int64_t> ahead_{0};      // bytes until others are asked
    std::atomic<std::uint64_t> questions_{0}; // that were, or will be
};

// Of this process.
inline constinit ShortLived short_lived;

} // namespace upm::hook

#endif // UPM_PRELOAD_SHORT_LIVED_HPP
