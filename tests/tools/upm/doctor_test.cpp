// SPDX-License-Identifier: MIT
//
// Each check of upm doctor against machines that a folder plays.
#include "tools/upm/doctor.hpp"

#include "tests/support/support.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <set>
#include <stdexcept>
#include <string_view>
#include <unistd.h>

namespace upm::tool::cli {

namespace {

using test::TempDir;
using testing::HasSubstr;

constexpr const char *kRelease = "6.12.1-amd64";

class DoctorCheck : public testing::Test {
  protected:
    [[nodiscard]] Finding check(std::string_view name, const char *release = kRelease) const {
        for (const Check &one : doctor_checks())
            if (name == one.name)
                return one.run({.root = Root(dir.path()), .release = release});
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
        EXPECT_EQ(finding.cure.empty(), verdict == Verdict::kOk) << name << ": " << finding.cure;
    }

    const TempDir dir;
};

TEST_F(DoctorCheck, Kernel) {
    for (const char *good : {"6.1.0-56-amd64", "6.12.115", "7.2.13", "10.0"})
        EXPECT_EQ(check("kernel", good).verdict, Verdict::kOk) << good;
    for (const char *bad : {"6.0.9", "5.15.0-1-generic", "4.15", "odd", "x.y"})
        EXPECT_EQ(check("kernel", bad).verdict, Verdict::kWarn) << bad;
}

TEST_F(DoctorCheck, Headers) {
    expect("kernel_headers", Verdict::kWarn, "no kernel headers", "linux-headers-6.12.1-amd64");
    dir.write("lib/modules/6.12.1-amd64/build/Makefile", "");
    expect("kernel_headers", Verdict::kOk, "/lib/modules/6.12.1-amd64/build");
}

TEST_F(DoctorCheck, ModuleInstalled) {
    expect("module_installed", Verdict::kWarn, "no upm.ko", "make");
    dir.write("lib/modules/6.12.1-amd64/modules.dep",
              "kernel/x/notupm.ko:\nkernel/x/upm.kob:\nkernel/upm/x.ko: kernel/upm.ko\n");
    expect("module_installed", Verdict::kWarn, "no upm.ko", "make");
    dir.write("lib/modules/6.12.1-amd64/modules.dep",
              "kernel/x.ko:\nupdates/dkms/upm.ko.xz: a.ko\n");
    expect("module_installed", Verdict::kOk, "/lib/modules/6.12.1-amd64/updates/dkms/upm.ko.xz");
}

TEST_F(DoctorCheck, ModuleLoaded) {
    expect("module_loaded", Verdict::kWarn, "not loaded", "modprobe upm");
    dir.write("sys/module/upm/version", "0.1.0\n");
    expect("module_loaded", Verdict::kOk, "version 0.1.0");
}

TEST_F(DoctorCheck, Signatures) {
    expect("module_signatures", Verdict::kOk, "unsigned");
    dir.write("sys/module/module/parameters/sig_enforce", "Y\n");
    expect("module_signatures", Verdict::kWarn, "signed modules only", "sign");
    dir.write("sys/module/upm/version", "0.1.0\n");
    expect("module_signatures", Verdict::kOk, "signed modules only");
}

TEST_F(DoctorCheck, Lockdown) {
    dir.write("sys/kernel/security/lockdown", "[none] integrity confidentiality\n");
    expect("module_signatures", Verdict::kOk, "unsigned");
    dir.write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
    expect("module_signatures", Verdict::kWarn, "signed modules only", "sign");
}

TEST_F(DoctorCheck, Device) {
    expect("device", Verdict::kWarn, "no /dev/upm", "load the module");
    dir.mkdir("sys/module/upm");
    expect("device", Verdict::kWarn, "no /dev/upm", "container");
    dir.write("dev/upm", "");
    expect("device", Verdict::kOk, "may be used");
    // Root is stopped by no permission; the folder belongs to who runs the test.
    constexpr uid_t kNobody = 65534;
    dir.write("dev/upm", "", 0);
    EXPECT_EQ(test::in_child([&] {
                  if (::geteuid() == 0 && ::setresuid(kNobody, kNobody, kNobody) != 0)
                      return 1;
                  expect("device", Verdict::kFail, "Permission denied", "chmod");
                  return HasFailure() ? 2 : 0;
              }),
              0);
}

TEST_F(DoctorCheck, Enabled) {
    expect("enabled", Verdict::kWarn, "no /sys/kernel/upm", "load");
    dir.write("sys/kernel/upm/enabled", "0\n");
    expect("enabled", Verdict::kFail, "disabled", "echo 1");
    dir.write("sys/kernel/upm/enabled", "1\n");
    expect("enabled", Verdict::kOk, "enabled");
}

TEST_F(DoctorCheck, Ksm) {
    expect("ksm", Verdict::kWarn, "no KSM", "module");
    dir.write("sys/kernel/mm/ksm/run", "0\n");
    expect("ksm", Verdict::kWarn, "run is 0", "echo 1");
    dir.write("sys/kernel/mm/ksm/run", "1\n");
    expect("ksm", Verdict::kOk, "KSM runs");
    dir.write("sys/kernel/mm/ksm/run", "2\n");
    dir.mkdir("sys/module/upm");
    expect("ksm", Verdict::kOk, "run is 2");
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
    expect("cap_sys_ptrace", Verdict::kWarn, "no", "root");
    dir.write("proc/self/status", "Name:\tx\nCapEff:\t0000000000080000\n");
    expect("cap_sys_ptrace", Verdict::kOk, "yes");
}

TEST_F(DoctorCheck, Aslr) {
    expect("aslr", Verdict::kWarn, "unknown", "/proc");
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
    for (const Check &one : doctor_checks())
        EXPECT_TRUE(names.insert(one.name).second) << one.name;
    EXPECT_EQ(names.size(), 15U) << "document a new check in upm(1)";
}

} // namespace

} // namespace upm::tool::cli
