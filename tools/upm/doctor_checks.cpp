// SPDX-License-Identifier: MIT
#include "tools/common/errors.hpp"
#include "tools/common/sizes.hpp"
#include "tools/common/text.hpp"
#include "tools/upm/doctor.hpp"
#include "tools/upm/model/outlook.hpp"
#include "tools/upm/read/surroundings.hpp"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <unistd.h>
#include <upm/upm.hpp>

namespace upm::tool::cli {

namespace {

constexpr const char *kDevice = "/dev/upm";

// "6.12.115-amd64" is {6, 12}; {0, 0} for something else.
struct Version {
    unsigned major = 0;
    unsigned minor = 0;
};

Version parse_release(std::string_view release) {
    const std::size_t dot = release.find('.');
    if (dot == std::string_view::npos)
        return {};
    const std::string_view rest = release.substr(dot + 1);
    const auto major = parse_integer<std::uint64_t>(release.substr(0, dot));
    const auto minor =
        parse_integer<std::uint64_t>(rest.substr(0, rest.find_first_not_of("0123456789")));
    if (!major || !minor)
        return {};
    return {.major = static_cast<unsigned>(*major), .minor = static_cast<unsigned>(*minor)};
}

Finding check_kernel(const Machine &machine) {
    const Version version = parse_release(machine.release);
    if (version.major > 6 || (version.major == 6 && version.minor >= 1))
        return {.verdict = Verdict::kOk, .found = machine.release, .cure = ""};
    return {.verdict = Verdict::kWarn,
            .found = machine.release + ", older than the kernels that the module is tested on",
            .cure = "use Linux 6.1 or newer"};
}

Finding check_headers(const Machine &machine) {
    const std::string build = "/lib/modules/" + machine.release + "/build";
    if (machine.root.exists(build + "/Makefile"))
        return {.verdict = Verdict::kOk, .found = build, .cure = ""};
    return {.verdict = Verdict::kWarn,
            .found = "no kernel headers for " + machine.release,
            .cure =
                "apt-get install linux-headers-" + machine.release + " (only to build the module)"};
}

bool module_loaded(const Machine &machine) {
    return machine.root.is_directory("/sys/module/upm");
}

// The entry of upm.ko, compressed or not, in modules.dep.
std::string installed_module(const Machine &machine) {
    const std::string folder = "/lib/modules/" + machine.release;
    std::string found;
    try {
        machine.root.lines(folder + "/modules.dep", [&](std::string_view line) {
            const std::string_view path = line.substr(0, line.find(':'));
            const std::size_t slash = path.rfind('/');
            const std::string_view file =
                slash == std::string_view::npos ? path : path.substr(slash + 1);
            if (file == "upm.ko" || file.starts_with("upm.ko."))
                found = folder + "/" + std::string(path);
        });
    } catch (const SystemError &) {
        found.clear(); // no such folder: nothing is installed
    }
    return found;
}

Finding check_module_installed(const Machine &machine) {
    const std::string path = installed_module(machine);
    if (!path.empty())
        return {.verdict = Verdict::kOk, .found = path, .cure = ""};
    return {.verdict = Verdict::kWarn,
            .found = "no upm.ko for " + machine.release,
            .cure = "make kmod && make install, or make dkms"};
}

Finding check_module_loaded(const Machine &machine) {
    if (module_loaded(machine)) {
        const auto version = machine.root.first_line("/sys/module/upm/version");
        return {.verdict = Verdict::kOk,
                .found = "loaded, version " + printable(version.value_or("unknown")),
                .cure = ""};
    }
    return {.verdict = Verdict::kWarn, .found = "not loaded", .cure = "as root: modprobe upm"};
}

// A kernel that takes signed modules only refuses one that was built here.
Finding check_signatures(const Machine &machine) {
    const std::string enforced =
        machine.root.first_line("/sys/module/module/parameters/sig_enforce").value_or("N");
    const std::string lockdown =
        machine.root.first_line("/sys/kernel/security/lockdown").value_or("[none]");
    const bool locked = lockdown.find("[none]") == std::string::npos;
    if (enforced != "Y" && !locked)
        return {.verdict = Verdict::kOk, .found = "unsigned modules may be loaded", .cure = ""};
    const bool loaded = module_loaded(machine);
    return {.verdict = loaded ? Verdict::kOk : Verdict::kWarn,
            .found = "the kernel takes signed modules only",
            .cure = loaded ? "" : "sign upm.ko (kmodsign, mokutil), or switch Secure Boot off"};
}

Finding check_device(const Machine &machine) {
    const std::string path = machine.root.path(kDevice);
    if (::access(path.c_str(), R_OK | W_OK) == 0)
        return {
            .verdict = Verdict::kOk, .found = std::string(kDevice) + " may be used", .cure = ""};
    const int error = errno;
    if (error == ENOENT)
        return {.verdict = Verdict::kWarn,
                .found = std::string("no ") + kDevice,
                .cure = module_loaded(machine)
                            ? "the device is hidden here (container?): pass it in"
                            : "load the module"};
    return {.verdict = Verdict::kFail,
            .found = fmt::format("{}: {}", kDevice, std::strerror(error)),
            .cure = "as root: chmod 0666 /dev/upm, or a udev rule for who may merge"};
}

// The library knows both sides of the handshake; its first backend is kmod.
Finding check_abi(const Machine & /*machine*/) {
    const Result<BackendStatus> kmod = backend_status(0);
    if (kmod->available)
        return {.verdict = Verdict::kOk, .found = kmod->reason, .cure = ""};
    const bool mismatch = std::strstr(kmod->reason, "ABI version") != nullptr;
    return {.verdict = mismatch ? Verdict::kFail : Verdict::kWarn,
            .found = kmod->reason,
            .cure = mismatch ? "install module and library of one release" : "load the module"};
}

Finding check_enabled(const Machine &machine) {
    const auto enabled = machine.root.number("/sys/kernel/upm/enabled");
    if (!enabled)
        return {
            .verdict = Verdict::kWarn, .found = "no /sys/kernel/upm", .cure = "load the module"};
    if (*enabled != 0)
        return {.verdict = Verdict::kOk, .found = "merging is enabled", .cure = ""};
    return {.verdict = Verdict::kFail,
            .found = "merging is disabled",
            .cure = "as root: echo 1 > /sys/kernel/upm/enabled"};
}

Finding check_ksm(const Machine &machine) {
    const auto run = machine.root.number("/sys/kernel/mm/ksm/run");
    if (!run)
        return {.verdict = Verdict::kWarn,
                .found = "this kernel has no KSM",
                .cure = "none needed where the module is loaded"};
    if (*run == 1)
        return {.verdict = Verdict::kOk, .found = "KSM runs (the fallback)", .cure = ""};
    return {.verdict = module_loaded(machine) ? Verdict::kOk : Verdict::kWarn,
            .found = fmt::format("KSM does not run (run is {})", *run),
            .cure = module_loaded(machine) ? "" : "as root: echo 1 > /sys/kernel/mm/ksm/run"};
}

Finding check_thp(const Machine &machine) {
    const auto text = machine.root.first_line("/sys/kernel/mm/transparent_hugepage/enabled");
    if (!text)
        return {.verdict = Verdict::kOk, .found = "no transparent huge pages", .cure = ""};
    const std::size_t open = text->find('[');
    const std::size_t close = text->find(']');
    const std::string mode = open == std::string::npos || close == std::string::npos
                                 ? *text
                                 : text->substr(open + 1, close - open - 1);
    const bool always = mode == "always";
    return {.verdict = Verdict::kOk,
            .found =
                printable(mode) + (always ? ": merging splits the huge pages it works on" : ""),
            .cure = ""};
}

Finding check_ptrace(const Machine &machine) {
    constexpr unsigned kCapSysPtrace = 19; // linux/capability.h
    unsigned long long effective = 0;
    machine.root.lines("/proc/self/status", [&](std::string_view line) {
        constexpr std::string_view kKey = "CapEff:";
        if (line.starts_with(kKey))
            effective =
                parse_integer<std::uint64_t>(trimmed(line.substr(kKey.size())), 16).value_or(0);
    });
    if ((effective >> kCapSysPtrace & 1U) != 0)
        return {.verdict = Verdict::kOk, .found = "CAP_SYS_PTRACE: yes", .cure = ""};
    return {.verdict = Verdict::kWarn,
            .found = "CAP_SYS_PTRACE: no; upm advise cannot work on other processes",
            .cure = "run upm advise as root (programs may advise their own memory without)"};
}

Finding check_aslr(const Machine &machine) {
    const auto mode = machine.root.number("/proc/sys/kernel/randomize_va_space");
    if (!mode)
        return {.verdict = Verdict::kWarn, .found = "unknown", .cure = "mount /proc"};
    if (*mode == 0)
        return {.verdict = Verdict::kWarn,
                .found = "off for all programs: merges more, and makes attacks easier",
                .cure = "as root: sysctl kernel.randomize_va_space=2"};
    return {.verdict = Verdict::kOk,
            .found = "on: pages that hold pointers merge among programs of upm run --layout keyed "
                     "only (outsiders have 2^32 places to guess)",
            .cure = ""};
}

// Copies may break all at once, and then need the memory that merging freed.
Finding check_memory(const Machine &machine) {
    unsigned long long total = 0;
    unsigned long long available = 0;
    machine.root.lines("/proc/meminfo", [&](std::string_view line) {
        const auto take = [&](std::string_view key, unsigned long long &value) {
            if (!line.starts_with(key))
                return;
            line.remove_prefix(key.size());
            line = trimmed(line);
            value = parse_integer<std::uint64_t>(line.substr(0, line.find(' '))).value_or(0);
        };
        take("MemTotal:", total);
        take("MemAvailable:", available);
    });
    constexpr unsigned long long kKib = 1024;
    constexpr unsigned long long kScarce = 10; // one tenth
    const bool scarce = available < total / kScarce;
    return {.verdict = scarce ? Verdict::kWarn : Verdict::kOk,
            .found = fmt::format("{} of {} available", human_bytes(available * kKib),
                                 human_bytes(total * kKib)),
            .cure = scarce ? "free some: writes to merged pages need memory for their copies" : ""};
}

Finding check_backend(const Machine & /*machine*/) {
    const Info found = upm::info();
    const std::string text = fmt::format("{} ({})", found.backend, found.reason);
    if (found.immediate != 0)
        return {.verdict = Verdict::kOk, .found = text, .cure = ""};
    if (std::strcmp(found.backend, "none") != 0)
        return {.verdict = Verdict::kWarn,
                .found = text,
                .cure = "load the module to merge at once, file pages as well"};
    return {.verdict = Verdict::kFail,
            .found = text,
            .cure = "load the module, or switch KSM on, and mind UPM_BACKEND and UPM_DOMAIN"};
}

// The answer that the checks above lead to.
Finding check_merges(const Machine &machine) {
    Outlook expected = outlook(upm::info(), read_surroundings(machine.root));
    const bool at_once = expected.merges && expected.cure.empty();
    return {.verdict = at_once           ? Verdict::kOk
                       : expected.merges ? Verdict::kWarn
                                         : Verdict::kFail,
            .found = std::move(expected.what),
            .cure = std::move(expected.cure)};
}

constexpr Check kChecks[] = {
    {"kernel", check_kernel},
    {"kernel_headers", check_headers},
    {"module_installed", check_module_installed},
    {"module_signatures", check_signatures},
    {"module_loaded", check_module_loaded},
    {"device", check_device},
    {"abi", check_abi},
    {"enabled", check_enabled},
    {"ksm", check_ksm},
    {"huge_pages", check_thp},
    {"cap_sys_ptrace", check_ptrace},
    {"aslr", check_aslr},
    {"memory", check_memory},
    {"backend", check_backend},
    {"merges", check_merges},
};

} // namespace

std::span<const Check> doctor_checks() {
    return kChecks;
}

} // namespace upm::tool::cli
