// SPDX-License-Identifier: MIT
#include "libupm/store/frozen.hpp"

#include "libupm/base/system.hpp"

#include <algorithm>
#include <cerrno>

namespace upm::store {

std::uint32_t room_in_batch(std::uint64_t address) noexcept {
    return kBatch - static_cast<std::uint32_t>(address / page_size() % kBatch);
}

Target::~Target() {
    if (registered_ && lost_)
        tools_.freezer.drop();
    else if (registered_)
        tools_.freezer.end();
}

int Target::enter() noexcept {
    lost_ = lost_ || (tools_.gate != nullptr && !tools_.gate->breathe());
    if (lost_)
        return -ECANCELED;
    if (registered_)
        return 0;
    const int ret = tools_.freezer.begin(part_.start, part_.end - part_.start, part_.protection);
    registered_ = ret == 0;
    return ret;
}

NoSignals::NoSignals() noexcept {
    sigset_t everything;
    (void)::sigfillset(&everything);
    (void)::pthread_sigmask(SIG_SETMASK, &everything, &before_);
}

NoSignals::~NoSignals() {
    (void)::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

Frozen::Frozen(Target &target, std::uint64_t start, std::uint32_t pages) noexcept
    : target_(target), start_(start), pages_(pages), error_(target.enter()) {
    if (error_ == 0)
        error_ = freeze_and_look();
}

int Frozen::freeze_and_look() noexcept {
    int ret = target_.tools_.freezer.freeze(start_, pages_ * page_size());
    if (ret != 0 || target_.tools_.freezer.complete())
        return ret;
    ret = target_.tools_.pagemap.read(start_, pages_, target_.tools_.entries);
    if (ret != 0)
        let_go();
    return ret;
}

Frozen::~Frozen() {
    if (error_ == 0)
        let_go();
}

std::uint64_t Frozen::address(std::uint32_t index) const noexcept {
    return start_ + index * page_size();
}

bool Frozen::holds(std::uint32_t index) const noexcept {
    if (target_.tools_.freezer.complete())
        return true;
    const std::uint64_t entry = target_.tools_.entries[index];
    return (entry & kPagePresent) != 0 &&
           (!target_.tools_.freezer.exact() || (entry & kPageWriteProtected) != 0);
}

// Whoever pins a page from now on waits for the end of the freeze, or gets another page.
bool Frozen::intact(std::uint32_t first, std::uint32_t count) noexcept {
    const Target::Tools &tools = target_.tools_;
    if (writers_ == Writers::kNotAsked)
        writers_ =
            tools.gate == nullptr || tools.gate->sole_writer() ? Writers::kNone : Writers::kOthers;
    return writers_ == Writers::kNone &&
           tools.maps.all_private(address(first), address(first + count),
                                  tools.freezer.protection());
}

void Frozen::replaced(std::uint32_t first, std::uint32_t count) noexcept {
    for (std::uint32_t i = first; i < first + count; ++i)
        replaced_.set(i);
    target_.tools_.freezer.wake(address(first), count * page_size());
}

void Frozen::let_go() noexcept {
    for (std::uint32_t i = 0; i < pages_;) {
        const std::uint32_t first = i;
        while (i < pages_ && replaced_[i] == replaced_[first])
            ++i;
        if (!replaced_[first])
            thaw(address(first), address(i));
    }
}

// Where freezing takes the protection itself, only what still has that of frozen memory.
void Frozen::thaw(std::uint64_t start, std::uint64_t end) noexcept {
    const Freezer &freezer = target_.tools_.freezer;
    if (freezer.exact()) {
        freezer.thaw(start, end - start);
        return;
    }
    for (Vma vma; start < end; start = vma.end) {
        if (!target_.tools_.maps.find(start, vma))
            return;
        if (vma.protection == freezer.protection())
            freezer.thaw(start, std::min(vma.end, end) - start);
    }
}

} // namespace upm::store
