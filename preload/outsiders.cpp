// SPDX-License-Identifier: MIT
#include "preload/outsiders.hpp"

#include "libupm/base/descriptor_table.hpp"
#include "libupm/mm/vma_reader.hpp"
#include "preload/copying.hpp"
#include "preload/lines.hpp"
#include "preload/numbers.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace upm::hook {

namespace {

// Numbers of devices: Documentation/admin-guide/devices.txt.
bool harmless_device(dev_t device) noexcept {
    constexpr unsigned kMemory = 1; // of it: null, zero, full, random, urandom, kmsg
    constexpr unsigned kHarmlessMemory[] = {3, 5, 7, 8, 9, 11};
    constexpr unsigned kTerminal = 4;
    constexpr unsigned kConsole = 5; // and /dev/tty, /dev/ptmx
    constexpr unsigned kFirstPty = 136;
    constexpr unsigned kLastPty = 143;
    const unsigned kind = major(device);
    if (kind == kMemory)
        return std::find(std::begin(kHarmlessMemory), std::end(kHarmlessMemory), minor(device)) !=
               std::end(kHarmlessMemory);
    return kind == kTerminal || kind == kConsole || (kind >= kFirstPty && kind <= kLastPty);
}

// Devices that have no number of their own.
bool numberless_device(std::string_view link) noexcept {
    return link == "/dev/upm" || link == "/dev/userfaultfd";
}

// What else stands below /dev, by the names that udev gives.
bool harmless_device(std::string_view link) noexcept {
    constexpr std::string_view kDevices[] = {
        "/dev/null", "/dev/zero",    "/dev/full", "/dev/random", "/dev/urandom",
        "/dev/kmsg", "/dev/console", "/dev/tty",  "/dev/ptmx",   "/dev/pts/ptmx"};
    constexpr std::string_view kTerminals[] = {"/dev/tty", "/dev/ttyS", "/dev/pts/"};
    const auto numbered = [&](std::string_view prefix) {
        return link.starts_with(prefix) && link.size() > prefix.size() &&
               link.find_first_not_of("0123456789", prefix.size()) == std::string_view::npos;
    };
    return numberless_device(link) ||
           std::find(std::begin(kDevices), std::end(kDevices), link) != std::end(kDevices) ||
           std::any_of(std::begin(kTerminals), std::end(kTerminals), numbered);
}

bool below_dev_but_a_file(std::string_view link) noexcept {
    return link.starts_with("/dev/shm/") || link.starts_with("/dev/hugepages/") ||
           link.starts_with("/dev/mqueue/");
}

// The program's descriptors are not those of the thread that looks at them (base/
// descriptor_table.hpp): so all is found out by their names.
struct Name {
    explicit Name(int fd, const char *folder = "fd") noexcept {
        (void)std::snprintf(text, sizeof(text), "/proc/self/%s/%d", folder, fd);
    }
    char text[32];
};

// What /proc/PID/fdinfo says of an open file: "pos:\t0\nflags:\t0100000\nmnt_id:\t29\n...".
struct OpenFile {
    explicit OpenFile(int fd) noexcept {
        Lines lines(Name(fd, "fdinfo").text);
        for (std::string_view line; !known && lines.next(line);) {
            unsigned long number = 0;
            (void)read_field(line, "flags:", flags, 8);
            known = read_field(line, "mnt_id:", number, 10);
            mount = static_cast<int>(number);
        }
    }
    // By which nothing can be read into memory: a name, or a folder.
    [[nodiscard]] bool unreadable() const noexcept {
        return (flags & O_PATH) != 0 || (flags & O_TMPFILE) == O_DIRECTORY;
    }
    [[nodiscard]] bool direct() const noexcept {
        return !known || ((flags & O_DIRECT) != 0 && !unreadable());
    }

    unsigned long flags = 0;
    int mount = -1;
    bool known = false;
};

// Found by the last look that may ask, for those that may not. One thread looks at a time.
constinit CopyingMounts copying;

// A file that is read by copying.
bool copied(int fd) noexcept {
    const OpenFile file(fd);
    return !file.direct() && (file.unreadable() || copying.find(file.mount, Name(fd).text));
}

bool known_to_be_copied(int fd) noexcept {
    const OpenFile file(fd);
    return !file.direct() && (file.unreadable() || copying.knows(file.mount));
}

// Where what is received is copied. Through sockets of AF_XDP and RDS a network card writes to
// memory of the process, and through those of AF_ALG a device may.
bool harmless_socket(int fd) noexcept {
    constexpr std::string_view kProtocols[] = {
        "UNIX",      "UNIX-STREAM", "TCP",     "TCPv6",    "UDP",    "UDPv6", "UDP-Lite",
        "UDPLITEv6", "MPTCP",       "MPTCPv6", "SCTP",     "RAW",    "RAWv6", "PING",
        "PINGv6",    "NETLINK",     "PACKET",  "AF_VSOCK", "SCTPv6", "KEY",   "CAN",
        "CAN_RAW",   "HCI",         "L2CAP",   "RFCOMM"};
    char protocol[32] = "";
    const ssize_t got = ::syscall(SYS_getxattr, Name(fd).text, "system.sockprotoname", protocol,
                                  sizeof(protocol) - 1);
    return got > 0 && std::find(std::begin(kProtocols), std::end(kProtocols),
                                std::string_view(protocol)) != std::end(kProtocols);
}

std::string_view link_of(int fd, char (&text)[256]) noexcept {
    const ssize_t length = ::readlink(Name(fd).text, text, sizeof(text));
    return {text, length > 0 ? static_cast<std::size_t>(length) : 0};
}

// Of what is no socket and no device; `is_copied` says so of a file.
template <class IsCopied>
bool harmless_link(int fd, std::string_view link, IsCopied is_copied) noexcept {
    if (link.starts_with("anon_inode:"))
        return harmless_anonymous(link);
    if (link.starts_with("pipe:") || link.starts_with("/memfd:"))
        return true;
    return !link.starts_with("/dmabuf") && is_copied(fd);
}

// Calls visit(fd) for each descriptor of the program until it returns false. false: it did, or
// it is unknown which there are: none are seen when the first thread has ended.
template <class Visit>
bool all_descriptors(Visit visit) noexcept {
    const int folder = ::open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return false;
    const int own = descriptor_table() == 0 ? folder : -1;
    if (own >= 0) // what the backend opens meanwhile is there, too
        (void)copying.find(OpenFile(own).mount, Name(own).text);
    const bool fine = all_numbers(folder, [&](int fd) { return fd == own || visit(fd); });
    ::close(folder);
    return fine;
}

bool all_mappings_harmless() noexcept {
    SmapsReader maps("/proc/self/maps");
    std::string_view name;
    for (Vma vma; maps.next_header(vma, &name);)
        if (!harmless_mapping(name))
            return false;
    return maps.error() == 0;
}

} // namespace

bool harmless_anonymous(std::string_view link) noexcept {
    // Where the kernel writes only by copying, through the page tables.
    constexpr std::string_view kKinds[] = {"[eventpoll]",
                                           "[eventfd]",
                                           "[timerfd]",
                                           "[signalfd]",
                                           "inotify",
                                           "[fanotify]",
                                           "[pidfd]",
                                           "[userfaultfd]",
                                           "[fscontext]",
                                           "[perf_event]",
                                           "[landlock-ruleset]",
                                           "seccomp notify",
                                           "bpf-map",
                                           "bpf-prog",
                                           "bpf_link",
                                           "btf"};
    constexpr std::string_view kPrefix = "anon_inode:";
    return link.starts_with(kPrefix) && std::find(std::begin(kKinds), std::end(kKinds),
                                                  link.substr(kPrefix.size())) != std::end(kKinds);
}

bool harmless_descriptor(int fd) noexcept {
    struct stat status {};
    char text[256];
    // Whoever serves the file is not asked.
    if (::syscall(SYS_newfstatat, AT_FDCWD, Name(fd).text, &status, AT_STATX_DONT_SYNC) != 0 &&
        (errno != EINVAL || ::stat(Name(fd).text, &status) != 0))
        return errno == ENOENT; // closed meanwhile
    switch (status.st_mode & S_IFMT) {
    case S_IFBLK:
        return !OpenFile(fd).direct();
    case S_IFREG: // new kernels call some anonymous files so, too
    case S_IFDIR:
    case S_IFLNK:
    case S_IFIFO:
        return harmless_link(fd, link_of(fd, text), copied);
    case S_IFSOCK:
        return harmless_socket(fd);
    case S_IFCHR:
        return harmless_device(status.st_rdev) || numberless_device(link_of(fd, text));
    default:
        return harmless_anonymous(link_of(fd, text));
    }
}

bool harmless_name(int fd) noexcept {
    char text[256];
    const std::string_view link = link_of(fd, text);
    if (link.empty())
        return errno == ENOENT; // closed meanwhile
    if (link.starts_with("socket:"))
        return harmless_socket(fd);
    if (link.starts_with("/dev/") && !below_dev_but_a_file(link))
        return harmless_device(link);
    return harmless_link(fd, link, known_to_be_copied);
}

bool harmless_mapping(std::string_view name) noexcept {
    if (name.empty() || name.front() == '[')
        return true;
    if (name.starts_with("anon_inode:"))
        return harmless_anonymous(name.substr(0, name.find(" (deleted)")));
    if (name.starts_with("/dev/"))
        return below_dev_but_a_file(name) || name.starts_with("/dev/zero");
    // A context of asynchronous I/O, a buffer of a graphics card; "socket:" is a ring.
    return name.front() == '/' && !name.starts_with("/[aio]") && !name.starts_with("/dmabuf");
}

// "VmPin:\t       0 kB".
bool something_pinned() noexcept {
    Lines lines("/proc/self/status");
    for (std::string_view line; lines.next(line);) {
        unsigned long size = 0;
        if (read_field(line, "VmPin:", size, 10))
            return size != 0;
    }
    return true;
}

bool outsiders_may_write() noexcept {
    copying.forget();
    return !all_descriptors(harmless_descriptor) || !all_mappings_harmless() || something_pinned();
}

bool outsiders_came() noexcept {
    return !all_descriptors(harmless_name) || !all_mappings_harmless() || something_pinned();
}

} // namespace upm::hook
