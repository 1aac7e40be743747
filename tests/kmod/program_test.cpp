// SPDX-License-Identifier: MIT
//
// Real programs, which know nothing of merging, while another process advises all
// that they have mapped without a pause: code, stacks, heaps, libraries.
#include "tests/kmod/support/actor.hpp"

#include <cerrno>
#include <cstdlib>
#include <string>
#include <system_error>
#include <vector>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::test {

namespace {

// Builds, sorts, hashes and compresses; prints a digest of all of it. Deterministic.
constexpr const char *kScript = R"(
import hashlib, zlib
digest = hashlib.sha256()
blocks = [hashlib.sha256(b'%d' % (i % 40)).digest() * 512 for i in range(40)]
names = {}
for round in range(3):
    for i, block in enumerate(blocks):
        names['%d/%d' % (round, i)] = zlib.crc32(block) ^ i
        blocks[i] = bytearray(block)
        blocks[i][(round * 4099 + i) % len(block)] ^= round + 1
        digest.update(blocks[i])
    text = sorted(names, key=lambda name: (names[name], name))
    digest.update(' '.join(text).encode())
    packed = zlib.compress(b''.join(bytes(b) for b in blocks[:8]))
    assert zlib.decompress(packed) == b''.join(bytes(b) for b in blocks[:8])
    digest.update(packed)
print(digest.hexdigest())
)";

struct Program {
    pid_t pid = -1;
    std::string output; // path
};

Program start(const std::string &name, const std::vector<std::string> &words) {
    Program program{.pid = -1, .output = "/tmp/upm-program-" + name};
    std::vector<char *> arguments;
    arguments.reserve(words.size() + 1);
    for (const std::string &word : words)
        arguments.push_back(const_cast<char *>(word.c_str()));
    arguments.push_back(nullptr);
    program.pid = fork_tied();
    if (program.pid == 0) {
        const int fd = ::open(program.output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        ::dup2(fd, STDOUT_FILENO);
        ::execvp(arguments[0], arguments.data());
        ::_exit(127);
    }
    return program;
}

// Advises every mapping of the process. Returns false when there is none any more.
bool advise_all(const Device &upm, pid_t pid, std::uint64_t &done) {
    bool found = false;
    std::vector<MapEntry> entries;
    try {
        entries = maps_of(pid);
    } catch (const std::system_error &) {
        return false;
    }
    for (const MapEntry &entry : entries) {
        if (entry.name == "[vsyscall]")
            continue;
        found = true;
        const Advice advice = upm.advise(reinterpret_cast<void *>(entry.start),
                                         entry.end - entry.start, {.pid = pid});
        // It may have unmapped that meanwhile, or ended.
        EXPECT_TRUE(advice.error == 0 || advice.error == ENOMEM || advice.error == ESRCH)
            << advice.error;
        done += advice.counts.merged + advice.counts.inserted + advice.counts.already;
    }
    return found;
}

class Programs : public KmodTest {
  protected:
    // Runs the command twice at the same time under advice, and expects of both the
    // output that it has without.
    static void expect_same_output(const std::vector<std::string> &words) {
        const Program alone = start("alone", words);
        ASSERT_EQ(wait_for(alone.pid), 0);
        const std::string wanted = read_file(alone.output);
        ASSERT_FALSE(wanted.empty());

        const Device upm;
        std::vector<Program> programs{start("one", words), start("two", words)};
        std::vector<int> statuses(programs.size(), -1);
        std::uint64_t done = 0;
        unsigned running = 2;
        while (running != 0) {
            for (std::size_t i = 0; i < programs.size(); i++) {
                if (statuses[i] != -1)
                    continue;
                advise_all(upm, programs[i].pid, done);
                int status = 0;
                if (::waitpid(programs[i].pid, &status, WNOHANG) == programs[i].pid) {
                    statuses[i] = status;
                    running--;
                }
            }
        }
        EXPECT_GT(done, 100U);
        for (std::size_t i = 0; i < programs.size(); i++) {
            EXPECT_EQ(statuses[i], 0);
            EXPECT_EQ(read_file(programs[i].output), wanted);
        }
        shell("rm -f /tmp/upm-program-*");
    }
};

TEST_F(Programs, Python) {
    if (!exists("/usr/bin/python3"))
        GTEST_SKIP() << "no python3";
    expect_same_output(
        {"/usr/bin/env", "PYTHONHASHSEED=0", "/usr/bin/python3", "-S", "-c", kScript});
}

TEST_F(Programs, ShellPipeline) {
    expect_same_output({"/bin/sh", "-c",
                        "i=0; while [ $i -lt 2000 ]; do echo $((i * 7919 % 2003)); "
                        "i=$((i + 1)); done | sort -n | uniq | gzip -9 | gzip -d | cksum"});
}

} // namespace

} // namespace upm::test
