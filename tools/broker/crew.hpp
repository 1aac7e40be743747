// SPDX-License-Identifier: MIT
//
// Threads for work that may block for as long as a stranger likes. A user's tasks have
// few of them at one time, and a thread that hangs is left behind: so one user can hold
// up its own tasks only, and nobody waits for the end of the process. What all tasks cost
// together can be bounded, too.
#ifndef UPM_TOOLS_BROKER_CREW_HPP
#define UPM_TOOLS_BROKER_CREW_HPP

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
    std::size_t threads = 16;
    std::size_t user_threads = 2;
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
        if (shared_->idle == 0 && shared_->threads < shared_->limits.threads) {
            try {
                std::thread(run, shared_).detach();
                ++shared_->threads;
            } catch (const std::system_error &) {
                return; // another one may take it later
            }
        }
        shared_->wanted.notify_one();
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
        std::size_t threads = 0;
        std::size_t idle = 0;
        bool over = false;

        // The first task whose user has not all of its threads at work.
        [[nodiscard]] auto next() {
            return std::find_if(tasks.begin(), tasks.end(), [&](const Entry &entry) {
                const auto found = busy.find(entry.uid);
                return found == busy.end() || found->second < limits.user_threads;
            });
        }
    };

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
            lock.unlock();
            const std::uint64_t before = thread_time_us();
            Result result = shared->work(entry.task);
            const std::uint64_t cost = thread_time_us() - before;
            lock.lock();
            if (--shared->busy[entry.uid] == 0)
                shared->busy.erase(entry.uid);
            shared->results.push_back(std::move(result));
            (void)::eventfd_write(shared->event.get(), 1);
            shared->wanted.notify_one(); // the user's next task may have waited for this
            // So long that all threads together take the share of a processor that they may.
            const std::chrono::microseconds rest(cost * shared->limits.share * shared->threads);
            if (rest.count() > 0)
                shared->ended.wait_for(lock, rest, [&] { return shared->over; });
        }
    }

    std::shared_ptr<Shared> shared_;
};

} // namespace upm::broker

#endif // UPM_TOOLS_BROKER_CREW_HPP
