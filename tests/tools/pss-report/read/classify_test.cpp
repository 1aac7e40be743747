// SPDX-License-Identifier: MIT
#include "tools/pss-report/read/parse.hpp"

#include <gtest/gtest.h>

namespace upm::tool::pss {

namespace {

const std::string kId = std::string(60, 'a') + "0123";

struct ContainerCase {
    const char *label;
    std::string cgroup;
    const char *runtime;
    std::string id;
};

class ContainerOf : public testing::TestWithParam<ContainerCase> {};

TEST_P(ContainerOf, IsFound) {
    const Container container =
        container_of(GetParam().cgroup, {{"my-function", "runc"}, {"other", "crun"}});
    EXPECT_EQ(container.runtime, GetParam().runtime);
    EXPECT_EQ(container.id, GetParam().id);
}

INSTANTIATE_TEST_SUITE_P(
    Runtimes, ContainerOf,
    testing::Values(
        ContainerCase{"DockerSystemd", "/system.slice/docker-" + kId + ".scope", "docker", kId},
        ContainerCase{"DockerCgroupfs", "/docker/" + kId, "docker", kId},
        ContainerCase{"DockerChild", "/docker/" + kId + "/inner", "docker", kId},
        ContainerCase{"KubernetesSystemd",
                      "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/"
                      "cri-containerd-" +
                          kId + ".scope",
                      "containerd", kId},
        ContainerCase{"KubernetesCgroupfs", "/kubepods/burstable/pod12/" + kId, "container", kId},
        ContainerCase{"ContainerdColons", "/system.slice/kubepods-pod1.slice:cri-containerd:" + kId,
                      "containerd", kId},
        ContainerCase{"CriO", "/kubepods.slice/crio-" + kId + ".scope", "cri-o", kId},
        ContainerCase{"Podman", "/machine.slice/libpod-" + kId + ".scope/container", "podman", kId},
        ContainerCase{"PodmanCgroupfs", "/libpod_parent/libpod-" + kId, "podman", kId},
        ContainerCase{"PodmanMonitor", "/machine.slice/libpod-conmon-" + kId + ".scope", "systemd",
                      "libpod-conmon-" + kId + ".scope"},
        ContainerCase{"RuncScope", "/user.slice/runc-my\\x2dfn.scope", "runc", "my-fn"},
        ContainerCase{"CrunScope", "/user.slice/crun-fn.scope", "crun", "fn"},
        ContainerCase{"RuncCgroupfs", "/my-function", "runc", "my-function"},
        ContainerCase{"CrunCgroupfs", "/a/other/b", "crun", "other"},
        ContainerCase{"Lxc", "/lxc.payload.web/init.scope", "lxc", "web"},
        ContainerCase{"Ecs", "/ecs/task/" + kId, "container", kId},
        ContainerCase{"Nested", "/docker/" + kId + "/system.slice/runc-in.scope", "runc", "in"},
        ContainerCase{"Service", "/system.slice/ssh.service", "systemd", "ssh.service"},
        ContainerCase{"Scope", "/user.slice/user-0.slice/session-1.scope", "systemd",
                      "session-1.scope"},
        ContainerCase{"Root", "/", "", ""}, ContainerCase{"None", "", "", ""},
        ContainerCase{"Plain", "/user/alice", "", ""},
        ContainerCase{"EmptyId", "/docker-.scope", "systemd", "docker-.scope"},
        ContainerCase{"BadEscape", "/runc-a\\xzz.scope", "runc", "a\\xzz"}),
    [](const auto &test) { return test.param.label; });

std::vector<Kind> kinds_of(const char *text) {
    return classify(parse_smaps(text));
}

TEST(Classify, ByName) {
    EXPECT_EQ(
        kinds_of("1000-2000 r-xp 0 08:01 5 /bin/a\n"
                 "2000-3000 rw-p 0 08:01 5 /bin/a\nAnonymous: 4 kB\n"
                 "3000-4000 r--p 0 08:01 5 /bin/a\n"
                 "4000-5000 rw-p 0 00:00 0 [heap]\n"
                 "5000-6000 rw-s 0 00:01 9 /memfd:x (deleted)\n"
                 "6000-7000 rw-p 0 00:01 9 /memfd:upm-1 (deleted)\n"
                 "7000-8000 rw-s 0 00:01 9 /memfd:upm-1 (deleted)\n"
                 "8000-9000 rw-s 0 00:01 9 /dev/zero (deleted)\n"
                 "9000-a000 rw-s 0 00:05 9 /dev/nvidia0\n"
                 "a000-b000 rw-p 0 00:0e 9 /anon_hugepage (deleted)\n"
                 "b000-c000 r-xp 0 00:00 0 [vdso]\n"
                 "c000-d000 rw-p 0 00:00 0 [stack]\n"
                 "d000-e000 rw-p 0 00:00 0 [anon:.bss]\n"),
        (std::vector<Kind>{Kind::kText, Kind::kFilePrivate, Kind::kFile, Kind::kHeap, Kind::kShmem,
                           Kind::kStore, Kind::kShmem, Kind::kShmem, Kind::kSpecial, Kind::kHugetlb,
                           Kind::kSpecial, Kind::kStack, Kind::kAnon}));
}

TEST(Classify, ByShape) {
    EXPECT_EQ(kinds_of("7f0000000000-7f0000021000 rw-p 0 00:00 0\n" // an arena and its reserve
                       "7f0000021000-7f0004000000 ---p 0 00:00 0\n"
                       "7f0008000000-7f0010000000 rw-p 0 00:00 0\n" // 128 MiB
                       "7f0010000000-7f0010001000 ---p 0 00:00 0\n" // a guard page
                       "7f0010001000-7f0010801000 rw-p 0 00:00 0\n" // and its stack
                       "7f0020000000-7f0020010000 rw-p 0 00:00 0\n"),
              (std::vector<Kind>{Kind::kArena, Kind::kAnon, Kind::kWeights, Kind::kAnon,
                                 Kind::kStack, Kind::kAnon}));
}

} // namespace

} // namespace upm::tool::pss
