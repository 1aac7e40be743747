// SPDX-License-Identifier: MIT
//
// A backend that records what it is asked, and does what the test says.
#ifndef UPM_TESTS_LIBUPM_ENGINE_FAKE_BACKEND_HPP
#define UPM_TESTS_LIBUPM_ENGINE_FAKE_BACKEND_HPP

#include "libupm/engine/engine.hpp"
#include "tests/support/leaks.hpp"
#include "tests/support/support.hpp"

#include <atomic>
#include <functional>
#include <mutex>
#include <vector>

namespace upm::test {

class FakeBackend final : public Backend {
  public:
    explicit FakeBackend(const char *name = "fake") : name_(name) {}

    [[nodiscard]] const char *name() const noexcept override { return name_; }
    int open(Reason &reason) noexcept override {
        ++opened;
        reason.set("%s", open_result == 0 ? "works" : "is broken");
        return open_result;
    }
    [[nodiscard]] Capabilities capabilities() const noexcept override { return can; }
    int run(const Call &call, upm_counts &counts) noexcept override {
        {
            const std::lock_guard<std::mutex> guard(lock_);
            calls_.push_back(call);
        }
        return on_run(call, counts);
    }
    int open_domain(const std::uint8_t (&key)[16]) noexcept override {
        last_key = key[0];
        if (on_open_domain)
            return on_open_domain();
        return domain_result >= 0 ? domain_result + domains_opened++ : domain_result;
    }
    int stats(int domain_fd, struct upm_stats &stats) noexcept override {
        stats.pages_shared = static_cast<std::uint64_t>(domain_fd) + 100;
        return stats_result;
    }

    [[nodiscard]] std::vector<Call> calls() {
        const std::lock_guard<std::mutex> guard(lock_);
        return calls_;
    }

    // All pages merged.
    static int merge(const Call &call, upm_counts &counts) {
        counts.pages = call.len / page_size();
        counts.merged = counts.pages;
        return 0;
    }

    Capabilities can{.advise = true,
                     .immediate = true,
                     .remote = true,
                     .file_pages = true,
                     .unmerge = true,
                     .dry_run = true,
                     .domains = true};
    int open_result = 0;
    int domain_result = 1000; // the first descriptor
    int stats_result = 0;
    int opened = 0;
    int domains_opened = 0;
    unsigned last_key = 0;
    std::function<int(const Call &, upm_counts &)> on_run = merge;
    std::function<int()> on_open_domain; // instead of domain_result

  private:
    const char *name_;
    std::mutex lock_;
    std::vector<Call> calls_;
};

// An engine over one fake.
struct Fixture {
    explicit Fixture(const Wish &wish = {.backend = "fake", .domain = ""}) { start(wish); }
    explicit Fixture(const std::function<void(FakeBackend &)> &prepare,
                     const Wish &wish = {.backend = "fake", .domain = ""}) {
        prepare(backend);
        start(wish);
    }
    int submit(const Request &request) { return engine.submit(request, counts); }

    FakeBackend backend;
    FakeBackend last{"last"};
    CatalogRow rows[2] = {{"fake", &backend}, {"last", &last}};
    Engine engine;
    upm_counts counts{};

  private:
    void start(const Wish &wish) {
        last.can = {};
        engine.start(wish, rows);
    }
};

} // namespace upm::test

#endif // UPM_TESTS_LIBUPM_ENGINE_FAKE_BACKEND_HPP
