// SPDX-License-Identifier: MIT
#include "tools/upmd/server.hpp"

#include "libupm/base/sharable_file.hpp"
#include "libupm/base/system.hpp"
#include "tools/common/errors.hpp"
#include "tools/common/memory.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fmt/format.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <system_error>
#include <utility>

namespace upm::upmd {

namespace {

constexpr std::uint64_t kMetricsMs = 10'000;
// Threads that make segments, of all users and of one.
constexpr std::size_t kMakers = 8;
constexpr std::size_t kUserMakers = 2;
constexpr std::size_t kUserShare = 4; // of the tasks
// The same threads in the background, which may have to wait for long until they run.
constexpr std::size_t kLateMakers = 4;
constexpr std::uint64_t kLatePatienceMs = 60'000;

// A segment to be published, or a file to make one of. Called where it may block.
bool is_welcome(int fd) {
    return broker::is_memfd(fd) || sharable_size(fd) != 0;
}

// Returns true if a packet may bring a file to be read.
bool brings_file(std::span<const std::byte> packet) {
    store::Header header{};
    return store::take(packet, header) &&
           (header.op == static_cast<std::uint16_t>(store::Op::kMake) ||
            header.op == static_cast<std::uint16_t>(store::Op::kLate));
}

std::uint64_t random_seed() {
    std::uint64_t seed = 0;
    if (::getrandom(&seed, sizeof(seed), 0) != static_cast<ssize_t>(sizeof(seed)))
        throw std::system_error(errno, std::generic_category(), "getrandom");
    return seed;
}

} // namespace

Server::Server(broker::Listener &listener, const Settings &settings)
    : settings_(settings), log_(settings.log), listener_(listener),
      maker_({.threads = kMakers,
              .user_threads = kUserMakers,
              .user_tasks = settings.tasks / kUserShare,
              .tasks = settings.tasks},
             make_segment),
      late_maker_({.threads = kLateMakers, .user_threads = 1, .patience_ms = kLatePatienceMs},
                  make_in_background),
      broker_(
          settings.limits,
          [this](ClientId id, std::span<const std::byte> packet, int fd) {
              sockets_.send(id, packet, std::span(&fd, fd >= 0 ? 1U : 0U));
          },
          random_seed,
          [this](uid_t uid, MakeTask task, bool quietly) {
              (quietly ? late_maker_ : maker_).add(uid, std::move(task));
          }),
      sockets_(listener.take(),
               {.clients = settings.clients,
                .user_clients = settings.user_clients,
                .bytes = store::kMaxPacket,
                .welcome = is_welcome},
               *this) {
    broker_.tell_of_refusals(
        [this](uid_t uid, const char *why) { log_.refused(uid, why, now_ms()); });
    sockets_.also_watch(watcher_.event(), [this] { take_looks(); });
    sockets_.also_watch(maker_.event(), [this] { take_made(); });
    sockets_.also_watch(late_maker_.event(), [this] { take_made_late(); });
    if (listener_.watch() >= 0)
        sockets_.also_watch(listener_.watch(), [this] { listen_again(); });
}

ClientId Server::connect(int socket, const ucred &peer) {
    Peer who = processes_.enter(socket, peer);
    const std::uint64_t process = who.process;
    const ClientId id = broker_.connect(std::move(who));
    process_of_.emplace(id, process);
    return id;
}

void Server::disconnect(ClientId id) {
    broker_.disconnect(id, now_ms());
    if (const auto found = process_of_.find(id); found != process_of_.end()) {
        processes_.leave(found->second);
        process_of_.erase(found);
    }
}

uid_t Server::uid_of(ClientId id) {
    const auto process = process_of_.find(id);
    return process != process_of_.end() ? processes_.find(process->second).uid : 0;
}

bool Server::handle(ClientId id, std::span<const std::byte> packet,
                    broker::Attachments attachments) {
    Brought brought;
    if (!attachments.fds.empty())
        brought.fd = std::move(attachments.fds.front());
    else if (attachments.lost || attachments.unwelcome)
        brought.error = attachments.lost ? EMFILE : EINVAL;
    if (brought.fd && !broker::is_memfd(brought.fd.get()) && !brings_file(packet)) {
        // Closing it may block: on the account of whoever sent it.
        maker_.add(uid_of(id), {.file = std::move(brought.fd)});
        brought.error = EINVAL;
    }
    const std::uint64_t now = now_ms();
    look_at_memory(now);
    return broker_.handle(id, packet, std::move(brought), now);
}

// Only when somebody asks: a broker that nobody uses does not wake.
void Server::look_at_memory(std::uint64_t now) {
    constexpr std::uint64_t kMemoryMs = 1'000;
    if (settings_.start_below_free == 0 || now < memory_at_)
        return;
    memory_at_ = now + kMemoryMs;
    bool plenty = false;
    try {
        plenty = !tool::is_short(tool::read_memory(tool::Root()), settings_.start_below_free);
    } catch (const tool::Failure &failure) {
        fmt::print(stderr, "upmd: shares, whatever memory is free: {}\n", failure.what());
        settings_.start_below_free = 0;
    }
    broker_.set_plenty(plenty);
}

void Server::begin_looks(std::uint64_t now) {
    for (const std::uint64_t process : broker_.usage().take_due(now)) {
        const Processes::Found found = processes_.find(process);
        if (found.folder != nullptr)
            watcher_.look(process, found.uid, found.folder);
        else
            broker_.usage().seen(process, {}, now, now);
    }
}

void Server::take_looks() {
    for (const Watcher::Result &result : watcher_.take_results())
        broker_.usage().seen(result.process, result.look, result.started, now_ms());
}

void Server::take_made() {
    for (Made &result : maker_.take_results())
        broker_.made(std::move(result), now_ms());
}

void Server::take_made_late() {
    for (Made &result : late_maker_.take_results())
        broker_.made_late(std::move(result), now_ms());
}

void Server::listen_again() {
    try {
        if (listener_.make_again())
            sockets_.listen_to(listener_.take());
    } catch (const std::exception &error) {
        fmt::print(stderr, "upmd: {}\n", error.what());
    }
}

std::string Server::seeds_lost() const {
    std::uint64_t pages = 0;
    const auto &seeds = broker_.seeds().all();
    for (const auto &[number, seed] : seeds)
        pages += seed.pages;
    constexpr std::uint64_t kMib = 1024UL * 1024;
    return seeds.empty()
               ? ""
               : fmt::format("ends, and with it {} {} {} MiB: upm seed makes {} anew", seeds.size(),
                             seeds.size() == 1 ? "seed that keeps" : "seeds that keep",
                             pages * page_size() / kMib, seeds.size() == 1 ? "it" : "them");
}

// Complete or not at all: a collector may read at any time, and as another user, whatever the
// umask of the service is.
void Server::write_metrics() {
    constexpr mode_t kForCollectors = 0644;
    const std::string fresh = settings_.metrics_file + ".new";
    std::FILE *const file = std::fopen(fresh.c_str(), "we");
    bool good = file != nullptr;
    if (good) {
        const std::string text = broker_.metrics();
        good = std::fwrite(text.data(), 1, text.size(), file) == text.size() &&
               ::fchmod(::fileno(file), kForCollectors) == 0;
        good = std::fclose(file) == 0 && good;
    }
    good = good && std::rename(fresh.c_str(), settings_.metrics_file.c_str()) == 0;
    // The file is written every few seconds, and what stands against it is told once.
    const std::string lost = good ? "" : std::strerror(errno);
    if (lost != std::exchange(metrics_lost_, lost) && !good)
        log_.say(fmt::format("cannot write metrics into {}: {}", settings_.metrics_file, lost));
}

bool Server::idle_for_long(std::uint64_t now) {
    if (!broker_.idle())
        idle_since_ = 0;
    else if (idle_since_ == 0)
        idle_since_ = now;
    return idle_since_ != 0 && settings_.idle_exit_ms != 0 &&
           now >= idle_since_ + settings_.idle_exit_ms;
}

std::optional<int> Server::tick() {
    constexpr std::uint64_t kNever = ~std::uint64_t{0};
    constexpr std::uint64_t kLongest = 3'600'000;
    const std::uint64_t now = now_ms();
    begin_looks(now);
    const std::uint64_t expiry = broker_.expire(now);
    std::uint64_t next = expiry != 0 ? expiry : kNever;
    if (!settings_.metrics_file.empty() && metrics_at_ <= now) {
        look_at_memory(now);
        write_metrics();
        metrics_at_ = now + kMetricsMs;
    }
    if (idle_for_long(now))
        return std::nullopt;
    if (idle_since_ != 0 && settings_.idle_exit_ms != 0)
        next = std::min(next, idle_since_ + settings_.idle_exit_ms);
    if (!settings_.metrics_file.empty())
        next = std::min(next, metrics_at_);
    for (const int makers : {maker_.tick(), late_maker_.tick()})
        if (makers >= 0)
            next = std::min(next, now + static_cast<std::uint64_t>(makers));
    if (next == kNever)
        return -1;
    return static_cast<int>(std::min(kLongest, next - std::min(next, now)));
}

} // namespace upm::upmd
