// SPDX-License-Identifier: MIT
//
// The hook around an unsuspecting program (hooked.cpp), each way of finding the
// driver's functions.
#include "tests/cuda-cow/support.hpp"

#include <fstream>
#include <gmock/gmock.h>

namespace upm::cuda::test {

namespace {

using testing::HasSubstr;

// Runs a program under the hook, or under `preload`, and gives what it prints.
std::string run_hooked(const Broker &broker, std::string command,
                       const std::vector<std::string> &environment = {},
                       const std::string &preload = UPM_CUDA_PRELOAD) {
    std::vector<std::string> all{
        "UPM_CUDA_DRIVER=" UPM_FAKE_DRIVER, "UPM_CUDA_FAKE=granularity=65536",
        "UPM_CUDA_SOCKET=" + broker.socket(), "LD_LIBRARY_PATH=" UPM_FAKE_FOLDER};
    command = "LD_PRELOAD='" + preload + "' exec " + command + " 2>&1";
    all.insert(all.end(), environment.begin(), environment.end());
    Program program({"/bin/sh", "-c", command}, all);
    std::string text;
    for (std::string line; !(line = program.line()).empty();)
        text += line + "\n";
    EXPECT_EQ(program.wait(), 0) << text;
    return text;
}

class Hook : public testing::TestWithParam<const char *> {
  protected:
    std::string run(const std::vector<std::string> &actions,
                    const std::vector<std::string> &environment = {}, bool hooked = true) {
        std::string command = "'" UPM_CUDA_HOOKED "' " + std::string(GetParam());
        for (const std::string &action : actions)
            command += " " + action;
        return run_hooked(broker, command, environment, hooked ? UPM_CUDA_PRELOAD : "");
    }

    Broker broker;
};

// How the driver is found makes no difference to these.
class HookOnce : public Hook {};

// Each other way to write: only the extents that are touched become private.
TEST_P(HookOnce, OtherCopies) {
    const std::pair<const char *, int> actions[] = {
        {"plane", 2}, {"volume", 3}, {"batch", 2}, {"unified", 3}, {"peer", 3}, {"rectangle", 1}};
    for (const auto &[action, shared] : actions)
        EXPECT_EQ(run({"advise", action}), "advise: shared=4,4 bytes=same\n" + std::string(action) +
                                               ": shared=4," + std::to_string(shared) +
                                               " bytes=different\n");
}

// A kernel of a library is another kind of handle, with no name of its own.
TEST_P(HookOnce, KernelHandlesAndOtherLaunches) {
    const std::string path = broker.socket() + ".writes";
    std::ofstream(path) << "_Z6writesPKhPhi 1\n";
    for (const std::string action : {"kernel", "enumerated", "ex", "many"})
        EXPECT_EQ(run({"advise", action}, {"UPM_CUDA_WRITES=" + path}),
                  "advise: shared=4,4 bytes=same\n" + action + ": shared=4,0 bytes=different\n");
}

// Nothing is copied during the capture, which that would spoil. What a memset of the graph
// writes is copied before it is instantiated, and after a further advise before the launch.
TEST_P(HookOnce, GraphsAreMadeWritableWhenLaunched) {
    EXPECT_EQ(run({"advise", "capture-set", "graph", "advise", "graph"}),
              "advise: shared=4,4 bytes=same\n"
              "capture-set: shared=4,3 bytes=same\n"
              "graph: shared=4,3 bytes=different\n"
              "advise: shared=4,4 bytes=same\n"
              "graph: shared=4,3 bytes=same\n");
}

TEST_P(HookOnce, GraphKernelsFollowTheirPlan) {
    const std::string path = broker.socket() + ".writes";
    std::ofstream(path) << "_Z6writesPKhPhi 1\n";
    EXPECT_EQ(run({"advise", "capture", "graph"}, {"UPM_CUDA_WRITES=" + path}),
              "advise: shared=4,4 bytes=same\n"
              "capture: shared=4,4 bytes=same\n"
              "graph: shared=4,0 bytes=different\n");
    EXPECT_EQ(run({"advise", "capture-set", "change", "graph"}, {"UPM_CUDA_WRITES=" + path}),
              "advise: shared=4,4 bytes=same\n"
              "capture-set: shared=4,3 bytes=same\n"
              "change: shared=4,3 bytes=same\n"
              "graph: shared=4,0 bytes=different\n");
}

TEST_P(HookOnce, MissedWriteOfAGraphIsNamed) {
    const std::string text = run({"advise", "capture", "graph"});
    EXPECT_THAT(text, HasSubstr("graph: error=700"));
    EXPECT_THAT(text, HasSubstr("_Z6writesPKhPhi, parameter 1: weights+0x10010 (shared"));
}

INSTANTIATE_TEST_SUITE_P(Found, HookOnce, testing::Values("direct"),
                         [](const auto &way) { return std::string(way.param); });

// Without the hook the driver refuses the same program its memset, and a kernel that stores
// loses the context: so these tests can fail.
TEST_P(Hook, IsNeeded) {
    EXPECT_EQ(
        run({"advise", "memset", "copy", "capture-set", "const", "write", "const"}, {}, false),
        "advise: shared=4,4 bytes=same\n"
        "memset: error=1\n"
        "copy: error=1\n"
        "capture-set: error=1\n"
        "const: shared=4,4 bytes=same\n"
        "write: error=700\n"
        "const: error=700\n");
}

TEST_P(Hook, CopiesTheDestinationsOfCopiesAndMemsets) {
    EXPECT_EQ(run({"advise", "memset", "copy"}), "advise: shared=4,4 bytes=same\n"
                                                 "memset: shared=4,3 bytes=different\n"
                                                 "copy: shared=4,2 bytes=different\n")
        << "the extents that are written, and no source";
}

TEST_P(Hook, ConstArgumentsStayShared) {
    EXPECT_EQ(run({"advise", "const", "const"}), "advise: shared=4,4 bytes=same\n"
                                                 "const: shared=4,4 bytes=same\n"
                                                 "const: shared=4,4 bytes=same\n");
}

// Unproven is read by default: sharing stays, and read-only memory is the backstop.
TEST_P(Hook, UnprovenIsReadByDefault) {
    EXPECT_EQ(run({"advise", "read"}),
              "advise: shared=4,4 bytes=same\nread: shared=4,4 bytes=same\n");
}

TEST_P(Hook, UnprovenCanBeWritten) {
    EXPECT_EQ(run({"advise", "write"}, {"UPM_CUDA_UNPROVEN=write"}),
              "advise: shared=4,4 bytes=same\nwrite: shared=4,0 bytes=different\n");
}

TEST_P(Hook, DeclaredWritesAreCopied) {
    const std::string path = broker.socket() + ".writes";
    std::ofstream(path) << "_Z6writesPKhPhi 1\n";
    EXPECT_EQ(run({"advise", "write"}, {"UPM_CUDA_WRITES=" + path}),
              "advise: shared=4,4 bytes=same\nwrite: shared=4,0 bytes=different\n");
}

// The backstop names the function, the parameter and the range.
TEST_P(Hook, MissedWriteIsNamed) {
    const std::string text = run({"advise", "lie"});
    EXPECT_THAT(text, HasSubstr("lie: error=700"));
    EXPECT_THAT(text, HasSubstr("_Z9all_constPKhS0_i, parameter 1: weights+0x10010 (shared"));
    EXPECT_THAT(text, HasSubstr("UPM_CUDA_WRITES"));
}

// A warm-up before the advise shows what each function writes.
TEST_P(Hook, LearnsInAWarmUp) {
    EXPECT_EQ(run({"write", "advise", "write"}, {"UPM_CUDA_LEARN=1"}),
              "write: shared=0,0 bytes=different\n"
              "advise: shared=4,4 bytes=same\n"
              "write: shared=4,0 bytes=same\n");
    EXPECT_EQ(run({"read", "advise", "read"}, {"UPM_CUDA_LEARN=1"}),
              "read: shared=0,0 bytes=same\n"
              "advise: shared=4,4 bytes=same\n"
              "read: shared=4,4 bytes=same\n");
}

// To learn from shared memory it would have to be copied, all of it.
TEST_P(Hook, LearningCopiesNothingThatIsShared) {
    EXPECT_EQ(run({"advise", "read", "read"}, {"UPM_CUDA_LEARN=1"}),
              "advise: shared=4,4 bytes=same\n"
              "read: shared=4,4 bytes=same\n"
              "read: shared=4,4 bytes=same\n");
}

// What PTX looks like proves nothing: comments, wmma.store, tensormap.replace and calls
// all store where a search of the text finds no store.
TEST_P(Hook, PtxProvesNothing) {
    EXPECT_EQ(run({"advise", "ptx"}, {"UPM_CUDA_UNPROVEN=write"}),
              "advise: shared=4,4 bytes=same\nptx: shared=0,0 bytes=different\n");
}

// PyTorch's fill_: nothing in the launch says that it writes. It is named when it ends
// the context, can be learned, and can be declared.
TEST_P(Hook, FillOfPyTorch) {
    const std::string text = run({"advise", "fill"});
    EXPECT_THAT(text, HasSubstr("fill: error=700"));
    EXPECT_THAT(text, HasSubstr("FillFunctor"));
    EXPECT_EQ(run({"fill", "advise", "fill"}, {"UPM_CUDA_LEARN=1"}),
              "fill: shared=0,0 bytes=different\n"
              "advise: shared=4,4 bytes=same\n"
              "fill: shared=4,0 bytes=same\n");
    const std::string path = broker.socket() + ".writes";
    std::ofstream(path) << "_ZN2at6native29vectorized_elementwise_kernelILi4ENS0_11FillFunctor"
                           "IfEESt5arrayIPcLm1EEEEviT0_T1_ 2\n";
    EXPECT_EQ(run({"advise", "fill"}, {"UPM_CUDA_WRITES=" + path}),
              "advise: shared=4,4 bytes=same\nfill: shared=4,0 bytes=different\n");
}

// Programs of several threads (scenes.cpp).
class Scene : public testing::Test {
  protected:
    std::string run(const std::string &scene, const std::string &preload = UPM_CUDA_PRELOAD) {
        return run_hooked(broker, "timeout 50 '" UPM_CUDA_SCENES "' " + scene, {}, preload);
    }
    Broker broker;
};

// A kernel waits for one that another thread has yet to launch, as two ranks of a
// collective do: whoever waits for the first must not keep out the second.
TEST_F(Scene, KernelsThatWaitForEachOther) {
    EXPECT_EQ(run("collective"), "rounds=20 errors=0 copies=some\nok\n");
}

// No argument of the launch shows what a kernel reads by a table in device memory.
TEST_F(Scene, ReadersByTableDuringWrites) {
    EXPECT_EQ(run("indirect"), "a thread that only reads: 0\nok\n");
}

TEST_F(Scene, VersionsOfOneName) {
    EXPECT_EQ(run("versions"), "synchronize: 0 0 201\nok\n");
}

// Other preloads, before and behind this one, that ask for what comes next.
TEST_F(Scene, OtherHooks) {
    const std::string ours = UPM_CUDA_PRELOAD;
    const std::string other = UPM_CUDA_OTHER_HOOK;
    for (const std::string &both : {ours + ":" + other, other + ":" + ours}) {
        SCOPED_TRACE(both);
        EXPECT_EQ(run("runtime", both), "cudaMalloc: 0\nok\n");
        for (const char *way : {"direct", "dlsym", "procaddress"})
            EXPECT_EQ(
                run_hooked(broker,
                           "'" UPM_CUDA_HOOKED "' " + std::string(way) + " advise memset copy", {},
                           both),
                "advise: shared=4,4 bytes=same\n"
                "memset: shared=4,3 bytes=different\n"
                "copy: shared=4,2 bytes=different\n")
                << way;
    }
}

INSTANTIATE_TEST_SUITE_P(Found, Hook, testing::Values("direct", "dlsym", "procaddress", "thread"),
                         [](const auto &way) { return std::string(way.param); });

} // namespace

} // namespace upm::cuda::test
