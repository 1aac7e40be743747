// SPDX-License-Identifier: MIT
#include "tests/cuda-cow/support.hpp"

#include "cuda-cow/core/runtime.hpp"

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <filesystem>
#include <poll.h>
#include <random>
#include <stdexcept>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::cuda::test {

namespace {

template <class Function>
Function control(const char *name) {
    void *const library = ::dlopen(fake_driver(), RTLD_NOW | RTLD_LOCAL);
    auto *const found =
        library == nullptr ? nullptr : reinterpret_cast<Function>(::dlsym(library, name));
    if (found == nullptr)
        throw std::runtime_error(std::string(name) + ": " + ::dlerror());
    return found;
}

} // namespace

const char *fake_driver() {
    const char *const given = ::secure_getenv("UPM_CUDA_DRIVER");
    return given != nullptr ? given : UPM_FAKE_DRIVER;
}

void configure(const std::string &text) {
    if (control<int (*)(const char *)>("upm_fake_configure")(text.c_str()) != 0)
        throw std::runtime_error("the fake does not understand: " + text);
}

upm_fake_stats fake_stats() {
    upm_fake_stats stats = {};
    control<void (*)(upm_fake_stats *)>("upm_fake_get_stats")(&stats);
    return stats;
}

Program::Program(const std::vector<std::string> &arguments,
                 const std::vector<std::string> &environment, rlim_t descriptors) {
    int in[2];
    int out[2];
    if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0)
        throw std::runtime_error("pipe");
    pid_ = ::fork();
    if (pid_ < 0)
        throw std::runtime_error("fork");
    if (pid_ == 0) {
        (void)::dup2(in[0], 0);
        (void)::dup2(out[1], 1);
        for (const std::string &entry : environment)
            (void)::putenv(const_cast<char *>(entry.c_str()));
        if (descriptors != 0) {
            const rlimit limit{descriptors, descriptors};
            (void)::setrlimit(RLIMIT_NOFILE, &limit);
        }
        std::vector<char *> argv;
        for (const std::string &argument : arguments)
            argv.push_back(const_cast<char *>(argument.c_str()));
        argv.push_back(nullptr);
        (void)::execv(argv[0], argv.data());
        ::_exit(127);
    }
    ::close(in[0]);
    ::close(out[1]);
    to_ = in[1];
    from_ = out[0];
    (void)std::signal(SIGPIPE, SIG_IGN);
}

Program::~Program() {
    if (!reaped_) {
        kill();
        (void)wait();
    }
    ::close(to_);
    ::close(from_);
}

void Program::send(const std::string &line) const {
    const std::string text = line + "\n";
    (void)!::write(to_, text.data(), text.size());
}

std::string Program::line() {
    for (;;) {
        const std::size_t end = buffer_.find('\n');
        if (end != std::string::npos) {
            std::string line = buffer_.substr(0, end);
            buffer_.erase(0, end + 1);
            return line;
        }
        pollfd ready{from_, POLLIN, 0};
        if (::poll(&ready, 1, 60000) != 1)
            throw std::runtime_error("no answer within a minute");
        char some[4096];
        const ssize_t got = ::read(from_, some, sizeof some);
        if (got <= 0)
            return "";
        buffer_.append(some, static_cast<std::size_t>(got));
    }
}

std::string Program::ask(const std::string &request) {
    send(request);
    return line();
}

void Program::kill() const {
    (void)::kill(pid_, SIGKILL);
}

int Program::wait() {
    if (!reaped_) {
        int status = 0;
        (void)::waitpid(pid_, &status, 0);
        reaped_ = true;
        status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    return status_;
}

Broker::Broker(const std::vector<std::string> &options) : options_(options) {
    folder_ = std::filesystem::temp_directory_path() / "upm-cuda-XXXXXX";
    if (::mkdtemp(folder_.data()) == nullptr)
        throw std::runtime_error("mkdtemp " + folder_);
    socket_ = folder_ + "/broker.sock";
    start();
}

void Broker::start() {
    std::vector<std::string> arguments{UPM_CUDAD, "--socket", socket_};
    arguments.insert(arguments.end(), options_.begin(), options_.end());
    program_ = std::make_unique<Program>(arguments);
    if (program_->line().find("listening") == std::string::npos)
        throw std::runtime_error("upm-cudad does not start");
}

void Broker::kill() {
    program_->kill();
    (void)program_->wait();
}

Broker::~Broker() {
    program_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
}

std::unique_ptr<Program> start_actor(const std::string &socket, const std::string &fake,
                                     const std::vector<std::string> &environment,
                                     rlim_t descriptors) {
    std::vector<std::string> all{"UPM_CUDA_DRIVER=" UPM_FAKE_DRIVER,
                                 "UPM_CUDA_FAKE=granularity=" + std::to_string(kUnit) + " " + fake,
                                 "UPM_CUDA_SOCKET=" + socket};
    all.insert(all.end(), environment.begin(), environment.end());
    return std::make_unique<Program>(std::vector<std::string>{UPM_CUDA_ACTOR}, all, descriptors);
}

Runtime open_fake(const std::string &socket) {
    // Each time: other tests of this process want another one.
    configure("granularity=" + std::to_string(kUnit));
    Result<Runtime> opened = Runtime::open({.driver = fake_driver(), .socket = socket});
    if (!opened)
        throw std::runtime_error(last_error());
    return std::move(*opened);
}

std::vector<unsigned char> pattern(std::size_t bytes, unsigned seed) {
    std::mt19937_64 random(seed);
    std::vector<unsigned char> made(bytes);
    for (std::size_t i = 0; i + 8 <= bytes; i += 8) {
        const std::uint64_t value = random();
        std::memcpy(&made[i], &value, 8);
    }
    return made;
}

void store(const Runtime &runtime, Address to, const std::vector<unsigned char> &bytes) {
    const CurrentContext current(*runtime.shared());
    const abi::Status status = runtime.shared()->api.memcpy_htod(to, bytes.data(), bytes.size());
    if (status != abi::kSuccess)
        throw std::runtime_error("cuMemcpyHtoD: " + std::to_string(status));
}

std::vector<unsigned char> load(const Runtime &runtime, Address from, std::size_t bytes) {
    const CurrentContext current(*runtime.shared());
    std::vector<unsigned char> made(bytes);
    const abi::Status status = runtime.shared()->api.memcpy_dtoh(made.data(), from, bytes);
    if (status != abi::kSuccess)
        throw std::runtime_error("cuMemcpyDtoH: " + std::to_string(status));
    return made;
}

} // namespace upm::cuda::test
