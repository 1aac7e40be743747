// SPDX-License-Identifier: MIT
#include "tools/pss-report/read/frames.hpp"

#include <algorithm>
#include <cmath>
#include <unistd.h>

namespace upm::tool::pss {

namespace {

constexpr std::size_t kWindow = 4096; // pages looked at together

std::size_t read_words(int fd, std::uint64_t index, std::span<std::uint64_t> words) {
    const ssize_t got = ::pread(fd, words.data(), words.size_bytes(),
                                static_cast<off_t>(index * sizeof(std::uint64_t)));
    return got <= 0 ? 0 : static_cast<std::size_t>(got) / sizeof(std::uint64_t);
}

} // namespace

Pagemap::Pagemap(const Proc &proc, const Process &process, std::uint64_t page_size)
    : file_(proc.open_process(process.pid, file_of(process, "pagemap").c_str())),
      page_size_(page_size) {}

std::size_t Pagemap::read(std::uint64_t start, std::span<std::uint64_t> entries) const {
    return read_words(file_.get(), start / page_size_, entries);
}

Frames::Frames(const Root &root)
    : counts_(root.open("/proc/kpagecount")), flags_(root.open("/proc/kpageflags")) {}

void Frames::read(int fd, std::span<const std::uint64_t> frames, std::vector<std::uint64_t> &out) {
    out.assign(frames.size(), 0);
    // Neighbours in memory are often neighbours in the machine: one call for each run.
    for (std::size_t i = 0; i < frames.size();) {
        std::size_t run = 1;
        while (i + run < frames.size() && frames[i + run] == frames[i] + run)
            ++run;
        (void)read_words(fd, frames[i], {&out[i], run});
        i += run;
    }
}

bool count_merged(const Pagemap &pagemap, const Frames &frames, const MeasuredMapping &mapping,
                  std::uint64_t page_size, Merged &merged) {
    if (!pagemap.valid() || !frames.valid())
        return false;
    std::vector<std::uint64_t> entries(kWindow), present, counts, flags;
    Merged found;
    double upm_saved = 0;
    double ksm_saved = 0;
    for (std::uint64_t at = mapping.start; at < mapping.end; at += kWindow * page_size) {
        const std::uint64_t wanted =
            std::min<std::uint64_t>(kWindow, (mapping.end - at) / page_size);
        const std::size_t got = pagemap.read(at, {entries.data(), wanted});
        present.clear();
        for (std::size_t i = 0; i < got; ++i)
            if ((entries[i] & kPagePresent) != 0)
                present.push_back(entries[i] & kPageFrame);
        if (std::find(present.begin(), present.end(), 0) != present.end())
            return false; // frames are hidden from this caller
        frames.flags(present, flags);
        frames.counts(present, counts);
        for (std::size_t i = 0; i < present.size(); ++i) {
            const double part =
                1.0 - 1.0 / static_cast<double>(std::max<std::uint64_t>(counts[i], 1));
            if ((flags[i] & kFrameKsm) != 0) {
                found.ksm += page_size;
                ksm_saved += part;
            } else if (mapping.flags.mixed && is_upm_frame(flags[i])) {
                found.upm += page_size;
                upm_saved += part;
            }
        }
        if (got < wanted)
            break; // the process is ending
    }
    const auto page = static_cast<double>(page_size);
    found.upm_saved = static_cast<std::uint64_t>(std::llround(upm_saved * page));
    found.ksm_saved = static_cast<std::uint64_t>(std::llround(ksm_saved * page));
    merged = found;
    return true;
}

} // namespace upm::tool::pss
