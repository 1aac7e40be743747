// SPDX-License-Identifier: MIT
//
// A broker that a program starts: it is not the program's child, and takes neither its
// limits nor its control groups nor a socket that somebody else made.
#include "libupm/base/packet.hpp"
#include "libupm/base/system.hpp"
#include "libupm/store/client.hpp"
#include "tests/support/broker_process.hpp"
#include "tests/support/process.hpp"
#include "tests/support/support.hpp"
#include "tools/broker/listener.hpp"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <stdexcept>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::test {

namespace {

using broker::Listener;

class UpmdStart : public testing::Test {
  protected:
    // A name in the test's own folder.
    [[nodiscard]] store::SocketPath path() const {
        store::SocketPath path;
        (void)name().copy(path.text, sizeof(path.text) - 1);
        return path;
    }
    [[nodiscard]] std::string name() const { return folder.path() + "/s"; }

    // The process that listens there; 0: nobody does.
    [[nodiscard]] pid_t listener() const {
        const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        sockaddr_un address{};
        ucred peer{};
        const bool found =
            packet::fill_address(name(), address) == 0 &&
            ::connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof(address)) == 0 &&
            packet::peer_of(fd, peer) == 0;
        (void)::close(fd);
        return found ? peer.pid : 0;
    }
    void TearDown() override {
        if (const pid_t pid = listener(); pid > 0 && pid != ::getpid())
            (void)::kill(pid, SIGKILL);
    }
    static ino_t inode(const std::string &name) {
        struct stat status {};
        return ::lstat(name.c_str(), &status) == 0 ? status.st_ino : 0;
    }

    TempDir folder;
};

// Case 06_pid1.py: an application that is PID 1 of its container.
TEST_F(UpmdStart, PidOneGetsNoChild) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "needs root, for a PID namespace";
    EXPECT_EQ(in_child([&] {
                  if (::unshare(CLONE_NEWPID) != 0)
                      return 9;
                  return in_child([&] {
                      if (::getpid() != 1)
                          return 1;
                      if (store::start_broker(path()) != -ECHILD)
                          return 2;
                      return ::waitpid(-1, nullptr, __WALL | WNOHANG) == -1 && errno == ECHILD ? 0
                                                                                               : 3;
                  });
              }),
              0);
}

TEST_F(UpmdStart, ASubreaperGetsNoChild) {
    EXPECT_EQ(in_child([&] {
                  if (::prctl(PR_SET_CHILD_SUBREAPER, 1) != 0)
                      return 1;
                  if (store::start_broker(path()) != -ECHILD)
                      return 2;
                  return ::waitpid(-1, nullptr, __WALL | WNOHANG) == -1 && errno == ECHILD ? 0 : 3;
              }),
              0);
}

// Case 14_rlimit.c, and a freezer: none of it is the broker's.
TEST_F(UpmdStart, LimitsAndGroupsStayBehind) {
    const std::string group = "/sys/fs/cgroup/freezer/upmd-test-" + std::to_string(::getpid());
    const bool grouped = ::mkdir(group.c_str(), 0755) == 0;
    EXPECT_EQ(in_child([&] {
                  if (grouped)
                      std::ofstream(group + "/cgroup.procs") << ::getpid();
                  const rlimit limits[] = {{.rlim_cur = 5, .rlim_max = RLIM_INFINITY},
                                           {.rlim_cur = 1UL << 30U, .rlim_max = RLIM_INFINITY},
                                           {.rlim_cur = 4096, .rlim_max = RLIM_INFINITY}};
                  (void)::setrlimit(RLIMIT_CPU, &limits[0]);
                  (void)::setrlimit(RLIMIT_AS, &limits[1]);
                  (void)::setrlimit(RLIMIT_FSIZE, &limits[2]);
                  rlimit files{};
                  (void)::getrlimit(RLIMIT_NOFILE, &files);
                  files.rlim_cur = 32;
                  (void)::setrlimit(RLIMIT_NOFILE, &files);
                  (void)::nice(7);
                  return store::start_broker(path()) == 0 ? 0 : 1;
              }),
              0);
    const pid_t pid = listener();
    ASSERT_GT(pid, 0);
    const std::string proc = "/proc/" + std::to_string(pid);
    const std::string limits = read_file(proc + "/limits");
    for (const char *resource :
         {"Max cpu time              unlimited", "Max address space         unlimited",
          "Max file size             unlimited"})
        EXPECT_THAT(limits, testing::HasSubstr(resource));
    EXPECT_THAT(limits, testing::Not(testing::HasSubstr("Max open files            32 ")));
    if (::geteuid() == 0) {
        EXPECT_EQ(::getpriority(PRIO_PROCESS, static_cast<id_t>(pid)), 0);
    }
    if (grouped) {
        EXPECT_THAT(read_file(proc + "/cgroup"), testing::Not(testing::HasSubstr("upmd-test")));
        EXPECT_EQ(::rmdir(group.c_str()), 0);
    }
}

// Case share.py: somebody has removed the socket of a broker that runs.
TEST_F(UpmdStart, ASocketThatWasRemovedComesBack) {
    BrokerProcess broker;
    const std::string socket = broker.socket();
    ASSERT_EQ(::unlink(socket.c_str()), 0);
    store::SocketPath where;
    (void)socket.copy(where.text, sizeof(where.text) - 1);
    store::Connection connection;
    // It has a name before anybody listens.
    int ret = connection.open(where, {});
    for (int tries = 0; tries < 4'000 && ret != 0; ++tries) {
        (void)::usleep(5'000);
        ret = connection.open(where, {});
    }
    EXPECT_EQ(ret, 0);
    connection.close();
    (void)broker.stop(SIGTERM);
    EXPECT_EQ(::access(socket.c_str(), F_OK), -1) << "the new one is the broker's to remove";
}

// A broker that is stopped cannot make its socket anew: clients do not wait for it long.
TEST_F(UpmdStart, NobodyWaitsForASocketThatDoesNotComeBack) {
    BrokerProcess broker;
    (void)::kill(broker.pid(), SIGSTOP);
    ASSERT_EQ(::unlink(broker.socket().c_str()), 0);
    store::SocketPath where;
    (void)broker.socket().copy(where.text, sizeof(where.text) - 1);
    store::Connection connection;
    const std::uint64_t before = now_ms();
    EXPECT_EQ(store::open_connection(connection, where, {}), -ENOENT);
    EXPECT_LT(now_ms() - before, 4'000U) << "not the whole patience of one that starts";
    (void)::kill(broker.pid(), SIGCONT);
}

// A socket that systemd listens at stays, whoever starts a broker there and ends it.
TEST_F(UpmdStart, ALivingSocketIsLeftAlone) {
    const int systemd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    ASSERT_EQ(packet::fill_address(name(), address), 0);
    ASSERT_EQ(::bind(systemd, reinterpret_cast<sockaddr *>(&address), sizeof(address)), 0);
    ASSERT_EQ(::listen(systemd, 8), 0);
    const ino_t before = inode(name());
    EXPECT_EQ(store::start_broker(path()), 1) << "somebody else has the place";
    EXPECT_EQ(inode(name()), before);
    (void)::close(systemd);
    {
        Listener dead_one_replaced;
        bool made = false;
        for (int tries = 0; tries < 1'000 && !made; ++tries) { // the other one is ending
            made = dead_one_replaced.make(name(), 0600);
            (void)::usleep(made ? 0 : 5'000);
        }
        EXPECT_TRUE(made) << "nobody listens there any more";
        EXPECT_NE(inode(name()), 0U);
    }
    EXPECT_EQ(inode(name()), 0U);
}

TEST_F(UpmdStart, OnlyTheOwnSocketIsRemoved) {
    const int other = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    {
        Listener listener;
        ASSERT_TRUE(listener.make(name(), 0600));
        ASSERT_EQ(::unlink(name().c_str()), 0);
        sockaddr_un address{};
        ASSERT_EQ(packet::fill_address(name(), address), 0);
        ASSERT_EQ(::bind(other, reinterpret_cast<sockaddr *>(&address), sizeof(address)), 0);
        EXPECT_FALSE(listener.make_again()) << "somebody else's is there";
    }
    EXPECT_NE(inode(name()), 0U);
    (void)::close(other);
}

TEST_F(UpmdStart, NeitherFilesNorStrangersFolders) {
    std::ofstream(name()) << "precious";
    Listener listener;
    EXPECT_THROW((void)listener.make(name(), 0600), std::runtime_error);
    EXPECT_EQ(read_file(name()), "precious");
    ASSERT_EQ(::chmod(folder.path().c_str(), 0777), 0);
    Listener open_to_all;
    EXPECT_THROW((void)open_to_all.make(folder.path() + "/t", 0600), std::runtime_error);
    if (::geteuid() != 0)
        return;
    ASSERT_EQ(::chmod(folder.path().c_str(), 0755), 0);
    ASSERT_EQ(::chown(folder.path().c_str(), 65534, 65534), 0);
    Listener in_anothers;
    EXPECT_THROW((void)in_anothers.make(folder.path() + "/t", 0600), std::runtime_error);
}

} // namespace

} // namespace upm::test
