// SPDX-License-Identifier: MIT
#include "tools/upm-runc/spec.hpp"

#include "libupm/base/env.hpp"
#include "tools/common/errors.hpp"
#include "tools/common/key.hpp"
#include "tools/common/text.hpp"
#include "tools/upm-runc/seccomp.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>
#include <sys/stat.h>
#include <sys/statvfs.h>

namespace upm::tool::runc {

namespace {

constexpr std::string_view kDomain = "UPM_DOMAIN=";
constexpr int kDeepest = 100; // levels; a specification has about ten
// More than any key asks for (tools/upm/keyed_layout.hpp: 16 GiB, and 2^32 pages).
constexpr std::uint64_t kStack = std::uint64_t{17} << 40U;
// Profiles that container engines make, in which a file that is mounted may be run.
constexpr std::array<std::string_view, 4> kProfiles = {"unconfined", "docker-default",
                                                       "cri-containerd.apparmor.d", "crio-default"};
// Small programs that engines put before the command, with "--" behind them.
constexpr std::array<std::string_view, 5> kInits = {"catatonit", "podman-init", "docker-init",
                                                    "tini", "dumb-init"};

std::size_t count_members(const Json &json) {
    std::size_t count = json.is_object() ? json.size() : 0;
    for (const Json &part : json)
        if (part.is_structured())
            count += count_members(part);
    return count;
}

// Returns false if the container is no member of a domain.
bool check_domain(const Json &process) {
    std::string key;
    int found = 0;
    for (const Json &entry : process.value("env", Json::array())) {
        const std::string text = entry.get<std::string>();
        if (!text.starts_with(kDomain))
            continue;
        key = text.substr(kDomain.size());
        ++found;
    }
    if (found == 0)
        return false;
    std::uint8_t bytes[16] = {};
    // A file is one of the container's: upm-layout reads it.
    if (found > 1 || !(key.starts_with('/') || env::parse_key(key, bytes)))
        throw Failure("UPM_DOMAIN is not one key of 32 hex digits, nor a file with one");
    return true;
}

// A file that cannot be run inside would keep the container from starting.
void check_mount(const Json &mount) {
    for (const Json &option : mount.value("options", Json::array()))
        if (option == "noexec")
            throw Failure(std::string(kLauncherInside) + " is mounted noexec");
    const std::string source = mount.at("source").get<std::string>();
    struct stat status {};
    struct statvfs system {};
    if (::stat(source.c_str(), &status) != 0 || ::statvfs(source.c_str(), &system) != 0 ||
        !S_ISREG(status.st_mode))
        throw Failure("there is no file " + printable(source));
    if ((status.st_mode & S_IROTH) == 0 || (status.st_mode & S_IXOTH) == 0 ||
        (system.f_flag & ST_NOEXEC) != 0)
        throw Failure(printable(source) + " may not be run by everybody");
}

void check_mounts(const Json &spec) {
    bool found = false;
    for (const Json &mount : spec.value("mounts", Json::array()))
        if (mount.value("destination", "") == kLauncherInside) {
            check_mount(mount);
            found = true;
        }
    if (!found)
        throw Failure(std::string("nothing is mounted at ") + kLauncherInside +
                      ": make the device again (upm cdi generate)");
}

// Rules about which programs may be run know nothing of one that was put in between.
void check_labels(const Json &process) {
    const std::string profile = process.value("apparmorProfile", "");
    const bool known = profile.empty() || profile.starts_with("containers-default-") ||
                       std::ranges::find(kProfiles, profile) != kProfiles.end();
    if (!known)
        throw Failure("nobody knows if its AppArmor profile allows another program: " +
                      printable(profile));
    if (!process.value("selinuxLabel", "").empty())
        throw Failure("it has an SELinux label, with which nobody has tried this");
}

void check_stack(const Json &process, std::uint64_t hard_limit) {
    for (const Json &limit : process.value("rlimits", Json::array()))
        if (limit.at("type") == "RLIMIT_STACK")
            hard_limit = limit.at("hard").get<std::uint64_t>();
    if (hard_limit < kStack)
        throw Failure("the hard limit of its stack is not unlimited (--ulimit stack=SOFT:-1)");
}

// The runtime would set it inside, and with it what is set here would be lost.
void take_personality(Json &system) {
    if (!system.contains("personality"))
        return;
    const Json &wanted = system.at("personality");
    if (wanted.value("domain", "") != "LINUX" || !wanted.value("flags", Json::array()).empty())
        throw Failure("it has a personality of its own");
    system.erase("personality"); // that of this process
}

// Where the program stands in the arguments.
std::size_t place_of_program(const Json &arguments) {
    const std::string first = arguments.at(0).get<std::string>();
    const std::string name = first.substr(first.rfind('/') + 1);
    const bool init = arguments.size() > 2 && arguments.at(1) == "--" &&
                      std::ranges::find(kInits, name) != kInits.end();
    return init ? 2 : 0;
}

void put_launcher(Json &process) {
    Json &arguments = process.at("args");
    for (const Json &word : arguments)
        if (!word.is_string())
            throw Failure("an argument of its program is no text");
    const std::size_t place = place_of_program(arguments);
    if (arguments.at(place) != kLauncherInside)
        arguments.insert(arguments.begin() + static_cast<std::ptrdiff_t>(place), kLauncherInside);
}

} // namespace

Json parse_spec(const std::string &text) {
    std::size_t names = 0;
    Json spec = Json::parse(text, [&](int depth, Json::parse_event_t event, const Json & /*part*/) {
        if (depth > kDeepest)
            throw Failure("the specification is too deep");
        names += event == Json::parse_event_t::key ? 1 : 0;
        return true;
    });
    if (!spec.is_object() || names != count_members(spec))
        throw Failure("the specification has a member twice, or is no object");
    return spec;
}

bool change_spec(Json &spec, std::uint64_t hard_limit) {
    if (!spec.contains("process") || !check_domain(spec.at("process")))
        return false;
    Json &process = spec.at("process");
    for (const char *other : {"vm", "windows", "solaris", "zos"})
        if (spec.contains(other))
            throw Failure("it is no container of this kernel");
    Json &system = spec.at("linux");
    if (process.at("args").empty())
        throw Failure("it has no program");
    check_mounts(spec);
    check_labels(process);
    check_stack(process, hard_limit);
    check_seccomp(system.value("seccomp", Json()));
    take_personality(system);
    put_launcher(process);
    return true;
}

} // namespace upm::tool::runc
