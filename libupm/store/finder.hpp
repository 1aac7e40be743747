// SPDX-License-Identifier: MIT
//
// Where the content of a load's windows is: asks the broker, and has it make segments of what
// it does not know. Several windows are asked for ahead, each on a connection of its own, and
// nobody waits for an answer before its window is to be read: so the broker's threads work
// side by side while the program's reads and compares.
#ifndef UPM_STORE_FINDER_HPP
#define UPM_STORE_FINDER_HPP

#include "libupm/store/connection_pool.hpp"
#include "libupm/store/pace.hpp"
#include "libupm/store/sample.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace upm::store {

// Consecutive whole pages that do not exist yet, and where their content may be.
struct LoadWindow {
    enum class State : std::uint8_t {
        kNone,   // nothing is to be expected, or `segment` is there
        kAsked,  // the broker is to say where it is
        kMaking, // the broker is making a segment
    };
    std::byte *at = nullptr;
    std::uint64_t offset = 0; // of the file
    std::size_t size = 0;     // bytes, whole pages
    bool absent = false;      // else its pages exist, and it is read plainly
    std::size_t turn = 0;     // which connection is its own
    State state = State::kNone;
    Sample sample;
    Place place;
    Connection::Attached segment;
    std::uint32_t except = kUnknown; // a segment that turned out to differ
    bool late = false;               // the answer, or there is none to be expected
    bool made = false;               // the segment was made for this window
};

class Finder {
  public:
    // Windows that are asked for at one time.
    static constexpr std::size_t kDepth = 4;
    // Bytes: of loads up to this size the first one in a domain only registers, since the
    // talk about a segment would take longer than the load.
    static constexpr std::size_t kSmall = 1UL << 20U;

    struct Tools {
        const SocketPath &path;
        ConnectionPool &pool;
        Patience &patience; // with the broker
        Patience &making;   // with what makes segments there
        Luck &luck;
    };
    struct Room {
        std::span<std::byte> page; // of a sample
        std::span<std::byte> packet;
    };
    // `len`: of the whole load. `made` says if a segment was made for it, once it is over.
    Finder(const Tools &tools, const DomainKey &domain, int fd, std::size_t len, Pace &pace,
           const std::uint64_t &made) noexcept;
    Finder(const Finder &) = delete;
    Finder &operator=(const Finder &) = delete;
    ~Finder() = default;

    // Returns false if the broker is to be left alone. Pre: nothing was asked yet.
    bool begin(bool patient) noexcept;
    void use(const Room &room) noexcept { room_ = room; }
    // Nothing is to be made: others are asked what they have and want.
    void only_look() noexcept {
        make_ = false;
        small_ = true;
    }
    // Asks about a window, if that is worth it.
    void ask(LoadWindow &window) noexcept;
    // Takes the answer if it is there, and asks what follows from it.
    void advance(LoadWindow &window) noexcept;
    // Waits for what was asked, no longer than the load can spare.
    // Post: its state is kNone, and its segment is there or it is not.
    void wait(LoadWindow &window) noexcept;
    // Returns true if another process has asked for what is looked for, and lives.
    [[nodiscard]] bool others_want() const noexcept { return others_want_; }
    // Something came too late, of which the broker is to be told at the end.
    void expect_to_tell() noexcept;
    // The same for a load that is over and never asked: may wait for the broker.
    void connect_to_tell() noexcept;
    // Tells it that not all of this came in time, so that it is there another time. Waits for
    // nothing. Pre: it was expected.
    void tell_late(const std::byte *at, std::uint64_t offset, std::size_t size) noexcept;
    // The load is over. Post: nothing of `room` is used any more.
    void end() noexcept;
    // The window is not read any more: what is still to come must not be taken for another
    // answer.
    void drop(LoadWindow &window) noexcept;
    static void forget(LoadWindow &window) noexcept;
    // So many bytes of the window were mapped.
    void mapped(const LoadWindow &window, std::size_t size) noexcept;
    // Returns true if the broker does nothing for this load.
    bool at_rest() noexcept;

  private:
    enum class Owed : std::uint8_t { kNothing, kPlaces, kSegment };
    static constexpr std::size_t kNoSlot = ConnectionPool::kSlots;

    bool connect(std::size_t turn) noexcept;
    bool settle(std::size_t turn) noexcept;
    [[nodiscard]] int open_file() const noexcept;
    void stop_asking() noexcept;
    void take_places(LoadWindow &window, int patience_ms) noexcept;
    int choose(LoadWindow &window, std::span<const Place> places, Connection::Attached attached,
               Sample::Candidate &best) noexcept;
    void make(LoadWindow &window, std::span<const Place> places) noexcept;
    void take_segment(LoadWindow &window, int patience_ms) noexcept;
    void give_up() noexcept;
    Connection &connection(std::size_t turn) noexcept { return tools_.pool.at(slots_[turn]); }

    Tools tools_;
    const DomainKey domain_;
    const int fd_;
    bool small_; // the first one to ask for it only registers
    Pace &pace_;
    const std::uint64_t &made_;
    Room room_{};
    std::array<std::size_t, kDepth> slots_; // connections, for windows by turns
    std::array<Owed, kDepth> owed_{};       // an answer is still to come there
    std::array<std::size_t, kDepth> owed_places_{};
    Connection::Terms terms_{};     // of the first connection
    std::size_t telling_ = kNoSlot; // a connection for what is told at the end
    bool patient_ = false;
    bool talk_ = true;         // the broker may still be asked
    bool silent_ = false;      // it was asked, and has not answered in time
    bool late_ = false;        // a segment came too late
    bool make_ = true;         // it may be asked to make segments
    bool hurry_ = false;       // it is not asked to, since it was late a moment ago
    bool others_want_ = false; // another process has asked for it
    bool wanted_ = false;      // the same, or nobody can know that
};

} // namespace upm::store

#endif // UPM_STORE_FINDER_HPP
