// SPDX-License-Identifier: MIT
//
// upm-device-plugin: containers of Kubernetes share by saying so; see upm-device-plugin(8).
#include "tools/common/errors.hpp"
#include "tools/device-plugin/log.hpp"
#include "tools/device-plugin/options.hpp"
#include "tools/device-plugin/plugin.hpp"

#include <csignal>
#include <ctime>
#include <exception>
#include <sys/stat.h>

namespace {

// Waits for the signals that end the plugin: true if one came within a second.
bool is_told_to_end(const sigset_t &signals) {
    const timespec second{.tv_sec = 1, .tv_nsec = 0};
    return ::sigtimedwait(&signals, nullptr, &second) > 0;
}

int run(int argc, char **argv) {
    auto options = upm::plugin::parse_options(argc, argv);
    if (!options)
        return 0;
    // Blocked before there are other threads, which inherit it.
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    (void)::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    (void)std::signal(SIGPIPE, SIG_IGN);
    (void)::umask(S_IRWXG | S_IRWXO);
    upm::plugin::Plugin plugin(std::move(*options));
    do
        plugin.step();
    while (!is_told_to_end(signals));
    return 0;
}

} // namespace

int main(int argc, char **argv) {
    try {
        return run(argc, argv);
    } catch (const upm::tool::UsageError &error) {
        upm::plugin::log(error.what());
        return 2;
    } catch (const std::exception &error) {
        upm::plugin::log(error.what());
        return 1;
    }
}
