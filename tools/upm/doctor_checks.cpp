// SPDX-License-Identifier: MIT
//
// upm doctor: the module, and what else of the system has a part in merging.
#include "tools/common/errors.hpp"
#include "tools/common/memory.hpp"
#include "tools/common/sizes.hpp"
#include "tools/common/text.hpp"
#include "tools/upm/doctor.hpp"
#include "tools/upm/layouts.hpp"
#include "tools/upm/model/outlook.hpp"
#include "tools/upm/read/surroundings.hpp"

#include <array>
#include <cerrno>
#include <cstdlib>
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
        return ok(machine.release);
    return warn(machine.release + ", older than the kernels that the module is tested on",
                "use Linux 6.1 or newer");
}

bool module_loaded(const Machine &machine) {
    return machine.root.is_directory("/sys/module/upm");
}

// Why this machine cannot have the module; empty if it can. One check says so, for all.
std::string no_modules_here(const Machine &machine) {
    if (module_loaded(machine))
        return "";
    if (machine.asker.container)
        return "not loaded; that is for the host, and the broker shares without";
    if (!machine.root.exists("/proc/modules"))
        return "this kernel takes no modules (no /proc/modules); the broker shares without";
    return "";
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

// The module's version in DKMS's folder; empty: DKMS does not know it.
std::string dkms_version(const Machine &machine) {
    for (const std::string &name : machine.root.names("/var/lib/dkms/upm"))
        if (machine.root.is_directory("/var/lib/dkms/upm/" + name + "/source"))
            return name;
    return "";
}

// Headers are needed once, to build it.
Finding check_headers(const Machine &machine) {
    if (!no_modules_here(machine).empty() || module_loaded(machine) ||
        !installed_module(machine).empty())
        return skip("nothing is to be built");
    const std::string build = "/lib/modules/" + machine.release + "/build";
    if (machine.root.exists(build + "/Makefile"))
        return ok(build);
    const std::string package = "linux-headers-" + machine.release;
    return warn("no kernel headers for " + machine.release + ", to build the module with",
                machine.asker.apt ? machine.asker.as_root("apt-get install " + package)
                                  : "install the headers of this kernel");
}

Finding check_dkms(const Machine &machine) {
    const std::string version = dkms_version(machine);
    if (version.empty() || !no_modules_here(machine).empty())
        return skip("DKMS does not know the module");
    const std::string folder = "/var/lib/dkms/upm/" + version;
    const bool built = machine.root.is_directory(folder + "/" + machine.release);
    const std::string found = fmt::format("upm/{} for {}", version, machine.release);
    if (built && !installed_module(machine).empty())
        return ok(found + " is installed");
    const std::string log = folder + "/build/make.log";
    const std::string failed =
        machine.root.exists(log) ? fmt::format(" (its last build failed: {})", log) : "";
    return warn(
        fmt::format("{} is {}{}", found, built ? "built, not installed" : "not built",
                    built ? "" : failed),
        machine.asker.as_root(fmt::format("dkms install upm/{} -k {}", version, machine.release)));
}

Finding check_module_installed(const Machine &machine) {
    const std::string path = installed_module(machine);
    if (!path.empty())
        return ok(path);
    if (!no_modules_here(machine).empty() || module_loaded(machine))
        return skip("not needed");
    if (!dkms_version(machine).empty())
        return skip("dkms says what is missing");
    const Asker &asker = machine.asker;
    return warn("no upm.ko for " + machine.release +
                    ": the broker shares without, but not what "
                    "programs already hold",
                asker.packaged       ? asker.as_root("apt-get install ./upm-dkms_*.deb")
                : asker.tree.empty() ? "make dkms, in the folder of the sources"
                                     : asker.as_root(fmt::format("make -C {} dkms", asker.tree)));
}

Finding check_module_loaded(const Machine &machine) {
    if (module_loaded(machine)) {
        const auto version = machine.root.first_line("/sys/module/upm/version");
        return ok("loaded, version " + printable(version.value_or("unknown")));
    }
    if (const std::string why = no_modules_here(machine); !why.empty())
        return ok(why);
    if (installed_module(machine).empty())
        return skip("not installed");
    return warn("not loaded", machine.asker.as_root("modprobe upm"));
}

// Of UEFI: four bytes of attributes, then the value.
bool secure_boot(const Root &root) {
    const Descriptor file =
        root.open("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c");
    std::array<char, 5> content{};
    return file &&
           ::read(file.get(), content.data(), content.size()) ==
               static_cast<ssize_t>(content.size()) &&
           content.back() == 1;
}

// What the kernel's sign-file appends; of a compressed module nothing is known.
bool is_signed(const Root &root, const std::string &path) {
    constexpr std::string_view kMagic = "~Module signature appended~\n";
    const Descriptor file = root.open(path);
    std::array<char, kMagic.size()> end{};
    return file && ::lseek(file.get(), -static_cast<off_t>(end.size()), SEEK_END) > 0 &&
           ::read(file.get(), end.data(), end.size()) == static_cast<ssize_t>(end.size()) &&
           std::string_view(end.data(), end.size()) == kMagic;
}

// A kernel that takes signed modules only refuses one that was built here.
Finding check_signatures(const Machine &machine) {
    if (!no_modules_here(machine).empty())
        return skip("no modules here");
    const std::string enforced =
        machine.root.first_line("/sys/module/module/parameters/sig_enforce").value_or("N");
    const std::string lockdown =
        machine.root.first_line("/sys/kernel/security/lockdown").value_or("[none]");
    const bool locked = lockdown.find("[none]") == std::string::npos;
    const std::string boot = secure_boot(machine.root) ? " (Secure Boot is on)" : "";
    if (enforced != "Y" && !locked)
        return ok("unsigned modules may be loaded" + boot);
    const std::string found = "the kernel takes signed modules only" + boot;
    if (module_loaded(machine))
        return ok(found);
    const std::string path = installed_module(machine);
    if (path.empty())
        return ok(found + ": one that DKMS builds is signed with its key");
    const std::string key = "/var/lib/dkms/mok.pub";
    if (!machine.root.exists(key))
        return warn(found + (is_signed(machine.root, path) ? "; is its key known?" : ""),
                    machine.asker.as_root("apt-get install ./upm-dkms_*.deb") +
                        ": DKMS signs what it builds");
    return warn(fmt::format("{}; {} is {}signed", found, path,
                            is_signed(machine.root, path) ? "" : "not, or compressed and "),
                machine.asker.as_root("mokutil --import " + key) + ", and restart");
}

Finding check_device(const Machine &machine) {
    const std::string path = machine.root.path(kDevice);
    if (::access(path.c_str(), R_OK | W_OK) == 0)
        return ok(std::string(kDevice) + " may be used");
    const int error = errno;
    if (error != ENOENT)
        return fail(fmt::format("{}: {}", kDevice, std::strerror(error)),
                    machine.asker.container ? "on the host: chmod 0666 /dev/upm"
                                            : machine.asker.as_root("chmod 0666 /dev/upm"));
    if (!module_loaded(machine))
        return skip("the module is not loaded");
    if (machine.asker.container)
        return warn(fmt::format("no {} in this container", kDevice),
                    "on the host: upm cdi generate --module && podman run --device "
                    "upm.dev/share=default IMAGE");
    return warn(fmt::format("no {}", kDevice),
                machine.asker.as_root("sh -c 'mknod -m 0666 /dev/upm c 10 "
                                      "$(sed -n \"s/ upm//p\" /proc/misc)'"));
}

// The library knows both sides of the handshake; its first backend is kmod.
Finding check_abi(const Machine & /*machine*/) {
    const Result<BackendStatus> kmod = backend_status(0);
    if (kmod->available)
        return ok(kmod->reason);
    if (std::strstr(kmod->reason, "ABI version") == nullptr)
        return skip(kmod->reason);
    return fail(kmod->reason, "install module and library of one release");
}

Finding check_enabled(const Machine &machine) {
    const auto enabled = machine.root.number("/sys/kernel/upm/enabled");
    if (!enabled)
        return skip("no /sys/kernel/upm");
    if (*enabled != 0)
        return ok("merging is enabled");
    return fail("merging is disabled",
                machine.asker.container
                    ? "on the host: echo 1 > /sys/kernel/upm/enabled"
                    : machine.asker.as_root("echo 1 > /sys/kernel/upm/enabled"));
}

// The last resort: nobody needs it who has a better way.
Finding check_ksm(const Machine &machine) {
    const auto run = machine.root.number("/sys/kernel/mm/ksm/run");
    if (run && *run == 1)
        return ok("KSM runs (the fallback)");
    const std::string found =
        run ? fmt::format("KSM does not run (run is {})", *run) : "this kernel has no KSM";
    const Info info = upm::info();
    if (info.immediate != 0)
        return ok(fmt::format("{}; not needed with {}", found, info.backend));
    if (!run)
        return skip(found);
    return warn(found, machine.asker.container
                           ? "on the host: echo 1 > /sys/kernel/mm/ksm/run"
                           : machine.asker.as_root("echo 1 > /sys/kernel/mm/ksm/run"));
}

Finding check_thp(const Machine &machine) {
    const auto text = machine.root.first_line("/sys/kernel/mm/transparent_hugepage/enabled");
    if (!text)
        return ok("no transparent huge pages");
    const std::size_t open = text->find('[');
    const std::size_t close = text->find(']');
    const std::string mode = open == std::string::npos || close == std::string::npos
                                 ? *text
                                 : text->substr(open + 1, close - open - 1);
    const bool always = mode == "always";
    return ok(printable(mode) + (always ? ": merging splits the huge pages it works on" : ""));
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
        return ok("CAP_SYS_PTRACE: yes");
    if (!module_loaded(machine))
        return skip("only upm advise needs it, and that needs the module");
    if (!machine.asker.root)
        return ok("CAP_SYS_PTRACE: no; upm advise of other processes is for root");
    return warn("CAP_SYS_PTRACE: no; upm advise cannot work on other processes",
                "start the container with --cap-add SYS_PTRACE");
}

Finding check_aslr(const Machine &machine) {
    const auto mode = machine.root.number("/proc/sys/kernel/randomize_va_space");
    if (!mode)
        return skip("no /proc/sys");
    if (*mode == 0)
        return warn("off for all programs: merges more, and makes attacks easier",
                    machine.asker.container
                        ? "on the host: sysctl kernel.randomize_va_space=2"
                        : machine.asker.as_root("sysctl kernel.randomize_va_space=2"));
    return ok("on: pages that hold pointers merge among programs of upm run --layout keyed only");
}

// Copies may break all at once, and then need the memory that merging freed.
Finding check_memory(const Machine &machine) {
    constexpr unsigned kScarce = 10; // percent
    const Memory memory = read_memory(machine.root);
    std::string found =
        fmt::format("{} of {} available", human_bytes(memory.available), human_bytes(memory.total));
    if (is_short(memory, kScarce))
        return warn(std::move(found),
                    "free some: writes to merged pages need memory for their copies");
    return ok(std::move(found));
}

Finding check_backend(const Machine &machine) {
    const Info found = upm::info();
    const std::string text = fmt::format("{} ({})", found.backend, found.reason);
    if (found.immediate != 0)
        return ok(text);
    const char *const chosen = std::getenv("UPM_BACKEND");
    if (chosen != nullptr && *chosen != '\0' && std::strcmp(chosen, "auto") != 0)
        return fail(fmt::format("{}; UPM_BACKEND is {}", text, printable(chosen)),
                    "unset UPM_BACKEND");
    if (std::strcmp(found.backend, "none") != 0)
        return warn(text, store_cure(machine));
    return fail(text, store_cure(machine));
}

// The answer that the checks above lead to.
Finding check_merges(const Machine &machine) {
    const Info info = upm::info();
    Outlook expected = outlook(info, read_surroundings(machine.root));
    if (expected.merges && expected.cure.empty())
        return ok(std::move(expected.what));
    // With a backend that merges at once it is something else that is missing.
    std::string cure = info.immediate != 0 ? expected.cure : store_cure(machine);
    if (expected.merges)
        return warn(std::move(expected.what), std::move(cure));
    return fail(std::move(expected.what), std::move(cure));
}

constexpr Check kModule[] = {
    {"kernel", check_kernel},
    {"kernel_headers", check_headers},
    {"dkms", check_dkms},
    {"module_installed", check_module_installed},
    {"module_signatures", check_signatures},
    {"module_loaded", check_module_loaded},
    {"device", check_device},
    {"abi", check_abi},
    {"enabled", check_enabled},
};

constexpr Check kSystem[] = {
    {"ksm", check_ksm},         {"huge_pages", check_thp},  {"cap_sys_ptrace", check_ptrace},
    {"aslr", check_aslr},       {"layouts", check_layouts}, {"memory", check_memory},
    {"backend", check_backend}, {"merges", check_merges},
};

} // namespace

std::span<const Check> module_checks() {
    return kModule;
}

std::span<const Check> system_checks() {
    return kSystem;
}

} // namespace upm::tool::cli
