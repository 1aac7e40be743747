// SPDX-License-Identifier: MIT
#include "libupm/store/merge.hpp"

#include "libupm/base/system.hpp"
#include "libupm/store/eligible.hpp"

#include <algorithm>
#include <cerrno>

namespace upm::store {

// A smaller window is hashed as a whole: sampling would not pay.
static constexpr std::uint32_t kWorthSampling = 64;

Merge::Merge(const Tools &tools, upm_counts &counts) noexcept
    : tools_(tools), counts_(counts), freezer_(tools.mode), segments_(tools.connection),
      lookup_(tools.connection, segments_), publisher_(tools.connection, lookup_, segments_) {}

int Merge::advise(const Vma &part) noexcept {
    Target target(target_tools(), part);
    Replacer replacer(target, tools_.budget, view_);
    lookup_.set_successor({});
    int ret = 0;
    for (std::uint64_t at = part.start; at < part.end && ret == 0;) {
        // Windows end where huge pages may begin, so that none is cut.
        auto pages = static_cast<std::uint32_t>(
            std::min<std::uint64_t>(kMaxPages, (part.end - at) / page_size()));
        if (at + pages * page_size() < part.end)
            pages -= kBatch - room_in_batch(at + pages * page_size());
        ret = merge_window(replacer, at, pages);
        at += pages * page_size();
    }
    return ret;
}

// Once more with a new connection if the broker went away: what it had found, its
// segments' names and the seed of the hashes are of no use any more.
int Merge::merge_window(Replacer &replacer, std::uint64_t start, std::uint32_t pages) noexcept {
    window_.begin(start, pages);
    int ret = sort_out(window_, pagemap_, replacer.target().segment());
    if (ret == 0) {
        ret = find_and_merge(replacer);
        if (broken(ret)) {
            segments_.forget();
            lookup_.set_successor({});
            const int reopened = reopen_connection(tools_.connection, tools_.path);
            ret = reopened != 0 ? reopened : find_and_merge(replacer);
        }
        if (ret == -ECANCELED) {
            replacer.target().lose();
            (void)tools_.connection.release(); // what was reserved for nothing
        }
        replacer.drop_zeros(window_);
    }
    window_.add_to(counts_);
    error_ = error_ == 0 ? window_.error() : error_;
    return ret;
}

int Merge::find_and_merge(Replacer &replacer) noexcept {
    window_.forget_hashes();
    const bool many = window_.count(PageState::kTodo) > kWorthSampling;
    const int ret = many || lookup_.has_successor() ? follow_successors(replacer) : 0;
    return ret == 0 ? find_rest(replacer) : ret;
}

// Compares pages with what follows the one that was found last, without hashing them.
int Merge::follow_successors(Replacer &replacer) noexcept {
    for (std::uint32_t from = window_.find(PageState::kTodo, 0); from < window_.pages();
         from = window_.find(PageState::kTodo, from)) {
        if (!lookup_.has_successor()) {
            const int ret = lookup_.sample(window_, from);
            if (ret != 0 || !lookup_.has_successor())
                return ret;
        }
        const int ret = merge_run(replacer, lookup_.successors(window_, from), from);
        if (ret != 0)
            return ret;
    }
    return 0;
}

// Hashes what is left, publishes what nobody has if that is wished, and merges all of it.
int Merge::find_rest(Replacer &replacer) noexcept {
    if (window_.count(PageState::kTodo) == 0)
        return 0;
    int ret = put_forked_aside(window_, pagemap_);
    if (ret == 0)
        ret = find_by_hash(replacer, tools_.publish);
    return ret == 0 && window_.take_forked_back() ? find_by_hash(replacer, false) : ret;
}

int Merge::find_by_hash(Replacer &replacer, bool publish) noexcept {
    for (;;) {
        lookup_.hash_pages(window_, 0, kMaxPages);
        int ret = lookup_.hashed() != 0 ? lookup_.ask(publish) : 0;
        if (ret != 0 || lookup_.hashed() == 0)
            return ret;
        // First what others may be waiting for.
        if (lookup_.take_answer(window_))
            ret = publisher_.publish(window_, replacer, tools_.budget.plenty());
        if (ret != Publisher::kAgain)
            return ret != 0 ? ret : merge_hashed(replacer);
        window_.forget_hashes();
    }
}

int Merge::merge_hashed(Replacer &replacer) noexcept {
    for (std::uint32_t i = 0; i < lookup_.hashed();) {
        if (!lookup_.waits(window_, i)) {
            ++i;
            continue;
        }
        std::uint32_t stopped = 0;
        const int ret = merge_run(replacer, lookup_.run(window_, i), stopped);
        if (ret != 0)
            return ret;
    }
    lookup_.skip_rest(window_);
    return 0;
}

// Post: 0, and `stopped` is the page behind the last one that was looked at; or -errno:
// the broker cannot be reached.
int Merge::merge_run(Replacer &replacer, const Run &run, std::uint32_t &stopped) noexcept {
    lookup_.set_successor({});
    stopped = run.first + run.count;
    int error = 0;
    OpenSegment *const segment = segments_.get(run.place.segment, error);
    if (segment == nullptr) {
        if (error == -EMFILE || error == -ENFILE || error == -ENOMEM)
            window_.refuse(run.first, run.count, error);
        else if (error != -ENOENT) // it has just gone
            return error;
        return 0;
    }
    const Replacer::Reached reached = replacer.merge(window_, run, *segment);
    stopped = reached.page;
    lookup_.set_successor(reached.successor);
    return reached.error;
}

int Merge::unmerge(const Vma &part) noexcept {
    Target target(target_tools(), part);
    Replacer replacer(target, tools_.budget, view_);
    return replacer.unmerge(counts_);
}

} // namespace upm::store
