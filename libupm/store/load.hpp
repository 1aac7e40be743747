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
#include "libupm/store/client.hpp"
#include "libupm/store/pace.hpp"
#include "libupm/store/run_budget.hpp"
#include "libupm/store/sample.hpp"

#include <cstddef>
#include <cstdint>

namespace upm::store {

class Load {
  public:
    // Bytes: less is not worth a mapping of its own.
    static constexpr std::size_t kLeast = 64UL << 10U;

    struct Tools {
        const SocketPath &path;
        ConnectionPool &pool;
        RunBudget &budget;
        Patience &patience; // with the broker
        Patience &making;   // with what makes segments there
        Luck &luck;
    };
    Load(const Tools &tools, const DomainKey &domain, const LoadCall &call,
         upm_load_counts &counts) noexcept;
    Load(const Load &) = delete;
    Load &operator=(const Load &) = delete;
    ~Load();

    // Returns what Backend::load does.
    std::int64_t run() noexcept;

  private:
    // Consecutive whole pages that do not exist yet, and where their content may be.
    struct Window {
        std::byte *at = nullptr;
        std::uint64_t offset = 0; // of the file
        std::size_t size = 0;     // bytes, whole pages
        std::byte *piece = nullptr;
        std::size_t sampled = 0; // bytes at its beginning that are in `piece`
        std::size_t slot = ConnectionPool::kSlots;
        Place place;
        Connection::Attached segment;
        std::uint32_t except = kUnknown; // a segment that turned out to differ
        bool late = false;               // the answer, or there is none to be expected
        bool asked = false;              // the broker is making a segment
        bool made = false;               // it has
    };
    struct Scratch;

    bool begin() noexcept;
    std::int64_t share(std::byte *at, std::uint64_t offset, std::size_t size) noexcept;
    std::int64_t copy(std::byte *at, std::uint64_t offset, std::size_t size) noexcept;
    [[nodiscard]] std::size_t next_window(const std::byte *at, std::size_t size,
                                          bool &none) noexcept;
    void prepare(Window &window) noexcept;
    bool connect(std::size_t turn) noexcept;
    bool settle(std::size_t turn) noexcept;
    bool find(Window &window, Sample &sample) noexcept;
    void ask_for(Window &window, std::uint64_t likeness) noexcept;
    void await(Window &window) noexcept;
    std::int64_t finish(Window &window) noexcept;
    std::int64_t compare_and_map(Window &window, std::size_t size, bool &differs) noexcept;
    bool same(const Window &window, const std::byte *view, std::size_t at,
              std::size_t size) noexcept;
    bool map_run(const Window &window, std::size_t start, std::size_t end) noexcept;
    [[nodiscard]] bool absent(const std::byte *at, std::size_t size) noexcept;
    void drop(Window &window) noexcept;
    static void forget(Window &window) noexcept;
    std::int64_t copy_window(const Window &window) noexcept;
    void tell_late(const std::byte *at, std::size_t size) noexcept;
    void give_up() noexcept;

    Tools tools_;
    const DomainKey domain_;
    const LoadCall call_;
    upm_load_counts &counts_;
    PageMap pagemap_;
    AlignedRange view_;
    Scratch *scratch_ = nullptr;
    Pace pace_;
    std::size_t slots_[2];         // connections, for windows by turns
    bool owing_[2] = {};           // an answer is still to come there
    bool fresh_[2] = {true, true}; // the memory of the piece does not exist yet
    std::size_t turn_ = 0;
    bool talk_ = true;   // the broker may still be asked
    bool late_ = false;  // a segment came too late
    bool make_ = true;   // and asked to make segments
    bool hurry_ = false; // it is not asked to, since it was late a moment ago
};

} // namespace upm::store

#endif // UPM_STORE_LOAD_HPP
