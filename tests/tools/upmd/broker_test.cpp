// SPDX-License-Identifier: MIT
//
// The real broker's life: killed at each step, started by systemd, without files.
#include "libupm/base/packet.hpp"
#include "libupm/store/segment.hpp"
#include "tests/libupm/store/fixture.hpp"
#include "tests/libupm/store/proxy.hpp"

#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <fstream>
#include <gmock/gmock.h>
#include <nlohmann/json.hpp>
#include <string>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace upm::test {

namespace {

constexpr std::size_t kPages = 100; // enough for a sample and a reservation

enum class What : std::uint8_t { kInsert, kMerge };

struct KillCase {
    What what;
    bool restart;
};

class StoreKilled : public StoreTest, public testing::WithParamInterface<KillCase> {
  protected:
    // Post: true if the broker was killed, and everything is as it must be.
    bool killed_at(int packet) {
        BrokerProcess victim;
        use(victim.socket());
        if (GetParam().what == What::kMerge)
            insert_elsewhere(kPages, 1);
        KillingProxy proxy(victim, packet,
                           GetParam().restart ? KillingProxy::Then::kRestart
                                              : KillingProxy::Then::kKill);
        use(proxy.socket());
        const Pages pages(kPages);
        fill_pattern(pages, 1);
        StoreBackend fresh;
        Reason reason;
        upm_counts done{};
        const Call call{.addr = reinterpret_cast<std::uint64_t>(pages.data()),
                        .len = pages.size(),
                        .quiescent = true};
        const int opened = fresh.open(reason);
        const int ret = opened == 0 ? fresh.run(call, done) : opened;
        EXPECT_TRUE(has_pattern(pages, 1)) << "packet " << packet;
        // Only what needs no answer may fail without a word.
        const std::uint64_t shared = done.merged + done.inserted;
        EXPECT_EQ(ret == 0, shared == kPages) << "packet " << packet << ": " << ret;
        if (GetParam().restart && opened == 0) {
            EXPECT_EQ(ret, 0) << "packet " << packet;
        }
        pages.page(3)[5] ^= 1; // still private memory
        pages.page(3)[5] ^= 1;
        EXPECT_TRUE(has_pattern(pages, 1)) << "packet " << packet;
        return proxy.has_killed();
    }
};

TEST_P(StoreKilled, AtEachPacket) {
    constexpr int kMost = 40;
    int packet = 1;
    while (packet < kMost && killed_at(packet))
        ++packet;
    // hello, a look-up, and for new content publish, each with its answer.
    EXPECT_GE(packet, GetParam().what == What::kInsert ? 7 : 5)
        << "so few packets cannot be a whole conversation";
    EXPECT_LT(packet, kMost);
}

INSTANTIATE_TEST_SUITE_P(
    Steps, StoreKilled,
    testing::Values(KillCase{What::kInsert, false}, KillCase{What::kInsert, true},
                    KillCase{What::kMerge, false}, KillCase{What::kMerge, true}),
    [](const auto &one) {
        return std::string(one.param.what == What::kInsert ? "Insert" : "Merge") +
               (one.param.restart ? "Restarted" : "Gone");
    });

class StoreBroker : public StoreTest {
  protected:
    [[nodiscard]] store::SocketPath path() const {
        store::SocketPath path;
        (void)broker.socket().copy(path.text, sizeof(path.text) - 1);
        return path;
    }
};

// A client that holds a reservation and does nothing loses it after a while.
TEST_F(StoreBroker, ReservationEndsInTime) {
    (void)broker.stop(SIGTERM);
    const BrokerProcess hasty({"--reservation", "300"});
    store::SocketPath path;
    (void)hasty.socket().copy(path.text, sizeof(path.text) - 1);
    std::vector<std::byte> buffer(store::kMaxPacket);
    const std::uint64_t hashes[1] = {42};
    store::Place place[1];
    store::Connection holder;
    store::Connection heir;
    ASSERT_EQ(holder.open(path, {}), 0);
    ASSERT_EQ(heir.open(path, {}), 0);
    ASSERT_EQ(holder.lookup(hashes, true, place, buffer), 0);
    ASSERT_EQ(heir.lookup(hashes, true, place, buffer), 0);
    EXPECT_EQ(place[0].segment, store::kReserved);
    const Pages page(1);
    page.fill('x');
    const int fd = make_segment(page.data(), page.size());
    std::uint32_t segment = 0;
    EXPECT_EQ(holder.publish(fd, hashes, segment, buffer), 0) << "late, but no fault";
    (void)::close(fd);
}

// A broker that may open no more files says so, and goes on when it may again.
TEST_F(StoreBroker, NoDescriptorLeftInTheBroker) {
    const Pages pages(kPages);
    fill_pattern(pages, 1);
    ASSERT_EQ(open(), 0) << text;
    const rlimit before = forbid_files(broker.pid());
    EXPECT_EQ(advise(pages), -EMFILE);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_LIMIT], kPages);
    EXPECT_TRUE(has_pattern(pages, 1));
    store::Connection refused;
    EXPECT_EQ(refused.open(path(), {}), -ECONNRESET);
    ASSERT_EQ(::prlimit(broker.pid(), RLIMIT_NOFILE, &before, nullptr), 0);
    EXPECT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.inserted, kPages);
    EXPECT_TRUE(has_pattern(pages, 1));
}

// What an operator sees of it.
TEST_F(StoreBroker, StatusTellsOfDomains) {
    const Pages first(kPages);
    const Pages second(kPages);
    fill_pattern(first, 1);
    fill_pattern(second, 1);
    ASSERT_EQ(open(), 0) << text;
    ASSERT_EQ(advise(first), 0);
    ASSERT_EQ(advise(second), 0);
    ASSERT_EQ(counts.merged, kPages);
    const std::vector<std::string> where = {"UPM_BACKEND=store", "UPM_SOCKET=" + broker.socket()};
    const Finished done = run({UPM_COMMAND, "status", "--json"}, where);
    ASSERT_EQ(done.status, 0) << done.err;
    const auto status = nlohmann::json::parse(done.out);
    const auto &domain = status["domains"].at("user:" + std::to_string(::geteuid()));
    EXPECT_EQ(domain["clients"], 2) << "this process, and the command itself";
    EXPECT_EQ(domain["segments"], 1);
    EXPECT_EQ(domain["content_bytes"], kPages * page_size());
    EXPECT_EQ(domain["mapped_bytes"], 2 * kPages * page_size());
    EXPECT_EQ(domain["shared_bytes"], kPages * page_size());
    EXPECT_EQ(domain["saved_bytes"], kPages * page_size());
    const Finished table = run({UPM_COMMAND, "status"}, where);
    EXPECT_THAT(table.out, testing::HasSubstr("DOMAIN"));
    EXPECT_THAT(table.out, testing::HasSubstr("400.0 KiB  400.0 KiB"));
}

// As systemd does it: a listening socket as descriptor 3.
class StoreActivated : public StoreTest {
  protected:
    void SetUp() override { (void)broker.stop(SIGTERM); }
    void TearDown() override {
        if (child_ > 0)
            (void)finish(SIGKILL);
    }
    [[nodiscard]] std::string socket() const { return folder_.path() + "/s"; }

    void start(int type, const char *count, bool listening = true) {
        sockaddr_un address{};
        ASSERT_EQ(packet::fill_address(socket(), address), 0);
        const int made = ::socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
        ASSERT_EQ(::bind(made, reinterpret_cast<sockaddr *>(&address), sizeof(address)), 0);
        if (listening) {
            ASSERT_EQ(::listen(made, 8), 0);
        }
        child_ = ::fork();
        if (child_ == 0) {
            ::alarm(60);
            const std::string pid = std::to_string(::getpid());
            (void)::setenv("LISTEN_PID", pid.c_str(), 1);
            (void)::setenv("LISTEN_FDS", count, 1);
            const int far = ::fcntl(made, F_DUPFD, 100); // dup2 to itself would keep O_CLOEXEC
            (void)::dup2(far, 3);
            (void)::close_range(4, ~0U, 0);
            (void)::execl(UPM_UPMD, "upmd", nullptr);
            ::_exit(127);
        }
        (void)::close(made);
    }
    int finish(int signal) {
        int status = -1;
        if (signal != 0)
            (void)::kill(child_, signal);
        (void)::waitpid(child_, &status, 0);
        child_ = -1;
        return status;
    }

    TempDir folder_;
    pid_t child_ = -1;
};

TEST_F(StoreActivated, ServesTheSocketThatItGets) {
    start(SOCK_SEQPACKET, "1");
    use(socket());
    const Pages pages(kPages);
    fill_pattern(pages, 1);
    ASSERT_EQ(open(), 0) << text; // waits in the socket's queue until upmd is there
    EXPECT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.inserted, kPages);
    const int status = finish(SIGTERM);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    EXPECT_EQ(::access(socket().c_str(), F_OK), 0) << "the socket is systemd's";
    EXPECT_TRUE(has_pattern(pages, 1));
}

TEST_F(StoreActivated, RefusesWhatIsNoSuchSocket) {
    for (int round = 0; round < 3; ++round) {
        (void)::unlink(socket().c_str());
        if (round == 0)
            start(SOCK_SEQPACKET, "2");
        else
            start(round == 1 ? SOCK_STREAM : SOCK_SEQPACKET, "1", round == 1);
        const int status = finish(0);
        EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << round << ": " << status;
    }
}

// With systemd's own tool, where that is installed.
TEST_F(StoreActivated, BySystemdSocketActivate) {
    const char *const tool = "/usr/bin/systemd-socket-activate";
    if (::access(tool, X_OK) != 0)
        GTEST_SKIP() << "no " << tool << ": apt-get install systemd";
    child_ = ::fork();
    if (child_ == 0) {
        ::alarm(60);
        (void)::execl(tool, tool, "--seqpacket", "--listen", socket().c_str(), UPM_UPMD, nullptr);
        ::_exit(127);
    }
    // The name is there before the socket listens.
    for (int tries = 0; tries < 1000 && !listens(socket()); ++tries)
        (void)::usleep(5'000);
    use(socket());
    const Pages pages(kPages);
    fill_pattern(pages, 1);
    ASSERT_EQ(open(), 0) << text;
    EXPECT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.inserted, kPages);
    const int status = finish(SIGTERM);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

} // namespace

} // namespace upm::test
