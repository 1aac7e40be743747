// SPDX-License-Identifier: MIT
#include "libupm/store/publish.hpp"

#include "libupm/base/system.hpp"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <sys/mman.h>

namespace upm::store {

namespace {

// The segment will not be published: its pages become private ones again, and new.
// Where not even that works they stay as they are, which does the program no harm.
void take_back(Window &window, Replacer &replacer) noexcept {
    replacer.target().renew();
    for (std::uint32_t first = window.find(PageState::kPlaced, 0); first < window.pages();) {
        const std::uint32_t count = window.length(PageState::kPlaced, first, kBatch);
        if (replacer.copy_back(window.address(first), count) == 0)
            window.set(first, count, PageState::kNew);
        else
            window.skip(first, count, UPM_SKIPPED_NOMEM);
        first = window.find(PageState::kPlaced, first + count);
    }
    replacer.target().renew();
}

} // namespace

bool broken(int error) noexcept {
    return error == -ECONNRESET || error == -EPROTO || error == -ETIMEDOUT || error == -ENOTCONN;
}

int Publisher::publish(Window &window, Replacer &replacer, bool fold) noexcept {
    plan_.make(window, lookup_, {.huge = huge_, .fold = fold});
    SegmentWriter writer;
    std::uint32_t segment = kUnknown;
    int ret = make(writer, window, replacer);
    const bool sealed = ret == 0;
    if (sealed)
        ret = correct_hashes(writer.fd());
    if (ret == 0)
        ret = connection_.publish(writer.fd(), plan_.hashes(), segment, lookup_.packet());
    if (ret == -ECANCELED)
        return ret; // what was placed stays so, which does the program no harm
    if (ret != 0)
        return give_up(window, replacer, ret, sealed);
    adopt(window, segment, writer.release());
    return 0;
}

// Post: 0, and the segment is filled and sealed; or -errno. If there was no room for more
// than its first pages, it consists of these, and the rest is left alone.
int Publisher::make(SegmentWriter &writer, Window &window, Replacer &replacer) noexcept {
    std::uint32_t complete = 0;
    int ret = writer.create(plan_.pages() * page_size(),
                            static_cast<std::uint32_t>(plan_.huge_runs().size()));
    if (ret == 0)
        ret = fill(writer, window, replacer, complete);
    if (ret != 0 && ret != -ECANCELED && complete != 0 && writer.cut(complete * page_size()) == 0) {
        window.fail(ret);
        for (std::uint32_t i = 0; i < lookup_.hashed(); ++i)
            if (lookup_.reserved(i) && lookup_.place(i).page >= complete)
                window.skip(lookup_.index(i), 1, UPM_SKIPPED_NOMEM);
        plan_.cut(complete);
        ret = 0;
    }
    return ret != 0 ? ret : writer.seal();
}

// Copies all new pages, batch by batch, each of which frees about as much memory as it
// takes. `complete`: so many pages of the segment are.
int Publisher::fill(SegmentWriter &writer, Window &window, Replacer &replacer,
                    std::uint32_t &complete) noexcept {
    const auto batch = [&](std::uint32_t first, std::uint32_t count) {
        const int ret = fill_batch(writer, window, replacer,
                                   {.first = first, .count = count, .place = {.page = complete}});
        complete += ret == 0 ? count : 0;
        return ret;
    };
    int ret = 0;
    for (const std::uint32_t first : plan_.huge_runs())
        if (ret == 0)
            ret = batch(first, kBatch);
    for (std::uint32_t i = 0; i < lookup_.hashed() && ret == 0;) {
        const std::uint32_t first = lookup_.index(i);
        if (window.state(first) != PageState::kNew || plan_.in_huge_run(first)) {
            ++i;
            continue;
        }
        const std::uint32_t room = room_in_batch(window.address(first));
        std::uint32_t count = 0;
        for (; i < lookup_.hashed() && count < room && lookup_.index(i) == first + count &&
               window.state(first + count) == PageState::kNew;
             ++i)
            ++count;
        ret = batch(first, count);
    }
    return ret;
}

// Copies consecutive new pages into the segment, and maps it over those that were frozen
// meanwhile. The others keep their state: they are compared later.
int Publisher::fill_batch(SegmentWriter &writer, Window &window, Replacer &replacer,
                          const Run &batch) noexcept {
    const std::uint64_t offset = batch.place.page * page_size();
    // Finding memory may take the kernel long, and touches nothing of the program.
    Outside outside(replacer.target().gate());
    int ret = writer.reserve(offset, batch.count * page_size());
    if (!outside.back())
        return -ECANCELED;
    if (ret != 0)
        return ret;
    Frozen frozen(replacer.target(), window.address(batch.first), batch.count);
    if (frozen.error() == -ECANCELED)
        return -ECANCELED;
    ret = writer.fill(offset, {window.page(batch.first), batch.count * page_size()});
    if (ret != 0 || frozen.error() != 0)
        return ret;
    for (std::uint32_t i = 0; i < batch.count;) {
        std::uint32_t run = 0;
        while (i + run < batch.count && frozen.holds(i + run))
            ++run;
        if (run != 0 && replacer.place(frozen, i, run, writer.fd(), batch.place.page + i))
            window.set(batch.first + i, run, PageState::kPlaced);
        i += std::max(run, 1U);
    }
    return 0;
}

// Others who change mappings are let in meanwhile: nothing of the program is touched. 0, or
// -ECANCELED. Without room for a mapping the hashes stay as they are, which costs sharing
// only: every reader compares.
int Publisher::correct_hashes(int fd) noexcept {
    Outside outside(connection_.gate());
    const std::size_t size = plan_.pages() * page_size();
    void *const copies = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (copies != MAP_FAILED) {
        for (std::uint32_t page = 0; page < plan_.pages(); ++page)
            plan_.correct(
                page, lookup_.hash_of(static_cast<const std::byte *>(copies) + page * page_size()));
        (void)::munmap(copies, size);
    }
    return outside.back() ? 0 : -ECANCELED;
}

// Post: no page is placed. 0, kAgain, or -errno if the broker cannot be reached.
int Publisher::give_up(Window &window, Replacer &replacer, int error, bool sealed) noexcept {
    take_back(window, replacer);
    plan_.give_padding_back(window, lookup_);
    const int released = sealed ? 0 : connection_.release();
    if (broken(released) || broken(error))
        return broken(released) ? released : error;
    if (sealed && plan_.padding() != 0 && error == -EDQUOT) {
        huge_ = false; // the quota has room for what is new, but for nothing else
        return kAgain;
    }
    unsigned reason = sealed ? UPM_SKIPPED_LIMIT : UPM_SKIPPED_NOMEM;
    if (error == -EBUSY)
        reason = UPM_SKIPPED_BUSY; // others hold the segment for a moment: no fault of the call
    else
        window.fail(error);
    for (std::uint32_t i = 0; i < lookup_.hashed(); ++i)
        if (lookup_.reserved(i))
            window.skip(lookup_.index(i), 1, reason);
    return 0;
}

void Publisher::adopt(Window &window, std::uint32_t segment, int fd) noexcept {
    OpenSegment &open = segments_.adopt(segment, plan_.pages(), fd);
    plan_.give_padding_back(window, lookup_);
    // What waits for a copy that has become another content waits for nothing.
    for (std::uint32_t i = 0; i < lookup_.hashed(); ++i)
        if (lookup_.reserved(i) && lookup_.waits(window, i) &&
            plan_.hashes()[lookup_.place(i).page] != lookup_.hash(i))
            window.skip(lookup_.index(i), 1, UPM_SKIPPED_BUSY);
    lookup_.published(segment);
    for (std::uint32_t i = window.find(PageState::kPlaced, 0); i < window.pages();
         i = window.find(PageState::kPlaced, i + 1)) {
        window.set(i, 1, PageState::kInserted);
        ++open.mapped;
    }
}

} // namespace upm::store
