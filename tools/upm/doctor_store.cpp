// SPDX-License-Identifier: MIT
//
// upm doctor: what programs and containers need to share without a module.
#include "libupm/base/broker_socket.hpp"
#include "tools/common/errors.hpp"
#include "tools/common/files.hpp"
#include "tools/common/key.hpp"
#include "tools/common/memory.hpp"
#include "tools/common/sizes.hpp"
#include "tools/upm/doctor.hpp"
#include "tools/upm/model/cdi.hpp"
#include "tools/upm/read/broker.hpp"
#include "tools/upm/read/broker_options.hpp"
#include "tools/upm/read/cdi_folder.hpp"
#include "tools/upm/read/hook_file.hpp"
#include "tools/upm/read/installed.hpp"
#include "tools/upm/read/memory_limit.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <gnu/libc-version.h>
#include <sys/stat.h>
#include <unistd.h>
#include <upm/upm.hpp>

namespace upm::tool::cli {

namespace {

constexpr unsigned kEveryone = 0666;
// Of the file: no archive has the package, and apt-get keeps no copy of it.
constexpr const char *kReinstall = "apt-get install --reinstall ./upm_*.deb";

std::string restart_command(const Asker &asker, pid_t pid) {
    if (asker.systemd && asker.packaged)
        return "systemctl restart upmd.service";
    return fmt::format("kill -KILL {}; sleep 1; {}", pid, asker.broker_command());
}

// For the user's own socket a program starts another broker; that of the machine is root's.
std::string cure_after(const Machine &machine, const BrokerLook &look, const std::string &removal) {
    const Asker &asker = machine.asker;
    const bool own = look.owner == ::geteuid();
    if (!look.system)
        return own ? removal : asker.as_root(removal);
    return asker.as_root(fmt::format("{} && {}", removal, asker.broker_command()));
}

// Options that it refuses keep the service from starting, whatever is started again. They stay
// in the file, behind a '#'.
std::optional<Finding> refused_options(const Machine &machine) {
    const Asker &asker = machine.asker;
    if (!asker.systemd || !asker.packaged || !machine.root.real() ||
        ::access(kBrokerDefaults, R_OK) != 0)
        return std::nullopt;
    const std::string text = read_file(kBrokerDefaults);
    const auto options = broker_options(text);
    const std::string complaint =
        options ? complaint_about(asker.folder + "/upmd", *options) : std::string();
    if (complaint.empty())
        return std::nullopt;
    return fail(fmt::format("upmd.service cannot start with the options in {}: {}", kBrokerDefaults,
                            printable(complaint)),
                asker.as_root(command_to_set_options(kBrokerDefaults, text, {}) +
                              " && systemctl reset-failed upmd.service && systemctl restart "
                              "upmd.socket"));
}

Finding no_broker(const Machine &machine, const BrokerLook &look) {
    const Asker &asker = machine.asker;
    if (asker.container)
        return warn(fmt::format("no {} in this container", kSystemSocket),
                    "on the host: upm cdi generate && podman run --device upm.dev/share=default "
                    "IMAGE");
    if (look.system)
        return warn(fmt::format("nobody listens at {}: containers have no broker", look.path),
                    asker.as_root(asker.broker_command()));
    if (::access((asker.folder + "/upmd").c_str(), X_OK) == 0)
        return ok(fmt::format("none at {}: the first program that shares starts one", look.path));
    return fail(fmt::format("none at {}, and no upmd beside {}/upm", look.path, asker.folder),
                asker.packaged       ? asker.as_root(kReinstall)
                : asker.tree.empty() ? "install UPM again: its program upmd is missing"
                                     : fmt::format("make -C {} user", asker.tree));
}

// The library makes the whole handshake, each step of it with a limit.
Finding answering_broker(const Machine &machine, const BrokerLook &look) {
    const std::string who = look.pid > 0 ? fmt::format("process {}", look.pid) : "a broker";
    const std::string found = fmt::format("{} of user {} at {}", who, look.user, look.path);
    if (!machine.root.real())
        return ok(found);
    for (std::size_t i = 0;; ++i) {
        const Result<BackendStatus> status = backend_status(i);
        if (!status)
            return skip("this library has no backend store");
        if (std::strcmp(status->name, "store") != 0)
            continue;
        if (status->available)
            return ok(found);
        const bool late = std::strstr(status->reason, std::strerror(ETIMEDOUT)) != nullptr;
        if (late && look.pid > 0)
            return fail(found + " does not answer",
                        machine.asker.as_root(restart_command(machine.asker, look.pid)));
        if (late)
            return fail(found + " does not answer", "on the host: systemctl restart upmd.service");
        return fail(found + ": " + status->reason,
                    "install library and broker of neighbouring releases");
    }
}

Finding check_broker_runs(const Machine &machine) {
    const Asker &asker = machine.asker;
    const BrokerLook look = look_at_broker(machine.root);
    const bool runs = look.state != BrokerState::kNone && look.state != BrokerState::kDead &&
                      look.state != BrokerState::kWaits;
    if (look.system && !runs)
        if (std::optional<Finding> refused = refused_options(machine))
            return *std::move(refused);
    switch (look.state) {
    case BrokerState::kNone:
        return no_broker(machine, look);
    case BrokerState::kWaits:
        return ok(
            fmt::format("systemd listens at {}, and starts it with the first program", look.path));
    case BrokerState::kNoSocket:
        return fail(look.path + " is no socket",
                    cure_after(machine, look, fmt::format("rm -r {}", look.path)));
    case BrokerState::kDead:
        if (look.system)
            return asker.container ? fail(look.path + ": its broker has ended",
                                          "on the host: systemctl restart upmd.socket")
                                   : fail(look.path + ": its broker has ended",
                                          asker.as_root(asker.systemd && asker.packaged
                                                            ? "systemctl restart upmd.socket"
                                                            : asker.broker_command()));
        return ok(look.path + ": its broker has ended; the first program that shares starts one");
    case BrokerState::kClosed:
        return fail(
            look.path + " is not for this user",
            asker.as_root(fmt::format("chmod 0755 {} && chmod 0666 {}",
                                      look.path.substr(0, look.path.rfind('/')), look.path)));
    case BrokerState::kForeign:
        return fail(fmt::format("{} is served by user {}, whom programs do not trust", look.path,
                                look.user),
                    cure_after(machine, look, fmt::format("rm {}", look.path)));
    case BrokerState::kStopped: {
        const std::string command = fmt::format("kill -CONT {}", look.pid);
        return fail(fmt::format("process {} at {} is stopped", look.pid, look.path),
                    look.user == ::geteuid() ? command : asker.as_root(command));
    }
    case BrokerState::kFull:
        return fail(look.path + ": the broker takes no more connections",
                    asker.systemd ? asker.as_root("systemctl restart upmd.service")
                                  : "end the process that `ss -xlp` shows there");
    case BrokerState::kListens:
        break;
    }
    return answering_broker(machine, look);
}

// Who may connect to the machine's socket. A user's own is that user's affair.
Finding check_socket(const Machine &machine) {
    const BrokerLook look = look_at_broker(machine.root, kSystemSocket);
    const Asker &asker = machine.asker;
    if (look.state != BrokerState::kListens && look.state != BrokerState::kWaits &&
        look.state != BrokerState::kClosed)
        return skip(fmt::format("no broker listens at {}", kSystemSocket));
    const std::string folder = look.path.substr(0, look.path.rfind('/'));
    if ((look.folder & 022U) != 0)
        return fail(fmt::format("{} has mode {:04o}: anybody could put a socket there", folder,
                                look.folder),
                    asker.as_root(fmt::format("chmod 0755 {}", folder)));
    const std::string found =
        fmt::format("{} of user {}, mode {:04o}", look.path, look.owner, look.mode);
    constexpr unsigned kSearch = 0111;
    const bool reachable = (look.folder & kSearch) == kSearch;
    if (reachable && (look.mode & kEveryone) == kEveryone)
        return ok(found);
    if (asker.container)
        return ::access(look.path.c_str(), W_OK) == 0
                   ? ok(found)
                   : warn(found + ": not for this user",
                          fmt::format("on the host: chmod 0666 {}", look.path));
    return warn(found + ": other users, and containers of theirs, have no part in it",
                asker.as_root(
                    reachable ? fmt::format("chmod 0666 {}", look.path)
                              : fmt::format("chmod 0755 {} && chmod 0666 {}", folder, look.path)));
}

std::string hook_from_where(const Asker &asker) {
    if (asker.packaged)
        return asker.as_root(kReinstall);
    return asker.tree.empty() ? fmt::format("install UPM again: its {} is missing", kHookName)
                              : fmt::format("make -C {} user", asker.tree);
}

Finding check_hook(const Machine &machine) {
    std::string path;
    try {
        path = find_hook(F_OK);
    } catch (const std::exception &error) {
        return fail(error.what(), hook_from_where(machine.asker));
    }
    struct stat status {};
    constexpr unsigned kReadable = 0444;
    if (::stat(path.c_str(), &status) == 0 && (status.st_mode & kReadable) != kReadable) {
        const std::string command = fmt::format("chmod 0644 {}", path);
        return fail(fmt::format("{} has mode {:04o}: other users' programs cannot load it", path,
                                status.st_mode & 07777U),
                    status.st_uid == ::geteuid() ? command : machine.asker.as_root(command));
    }
    const std::optional<HookFile> hook = parse_hook_file(read_file(path));
    if (!hook)
        return fail(path + " is no shared library", hook_from_where(machine.asker));
    if (older_version(::gnu_get_libc_version(), hook->glibc))
        return fail(fmt::format("{} needs glibc {}, and here is {}", path, hook->glibc,
                                ::gnu_get_libc_version()),
                    "install the UPM that was built for this release");
    if (!hook->glibc.empty() || !hook->libraries.empty())
        return ok(fmt::format("{}, for glibc {} and newer", path,
                              hook->glibc.empty() ? "2.17" : hook->glibc));
    return ok(path + ", for glibc 2.17 and newer; under another libc it stays out");
}

// What makes the device of a file anew, with its key; empty: `upm cdi` does not make that file.
std::string generate_again(const Asker &asker, const CdiFile &file) {
    if (!file.domain || !is_cdi_name(*file.domain))
        return "";
    const bool dynamic = file.path.starts_with(kDynamicCdiFolder);
    return fmt::format("{} cdi generate --domain {}{}{}", asker.program("upm"), *file.domain,
                       dynamic ? fmt::format(" --output {}", kDynamicCdiFolder) : "",
                       options_of_specification(file.text.value_or("")));
}

// What is wrong with one of them; an ok finding if nothing is. Only root may read them.
Finding look_at_cdi(const Machine &machine, const CdiFile &file) {
    const Asker &asker = machine.asker;
    const std::string shown = printable(file.path);
    const std::string typed = shell_word(shown);
    if ((file.mode & 077U) != 0)
        return fail(fmt::format("{} has mode {:04o}: others can read its key", shown, file.mode),
                    asker.as_root(fmt::format("chmod 0600 {}", typed)));
    if (!file.text)
        return ok(shown);
    const std::string again = generate_again(asker, file);
    if (!key_in_specification(*file.text))
        return fail(
            shown + " is no specification of upm cdi",
            asker.as_root(fmt::format("rm {}{}{}", typed, again.empty() ? "" : " && ", again)));
    for (const std::string &host : paths_in_specification(*file.text))
        if (!machine.root.exists(host))
            return fail(fmt::format("{} names {}, which is not there", shown, printable(host)),
                        host == "/run/upm" ? asker.as_root(asker.broker_command())
                        : again.empty()    ? asker.as_root("rm " + typed)
                                           : asker.as_root(again));
    return ok(shown);
}

// Engines refuse a device that two files of a folder define, and look into /var/run/cdi first.
std::optional<Finding> look_for_copies(const Asker &asker, const std::vector<CdiFile> &made,
                                       const std::vector<CdiFile> &dynamic) {
    const auto remove = [&](const std::string &path) {
        return asker.as_root("rm " + shell_word(printable(path)));
    };
    for (const auto *files : {&made, &dynamic})
        if (const auto found = find_cdi_conflict(*files))
            return fail(fmt::format("{} defines upm.dev/share={}, as {} does: engines take neither",
                                    printable(found->copy), printable(found->device),
                                    printable(found->file)),
                        remove(found->copy));
    for (const CdiFile &file : dynamic)
        for (const CdiFile &other : made)
            for (const std::string &device : file.devices)
                if (std::ranges::find(other.devices, device) != other.devices.end())
                    return warn(fmt::format("{} takes the place of {}: both define "
                                            "upm.dev/share={}",
                                            printable(file.path), printable(other.path),
                                            printable(device)),
                                remove(file.path));
    return std::nullopt;
}

Finding check_cdi(const Machine &machine) {
    const Asker &asker = machine.asker;
    if (asker.container)
        return skip("for the host to say");
    std::vector<CdiFile> files = read_cdi_folder(machine.root, kCdiFolder);
    const std::vector<CdiFile> dynamic = read_cdi_folder(machine.root, kDynamicCdiFolder);
    if (auto copies = look_for_copies(asker, files, dynamic))
        return *std::move(copies);
    files.insert(files.end(), dynamic.begin(), dynamic.end());
    if (files.empty())
        return warn("no device in /etc/cdi: containers do not get the hook",
                    asker.as_root(asker.program("upm") + " cdi generate"));
    std::string names;
    for (const CdiFile &file : files) {
        Finding finding = look_at_cdi(machine, file);
        if (finding.verdict != Verdict::kOk)
            return finding;
        for (const std::string &name :
             file.devices.empty() ? std::vector{file.domain.value_or("?")} : file.devices)
            names += fmt::format("{}upm.dev/share={}", names.empty() ? "" : ", ", printable(name));
    }
    return ok(names);
}

// What the broker tells root of all users, and other users of their own.
struct Usage {
    std::uint64_t content = 0;
    std::uint64_t max = 0; // 0: not told
    std::uint64_t quota = 0;
    std::uint64_t fullest = 0; // domain
};

Usage read_usage(std::string_view text) {
    Usage usage;
    for_each_line(text, [&](std::string_view line) {
        const std::size_t blank = line.rfind(' ');
        if (blank == std::string_view::npos)
            return;
        const std::string_view name = line.substr(0, blank);
        const auto value = parse_integer<std::uint64_t>(line.substr(blank + 1)).value_or(0);
        if (name == "upmd_content_bytes")
            usage.content = value;
        else if (name == "upmd_max_bytes")
            usage.max = value;
        else if (name == "upmd_quota_bytes")
            usage.quota = value;
        else if (name.starts_with("upmd_domain_content_bytes{"))
            usage.fullest = std::max(usage.fullest, value);
    });
    return usage;
}

bool is_full(std::uint64_t used, std::uint64_t limit) {
    constexpr std::uint64_t kPercent = 100;
    constexpr std::uint64_t kFull = 95;
    return limit != 0 && used >= limit * kFull / kPercent;
}

// Adds options to those of the service, or of a broker that was started by hand.
std::string more_room(const Asker &asker, const BrokerLook &look, const Usage &usage) {
    constexpr unsigned kMib = 20;
    const std::uint64_t max =
        is_full(usage.content, usage.max) || usage.quota == usage.max ? 2 * usage.max : usage.max;
    const std::uint64_t quota = std::min(max, 2 * usage.quota);
    const std::string max_mib = std::to_string(max >> kMib);
    const std::string quota_mib = std::to_string(quota >> kMib);
    if (!asker.systemd || !asker.packaged)
        return fmt::format("kill {}; sleep 1; {} --mode {:04o} --max {} --quota {} &", look.pid,
                           asker.program("upmd"), look.mode, max_mib, quota_mib);
    const bool readable = ::access(kBrokerDefaults, R_OK) == 0;
    const std::string text = readable ? read_file(kBrokerDefaults) : "";
    const auto now = broker_options(text);
    if (!now)
        return fmt::format("write --max {} --quota {} into {}, and systemctl restart upmd.service",
                           max_mib, quota_mib, kBrokerDefaults);
    const auto options = with_option(with_option(*now, "max", max_mib), "quota", quota_mib);
    return command_to_set_options(kBrokerDefaults, text, options) +
           " && systemctl restart upmd.service";
}

Finding check_quota(const Machine &machine) {
    constexpr std::size_t kMost = 60'000; // what upmd sends
    const BrokerLook look = look_at_broker(machine.root);
    if (look.state != BrokerState::kListens || !machine.root.real())
        return skip("no broker to ask");
    std::string text(kMost, '\0');
    const Result<std::size_t> size = describe_service(text);
    if (!size)
        return skip("no broker to ask");
    const Usage usage = read_usage(std::string_view(text).substr(0, *size));
    if (usage.max == 0) // told to root only
        return ok(fmt::format("{} of {} used in this domain", human_bytes(usage.fullest),
                              human_bytes(usage.quota)));
    const std::string found =
        fmt::format("{} of {} used; one user may have {}", human_bytes(usage.content),
                    human_bytes(usage.max), human_bytes(usage.quota));
    if (!is_full(usage.content, usage.max) && !is_full(usage.fullest, usage.quota))
        return ok(found);
    return warn(found + ": what comes next is not shared",
                machine.asker.as_root(more_room(machine.asker, look, usage)));
}

// Content is charged to the broker: a limit of its group that is lower than its own kills it.
Finding check_cgroup(const Machine &machine) {
    const BrokerLook look = look_at_broker(machine.root);
    if (look.state != BrokerState::kListens || look.pid == 0)
        return skip("no broker to look at");
    const MemoryLimit limit = memory_limit(machine.root, look.pid);
    if (limit.file.empty())
        return ok("no control group limits the broker's memory");
    const std::string found =
        fmt::format("{} limits the broker to {}", limit.file, human_bytes(limit.bytes));
    if (limit.bytes >= default_broker_limit())
        return ok(found);
    const bool first = limit.file.ends_with("memory.limit_in_bytes");
    return warn(
        found + ", less than what it may share",
        machine.asker.systemd && machine.asker.packaged
            ? machine.asker.as_root("systemctl set-property upmd.service MemoryMax=infinity")
            : machine.asker.as_root(fmt::format("echo {} > {}", first ? "-1" : "max", limit.file)));
}

constexpr Check kChecks[] = {
    {"broker", check_broker_runs}, {"socket", check_socket},
    {"hook", check_hook},          {"cdi", check_cdi},
    {"quota", check_quota},        {"cgroup", check_cgroup},
};

} // namespace

std::span<const Check> store_checks() {
    return kChecks;
}

std::string store_cure(const Machine &machine) {
    for (const auto &check : {check_broker_runs, check_socket})
        if (std::string cure = check(machine).cure; !cure.empty())
            return cure;
    return machine.asker.as_root(machine.asker.broker_command());
}

} // namespace upm::tool::cli
