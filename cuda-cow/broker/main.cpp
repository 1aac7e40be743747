// SPDX-License-Identifier: MIT
//
// upm-cudad: keeps the descriptors of shared GPU extents and gives them to the
// processes of the same domain. Needs no GPU and no CUDA itself.
#include "cuda-cow/broker/server.hpp"
#include "tools/broker/listener.hpp"
#include "tools/common/command_line.hpp"
#include "tools/common/errors.hpp"

#include <algorithm>
#include <cstdio>
#include <exception>

namespace {

using namespace upm::cuda;

cxxopts::Options description() {
    cxxopts::Options options("upm-cudad",
                             "Shares extents of GPU memory among processes of one domain; see "
                             "upm-cudad(8).\n");
    options.custom_help("[OPTION...]");
    const auto number = [](const char *fallback) {
        return cxxopts::value<std::string>()->default_value(fallback);
    };
    options.add_options()                                                                  //
        ("socket", "listen here (default: UPM_CUDA_SOCKET, else as upm-cudad(8) says)",    //
         cxxopts::value<std::string>(), "PATH")                                            //
        ("any-user",                                                                       //
         "let every user connect; each uid stays a domain of its own, with half of the "   //
         "extents at most")                                                                //
        ("max-extents", "extents to know at most (a descriptor each)", number("65536"),    //
         "N")                                                                              //
        ("max-domain-bytes", "GPU memory that a domain may publish, 0: no limit",          //
         number("0"), "BYTES")                                                             //
        ("keep-bytes", "GPU memory to keep although nobody uses it", number("0"), "BYTES") //
        ("version", "print the version")("h,help", "this text");
    return options;
}

int serve(const upm::tool::CommandLine &options) {
    const auto text = [&](const char *name) { return options.parsed()[name].as<std::string>(); };
    constexpr std::uint64_t kMostExtents = 1U << 30U;
    // Each extent is an open file: half of them, so that members can connect.
    broker::Limits limits{
        .extents = upm::tool::number_of_option("max-extents", text("max-extents"), 1, kMostExtents),
        .domain_bytes = upm::tool::bytes_of_option("max-domain-bytes", text("max-domain-bytes"), 0),
        .keep_bytes = upm::tool::bytes_of_option("keep-bytes", text("keep-bytes"), 0)};
    limits.extents = std::min<std::size_t>(limits.extents, upm::broker::raise_file_limit() / 2);
    upm::broker::block_signals();
    upm::broker::Listener listener;
    std::string place = "the socket that systemd passed on";
    const bool from_systemd = listener.take_from_systemd();
    // No user takes all where others may come.
    if (from_systemd || options.has("any-user"))
        limits.user_extents = std::max<std::size_t>(limits.extents / 2, 1);
    if (!from_systemd) {
        place = options.has("socket") ? options.text("socket") : broker::socket_path();
        if (!listener.make(place, options.has("any-user") ? 0666 : 0600)) {
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

int run(int argc, char **argv) {
    cxxopts::Options known = description();
    const upm::tool::CommandLine given(known, argc, argv);
    if (given.has("help")) {
        (void)std::printf("%s", known.help().c_str());
        return 0;
    }
    if (given.has("version")) {
        (void)std::printf("upm-cudad %s\n", UPM_VERSION);
        return 0;
    }
    return serve(given);
}

} // namespace

int main(int argc, char **argv) {
    try {
        return run(argc, argv);
    } catch (const upm::tool::UsageError &error) {
        (void)std::fprintf(stderr, "upm-cudad: %s\n", error.what());
        return 2;
    } catch (const std::exception &error) {
        (void)std::fprintf(stderr, "upm-cudad: %s\n", error.what());
        return 1;
    }
}
