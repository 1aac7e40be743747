// SPDX-License-Identifier: MIT
#include "tools/pss-report/read/bounded_reader.hpp"

#include <cerrno>
#include <condition_variable>
#include <ctime>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <pthread.h>
#include <thread>

namespace upm::tool::pss {

// One thread at a time, and what it reads with. The thread has a share in it, so that it
// outlives who left it behind.
class BoundedReader::Worker : public std::enable_shared_from_this<Worker> {
  public:
    Worker(const Root &root, const CollectOptions &options)
        : reader_(root, options,
                  [this](const Process &process, std::uint64_t rss) { note(process, rss); }) {}

    void start(std::vector<int> pids, const System &system, bool mappings) {
        busy_ = true;
        left_behind_ = false;
        reader_.begin(system, mappings);
        std::thread([self = shared_from_this(), pids = std::move(pids)] {
            self->run(pids);
        }).detach();
    }

    // Nothing: it is stuck. Throws what reading threw.
    std::optional<Reading> take() {
        std::unique_lock lock(mutex_);
        std::uint64_t worked = cpu_ns();
        while (ready_.empty() && !failure_) {
            if (changed_.wait_for(lock, kPatience, [&] { return !ready_.empty() || failure_; }))
                break;
            constexpr std::uint64_t kIdleNs = 1'000'000;
            const std::uint64_t now = cpu_ns();
            if (ready_.empty() && now - worked < kIdleNs)
                return std::nullopt;
            worked = now;
        }
        if (failure_)
            std::rethrow_exception(failure_);
        Reading reading = std::move(ready_.front());
        ready_.pop_front();
        return reading;
    }

    // Lets the thread end when it comes back, and says where it is.
    Reading leave() {
        const std::lock_guard lock(mutex_);
        left_behind_ = true;
        return current_;
    }

    [[nodiscard]] Reading current() const {
        const std::lock_guard lock(mutex_);
        return current_;
    }
    [[nodiscard]] bool busy() const {
        const std::lock_guard lock(mutex_);
        return busy_;
    }

  private:
    void run(const std::vector<int> &pids) {
        {
            const std::lock_guard lock(mutex_);
            (void)::pthread_getcpuclockid(::pthread_self(), &clock_);
            has_clock_ = true;
        }
        try {
            for (const int pid : pids)
                if (!read(pid))
                    break;
        } catch (...) {
            const std::lock_guard lock(mutex_);
            failure_ = std::current_exception();
            changed_.notify_all();
        }
        const std::lock_guard lock(mutex_);
        has_clock_ = false;
        busy_ = false;
    }

    bool read(int pid) {
        {
            const std::lock_guard lock(mutex_);
            current_ = {.fate = Fate::kUnreadable, .error = ETIMEDOUT};
            current_.process.pid = pid;
        }
        Reading reading = reader_.read(pid);
        const std::lock_guard lock(mutex_);
        if (left_behind_)
            return false;
        ready_.push_back(std::move(reading));
        changed_.notify_all();
        return true;
    }

    void note(const Process &process, std::uint64_t rss) {
        const std::lock_guard lock(mutex_);
        current_.process = process;
        current_.rss = rss;
    }

    // Pre: the lock is held.
    [[nodiscard]] std::uint64_t cpu_ns() const {
        timespec time{};
        if (has_clock_)
            (void)::clock_gettime(clock_, &time);
        return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000U +
               static_cast<std::uint64_t>(time.tv_nsec);
    }

    ProcessReader reader_; // the thread's
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<Reading> ready_;
    Reading current_;
    std::exception_ptr failure_;
    clockid_t clock_ = 0;
    bool has_clock_ = false;
    bool left_behind_ = false;
    bool busy_ = false;
};

BoundedReader::BoundedReader(Root root, CollectOptions options)
    : root_(std::move(root)), options_(std::move(options)) {}

void BoundedReader::read(const std::vector<int> &pids, const System &system, bool mappings,
                         const std::function<void(Reading)> &taken) {
    std::erase_if(stuck_, [](const auto &one) { return !one.second->busy(); });
    std::vector<int> wanted;
    for (const int pid : pids) {
        if (const auto known = stuck_.find(pid); known != stuck_.end())
            taken(known->second->current()); // another thread would only join that one
        else
            wanted.push_back(pid);
    }
    std::shared_ptr<Worker> worker = std::move(idle_);
    std::size_t done = 0;
    while (done < wanted.size()) {
        if (!worker || worker->busy())
            worker = std::make_shared<Worker>(root_, options_);
        worker->start({wanted.begin() + static_cast<std::ptrdiff_t>(done), wanted.end()}, system,
                      mappings);
        while (done < wanted.size()) {
            std::optional<Reading> reading = worker->take();
            const int pid = wanted[done++];
            if (reading) {
                taken(std::move(*reading));
                continue;
            }
            taken(worker->leave());
            stuck_[pid] = std::exchange(worker, nullptr);
            break;
        }
    }
    idle_ = std::move(worker);
}

} // namespace upm::tool::pss
