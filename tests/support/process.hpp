// SPDX-License-Identifier: MIT
//
// Child processes. in_child() in support.hpp runs one function in a child and waits for
// its end, run() a program; what stays is a Process.
#ifndef UPM_TESTS_SUPPORT_PROCESS_HPP
#define UPM_TESTS_SUPPORT_PROCESS_HPP

#include "tests/support/file.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>

#include <sys/types.h>

namespace upm::test {

// So long may one step take before the test gives up on it. Far more than any step
// needs, since the clock of an emulated machine may run much too fast.
inline constexpr int kPatienceMs = 1'800'000;

// A child that runs functions of the test, one after the other. It is forked and never
// executes another program, so that a function's address means the same on both sides.
class Process {
  public:
    // `prepare` runs first in the child, for example to drop privileges.
    explicit Process(const std::function<void()> &prepare = {});
    // Kills the child and waits for it.
    ~Process();
    Process(Process &&other) noexcept;
    Process &operator=(Process &&other) noexcept;
    Process(const Process &) = delete;
    Process &operator=(const Process &) = delete;

    [[nodiscard]] pid_t pid() const { return pid_; }

    // Runs `function` in the child and returns what it returned. Arguments and
    // result are copied as bytes. Throws if the child died; expectations that
    // failed in the child fail the test.
    template <typename R, typename... A>
    R call(R (*function)(A...), std::type_identity_t<A>... arguments) {
        start(function, arguments...);
        return finish<R>();
    }

    // The same in two steps, so that several children run at once.
    template <typename R, typename... A>
    void start(R (*function)(A...), std::type_identity_t<A>... arguments) {
        static_assert(sizeof...(A) <= kArguments);
        Request request{};
        static_assert(sizeof(function) == sizeof(request.function));
        std::memcpy(&request.function, &function, sizeof(function));
        request.run = &run<R, A...>;
        std::size_t i = 0;
        (pack(request.arguments[i++], arguments), ...);
        send(request);
    }

    template <typename R>
    R finish() {
        const Reply reply = receive();
        if constexpr (!std::is_void_v<R>) {
            R result;
            std::memcpy(&result, reply.bytes.data(), sizeof(result));
            return result;
        }
    }

    // Lets the child end by itself, and returns its wait status.
    int end();
    // SIGKILL, and wait.
    void kill();
    // waitpid(2) with patience; returns the wait status.
    int wait();

  private:
    static constexpr std::size_t kArguments = 6;
    static constexpr std::size_t kResult = 512;

    struct Reply {
        bool failed = false;
        std::array<std::byte, kResult> bytes{};
    };
    struct Request {
        void (*run)(const Request &request, Reply &reply) = nullptr;
        std::uint64_t function = 0;
        std::array<std::uint64_t, kArguments> arguments{};
    };

    template <typename T>
    static void pack(std::uint64_t &slot, const T &value) {
        static_assert(sizeof(T) <= sizeof(slot) && std::is_trivially_copyable_v<T>);
        std::memcpy(&slot, &value, sizeof(value));
    }
    template <typename T>
    static T unpack(std::uint64_t slot) {
        T value;
        std::memcpy(&value, &slot, sizeof(value));
        return value;
    }

    template <typename R, typename... A>
    static void run(const Request &request, Reply &reply) {
        apply<R, A...>(request, reply, std::index_sequence_for<A...>{});
    }
    template <typename R, typename... A, std::size_t... I>
    static void apply(const Request &request, Reply &reply, std::index_sequence<I...>) {
        R (*function)(A...) = nullptr;
        std::memcpy(&function, &request.function, sizeof(request.function));
        if constexpr (std::is_void_v<R>) {
            function(unpack<A>(request.arguments[I])...);
        } else {
            static_assert(sizeof(R) <= kResult && std::is_trivially_copyable_v<R>);
            const R result = function(unpack<A>(request.arguments[I])...);
            std::memcpy(reply.bytes.data(), &result, sizeof(result));
        }
    }

    [[noreturn]] static void serve(int socket, const std::function<void()> &prepare);
    void send(const Request &request);
    Reply receive();

    pid_t pid_ = -1;
    bool failed_ = false; // an expectation in the child, and it was said
    Fd socket_;
};

// A child that does something and then stays, as a process that goes on using what it
// has: the broker keeps nothing that nobody maps.
class StayingChild {
  public:
    // Post: `body` has run there, and result() is what it returned; -1: it died.
    explicit StayingChild(const std::function<int()> &body, unsigned seconds = 100);
    [[nodiscard]] int result() const { return result_; }
    [[nodiscard]] pid_t pid() const { return process_.pid(); }
    void end() {
        if (process_.pid() > 0)
            process_.kill();
    }

  private:
    Process process_;
    int result_ = -1;
};

// fork(2), whose child is killed when the thread that made it ends, however that ends. A
// child that lives on would keep what it has inherited: memory, and /dev/upm.
pid_t fork_tied();

// Ends a child that a test forked by itself; gives up after kPatienceMs.
int wait_for(pid_t pid);

// Descriptors between processes, over a Unix socket.
void send_fd(int socket, int fd);
Fd receive_fd(int socket);

} // namespace upm::test

#endif // UPM_TESTS_SUPPORT_PROCESS_HPP
