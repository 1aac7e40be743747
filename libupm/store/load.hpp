// SPDX-License-Identifier: MIT
//
// Sharing on load: a read of a file whose whole pages are mapped from segments in place
// of being copied. Nothing is frozen, since only pages that do not exist yet are
// replaced; and nothing is trusted, since every byte of a segment is compared with what
// this process reads from its own descriptor before it is mapped. Whatever goes wrong,
// the rest is read plainly. docs/store.md describes the method.
#ifndef UPM_STORE_LOAD_HPP
#define UPM_STORE_LOAD_HPP

#include "libupm/engine/backend.hpp"
#include "libupm/mm/aligned_range.hpp"
#include "libupm/mm/pagemap.hpp"
#include "libupm/store/finder.hpp"
#include "libupm/store/pace.hpp"
#include "libupm/store/run_budget.hpp"

#include <array>
#include <cstddef>
#include <cstdint>

namespace upm::store {

class Load {
  public:
    // Bytes: less is not worth a mapping of its own.
    static constexpr std::size_t kLeast = 64UL << 10U;

    Load(const Finder::Tools &tools, RunBudget &budget, const DomainKey &domain,
         const LoadCall &call, upm_load_counts &counts) noexcept;
    Load(const Load &) = delete;
    Load &operator=(const Load &) = delete;
    ~Load();

    // Returns what Backend::load does.
    std::int64_t run() noexcept;

    // The read is over, and was a plain one: only tells the broker, as a load does that was late.
    void tell() noexcept;

    // Returns what Backend::wanted does.
    bool wanted() noexcept;

  private:
    // What of the destination is not in a window yet.
    struct Rest {
        std::byte *at = nullptr;
        std::uint64_t offset = 0; // of the file
        std::size_t size = 0;
        std::size_t most = 0; // of a window
    };
    struct Scratch;
    // What of the file lies in the scratch memory, from when a window's sample was taken.
    struct Beginning {
        std::uint64_t offset = 0; // of the file
        std::size_t size = 0;
    };

    // The whole pages of the destination that the file has content for.
    [[nodiscard]] Rest whole_pages() const noexcept;
    [[nodiscard]] static std::size_t window_size(const Rest &rest) noexcept;
    bool begin() noexcept;
    [[nodiscard, gnu::noinline]] bool finds_ordinary() const noexcept;
    bool make_scratch() noexcept;
    void tell_broker(const Rest &part) noexcept;
    std::int64_t share(Rest rest) noexcept;
    void populate(std::byte *at, std::size_t size) const noexcept;
    std::int64_t copy(std::byte *at, std::uint64_t offset, std::size_t size,
                      bool absent = false) noexcept;
    void cut(Rest &rest, LoadWindow &window) noexcept;
    void ask(LoadWindow &window) noexcept;
    [[nodiscard]] std::size_t alike(const std::byte *at, std::size_t size, bool &absent) noexcept;
    std::int64_t finish(LoadWindow &window) noexcept;
    std::int64_t compare_and_map(LoadWindow &window, std::size_t size, bool &differs) noexcept;
    void prepare_piece() noexcept;
    bool same(const LoadWindow &window, const std::byte *view, std::size_t at,
              std::size_t size) noexcept;
    bool map_run(const LoadWindow &window, std::size_t start, std::size_t end) noexcept;
    bool ahead_at_rest() noexcept;
    [[nodiscard]] bool absent(const std::byte *at, std::size_t size) noexcept;
    std::int64_t copy_window(const LoadWindow &window) noexcept;
    void note_late(const std::byte *at, std::size_t size) noexcept;

    Luck &luck_;
    RunBudget &budget_;
    const LoadCall call_;
    upm_load_counts &counts_;
    bool ordinary_; // the destination is known to be ordinary memory
    PageMap pagemap_;
    AlignedRange view_;
    Scratch *scratch_ = nullptr;
    const std::size_t piece_; // bytes that are read and compared in one go
    Beginning beginning_;
    bool prepared_ = false; // there is memory for a piece
    Pace pace_;
    Finder finder_;
    std::array<LoadWindow, Finder::kDepth> windows_; // those ahead, by turns
    std::size_t first_ = 0;                          // the next one to be read
    std::size_t ahead_ = 0;                          // how many there are
    std::size_t late_ = 0;                           // bytes that came too late to share
    bool talk_ = true;                               // the broker could be asked
    bool absent_ = false;                            // a part of the destination did not exist
    bool fresh_ = true;                              // the memory of the piece does not exist yet
};

} // namespace upm::store

#endif // UPM_STORE_LOAD_HPP
