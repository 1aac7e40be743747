// SPDX-License-Identifier: MIT
//
// Threads for work that may block for as long as a stranger likes. A user's tasks have
// few of them at one time, and a thread that hangs is left behind and replaced, up to a
// bound: so one user can hold up its own tasks only, and nobody waits for the end of the
// process. How many tasks there are, and what all of them cost together, can be bounded, too.
#ifndef UPM_TOOLS_BROKER_CREW_HPP
#define UPM_TOOLS_BROKER_CREW_HPP

#include "libupm/base/system.hpp"
#include "tools/common/descriptor.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <deque>
#include <functional>
#include <iterator>
#include <list>
#include <memory>
#include <mutex>
#include <sys/eventfd.h>
#include <sys/types.h>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

namespace upm::broker {

using tool::Descriptor;

struct CrewLimits {
    std::size_t threads = 16; // that do not hang
    std::size_t user_threads = 2;
    std::size_t hanging = 32;         // threads that are left behind
    std::uint64_t patience_ms = 2000; // a task that takes longer hangs
    // Tasks of one user, waiting or under way, as takes() says.
    std::size_t user_tasks = ~std::size_t{0};
    std::size_t tasks = ~std::size_t{0}; // the same of all users
    // All threads together take one part in `share` of a processor; 0: as much as they like.
    std::uint64_t share = 0;
};

template <class Task, class Result>
class Crew {
  public:
    // Does a task in one of the threads; must not throw. It may outlive the crew, so it
    // must refer to nothing but the task.
    using Work = std::function<Result(Task &)>;

    // Throws std::system_error.
    Crew(const CrewLimits &limits, Work work) : shared_(std::make_shared<Shared>()) {
        shared_->limits = limits;
        shared_->work = std::move(work);
        shared_->event = Descriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        if (!shared_->event)
            throw std::system_error(errno, std::generic_category(), "eventfd");
    }
    Crew(const Crew &) = delete;
    Crew &operator=(const Crew &) = delete;
    ~Crew() {
        const std::lock_guard lock(shared_->mutex);
        shared_->over = true;
        shared_->tasks.clear();
        shared_->wanted.notify_all();
        shared_->ended.notify_all();
    }

    // Has a task done, soon or after the user's other ones. A result follows, unless the
    // thread hangs.
    void add(uid_t uid, Task task) {
        const std::lock_guard lock(shared_->mutex);
        shared_->tasks.push_back({uid, std::move(task)});
        start_thread();
        shared_->wanted.notify_one();
    }

    // Returns true if a user may add a task: it has not too many, and not all of its threads
    // hang. For who holds something for a task already, add() takes it all the same.
    [[nodiscard]] bool takes(uid_t uid) const {
        const std::lock_guard lock(shared_->mutex);
        const auto mine = static_cast<std::size_t>(
            std::count_if(shared_->tasks.begin(), shared_->tasks.end(),
                          [&](const Entry &entry) { return entry.uid == uid; }));
        const auto busy = shared_->busy.find(uid);
        const std::size_t running = busy != shared_->busy.end() ? busy->second : 0;
        const CrewLimits &limits = shared_->limits;
        return mine + running < limits.user_tasks &&
               shared_->tasks.size() + shared_->running.size() < limits.tasks &&
               shared_->hanging(&uid) < limits.user_threads;
    }

    // Replaces threads that hang, for tasks that wait. Returns how many ms may pass until
    // the next call, -1 for any number.
    [[nodiscard]] int tick() {
        const std::lock_guard lock(shared_->mutex);
        if (shared_->tasks.empty())
            return -1;
        if (shared_->next() != shared_->tasks.end()) {
            start_thread();
            shared_->wanted.notify_one();
        }
        return static_cast<int>(shared_->limits.patience_ms);
    }

    // Can be read when there are results.
    [[nodiscard]] int event() const { return shared_->event.get(); }
    std::vector<Result> take_results() {
        eventfd_t count = 0;
        (void)::eventfd_read(shared_->event.get(), &count);
        const std::lock_guard lock(shared_->mutex);
        return std::exchange(shared_->results, {});
    }

  private:
    struct Entry {
        uid_t uid;
        Task task;
    };
    struct Shared { // with the threads, which may outlive the crew
        CrewLimits limits;
        Work work;
        Descriptor event;
        std::mutex mutex; // of all below
        std::condition_variable wanted;
        std::condition_variable ended; // apart, so that no thread at rest takes a task's wake-up
        std::deque<Entry> tasks;
        std::vector<Result> results;
        std::unordered_map<uid_t, std::size_t> busy;
        struct Running {
            uid_t uid;
            std::uint64_t since; // ms
        };
        std::list<Running> running;
        std::size_t threads = 0;
        std::size_t idle = 0;
        bool over = false;

        // Threads that hang, of one user or of all.
        [[nodiscard]] std::size_t hanging(const uid_t *uid = nullptr) const {
            const std::uint64_t now = now_ms();
            return static_cast<std::size_t>(
                std::count_if(running.begin(), running.end(), [&](const Running &each) {
                    return (uid == nullptr || each.uid == *uid) &&
                           each.since + limits.patience_ms <= now;
                }));
        }
        // The first task whose user has not all of its threads at work.
        [[nodiscard]] auto next() {
            return std::find_if(tasks.begin(), tasks.end(), [&](const Entry &entry) {
                const auto found = busy.find(entry.uid);
                return found == busy.end() || found->second < limits.user_threads;
            });
        }
    };

    // Pre: the mutex is held.
    void start_thread() {
        const std::size_t hanging = std::min(shared_->hanging(), shared_->limits.hanging);
        if (shared_->idle != 0 || shared_->threads >= shared_->limits.threads + hanging)
            return;
        try {
            std::thread(run, shared_).detach();
            ++shared_->threads;
        } catch (const std::system_error &) {
            return; // another one may take it later
        }
    }

    static std::uint64_t thread_time_us() noexcept {
        timespec time{};
        (void)::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
        return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000 +
               static_cast<std::uint64_t>(time.tv_nsec) / 1'000;
    }

    static void run(const std::shared_ptr<Shared> &shared) {
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
            Entry entry = std::move(*next);
            shared->tasks.erase(next);
            ++shared->busy[entry.uid];
            shared->running.push_back({.uid = entry.uid, .since = now_ms()});
            const auto running = std::prev(shared->running.end());
            lock.unlock();
            const std::uint64_t before = thread_time_us();
            Result result = shared->work(entry.task);
            const std::uint64_t cost = thread_time_us() - before;
            lock.lock();
            shared->running.erase(running);
            if (--shared->busy[entry.uid] == 0)
                shared->busy.erase(entry.uid);
            shared->results.push_back(std::move(result));
            (void)::eventfd_write(shared->event.get(), 1);
            shared->wanted.notify_one(); // the user's next task may have waited for this
            // So long that all threads together take the share of a processor that they may.
            const std::chrono::microseconds rest(cost * shared->limits.share * shared->threads);
            if (rest.count() > 0)
                shared->ended.wait_for(lock, rest, [&] { return shared->over; });
            // More than there are to be, since some that hung have come back.
            if (shared->threads > shared->limits.threads + shared->hanging()) {
                --shared->threads;
                return;
            }
        }
    }

    std::shared_ptr<Shared> shared_;
};

} // namespace upm::broker

#endif // UPM_TOOLS_BROKER_CREW_HPP
