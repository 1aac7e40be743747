// SPDX-License-Identifier: MIT
#include "tools/upmd/maker.hpp"

#include "libupm/base/plain_read.hpp"
#include "libupm/base/system.hpp"
#include "libupm/store/hash.hpp"
#include "libupm/store/segment.hpp"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <new>
#include <sched.h>
#include <span>
#include <sys/stat.h>
#include <system_error>
#include <thread>
#include <utility>

namespace upm::upmd {

namespace {

// It stays in a processor's second cache from the read to the copy.
constexpr std::size_t kPiece = 256UL << 10U;
constexpr std::size_t kSmallPage = 4096;

// Reads, hashes and writes one part: into a huge page straight away, else by way of `piece`.
// 0 or -errno.
int fill(const MakeTask &task, const store::SegmentWriter &writer, std::uint64_t at,
         std::span<std::byte> piece, std::vector<std::uint64_t> &hashes) {
    const std::span<std::byte> there = writer.room(at, piece.size());
    const bool straight = !there.empty();
    piece = straight ? there : piece;
    const std::int64_t got =
        plain_read(task.file.get(), task.offset + at, piece.data(), piece.size());
    if (got < 0)
        return static_cast<int>(got);
    if (static_cast<std::size_t>(got) < piece.size())
        return -ENODATA;
    for (std::size_t page = 0; page < piece.size(); page += page_size())
        hashes.push_back(store::hash_bytes(piece.data() + page, page_size(), task.seed));
    return straight ? 0 : writer.fill(at, piece);
}

int write(const MakeTask &task, store::SegmentWriter &writer, std::vector<std::uint64_t> &hashes) {
    const std::uint64_t size = task.pages * page_size();
    const bool huge = task.aligned && page_size() == kSmallPage && store::huge_segments();
    const std::uint64_t huge_runs = huge ? size / kHugePage : 0;
    int ret = writer.create(size, static_cast<std::uint32_t>(huge_runs));
    std::vector<std::byte> room(kPiece);
    for (std::uint64_t at = 0; at < size && ret == 0;) {
        const std::uint64_t part =
            at < huge_runs * kHugePage ? kHugePage : size - huge_runs * kHugePage;
        ret = writer.reserve(at, part);
        const std::uint64_t end = at + part;
        for (; at < end && ret == 0; at += kPiece) {
            const std::span piece(room.data(), std::min<std::uint64_t>(kPiece, end - at));
            ret = fill(task, writer, at, piece, hashes);
        }
        at = end;
    }
    return ret == 0 ? writer.seal() : ret;
}

int make(const MakeTask &task, Made &made) {
    store::SegmentWriter writer;
    made.hashes.reserve(task.pages);
    const int ret = write(task, writer, made.hashes);
    made.fd = broker::Descriptor(writer.release());
    struct stat status {};
    if (ret == 0 && ::fstat(made.fd.get(), &status) != 0)
        return -errno;
    made.inode = status.st_ino;
    return ret;
}

int look(const MakeTask &task, store::Sample &sample) {
    std::vector<std::byte> room(store::Sample::kRoom);
    const std::uint64_t last = task.offset + (task.pages - 1) * page_size();
    const std::int64_t got = plain_read(task.file.get(), last, room.data(), page_size());
    if (got < static_cast<std::int64_t>(page_size()))
        return got < 0 ? static_cast<int>(got) : -ENODATA;
    (void)sample.take(task.file.get(), task.offset, task.pages * page_size(), room.data(),
                      task.seed);
    return 0;
}

} // namespace

Made make_segment(MakeTask &task) {
    Made made;
    made.number = task.number;
    if (task.pages != 0) {
        try {
            made.error = task.look ? look(task, made.sample) : make(task, made);
        } catch (const std::bad_alloc &) {
            made.error = -ENOMEM;
        }
    }
    if (task.keep)
        made.file = std::move(task.file);
    task.file = broker::Descriptor();
    return made;
}

// The thread that waits here for the other one keeps its priority: it hands over the result
// under a lock that all threads take, and a thread without privilege cannot leave SCHED_IDLE.
Made make_in_background(MakeTask &task) {
    Made made;
    try {
        std::thread([&] {
            const sched_param none{};
            (void)::sched_setscheduler(0, SCHED_IDLE, &none); // of this thread
            made = make_segment(task);
        }).join();
    } catch (const std::system_error &) { // no more threads
        made.number = task.number;
        made.error = -EAGAIN;
        made.file = std::move(task.file);
    }
    return made;
}

} // namespace upm::upmd
