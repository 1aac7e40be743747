// SPDX-License-Identifier: MIT
#include "tests/support/file.hpp"

#include <cerrno>
#include <cstdlib>
#include <system_error>

#include <fcntl.h>
#include <unistd.h>

namespace upm::test {

void fail(const std::string &what) {
    throw std::system_error(errno, std::generic_category(), what);
}

Fd &Fd::operator=(Fd &&other) noexcept {
    if (this != &other) {
        reset();
        fd_ = other.release();
    }
    return *this;
}

void Fd::reset() {
    if (fd_ >= 0)
        ::close(fd_);
    fd_ = -1;
}

int write_file(const std::string &path, const std::string &text) {
    const Fd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!fd)
        return errno;
    return ::write(fd.get(), text.data(), text.size()) < 0 ? errno : 0;
}

bool exists(const std::string &path) {
    return ::access(path.c_str(), F_OK) == 0;
}

bool shell(const std::string &command) {
    // NOLINTNEXTLINE(cert-env33-c): commands are literals of the tests
    return std::system((command + " >/dev/null 2>&1").c_str()) == 0;
}

void load_module(const std::string &name) {
    shell("modprobe " + name);
}

} // namespace upm::test
