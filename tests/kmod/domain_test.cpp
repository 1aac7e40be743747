// SPDX-License-Identifier: MIT
//
// Who shares with whom, and who may advise whose memory.
#include "tests/kmod/support/actor.hpp"
#include "tests/kmod/support/call_counter.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <grp.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kPages = 16;
constexpr uid_t kAlice = 20'001;
constexpr uid_t kBob = 20'002;

std::function<void()> become(uid_t uid) {
    return [uid] {
        must(::setgroups(0, nullptr), "setgroups");
        must(::setresgid(uid, uid, uid), "setresgid");
        must(::setresuid(uid, uid, uid), "setresuid");
    };
}

class DomainTest : public KmodTest {
  protected:
    Pattern pattern_{Content::kDistinct, fresh_seed()};
};

// ---- the default domain -------------------------------------------------------

TEST_F(DomainTest, UsersAreApart) {
    Actor alice(Kind::kAnonymous, pattern_, kPages, become(kAlice));
    Actor bob(Kind::kAnonymous, pattern_, kPages, become(kBob));
    Actor again(Kind::kAnonymous, pattern_, kPages, become(kAlice));
    EXPECT_EQ(alice.advise().counts.inserted, kPages);
    EXPECT_EQ(bob.advise().counts.inserted, kPages);
    EXPECT_EQ(again.advise().counts.merged, kPages);
    EXPECT_EQ(common_frames(alice.frames(), bob.frames()), 0U);
    EXPECT_EQ(equal_frames(alice.frames(), again.frames()), kPages);
}

// Equal uids of two user namespaces are different people.
TEST_F(DomainTest, UserNamespacesAreApart) {
    const auto unshare_user = [] { must(::unshare(CLONE_NEWUSER), "unshare(CLONE_NEWUSER)"); };
    Actor one(Kind::kAnonymous, pattern_, kPages, unshare_user);
    Actor two(Kind::kAnonymous, pattern_, kPages, unshare_user);
    Actor outside(Kind::kAnonymous, pattern_, kPages);
    EXPECT_EQ(one.advise().counts.inserted, kPages);
    EXPECT_EQ(two.advise().counts.inserted, kPages);
    EXPECT_EQ(outside.advise().counts.inserted, kPages);
    EXPECT_EQ(common_frames(one.frames(), two.frames()), 0U);
}

// In the child: the first process of a new pid namespace, as in a container. The test
// talks to a child of its Process.
void enter_container() {
    must(::unshare(CLONE_NEWPID), "unshare(CLONE_NEWPID)");
    const pid_t init = fork_tied();
    if (init != 0) {
        ::waitpid(init, nullptr, 0);
        ::_exit(0);
    }
}

// Containers whose processes all run as the same uid, root for example.
TEST_F(DomainTest, ContainersAreApart) {
    Actor one(Kind::kAnonymous, pattern_, kPages, enter_container);
    Actor two(Kind::kAnonymous, pattern_, kPages, enter_container);
    Actor outside(Kind::kAnonymous, pattern_, kPages);
    Actor beside(Kind::kAnonymous, pattern_, kPages);
    EXPECT_EQ(one.advise().counts.inserted, kPages);
    EXPECT_EQ(two.advise().counts.inserted, kPages);
    EXPECT_EQ(outside.advise().counts.inserted, kPages);
    EXPECT_EQ(beside.advise().counts.merged, kPages);
}

// One container's processes share, also those that are not its first.
TEST_F(DomainTest, ProcessesOfAContainerShare) {
    Process container(enter_container);
    const Advice second = container.call(+[] {
        const Mapping memory(kPages * kPage);
        memory.fill({Content::kDistinct, 4711});
        if (Device().advise(memory.base(), memory.len()).counts.inserted != kPages)
            return Advice{.error = 1000, .counts = {}};
        return Process().call(+[] {
            const Mapping equal(kPages * kPage);
            equal.fill({Content::kDistinct, 4711});
            return Device().advise(equal.base(), equal.len());
        });
    });
    EXPECT_EQ(second.error, 0);
    EXPECT_EQ(second.counts.merged, kPages);
}

TEST_F(DomainTest, PolicyUid) {
    const Knob knob("domain_policy", "uid");
    Actor one(Kind::kAnonymous, pattern_, kPages, enter_container);
    Actor two(Kind::kAnonymous, pattern_, kPages, enter_container);
    Actor alice(Kind::kAnonymous, pattern_, kPages, become(kAlice));
    EXPECT_EQ(one.advise().counts.inserted, kPages);
    EXPECT_EQ(two.advise().counts.merged, kPages);
    EXPECT_EQ(alice.advise().counts.inserted, kPages);
}

// A process with the rights of two users is in the domain of neither, nor in that of
// another such process, whatever the policy.
TEST_F(DomainTest, MixedUidsAreAlone) {
    const auto mix = [](uid_t real, uid_t effective, uid_t saved) {
        return [=] { must(::setresuid(real, effective, saved), "setresuid"); };
    };
    for (const char *policy : {"container", "uid", "global"}) {
        const Knob knob("domain_policy", policy);
        Actor alice(Kind::kAnonymous, pattern_, kPages, become(kAlice));
        EXPECT_EQ(alice.advise().counts.inserted, kPages) << policy;
        const std::array<uid_t, 3> mixed[] = {{kAlice, kAlice, kBob},
                                              {kBob, kAlice, kAlice},
                                              {kAlice, kBob, kAlice},
                                              {kAlice, kBob, kAlice}};
        std::vector<std::unique_ptr<Actor>> actors;
        for (const auto &[real, effective, saved] : mixed) {
            actors.push_back(std::make_unique<Actor>(Kind::kAnonymous, pattern_, kPages,
                                                     mix(real, effective, saved)));
            EXPECT_EQ(actors.back()->advise().counts.inserted, kPages)
                << policy << ", uids " << real << ' ' << effective << ' ' << saved;
        }
        // With itself it shares.
        const Advice again = actors.back()->call(
            +[](std::uint64_t seed) {
                const Mapping equal(kPages * kPage);
                equal.fill({Content::kDistinct, seed});
                return device().advise(equal.base(), equal.len());
            },
            pattern_.seed);
        EXPECT_EQ(again.counts.merged, kPages);
    }
}

TEST_F(DomainTest, PolicyGlobal) {
    const Knob knob("domain_policy", "global");
    Actor alice(Kind::kAnonymous, pattern_, kPages, become(kAlice));
    Actor bob(Kind::kAnonymous, pattern_, kPages, become(kBob));
    EXPECT_EQ(alice.advise().counts.inserted, kPages);
    EXPECT_EQ(bob.advise().counts.merged, kPages);
    EXPECT_EQ(equal_frames(alice.frames(), bob.frames()), kPages);
}

// Two cgroups under one parent: apart at their own depth, together at the parent's.
TEST_F(DomainTest, PolicyCgroup) {
    const std::string parent = "/sys/fs/cgroup/upm-domain-test";
    if (!exists("/sys/fs/cgroup/cgroup.controllers"))
        GTEST_SKIP() << "no cgroup v2 at /sys/fs/cgroup";
    write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
    for (const char *leaf : {"", "/a", "/b"})
        ::mkdir((parent + leaf).c_str(), 0755);
    ASSERT_EQ(write_file(parent + "/cgroup.subtree_control", "+memory"), 0);
    const auto join = [&](const char *leaf) {
        return [path = parent + leaf + "/cgroup.procs"] { write_file(path, "0"); };
    };
    {
        const Knob named("domain_cgroup_depth", 2);
        const Knob policy("domain_policy", "cgroup");
        Actor a(Kind::kAnonymous, pattern_, kPages, join("/a"));
        Actor b(Kind::kAnonymous, pattern_, kPages, join("/b"));
        {
            const Knob depth("domain_cgroup_depth", 2);
            EXPECT_EQ(a.advise().counts.inserted, kPages);
            EXPECT_EQ(b.advise().counts.inserted, kPages);
            EXPECT_EQ(common_frames(a.frames(), b.frames()), 0U);
        }
        const Knob depth("domain_cgroup_depth", 1);
        Actor c(Kind::kAnonymous, pattern_, kPages, join("/a"));
        Actor d(Kind::kAnonymous, pattern_, kPages, join("/b"));
        EXPECT_EQ(c.advise().counts.inserted, kPages);
        EXPECT_EQ(d.advise().counts.merged, kPages);
    }
    for (const char *leaf : {"/a", "/b", ""})
        ::rmdir((parent + leaf).c_str());
}

// There is no depth that is right everywhere, so somebody must have named one.
TEST_F(DomainTest, PolicyCgroupNeedsADepth) {
    EXPECT_EQ(statistic("domain_cgroup_depth"), 0U);
    EXPECT_EQ(write_file(kSysfs + "domain_policy", "cgroup"), EINVAL);
    EXPECT_EQ(read_file(kSysfs + "domain_policy"), "container\n");
    const Knob depth("domain_cgroup_depth", 2);
    const Knob policy("domain_policy", "cgroup");
    EXPECT_EQ(write_file(kSysfs + "domain_cgroup_depth", "0"), EINVAL);
    EXPECT_EQ(statistic("domain_cgroup_depth"), 2U);
}

// ---- named domains -------------------------------------------------------------

// In the child: open the domain of a key and keep it.
int open_domain(std::uint64_t low, std::uint64_t high) {
    std::string key(16, '\0');
    std::memcpy(key.data(), &low, 8);
    std::memcpy(key.data() + 8, &high, 8);
    return device().domain(key).release();
}

TEST_F(DomainTest, KeyJoinsUsers) {
    Actor alice(Kind::kAnonymous, pattern_, kPages, become(kAlice));
    Actor bob(Kind::kAnonymous, pattern_, kPages, become(kBob));
    Actor other(Kind::kAnonymous, pattern_, kPages, become(kBob));
    const std::uint64_t low = fresh_seed();
    const int of_alice = alice.call(&open_domain, low, 1);
    const int of_bob = bob.call(&open_domain, low, 1);
    const int of_other = other.call(&open_domain, low, 2);
    EXPECT_EQ(alice.advise({.domain = of_alice}).counts.inserted, kPages);
    EXPECT_EQ(bob.advise({.domain = of_bob}).counts.merged, kPages);
    EXPECT_EQ(other.advise({.domain = of_other}).counts.inserted, kPages);
    EXPECT_EQ(equal_frames(alice.frames(), bob.frames()), kPages);
    EXPECT_EQ(common_frames(alice.frames(), other.frames()), 0U);
}

// Who is passed the descriptor needs no key.
TEST_F(DomainTest, DescriptorOverASocket) {
    int pair[2];
    must(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "socketpair");
    const Fd here(pair[0]);
    const Fd there(pair[1]);
    Actor alice(Kind::kAnonymous, pattern_, kPages, become(kAlice));
    Actor bob(Kind::kAnonymous, pattern_, kPages, become(kBob));
    const int of_alice = alice.call(&open_domain, fresh_seed(), 3);
    alice.call(
        +[](int socket, int domain) { send_fd(socket, domain); }, here.get(), of_alice);
    const int of_bob = bob.call(
        +[](int socket) { return receive_fd(socket).release(); }, there.get());
    EXPECT_EQ(alice.advise({.domain = of_alice}).counts.inserted, kPages);
    EXPECT_EQ(bob.advise({.domain = of_bob}).counts.merged, kPages);
}

// Only named domains can be used up, and only for who wants to name more.
TEST_F(DomainTest, LimitOfNamedDomains) {
    const Knob knob("max_domains", 2);
    const Device device;
    const Fd one = device.domain(fresh_key());
    const Fd two = device.domain(fresh_key());
    EXPECT_TRUE(one && two);
    EXPECT_FALSE(device.domain(fresh_key()));
    EXPECT_EQ(errno, ENOSPC);
    Actor alice(Kind::kAnonymous, pattern_, kPages, become(kAlice));
    EXPECT_EQ(alice.advise().counts.inserted, kPages);
}

// One user can keep out neither others nor root; what ends makes room again.
TEST_F(DomainTest, ShareOfOneUser) {
    const Knob knob("max_domains", 8);
    const auto start = [&](uid_t uid) {
        return std::make_unique<Actor>(Kind::kAnonymous, pattern_, kPages, become(uid));
    };
    const auto made = [](Actor &actor) {
        std::uint64_t count = 0;
        while (count < 8 && actor.call(&open_domain, fresh_seed(), count) >= 0)
            count++;
        return count;
    };
    auto alice = start(kAlice);
    const auto bob = start(kBob);
    EXPECT_EQ(made(*alice), 2U);
    EXPECT_EQ(made(*bob), 2U);
    const Device device;
    std::vector<Fd> of_root;
    while (Fd domain = device.domain(fresh_key()))
        of_root.push_back(std::move(domain));
    EXPECT_EQ(errno, ENOSPC);
    EXPECT_EQ(of_root.size(), 4U);

    of_root.clear();
    alice = start(kAlice); // the one before ends
    EXPECT_TRUE(eventually([&] {
        sweep();
        return made(*alice) == 2;
    }));
}

// In the child: has the rights of root of a user namespace with many uids. Names domains
// as each of some of them, and returns how many it made.
std::uint64_t name_domains_as_many() {
    must(::setresuid(0, 0, 0), "setresuid");
    static Device device;
    static std::vector<Fd> domains;
    const auto key = [] { // of this process only
        std::string bytes(16, '\0');
        const std::uint64_t words[] = {static_cast<std::uint64_t>(::getpid()), fresh_seed()};
        std::memcpy(bytes.data(), words, sizeof(words));
        return bytes;
    };
    for (uid_t uid = 0; uid < 5; uid++) {
        must(::setresuid(uid, 0, 0), "setresuid");
        for (int i = 0; i < 3; i++) {
            if (Fd domain = device.domain(key()))
                domains.push_back(std::move(domain));
        }
    }
    return domains.size();
}

// Gives the user namespace that `process` entered first thing its uids.
void map_uids(Process &process, const std::string &map) {
    process.call(+[] {}); // it has entered
    EXPECT_EQ(write_file("/proc/" + std::to_string(process.pid()) + "/uid_map", map), 0);
}

// The uids that are subordinate to a user count for him, not as users of their own.
TEST_F(DomainTest, SubordinateUidsCountForTheirUser) {
    const Knob knob("max_domains", 8);
    Process alice([] {
        become(kAlice)();
        must(::unshare(CLONE_NEWUSER), "unshare(CLONE_NEWUSER)");
    });
    map_uids(alice, "0 100000 10");
    EXPECT_EQ(alice.call(&name_domains_as_many), 2U);
    // In no namespace of hers she is the same.
    Actor again(Kind::kAnonymous, pattern_, kPages, become(kAlice));
    EXPECT_LT(again.call(&open_domain, fresh_seed(), 1), 0);
    Actor bob(Kind::kAnonymous, pattern_, kPages, become(kBob));
    EXPECT_GE(bob.call(&open_domain, fresh_seed(), 1), 0);
}

// Namespaces that root makes, for containers, are apart: tenants do not count as one.
TEST_F(DomainTest, NamespacesOfRootCountForThemselves) {
    const Knob knob("max_domains", 12);
    for (const char *map : {"0 100000 10", "0 200000 10"}) {
        Process container([] { must(::unshare(CLONE_NEWUSER), "unshare(CLONE_NEWUSER)"); });
        map_uids(container, map);
        EXPECT_EQ(container.call(&name_domains_as_many), 3U) << map;
    }
}

// One user cannot take all shared pages, however many domains he has: the last quarter is
// for those that have less than a quarter.
TEST_F(DomainTest, PagesOfOneUser) {
    const Knob knob("max_pages", 40);
    Actor alice(Kind::kAnonymous, pattern_, kPages, become(kAlice));
    Actor more(Kind::kAnonymous, {Content::kDistinct, fresh_seed()}, kPages, become(kAlice));
    Actor bob(Kind::kAnonymous, {Content::kDistinct, fresh_seed()}, kPages, become(kBob));
    const int named = more.call(&open_domain, fresh_seed(), 1);
    EXPECT_EQ(alice.advise().counts.inserted, kPages);
    EXPECT_EQ(more.advise({.domain = named}).counts.inserted, 30 - kPages);
    EXPECT_EQ(bob.advise().counts.inserted, 10U);
    EXPECT_EQ(bob.advise().skipped(UPM_SKIP_LIMIT), kPages - 10);
    EXPECT_EQ(more.advise({.domain = named}).counts.inserted, 0U);
}

// Many domains that end at once go together: if each waited for a grace period of its
// own, others who want a new domain would wait for seconds. How many end at once depends on
// the machine, so the best of a few times counts.
TEST_F(DomainTest, ManyEndAtOnce) {
    constexpr std::size_t kMany = 300;
    const CallCounter waits("synchronize_rcu");
    if (!waits)
        GTEST_SKIP() << "no kprobes";
    const Knob no_sweep("sweep_ms", 0); // only the end of a descriptor sets it off
    const Device device;
    std::uint64_t fewest = ~0ULL;
    for (int round = 0; round < 3; round++) {
        std::vector<Fd> domains;
        for (std::size_t i = 0; i < kMany; i++) {
            domains.push_back(device.domain(fresh_key()));
            EXPECT_TRUE(domains.back());
        }
        const std::uint64_t before = waits.count();
        domains.clear();
        EXPECT_TRUE(eventually([] {
            sweep();
            return std::filesystem::is_empty(kSysfs + "domains");
        }));
        fewest = std::min(fewest, waits.count() - before);
    }
    EXPECT_GT(fewest, 0U);
    EXPECT_LT(fewest, kMany / 2);
    RecordProperty("grace_periods", static_cast<int>(fewest));
}

// Statistics are those of one domain, in KSM's terms.
TEST_F(DomainTest, Statistics) {
    Actor a(Kind::kAnonymous, pattern_, kPages, become(kAlice));
    Actor b(Kind::kAnonymous, pattern_, kPages, become(kAlice));
    Actor bob(Kind::kAnonymous, {Content::kDistinct, fresh_seed()}, kPages, become(kBob));
    a.advise();
    b.advise();
    bob.advise();
    const auto stats = +[] { return device().stats(); };
    const upm_ioc_stats alice = a.call(stats);
    EXPECT_EQ(alice.pages_shared, kPages);
    EXPECT_EQ(alice.pages_sharing, kPages);
    EXPECT_EQ(alice.pages_unused, 0U);
    EXPECT_GE(alice.metadata_bytes, kPages * 40);
    EXPECT_EQ(bob.call(stats).pages_sharing, 0U);
    EXPECT_EQ(statistic("pages_shared"), 2 * kPages);
    EXPECT_EQ(statistic("pages_sharing"), kPages);
}

// ---- other processes ------------------------------------------------------------

// An agent that runs as root merges the memory of others, each in its own domain.
TEST_F(DomainTest, AgentUsesTheTargetsDomain) {
    Actor alice(Kind::kAnonymous, pattern_, kPages, become(kAlice));
    Actor again(Kind::kAnonymous, pattern_, kPages, become(kAlice));
    Actor bob(Kind::kAnonymous, pattern_, kPages, become(kBob));
    const Device agent;
    const auto advise = [&](Actor &actor, std::uint32_t flags = 0) {
        return agent.advise(actor.base(), actor.len(), {.flags = flags, .pid = actor.pid()});
    };
    EXPECT_EQ(advise(alice).counts.inserted, kPages);
    EXPECT_EQ(advise(again).counts.merged, kPages);
    EXPECT_EQ(advise(bob).counts.inserted, kPages);
    EXPECT_EQ(equal_frames(alice.frames(), again.frames()), kPages);
    EXPECT_EQ(common_frames(alice.frames(), bob.frames()), 0U);
    for (Actor *actor : {&alice, &again, &bob}) {
        actor->check();
        EXPECT_EQ(advise(*actor, UPM_ADVISE_UNMERGE).counts.unmerged, kPages);
        actor->check();
    }
    EXPECT_EQ(common_frames(alice.frames(), again.frames()), 0U);
}

// Without CAP_SYS_PTRACE over it, another process is out of reach, also one of
// the same user; the own process is not, by whatever number.
TEST_F(DomainTest, OthersNeedTheCapability) {
    Actor victim(Kind::kAnonymous, pattern_, kPages, become(kAlice));
    Actor friendly(Kind::kAnonymous, pattern_, kPages, become(kAlice));
    Actor root(Kind::kAnonymous, pattern_, kPages);
    const Frames before = victim.frames();
    for (Actor *target : {&victim, &root}) {
        const Advice advice = friendly.call(
            +[](std::byte *base, std::size_t len, pid_t pid) {
                return device().advise(base, len, {.pid = pid});
            },
            target->base(), target->len(), target->pid());
        EXPECT_EQ(advice.error, EPERM);
        EXPECT_EQ(advice.counts.pages, 0U);
    }
    EXPECT_EQ(victim.frames(), before);
    EXPECT_EQ(friendly.advise({.pid = friendly.pid()}).counts.inserted, kPages);
}

// Root of a user namespace has the capability over its own people only.
TEST_F(DomainTest, CapabilityInsideAUserNamespace) {
    Actor outside(Kind::kAnonymous, pattern_, kPages, become(kAlice));
    Process inside([] { must(::unshare(CLONE_NEWUSER), "unshare(CLONE_NEWUSER)"); });
    const Advice advice = inside.call(
        +[](std::byte *base, std::size_t len, pid_t pid) {
            return Device().advise(base, len, {.pid = pid});
        },
        outside.base(), outside.len(), outside.pid());
    EXPECT_EQ(advice.error, EPERM);
    // A program started inside is theirs. (A mere fork would keep the namespace of
    // the address space that it copies.)
    const int error = inside.call(+[] {
        const pid_t child = fork_tied();
        if (child == 0) {
            ::execlp("sleep", "sleep", "600", nullptr);
            ::_exit(127);
        }
        int result = ESRCH;
        eventually([&] {
            for (const MapEntry &map : maps_of(child)) {
                if (map.name != "[stack]")
                    continue;
                result = Device()
                             .advise(reinterpret_cast<void *>(map.start), map.end - map.start,
                                     {.pid = child})
                             .error;
            }
            return result == 0;
        });
        ::kill(child, SIGKILL);
        wait_for(child);
        return result;
    });
    EXPECT_EQ(error, 0);
}

// pid is a number of the caller's pid namespace.
TEST_F(DomainTest, PidNamespace) {
    const std::uint64_t seed = fresh_seed();
    Process outer([] { must(::unshare(CLONE_NEWPID), "unshare(CLONE_NEWPID)"); });
    const int error = outer.call(
        +[](std::uint64_t s) {
            Process init; // number 1 in there
            return init.call(
                +[](std::uint64_t content) {
                    const Mapping memory(kPages * kPage);
                    memory.fill({Content::kDistinct, content});
                    const Advice advice = Device().advise(memory.base(), memory.len(), {.pid = 1});
                    if (::getpid() != 1 || advice.error != 0)
                        return 1000 + advice.error;
                    return advice.counts.inserted == kPages ? 0 : 1;
                },
                s);
        },
        seed);
    EXPECT_EQ(error, 0);
}

} // namespace

} // namespace upm::test
