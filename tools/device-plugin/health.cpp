// SPDX-License-Identifier: MIT
#include "tools/device-plugin/health.hpp"

#include "libupm/base/packet.hpp"
#include "tools/common/descriptor.hpp"
#include "tools/common/errors.hpp"
#include "tools/common/memory.hpp"

#include <cerrno>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace upm::plugin {

namespace {

// 0 or an errno. A broker that was killed leaves its socket behind; one whose queue is full
// is there.
int ask_broker(const std::string &path) {
    sockaddr_un address{};
    if (const int error = packet::fill_address(path, address); error != 0)
        return -error;
    const tool::Descriptor probe(
        ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!probe)
        return errno;
    const int connected =
        ::connect(probe.get(), reinterpret_cast<const sockaddr *>(&address), sizeof(address));
    return connected == 0 || errno == EAGAIN ? 0 : errno;
}

// 0 or an errno.
int look_at_file(const std::string &path, int mode) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0 || ::access(path.c_str(), mode) != 0)
        return errno;
    return S_ISREG(status.st_mode) && status.st_size != 0 ? 0 : EINVAL;
}

} // namespace

std::string what_ails(const Options &options, const Keys &keys) {
    if (const int error = look_at_file(options.hook, R_OK); error != 0)
        return tool::Failure("the hook " + options.hook, error).what();
    const bool layout = !options.layout.empty();
    if (const int error = layout ? look_at_file(options.layout, R_OK | X_OK) : 0; error != 0)
        return tool::Failure("the launcher " + options.layout, error).what();
    if (const int error = ask_broker(options.broker); error != 0)
        return tool::Failure("the broker at " + options.broker, error).what();
    if (!keys.usable())
        return tool::Failure("the folder " + options.state, errno).what();
    if (options.module && ::access("/dev/upm", F_OK) != 0)
        return tool::Failure("/dev/upm", errno).what();
    return {};
}

std::string labels_of(const Options &options, bool healthy) {
    constexpr unsigned kAlways = 100;
    const bool waits = options.start_below_free != kAlways;
    const bool shares = healthy && (!waits || tool::is_short(tool::read_memory(tool::Root()),
                                                             options.start_below_free));
    return fmt::format("upm.dev/sharing={}\nupm.dev/managed={}\nupm.dev/start-below-free={}\n",
                       shares, shares && waits, options.start_below_free);
}

} // namespace upm::plugin
