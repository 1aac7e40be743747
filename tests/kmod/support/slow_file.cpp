// SPDX-License-Identifier: MIT
#include "tests/kmod/support/slow_file.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::uint64_t kFileNode = 2;

fuse_attr attributes(std::uint64_t node, std::size_t size) {
    fuse_attr attr{};
    attr.ino = node;
    attr.nlink = 1;
    attr.mode = node == kFileNode ? S_IFREG | 0600 : S_IFDIR | 0700;
    attr.size = node == kFileNode ? size : 0;
    return attr;
}

} // namespace

bool SlowFile::available() {
    load_module("fuse");
    return exists("/dev/fuse");
}

SlowFile::SlowFile(std::vector<std::byte> content)
    : content_(std::move(content)), directory_("/tmp/upm-slow-" + std::to_string(::getpid())),
      device_(must(::open("/dev/fuse", O_RDWR | O_CLOEXEC), "/dev/fuse")) {
    must(::mkdir(directory_.c_str(), 0700), "mkdir");
    const std::string options =
        "fd=" + std::to_string(device_.get()) + ",rootmode=40000,user_id=0,group_id=0";
    must(::mount("upm-slow", directory_.c_str(), "fuse", MS_NOSUID | MS_NODEV, options.c_str()),
         "mount");
    server_ = std::thread([this] { serve(); });
}

SlowFile::~SlowFile() {
    release();
    ::umount2(directory_.c_str(), MNT_DETACH); // ends the connection, and so the server
    server_.join();
    ::rmdir(directory_.c_str());
}

void SlowFile::serve() {
    std::vector<std::byte> request(256 * 1024);
    for (;;) {
        const ssize_t n = ::read(device_.get(), request.data(), request.size());
        if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT))
            continue;
        if (n < static_cast<ssize_t>(sizeof(fuse_in_header)))
            return;
        fuse_in_header header{};
        std::memcpy(&header, request.data(), sizeof(header));
        answer(header, request.data() + sizeof(header));
    }
}

void SlowFile::answer(const fuse_in_header &header, const std::byte *body) {
    switch (header.opcode) {
    case FUSE_INIT: {
        fuse_init_in in{};
        std::memcpy(&in, body, offsetof(fuse_init_in, max_readahead)); // grew since
        fuse_init_out out{};
        out.major = FUSE_KERNEL_VERSION;
        out.minor = std::min<std::uint32_t>(in.minor, FUSE_KERNEL_MINOR_VERSION);
        out.max_write = 128 * 1024;
        return reply(header.unique, 0, &out, sizeof(out));
    }
    case FUSE_LOOKUP: {
        fuse_entry_out out{};
        out.nodeid = kFileNode;
        out.attr = attributes(kFileNode, content_.size());
        return reply(header.unique, 0, &out, sizeof(out));
    }
    case FUSE_GETATTR: {
        fuse_attr_out out{};
        out.attr = attributes(header.nodeid, content_.size());
        return reply(header.unique, 0, &out, sizeof(out));
    }
    case FUSE_OPEN: {
        fuse_open_out out{};
        out.open_flags = FOPEN_DIRECT_IO;
        return reply(header.unique, 0, &out, sizeof(out));
    }
    case FUSE_READ: {
        fuse_read_in in{};
        std::memcpy(&in, body, sizeof(in));
        waiting_++;
        const timespec pause{.tv_sec = 0, .tv_nsec = 1'000'000};
        while (!released_)
            ::nanosleep(&pause, nullptr);
        waiting_--;
        const std::size_t from = std::min<std::size_t>(in.offset, content_.size());
        const std::size_t len = std::min<std::size_t>(in.size, content_.size() - from);
        return reply(header.unique, 0, content_.data() + from, len);
    }
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
        return; // want no answer
    case FUSE_RELEASE:
    case FUSE_FLUSH:
        return reply(header.unique, 0, nullptr, 0);
    default:
        return reply(header.unique, -ENOSYS, nullptr, 0);
    }
}

void SlowFile::reply(std::uint64_t unique, int error, const void *bytes, std::size_t len) {
    fuse_out_header header{};
    header.len = static_cast<std::uint32_t>(sizeof(header) + len);
    header.error = error;
    header.unique = unique;
    const std::array<iovec, 2> parts = {
        iovec{.iov_base = &header, .iov_len = sizeof(header)},
        iovec{.iov_base = const_cast<void *>(bytes), .iov_len = len}};
    static_cast<void>(::writev(device_.get(), parts.data(), len == 0 ? 1 : 2));
}

} // namespace upm::test
