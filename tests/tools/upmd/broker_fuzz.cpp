// SPDX-License-Identifier: MIT
//
// Arbitrary packets from several clients against the broker's whole state machine,
// whose sums must hold after each. With clang a libFuzzer target:
//
//   clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -I.
//       tests/tools/upmd/broker_fuzz.cpp
//       tools/upmd/{backlog,broker,catalog,ledger,making,metrics,seeding,seeds,usage}.cpp
//       libupm/store/{sample,segment}.cpp -lfmt
//
// Otherwise, with a main() of its own, a short run over generated packets for ctest.
#include "tools/upmd/broker.hpp"

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

namespace {

using namespace upm;

// Bytes of the input are choices: which client, which time, which packet.
class Input {
  public:
    explicit Input(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}
    [[nodiscard]] bool empty() const { return bytes_.empty(); }
    std::uint8_t byte() {
        if (bytes_.empty())
            return 0;
        const std::uint8_t value = bytes_.front();
        bytes_ = bytes_.subspan(1);
        return value;
    }

  private:
    std::span<const std::uint8_t> bytes_;
};

template <class T>
void append(std::vector<std::byte> &packet, const T &value) {
    const std::size_t size = packet.size();
    packet.resize(size + sizeof(value));
    std::memcpy(packet.data() + size, &value, sizeof(value));
}

// Mostly well formed, so that it gets deep; some bytes are bent afterwards.
std::vector<std::byte> make_packet(Input &input, std::uint16_t version) {
    std::vector<std::byte> packet;
    store::Header header{};
    const std::uint8_t kind = input.byte();
    header.op = kind % 12;
    header.version = version;
    append(packet, header);
    if (header.op == 1) {
        store::HelloRequest hello{};
        hello.page_size = 4096;
        hello.named = input.byte() % 3;
        hello.key[0] = input.byte() % 2;
        const std::uint8_t newest = input.byte(); // mostly that which the client goes on with
        hello.newest = newest < 64 ? static_cast<std::uint16_t>(2 + newest % 5) : version;
        // Of a seed: what two calls of `random` in a row give.
        const std::uint64_t first = input.byte() % 64U;
        const std::uint64_t token[] = {first | 1U, (first + 1) | 1U};
        std::memcpy(hello.token, token, sizeof(hello.token));
        packet.assign(version == 2   ? store::kHelloRequestV2
                      : version == 3 ? store::kHelloRequestV3
                                     : sizeof(hello),
                      std::byte{0});
        std::memcpy(packet.data(), &hello, packet.size());
    } else if (header.op == 2 || header.op == 4) {
        const std::uint32_t count = input.byte() % 9;
        const std::uint32_t flags = input.byte() % 16U + (input.byte() % 16U << 16U);
        append(packet, header.op == 2 ? flags : count);
        append(packet, header.op == 2 ? count : 0U);
        for (std::uint32_t i = 0; i < count; ++i)
            append(packet, std::uint64_t{input.byte() % 16U});
    } else if (header.op == 10) {
        store::SeedRequest seed{};
        seed.header = header;
        seed.act = input.byte() % 5;
        seed.number = input.byte() % 6U;
        seed.budget = input.byte() % 8U;
        seed.expire_s = 1; // so that all of them end at last
        packet.resize(sizeof(seed));
        std::memcpy(packet.data(), &seed, sizeof(seed));
    } else if (header.op == 9) {
        store::MakeRequest make{};
        make.likeness = input.byte() % 3;
        make.pages = input.byte() % 6U;
        make.flags = input.byte() % 2U;
        packet.resize(sizeof(make));
        std::memcpy(packet.data(), &make, sizeof(make));
    } else if (header.op == 11) {
        store::LateRequest late{};
        late.likeness = input.byte() % 3;
        late.pages = input.byte() % 64U;
        late.skew = input.byte() % 2 != 0 ? 512U - input.byte() % 64U : 0U;
        late.flags = input.byte() % 8 == 0 ? 2U : input.byte() % 2U;
        packet.resize(sizeof(late));
        std::memcpy(packet.data(), &late, sizeof(late));
    } else if (header.op == 3 || header.op == 6) {
        append(packet, std::uint32_t{input.byte() % 8U});
        append(packet, std::uint32_t{0});
        if (header.op == 6)
            append(packet, static_cast<std::int64_t>(input.byte()) * (input.byte() % 3 - 1));
    }
    header.length = static_cast<std::uint32_t>(packet.size());
    std::memcpy(packet.data(), &header, sizeof(header));
    if (kind >= 200) {
        packet[input.byte() % packet.size()] = static_cast<std::byte>(input.byte());
        packet.resize(kind >= 230 ? input.byte() % (packet.size() + 8) : packet.size());
    }
    return packet;
}

upmd::Descriptor make_segment(std::size_t pages) {
    const int fd = ::memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    const std::vector<char> bytes(pages * 4096, 's');
    if (::write(fd, bytes.data(), bytes.size()) < 0)
        std::abort();
    if (::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK) != 0)
        std::abort();
    return upmd::Descriptor(fd);
}

// What a thread makes of a task: what it is to make, or an error. The pages have the hashes
// that clients ask for.
upmd::Made do_task(Input &input, upmd::MakeTask &task) {
    if (task.look)
        return upmd::make_segment(task);
    upmd::Made made;
    made.number = task.number;
    made.error = input.byte() % 4 == 0 ? -ENODATA : 0;
    for (std::uint32_t page = 0; page < task.pages && made.error == 0; ++page)
        made.hashes.push_back(input.byte() % 16U);
    if (made.error == 0) {
        made.fd = make_segment(task.pages);
        struct stat status {};
        if (::fstat(made.fd.get(), &status) != 0)
            std::abort();
        made.inode = status.st_ino;
    }
    if (task.keep)
        made.file = std::move(task.file);
    return made;
}

// What a process maps, as the watcher would say it: anything.
upmd::Look make_look(Input &input, const std::vector<std::uint64_t> &inodes) {
    upmd::Look look;
    const std::uint8_t kind = input.byte();
    look.readable = kind % 4 != 0;
    look.complete = kind % 3 != 0;
    look.gone = kind >= 250;
    for (const std::uint64_t inode : inodes)
        if (const std::uint8_t pages = input.byte() % 4; pages != 0)
            look.pages[inode] = pages;
    return look;
}

class Session {
  public:
    explicit Session(Input &input) : input_(input) {}

    void run() {
        while (!input_.empty()) {
            now_ += input_.byte() % 8;
            step();
            (void)broker_.expire(now_);
            (void)broker_.metrics();
            for (const std::uint64_t process : broker_.usage().take_due(now_))
                if (input_.byte() % 4 != 0) // else it hangs
                    broker_.usage().seen(process, make_look(input_, inodes_),
                                         now_ - input_.byte() % 8, now_);
            if (!broker_.consistent())
                std::abort();
        }
        while (!tasks_.empty())
            work();
        for (const Client &client : clients_)
            broker_.disconnect(client.id, now_);
        while (!tasks_.empty())
            work();
        (void)broker_.expire(now_ + 5000);
        if (!broker_.idle() || !broker_.consistent())
            std::abort();
    }

  private:
    struct Client {
        upmd::ClientId id;
        std::uint16_t version;
    };

    void connect(std::uint8_t choice) {
        upmd::Peer peer;
        peer.uid = choice % 2;
        peer.process = choice % 5;
        peer.domain = std::string(1, choice % 3 == 0 ? 'a' : 'b');
        peer.label = peer.domain;
        peer.ours = choice % 7 == 0;
        peer.sees_all = choice % 11 == 0;
        clients_.push_back({.id = broker_.connect(std::move(peer)),
                            .version = static_cast<std::uint16_t>(2 + choice / 2 % 5)});
    }

    // A thread is done with a task, not always the first one.
    void work() {
        const std::size_t at = input_.byte() % tasks_.size();
        auto [task, quietly] = std::move(tasks_[at]);
        tasks_.erase(tasks_.begin() + static_cast<std::ptrdiff_t>(at));
        upmd::Made made = do_task(input_, task);
        if (made.inode != 0)
            inodes_.push_back(made.inode);
        if (quietly)
            broker_.made_late(std::move(made), now_);
        else
            broker_.made(std::move(made), now_);
    }

    void step() {
        const std::uint8_t choice = input_.byte();
        if (!tasks_.empty() && choice % 4 == 0) {
            work();
            return;
        }
        if (clients_.size() < 2 || (choice >= 240 && clients_.size() < 6)) {
            connect(choice);
            return;
        }
        const std::size_t at = choice % clients_.size();
        const Client client = clients_[at];
        const std::vector<std::byte> packet = make_packet(input_, client.version);
        const bool publish = packet.size() > 6 && packet[6] == std::byte{4};
        upmd::Brought brought;
        if (publish && packet.size() > 32 && input_.byte() % 8 != 0) {
            brought.fd = make_segment((packet.size() - 24) / 8);
            struct stat status {};
            if (::fstat(brought.fd.get(), &status) != 0)
                std::abort();
            inodes_.push_back(status.st_ino);
        }
        const std::byte op = packet.size() > 6 ? packet[6] : std::byte{0};
        if ((op == std::byte{9} || op == std::byte{11}) && input_.byte() % 8 != 0)
            brought.fd = make_segment(64);
        (void)broker_.metrics(client.id);
        if (!broker_.handle(client.id, packet, std::move(brought), now_) || choice >= 230) {
            broker_.disconnect(client.id, now_);
            clients_.erase(clients_.begin() + static_cast<std::ptrdiff_t>(at));
        }
    }

    Input &input_;
    std::uint64_t now_ = 1;
    std::uint64_t seed_ = 0;
    std::vector<Client> clients_;
    std::vector<std::uint64_t> inodes_;
    std::vector<std::pair<upmd::MakeTask, bool>> tasks_; // and if quietly
    upmd::Broker broker_{{.max_pages = 40,
                          .quota_pages = 28,
                          .client_pages = 22,
                          .max_segments = 6,
                          .user_segments = 4,
                          .user_parked = 2,
                          .late = 3,
                          .user_late = 2,
                          .late_ms = 60,
                          .user_names = 5,
                          .expire_ms = 50,
                          .reservation_ms = 20,
                          .wait_ms = 10,
                          .look_ms = 30,
                          .look_soon_ms = 5,
                          .blind_ms = 40,
                          .alone_pages = 30,
                          .seed_pages = 6,
                          .all_seed_pages = 8,
                          .user_seeds = 3},
                         [](upmd::ClientId, std::span<const std::byte> packet, int) {
                             store::ReplyHeader reply{};
                             if (!store::take(packet, reply) ||
                                 reply.header.length != sizeof(reply) + packet.size() ||
                                 reply.error > 0)
                                 std::abort();
                         },
                         [this] { return ++seed_; },
                         [this](uid_t, upmd::MakeTask task, bool quietly) {
                             if (task.pages != 0) // else a file that is to be closed
                                 tasks_.emplace_back(std::move(task), quietly);
                         }};
};

void drive(std::span<const std::uint8_t> bytes) {
    Input input(bytes);
    Session(input).run();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    drive({data, size});
    return 0;
}

#ifdef UPM_FUZZ_MAIN
int main(int argc, char **argv) {
    const long runs = argc > 1 ? std::strtol(argv[1], nullptr, 10) : 3000;
    std::uint64_t state = 1;
    for (long run = 0; run < runs; ++run) {
        std::vector<std::uint8_t> bytes(400);
        for (std::uint8_t &byte : bytes) {
            state = state * 6364136223846793005ULL + 1442695040888963407ULL;
            byte = static_cast<std::uint8_t>(state >> 56U);
        }
        drive(bytes);
    }
    std::printf("%ld runs\n", runs);
}
#endif
