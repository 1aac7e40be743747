// SPDX-License-Identifier: MIT
//
// What loads were too late to share: the broker makes it in the background once a second
// process wants it, and later processes find all of it.
#include "tests/libupm/store/load_fixture.hpp"

#include "libupm/store/client.hpp"

#include <csignal>
#include <string_view>
#include <thread>

namespace upm::test {

namespace {

class StoreLate : public StoreLoad {
  protected:
    // A process that loads the file while the broker is stopped, and stays.
    StayingChild late_process(pid_t broker_pid) {
        return StayingChild(
            [this, broker_pid] {
                StoreBackend mine;
                Reason reason;
                if (mine.open(reason) != 0 || ::kill(broker_pid, SIGSTOP) != 0)
                    return 1;
                const Pages &into = *std::make_unique<Pages>(kPagesOfFile).release(); // it stays
                upm_load_counts sums{};
                const std::int64_t got = load_by(mine, into, sums);
                (void)::kill(broker_pid, SIGCONT);
                if (got != static_cast<std::int64_t>(into.size()) || !has_pattern(into, 7))
                    return 2;
                return sums.copied == into.size() ? 0 : 3;
            },
            kStay);
    }
    std::int64_t load_by(StoreBackend &mine, const Pages &into, upm_load_counts &sums) const {
        return mine.load({.fd = file(),
                          .into = reinterpret_cast<std::byte *>(into.data()),
                          .len = into.size(),
                          .ordinary = true},
                         sums);
    }
    // What a child says; -1: anything else.
    static int percent_of(const std::function<int()> &body) {
        const int percent = in_child(body, kStay);
        return percent <= 100 ? percent : -1;
    }
    // What a further process finds of the file, which has that pattern, in percent: -1 if it
    // has wrong bytes.
    int found(std::uint64_t salt = 7) {
        return percent_of([&] {
            StoreBackend mine;
            Reason reason;
            upm_load_counts sums{};
            const Pages into(kPagesOfFile);
            if (mine.open(reason) != 0 ||
                load_by(mine, into, sums) != static_cast<std::int64_t>(into.size()) ||
                !has_pattern(into, salt))
                return -1;
            return static_cast<int>(sums.shared * 100 / into.size());
        });
    }
    // The same once it is as much as that, however long it takes; the last one.
    int found_at_last(int percent, std::uint64_t salt = 7) {
        int last = found(salt);
        for (int i = 0; i < kTries && last >= 0 && last < percent; ++i) {
            ::usleep(kPauseUs);
            last = found(salt);
        }
        return last;
    }
    // Of all that the broker keeps in this domain, in bytes.
    static std::uint64_t content(const std::string &socket) {
        store::SocketPath path;
        (void)socket.copy(path.text, sizeof(path.text) - 1);
        store::Connection connection;
        EXPECT_EQ(connection.open(path, {}), 0);
        std::vector<std::byte> room(store::kMaxPacket);
        const int got = connection.metrics(room);
        connection.close();
        constexpr std::string_view kName = "\nupmd_domain_content_bytes{";
        const std::string text(reinterpret_cast<const char *>(room.data()),
                               static_cast<std::size_t>(std::max(got, 0)));
        const std::size_t at = text.find(kName);
        EXPECT_NE(at, std::string::npos) << text;
        return at == std::string::npos ? 0 : std::stoull(text.substr(text.find(' ', at) + 1));
    }
    static bool comes_to(const std::string &socket, std::uint64_t bytes) {
        for (int i = 0; i < kTries && content(socket) != bytes; ++i)
            ::usleep(kPauseUs);
        return content(socket) == bytes;
    }
    static constexpr std::uint64_t kSize = kPagesOfFile * 4096UL;

    static constexpr unsigned kStay = 3'000; // seconds

  private:
    static constexpr int kTries = 3'000;
    static constexpr unsigned kPauseUs = 200'000;
};

TEST_F(StoreLate, ThirdProcessFindsAllOfIt) {
    const StayingChild first = late_process(broker.pid());
    ASSERT_EQ(first.result(), 0);
    EXPECT_EQ(content(broker.socket()), 0U);
    StayingChild second = late_process(broker.pid());
    ASSERT_EQ(second.result(), 0);
    EXPECT_GE(found_at_last(97), 97);
    EXPECT_TRUE(comes_to(broker.socket(), kSize)) << "it stays, though nobody maps it";
    second.end();
    EXPECT_TRUE(comes_to(broker.socket(), 0)) << "who asked for it has ended";
}

// Nobody waits for whoever asked: it may be stopped.
TEST_F(StoreLate, ProcessThatIsStopped) {
    StayingChild first = late_process(broker.pid());
    ASSERT_EQ(first.result(), 0);
    ASSERT_EQ(::kill(first.pid(), SIGSTOP), 0);
    StayingChild second = late_process(broker.pid());
    ASSERT_EQ(second.result(), 0);
    ASSERT_EQ(::kill(second.pid(), SIGSTOP), 0);
    EXPECT_GE(found_at_last(97), 97);
    second.end();
    EXPECT_TRUE(comes_to(broker.socket(), 0));
}

// The file may be another one by the time: what counts is what the next process reads.
TEST_F(StoreLate, FileThatChangesMeanwhile) {
    const StayingChild first = late_process(broker.pid());
    const StayingChild second = late_process(broker.pid());
    ASSERT_EQ(first.result() + second.result(), 0);
    const Pages other(kPagesOfFile);
    fill_pattern(other, 8);
    for (std::size_t page = 0; page < kPagesOfFile; page += 2) // half of it at any time
        ASSERT_EQ(
            ::pwrite(file(), other.page(page), page_size(), static_cast<off_t>(page * page_size())),
            static_cast<ssize_t>(page_size()));
    ASSERT_EQ(::pwrite(file(), other.data(), other.size(), 0), static_cast<ssize_t>(other.size()));
    for (int i = 0; i < 20; ++i)
        ASSERT_GE(found(8), 0) << "the bytes of the file, whatever was made";
}

TEST_F(StoreLate, FileThatEndsMeanwhile) {
    const StayingChild first = late_process(broker.pid());
    const StayingChild second = late_process(broker.pid());
    ASSERT_EQ(first.result() + second.result(), 0);
    for (int i = 0; i < 50; ++i) {
        ASSERT_EQ(::ftruncate(file(), i * 4096L), 0);
        ASSERT_EQ(::ftruncate(file(), static_cast<off_t>(kSize)), 0);
    }
    const Pages content(kPagesOfFile);
    fill_pattern(content, 7);
    ASSERT_EQ(::pwrite(file(), content.data(), content.size(), 0),
              static_cast<ssize_t>(content.size()));
    for (int i = 0; i < 20; ++i)
        ASSERT_GE(found(), 0);
}

TEST_F(StoreLate, QuotaIsKept) {
    const BrokerProcess small({"--max", "8"});
    use(small.socket());
    const StayingChild first = late_process(small.pid());
    const StayingChild second = late_process(small.pid());
    ASSERT_EQ(first.result() + second.result(), 0);
    for (int i = 0; i < 30; ++i) {
        EXPECT_LE(content(small.socket()), 8UL << 20U);
        EXPECT_GE(found(), 0);
    }
}

// The whole story, with nothing played: on a machine that has no time, a large file.
TEST_F(StoreLate, LargeFileOnABusyMachine) {
    constexpr std::size_t kLargePages = 65'536;
    const BrokerProcess roomy({"--max", "2048", "--client-quota", "1024"});
    use(roomy.socket());
    const TempDir folder;
    {
        const Pages content(kLargePages);
        fill_pattern(content, 9);
        folder.write("large", {content.data(), content.size()});
    }
    const Fd large(::open((folder.path() + "/large").c_str(), O_RDONLY | O_CLOEXEC));
    const auto load_all = [&](upm_load_counts &sums) {
        static StoreBackend mine; // one for each process
        Reason reason;
        Pages &into = *std::make_unique<Pages>(kLargePages).release();
        return mine.open(reason) == 0 &&
               mine.load({.fd = large.get(),
                          .into = reinterpret_cast<std::byte *>(into.data()),
                          .len = into.size(),
                          .ordinary = true},
                         sums) == static_cast<std::int64_t>(into.size()) &&
               has_pattern(into, 9);
    };
    std::vector<std::unique_ptr<StayingChild>> processes;
    {
        std::vector<std::unique_ptr<StayingChild>> busy;
        for (unsigned i = 0; i < 4 * std::thread::hardware_concurrency(); ++i)
            busy.push_back(std::make_unique<StayingChild>([] {
                if (fork_tied() == 0)
                    for (const volatile bool go = true; go;)
                        ;
                return 0;
            }));
        for (int i = 0; i < 3; ++i) {
            processes.push_back(std::make_unique<StayingChild>(
                [&] {
                    upm_load_counts sums{};
                    return load_all(sums) ? 0 : 1;
                },
                kStay));
            ASSERT_EQ(processes.back()->result(), 0);
        }
    }
    int percent = 0;
    for (int i = 0; i < 1'000 && percent >= 0 && percent < 97; ++i) {
        ::usleep(i == 0 ? 0 : 500'000);
        percent = percent_of([&] {
            upm_load_counts sums{};
            return load_all(sums) ? static_cast<int>(sums.shared * 100 / (kLargePages * 4096)) : -1;
        });
    }
    EXPECT_GE(percent, 97);
}

} // namespace

} // namespace upm::test
