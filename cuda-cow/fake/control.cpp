// SPDX-License-Identifier: MIT
//
// Settings, fault injection, and what every call goes through first.
#include "cuda-cow/fake/control.hpp"

#include "cuda-cow/fake/device.hpp"

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <unistd.h>

namespace upm::cuda::fake {

extern thread_local bool context_is_current;

Device &device() {
    static auto *const only = new Device; // NOLINT(cppcoreguidelines-owning-memory)
    return *only;
}

namespace {

bool parse_injection(const std::string &value, Injection::Kind kind, Settings &settings) {
    Injection made{.kind = kind};
    const std::size_t first = value.find(':');
    if (first >= sizeof made.call) // also if there is none
        return false;
    value.copy(made.call, first);
    char *end = nullptr;
    made.countdown = std::strtoul(value.c_str() + first + 1, &end, 10);
    if (*end == ':')
        made.value = std::strtol(end + 1, &end, 10);
    if (*end != '\0' || made.countdown == 0)
        return false;
    settings.injections.push_back(made);
    return true;
}

bool apply(const std::string &name, const std::string &value, Settings &settings) {
    if (name == "fail")
        return parse_injection(value, Injection::Kind::kFail, settings);
    if (name == "kill")
        return parse_injection(value, Injection::Kind::kKill, settings);
    char *end = nullptr;
    const unsigned long number = std::strtoul(value.c_str(), &end, 10);
    if (value.empty() || *end != '\0')
        return false;
    if (name == "granularity") {
        settings.granularity = number != 0 ? number : Settings{}.granularity;
        return number % 4096 == 0;
    }
    if (name == "memory")
        settings.memory = number;
    else if (name == "mappings")
        settings.mappings = number;
    else if (name == "latency_us")
        settings.latency_us = static_cast<unsigned>(number);
    else if (name == "task_us")
        settings.task_us = static_cast<unsigned>(number);
    else if (name == "reset")
        settings = Settings{.granularity = settings.granularity, .injections = {}};
    else
        return false;
    return true;
}

// Pre: the device's lock is held. The status to fail with, or success.
abi::Status inject(const char *call) {
    for (Injection &injection : device().settings.injections) {
        if (injection.countdown == 0 ||
            (std::strcmp(injection.call, "*") != 0 && std::strcmp(injection.call, call) != 0))
            continue;
        if (--injection.countdown != 0)
            continue;
        if (injection.kind == Injection::Kind::kFail)
            return static_cast<abi::Status>(injection.value);
        const pid_t victim =
            injection.value != 0 ? static_cast<pid_t>(injection.value) : ::getpid();
        (void)::kill(victim, SIGKILL);
    }
    return abi::kSuccess;
}

} // namespace

int configure(const char *text, Settings &settings) {
    std::istringstream words(text);
    for (std::string word; words >> word;) {
        const std::size_t equals = word.find('=');
        if (equals == std::string::npos ||
            !apply(word.substr(0, equals), word.substr(equals + 1), settings))
            return -1;
    }
    return 0;
}

abi::Status enter(const char *call, bool needs_context) {
    Device &all = device();
    // CUDA does not survive a fork.
    if (all.initialized_pid != ::getpid())
        return abi::kNotInitialized;
    unsigned latency = 0;
    abi::Status injected = abi::kSuccess;
    {
        const std::lock_guard<std::mutex> guard(all.lock);
        ++all.calls;
        latency = all.settings.latency_us;
        injected = inject(call);
    }
    if (latency != 0)
        std::this_thread::sleep_for(std::chrono::microseconds(latency));
    if (const abi::Status sticky = all.sticky; sticky != abi::kSuccess)
        return sticky;
    if (needs_context && !context_is_current)
        return abi::kInvalidContext;
    return injected;
}

} // namespace upm::cuda::fake

#pragma GCC visibility push(default)
extern "C" {

int upm_fake_configure(const char *text) {
    upm::cuda::fake::Device &all = upm::cuda::fake::device();
    const std::lock_guard<std::mutex> guard(all.lock);
    return upm::cuda::fake::configure(text, all.settings);
}

void upm_fake_get_stats(struct upm_fake_stats *stats) {
    upm::cuda::fake::Device &all = upm::cuda::fake::device();
    const std::lock_guard<std::mutex> guard(all.lock);
    *stats = {.bytes = all.created_bytes,
              .handles = 0,
              .mappings = all.mappings.size(),
              .reservations = all.reservations.size(),
              .calls = all.calls};
    for (const auto &[handle, allocation] : all.allocations)
        stats->handles += allocation.references;
}
}
#pragma GCC visibility pop
