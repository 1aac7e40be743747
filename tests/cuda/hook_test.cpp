// SPDX-License-Identifier: MIT
//
// The hook around an unsuspecting program (hooked.cpp), each way of finding the
// driver's functions.
#include "tests/cuda/support.hpp"

#include <fstream>
#include <gmock/gmock.h>

namespace upm::cuda::test {

namespace {

using testing::HasSubstr;

class Hook : public testing::TestWithParam<const char *> {
  protected:
    std::string run(const std::vector<std::string> &actions,
                    const std::vector<std::string> &environment = {}, bool hooked = true) {
        // Standard error joins standard output.
        std::string command = "exec '" UPM_CUDA_HOOKED "' " + std::string(GetParam());
        for (const std::string &action : actions)
            command += " " + action;
        std::vector<std::string> all{
            "UPM_CUDA_DRIVER=" UPM_FAKE_DRIVER, "UPM_CUDA_FAKE=granularity=65536",
            "UPM_CUDA_SOCKET=" + broker.socket(), "LD_LIBRARY_PATH=" UPM_FAKE_FOLDER};
        if (hooked)
            command = "LD_PRELOAD='" UPM_CUDA_PRELOAD "' " + command;
        all.insert(all.end(), environment.begin(), environment.end());
        Program program({"/bin/sh", "-c", command + " 2>&1"}, all);
        std::string text;
        for (std::string line; !(line = program.line()).empty();)
            text += line + "\n";
        EXPECT_EQ(program.wait(), 0) << text;
        return text;
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
TEST_P(HookOnce, KernelHandlesAndLaunchKernelEx) {
    const std::string path = broker.socket() + ".writes";
    std::ofstream(path) << "_Z6writesPKhPhi 1\n";
    for (const std::string action : {"kernel", "ex"})
        EXPECT_EQ(run({"advise", action}, {"UPM_CUDA_WRITES=" + path}),
                  "advise: shared=4,4 bytes=same\n" + action + ": shared=4,0 bytes=different\n");
}

// Nothing is copied during the capture, which that would spoil, but before each launch.
TEST_P(HookOnce, GraphsAreMadeWritableWhenLaunched) {
    EXPECT_EQ(run({"advise", "capture-set", "graph", "advise", "graph"}),
              "advise: shared=4,4 bytes=same\n"
              "capture-set: shared=4,4 bytes=same\n"
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
              "capture-set: shared=4,4 bytes=same\n"
              "change: shared=4,4 bytes=same\n"
              "graph: shared=4,0 bytes=different\n");
}

TEST_P(HookOnce, MissedWriteOfAGraphIsNamed) {
    const std::string text = run({"advise", "capture", "graph"});
    EXPECT_THAT(text, HasSubstr("graph: error=700"));
    EXPECT_THAT(text, HasSubstr("_Z6writesPKhPhi, parameter 1: weights+0x10010 (shared"));
}

INSTANTIATE_TEST_SUITE_P(Found, HookOnce, testing::Values("direct"),
                         [](const auto &way) { return std::string(way.param); });

// Without the hook the same program loses its context: so these tests can fail.
TEST_P(Hook, IsNeeded) {
    EXPECT_EQ(run({"advise", "memset"}, {}, false),
              "advise: shared=4,4 bytes=same\nmemset: error=700\n");
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

// The first launches run on private memory, and show what the function writes.
TEST_P(Hook, LearnsWhatIsWritten) {
    EXPECT_EQ(run({"advise", "write", "advise", "write"}, {"UPM_CUDA_LEARN=1"}),
              "advise: shared=4,4 bytes=same\n"
              "write: shared=4,0 bytes=different\n"
              "advise: shared=4,4 bytes=same\n"
              "write: shared=4,0 bytes=same\n");
    EXPECT_EQ(run({"advise", "read", "advise", "read"}, {"UPM_CUDA_LEARN=1"}),
              "advise: shared=4,4 bytes=same\n"
              "read: shared=4,0 bytes=same\n"
              "advise: shared=4,4 bytes=same\n"
              "read: shared=4,4 bytes=same\n");
}

INSTANTIATE_TEST_SUITE_P(Found, Hook, testing::Values("direct", "dlsym", "procaddress", "thread"),
                         [](const auto &way) { return std::string(way.param); });

} // namespace

} // namespace upm::cuda::test
