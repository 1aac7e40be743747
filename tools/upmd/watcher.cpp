// SPDX-License-Identifier: MIT
#include "tools/upmd/watcher.hpp"

#include "libupm/base/system.hpp"
#include "libupm/store/segment.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <ctime>
#include <deque>
#include <fcntl.h>
#include <mutex>
#include <string>
#include <sys/eventfd.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <unordered_map>

namespace upm::upmd {

namespace {

using broker::Descriptor;

constexpr std::size_t kThreads = 16;
constexpr std::size_t kUserThreads = 2;
constexpr std::size_t kMostBytes = 16UL * 1024 * 1024; // of one process's mappings
constexpr std::uint64_t kShare = 20;                   // a twentieth of a processor

std::uint64_t thread_time_us() noexcept {
    timespec time{};
    (void)::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000 +
           static_cast<std::uint64_t>(time.tv_nsec) / 1'000;
}

bool take_number(std::string_view &text, int base, std::uint64_t &number) noexcept {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, base);
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return error == std::errc();
}

// "7f00-7f01 r--p 00000000 00:01 1234    /memfd:upm-store (deleted)"
void add_line(std::string_view line, std::uint64_t page_size, Look &look) {
    std::uint64_t start = 0;
    std::uint64_t end = 0;
    std::uint64_t inode = 0;
    if (!take_number(line, 16, start) || !line.starts_with('-'))
        return;
    line.remove_prefix(1);
    if (!take_number(line, 16, end) || end < start)
        return;
    for (int field = 0; field < 4; ++field) { // rights, offset, device, inode
        const std::size_t blank = line.find(' ');
        if (blank == std::string_view::npos)
            return;
        line.remove_prefix(blank + 1);
    }
    if (take_number(line, 10, inode) && inode != 0)
        look.pages[inode] += (end - start) / page_size;
}

} // namespace

void add_mappings(std::string_view lines, std::uint64_t page_size, Look &look) {
    const std::string marker = std::string("/memfd:") + store::kSegmentName;
    for (std::size_t at = lines.find(marker); at != std::string_view::npos;
         at = lines.find(marker, at + marker.size())) {
        const std::size_t before = lines.rfind('\n', at);
        const std::size_t start = before == std::string_view::npos ? 0 : before + 1;
        add_line(lines.substr(start, at - start), page_size, look);
    }
}

Look read_mappings(int fd, std::size_t most) {
    Look look;
    std::string text(256UL * 1024, '\0');
    std::size_t kept = 0; // of a line that is not complete
    std::size_t sum = 0;
    for (;;) {
        const ssize_t got = ::read(fd, text.data() + kept, text.size() - kept);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            look.gone = errno == ESRCH;
            return look;
        }
        look.readable = true;
        if (got == 0) {
            look.complete = kept == 0;
            return look;
        }
        sum += static_cast<std::size_t>(got);
        const std::string_view all(text.data(), kept + static_cast<std::size_t>(got));
        const std::size_t whole = all.rfind('\n') + 1; // 0: not one
        add_mappings(all.substr(0, whole), page_size(), look);
        kept = all.size() - whole;
        std::copy(all.begin() + static_cast<std::ptrdiff_t>(whole), all.end(), text.begin());
        if (sum >= most || kept == text.size())
            return look;
    }
}

struct Watcher::Task {
    std::uint64_t process;
    uid_t uid;
    std::shared_ptr<const Descriptor> folder;
};

struct Watcher::Shared {
    std::mutex mutex; // of all below but the event
    std::condition_variable wanted;
    std::deque<Task> tasks;
    std::vector<Result> results;
    std::unordered_map<uid_t, std::size_t> busy;
    std::size_t threads = 0;
    std::size_t idle = 0;
    bool over = false;
    Descriptor event;

    // The first task whose user has not all of its threads at work.
    [[nodiscard]] std::deque<Task>::iterator next() {
        return std::find_if(tasks.begin(), tasks.end(), [&](const Task &task) {
            const auto found = busy.find(task.uid);
            return found == busy.end() || found->second < kUserThreads;
        });
    }
};

namespace {

// A folder without the file is that of a process that has ended.
Look look_at(int folder) {
    const Descriptor maps(::openat(folder, "maps", O_RDONLY | O_CLOEXEC));
    if (maps)
        return read_mappings(maps.get(), kMostBytes);
    Look look;
    look.gone = errno == ESRCH || errno == ENOENT;
    return look;
}

} // namespace

void Watcher::work(const std::shared_ptr<Shared> &shared) {
    std::unique_lock lock(shared->mutex);
    for (;;) {
        auto next = shared->next();
        while (!shared->over && next == shared->tasks.end()) {
            ++shared->idle;
            shared->wanted.wait(lock);
            --shared->idle;
            next = shared->next();
        }
        if (shared->over)
            return;
        const Task task = std::move(*next);
        shared->tasks.erase(next);
        ++shared->busy[task.uid];
        lock.unlock();
        const std::uint64_t before = thread_time_us();
        Result result{.process = task.process, .started = now_ms(), .look = {}};
        result.look = look_at(task.folder->get());
        const std::uint64_t cost = thread_time_us() - before;
        lock.lock();
        if (--shared->busy[task.uid] == 0)
            shared->busy.erase(task.uid);
        shared->results.push_back(std::move(result));
        (void)::eventfd_write(shared->event.get(), 1);
        // The user's next task may have waited for this.
        shared->wanted.notify_one();
        // So long that all threads together take the share of a processor that they may.
        shared->wanted.wait_for(lock, std::chrono::microseconds(cost * kShare * shared->threads),
                                [&] { return shared->over; });
    }
}

Watcher::Watcher() : shared_(std::make_shared<Shared>()) {
    shared_->event = Descriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!shared_->event)
        throw std::system_error(errno, std::generic_category(), "eventfd");
}

Watcher::~Watcher() {
    const std::lock_guard lock(shared_->mutex);
    shared_->over = true;
    shared_->wanted.notify_all();
}

void Watcher::look(std::uint64_t process, uid_t uid,
                   std::shared_ptr<const broker::Descriptor> folder) {
    const std::lock_guard lock(shared_->mutex);
    shared_->tasks.push_back({.process = process, .uid = uid, .folder = std::move(folder)});
    if (shared_->idle == 0 && shared_->threads < kThreads) {
        try {
            std::thread(work, shared_).detach();
            ++shared_->threads;
        } catch (const std::system_error &) {
            return; // another one may take it later
        }
    }
    shared_->wanted.notify_one();
}

int Watcher::event() const {
    return shared_->event.get();
}

std::vector<Watcher::Result> Watcher::take_results() {
    eventfd_t count = 0;
    (void)::eventfd_read(shared_->event.get(), &count);
    const std::lock_guard lock(shared_->mutex);
    return std::exchange(shared_->results, {});
}

} // namespace upm::upmd
