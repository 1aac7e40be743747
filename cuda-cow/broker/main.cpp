// SPDX-License-Identifier: MIT
//
// upm-cudad: keeps the descriptors of shared GPU extents and gives them to the
// processes of the same domain. Needs no GPU and no CUDA itself.
#include "cuda-cow/broker/server.hpp"
#include "cuda-cow/env.hpp"

#include <csignal>
#include <cstdio>
#include <cstring>
#include <cxxopts.hpp>
#include <sys/signalfd.h>
#include <unistd.h>

namespace {

int stop_signals() {
    sigset_t signals;
    (void)::sigemptyset(&signals);
    (void)::sigaddset(&signals, SIGTERM);
    (void)::sigaddset(&signals, SIGINT);
    (void)::sigprocmask(SIG_BLOCK, &signals, nullptr);
    return ::signalfd(-1, &signals, SFD_CLOEXEC);
}

int serve(const cxxopts::ParseResult &options) {
    using namespace upm::cuda;
    broker::Server server({.extents = options["max-extents"].as<std::size_t>(),
                           .domain_bytes = options["max-domain-bytes"].as<std::uint64_t>(),
                           .keep_bytes = options["keep-bytes"].as<std::uint64_t>()});
    const std::string path =
        options.count("socket") != 0 ? options["socket"].as<std::string>() : env::socket_path();
    const int stop = stop_signals();
    if (const int error = server.listen(path, options.count("any-user") != 0 ? 0666 : 0600);
        error != 0) {
        (void)std::fprintf(stderr, "upm-cudad: cannot listen on %s: %s\n", path.c_str(),
                           std::strerror(error));
        return 1;
    }
    (void)std::printf("upm-cudad: listening on %s\n", path.c_str());
    (void)std::fflush(stdout);
    if (const int error = server.run(stop); error != 0) {
        (void)std::fprintf(stderr, "upm-cudad: poll: %s\n", std::strerror(error));
        return 1;
    }
    return 0;
}

} // namespace

int main(int argc, char **argv) { // NOLINT(bugprone-exception-escape): of cxxopts itself
    cxxopts::Options options("upm-cudad",
                             "Shares extents of GPU memory among processes of one domain.");
    // clang-format off
    options.add_options()
        ("socket", "path of the socket (UPM_CUDA_SOCKET)", cxxopts::value<std::string>())
        ("any-user", "let every user connect; each uid stays a domain of its own")
        ("max-extents", "extents to know at most (a descriptor each)",
         cxxopts::value<std::size_t>()->default_value("65536"))
        ("max-domain-bytes", "GPU memory that a domain may publish, 0: no limit",
         cxxopts::value<std::uint64_t>()->default_value("0"))
        ("keep-bytes", "GPU memory to keep although nobody uses it",
         cxxopts::value<std::uint64_t>()->default_value("0"))
        ("help", "this text");
    // clang-format on
    try {
        const cxxopts::ParseResult parsed = options.parse(argc, argv);
        if (parsed.count("help") != 0) {
            (void)std::printf("%s\n", options.help().c_str());
            return 0;
        }
        if (!parsed.unmatched().empty()) {
            (void)std::fprintf(stderr, "upm-cudad: unexpected '%s'\n",
                               parsed.unmatched().front().c_str());
            return 2;
        }
        return serve(parsed);
    } catch (const std::exception &error) {
        (void)std::fprintf(stderr, "upm-cudad: %s\n", error.what());
        return 2;
    }
}
