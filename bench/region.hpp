// SPDX-License-Identifier: MIT
//
// Memory to merge: private and anonymous, every page with a content of its own,
// the same in each process that fills it.
#ifndef UPM_BENCH_REGION_HPP
#define UPM_BENCH_REGION_HPP

#include <cstddef>
#include <cstdint>
#include <span>

namespace upm::bench {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = 2U << 20U;
constexpr std::size_t kMib = 1U << 20U;

enum class Pages : std::uint8_t { kSmall, kHuge };

// In which order the contents come: the same everywhere, or shuffled, where no
// content follows the one that it follows elsewhere.
enum class Order : std::uint8_t { kSame, kShuffled };

class Region {
  public:
    // Throws Error. `bytes` is a multiple of a page, and of a huge page for kHuge.
    Region(std::size_t bytes, Pages pages);
    ~Region();
    Region(const Region &) = delete;
    Region &operator=(const Region &) = delete;

    [[nodiscard]] std::byte *data() const noexcept { return data_; }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }

    void fill(Order order) noexcept;
    // Only the first page, with what fill() never writes.
    void fill_one() const noexcept { *page(0).data() = 1; }
    // Whether it holds what fill() wrote.
    [[nodiscard]] bool intact(Order order) const noexcept;

  private:
    [[nodiscard]] std::span<std::uint64_t> page(std::size_t number) const noexcept;

    void *mapping_;
    std::size_t mapped_;
    std::byte *data_ = nullptr;
    std::size_t size_;
};

} // namespace upm::bench

#endif // UPM_BENCH_REGION_HPP
