// SPDX-License-Identifier: MIT
//
// upm-layout COMMAND [ARGUMENT...]: the first program of a container that upm-runc started.
// Inside of a container nobody may switch address randomisation off, so upm-runc has done it
// before the container was made; here, where the program and its limits are seen as they
// are, its layout becomes that of the domain's key, or randomisation is switched on again.
// It is linked statically and becomes the program: no image has to hold anything for it.
#include "libupm/base/env.hpp"
#include "tools/common/errors.hpp"
#include "tools/common/key.hpp"
#include "tools/common/text.hpp"
#include "tools/upm/keyed_layout.hpp"
#include "tools/upm/read/program.hpp"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <string_view>
#include <sys/personality.h>
#include <unistd.h>

namespace upm::tool::cli {

namespace {

constexpr int kNotExecutable = 126; // as shells say it
constexpr int kNotFound = 127;

void tell(const std::string &what) noexcept {
    (void)std::fprintf(stderr, "upm-layout: %s\n", what.c_str());
}

// What is wrong with a key the hook tells.
HashKey domain_key() {
    const char *const text = std::getenv(env::domain.name);
    std::uint8_t key[16] = {};
    if (text == nullptr || !env::find_key(text, key))
        throw Failure("UPM_DOMAIN is no key of 32 hex digits, nor a file with one");
    return hash_key(key);
}

// What ld.so will look for. A hook that it does not find would put nothing back.
void check_hook() {
    const char *const text = std::getenv("LD_PRELOAD");
    std::string list = text != nullptr ? text : "";
    for (char &c : list)
        c = c == ':' ? ' ' : c;
    for (const std::string &path : split(list, ' '))
        if (is_hook(path) && ::access(path.c_str(), R_OK) == 0)
            return;
    throw Failure("LD_PRELOAD names no " + std::string(kHookName));
}

void choose(const std::string &command, unsigned long personality) {
    const Program program = look_at_program(command);
    if (program.path.empty())
        throw Failure("there is no such program");
    if (const std::string why = why_stock_layout(program); !why.empty())
        throw Failure(why);
    check_hook();
    choose_keyed_layout(places_of(domain_key()), personality);
    // What pointers are in lies outside of large blocks, too.
    if (std::getenv("UPM_SCOPE") == nullptr && ::setenv("UPM_SCOPE", "all", 0) != 0)
        tell("cannot set UPM_SCOPE");
}

// Where nobody switched randomisation off, nothing is left to do: another runtime, a virtual
// machine.
void choose_or_put_back(const std::string &command) noexcept {
    try {
        const unsigned long now = own_personality();
        if ((now & ADDR_NO_RANDOMIZE) == 0)
            return;
        const unsigned long before = now & ~static_cast<unsigned long>(ADDR_NO_RANDOMIZE);
        try {
            choose(command, before);
        } catch (const std::exception &error) {
            if (::personality(before) < 0)
                tell(std::string("addresses stay known: ") + std::strerror(errno));
            if (env::get(env::verbose))
                tell(std::string("stock layout: ") + error.what());
        }
    } catch (const std::exception &error) {
        tell(error.what());
    }
}

// As the runtime would have: a file that is no program is not given to a shell.
int become(char **words) {
    const std::string path = find_program(words[0]);
    (void)::execv(path.empty() ? words[0] : path.c_str(), words);
    const int error = path.empty() && std::strchr(words[0], '/') == nullptr ? ENOENT : errno;
    tell(std::string("cannot run ") + printable(words[0]) + ": " + std::strerror(error));
    return error == ENOENT ? kNotFound : kNotExecutable;
}

} // namespace

int launch(char **words) {
    choose_or_put_back(words[0]);
    return become(words);
}

} // namespace upm::tool::cli

int main(int argc, char **argv) {
    if (argc < 2) {
        (void)std::fputs("usage: upm-layout COMMAND [ARGUMENT...]\n"
                         "upm-runc puts it before the command of a container\n",
                         stderr);
        return 2;
    }
    return upm::tool::cli::launch(argv + 1);
}
