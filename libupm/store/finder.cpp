// SPDX-License-Identifier: MIT
#include "libupm/store/finder.hpp"

#include "libupm/base/sharable_file.hpp"
#include "libupm/base/system.hpp"
#include "libupm/mm/aligned_range.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <unistd.h>
#include <utility>

namespace upm::store {

namespace {

void close_file(int fd) noexcept {
    if (fd >= 0)
        ::close(fd);
}

// Returns true if others have asked for most of it.
bool most_wanted(std::span<const Place> places) noexcept {
    std::size_t count = 0;
    for (const Place &place : places)
        count += place.segment == kWanted ? Sample::kCandidates : 0U;
    return count * 2 >= places.size();
}

} // namespace

Finder::Finder(const Tools &tools, const DomainKey &domain, int fd, std::size_t len, Pace &pace,
               const std::uint64_t &made) noexcept
    : tools_(tools), domain_(domain), fd_(fd), small_(len <= kSmall), pace_(pace), made_(made) {
    slots_.fill(kNoSlot);
}

// What comes late must not be taken for another answer. But one connection stays, by which the
// broker knows the process, and its domain: the broker answers a look-up before anything else.
void Finder::end() noexcept {
    bool stays = false;
    for (std::size_t turn = 0; turn < kDepth; ++turn) {
        if (slots_[turn] == kNoSlot)
            continue;
        if (settle(turn) || (!stays && owed_[turn] == Owed::kPlaces && connection(turn).abandon()))
            stays = true;
        else
            connection(turn).close();
        tools_.pool.put_back(std::exchange(slots_[turn], kNoSlot));
    }
    if (telling_ != kNoSlot)
        tools_.pool.put_back(std::exchange(telling_, kNoSlot));
    if (silent_)
        tools_.patience.failed();
    if (late_ && made_ == 0)
        tools_.making.failed();
}

bool Finder::begin(bool patient) noexcept {
    patient_ = patient;
    talk_ = patient || tools_.patience.good();
    hurry_ = !patient && !tools_.making.good();
    make_ = !hurry_;
    return talk_;
}

bool Finder::connect(std::size_t turn) noexcept {
    std::size_t &slot = slots_[turn];
    if (slot != kNoSlot)
        return true;
    int ret = tools_.pool.acquire_open(domain_, slot);
    if (ret != 0) // only now is it looked up how long that may take
        ret = tools_.pool.acquire_existing(tools_.path, domain_, std::max(pace_.answer_ms(), 1),
                                           slot);
    if (ret == 0) {
        terms_ = connection(turn).terms();
        return true;
    }
    slot = kNoSlot;
    if (ret == -ETIMEDOUT)
        stop_asking();
    else if (ret != -EAGAIN) // other loads of this process have all of them
        give_up();
    return false;
}

// Takes an answer that came late. False: it has not come yet.
bool Finder::settle(std::size_t turn) noexcept {
    const Owed owed = std::exchange(owed_[turn], Owed::kNothing);
    Connection::Attached attached;
    int ret = 0;
    if (owed == Owed::kPlaces) {
        Place ignored[Sample::kPlaces];
        ret = connection(turn).end_lookup({ignored, owed_places_[turn]}, room_.packet, attached, 0);
    } else if (owed == Owed::kSegment) {
        std::uint32_t segment = 0;
        ret = connection(turn).end_make(segment, attached, 0);
    }
    close_file(attached.fd);
    if (ret == -ETIMEDOUT)
        owed_[turn] = owed;
    return ret != -ETIMEDOUT;
}

bool Finder::at_rest() noexcept {
    bool rest = true;
    for (std::size_t turn = 0; turn < kDepth; ++turn)
        rest = settle(turn) && rest;
    return rest;
}

void Finder::ask(LoadWindow &window) noexcept {
    window.state = LoadWindow::State::kNone;
    window.late = !talk_ || !pace_.may_ask();
    if (window.late || tools_.luck.skips(window.size))
        return;
    const std::uint64_t start = now_ns();
    window.late = !settle(window.turn) || !connect(window.turn);
    if (!window.late && window.sample.take(fd_, window.offset, window.size, room_.page.data(),
                                           connection(window.turn).seed())) {
        const bool remember = small_ && !patient_;
        const int ret =
            connection(window.turn).begin_lookup(window.sample.hashes(), remember, room_.packet);
        window.late = ret != 0;
        if (ret == 0)
            window.state = LoadWindow::State::kAsked;
        else if (ret != -ETIMEDOUT)
            give_up();
    }
    pace_.spent(now_ns() - start);
}

void Finder::advance(LoadWindow &window) noexcept {
    if (window.state == LoadWindow::State::kAsked && talk_)
        take_places(window, 0);
    if (window.state == LoadWindow::State::kMaking && talk_)
        take_segment(window, 0);
}

void Finder::wait(LoadWindow &window) noexcept {
    constexpr int kSoonMs = 1; // for which nothing has to be looked up
    const std::uint64_t start = now_ns();
    if (window.state == LoadWindow::State::kAsked && talk_)
        take_places(window, kSoonMs);
    if (window.state == LoadWindow::State::kAsked && talk_)
        take_places(window, pace_.answer_ms());
    if (window.state == LoadWindow::State::kAsked && talk_)
        silent_ = true;
    const std::uint64_t asked = now_ns();
    pace_.spent(asked - start);
    if (window.state == LoadWindow::State::kMaking && talk_)
        take_segment(window, pace_.making_ms());
    pace_.spent(now_ns() - asked);
    if (window.state != LoadWindow::State::kNone) {
        late_ = late_ || window.state == LoadWindow::State::kMaking;
        window.late = true;
        drop(window);
    }
}

void Finder::drop(LoadWindow &window) noexcept {
    forget(window);
    if (window.state == LoadWindow::State::kAsked) {
        owed_[window.turn] = Owed::kPlaces;
        owed_places_[window.turn] = window.sample.hashes().size();
    } else if (window.state == LoadWindow::State::kMaking) {
        owed_[window.turn] = Owed::kSegment;
    }
    window.state = LoadWindow::State::kNone;
}

// The answer to the question where the sample is.
void Finder::take_places(LoadWindow &window, int patience_ms) noexcept {
    Place room[Sample::kPlaces];
    const std::span<Place> places(room, window.sample.hashes().size());
    Connection::Attached attached;
    int ret = connection(window.turn).end_lookup(places, room_.packet, attached, patience_ms);
    if (ret == -ETIMEDOUT)
        return;
    window.state = LoadWindow::State::kNone;
    Sample::Candidate best;
    if (ret == 0)
        ret = choose(window, places, attached, best);
    else
        close_file(attached.fd);
    if (ret != 0) {
        window.late = true;
        give_up();
        return;
    }
    silent_ = false;
    tools_.patience.answered();
    window.place = best.first;
    const bool useful = window.segment.fd >= 0 && best.first.page < window.segment.pages;
    if (useful && (!make_ || window.sample.convinces(best, window.segment.pages)))
        return;
    forget(window);
    make(window, places);
}

// Chooses among what is known, and gets it: in `attached`, if that is it. 0, or -errno of a
// broker that is not to be asked any more.
int Finder::choose(LoadWindow &window, std::span<const Place> places, Connection::Attached attached,
                   Sample::Candidate &best) noexcept {
    best = window.sample.choose(places, window.except);
    const auto first = std::find_if(places.begin(), places.end(),
                                    [](const Place &place) { return is_segment(place.segment); });
    window.segment = attached;
    if (best.votes == 0) {
        forget(window);
        return 0;
    }
    if (attached.fd >= 0 && first->segment == best.first.segment)
        return 0;
    forget(window);
    const int ret = connection(window.turn)
                        .get(best.first.segment, window.segment.fd, window.segment.pages,
                             std::max(pace_.answer_ms(), 1));
    // It has just gone, or there is no room.
    return ret == -ENOENT || ret == -EMFILE ? 0 : ret;
}

// Opened anew: with the program's own, its locks and its right to write would go along, and
// stay with a broker that is stopped. Returns -errno if it cannot be opened.
int Finder::open_file() const noexcept {
    if (!may_be_opened_anew(fd_))
        return -EACCES;
    char path[40];
    (void)std::snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", fd_);
    const int file = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    return file >= 0 ? file : -errno;
}

// Has the broker begin to make a segment, unless this process is the first to ask for little.
void Finder::make(LoadWindow &window, std::span<const Place> places) noexcept {
    others_want_ = others_want_ || (small_ && most_wanted(places));
    const bool first = small_ && !patient_ && connection(window.turn).remembers() && !others_want_;
    wanted_ = wanted_ || (small_ && !first);
    // The broker's threads would take the processors from a load that is late already.
    const bool too_late = make_ && !first && pace_.making_ms() == 0;
    window.late = hurry_ || too_late;
    if (!make_ || first || too_late)
        return;
    const bool aligned = reinterpret_cast<std::uintptr_t>(window.at) % kHugePage == 0;
    const MakeRequest request{.header = {},
                              .offset = window.offset,
                              .likeness = window.sample.likeness(),
                              .pages = static_cast<std::uint32_t>(window.size / page_size()),
                              .flags = aligned ? kAligned : 0U};
    const int file = open_file();
    const int ret = file >= 0 ? connection(window.turn).begin_make(request, file) : file;
    close_file(file);
    make_ = ret == 0;
    if (make_)
        window.state = LoadWindow::State::kMaking;
}

void Finder::take_segment(LoadWindow &window, int patience_ms) noexcept {
    window.place = {};
    const int ret =
        connection(window.turn).end_make(window.place.segment, window.segment, patience_ms);
    if (ret == -ETIMEDOUT)
        return;
    window.state = LoadWindow::State::kNone;
    window.made = ret == 0;
    if (ret == 0) {
        tools_.making.answered();
    } else if (ret == -ECONNRESET || ret == -EPROTO) {
        window.late = true;
        give_up();
    } else if (ret == -EAGAIN) {
        window.late = true; // too many wait just now
    } else {
        make_ = false; // no room, or not of this file
        if (ret == -EDQUOT)
            tools_.luck.alone();
    }
}

// On a connection of its own, since others may be closed at the end; and in good time, so that
// the broker knows the process by it when they are.
void Finder::expect_to_tell() noexcept {
    if (telling_ == kNoSlot && !patient_ && tools_.patience.may_tell() &&
        tools_.pool.acquire_known(tools_.path, domain_, terms_, telling_) != 0)
        telling_ = kNoSlot;
}

void Finder::connect_to_tell() noexcept {
    if (connect(0))
        telling_ = std::exchange(slots_[0], kNoSlot);
}

void Finder::tell_late(const std::byte *at, std::uint64_t offset, std::size_t size) noexcept {
    if (telling_ == kNoSlot)
        return;
    Connection &connection = tools_.pool.at(telling_);
    Sample sample;
    const int file = open_file();
    if (file >= 0 && sample.take(fd_, offset, size, room_.page.data(), connection.seed())) {
        const std::size_t over = reinterpret_cast<std::uintptr_t>(at) % kHugePage;
        const int ret = connection.late({.header = {},
                                         .offset = offset,
                                         .likeness = sample.likeness(),
                                         .pages = size / page_size(),
                                         .skew = static_cast<std::uint32_t>(over / page_size()),
                                         .flags = wanted_ ? kOthersWant : 0U},
                                        file);
        if (ret == -EPIPE || ret == -ECONNRESET)
            connection.close();
    }
    close_file(file);
}

void Finder::forget(LoadWindow &window) noexcept {
    close_file(window.segment.fd);
    window.segment = {};
}

void Finder::mapped(const LoadWindow &window, std::size_t size) noexcept {
    if (!small_) // it has nothing left to spend it on, and would have to look for what it is worth
        pace_.won(size);
    if (!window.made)
        tools_.luck.shared();
    (void)connection(window.turn)
        .report(window.place.segment, static_cast<std::int64_t>(size / page_size()));
}

// The broker does not answer: the rest is read plainly, and later loads leave it alone for a
// while.
void Finder::stop_asking() noexcept {
    talk_ = false;
    make_ = false;
    silent_ = false;
    tools_.patience.failed();
}

// The broker is gone, or answers nonsense.
void Finder::give_up() noexcept {
    stop_asking();
    for (const std::size_t slot : slots_)
        if (slot != kNoSlot)
            tools_.pool.at(slot).close();
    owed_.fill(Owed::kNothing);
}

} // namespace upm::store
