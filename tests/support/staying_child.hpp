// SPDX-License-Identifier: MIT
//
// A child that does something and then stays, as a process that goes on using what it
// has: the broker keeps nothing that nobody maps.
#ifndef UPM_TESTS_SUPPORT_STAYING_CHILD_HPP
#define UPM_TESTS_SUPPORT_STAYING_CHILD_HPP

#include <csignal>
#include <cstdio>
#include <fcntl.h>
#include <functional>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

namespace upm::test {

class StayingChild {
  public:
    // Post: `body` has run there, and result() is what it returned; -1: it died.
    explicit StayingChild(const std::function<int()> &body, unsigned seconds = 100) {
        (void)std::fflush(nullptr);
        int ends[2] = {-1, -1};
        if (::pipe2(ends, O_CLOEXEC) != 0)
            return;
        pid_ = ::fork();
        if (pid_ == 0) {
            ::alarm(seconds);
            const int result = body();
            const ssize_t unused = ::write(ends[1], &result, sizeof(result));
            (void)unused;
            for (;;)
                ::pause();
        }
        (void)::close(ends[1]);
        if (::read(ends[0], &result_, sizeof(result_)) != static_cast<ssize_t>(sizeof(result_)))
            result_ = -1;
        (void)::close(ends[0]);
    }
    StayingChild(StayingChild &&other) noexcept
        : pid_(std::exchange(other.pid_, -1)), result_(other.result_) {}
    StayingChild &operator=(StayingChild &&other) noexcept {
        std::swap(pid_, other.pid_);
        result_ = other.result_;
        return *this;
    }
    StayingChild(const StayingChild &) = delete;
    StayingChild &operator=(const StayingChild &) = delete;
    ~StayingChild() { end(); }

    [[nodiscard]] int result() const { return result_; }
    [[nodiscard]] pid_t pid() const { return pid_; }
    void end() {
        if (pid_ <= 0)
            return;
        (void)::kill(pid_, SIGKILL);
        (void)::waitpid(pid_, nullptr, 0);
        pid_ = -1;
    }

  private:
    pid_t pid_ = -1;
    int result_ = -1;
};

} // namespace upm::test

#endif // UPM_TESTS_SUPPORT_STAYING_CHILD_HPP
