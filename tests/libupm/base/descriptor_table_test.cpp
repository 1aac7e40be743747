// SPDX-License-Identifier: MIT
//
// A thread that has its own descriptors, and what others notice of that.
#include "libupm/base/descriptor_table.hpp"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <mqueue.h>
#include <string>
#include <sys/eventfd.h>
#include <thread>
#include <unistd.h>

namespace upm {
namespace {

template <class Function>
void in_thread(Function function) {
    std::thread(function).join();
}

TEST(DescriptorTable, IsEmpty) {
    int ends[2] = {-1, -1};
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    in_thread([&] {
        EXPECT_EQ(descriptor_table(), 0U);
        ASSERT_TRUE(take_own_table());
        EXPECT_EQ(descriptor_table(), 1U);
        EXPECT_EQ(::fcntl(ends[0], F_GETFD), -1);
        EXPECT_EQ(::write(STDERR_FILENO, "lost", 4), -1) << "goes to nobody";
        const int fd = ::eventfd(0, EFD_CLOEXEC);
        EXPECT_EQ(fd, STDERR_FILENO + 1);
        EXPECT_TRUE(take_own_table()) << "once more, which is nothing";
        EXPECT_NE(::fcntl(fd, F_GETFD), -1);
    });
    EXPECT_EQ(descriptor_table(), 0U);
    EXPECT_NE(::fcntl(ends[0], F_GETFD), -1);
    ::close(ends[0]);
    ::close(ends[1]);
}

// Whoever reads from a pipe waits until all have closed its other end.
TEST(DescriptorTable, KeepsNothingOpen) {
    int ends[2] = {-1, -1};
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    std::atomic<int> step{0};
    std::thread other([&] {
        EXPECT_TRUE(take_own_table());
        step = 1;
        step.notify_all();
        step.wait(1);
    });
    step.wait(0);
    ::close(ends[1]);
    char byte = 0;
    EXPECT_EQ(::read(ends[0], &byte, 1), 0);
    step = 2;
    step.notify_all();
    other.join();
    ::close(ends[0]);
}

TEST(DescriptorTable, LocksStay) {
    char name[] = "/tmp/upm-lock-XXXXXX";
    const int fd = ::mkstemp(name);
    ASSERT_GE(fd, 0);
    struct flock lock {};
    lock.l_type = F_WRLCK;
    ASSERT_EQ(::fcntl(fd, F_SETLK, &lock), 0);
    in_thread([&] {
        ASSERT_TRUE(take_own_table());
        const int again = ::open(name, O_RDONLY | O_CLOEXEC);
        EXPECT_GE(again, 0);
        ::close(again);
    });
    struct flock other {};
    other.l_type = F_WRLCK;
    EXPECT_EQ(::fcntl(fd, F_OFD_GETLK, &other), 0);
    EXPECT_EQ(other.l_type, F_WRLCK) << "the process's own";
    ::close(fd);
    ::unlink(name);
}

// A queue forgets whom it is to tell when the process closes any descriptor of it.
TEST(DescriptorTable, IsNotTakenWhileThereIsAQueue) {
    const std::string name = "/upm-" + std::to_string(::getpid());
    const mqd_t queue = ::mq_open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600, nullptr);
    if (queue < 0)
        GTEST_SKIP() << "no queues here: " << std::strerror(errno);
    (void)::mq_unlink(name.c_str());
    sigevent event{};
    event.sigev_notify = SIGEV_NONE;
    ASSERT_EQ(::mq_notify(queue, &event), 0);
    in_thread([&] {
        EXPECT_FALSE(take_own_table());
        EXPECT_EQ(descriptor_table(), 0U);
        EXPECT_NE(::fcntl(queue, F_GETFD), -1);
    });
    EXPECT_EQ(::mq_notify(queue, &event), -1) << "it still knows";
    EXPECT_EQ(errno, EBUSY);
    ::close(queue);
    in_thread([] { EXPECT_TRUE(take_own_table()); });
}

// Of the kinds of files that are not known to take no notice of a close, the one that any user
// can open.
TEST(DescriptorTable, IsNotTakenWhileAFileMayNoticeTheClose) {
    const int reads = ::open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
    ASSERT_GE(reads, 0);
    in_thread([] { EXPECT_TRUE(take_own_table()); });
    const int writes = ::open("/proc/self/comm", O_RDWR | O_CLOEXEC);
    ASSERT_GE(writes, 0);
    in_thread([] { EXPECT_FALSE(take_own_table()); });
    ::close(writes);
    ::close(reads);
    in_thread([] { EXPECT_TRUE(take_own_table()); });
}

} // namespace
} // namespace upm
