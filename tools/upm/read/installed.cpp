// SPDX-License-Identifier: MIT
#include "tools/upm/read/installed.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/text.hpp"

#include <cerrno>
#include <fmt/format.h>
#include <stdexcept>

namespace upm::tool::cli {

std::string find_hook(int mode) {
    constexpr const char *kHook = "libupm-preload.so";
    std::string self(4096, '\0');
    const ssize_t length = ::readlink("/proc/self/exe", self.data(), self.size());
    if (length <= 0)
        throw SystemError("read", "/proc/self/exe", errno);
    self.resize(static_cast<std::size_t>(length));
    const std::string prefix = self.substr(0, self.rfind('/', self.rfind('/') - 1));
    for (const char *folder : {"/lib/", "/" UPM_LIBDIR "/"})
        if (std::string path = prefix + folder + kHook; ::access(path.c_str(), mode) == 0)
            return path;
    throw std::runtime_error(fmt::format("cannot find {} below {}/lib", kHook, printable(prefix)));
}

} // namespace upm::tool::cli
