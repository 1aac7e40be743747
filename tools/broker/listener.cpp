// SPDX-License-Identifier: MIT
#include "tools/broker/listener.hpp"

#include "libupm/base/packet.hpp"

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

namespace upm::broker {

namespace {

constexpr int kSystemdFd = 3; // SD_LISTEN_FDS_START, sd_listen_fds(3)
// Few: who comes waits behind all of them, and where there is no room, among those who wait.
constexpr int kBacklog = 64;

[[noreturn]] void fail(const std::string &what) {
    throw std::system_error(errno, std::generic_category(), what);
}

int number(const char *text) {
    int value = -1;
    const std::string_view view = text != nullptr ? text : "";
    (void)std::from_chars(view.data(), view.data() + view.size(), value);
    return value;
}

// In a folder that others may write to, somebody could put another socket in this
// one's place, and clients would talk to a stranger (they check, but get nowhere).
void prepare_folder(const std::string &folder, unsigned mode) {
    const mode_t everyone = (mode & 0077U) != 0 ? 0755 : 0700;
    if (::mkdir(folder.c_str(), everyone) != 0 && errno != EEXIST)
        fail("cannot make the folder " + folder);
    struct stat status {};
    if (::stat(folder.c_str(), &status) != 0)
        fail(folder);
    if (!S_ISDIR(status.st_mode))
        throw std::runtime_error(folder + " is no folder");
    const bool sticky = (status.st_mode & S_ISVTX) != 0;
    if (status.st_uid != ::geteuid() && status.st_uid != 0)
        throw std::runtime_error("the folder " + folder + " belongs to user " +
                                 std::to_string(status.st_uid) + ", not to this one");
    if ((status.st_mode & 022U) != 0 && !sticky)
        throw std::runtime_error("others may write to the folder " + folder + ": chmod go-w it");
}

sockaddr_un address_of(const std::string &path) {
    sockaddr_un address{};
    if (packet::fill_address(path, address) != 0)
        throw std::runtime_error("the socket's path is longer than " +
                                 std::to_string(sizeof(address.sun_path) - 1) + " bytes");
    return address;
}

Descriptor new_socket() {
    Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket)
        fail("socket");
    return socket;
}

// Before anything is made there.
void check_place(const std::string &path) {
    if (path.empty() || path.front() != '/')
        throw std::runtime_error("the socket needs an absolute path, not '" + path + "'");
    (void)address_of(path);
    struct stat status {};
    if (::lstat(path.c_str(), &status) == 0 && !S_ISSOCK(status.st_mode))
        throw std::runtime_error(path + " is there, and is no socket");
}

// Says if somebody listens there: if not, the name is one that a dead broker left. A
// queue that is full, or a socket of another type, belongs to somebody as well.
bool is_alive(const std::string &path) {
    const sockaddr_un address = address_of(path);
    const Descriptor probe = new_socket();
    return ::connect(probe.get(), reinterpret_cast<const sockaddr *>(&address), sizeof(address)) ==
               0 ||
           (errno != ECONNREFUSED && errno != ENOENT);
}

Descriptor listen_at(const std::string &path, unsigned mode) {
    const sockaddr_un address = address_of(path);
    Descriptor socket = new_socket();
    if (::unlink(path.c_str()) != 0 && errno != ENOENT)
        fail("cannot remove the old socket " + path);
    const mode_t before = ::umask(0777U & ~mode);
    const int bound =
        ::bind(socket.get(), reinterpret_cast<const sockaddr *>(&address), sizeof(address));
    (void)::umask(before);
    if (bound != 0 || ::listen(socket.get(), kBacklog) != 0)
        fail("cannot listen at " + path);
    return socket;
}

} // namespace

bool Listener::take_from_systemd() {
    const bool ours = number(std::getenv("LISTEN_PID")) == ::getpid();
    const int count = number(std::getenv("LISTEN_FDS"));
    if (!ours || count <= 0)
        return false;
    int type = 0;
    int listening = 0;
    socklen_t size = sizeof(type);
    const int flags = ::fcntl(kSystemdFd, F_GETFL);
    if (count != 1 || flags < 0 ||
        ::getsockopt(kSystemdFd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 ||
        ::getsockopt(kSystemdFd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0 ||
        type != SOCK_SEQPACKET || listening == 0)
        throw std::runtime_error(
            "what systemd passed on is not one listening socket (ListenSequentialPacket=)");
    (void)::fcntl(kSystemdFd, F_SETFL, flags | O_NONBLOCK);
    (void)::fcntl(kSystemdFd, F_SETFD, FD_CLOEXEC);
    socket_ = Descriptor(kSystemdFd);
    return true;
}

std::string Listener::name() const {
    sockaddr_un address{};
    socklen_t size = sizeof(address);
    auto *const plain = reinterpret_cast<sockaddr *>(&address);
    if (::getsockname(socket_.get(), plain, &size) != 0 || address.sun_path[0] != '/')
        return "a socket without a name";
    return address.sun_path;
}

bool Listener::make(const std::string &path, unsigned mode) {
    check_place(path);
    prepare_folder(std::filesystem::path(path).parent_path(), mode);
    // The process that holds the lock is the broker; the lock goes with it.
    const std::string lock = path + ".lock";
    lock_ = Descriptor(::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!lock_)
        fail("cannot open " + lock);
    if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK)
            return false;
        fail("cannot lock " + lock);
    }
    if (is_alive(path))
        return false;
    path_ = path;
    mode_ = mode;
    bind_and_watch();
    return true;
}

void Listener::bind_and_watch() {
    socket_ = listen_at(path_, mode_);
    struct stat status {};
    if (::lstat(path_.c_str(), &status) != 0)
        fail(path_);
    device_ = status.st_dev;
    inode_ = status.st_ino;
    if (watch_)
        return;
    watch_ = Descriptor(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    const std::string folder = std::filesystem::path(path_).parent_path();
    if (watch_ && ::inotify_add_watch(watch_.get(), folder.c_str(), IN_DELETE | IN_MOVED_FROM) < 0)
        watch_ = Descriptor(); // no more watches: then clients have to wait
}

bool Listener::is_there() const {
    struct stat status {};
    return ::lstat(path_.c_str(), &status) == 0 && status.st_dev == device_ &&
           status.st_ino == inode_;
}

bool Listener::make_again() {
    std::array<char, 4096> events{};
    while (::read(watch_.get(), events.data(), events.size()) > 0)
        ;
    struct stat status {};
    if (::lstat(path_.c_str(), &status) == 0 || errno != ENOENT)
        return false; // it is there, or somebody else's is
    bind_and_watch();
    return true;
}

// The lock's file stays: to remove it would let two brokers hold two of them.
Listener::~Listener() {
    if (!path_.empty() && is_there())
        (void)::unlink(path_.c_str());
}

} // namespace upm::broker
