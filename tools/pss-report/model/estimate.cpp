// SPDX-License-Identifier: MIT
//
// The counting. Equal pages are neighbours once the records are sorted by content, so no
// table of contents is needed. When the records do not fit, those of every second
// content are dropped, as often as needed: a sample of contents with all their copies
// (Gibbons, VLDB 2001), from which saving follows without bias.
#include "tools/pss-report/model/estimate.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

namespace upm::tool::pss {

namespace {

constexpr std::size_t kSamples = 16; // random groups for the error bound
constexpr double kStudent = 2.131;   // 95 %, two sides, 15 degrees of freedom
constexpr unsigned kExtrapolateTo = 64;

// How many contents (or frames) are in how many groups.
using Histogram = std::vector<double>;

// Expected number of different ones in `n` of `k` groups (rarefaction, exact), beyond
// `k` with as many new ones for each further group as the last one brought.
double distinct(const Histogram &histogram, unsigned k, unsigned n) {
    const unsigned inside = std::min(k, n);
    double sum = 0;
    for (unsigned m = 1; m < histogram.size(); ++m) {
        double missed = 1; // chance that none of the n groups has it
        for (unsigned i = 0; i < inside; ++i)
            missed *= k - m > i && k >= m ? static_cast<double>(k - m - i) / (k - i) : 0;
        sum += histogram[m] * (1 - missed);
    }
    if (n > k && histogram.size() > 1)
        sum += (n - k) * histogram[1] / k;
    return sum;
}

void add_to(Histogram &histogram, std::size_t groups, double weight) {
    if (histogram.size() <= groups)
        histogram.resize(groups + 1);
    histogram[groups] += weight;
}

// What memory is used for, as far as processes that run the same program agree on it: whether
// what lies in anonymous memory is large is a matter of what lies beside it.
Kind use_of(Kind kind) {
    return kind == Kind::kWeights || kind == Kind::kArena ? Kind::kAnon : kind;
}

class Counter {
  public:
    Counter(Estimate &result, std::uint64_t scale, std::uint64_t page, std::uint64_t sharing)
        : result_(result), scale_(scale), page_(page),
          sharing_(std::max<std::uint64_t>(sharing, 2)) {}

    // All records of one content.
    void content(const PageRecord *first, const PageRecord *last) {
        std::uint64_t frames = 0, ksm = 0;
        const std::uint64_t contents = contents_of(first, last);
        for (const PageRecord *at = first; at != last; at = frame_end(at, last)) {
            ++frames;
            add_to(frames_, groups_of(at, frame_end(at, last)), weight());
        }
        for (const PageRecord *at = first; at != last; ++at)
            ksm += at->ksm;
        if (ksm > 1) {
            const std::uint64_t kept = (ksm + sharing_ - 1) / sharing_; // rounded up
            result_.ksm += weight() * static_cast<double>(ksm - kept);
        }
        add_to(contents_, groups_of(first, last), weight() * static_cast<double>(contents));
        const std::uint64_t spare = frames - std::min(frames, contents);
        samples_[(first->hash >> 56U) % kSamples] += static_cast<double>(spare);
        if (first->addresses)
            with_addresses(first, last);
        else
            spare_without_addresses_ += spare;
        for (const PageRecord *at = first; at != last;) {
            const PageRecord *const end = frame_end(at, last);
            frame(at, end, frames, spare);
            at = end;
        }
    }

    // Of zeros: their frames, and what is saved of them already.
    void finish(double zero_frames, double saved) {
        std::uint64_t most = spare_without_addresses_;
        for (const auto &[use, processes] : with_addresses_) {
            std::uint64_t largest = 0;
            for (const auto &[process, pages] : processes) {
                most += pages.frames;
                largest = std::max(largest, pages.contents);
            }
            most -= std::min(most, largest);
        }
        result_.at_most = saved + weight() * static_cast<double>(most);
        double mean = 0, squares = 0;
        for (const double sample : samples_)
            mean += sample / kSamples;
        for (const double sample : samples_)
            squares += (sample - mean) * (sample - mean) / (kSamples - 1);
        if (scale_ > 1)
            result_.error = kStudent * std::sqrt(squares * kSamples) * weight();
        const auto k = static_cast<unsigned>(result_.groups.size());
        for (unsigned n = 2; k >= 2 && n <= kExtrapolateTo; ++n)
            result_.extrapolation.push_back(
                {n, distinct(frames_, k, n) + zero_frames * n / k, distinct(contents_, k, n)});
    }

  private:
    [[nodiscard]] double weight() const { return static_cast<double>(scale_ * page_); }

    static const PageRecord *frame_end(const PageRecord *at, const PageRecord *last) {
        return std::find_if(at, last, [&](const PageRecord &r) { return r.frame != at->frame; });
    }

    std::size_t groups_of(const PageRecord *first, const PageRecord *last) {
        seen_.clear();
        for (; first != last; ++first)
            seen_.push_back(first->group);
        std::sort(seen_.begin(), seen_.end());
        return static_cast<std::size_t>(std::unique(seen_.begin(), seen_.end()) - seen_.begin());
    }

    void with_addresses(const PageRecord *first, const PageRecord *last) {
        const auto pages = [&](const PageRecord &r) -> Pages & {
            return with_addresses_[{r.program, use_of(r.kind)}][r.process];
        };
        for (const PageRecord *at = first; at != last; at = frame_end(at, last))
            ++pages(*at).frames;
        const auto what = [](const PageRecord &r) { return std::pair(r.process, r.content); };
        sorted_.assign(first, last);
        std::ranges::sort(sorted_, {}, what);
        for (std::size_t i = 0; i < sorted_.size(); ++i)
            if (i == 0 || what(sorted_[i]) != what(sorted_[i - 1]))
                ++pages(sorted_[i]).contents;
    }

    // The most contents that one process has of these.
    std::uint64_t contents_of(const PageRecord *first, const PageRecord *last) {
        pairs_.clear();
        for (; first != last; ++first)
            pairs_.push_back(std::uint64_t{first->process} << 32U | first->content);
        std::sort(pairs_.begin(), pairs_.end());
        pairs_.erase(std::unique(pairs_.begin(), pairs_.end()), pairs_.end());
        std::uint64_t most = 0, run = 0;
        for (std::size_t i = 0; i < pairs_.size(); ++i) {
            run = i > 0 && pairs_[i] >> 32U == pairs_[i - 1] >> 32U ? run + 1 : 1;
            most = std::max(most, run);
        }
        return most;
    }

    // `spare`: how many of these frames nobody would need.
    void frame(const PageRecord *first, const PageRecord *last, std::uint64_t frames,
               std::uint64_t spare) {
        const auto mappings = static_cast<std::uint64_t>(last - first);
        const std::uint64_t bytes = scale_ * page_;
        result_.now += (mappings - 1) * bytes;
        const double part = static_cast<double>(spare) / static_cast<double>(frames) /
                            static_cast<double>(mappings);
        for (; first != last; ++first) {
            Classes &classes =
                result_.groups[first->group].kinds[static_cast<std::size_t>(first->kind)];
            if (spare > 0)
                (first->anon ? classes.anon : classes.file) += bytes;
            else
                (first->exclusive && mappings == 1 ? classes.unique : classes.shared) += bytes;
            classes.scanned += bytes;
            classes.saving += part * weight();
        }
    }

    Estimate &result_;
    std::uint64_t scale_, page_, sharing_;
    Histogram frames_, contents_;
    std::array<double, kSamples> samples_ = {};
    std::uint64_t spare_without_addresses_ = 0;
    struct Pages {
        std::uint64_t frames = 0;
        std::uint64_t contents = 0; // pages that are equal as they are count once
    };
    // Those with addresses, by program and use, and then by process.
    std::map<std::pair<std::uint16_t, Kind>, std::map<std::uint32_t, Pages>> with_addresses_;
    std::vector<PageRecord> sorted_;
    std::vector<std::uint32_t> seen_;
    std::vector<std::uint64_t> pairs_;
};

} // namespace

Classes &Classes::operator+=(const Classes &other) {
    scanned += other.scanned;
    zero += other.zero;
    shared += other.shared;
    anon += other.anon;
    file += other.file;
    unique += other.unique;
    saving += other.saving;
    return *this;
}

Classes EstimateGroup::total() const {
    Classes sum;
    for (const Classes &classes : kinds)
        sum += classes;
    return sum;
}

void count(Estimate &result, std::vector<PageRecord> &records, std::uint64_t scale,
           std::uint64_t page_size, std::uint64_t max_page_sharing) {
    std::sort(records.begin(), records.end(), [](const PageRecord &a, const PageRecord &b) {
        return a.hash != b.hash ? a.hash < b.hash : a.frame < b.frame;
    });
    double zeros = 0; // all that is there so far
    double saved = 0;
    for (const EstimateGroup &group : result.groups) {
        zeros += static_cast<double>(group.total().zero);
        saved += group.total().saving;
    }
    Counter counter(result, scale, page_size, max_page_sharing);
    for (std::size_t at = 0; at < records.size();) {
        std::size_t end = at + 1;
        while (end < records.size() && records[end].hash == records[at].hash)
            ++end;
        counter.content(&records[at], records.data() + end);
        at = end;
    }
    counter.finish(zeros, saved);
    for (const EstimateGroup &group : result.groups)
        result.total += group.total();
    result.sampled = 1 / static_cast<double>(scale);
}

} // namespace upm::tool::pss
