// SPDX-License-Identifier: MIT
//
// The pagemap says which pages are there, so that nothing is swapped in or
// read from disk; a frame that several processes map is read once.
#define XXH_INLINE_ALL // NOLINT(readability-identifier-naming): what xxhash.h asks for
#include "tools/pss-report/read/scan.hpp"

#include "tools/common/sizes.hpp"
#include "tools/pss-report/read/frames.hpp"
#include "tools/pss-report/read/rebase.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fmt/format.h>
#include <sys/uio.h>
#include <thread>
#include <unistd.h>
#include <unordered_map>
#include <xxhash.h>

namespace upm::tool::pss {

namespace {

constexpr std::size_t kWindow = 256; // pages read together: fits a processor's cache

double cpu_now() {
    timespec time{};
    (void)::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

bool all_zero(const char *page, std::size_t size) {
    return page[0] == 0 && std::memcmp(page, page + 1, size - 1) == 0;
}

struct Content {
    std::uint64_t hash = 0;  // as it is counted; 0: only zeros
    std::uint32_t plain = 0; // of the page as it is
    bool addresses = false;  // it has addresses
};

class Scanner {
  public:
    // `one_layout`: addresses in the pages are made those of one layout.
    Scanner(Proc &proc, const Snapshot &snapshot, const EstimateOptions &options, bool one_layout)
        : proc_(proc), snapshot_(snapshot), options_(options), one_layout_(one_layout),
          page_(snapshot.page_size), frames_(proc.root()), buffer_(kWindow * page_),
          entries_(kWindow),
          room_(std::max<std::uint64_t>(options.max_memory / sizeof(PageRecord), 1024)) {}

    Estimate run() {
        std::unordered_map<std::string, std::uint32_t> places;
        std::unordered_map<std::string, std::size_t> programs;
        for (const Process &process : snapshot_.processes) {
            const std::string key = group_key(process, options_.by);
            const auto [place, added] =
                places.try_emplace(key, static_cast<std::uint32_t>(result_.groups.size()));
            if (added)
                result_.groups.push_back({.key = key, .kinds = {}});
            group_ = place->second;
            program_ = static_cast<std::uint16_t>(
                programs.try_emplace(process.command, programs.size()).first->second);
            scan(process);
            ++processes_;
        }
        finish();
        return std::move(result_);
    }

  private:
    void scan(const Process &process) {
        int error = 0;
        const std::vector<MeasuredMapping> mappings =
            parse_smaps(proc_.read_process(process.pid, file_of(process, "smaps").c_str(), error));
        const Pagemap pagemap(proc_, process, page_);
        if (error != 0 || !pagemap.valid()) {
            ++result_.vanished;
            return;
        }
        if (one_layout_)
            rebaser_ = Rebaser(mappings);
        const std::vector<Kind> kinds = classify(mappings);
        for (std::size_t i = 0; i < mappings.size(); ++i) {
            mapping_ = &mappings[i];
            kind_ = kinds[i];
            if (mapping_->shared() || !mapping_->accessible() || mapping_->figures.rss == 0 ||
                kind_ == Kind::kSpecial || kind_ == Kind::kHugetlb)
                continue;
            for (std::uint64_t at = mapping_->start; at < mapping_->end; at += kWindow * page_)
                if (!window(process.thread == 0 ? process.pid : process.thread, pagemap, at))
                    break;
        }
    }

    // False at the end of the process.
    bool window(int pid, const Pagemap &pagemap, std::uint64_t start) {
        const std::uint64_t wanted =
            std::min<std::uint64_t>(kWindow, (mapping_->end - start) / page_);
        const std::size_t got = pagemap.read(start, {entries_.data(), wanted});
        std::vector<iovec> &remote = remote_;
        remote.clear();
        toread_.clear();
        addresses_.clear();
        for (std::size_t i = 0; i < got; ++i) {
            if ((entries_[i] & kPagePresent) == 0)
                continue;
            const std::uint64_t frame = entries_[i] & kPageFrame;
            result_.frames = result_.frames && frame != 0;
            if (const auto known = known_.find(frame); frame != 0 && known != known_.end()) {
                add(entries_[i], known->second);
                continue;
            }
            char *const address = reinterpret_cast<char *>(start + i * page_);
            if (!remote.empty() &&
                static_cast<char *>(remote.back().iov_base) + remote.back().iov_len == address)
                remote.back().iov_len += page_;
            else
                remote.push_back({address, page_});
            toread_.push_back(entries_[i]);
            addresses_.push_back(start + i * page_);
        }
        read(pid);
        pace();
        return got == wanted;
    }

    void read(int pid) {
        std::size_t done = 0; // pages of toread_
        while (done < toread_.size()) {
            iovec local{buffer_.data(), (toread_.size() - done) * page_};
            const ssize_t count =
                ::process_vm_readv(pid, &local, 1, remote_.data(), remote_.size(), 0);
            const std::size_t pages = count < 0 ? 0 : static_cast<std::size_t>(count) / page_;
            for (std::size_t i = 0; i < pages; ++i)
                hash(toread_[done + i], buffer_.data() + i * page_, addresses_[done + i]);
            done += pages;
            if (done == toread_.size())
                return;
            // The page after those that were read went away, or may not be read.
            drop(pages + 1);
            ++done;
            result_.unreadable += page_;
        }
    }

    // Takes pages off the front of remote_.
    void drop(std::size_t pages) {
        std::size_t bytes = pages * page_;
        while (bytes != 0) {
            iovec &first = remote_.front();
            const std::size_t part = std::min(bytes, first.iov_len);
            first.iov_base = static_cast<char *>(first.iov_base) + part;
            first.iov_len -= part;
            bytes -= part;
            if (first.iov_len == 0)
                remote_.erase(remote_.begin());
        }
    }

    void hash(std::uint64_t entry, char *page, std::uint64_t address) {
        constexpr std::size_t kKnownMax = std::size_t{1} << 20U;
        Content value;
        if (!all_zero(page, page_)) {
            value.plain = static_cast<std::uint32_t>(XXH3_64bits(page, page_) >> 8U);
            value.addresses = rebaser_.rebase(page, page_, address);
            value.hash = XXH3_64bits(page, page_) | 1U;
        }
        const std::uint64_t frame = entry & kPageFrame;
        if ((entry & kPageExclusive) == 0 && frame != 0) {
            if (known_.size() >= kKnownMax)
                known_.clear(); // costs reading again, nothing else
            known_[frame] = value;
        }
        add(entry, value);
    }

    void add(std::uint64_t entry, const Content &content) {
        const std::uint64_t value = content.hash;
        const bool exclusive = (entry & kPageExclusive) != 0;
        const bool anon = (entry & kPageFile) == 0;
        std::uint64_t frame = entry & kPageFrame;
        const bool ksm = anon && mapping_->flags.mergeable;
        scanned_ += page_;
        if (value == 0) {
            add_zero(frame, exclusive, anon, ksm);
            return;
        }
        if ((value >> 1U & mask_) != 0) {
            return;
        }
        // With frames hidden: those that are shared and equal are taken for one.
        if (frame == 0)
            frame = exclusive ? ++hidden_ : ~value;
        records_.push_back({.hash = value,
                            .frame = frame,
                            .group = group_,
                            .process = static_cast<std::uint32_t>(processes_),
                            .content = content.plain,
                            .program = program_,
                            .kind = kind_,
                            .anon = anon,
                            .exclusive = exclusive,
                            .ksm = ksm,
                            .addresses = content.addresses});
        while (records_.size() > room_) {
            mask_ = mask_ << 1U | 1U;
            std::erase_if(records_,
                          [&](const PageRecord &r) { return (r.hash >> 1U & mask_) != 0; });
        }
    }

    // The kernel's own page of zeros is mapped, but nobody pays for it.
    void add_zero(std::uint64_t frame, bool exclusive, bool anon, bool ksm) {
        if (!exclusive && anon) {
            frames_.flags({&frame, 1}, flags_);
            if (frame == 0 || !frames_.valid() || (flags_[0] & kFrameZero) != 0)
                return;
        }
        Classes &classes = result_.groups[group_].kinds[static_cast<std::size_t>(kind_)];
        classes.zero += page_;
        classes.scanned += page_;
        const bool first = exclusive || frame == 0 || zero_frames_[frame]++ == 0;
        if (first)
            classes.saving += static_cast<double>(page_);
        else
            result_.now += page_;
        ksm_zeros_ += ksm;
    }

    void pace() {
        const auto elapsed = [&] {
            return std::chrono::duration<double>(Clock::now() - started_).count();
        };
        const double cpu = cpu_now() - cpu_started_;
        if (options_.max_cpu < 100)
            if (const double due = cpu * 100 / options_.max_cpu; due > elapsed() + 0.01)
                std::this_thread::sleep_for(std::chrono::duration<double>(due - elapsed()));
        if (const double now = elapsed(); options_.progress && now - shown_ >= 0.5) {
            shown_ = now;
            fmt::print(stderr, "\r\x1b[Kprocess {} of {}, {} read", processes_ + 1,
                       snapshot_.processes.size(), format_bytes(scanned_, Unit::kAuto));
            (void)std::fflush(stderr);
        }
    }

    void finish() {
        const auto setting = [&](const char *name, std::int64_t otherwise) {
            const auto found = snapshot_.system.ksm.find(name);
            return static_cast<std::uint64_t>(std::max<std::int64_t>(
                found == snapshot_.system.ksm.end() ? otherwise : found->second, 0));
        };
        const std::uint64_t sharing = std::max<std::uint64_t>(setting("max_page_sharing", 256), 2);
        count(result_, records_, mask_ + 1, page_, sharing);
        const std::uint64_t kept =
            setting("use_zero_pages", 0) != 0 ? 0 : (ksm_zeros_ + sharing - 1) / sharing;
        result_.ksm += static_cast<double>((ksm_zeros_ - kept) * page_);
        result_.seconds = std::chrono::duration<double>(Clock::now() - started_).count();
        result_.cpu_seconds = cpu_now() - cpu_started_;
        if (shown_ > 0)
            fmt::print(stderr, "\r\x1b[K");
    }

    using Clock = std::chrono::steady_clock;

    Proc &proc_;
    const Snapshot &snapshot_;
    const EstimateOptions &options_;
    bool one_layout_;
    Rebaser rebaser_;
    std::uint64_t page_;
    Frames frames_;
    std::vector<char> buffer_;
    std::vector<std::uint64_t> entries_, toread_, addresses_, flags_;
    std::vector<iovec> remote_;
    std::vector<PageRecord> records_;
    std::size_t room_;
    std::unordered_map<std::uint64_t, Content> known_;             // of shared frames
    std::unordered_map<std::uint64_t, std::uint64_t> zero_frames_; // shared ones
    Estimate result_;
    const MeasuredMapping *mapping_ = nullptr;
    Kind kind_ = Kind::kAnon;
    std::uint32_t group_ = 0;
    std::uint16_t program_ = 0;
    std::uint64_t mask_ = 0; // contents are kept whose hash has none of these bits
    std::uint64_t hidden_ = 0;
    std::uint64_t ksm_zeros_ = 0;
    std::uint64_t scanned_ = 0;
    std::size_t processes_ = 0;
    Clock::time_point started_ = Clock::now();
    double cpu_started_ = cpu_now();
    double shown_ = 0;
};

} // namespace

Estimate estimate(Proc &proc, const Snapshot &snapshot, const EstimateOptions &options) {
    Estimate result = Scanner(proc, snapshot, options, false).run();
    if (options.layout) {
        Estimate keyed = Scanner(proc, snapshot, options, true).run();
        result.seconds += keyed.seconds;
        result.cpu_seconds += keyed.cpu_seconds;
        result.layout = {.saving = keyed.total.saving,
                         .at_most = keyed.at_most,
                         .error = keyed.error,
                         .extrapolation = std::move(keyed.extrapolation)};
    }
    return result;
}

} // namespace upm::tool::pss
