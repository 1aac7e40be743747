// SPDX-License-Identifier: MIT
//
// Many processes: what they share, and what happens when one of them, or the broker,
// ends at an arbitrary moment. Each is an actor (actor.cpp) with a fake GPU of its
// own whose memory can be shared, as on one device.
#include "cuda-cow/broker/client.hpp"
#include "tests/cuda-cow/support.hpp"

#include <cerrno>
#include <chrono>
#include <csignal>
#include <sstream>

namespace upm::cuda::test {

namespace {

using Actors = std::vector<std::unique_ptr<Program>>;

constexpr std::size_t kExtents = 8;
constexpr std::size_t kBytes = kExtents * kUnit;
const std::string kAllocate = "allocate " + std::to_string(kBytes) + " " + std::to_string(kUnit);

Actors start(const Broker &broker, unsigned count,
             const std::vector<std::string> &environment = {}) {
    Actors all;
    for (unsigned i = 0; i < count; ++i) {
        all.push_back(start_actor(broker.socket(), "", environment));
        EXPECT_EQ(all.back()->ask(kAllocate), "ok");
    }
    return all;
}

unsigned long number(const std::string &answer, unsigned index) {
    std::istringstream in(answer);
    std::string word;
    for (unsigned i = 0; i <= index + 1; ++i)
        in >> word;
    return std::stoul(word);
}

// Eight processes hold one copy, and what each wrote.
TEST(Sharing, EightProcessesHoldOneCopy) {
    const Broker broker;
    constexpr unsigned kProcesses = 8;
    constexpr std::size_t kMany = 64 * kUnit;
    Actors all = start(broker, kProcesses);
    for (const auto &actor : all) {
        ASSERT_EQ(actor->ask("allocate " + std::to_string(kMany) + " " + std::to_string(kUnit)),
                  "ok");
        ASSERT_EQ(actor->ask("fill 1"), "ok");
    }
    for (const auto &actor : all)
        actor->send("advise"); // at once: one publishes, the rest wait for it
    unsigned long merged = 0;
    unsigned long published = 0;
    for (const auto &actor : all) {
        const std::string answer = actor->line();
        ASSERT_TRUE(answer.starts_with("ok")) << answer;
        merged += number(answer, 0);
        published += number(answer, 1);
    }
    EXPECT_EQ(published, 64U) << "each extent once, though all came at the same time";
    EXPECT_EQ(merged, 64U * (kProcesses - 1));
    ASSERT_EQ(all[3]->ask("write 0 " + std::to_string(kUnit) + " 9"), "ok");
    unsigned long pss = 0;
    for (const auto &actor : all)
        pss += number(actor->ask("memory"), 0);
    const double one_copy = kMany / 1024.0;
    const double private_part = kUnit / 1024.0;
    EXPECT_LE(static_cast<double>(pss), one_copy * 1.01 + private_part) << "KiB";
    EXPECT_EQ(all[2]->ask("check 1"), "ok same");
    EXPECT_EQ(all[3]->ask("check 1"), "ok different");
}

TEST(Sharing, RandomWritersNeverSeeEachOther) {
    const Broker broker;
    Actors all = start(broker, 4);
    for (unsigned i = 0; i < all.size(); ++i) {
        ASSERT_EQ(all[i]->ask("configure task_us=0"), "ok");
        ASSERT_EQ(all[i]->ask("fill 1"), "ok");
        all[i]->send("randomly " + std::to_string(i) + " 150");
    }
    for (const auto &actor : all)
        EXPECT_EQ(actor->line(), "ok same");
}

// The backstop: whoever writes without saying so loses its own context only.
TEST(Sharing, MissedWriteKillsOnlyItsProcess) {
    const Broker broker;
    Actors all = start(broker, 2);
    for (const auto &actor : all) {
        ASSERT_EQ(actor->ask("fill 1"), "ok");
        ASSERT_TRUE(actor->ask("advise").starts_with("ok"));
    }
    EXPECT_EQ(all[0]->ask("missed 100"), "error 14 CUDA_ERROR_ILLEGAL_ADDRESS (700)");
    EXPECT_TRUE(all[0]->ask("write 0 1 1").starts_with("error 14")) << "sticky";
    EXPECT_EQ(all[1]->ask("check 1"), "ok same");
    EXPECT_EQ(all[1]->ask("write 0 1 1"), "ok");
}

// A copy or memset that nobody announced is refused by the driver, and costs no context.
TEST(Sharing, MissedMemsetIsRefusedAndNothingElse) {
    const Broker broker;
    Actors all = start(broker, 2);
    for (const auto &actor : all) {
        ASSERT_EQ(actor->ask("fill 1"), "ok");
        ASSERT_TRUE(actor->ask("advise").starts_with("ok"));
    }
    EXPECT_EQ(all[0]->ask("refused 100"), "error 22 CUDA_ERROR_INVALID_VALUE (1)");
    for (const auto &actor : all)
        EXPECT_EQ(actor->ask("check 1"), "ok same");
    EXPECT_EQ(all[0]->ask("write 100 16 9"), "ok");
    EXPECT_EQ(all[1]->ask("check 1"), "ok same");
}

TEST(Sharing, SurvivesItsFirstOwner) {
    const Broker broker;
    Actors all = start(broker, 2);
    for (const auto &actor : all) {
        ASSERT_EQ(actor->ask("fill 1"), "ok");
        ASSERT_TRUE(actor->ask("advise").starts_with("ok"));
    }
    all[0].reset();
    EXPECT_EQ(all[1]->ask("check 1"), "ok same");
    const auto third = start_actor(broker.socket());
    ASSERT_EQ(third->ask(kAllocate), "ok");
    ASSERT_EQ(third->ask("fill 1"), "ok");
    EXPECT_EQ(third->ask("advise"), "ok 8 0 0 0 0") << "still known";
}

TEST(Sharing, AttachByManifest) {
    const Broker broker;
    Actors all = start(broker, 2);
    ASSERT_EQ(all[0]->ask("fill 1"), "ok");
    ASSERT_EQ(all[0]->ask("advise"), "ok 0 8 0 0 0");
    const std::string manifest = all[0]->ask("manifest");
    EXPECT_EQ(all[1]->ask("attach " + manifest.substr(3)), "ok");
    EXPECT_EQ(all[1]->ask("check 1"), "ok same");
    EXPECT_EQ(all[1]->ask("write 0 1 1"), "ok");
    EXPECT_EQ(all[0]->ask("check 1"), "ok same");
}

// Without --keep-bytes nothing stays when the last user has gone; with it, it does.
TEST(Sharing, KeepBytesDecidesWhatStays) {
    for (const bool keep : {false, true}) {
        const Broker broker(keep ? std::vector<std::string>{"--keep-bytes", "10000000"}
                                 : std::vector<std::string>{});
        Actors first = start(broker, 1);
        ASSERT_EQ(first[0]->ask("fill 1"), "ok");
        ASSERT_EQ(first[0]->ask("advise"), "ok 0 8 0 0 0");
        ASSERT_EQ(first[0]->ask("free"), "ok");
        Actors second = start(broker, 1);
        ASSERT_EQ(second[0]->ask("fill 1"), "ok");
        EXPECT_EQ(second[0]->ask("advise"), keep ? "ok 8 0 0 0 0" : "ok 0 8 0 0 0");
    }
}

TEST(Sharing, DomainsShareNothing) {
    const Broker broker;
    const std::string key = "UPM_DOMAIN=000102030405060708090a0b0c0d0e0";
    Actors all = start(broker, 2, {key + "1"});
    Actors others = start(broker, 2, {key + "2"});
    for (const auto *actors : {&all, &others})
        for (const auto &actor : *actors)
            ASSERT_EQ(actor->ask("fill 1"), "ok");
    EXPECT_EQ(all[0]->ask("advise"), "ok 0 8 0 0 0");
    EXPECT_EQ(others[0]->ask("advise"), "ok 0 8 0 0 0") << "known in the other domain only";
    EXPECT_EQ(all[1]->ask("advise"), "ok 8 0 0 0 0");
    EXPECT_EQ(others[1]->ask("advise"), "ok 8 0 0 0 0");
    const std::string manifest = all[0]->ask("manifest").substr(3);
    EXPECT_TRUE(others[0]->ask("attach " + manifest).starts_with("error 2 "));
}

TEST(Sharing, DomainLimit) {
    const Broker broker({"--max-domain-bytes", std::to_string(3 * kUnit)});
    Actors all = start(broker, 2);
    ASSERT_EQ(all[0]->ask("fill 1"), "ok");
    std::string answer = all[0]->ask("advise");
    EXPECT_TRUE(answer.starts_with("ok")) << answer;
    EXPECT_LE(number(answer, 1), 3U);
    EXPECT_EQ(number(answer, 1) + number(answer, 3), kExtents);
    EXPECT_EQ(all[0]->ask("check 1"), "ok same");
    EXPECT_EQ(all[0]->ask("write 0 " + std::to_string(kBytes) + " 1"), "ok");
}

TEST(Sharing, FewDescriptors) {
    const Broker broker;
    Actors all = start(broker, 1);
    ASSERT_EQ(all[0]->ask("fill 1"), "ok");
    ASSERT_EQ(all[0]->ask("advise"), "ok 0 8 0 0 0");
    // The fake needs one for each extent too: room for the buffer, not for the answer.
    const auto poor = start_actor(broker.socket(), "", {}, 18);
    ASSERT_EQ(poor->ask(kAllocate), "ok");
    ASSERT_EQ(poor->ask("fill 1"), "ok");
    const std::string answer = poor->ask("advise");
    EXPECT_TRUE(answer.starts_with("ok") || answer.starts_with("error")) << answer;
    if (answer.starts_with("ok")) {
        EXPECT_GT(number(answer, 3), 0U) << answer;
    }
    EXPECT_EQ(poor->ask("check 1"), "ok same");
    EXPECT_EQ(all[0]->ask("check 1"), "ok same");
}

// The broker needs one for each extent, and keeps half of what it may have for members.
TEST(Sharing, BrokerWithFewDescriptors) {
    const Broker other; // for the name of a folder
    const std::string path = other.socket() + ".poor";
    Program poor({UPM_CUDAD, "--socket", path}, {}, 24);
    ASSERT_NE(poor.line().find("for 12 extents at most"), std::string::npos);
    const std::string bytes = std::to_string(32 * kUnit) + " " + std::to_string(kUnit);
    for (unsigned round = 0; round < 2; ++round) {
        const auto actor = start_actor(path);
        ASSERT_EQ(actor->ask("allocate " + bytes), "ok");
        ASSERT_EQ(actor->ask("fill 1"), "ok");
        const std::string answer = actor->ask("advise");
        ASSERT_TRUE(answer.starts_with("ok")) << answer;
        EXPECT_LE(number(answer, 1), 12U);
        EXPECT_EQ(number(answer, 1) + number(answer, 3), 32U) << answer;
        EXPECT_EQ(actor->ask("check 1"), "ok same");
        EXPECT_EQ(actor->ask("write 0 100 1"), "ok");
    }
}

// As many as 8 GiB in the smallest extents: many messages, many descriptors.
TEST(Sharing, FourThousandExtents) {
    const Broker broker;
    const std::string bytes = std::to_string(4096UL * 4096) + " 4096";
    std::vector<std::unique_ptr<Program>> all;
    for (unsigned i = 0; i < 2; ++i) {
        all.push_back(start_actor(broker.socket(), "granularity=4096 task_us=0", {}, 20000));
        ASSERT_EQ(all[i]->ask("allocate " + bytes), "ok");
        ASSERT_EQ(all[i]->ask("fill 1"), "ok");
    }
    EXPECT_EQ(all[0]->ask("advise"), "ok 0 4096 0 0 0");
    EXPECT_EQ(all[1]->ask("advise"), "ok 4096 0 0 0 0");
    EXPECT_EQ(all[1]->ask("write 0 " + std::to_string(4096UL * 4096) + " 7"), "ok");
    EXPECT_EQ(all[1]->ask("stats"), "ok 0 4096 0");
    EXPECT_EQ(all[0]->ask("check 1"), "ok same");
}

// An actor dies just before its Nth driver call while it publishes, merges or copies;
// the others go on, and the next one finds a usable broker.
class Killed : public testing::TestWithParam<const char *> {
  protected:
    // True if the actor came to the end of the command alive.
    static bool run(const Broker &broker, const std::string &kill) {
        Actors witness = start(broker, 1);
        EXPECT_EQ(witness[0]->ask("fill 1"), "ok");
        const std::string what = GetParam();
        if (what != "publish") {
            EXPECT_TRUE(witness[0]->ask("advise").starts_with("ok"));
        }
        Actors victim = start(broker, 1);
        EXPECT_EQ(victim[0]->ask("fill 1"), "ok");
        if (what == "copy") {
            EXPECT_TRUE(victim[0]->ask("advise").starts_with("ok"));
        }
        EXPECT_EQ(victim[0]->ask("configure task_us=0 kill=*:" + kill), "ok");
        const std::string answer =
            victim[0]->ask(what == "copy" ? "write 0 " + std::to_string(kBytes) + " 5" : "advise");
        if (what == "publish") {
            EXPECT_TRUE(witness[0]->ask("advise").starts_with("ok"));
        }
        EXPECT_EQ(witness[0]->ask("check 1"), "ok same");
        EXPECT_EQ(witness[0]->ask("write 0 1 3"), "ok");
        return answer.starts_with("ok");
    }
};

TEST_P(Killed, AtEveryDriverCall) {
    const Broker broker;
    for (unsigned call = 1; call < 300; call += 3)
        if (run(broker, std::to_string(call)))
            return;
    FAIL() << "the command never came to its end";
}

INSTANTIATE_TEST_SUITE_P(While, Killed, testing::Values("publish", "merge", "copy"),
                         [](const auto &which) { return std::string(which.param); });

// The broker dies at each step of an actor's advise, which may fail; bytes stay, the
// next broker is found, and what had been shared stays readable.
TEST(BrokerKilled, AtEveryDriverCall) {
    for (unsigned call = 1; call < 300; call += 5) {
        SCOPED_TRACE(call);
        Broker broker;
        Actors all = start(broker, 2);
        for (const auto &actor : all)
            ASSERT_EQ(actor->ask("fill 1"), "ok");
        ASSERT_EQ(all[0]->ask("advise"), "ok 0 8 0 0 0");
        ASSERT_EQ(all[1]->ask("configure task_us=0 kill=*:" + std::to_string(call) + ":" +
                              std::to_string(broker.pid())),
                  "ok");
        const std::string answer = all[1]->ask("advise");
        ASSERT_EQ(all[1]->ask("configure reset=1 task_us=0"), "ok");
        EXPECT_EQ(all[1]->ask("check 1"), "ok same") << answer;
        broker.kill();
        broker.start();
        EXPECT_TRUE(all[1]->ask("advise").starts_with("ok"));
        EXPECT_EQ(all[1]->ask("write 0 " + std::to_string(kBytes) + " 1"), "ok");
        EXPECT_EQ(all[0]->ask("check 1"), "ok same");
        EXPECT_EQ(all[0]->ask("write 0 1 1"), "ok");
        if (answer.starts_with("ok 8"))
            return; // died after the last step
    }
    FAIL() << "advise never came to its end";
}

// A container is frozen between asking and publishing: the others wait a moment and go on
// without it. Thawed, it joins them.
TEST(Sharing, FrozenPublisherHoldsNobodyUp) {
    const Broker broker;
    Actors all = start(broker, 3);
    for (const auto &actor : all)
        ASSERT_EQ(actor->ask("fill 1"), "ok");
    ASSERT_EQ(all[0]->ask("configure latency_us=40000"), "ok");
    all[0]->send("advise");
    broker::Client watch({.socket = broker.socket()});
    broker::Counters counters;
    while (counters.reservations == 0)
        ASSERT_EQ(watch.counters(counters), 0);
    ASSERT_EQ(::kill(all[0]->pid(), SIGSTOP), 0);
    for (unsigned i = 1; i < 3; ++i) {
        const auto since = std::chrono::steady_clock::now();
        EXPECT_EQ(all[i]->ask("advise"), i == 1 ? "ok 0 8 0 0 0" : "ok 8 0 0 0 0");
        EXPECT_LT(std::chrono::steady_clock::now() - since, std::chrono::seconds(4))
            << "10 s for each extent before";
    }
    ASSERT_EQ(::kill(all[0]->pid(), SIGCONT), 0);
    EXPECT_EQ(all[0]->line(), "ok 8 0 0 0 0");
    for (const auto &actor : all)
        EXPECT_EQ(actor->ask("check 1"), "ok same");
}

// While one waits for another's promise, that one dies: the promise passes on.
TEST(Sharing, PromisePassesOnWhenItsHolderDies) {
    const Broker broker;
    Actors all = start(broker, 2);
    for (const auto &actor : all)
        ASSERT_EQ(actor->ask("fill 1"), "ok");
    // Stuck between reserving and publishing, until it is killed there.
    ASSERT_EQ(all[0]->ask("configure kill=cuMemExportToShareableHandle:1"), "ok");
    all[0]->send("advise");
    EXPECT_EQ(all[0]->wait(), 128 + SIGKILL);
    EXPECT_EQ(all[1]->ask("advise"), "ok 0 8 0 0 0");
}

} // namespace

} // namespace upm::cuda::test
