// SPDX-License-Identifier: MIT
//
// What the tests of cuda-cow share: the fake driver and its controls, a broker of
// the test's own, and other processes to share with (actor.cpp).
#ifndef UPM_TESTS_CUDA_COW_SUPPORT_HPP
#define UPM_TESTS_CUDA_COW_SUPPORT_HPP

#include "cuda-cow/driver/driver.hpp"
#include "cuda-cow/fake/control.hpp"

#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <sys/resource.h>
#include <sys/types.h>
#include <upm/cuda.hpp>
#include <vector>

namespace upm::cuda::test {

inline constexpr std::size_t kUnit = 65536; // granularity of the fake in most tests

// The fake: of this build, or what UPM_CUDA_DRIVER names, in a folder that was moved.
const char *fake_driver();

// The controls of the fake that is loaded in this process.
void configure(const std::string &text);
upm_fake_stats fake_stats();

// A program that runs beside the test; killed at the end if it still runs.
class Program {
  public:
    Program(const std::vector<std::string> &arguments,
            const std::vector<std::string> &environment = {}, rlim_t descriptors = 0);
    Program(const Program &) = delete;
    Program &operator=(const Program &) = delete;
    ~Program();

    void send(const std::string &line) const;
    // The next line, without its end; "" once the program is gone.
    std::string line();
    // send() and line().
    std::string ask(const std::string &request);
    void kill() const;
    // Exit status, or 128 + the signal.
    int wait();
    [[nodiscard]] pid_t pid() const { return pid_; }

  private:
    pid_t pid_ = -1;
    int to_ = -1;
    int from_ = -1;
    std::string buffer_;
    bool reaped_ = false;
    int status_ = -1;
};

// upm-cudad on a socket in a folder of its own.
class Broker {
  public:
    explicit Broker(const std::vector<std::string> &options = {});
    Broker(const Broker &) = delete;
    Broker &operator=(const Broker &) = delete;
    ~Broker();
    [[nodiscard]] const std::string &socket() const { return socket_; }
    [[nodiscard]] pid_t pid() const { return program_->pid(); }
    void kill();
    void start();

  private:
    std::vector<std::string> options_;
    std::string folder_;
    std::string socket_;
    std::unique_ptr<Program> program_;
};

// Starts the actor on a broker; `fake` are more words of UPM_CUDA_FAKE.
std::unique_ptr<Program> start_actor(const std::string &socket, const std::string &fake = "",
                                     const std::vector<std::string> &environment = {},
                                     rlim_t descriptors = 0);

// A runtime on the fake, in this process.
Runtime open_fake(const std::string &socket);

std::vector<unsigned char> pattern(std::size_t bytes, unsigned seed);
void store(const Runtime &runtime, Address to, const std::vector<unsigned char> &bytes);
std::vector<unsigned char> load(const Runtime &runtime, Address from, std::size_t bytes);

} // namespace upm::cuda::test

#endif // UPM_TESTS_CUDA_COW_SUPPORT_HPP
