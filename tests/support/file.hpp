// SPDX-License-Identifier: MIT
//
// Files and descriptors. What cannot fail on a working machine throws
// std::system_error, which GoogleTest reports as a failure of the test.
#ifndef UPM_TESTS_SUPPORT_FILE_HPP
#define UPM_TESTS_SUPPORT_FILE_HPP

#include "tests/support/support.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace upm::test {

inline constexpr std::size_t kPage = 4096;
inline constexpr std::size_t kHugePage = 512 * kPage;

// Throws std::system_error of errno.
[[noreturn]] void fail(const std::string &what);

// Returns `result`, or throws if it is negative.
template <typename T>
T must(T result, const char *what) {
    if (result < 0)
        fail(what);
    return result;
}

class Fd {
  public:
    Fd() = default;
    explicit Fd(int fd) : fd_(fd) {}
    ~Fd() { reset(); }
    Fd(Fd &&other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Fd &operator=(Fd &&other) noexcept;
    Fd(const Fd &) = delete;
    Fd &operator=(const Fd &) = delete;

    [[nodiscard]] int get() const { return fd_; }
    [[nodiscard]] explicit operator bool() const { return fd_ >= 0; }
    int release() { return std::exchange(fd_, -1); }
    void reset();

  private:
    int fd_ = -1;
};

// Writes `text` with one write(2). Returns 0 or errno.
int write_file(const std::string &path, const std::string &text);

bool exists(const std::string &path);

// Is `command`, run by sh with its output dropped, successful?
bool shell(const std::string &command);

// Loads a module of the kernel's own, unless it is there or built in. Silent.
void load_module(const std::string &name);

} // namespace upm::test

#endif // UPM_TESTS_SUPPORT_FILE_HPP
