// SPDX-License-Identifier: MIT
#include "libupm/base/broker_socket.hpp"

#include "libupm/base/env.hpp"

#include <cerrno>
#include <cstdlib>
#include <gtest/gtest.h>
#include <string>
#include <unistd.h>

namespace upm::test {

namespace {

class BrokerSocket : public testing::Test {
  protected:
    void SetUp() override { ::unsetenv(env::socket.name); }
    void TearDown() override {
        ::unsetenv(env::socket.name);
        if (::geteuid() != uid_)
            (void)::seteuid(uid_);
    }
    static std::string own() {
        SocketPath path;
        EXPECT_EQ(own_socket(path), 0);
        return path.text;
    }
    static std::string found() {
        SocketPath path;
        EXPECT_EQ(find_socket(path), 0);
        return path.text;
    }

  private:
    uid_t uid_ = ::geteuid();
};

TEST_F(BrokerSocket, IsWhereTheVariableSays) {
    ::setenv(env::socket.name, "/x/y.sock", 1);
    EXPECT_EQ(own(), "/x/y.sock");
    EXPECT_EQ(found(), "/x/y.sock");
}

TEST_F(BrokerSocket, MustFitASocket) {
    ::setenv(env::socket.name, std::string(107, 'x').c_str(), 1);
    EXPECT_EQ(own().size(), 107U);
    ::setenv(env::socket.name, std::string(108, 'x').c_str(), 1);
    SocketPath path;
    EXPECT_EQ(own_socket(path), -ENAMETOOLONG);
    EXPECT_EQ(find_socket(path), -ENAMETOOLONG);
}

TEST_F(BrokerSocket, OfRootIsTheSystems) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "needs root";
    EXPECT_EQ(own(), "/run/upm/upmd.sock");
    EXPECT_EQ(found(), own());
}

// Where a broker of the user would listen, the library looks for it: unless the system
// has one that the user may use.
TEST_F(BrokerSocket, OfAUserIsTheUsersOwn) {
    constexpr uid_t kNobodysNumber = 61'234;
    if (::geteuid() == 0 && ::seteuid(kNobodysNumber) != 0)
        GTEST_SKIP() << "cannot become another user";
    const std::string uid = std::to_string(::geteuid());
    EXPECT_TRUE(own() == "/tmp/upm-" + uid + "/upmd.sock" ||
                own() == "/run/user/" + uid + "/upm/upmd.sock")
        << own();
    // access(2) asks for the real user, who is root in this test.
    if (::access("/run/upm/upmd.sock", W_OK) != 0) {
        EXPECT_EQ(found(), own());
    }
}

} // namespace

} // namespace upm::test
