// SPDX-License-Identifier: MIT
//
// A real broker among strangers: other containers, other users, clients that send what
// they like, and clients of the version before.
#include "libupm/base/packet.hpp"
#include "tests/libupm/store/fixture.hpp"
#include "tests/support/process.hpp"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <fstream>
#include <gmock/gmock.h>
#include <linux/fuse.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <thread>
#include <unistd.h>

namespace upm::test {

namespace {

using store::Op;

// A connection that is made by hand: a client would not trust each of these brokers.
class Caller {
  public:
    explicit Caller(const std::string &socket, const store::DomainKey &domain = {})
        : fd_(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) {
        sockaddr_un address{};
        store::HelloRequest hello{};
        hello.header.op = static_cast<std::uint16_t>(Op::kHello);
        hello.header.length = sizeof(hello);
        hello.page_size = static_cast<std::uint32_t>(page_size());
        hello.named = domain.named;
        std::memcpy(hello.key, domain.key, sizeof(hello.key));
        store::HelloReply reply{};
        const bool good =
            packet::fill_address(socket, address) == 0 &&
            ::connect(fd_, reinterpret_cast<sockaddr *>(&address), sizeof(address)) == 0 &&
            ::send(fd_, &hello, sizeof(hello), 0) == static_cast<ssize_t>(sizeof(hello)) &&
            ::recv(fd_, &reply, sizeof(reply), 0) == static_cast<ssize_t>(sizeof(reply)) &&
            reply.reply.error == 0;
        seed_ = good ? reply.seed : 0;
    }
    Caller(const Caller &) = delete;
    Caller &operator=(const Caller &) = delete;
    ~Caller() { (void)::close(fd_); }

    // Of its domain's hashes, which no two domains have in common; 0: no connection.
    [[nodiscard]] std::uint64_t seed() const { return seed_; }

  private:
    int fd_;
    std::uint64_t seed_ = 0;
};

class UpmdStrangers : public StoreTest {
  protected:
    static store::SocketPath path_of(const std::string &socket) {
        store::SocketPath path;
        (void)socket.copy(path.text, sizeof(path.text) - 1);
        return path;
    }
    [[nodiscard]] store::SocketPath path() const { return path_of(broker.socket()); }

    // Publishes one page with this hash; the page stays as long as the connection.
    int publish(store::Connection &client, std::uint64_t hash) {
        const Pages page(1);
        page.fill('x');
        const int fd = make_segment(page.data(), page.size());
        const std::uint64_t hashes[1] = {hash};
        std::uint32_t segment = 0;
        const int ret = client.publish(fd, hashes, segment, buffer);
        (void)::close(fd);
        return ret;
    }
    // 1: known; 0: not; or -errno.
    int knows(store::Connection &client, std::uint64_t hash) {
        const std::uint64_t hashes[1] = {hash};
        store::Place place[1];
        const int ret = client.lookup(hashes, false, place, buffer);
        return ret != 0 ? ret : static_cast<int>(store::is_segment(place[0].segment));
    }
    // Returns 1 if a process in new namespaces is in the domain with that seed.
    int joins_from(int namespaces, const store::DomainKey &domain, std::uint64_t seed) {
        return in_child([&] {
            if (::unshare(namespaces) != 0)
                return 90;
            return in_child([&] {
                const Caller caller(broker.socket(), domain);
                return caller.seed() == 0 ? 91 : static_cast<int>(caller.seed() == seed);
            });
        });
    }

    std::vector<std::byte> buffer = std::vector<std::byte>(store::kMaxPacket);
};

// Root of another container is not root of this one, unless both have a key.
TEST_F(UpmdStrangers, ContainersAreApart) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "needs root, for namespaces";
    constexpr store::DomainKey kKey{.named = true, .key = {1, 2, 3}};
    store::Connection mine;
    store::Connection named;
    ASSERT_EQ(mine.open(path(), {}), 0);
    ASSERT_EQ(named.open(path(), kKey), 0);
    EXPECT_EQ(joins_from(0, {}, mine.seed()), 1) << "another process of this container";
    EXPECT_EQ(joins_from(CLONE_NEWPID, {}, mine.seed()), 0);
    EXPECT_EQ(joins_from(CLONE_NEWUSER, {}, mine.seed()), 0);
    EXPECT_EQ(joins_from(CLONE_NEWPID, kKey, named.seed()), 1);
    EXPECT_EQ(joins_from(CLONE_NEWUSER | CLONE_NEWPID, kKey, named.seed()), 1);
    // And what that means.
    ASSERT_EQ(publish(mine, 5), 0);
    EXPECT_EQ(in_child([&] {
                  return ::unshare(CLONE_NEWPID) != 0 ? 90 : in_child([&] {
                      store::Connection client;
                      return client.open(path(), {}) != 0 ? 91 : knows(client, 5);
                  });
              }),
              0);
}

// A process that nobody may look at shares with nobody.
TEST_F(UpmdStrangers, WhatCannotBeLookedAtIsAlone) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "needs root, to be two users";
    (void)broker.stop(SIGTERM);
    const TempDir dir;
    ASSERT_EQ(::chmod(dir.path().c_str(), 0755), 0);
    const std::string folder = dir.path() + "/b";
    ASSERT_EQ(::mkdir(folder.c_str(), 0755), 0);
    ASSERT_EQ(::chown(folder.c_str(), 65534, 65534), 0);
    const std::string socket = folder + "/s";
    // The broker of an ordinary user: it may not look at processes of root.
    StayingChild other([&] {
        if (::setgid(65534) != 0 || ::setuid(65534) != 0)
            return 1;
        const pid_t pid = ::fork();
        if (pid == 0)
            ::execl(UPM_UPMD, "upmd", "--socket", socket.c_str(), "--mode", "0666", nullptr);
        for (int tries = 0; tries < 1'000 && !listens(socket); ++tries)
            (void)::usleep(10'000);
        return listens(socket) ? pid : 0;
    });
    ASSERT_GT(other.result(), 1);
    const Caller one(socket); // both at a time: a domain lives as long as it has members
    const Caller two(socket);
    EXPECT_NE(one.seed(), 0U);
    EXPECT_NE(two.seed(), 0U);
    EXPECT_NE(one.seed(), two.seed()) << "two domains, though it is one process";
    (void)::kill(other.result(), SIGKILL);
}

// A program that maps what it got and unmaps it without a word (any user of the API).
TEST_F(UpmdStrangers, WhatNobodyMapsGoes) {
    ASSERT_EQ(open(), 0) << text;
    {
        const Pages pages(100);
        fill_pattern(pages, 1);
        ASSERT_EQ(advise(pages), 0);
        ASSERT_EQ(counts.inserted, 100U);
    }
    struct upm_stats stats {};
    std::uint64_t left = 100;
    for (int tries = 0; tries < 300 && left != 0; ++tries) {
        (void)::usleep(100'000);
        ASSERT_EQ(backend.stats(-1, stats), 0);
        left = stats.pages_shared + stats.pages_unused;
    }
    EXPECT_EQ(left, 0U);
}

// What is mapped stays, however often the broker looks.
TEST_F(UpmdStrangers, WhatSomebodyMapsStays) {
    ASSERT_EQ(open(), 0) << text;
    const Pages pages(100);
    fill_pattern(pages, 1);
    ASSERT_EQ(advise(pages), 0);
    store::Connection watch;
    ASSERT_EQ(watch.open(path(), {}), 0);
    for (int i = 0; i < 3; ++i) {
        (void)watch.report_unmapped(); // it is the same process: the broker looks
        (void)::usleep(1'200'000);
    }
    watch.close();
    struct upm_stats stats {};
    ASSERT_EQ(backend.stats(-1, stats), 0);
    EXPECT_EQ(stats.pages_shared, 100U);
    EXPECT_TRUE(has_pattern(pages, 1));
}

// Runs `body` as host's user 1000, which in a new user namespace is `inside`.
int in_remapped(uid_t inside, const std::function<int()> &body) {
    return in_child([&] {
        if (::setgid(1000) != 0 || ::setuid(1000) != 0 || ::prctl(PR_SET_DUMPABLE, 1) != 0 ||
            ::unshare(CLONE_NEWUSER) != 0)
            return 90;
        std::ofstream("/proc/self/uid_map") << inside << " 1000 1";
        return ::geteuid() == inside ? body() : 91;
    });
}

// Case nsrun.py: the host's broker, mounted into a container whose users are mapped. All
// that its namespace does not know looks like one user there, strangers included.
TEST_F(UpmdStrangers, RemappedContainers) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "needs root, to be other users";
    (void)broker.stop(SIGTERM);
    char name[] = "/run/upmd-test-XXXXXX"; // of root alone, unlike /tmp
    ASSERT_NE(::mkdtemp(name), nullptr);
    ASSERT_EQ(::chmod(name, 0755), 0);
    const std::string folder = name;
    const auto start = [](const std::string &socket, uid_t uid) {
        return StayingChild([&] {
            const pid_t pid = ::fork();
            if (pid == 0) {
                (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (uid != 0 && (::setgid(uid) != 0 || ::setuid(uid) != 0))
                    ::_exit(1);
                ::execl(UPM_UPMD, "upmd", "--socket", socket.c_str(), "--mode", "0666", nullptr);
            }
            for (int tries = 0; tries < 1'000 && !listens(socket); ++tries)
                (void)::usleep(10'000);
            return listens(socket) ? pid : 0;
        });
    };
    const StayingChild host = start(folder + "/s", 0);
    const TempDir dir; // in /tmp, where anybody can be first
    ASSERT_EQ(::chmod(dir.path().c_str(), 0755), 0);
    ASSERT_EQ(::chown(dir.path().c_str(), 1001, 1001), 0);
    const StayingChild stranger = start(dir.path() + "/s", 1001);
    ASSERT_GT(host.result(), 0);
    ASSERT_GT(stranger.result(), 0);
    for (const uid_t inside : {uid_t{0}, uid_t{65534}, uid_t{4242}}) {
        const auto open_at = [&](const std::string &socket) {
            return in_remapped(inside, [&] {
                store::Connection client;
                return -client.open(path_of(socket), {});
            });
        };
        EXPECT_EQ(open_at(folder + "/s"), 0) << inside;
        EXPECT_EQ(open_at(dir.path() + "/s"), EACCES) << inside;
    }
    for (const StayingChild *const each : {&host, &stranger})
        (void)::kill(each->result(), SIGKILL);
    (void)::unlink((folder + "/s").c_str());
    (void)::unlink((folder + "/s.lock").c_str());
    EXPECT_EQ(::rmdir(name), 0);
}

// A file system whose server never answers when one of its files is closed, or read.
class SilentFuse {
  public:
    enum class Never : std::uint8_t { kCloses, kReads };
    explicit SilentFuse(Never never = Never::kCloses) : never_(never) {
        device_ = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);
        const std::string options =
            "fd=" + std::to_string(device_) + ",rootmode=40000,user_id=0,group_id=0,allow_other";
        mounted_ = device_ >= 0 && ::mount("upmd-test", folder_.path().c_str(), "fuse",
                                           MS_NOSUID | MS_NODEV, options.c_str()) == 0;
        if (mounted_)
            thread_ = std::thread([this] { serve(); });
    }
    SilentFuse(const SilentFuse &) = delete;
    SilentFuse &operator=(const SilentFuse &) = delete;
    ~SilentFuse() {
        end();
        if (device_ >= 0)
            (void)::close(device_);
    }
    // Aborts all that waits for it.
    void end() {
        if (!mounted_)
            return;
        (void)::umount2(folder_.path().c_str(), MNT_FORCE | MNT_DETACH);
        thread_.join();
        mounted_ = false;
    }
    [[nodiscard]] bool mounted() const { return mounted_; }
    [[nodiscard]] const std::string &folder() const { return folder_.path(); }
    [[nodiscard]] std::string file() const { return folder_.path() + "/f"; }
    [[nodiscard]] bool was_closed() const { return closed_; }

  private:
    static fuse_attr attributes(std::uint64_t node) {
        fuse_attr attr{};
        attr.ino = node;
        attr.mode = node == 1 ? S_IFDIR | 0755 : S_IFREG | 0644;
        attr.nlink = 1;
        attr.blksize = 4096;
        attr.size = node == 1 ? 0 : 1U << 20U;
        return attr;
    }
    void answer(const fuse_in_header &request) {
        fuse_init_out init{};
        fuse_entry_out entry{};
        fuse_attr_out attr{};
        fuse_open_out opened{};
        fuse_statfs_out system{};
        fuse_out_header head{.len = sizeof(head), .error = 0, .unique = request.unique};
        iovec parts[2] = {{.iov_base = &head, .iov_len = sizeof(head)}, {}};
        switch (request.opcode) {
        case FUSE_INIT:
            init.major = 7;
            init.minor = 31;
            init.max_write = 65536;
            init.time_gran = 1;
            parts[1] = {.iov_base = &init, .iov_len = sizeof(init)};
            break;
        case FUSE_LOOKUP:
            entry.nodeid = 2;
            entry.entry_valid = entry.attr_valid = 3600;
            entry.attr = attributes(2);
            parts[1] = {.iov_base = &entry, .iov_len = sizeof(entry)};
            break;
        case FUSE_GETATTR:
            attr.attr_valid = 3600;
            attr.attr = attributes(request.nodeid);
            parts[1] = {.iov_base = &attr, .iov_len = sizeof(attr)};
            break;
        case FUSE_OPEN:
            parts[1] = {.iov_base = &opened, .iov_len = sizeof(opened)};
            break;
        case FUSE_STATFS:
            system.st.bsize = 4096;
            system.st.namelen = 255;
            parts[1] = {.iov_base = &system, .iov_len = sizeof(system)};
            break;
        case FUSE_FLUSH:
            closed_ = true;
            if (never_ == Never::kCloses)
                return; // for ever
            break;
        case FUSE_READ:
            return; // for ever
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
            return;
        default:
            head.error = -ENOSYS;
        }
        head.len += static_cast<std::uint32_t>(parts[1].iov_len);
        (void)!::writev(device_, parts, 2);
    }
    void serve() {
        std::vector<char> request(1U << 18U);
        for (;;) {
            const ssize_t got = ::read(device_, request.data(), request.size());
            if (got < 0 && errno == EINTR)
                continue;
            fuse_in_header head{};
            if (got < static_cast<ssize_t>(sizeof(head)))
                return;
            std::memcpy(&head, request.data(), sizeof(head));
            answer(head);
        }
    }

    Never never_;
    TempDir folder_;
    int device_ = -1;
    bool mounted_ = false;
    std::atomic<bool> closed_{false};
    std::thread thread_;
};

// Case 11_fuse_close.py: the broker cannot get rid of a descriptor that it was sent.
TEST_F(UpmdStrangers, ADescriptorThatCannotBeClosed) {
    SilentFuse fuse;
    if (!fuse.mounted())
        GTEST_SKIP() << "needs root and /dev/fuse";
    // Closed only by the broker's thread: another process sends it and is killed.
    StayingChild attacker([&] {
        const int fd = ::open(fuse.file().c_str(), O_RDONLY | O_CLOEXEC);
        const std::uint64_t hashes[1] = {1};
        std::uint32_t segment = 0;
        store::Connection client;
        if (fd < 0 || client.open(path(), {}) != 0)
            return 1;
        for (int i = 0; i < 4; ++i) {
            const int ret = client.publish(fd, hashes, segment, buffer);
            if (ret != -EINVAL && ret != -EMFILE)
                return 2;
        }
        return 0;
    });
    EXPECT_EQ(attacker.result(), 0) << "it gets its answers";
    EXPECT_TRUE(fuse.was_closed()) << "else this tests nothing";
    store::Connection victim;
    ASSERT_EQ(victim.open(path(), {}), 0);
    EXPECT_EQ(knows(victim, 1), 0) << "the broker answers others";
    const Pages page(1);
    page.fill('y');
    EXPECT_EQ(in_child([&] {
                  // Another user's descriptors are received as before.
                  store::Connection other;
                  return other.open(path(), {.named = true, .key = {9}});
              }),
              0);
    fuse.end();
}

// Asks for a segment of a file, on a connection of its own that stays. 0 or -errno, in time.
int ask_for_segment(const store::SocketPath &path, int file, std::uint64_t likeness,
                    int patience_ms) {
    auto &client = *std::make_unique<store::Connection>().release(); // until the process ends
    store::MakeRequest request{};
    request.likeness = likeness;
    request.pages = 16;
    int ret = client.open(path, {});
    if (ret == 0)
        ret = client.begin_make(request, file);
    std::uint32_t segment = 0;
    store::Connection::Attached attached;
    return ret == 0 ? client.end_make(segment, attached, patience_ms) : ret;
}

// Becomes another user for good, and does something.
StayingChild as_user(uid_t uid, const std::function<int()> &body) {
    return StayingChild([&] { return ::setgid(uid) == 0 && ::setuid(uid) == 0 ? body() : -90; });
}

// An overlay above such a file system looks like one whose files can be shared. Five users
// have files of it read, which lasts for ever; a sixth one's file is read all the same.
TEST_F(UpmdStrangers, FilesThatCannotBeRead) {
    SilentFuse fuse(SilentFuse::Never::kReads);
    const TempDir empty;
    const TempDir merged;
    const std::string layers = "lowerdir=" + fuse.folder() + ":" + empty.path();
    if (!fuse.mounted() ||
        ::mount("overlay", merged.path().c_str(), "overlay", MS_RDONLY, layers.c_str()) != 0)
        GTEST_SKIP() << "needs root, /dev/fuse and overlayfs";
    const BrokerProcess open_to_all({"--mode", "0666"});
    ASSERT_EQ(::chmod(open_to_all.folder().path().c_str(), 0755), 0);
    const store::SocketPath path = path_of(open_to_all.socket());
    const int silent = ::open((merged.path() + "/f").c_str(), O_RDONLY | O_CLOEXEC);
    ASSERT_GE(silent, 0);
    const TempDir folder;
    const std::string content(16 * page_size(), 'x');
    folder.write("file", content);
    const int good = ::open((folder.path() + "/file").c_str(), O_RDONLY | O_CLOEXEC);
    {
        std::vector<StayingChild> attackers;
        for (uid_t uid = 2001; uid <= 2005; ++uid) {
            attackers.push_back(as_user(uid, [&] {
                int hang = 0;
                for (std::uint64_t i = 1; i <= 4; ++i)
                    hang += ask_for_segment(path, silent, i, 10) == -ETIMEDOUT ? 1 : 0;
                return hang;
            }));
            EXPECT_GE(attackers.back().result(), 2) << "else this tests nothing";
        }
        EXPECT_EQ(as_user(3000, [&] { return ask_for_segment(path, good, 1, 60'000); }).result(),
                  0);
        // One whose threads hang is refused, and nothing of it is kept.
        EXPECT_EQ(as_user(2001, [&] { return ask_for_segment(path, good, 9, 60'000); }).result(),
                  -EMFILE);
    }
    (void)::close(silent);
    (void)::close(good);
    EXPECT_EQ(::umount2(merged.path().c_str(), MNT_DETACH), 0);
    fuse.end();
}

// The version before, byte for byte, over a real socket.
TEST_F(UpmdStrangers, ClientOfTheVersionBefore) {
    sockaddr_un address{};
    ASSERT_EQ(packet::fill_address(broker.socket(), address), 0);
    const int old = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    ASSERT_EQ(::connect(old, reinterpret_cast<sockaddr *>(&address), sizeof(address)), 0);
    std::vector<unsigned char> answer(store::kMaxPacket);
    const auto ask = [&](std::vector<std::uint32_t> words, int fd) {
        words[2] = static_cast<std::uint32_t>(words.size() * sizeof(words[0]));
        const iovec part{.iov_base = words.data(), .iov_len = words[2]};
        EXPECT_EQ(packet::send(old, {&part, 1}, {&fd, fd >= 0 ? 1U : 0U}), 0);
        return ::recv(old, answer.data(), answer.size(), 0);
    };
    const auto word = [&](std::size_t at) {
        std::uint32_t value = 0;
        std::memcpy(&value, answer.data() + at, sizeof(value));
        return value;
    };
    constexpr std::uint32_t kMagic = 0x534d5055;
    const auto head = [](std::uint32_t op) { return 2U | op << 16U; };
    ASSERT_EQ(
        ask({kMagic, head(1), 0, 1, static_cast<std::uint32_t>(page_size()), 0, 0, 0, 0, 0}, -1),
        32);
    EXPECT_EQ(word(4), head(1));
    EXPECT_EQ(word(16), 0U);
    // Reserves the hash 7, and publishes it.
    ASSERT_EQ(ask({kMagic, head(2), 0, 2, 1, 1, 7, 0}, -1), 40);
    EXPECT_EQ(word(4), head(2));
    EXPECT_EQ(word(32), 0xffff'ffffU);
    const Pages page(1);
    page.fill('o');
    const int fd = make_segment(page.data(), page.size());
    ASSERT_EQ(ask({kMagic, head(4), 0, 3, 1, 0, 7, 0}, fd), 32);
    EXPECT_EQ(word(16), 0U);
    (void)::close(fd);
    store::Connection fresh;
    ASSERT_EQ(fresh.open(path(), {}), 0);
    EXPECT_EQ(knows(fresh, 7), 1) << "both are in one domain";
    ASSERT_EQ(ask({kMagic, head(7), 0, 4}, -1), 64);
    (void)::close(old);
}

// And the other way round: a broker of version 2 hangs up when it is greeted in another.
TEST_F(UpmdStrangers, BrokerOfTheVersionBefore) {
    const TempDir dir;
    const std::string socket = dir.path() + "/s";
    sockaddr_un address{};
    ASSERT_EQ(packet::fill_address(socket, address), 0);
    const int listener = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    ASSERT_EQ(::bind(listener, reinterpret_cast<sockaddr *>(&address), sizeof(address)), 0);
    ASSERT_EQ(::listen(listener, 8), 0);
    std::thread old([&] {
        for (int round = 0; round < 2; ++round) {
            const int client = ::accept(listener, nullptr, nullptr);
            unsigned char packet[256] = {};
            while (::recv(client, packet, sizeof(packet), 0) > 0 && packet[4] == 2) {
                const bool hello = packet[6] == 1;
                packet[8] = hello ? 32 : 40;                 // length of the answer
                const bool plain = hello || packet[18] == 0; // no flags that it does not know
                std::memset(packet + 16, 0, sizeof(packet) - 16);
                packet[24] = hello ? 99 : 1; // the seed, or one place
                if (!plain || ::send(client, packet, packet[8], 0) < 0)
                    break;
            }
            (void)::close(client);
        }
    });
    store::Connection client;
    EXPECT_EQ(client.open(path_of(socket), {}), 0);
    EXPECT_EQ(client.seed(), 99U);
    const std::uint64_t hashes[1] = {1};
    store::Place place[1];
    EXPECT_EQ(client.lookup(hashes, true, place, buffer), 0);
    client.close();
    old.join();
    (void)::close(listener);
}

} // namespace

} // namespace upm::test
