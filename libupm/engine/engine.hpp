// SPDX-License-Identifier: MIT
//
// What lies between the interfaces and a backend: checks, rounding, the choice of
// the domain. One engine serves the process (library.hpp); tests make their own.
#ifndef UPM_ENGINE_ENGINE_HPP
#define UPM_ENGINE_ENGINE_HPP

#include "libupm/engine/backend.hpp"
#include "libupm/engine/registry.hpp"

#include <atomic>
#include <cstdint>

namespace upm {

// A call as the caller stated it.
struct Request {
    std::uint64_t addr = 0;
    std::uint64_t len = 0;
    unsigned flags = 0; // UPM_DRY_RUN, UPM_QUIESCENT
    int pid = 0;
    int domain_fd = -1; // -1: the engine's default
    bool unmerge = false;
    bool holes = false;             // as in Call
    bool known_only = false;        // see Call
    const Layout *layout = nullptr; // see Call
    Gate *gate = nullptr;           // see Call
};

// A load as the caller stated it.
struct LoadRequest {
    int fd = -1;
    std::int64_t offset = 0;
    void *into = nullptr;
    std::size_t len = 0;
    unsigned flags = 0;   // UPM_LOAD_ORDINARY, UPM_LOAD_PATIENT
    int domain_fd = -1;   // -1: the engine's default
    Gate *gate = nullptr; // see LoadCall
    bool patient = false; // see LoadCall
    LateParts *late = nullptr;
};

class Engine {
  public:
    constexpr Engine() noexcept = default;
    ~Engine() = default;
    Engine(const Engine &) = delete;
    Engine &operator=(const Engine &) = delete;

    // Chooses a backend, and opens the domain that was asked for. Once, before
    // every other call; the backends must outlive the engine.
    void start(const Wish &wish, const Catalog &catalog) noexcept;

    // Checks and rounds. Post: 0 and a valid call, whose len is 0 when there is
    // nothing to do, or -errno (EINVAL, EOPNOTSUPP).
    int prepare(const Request &request, Call &call) const noexcept;

    // Pre: `call` is what prepare() made. Post: that of Backend::run, and bytes.
    int run(const Call &call, upm_counts &counts) noexcept;

    // prepare and run.
    int submit(const Request &request, upm_counts &counts) noexcept;

    // Checks, and has the backend load. Post: that of Backend::load, and the sums.
    std::int64_t load(const LoadRequest &request, upm_load_counts &counts) noexcept;

    // Tells the backend of what was read without it; see Backend::loaded_plainly.
    // Pre: what load() would accept.
    void loaded_plainly(const LoadRequest &request) noexcept;

    // As Backend::wanted. False if the request is not in order.
    bool wanted(const LoadRequest &request) noexcept;

    int open_domain(const std::uint8_t (&key)[16]) noexcept;
    // Advise in this domain from now on, -1: the default. Stays the caller's.
    int use_domain(int fd) noexcept;
    int stats(int domain_fd, struct upm_stats &stats) noexcept;
    int describe(std::span<char> text) noexcept;
    // Of the backend that loads go to.
    int seed(SeedCall call, SeedAnswer &answer, std::span<SeedState> list) noexcept;
    void trimmed(std::uint64_t bytes) noexcept;
    void info(struct upm_info &info) const noexcept;
    // Gives the calling thread a table of descriptors of its own, as take_own_table() does, if
    // the backend can work in it.
    bool move_to_own_table() noexcept;
    [[nodiscard]] Backend &backend() const noexcept { return *choice_.backend; }

  private:
    [[nodiscard]] int default_domain() const noexcept;
    [[nodiscard]] LoadCall load_call(const LoadRequest &request) const noexcept;
    [[nodiscard]] int check_load(const LoadRequest &request) const noexcept;
    bool reopen_default_domain(int &fd) noexcept;

    Choice choice_;
    std::atomic<int> used_domain_{-1}; // upm_domain_use
    std::atomic<int> own_domain_{-1};  // UPM_DOMAIN
};

} // namespace upm

#endif // UPM_ENGINE_ENGINE_HPP
