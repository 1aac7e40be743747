// SPDX-License-Identifier: MIT
#include "tools/device-plugin/keys.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/files.hpp"
#include "tools/common/key.hpp"
#include "tools/common/root.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace upm::plugin {

namespace {

using tool::Failure;
using tool::SystemError;

void make_folder(const std::string &path) {
    if (::mkdir(path.c_str(), S_IRWXU) != 0 && errno != EEXIST)
        throw SystemError("make", path, errno);
    struct stat status {};
    if (::lstat(path.c_str(), &status) != 0)
        throw SystemError("look at", path, errno);
    // Whoever may write here makes members of domains.
    if (!S_ISDIR(status.st_mode) || status.st_uid != ::geteuid() || (status.st_mode & 077U) != 0)
        throw Failure(path + " is there, and is no folder that this user alone may use");
}

} // namespace

Keys::Keys(std::string folder) : folder_(std::move(folder)) {
    make_folder(folder_);
    make_folder(folder_ + "/devices");
    make_folder(folder_ + "/namespaces");
    const std::string path = folder_ + "/lock";
    lock_ = tool::Descriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!lock_)
        throw SystemError("open", path, errno);
    if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0)
        throw Failure("another upm-device-plugin runs with " + folder_);
}

std::string Keys::file(std::string_view device) const {
    return fmt::format("{}/devices/{}", folder_, device);
}

std::string Keys::namespace_file(std::string_view name) const {
    return fmt::format("{}/namespaces/{}", folder_, name);
}

bool Keys::usable() const {
    return ::access((folder_ + "/devices").c_str(), W_OK) == 0;
}

void Keys::put(const std::string &device, const std::string &key) {
    const std::string path = file(device);
    // A container's user may be any; others of the node cannot pass the folder.
    tool::write_atomically(path, key + "\n");
    if (::chmod(path.c_str(), S_IRUSR | S_IRGRP | S_IROTH) != 0)
        throw SystemError("make readable", path, errno);
}

void Keys::make_alone(const std::string &device) {
    const std::scoped_lock hold(mutex_);
    put(device, tool::fresh_key());
}

void Keys::make_member(const std::string &device, const std::string &name) {
    const std::scoped_lock hold(mutex_);
    missed_.erase(name);
    const std::string path = namespace_file(name);
    const tool::Root root;
    const std::string known = root.first_line(path).value_or("");
    if (tool::is_key(known)) {
        put(device, known);
        return;
    }
    const std::string key = tool::fresh_key();
    tool::write_atomically(path, key + "\n");
    put(device, key);
}

void Keys::keep_only(const std::set<std::string> &namespaces) {
    const std::scoped_lock hold(mutex_);
    std::set<std::string> missing;
    const tool::Root root;
    for (const std::string &name : root.names(folder_ + "/namespaces")) {
        if (namespaces.contains(name))
            continue;
        if (missed_.contains(name))
            (void)::unlink(namespace_file(name).c_str());
        else
            missing.insert(name);
    }
    missed_ = std::move(missing);
}

bool is_namespace(std::string_view name) {
    constexpr std::size_t kLongest = 63;
    const auto alphanumeric = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    };
    return !name.empty() && name.size() <= kLongest && alphanumeric(name.front()) &&
           alphanumeric(name.back()) &&
           std::ranges::all_of(name, [&](char c) { return c == '-' || alphanumeric(c); });
}

} // namespace upm::plugin
