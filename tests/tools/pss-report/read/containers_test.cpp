// SPDX-License-Identifier: MIT
#include "tools/pss-report/read/containers.hpp"

#include "tests/support/support.hpp"
#include "tools/pss-report/read/container_names.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

namespace upm::tool::pss {

namespace {

const std::string kId = std::string(60, 'a') + "0123";

const std::string kUid = "0a1b2c3d-1111-2222-3333-0123456789ab";
const std::string kUnitUid = "0a1b2c3d_1111_2222_3333_0123456789ab";

const std::string kPod = std::string(60, 'b') + "4567";
const std::string kTask = "0b69d5c0d655409585f6b2f4be0ed8fc";

struct ContainerCase {
    const char *label;
    std::string cgroup;
    const char *runtime;
    std::string id;
    std::string pod = {};
};

class ContainerOf : public testing::TestWithParam<ContainerCase> {};

TEST_P(ContainerOf, IsFound) {
    const Container container =
        container_of(GetParam().cgroup, {{"my-function", "runc"}, {"other", "crun"}});
    EXPECT_EQ(container.runtime, GetParam().runtime);
    EXPECT_EQ(container.id, GetParam().id);
    EXPECT_EQ(container.pod, GetParam().pod);
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
        // Shapes of real machines.
        ContainerCase{"PodContainerd",
                      "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + kUnitUid +
                          ".slice/cri-containerd-" + kId + ".scope",
                      "containerd", kId, kUid},
        ContainerCase{"PodGuaranteed",
                      "/kubepods.slice/kubepods-pod" + kUnitUid + ".slice/crio-" + kId + ".scope",
                      "cri-o", kId, kUid},
        ContainerCase{"PodCgroupfs", "/kubepods/besteffort/pod" + kUid + "/" + kId, "container",
                      kId, kUid},
        ContainerCase{"PodCriOCgroupfs", "/kubepods/burstable/pod" + kUid + "/crio-" + kId, "cri-o",
                      kId, kUid},
        ContainerCase{"PodColons",
                      "/system.slice/containerd.service/kubepods-burstable-pod" + kUnitUid +
                          ".slice:cri-containerd:" + kId,
                      "containerd", kId, kUid},
        ContainerCase{"PodInKind",
                      "/docker/" + std::string(64, 'e') +
                          "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod" + kUnitUid +
                          ".slice/cri-containerd-" + kId + ".scope",
                      "containerd", kId, kUid},
        ContainerCase{"CriOMonitor", "/kubepods.slice/crio-conmon-" + kId + ".scope", "systemd",
                      "crio-conmon-" + kId + ".scope"},
        ContainerCase{"PodmanRootless",
                      "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + kId +
                          ".scope/container",
                      "podman", kId},
        ContainerCase{"PodmanPod",
                      "/machine.slice/machine-libpod_pod_" + kPod + ".slice/libpod-" + kId +
                          ".scope/container",
                      "podman", kId, kPod},
        ContainerCase{"PodmanOfAUnit", "/system.slice/web.service/libpod-payload-" + kId, "podman",
                      kId},
        ContainerCase{"PodmanPodRootless",
                      "/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_" +
                          kPod + ".slice/libpod-" + kId + ".scope/container",
                      "podman", kId, kPod},
        ContainerCase{"PodmanPodCgroupfs", "/libpod_parent/" + kPod + "/libpod-" + kId, "podman",
                      kId, kPod},
        ContainerCase{"Buildkit", "/docker/buildkit/yq3v2x8tn9u0", "buildkit", "yq3v2x8tn9u0"},
        ContainerCase{"Buildah", "/buildah-buildah123", "buildah", "buildah-buildah123"},
        ContainerCase{"Fargate", "/ecs/" + kTask + "/" + kTask + "-2495160603", "ecs",
                      kTask + "-2495160603"},
        ContainerCase{"KataSandbox", "/kubepods/burstable/pod" + kUid + "/kata_" + kId, "kata", kId,
                      kUid},
        ContainerCase{"Garden", "/garden/0a1b-web", "garden", "0a1b-web"},
        ContainerCase{"Firecracker", "/firecracker/551e7604-e35c", "firecracker", "551e7604-e35c"},
        ContainerCase{"OtherNamespace", "/../../system.slice/docker-" + kId + ".scope", "docker",
                      kId},
        ContainerCase{"NerdctlSystemd", "/system.slice/nerdctl-" + kId + ".scope", "containerd",
                      kId},
        ContainerCase{"NerdctlCgroupfs", "/default/" + kId, "container", kId},
        ContainerCase{"LxcOld", "/lxc/web", "lxc", "web"},
        ContainerCase{"LxcPayload", "/lxc.payload/web", "lxc", "web"},
        ContainerCase{"LxcMonitor", "/lxc.monitor.web", "", ""},
        ContainerCase{"NspawnScope", "/machine.slice/machine-web.scope/payload", "machine", "web"},
        ContainerCase{"NspawnService",
                      "/machine.slice/systemd-nspawn@my\\x2dweb.service/payload/init.scope",
                      "nspawn", "my-web"},
        ContainerCase{"NoPod", "/podium/podx/" + kId, "container", kId},
        ContainerCase{"Root", "/", "", ""}, ContainerCase{"None", "", "", ""},
        ContainerCase{"Plain", "/user/alice", "", ""},
        ContainerCase{"EmptyId", "/docker-.scope", "systemd", "docker-.scope"},
        ContainerCase{"BadEscape", "/runc-a\\xzz.scope", "runc", "a\\xzz"}),
    [](const auto &test) { return test.param.label; });

struct CgroupCase {
    const char *label;
    const char *text;
    const char *path;
};
class CgroupFile : public testing::TestWithParam<CgroupCase> {};
TEST_P(CgroupFile, GivesThePath) {
    EXPECT_EQ(placement_of(cgroup_paths(GetParam().text), {}).cgroup, GetParam().path);
}
INSTANTIATE_TEST_SUITE_P(
    Versions, CgroupFile,
    testing::Values(CgroupCase{"V2", "0::/a/b\n", "/a/b"}, CgroupCase{"V2Root", "0::/\n", "/"},
                    CgroupCase{"V1", "9:cpu,cpuacct:/c\n4:memory:/m\n1:name=systemd:/s\n", "/m"},
                    CgroupCase{"Hybrid", "4:memory:/m\n0::/u\n", "/m"},
                    CgroupCase{"HybridRoot", "4:memory:/m\n0::/\n", "/m"},
                    CgroupCase{"HybridUnified", "4:memory:/\n3:cpu:/c\n0::/u\n", "/u"},
                    CgroupCase{"NoMemory", "2:pids:/\n3:cpu:/x\n0::/\n", "/x"},
                    CgroupCase{"Colons", "0::/a:b:c\n", "/a:b:c"},
                    CgroupCase{"Together", "3:cpu,memory:/both\n", "/both"},
                    CgroupCase{"ContainerFirst", "4:memory:/m\n3:cpu:/lxc/web\n", "/lxc/web"},
                    CgroupCase{"Removed", "0::/lxc/web (deleted)\n", "/lxc/web"},
                    CgroupCase{"RemovedRoot", "0::/ (deleted)\n", "/"}, CgroupCase{"Empty", "", ""},
                    CgroupCase{"Nonsense", "x\n\ny\n", ""}),
    [](const auto &test) { return test.param.label; });

// As on Ubuntu 20.04 with Docker's cgroupfs driver: the unified hierarchy only says where
// containerd runs.
TEST(Placement, OfAHybridHostIsTheContainer) {
    const std::string text = "12:pids:/docker/" + kId + "\n11:memory:/docker/" + kId +
                             "\n1:name=systemd:/docker/" + kId +
                             "\n0::/system.slice/containerd.service\n";
    const Placement place = placement_of(cgroup_paths(text), {});
    EXPECT_EQ(place.container.runtime, "docker");
    EXPECT_EQ(place.container.id, kId);
    EXPECT_EQ(cgroup_paths(text).size(), 2U);
}

TEST(ContainerRuntimes, OfAllWhoKeepAState) {
    const upm::test::TempDir dir;
    for (const char *folder : {"runc/a", "crun/b", "user/1000/crun/c", "containerd/runc/default/d"})
        dir.mkdir(std::string("run/") + folder);
    EXPECT_EQ(container_runtimes(Root(dir.path())),
              (std::map<std::string, std::string>{
                  {"a", "runc"}, {"b", "crun"}, {"c", "crun"}, {"d", "containerd"}}));
}

class Names : public testing::Test {
  protected:
    [[nodiscard]] Container named(const std::string &pod = "",
                                  const std::string &cgroup = "") const {
        Container container{.runtime = "x", .id = kId, .pod = pod};
        ContainerNames(Root(dir.path())).add(container, cgroup);
        return container;
    }
    const upm::test::TempDir dir;
};

TEST_F(Names, OfDocker) {
    EXPECT_EQ(named().name, "");
    dir.write("var/lib/docker/containers/" + kId + "/config.v2.json", R"({"Name": "/web"})");
    EXPECT_EQ(named().name, "web");
}

TEST_F(Names, OfPodman) {
    dir.write("var/lib/containers/storage/overlay-containers/containers.json",
              R"([{"id": "1"}, 5, {"id": ")" + kId + R"(", "names": ["db", "x"]}])");
    EXPECT_EQ(named().name, "db");
}

TEST_F(Names, OfPodmanThatWillBeRemoved) {
    dir.write("var/lib/containers/storage/vfs-containers/volatile-containers.json",
              R"([{"id": ")" + kId + R"(", "names": ["once"]}])");
    EXPECT_EQ(named().name, "once");
}

TEST_F(Names, OfAUser) {
    const std::string cgroup = "/user.slice/user-1000.slice/session-1.scope/libpod-" + kId;
    dir.write("etc/passwd", "ann:x:1000:1000::/home/ann:/bin/sh\n");
    const std::string share = "home/ann/.local/share/";
    for (const char *name : {"podman", "docker"}) {
        if (name == std::string_view("podman"))
            dir.write(share + "containers/storage/overlay-containers/containers.json",
                      R"([{"id": ")" + kId + R"(", "names": ["podman"]}])");
        else
            dir.write(share + "docker/containers/" + kId + "/config.v2.json",
                      R"({"Name": "/docker"})");
        EXPECT_EQ(named("", cgroup).name, name);
        EXPECT_EQ(named("", "/user.slice/user-1001.slice").name, "");
        EXPECT_EQ(named().name, "");
    }
}

// The user's own file may be anything.
TEST_F(Names, APipeIsNoList) {
    const std::string folder = "var/lib/containers/storage/overlay-containers";
    dir.mkdir(folder);
    ASSERT_EQ(::mkfifo((dir.path() + "/" + folder + "/containers.json").c_str(), 0600), 0);
    EXPECT_EQ(named().name, "");
}

TEST_F(Names, OfNerdctl) {
    dir.write("var/lib/nerdctl/1935db59/names/default/cache", kId);
    EXPECT_EQ(named().name, "cache");
}

TEST_F(Names, OfPods) {
    dir.mkdir("var/log/pods/shop_cart-7d9_" + kUid);
    EXPECT_EQ(named(kUid).pod_name, "shop/cart-7d9");
    dir.write("run/containerd/io.containerd.runtime.v2.task/k8s.io/" + kId + "/config.json",
              R"({"annotations": {"io.kubernetes.cri.container-name": "app",
                  "io.kubernetes.cri.sandbox-name": "cart", "io.kubernetes.cri.sandbox-namespace":
                  "shop"}})");
    EXPECT_EQ(named(kUid).name, "app");
    EXPECT_EQ(named(kUid).pod_name, "shop/cart");
}

TEST_F(Names, OfK3s) {
    dir.write("run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/" + kId + "/config.json",
              R"({"annotations": {"io.kubernetes.cri.container-name": "app"}})");
    EXPECT_EQ(named().name, "app");
}

TEST_F(Names, OfCriO) {
    dir.write("run/containers/storage/overlay-containers/" + kId + "/userdata/config.json",
              R"({"annotations": {"io.kubernetes.container.name": "app",
                  "io.kubernetes.pod.name": "cart", "io.kubernetes.pod.namespace": "shop"}})");
    EXPECT_EQ(named().name, "app");
    EXPECT_EQ(named().pod_name, "shop/cart");
}

TEST_F(Names, FilesOfOthersAreNotTrusted) {
    for (const char *text : {"", "{", "[]", "5", R"({"Name": 5})", R"({"Name": ["x"]})"}) {
        dir.write("var/lib/docker/containers/" + kId + "/config.v2.json", text);
        dir.write("var/lib/containers/storage/overlay-containers/containers.json", text);
        dir.write("run/containers/storage/overlay-containers/" + kId + "/userdata/config.json",
                  text);
        EXPECT_EQ(named().name, "") << text;
    }
}

} // namespace

} // namespace upm::tool::pss
