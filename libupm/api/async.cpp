// SPDX-License-Identifier: MIT
#include "libupm/api/async.hpp"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <mutex>
#include <new>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace upm {

struct Job {
    Engine *engine;
    Call call;
    int fd;     // eventfd: only ever written, since a child shares it after fork
    bool by_fd; // belongs to the C interface
    // Under `lock`:
    bool done = false;
    int result = 0;
    upm_counts counts = {};
    Job *next_queued = nullptr;
    Job *next = nullptr; // list of all jobs
    Job *previous = nullptr;
};

namespace {

// The deepest call needs some 20 KiB; programs that lock all their memory would
// pay for the default of 8 MiB.
constexpr std::size_t kStackSize = 256UL * 1024;

// Plain data that needs no constructor and no destructor: the worker may run while
// the process exits. Waiting is done on two counters that are never freed, not on
// the jobs, which their owners free as soon as they see them done.
constinit std::mutex lock;
constinit Job *all_jobs = nullptr;
constinit Job *queue_head = nullptr;
constinit Job *queue_tail = nullptr;
constinit bool worker_runs = false;
constinit std::atomic<std::uint32_t> submitted{0};
constinit std::atomic<std::uint32_t> finished{0};

Job *pop() noexcept {
    const std::lock_guard<std::mutex> guard(lock);
    Job *const job = queue_head;
    if (job != nullptr) {
        queue_head = job->next_queued;
        if (queue_head == nullptr)
            queue_tail = nullptr;
    }
    return job;
}

void finish(Job &job, int result, const upm_counts &counts) noexcept {
    {
        const std::lock_guard<std::mutex> guard(lock);
        job.result = result;
        job.counts = counts;
        job.done = true;
        // Before the lock is dropped: after that the owner may close it. It cannot
        // block, since a fresh counter takes far more than one.
        (void)::eventfd_write(job.fd, 1);
    }
    finished.fetch_add(1);
    finished.notify_all();
}

void *worker(void * /*unused*/) noexcept {
    (void)::pthread_setname_np(::pthread_self(), "upm-worker");
    for (;;) {
        const std::uint32_t seen = submitted.load();
        Job *const job = pop();
        if (job == nullptr) {
            submitted.wait(seen);
            continue;
        }
        upm_counts counts{};
        const int result = job->engine->run(job->call, counts);
        finish(*job, result, counts);
    }
    return nullptr;
}

int create_thread(std::size_t stack_size) noexcept {
    pthread_attr_t attributes;
    if (::pthread_attr_init(&attributes) != 0)
        return ENOMEM;
    (void)::pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (stack_size != 0)
        (void)::pthread_attr_setstacksize(&attributes, stack_size);
    pthread_t thread{};
    const int error = ::pthread_create(&thread, &attributes, worker, nullptr);
    (void)::pthread_attr_destroy(&attributes);
    return error;
}

// Pre: `lock` is held.
int start_worker() noexcept {
    if (worker_runs)
        return 0;
    // Signals are the program's: their handlers must not run on our small stack.
    sigset_t everything;
    sigset_t before;
    (void)::sigfillset(&everything);
    (void)::pthread_sigmask(SIG_SETMASK, &everything, &before);
    int error = create_thread(kStackSize);
    if (error == EINVAL) // glibc puts thread-local variables there, and some have many
        error = create_thread(0);
    (void)::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    worker_runs = error == 0;
    return -error;
}

// Pre: `lock` is held.
void link(Job &job) noexcept {
    job.next = all_jobs;
    if (all_jobs != nullptr)
        all_jobs->previous = &job;
    all_jobs = &job;
    (queue_tail != nullptr ? queue_tail->next_queued : queue_head) = &job;
    queue_tail = &job;
}

// Pre: `lock` is held.
void unlink(Job &job) noexcept {
    (job.previous != nullptr ? job.previous->next : all_jobs) = job.next;
    if (job.next != nullptr)
        job.next->previous = job.previous;
}

} // namespace

int async_start(Engine &engine, const Request &request, bool by_fd, Job *&job, int &fd) noexcept {
    Call call;
    int ret = engine.prepare(request, call);
    if (ret != 0)
        return ret;
    fd = ::eventfd(0, EFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    job = new (std::nothrow) Job{.engine = &engine, .call = call, .fd = fd, .by_fd = by_fd};
    if (job == nullptr) {
        ::close(fd);
        return -ENOMEM;
    }
    {
        const std::lock_guard<std::mutex> guard(lock);
        ret = start_worker();
        if (ret == 0)
            link(*job);
    }
    if (ret != 0) {
        ::close(fd);
        delete job;
        job = nullptr;
        return ret;
    }
    submitted.fetch_add(1);
    submitted.notify_one();
    return 0;
}

bool async_done(const Job &job) noexcept {
    const std::lock_guard<std::mutex> guard(lock);
    return job.done;
}

int async_wait(const Job &job, upm_counts &counts) noexcept {
    for (;;) {
        const std::uint32_t seen = finished.load();
        {
            const std::lock_guard<std::mutex> guard(lock);
            if (job.done) {
                counts = job.counts;
                return job.result;
            }
        }
        finished.wait(seen);
    }
}

void async_release(Job *job) noexcept {
    upm_counts unused{};
    (void)async_wait(*job, unused);
    {
        const std::lock_guard<std::mutex> guard(lock);
        unlink(*job);
    }
    ::close(job->fd);
    delete job;
}

Job *async_claim(int fd) noexcept {
    const std::lock_guard<std::mutex> guard(lock);
    for (Job *job = all_jobs; job != nullptr; job = job->next) {
        if (job->by_fd && job->fd == fd) {
            job->by_fd = false;
            return job;
        }
    }
    return nullptr;
}

void async_before_fork() noexcept {
    lock.lock();
}

void async_after_fork_parent() noexcept {
    lock.unlock();
}

void async_after_fork_child() noexcept {
    for (Job *job = all_jobs; job != nullptr; job = job->next) {
        if (!job->done) {
            job->done = true;
            job->result = -ECANCELED;
        }
    }
    queue_head = nullptr;
    queue_tail = nullptr;
    worker_runs = false;
    lock.unlock();
}

} // namespace upm
