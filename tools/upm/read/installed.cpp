// SPDX-License-Identifier: MIT
#include "tools/upm/read/installed.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/key.hpp"
#include "tools/common/text.hpp"

#include <cerrno>
#include <fmt/format.h>
#include <stdexcept>
#include <unistd.h>

namespace upm::tool::cli {

namespace {

// The folder of this very program.
std::string own_folder() {
    std::string self(4096, '\0');
    const ssize_t length = ::readlink("/proc/self/exe", self.data(), self.size());
    if (length <= 0)
        throw SystemError("read", "/proc/self/exe", errno);
    self.resize(static_cast<std::size_t>(length));
    return self.substr(0, self.rfind('/'));
}

// The folder above it.
std::string own_prefix() {
    const std::string folder = own_folder();
    return folder.substr(0, folder.rfind('/'));
}

} // namespace

std::string find_hook(int mode) {
    const std::string prefix = own_prefix();
    for (const char *folder : {"/lib/", "/" UPM_LIBDIR "/"})
        if (std::string path = fmt::format("{}{}{}", prefix, folder, kHookName);
            ::access(path.c_str(), mode) == 0)
            return path;
    if (std::string path = fmt::format("{}/{}", own_folder(), kHookName);
        ::access(path.c_str(), mode) == 0)
        return path; // in a wheel
    throw std::runtime_error(
        fmt::format("cannot find {} below {}/lib", kHookName, printable(prefix)));
}

std::string find_launcher() {
    const std::string prefix = own_prefix();
    for (const char *folder : {"/" UPM_LIBEXECDIR "/upm/", "/bin/"}) // the build's
        if (std::string path = prefix + folder + "upm-layout"; ::access(path.c_str(), X_OK) == 0)
            return path;
    return "";
}

} // namespace upm::tool::cli
