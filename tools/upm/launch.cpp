// SPDX-License-Identifier: MIT
#include "tools/upm/launch.hpp"

#include "libupm/base/env.hpp"
#include "tools/common/errors.hpp"
#include "tools/common/text.hpp"
#include "tools/upm/model/outlook.hpp"
#include "tools/upm/read/program.hpp"
#include "tools/upm/read/surroundings.hpp"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fmt/format.h>
#include <stdexcept>
#include <unistd.h>
#include <upm/upm.hpp>
#include <vector>

namespace upm::tool::cli {

void set_environment(const char *name, const std::string &value) {
    if (::setenv(name, value.c_str(), 1) != 0)
        throw SystemError("set", name, errno);
}

void preload(const std::string &hook, const std::string &command) {
    if (look_at_program(command).loader == Loader::kForeign)
        return;
    // ld.so knows no way to quote these.
    if (hook.find_first_of(" :") != std::string::npos)
        throw std::runtime_error(
            fmt::format("LD_PRELOAD cannot name '{}': a blank or a colon in it", printable(hook)));
    const char *const others = std::getenv("LD_PRELOAD");
    const bool alone = others == nullptr || *others == '\0';
    set_environment("LD_PRELOAD", alone ? hook : hook + ":" + others);
}

void say_what_merges(const char *speaker, const std::string &command, const std::string &scope) {
    if (env::get(env::backend) == env::Backend::kNone)
        return;
    if (const std::string why = why_no_hook(look_at_program(command)); !why.empty()) {
        complain(speaker, "nothing will be merged: " + why);
        return;
    }
    start_no_service();
    Info found = upm::info();
    if (scope != "loads")
        found.load = 0;
    const Outlook expected = outlook(found, read_surroundings(Root()));
    if (!expected.merges)
        complain(speaker,
                 fmt::format("this merges {}; to merge more: {}", expected.what, expected.cure));
    else if (env::get(env::verbose))
        complain(speaker, "this merges " + expected.what);
}

int become(const char *speaker, const Arguments &words) {
    std::vector<char *> argv;
    argv.reserve(words.size() + 1);
    for (const std::string &word : words)
        argv.push_back(const_cast<char *>(word.c_str())); // execvp changes nothing
    argv.push_back(nullptr);
    (void)::execvp(argv[0], argv.data());
    const int error = errno;
    complain(speaker,
             fmt::format("cannot run {}: {}", printable(words.front()), std::strerror(error)));
    return error == ENOENT ? kNotFound : kNotExecutable;
}

} // namespace upm::tool::cli
