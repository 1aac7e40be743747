// SPDX-License-Identifier: MIT
//
// upm-cudad: keeps the descriptors of shared GPU extents and gives them to the
// processes of the same domain. Needs no GPU and no CUDA itself.
#include "cuda-cow/broker/server.hpp"
#include "tools/broker/listener.hpp"

#include <algorithm>
#include <cstdio>
#include <cxxopts.hpp>
#include <exception>

namespace {

using namespace upm::cuda;

int serve(const cxxopts::ParseResult &options) {
    // Each extent is an open file: half of them, so that members can connect.
    broker::Limits limits{.extents = options["max-extents"].as<std::size_t>(),
                          .domain_bytes = options["max-domain-bytes"].as<std::uint64_t>(),
                          .keep_bytes = options["keep-bytes"].as<std::uint64_t>()};
    limits.extents = std::min<std::size_t>(limits.extents, upm::broker::raise_file_limit() / 2);
    upm::broker::block_signals();
    upm::broker::Listener listener;
    std::string place = "the socket that systemd passed on";
    const bool from_systemd = listener.take_from_systemd();
    // No user takes all where others may come.
    if (from_systemd || options.count("any-user") != 0)
        limits.user_extents = std::max<std::size_t>(limits.extents / 2, 1);
    if (!from_systemd) {
        place = options.count("socket") != 0 ? options["socket"].as<std::string>()
                                             : broker::socket_path();
        if (!listener.make(place, options.count("any-user") != 0 ? 0666 : 0600)) {
            (void)std::fprintf(stderr, "upm-cudad: a broker runs at %s already\n", place.c_str());
            return 1;
        }
    }
    broker::Server server(listener.take(), limits);
    (void)std::printf("upm-cudad: listening on %s, for %zu extents at most\n", place.c_str(),
                      limits.extents);
    (void)std::fflush(stdout);
    server.run();
    return 0;
}

} // namespace

int main(int argc, char **argv) { // NOLINT(bugprone-exception-escape): of cxxopts itself
    cxxopts::Options options("upm-cudad",
                             "Shares extents of GPU memory among processes of one domain.");
    // clang-format off
    options.add_options()
        ("socket", "path of the socket (UPM_CUDA_SOCKET)", cxxopts::value<std::string>())
        ("any-user", "let every user connect; each uid stays a domain of its own, with half of the extents "
         "at most")
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
    } catch (const cxxopts::exceptions::exception &error) {
        (void)std::fprintf(stderr, "upm-cudad: %s\n", error.what());
        return 2;
    } catch (const std::exception &error) {
        (void)std::fprintf(stderr, "upm-cudad: %s\n", error.what());
        return 1;
    }
}
