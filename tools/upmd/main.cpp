// SPDX-License-Identifier: MIT
//
// upmd: the broker of libupm's backend store; see upmd(8).
#include "libupm/base/broker_socket.hpp"
#include "libupm/base/system.hpp"
#include "libupm/store/wire.hpp"
#include "tools/broker/listener.hpp"
#include "tools/broker/packet_server.hpp"
#include "tools/common/command_line.hpp"
#include "tools/common/errors.hpp"
#include "tools/common/memory.hpp"
#include "tools/common/text.hpp"
#include "tools/upmd/server.hpp"
#include "tools/upmd/surroundings.hpp"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fmt/format.h>
#include <optional>
#include <unistd.h>

namespace upm::upmd {

namespace {

constexpr std::uint64_t kMib = 1024UL * 1024;

struct Options {
    std::string socket;
    unsigned mode = 0600;
    bool on_demand = false;
    // MiB; nothing: a share of what is above it.
    std::optional<std::uint64_t> quota;
    std::optional<std::uint64_t> client_quota;
    std::optional<std::uint64_t> seeds;
    Settings settings;
};

// One user of several gets so much of everything.
constexpr std::uint64_t kUserShare = 4;

unsigned parse_mode(const std::string &text) {
    unsigned mode = 0;
    const char *const end = text.data() + text.size();
    constexpr int kOctal = 8;
    const auto [rest, error] = std::from_chars(text.data(), end, mode, kOctal);
    if (error != std::errc{} || rest != end || mode > 0777)
        throw tool::UsageError("--mode takes an octal mode as of chmod, not '" +
                               tool::printable(text) + "'");
    return mode;
}

cxxopts::Options description() {
    cxxopts::Options options("upmd", "Broker of libupm's backend store; see upmd(8).\n");
    options.custom_help("[OPTION...]");
    const std::string most = std::to_string(tool::default_broker_limit() / kMib);
    options.add_options()                                                                      //
        ("socket", "listen here (default: UPM_SOCKET, else as upmd(8) says)",                  //
         cxxopts::value<std::string>(), "PATH")                                                //
        ("mode", "of the socket; 0666 serves other users as well",                             //
         cxxopts::value<std::string>()->default_value("0600"), "MODE")                         //
        ("max", "MiB that all users may have published together",                              //
         cxxopts::value<std::string>()->default_value(most), "MIB")                            //
        ("quota", "MiB of one user (default: all, or a quarter if there may be others)",       //
         cxxopts::value<std::string>(), "MIB")                                                 //
        ("client-quota", "MiB of one process (default: half of its user's)",                   //
         cxxopts::value<std::string>(), "MIB")                                                 //
        ("seeds", "MiB that seeds of one user may keep (default: half of its quota; 0: none)", //
         cxxopts::value<std::string>(), "MIB")                                                 //
        ("expire", "seconds that content is kept which several processes used",                //
         cxxopts::value<std::string>()->default_value("0"), "S")                               //
        ("reservation", "ms in which a client must publish what it has reserved",              //
         cxxopts::value<std::string>()->default_value("1000"), "MS")                           //
        ("start-below-free", "share new content only while less of the memory is free",        //
         cxxopts::value<std::string>()->default_value("100"), "PERCENT")                       //
        ("idle-exit", "end after so many seconds without a client or a segment; 0: never",     //
         cxxopts::value<std::string>()->default_value("0"), "S")                               //
        ("metrics", "write metrics into this file every 10 s, in Prometheus' text format",     //
         cxxopts::value<std::string>()->default_value(""), "FILE")                             //
        ("on-demand", "as started by the library: ends when idle for 60 s, says nothing")      //
        ("check", "say what is wrong with the other options, and end")                         //
        ("version", "print the version")("h,help", "this text");
    return options;
}

// What fits into 63 bits of bytes, and of ms.
constexpr std::uint64_t kMostMib = static_cast<std::uint64_t>(INT64_MAX) / kMib;
constexpr std::uint64_t kMostSeconds = 1'000'000'000;

// Those with a default, too.
std::uint64_t number(const tool::CommandLine &given, const char *name, std::uint64_t least,
                     std::uint64_t most) {
    return tool::number_of_option(name, given.parsed()[name].as<std::string>(), least, most);
}

Options parse(const tool::CommandLine &given) {
    constexpr std::uint64_t kMs = 1000;
    Options options;
    options.socket = given.text("socket");
    if (given.has("socket") && options.socket.empty())
        throw tool::UsageError("--socket takes a path, not ''");
    options.mode = parse_mode(given.parsed()["mode"].as<std::string>());
    options.on_demand = given.has("on-demand");
    Settings &settings = options.settings;
    const auto optional = [&](const char *name) {
        return given.has(name) ? std::optional(number(given, name, 0, kMostMib)) : std::nullopt;
    };
    options.quota = optional("quota");
    options.client_quota = optional("client-quota");
    options.seeds = optional("seeds");
    settings.limits.max_pages = number(given, "max", 0, kMostMib) * kMib / page_size();
    settings.limits.expire_ms = number(given, "expire", 0, kMostSeconds) * kMs;
    settings.limits.reservation_ms = number(given, "reservation", 1, kMostSeconds);
    settings.limits.wait_ms = settings.limits.reservation_ms;
    settings.idle_exit_ms = number(given, "idle-exit", 0, kMostSeconds) * kMs;
    if (options.on_demand && settings.idle_exit_ms == 0)
        settings.idle_exit_ms = 60'000;
    constexpr unsigned kWhole = 100; // is no condition: then nobody looks at what is free
    settings.start_below_free =
        static_cast<unsigned>(number(given, "start-below-free", 1, kWhole) % kWhole);
    settings.metrics_file = given.text("metrics");
    return options;
}

std::string default_socket() {
    SocketPath path;
    if (own_socket(path) != 0)
        throw std::runtime_error("UPM_SOCKET is too long for a socket");
    return path.text;
}

// Shares out what there is. Each segment is an open file, and so is each connection, with
// one more for its process: half of what may be open for segments.
void share_out(Options &options, std::uint64_t files, bool several_users) {
    constexpr std::uint64_t kMostTasks = 256;
    constexpr std::uint64_t kTaskShare = 16;
    Settings &settings = options.settings;
    Limits &limits = settings.limits;
    const std::uint64_t share = several_users ? kUserShare : 1;
    const auto pages = [](std::uint64_t mib) { return mib * kMib / page_size(); };
    limits.quota_pages = options.quota ? pages(*options.quota) : limits.max_pages / share;
    limits.client_pages = options.client_quota ? pages(*options.client_quota)
                          : options.quota      ? limits.quota_pages
                                               : limits.quota_pages / 2;
    limits.seed_pages = options.seeds ? pages(*options.seeds) : limits.quota_pages / 2;
    limits.all_seed_pages = std::max(limits.max_pages / 2, limits.seed_pages);
    limits.max_segments =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(limits.max_segments, files / 2));
    limits.user_segments = static_cast<std::uint32_t>(limits.max_segments / share);
    settings.tasks = std::clamp(files / kTaskShare, kUserShare, kMostTasks);
    limits.late = static_cast<std::uint32_t>(settings.tasks / kUserShare);
    limits.user_late =
        static_cast<std::uint32_t>(std::max<std::uint64_t>(limits.late / kUserShare, 1));
    const std::uint64_t own = 64 + settings.tasks + limits.late; // and more for threads that hang
    const std::uint64_t rest = files / 2 - std::min(files / 4, own);
    settings.clients =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(settings.clients, rest / 2));
    settings.user_clients = static_cast<std::uint32_t>(settings.clients / share);
}

// What an operator wants to see in the log: where it listens, and what it may take.
std::string description_of(const Options &options, const std::string &socket) {
    const Limits &limits = options.settings.limits;
    const auto mib = [](std::uint64_t pages) { return pages * page_size() / kMib; };
    std::string text = fmt::format(
        "listens at {}; shares at most {} MiB, of one user {} MiB, of one process {} MiB; seeds of "
        "one user keep at most {} MiB",
        socket, mib(limits.max_pages), mib(limits.quota_pages), mib(limits.client_pages),
        mib(limits.seed_pages));
    if (options.settings.start_below_free != 0)
        text += fmt::format("; new content while less than {} % of the memory is free",
                            options.settings.start_below_free);
    if (!options.settings.metrics_file.empty())
        text += fmt::format("; metrics in {}", options.settings.metrics_file);
    return text;
}

void tell(bool on_demand, char word) {
    if (!on_demand)
        return;
    const ssize_t unused = ::write(store::kReadyFd, &word, 1);
    (void)unused;
    (void)::close(store::kReadyFd);
}

int run(int argc, char **argv) {
    cxxopts::Options known = description();
    const tool::CommandLine given(known, argc, argv);
    if (given.has("help")) {
        fmt::print("{}", known.help());
        return 0;
    }
    if (given.has("version")) {
        fmt::print("upmd {}\n", UPM_VERSION);
        return 0;
    }
    Options options = parse(given);
    if (given.has("check"))
        return 0;
    if (options.on_demand)
        leave_surroundings();
    const std::uint64_t files = broker::raise_file_limit();
    broker::block_signals();
    broker::Listener listener;
    bool several_users = true;
    if (!listener.take_from_systemd()) {
        const std::string path = options.socket.empty() ? default_socket() : options.socket;
        several_users = (options.mode & 077U) != 0;
        if (!listener.make(path, options.mode)) {
            tell(options.on_demand, store::kOther);
            if (!options.on_demand)
                throw std::runtime_error("a broker runs at " + path + " already");
            return 0;
        }
    }
    share_out(options, files, several_users);
    if (!options.on_demand)
        options.settings.log = STDERR_FILENO;
    Log(options.settings.log).say(description_of(options, listener.name()));
    Server server(listener, options.settings);
    tell(options.on_demand, store::kListens);
    server.run();
    if (const std::string lost = server.seeds_lost(); !lost.empty())
        fmt::print(stderr, "upmd: {}\n", lost);
    return 0;
}

} // namespace

} // namespace upm::upmd

int main(int argc, char **argv) {
    try {
        return upm::upmd::run(argc, argv);
    } catch (const upm::tool::UsageError &error) {
        (void)std::fprintf(stderr, "upmd: %s\n", error.what());
        return 2;
    } catch (const std::exception &error) {
        (void)std::fprintf(stderr, "upmd: %s\n", error.what());
        return 1;
    }
}
