// SPDX-License-Identifier: MIT
//
// A process's side of the broker, against brokers that are not what they should be.
#include "cuda-cow/broker/client.hpp"
#include "tests/cuda-cow/support.hpp"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace upm::cuda::test {

namespace {

using broker::Client;
using broker::Message;
using broker::Type;

// A socket that listens in a folder of its own.
struct Place {
    Place() {
        folder = std::filesystem::temp_directory_path() / "upm-cuda-XXXXXX";
        EXPECT_NE(::mkdtemp(folder.data()), nullptr);
        path = folder + "/s";
        path.copy(address.sun_path, sizeof address.sun_path - 1);
    }
    Place(const Place &) = delete;
    Place &operator=(const Place &) = delete;
    ~Place() {
        std::error_code ignored;
        std::filesystem::remove_all(folder, ignored);
    }
    [[nodiscard]] int listen() const {
        const int made = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (::bind(made, reinterpret_cast<const sockaddr *>(&address), sizeof address) != 0 ||
            ::listen(made, 8) != 0) {
            ::close(made);
            return -1;
        }
        return made;
    }
    std::string folder;
    std::string path;
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
};

// A broker that answers the first packet of each connection as it is told, and takes no
// second one.
class Played {
  public:
    explicit Played(const Message &answer) : listener_(place_.listen()), answer_(answer) {
        thread_ = std::thread([this] {
            for (;;) {
                const int client = ::accept(listener_, nullptr, nullptr);
                if (client < 0)
                    return;
                Message request;
                while (broker::receive_message(client, request) == 0) {
                    if (request.header.type != Type::kHello)
                        break;
                    ++greeted;
                    (void)broker::send_message(client, answer_);
                }
                ::close(client);
            }
        });
    }
    Played(const Played &) = delete;
    Played &operator=(const Played &) = delete;
    ~Played() {
        (void)::shutdown(listener_, SHUT_RDWR);
        thread_.join();
        ::close(listener_);
    }
    [[nodiscard]] const std::string &path() const { return place_.path; }
    std::atomic<unsigned> greeted{0};

  private:
    Place place_;
    int listener_;
    Message answer_;
    std::thread thread_;
};

// Every call says so, not only the first: the others would talk to nobody.
TEST(Client, BrokerOfAnotherVersion) {
    Message answer;
    answer.header.type = Type::kWelcome;
    answer.header.error = EPROTONOSUPPORT;
    Played other(answer);
    Client client({.socket = other.path()});
    broker::Welcome welcome;
    EXPECT_EQ(client.welcome(welcome), EPROTONOSUPPORT);
    EXPECT_EQ(client.welcome(welcome), EPROTONOSUPPORT);
    std::vector<broker::Found> found;
    EXPECT_EQ(client.find({{4096, 1, 1}}, found), EPROTONOSUPPORT);
    EXPECT_EQ(client.live_connection(), 0U) << "what it had not joined holds no lease";
    EXPECT_EQ(other.greeted, 3U);
}

// Descriptors that nobody asked for are closed.
TEST(Client, KeepsNoUnexpectedDescriptors) {
    Message answer;
    answer.header.type = Type::kWelcome;
    answer.append(broker::Welcome{});
    for (int &fd : answer.fds)
        fd = 0;
    answer.fd_count = 8;
    Played other(answer);
    const auto open_files = [] {
        using Files = std::filesystem::directory_iterator;
        return std::distance(Files("/proc/self/fd"), Files());
    };
    const auto before = open_files();
    {
        Client client({.socket = other.path()});
        broker::Welcome welcome;
        EXPECT_EQ(client.welcome(welcome), 0);
        EXPECT_LE(open_files(), before + 2) << "both ends of the connection";
    }
}

// A write gives leases back: it waits neither for a broker that reads nothing, nor for
// another thread that waits for an answer. Nothing is lost by it.
TEST(Client, ReleaseNeverWaits) {
    const Broker broker;
    Client client({.socket = broker.socket(), .timeout_ms = 60000});
    const auto now = [&] {
        broker::Counters counters;
        EXPECT_EQ(client.counters(counters), 0) << last_error();
        return counters;
    };
    std::vector<broker::Found> found;
    ASSERT_EQ(client.find({{4096, 1, 1}}, found), 0);
    const int memory = ::memfd_create("extent", MFD_CLOEXEC);
    ASSERT_EQ(::ftruncate(memory, 4096), 0);
    bool taken = false;
    ASSERT_EQ(client.publish({found[0].lease}, {memory}, taken), 0) << last_error();
    ::close(memory);
    ASSERT_EQ(now().leases, 1U);
    const std::uint64_t connection = client.live_connection();
    ASSERT_EQ(::kill(broker.pid(), SIGSTOP), 0);
    std::atomic<bool> over{false};
    std::thread other([&] {
        (void)now();
        over = true;
    });
    // More than the socket takes: ids that are nobody's, and at last the one that counts.
    for (broker::Id id = 1000; id < 6000; ++id)
        client.release({{connection, id}});
    client.release({found[0].lease});
    EXPECT_FALSE(over);
    ASSERT_EQ(::kill(broker.pid(), SIGCONT), 0);
    other.join();
    EXPECT_EQ(now().leases, 0U);
    EXPECT_EQ(client.live_connection(), connection) << "it was not given up";
}

// Somebody else's socket in our place gets no packet, and so no memory.
TEST(Client, AnotherUsersBroker) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "needs root, to be another user";
    const Place place;
    ASSERT_EQ(::chmod(place.folder.c_str(), 0777), 0);
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(60);
        const int listener = ::setuid(65534) == 0 ? place.listen() : -1;
        if (listener < 0 || ::write(ends[1], "l", 1) != 1)
            ::_exit(2);
        const int client = ::accept(listener, nullptr, nullptr);
        char byte = 0;
        ::_exit(::recv(client, &byte, 1, 0) == 0 ? 0 : 1);
    }
    ::close(ends[1]);
    char word = 0;
    ASSERT_EQ(::read(ends[0], &word, 1), 1);
    ::close(ends[0]);
    {
        Client client({.socket = place.path});
        broker::Welcome welcome;
        EXPECT_EQ(client.welcome(welcome), EACCES);
        EXPECT_THAT(last_error(), testing::HasSubstr("another user"));
    }
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0) << "it received something";
}

} // namespace

} // namespace upm::cuda::test
