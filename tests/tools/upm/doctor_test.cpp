// SPDX-License-Identifier: MIT
//
// Each check of upm doctor against machines that a folder plays.
#include "tools/upm/doctor.hpp"

#include "tests/support/support.hpp"
#include "tools/upm/model/cdi.hpp"
#include "tools/upm/read/hook_file.hpp"
#include "tools/upm/read/memory_limit.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <set>
#include <span>
#include <stdexcept>
#include <string_view>
#include <unistd.h>
#include <vector>

namespace upm::tool::cli {

namespace {

using test::TempDir;
using testing::HasSubstr;

constexpr const char *kRelease = "6.12.1-amd64";

std::vector<Check> all_checks() {
    std::vector<Check> checks;
    for (const std::span<const Check> part : {store_checks(), module_checks(), system_checks()})
        checks.insert(checks.end(), part.begin(), part.end());
    return checks;
}

class DoctorCheck : public testing::Test {
  protected:
    DoctorCheck() { dir.write("proc/modules", ""); }

    [[nodiscard]] Finding check(std::string_view name, const char *release = kRelease) const {
        for (const Check &one : all_checks())
            if (name == one.name)
                return one.run({.root = Root(dir.path()), .release = release, .asker = asker});
        throw std::runtime_error("no check " + std::string(name));
    }
    void expect(std::string_view name, Verdict verdict, const char *found,
                const char *cure = "") const {
        const Finding finding = check(name);
        EXPECT_EQ(finding.verdict, verdict) << name << ": " << finding.found;
        EXPECT_THAT(finding.found, HasSubstr(found)) << name;
        EXPECT_THAT(finding.cure, HasSubstr(cure)) << name;
        EXPECT_EQ(finding.found.find('\n'), std::string::npos);
        // What needs no cure must not offer one, and what is broken must.
        EXPECT_EQ(finding.cure.empty(), verdict == Verdict::kOk || verdict == Verdict::kSkip)
            << name << ": " << finding.cure;
    }

    const TempDir dir;
    // An operator at a machine with packages.
    Asker asker = {.root = true,
                   .container = false,
                   .systemd = true,
                   .apt = true,
                   .packaged = true,
                   .sudo = true,
                   .tree = "",
                   .folder = "/usr/bin"};
};

TEST_F(DoctorCheck, Kernel) {
    for (const char *good : {"6.1.0-56-amd64", "6.12.115", "7.2.13", "10.0"})
        EXPECT_EQ(check("kernel", good).verdict, Verdict::kOk) << good;
    for (const char *bad : {"6.0.9", "5.15.0-1-generic", "4.15", "odd", "x.y"})
        EXPECT_EQ(check("kernel", bad).verdict, Verdict::kWarn) << bad;
}

TEST_F(DoctorCheck, Headers) {
    expect("kernel_headers", Verdict::kWarn, "no kernel headers",
           "apt-get install linux-headers-6.12.1-amd64");
    asker.apt = false;
    expect("kernel_headers", Verdict::kWarn, "no kernel headers", "install the headers");
    dir.write("lib/modules/6.12.1-amd64/build/Makefile", "");
    expect("kernel_headers", Verdict::kOk, "/lib/modules/6.12.1-amd64/build");
    dir.write("lib/modules/6.12.1-amd64/modules.dep", "updates/dkms/upm.ko: a.ko\n");
    expect("kernel_headers", Verdict::kSkip, "nothing is to be built");
}

TEST_F(DoctorCheck, ModuleInstalled) {
    expect("module_installed", Verdict::kWarn, "no upm.ko", "apt-get install ./upm-dkms_*.deb");
    asker.packaged = false;
    expect("module_installed", Verdict::kWarn, "no upm.ko", "make dkms");
    asker.tree = "/src/upm";
    expect("module_installed", Verdict::kWarn, "no upm.ko", "make -C /src/upm dkms");
    asker.root = false;
    expect("module_installed", Verdict::kWarn, "no upm.ko", "sudo make -C /src/upm dkms");
    dir.write("lib/modules/6.12.1-amd64/modules.dep",
              "kernel/x/notupm.ko:\nkernel/x/upm.kob:\nkernel/upm/x.ko: kernel/upm.ko\n");
    expect("module_installed", Verdict::kWarn, "no upm.ko", "make");
    dir.write("lib/modules/6.12.1-amd64/modules.dep",
              "kernel/x.ko:\nupdates/dkms/upm.ko.xz: a.ko\n");
    expect("module_installed", Verdict::kOk, "/lib/modules/6.12.1-amd64/updates/dkms/upm.ko.xz");
}

TEST_F(DoctorCheck, Dkms) {
    expect("dkms", Verdict::kSkip, "does not know");
    dir.mkdir("var/lib/dkms/upm/0.1.0/source");
    expect("dkms", Verdict::kWarn, "is not built", "dkms install upm/0.1.0 -k 6.12.1-amd64");
    expect("module_installed", Verdict::kSkip, "dkms says");
    dir.write("var/lib/dkms/upm/0.1.0/build/make.log", "");
    expect("dkms", Verdict::kWarn, "its last build failed: /var/lib/dkms/upm/0.1.0/build/make.log",
           "dkms install");
    dir.mkdir("var/lib/dkms/upm/0.1.0/6.12.1-amd64/x86_64");
    expect("dkms", Verdict::kWarn, "built, not installed", "dkms install");
    dir.write("lib/modules/6.12.1-amd64/modules.dep", "updates/dkms/upm.ko: a.ko\n");
    expect("dkms", Verdict::kOk, "upm/0.1.0 for 6.12.1-amd64 is installed");
}

TEST_F(DoctorCheck, ModuleLoaded) {
    expect("module_loaded", Verdict::kSkip, "not installed");
    dir.write("lib/modules/6.12.1-amd64/modules.dep", "updates/dkms/upm.ko: a.ko\n");
    expect("module_loaded", Verdict::kWarn, "not loaded", "modprobe upm");
    dir.write("sys/module/upm/version", "0.1.0\n");
    expect("module_loaded", Verdict::kOk, "version 0.1.0");
}

// Seven lines would say the same.
TEST_F(DoctorCheck, WithoutModulesOneLineSaysSo) {
    ASSERT_EQ(::unlink((dir.path() + "/proc/modules").c_str()), 0);
    dir.mkdir("var/lib/dkms/upm/0.1.0/source");
    expect("module_loaded", Verdict::kOk, "no /proc/modules");
    for (const char *name :
         {"kernel_headers", "dkms", "module_installed", "module_signatures", "device", "enabled"})
        expect(name, Verdict::kSkip, "");
    asker.container = true;
    expect("module_loaded", Verdict::kOk, "for the host");
}

TEST_F(DoctorCheck, Signatures) {
    expect("module_signatures", Verdict::kOk, "unsigned");
    dir.write("sys/module/module/parameters/sig_enforce", "Y\n");
    expect("module_signatures", Verdict::kOk, "signed modules only");
    dir.write("lib/modules/6.12.1-amd64/modules.dep", "upm.ko: a.ko\n");
    dir.write("lib/modules/6.12.1-amd64/upm.ko", std::string(1000, 'x'));
    expect("module_signatures", Verdict::kWarn, "signed modules only", "upm-dkms");
    dir.write("var/lib/dkms/mok.pub", "");
    expect("module_signatures", Verdict::kWarn, "is not, or compressed and signed",
           "mokutil --import /var/lib/dkms/mok.pub");
    dir.write("lib/modules/6.12.1-amd64/upm.ko",
              std::string(1000, 'x') + "~Module signature appended~\n");
    expect("module_signatures", Verdict::kWarn, "upm.ko is signed", "mokutil --import");
    dir.write("sys/module/upm/version", "0.1.0\n");
    expect("module_signatures", Verdict::kOk, "signed modules only");
}

TEST_F(DoctorCheck, SecureBoot) {
    const std::string variable =
        "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    dir.write(variable, std::string_view("\x06\0\0\0\0", 5));
    EXPECT_EQ(check("module_signatures").found, "unsigned modules may be loaded");
    dir.write(variable, std::string_view("\x06\0\0\0\1", 5));
    expect("module_signatures", Verdict::kOk, "(Secure Boot is on)");
}

TEST_F(DoctorCheck, Lockdown) {
    dir.write("lib/modules/6.12.1-amd64/modules.dep", "upm.ko: a.ko\n");
    dir.write("sys/kernel/security/lockdown", "[none] integrity confidentiality\n");
    expect("module_signatures", Verdict::kOk, "unsigned");
    dir.write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
    expect("module_signatures", Verdict::kWarn, "signed modules only", "signs");
}

TEST_F(DoctorCheck, Device) {
    expect("device", Verdict::kSkip, "not loaded");
    dir.mkdir("sys/module/upm");
    expect("device", Verdict::kWarn, "no /dev/upm", "mknod");
    asker.container = true;
    expect("device", Verdict::kWarn, "no /dev/upm in this container", "upm cdi generate --module");
    asker.container = false;
    dir.write("dev/upm", "");
    expect("device", Verdict::kOk, "may be used");
    // Root is stopped by no permission; the folder belongs to who runs the test.
    constexpr uid_t kNobody = 65534;
    dir.write("dev/upm", "", 0);
    asker.root = false;
    EXPECT_EQ(test::in_child([&] {
                  if (::geteuid() == 0 && ::setresuid(kNobody, kNobody, kNobody) != 0)
                      return 1;
                  expect("device", Verdict::kFail, "Permission denied", "sudo chmod 0666 /dev/upm");
                  return HasFailure() ? 2 : 0;
              }),
              0);
}

TEST_F(DoctorCheck, Enabled) {
    expect("enabled", Verdict::kSkip, "no /sys/kernel/upm");
    dir.write("sys/kernel/upm/enabled", "0\n");
    expect("enabled", Verdict::kFail, "disabled", "echo 1 > /sys/kernel/upm/enabled");
    asker.root = false;
    expect("enabled", Verdict::kFail, "disabled", "sudo sh -c 'echo 1 > /sys/kernel/upm/enabled'");
    dir.write("sys/kernel/upm/enabled", "1\n");
    expect("enabled", Verdict::kOk, "enabled");
}

TEST_F(DoctorCheck, Ksm) {
    dir.write("sys/kernel/mm/ksm/run", "1\n");
    expect("ksm", Verdict::kOk, "KSM runs");
    (void)::setenv("UPM_BACKEND", "none", 1); // of the library in this process
    dir.write("sys/kernel/mm/ksm/run", "2\n");
    expect("ksm", Verdict::kWarn, "run is 2", "echo 1 > /sys/kernel/mm/ksm/run");
    (void)::unsetenv("UPM_BACKEND");
}

// Each backend of the store is found by the library; what is played here are files.
TEST_F(DoctorCheck, Cdi) {
    expect("cdi", Verdict::kWarn, "no device", "upm cdi generate");
    asker.root = false;
    expect("cdi", Verdict::kWarn, "no device", "sudo ");
    asker.container = true;
    expect("cdi", Verdict::kSkip, "host");
}

// Engines go by what is in a file, and refuse what two define.
TEST_F(DoctorCheck, CdiCopies) {
    constexpr unsigned kPrivate = 0600;
    const auto write = [&](const std::string &path, const std::string &name) {
        dir.write(path,
                  dump(cdi_specification({.name = name,
                                          .key = std::string(32, 'a'),
                                          .hook = "/lib/hook.so",
                                          .launcher = "",
                                          .with_module = false,
                                          .preload = ""})),
                  kPrivate);
    };
    dir.write("lib/hook.so", "");
    dir.mkdir("run/upm");
    write("etc/cdi/upm.dev-share-team.json", "team");
    expect("cdi", Verdict::kOk, "upm.dev/share=team");
    write("etc/cdi/upm.dev-share-team (copy).json", "team");
    expect("cdi", Verdict::kFail, "engines take neither",
           "rm '/etc/cdi/upm.dev-share-team (copy).json'");
    asker.root = false;
    expect("cdi", Verdict::kFail, "engines take neither", "sudo sh -c 'rm '\\''/etc/cdi/");
    asker.root = true;
    ASSERT_EQ(::unlink((dir.path() + "/etc/cdi/upm.dev-share-team (copy).json").c_str()), 0);
    write("var/run/cdi/any.json", "team");
    expect("cdi", Verdict::kWarn, "takes the place of", "rm /var/run/cdi/any.json");
    ASSERT_EQ(::unlink((dir.path() + "/etc/cdi/upm.dev-share-team.json").c_str()), 0);
    expect("cdi", Verdict::kOk, "upm.dev/share=team");
}

TEST_F(DoctorCheck, Broker) {
    (void)::setenv("UPM_SOCKET", "/run/upm/upmd.sock", 1);
    expect("broker", Verdict::kWarn, "nobody listens", "systemctl enable --now upmd.socket");
    asker.systemd = false;
    expect("broker", Verdict::kWarn, "nobody listens", "upmd --mode 0666 &");
    asker.root = false;
    expect("broker", Verdict::kWarn, "nobody listens", "sudo sh -c 'upmd --mode 0666 &'");
    asker.container = true;
    expect("broker", Verdict::kWarn, "in this container", "podman run --device");
    asker.container = false;
    dir.write("run/upm/upmd.sock", "");
    expect("broker", Verdict::kFail, "is no socket", "rm -r /run/upm/upmd.sock && ");
    (void)::setenv("UPM_SOCKET", "/run/own.sock", 1);
    asker.folder = "/nowhere";
    expect("broker", Verdict::kFail, "no upmd beside", "apt-get install --reinstall ./upm_*.deb");
    (void)::unsetenv("UPM_SOCKET");
}

TEST(Asker, TypesAsRoot) {
    Asker asker;
    asker.root = true;
    EXPECT_EQ(asker.as_root("echo 1 > x"), "echo 1 > x");
    asker.root = false;
    asker.sudo = true;
    EXPECT_EQ(asker.as_root("modprobe upm"), "sudo modprobe upm");
    EXPECT_EQ(asker.as_root("echo 1 > x"), "sudo sh -c 'echo 1 > x'");
    EXPECT_EQ(asker.as_root("a 'b'; c"), "sudo sh -c 'a '\\''b'\\''; c'");
    asker.sudo = false;
    EXPECT_EQ(asker.as_root("modprobe upm"), "su -c 'modprobe upm'");
}

// A user's PATH is not that of sudo.
TEST(Asker, NamesAProgramAsRootFindsIt) {
    const std::string path = std::getenv("PATH");
    (void)::setenv("PATH", "/home/ann/.local/bin:/usr/bin", 1);
    Asker asker;
    asker.folder = "/home/ann/.local/bin";
    EXPECT_EQ(asker.program("upm"), "/home/ann/.local/bin/upm");
    asker.root = true;
    EXPECT_EQ(asker.program("upm"), "upm");
    asker.root = false;
    asker.folder = "/usr/bin";
    EXPECT_EQ(asker.program("upm"), "upm");
    asker.folder = "/opt/bin";
    EXPECT_EQ(asker.program("upm"), "/opt/bin/upm");
    (void)::setenv("PATH", path.c_str(), 1);
}

TEST(HookFile, IsReadFromTheFile) {
    EXPECT_FALSE(parse_hook_file(""));
    EXPECT_FALSE(parse_hook_file(std::string(4096, 'x')));
    const std::string self = test::read_file("/proc/self/exe");
    const std::optional<HookFile> program = parse_hook_file(self);
    ASSERT_TRUE(program);
    EXPECT_THAT(program->libraries, testing::Contains("libc.so.6"));
    EXPECT_FALSE(older_version(program->glibc, "2.34")) << "__libc_start_main of 2.34";
    // However it is cut, nothing is read behind its end.
    for (std::size_t length = 0; length < self.size(); length += self.size() / 97)
        (void)parse_hook_file(std::string_view(self).substr(0, length));
}

TEST(HookFile, Versions) {
    EXPECT_TRUE(older_version("2.9", "2.17"));
    EXPECT_FALSE(older_version("2.17", "2.9"));
    EXPECT_FALSE(older_version("2.17", "2.17"));
    EXPECT_TRUE(older_version("", "2"));
    EXPECT_TRUE(older_version("2.3", "2.3.4"));
}

TEST(MemoryLimit, IsTheLowestOfAllGroupsAbove) {
    const TempDir dir;
    const Root root(dir.path());
    EXPECT_EQ(memory_limit(root, 1).file, "") << "nothing at all";
    dir.write("proc/7/cgroup", "5:memory:/a/b\n1:name=systemd:/x\n0::/c/d\n");
    dir.write("proc/self/mountinfo", "30 1 0:26 / /cg2 rw - cgroup2 cgroup2 rw\n"
                                     "31 1 0:27 / /cg1 rw - cgroup cgroup rw,memory\n"
                                     "32 1 0:28 / /cpu rw - cgroup cgroup rw,cpu\n");
    EXPECT_EQ(memory_limit(root, 7).file, "");
    dir.write("cg2/c/d/memory.max", "max\n");
    dir.write("cg2/c/memory.max", "500\n");
    dir.write("cg1/a/b/memory.limit_in_bytes", "9223372036854771712\n");
    EXPECT_EQ(memory_limit(root, 7).file, "/cg2/c/memory.max");
    EXPECT_EQ(memory_limit(root, 7).bytes, 500U);
    dir.write("cg1/a/memory.limit_in_bytes", "400\n");
    EXPECT_EQ(memory_limit(root, 7).file, "/cg1/a/memory.limit_in_bytes");
    dir.write("cg1/memory.limit_in_bytes", "300\n");
    EXPECT_EQ(memory_limit(root, 7).bytes, 300U);
}

TEST_F(DoctorCheck, HugePages) {
    expect("huge_pages", Verdict::kOk, "no transparent");
    dir.write("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n");
    expect("huge_pages", Verdict::kOk, "always: merging splits");
    dir.write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
    EXPECT_EQ(check("huge_pages").found, "madvise");
    dir.write("sys/kernel/mm/transparent_hugepage/enabled", "odd\n");
    EXPECT_EQ(check("huge_pages").found, "odd");
}

TEST_F(DoctorCheck, Ptrace) {
    EXPECT_THROW((void)check("cap_sys_ptrace"), std::exception) << "no /proc at all";
    dir.write("proc/self/status",
              "Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000000000\n");
    expect("cap_sys_ptrace", Verdict::kSkip, "needs the module");
    dir.mkdir("sys/module/upm");
    expect("cap_sys_ptrace", Verdict::kWarn, "no", "--cap-add SYS_PTRACE");
    asker.root = false;
    expect("cap_sys_ptrace", Verdict::kOk, "is for root");
    dir.write("proc/self/status", "Name:\tx\nCapEff:\t0000000000080000\n");
    expect("cap_sys_ptrace", Verdict::kOk, "yes");
}

TEST_F(DoctorCheck, Aslr) {
    expect("aslr", Verdict::kSkip, "no /proc/sys");
    dir.write("proc/sys/kernel/randomize_va_space", "2\n");
    expect("aslr", Verdict::kOk, "on");
    dir.write("proc/sys/kernel/randomize_va_space", "0\n");
    expect("aslr", Verdict::kWarn, "off", "sysctl");
}

TEST_F(DoctorCheck, Memory) {
    dir.write("proc/meminfo",
              "MemTotal:       1000000 kB\nMemFree: 1 kB\nMemAvailable: 500000 kB\n");
    expect("memory", Verdict::kOk, "488.3 MiB of 976.6 MiB");
    dir.write("proc/meminfo", "MemTotal:       1000000 kB\nMemAvailable:  99999 kB\n");
    expect("memory", Verdict::kWarn, "of 976.6 MiB", "copies");
}

TEST_F(DoctorCheck, EveryCheckHasItsOwnName) {
    std::set<std::string> names;
    for (const Check &one : all_checks())
        EXPECT_TRUE(names.insert(one.name).second) << one.name;
    EXPECT_EQ(names.size(), 23U) << "document a new check in upm(1)";
}

} // namespace

} // namespace upm::tool::cli
