// SPDX-License-Identifier: MIT
//
// Arbitrary packets from several clients against the broker's whole state machine,
// whose sums must hold after each. With clang a libFuzzer target:
//
//   clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -I.
//       tests/tools/upmd/broker_fuzz.cpp tools/upmd/broker.cpp libupm/store/segment.cpp -lfmt
//
// Otherwise, with a main() of its own, a short run over generated packets for ctest.
#include "tools/upmd/broker.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
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
std::vector<std::byte> make_packet(Input &input) {
    std::vector<std::byte> packet;
    store::Header header{};
    const std::uint8_t kind = input.byte();
    header.op = kind % 10;
    append(packet, header);
    if (header.op == 1) {
        store::HelloRequest hello{};
        hello.page_size = 4096;
        hello.named = input.byte() % 3;
        hello.key[0] = input.byte() % 2;
        packet.assign(sizeof(hello), std::byte{0});
        std::memcpy(packet.data(), &hello, sizeof(hello));
    } else if (header.op == 2 || header.op == 4) {
        const std::uint32_t count = input.byte() % 9;
        append(packet, std::uint32_t{header.op == 2 ? input.byte() % 3U : count});
        append(packet, header.op == 2 ? count : 0U);
        for (std::uint32_t i = 0; i < count; ++i)
            append(packet, std::uint64_t{input.byte() % 16U});
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

void drive(std::span<const std::uint8_t> bytes) {
    Input input(bytes);
    std::uint64_t seed = 0;
    upmd::Broker broker(
        {.quota_pages = 12, .max_pages = 20, .max_segments = 6, .expire_ms = 50, .lease_ms = 20},
        [](upmd::ClientId, std::span<const std::byte> packet, int) {
            store::ReplyHeader reply{};
            if (!store::take(packet, reply) ||
                reply.header.length != sizeof(reply) + packet.size() || reply.error > 0)
                std::abort();
        },
        [&] { return ++seed; });
    std::vector<upmd::ClientId> clients;
    std::uint64_t now = 1;
    while (!input.empty()) {
        now += input.byte() % 8;
        const std::uint8_t who = input.byte();
        if (clients.size() < 2 || (who >= 240 && clients.size() < 6)) {
            clients.push_back(broker.connect(who % 2));
            continue;
        }
        const std::size_t at = who % clients.size();
        const std::vector<std::byte> packet = make_packet(input);
        const bool publish = packet.size() > 6 && packet[6] == std::byte{4};
        upmd::Descriptor fd;
        if (publish && packet.size() > 32 && input.byte() % 8 != 0)
            fd = make_segment((packet.size() - 24) / 8);
        if (!broker.handle(clients[at], packet, std::move(fd), now) || who >= 230) {
            broker.disconnect(clients[at], now);
            clients.erase(clients.begin() + static_cast<std::ptrdiff_t>(at));
        }
        (void)broker.expire(now);
        (void)broker.metrics(0);
        if (!broker.consistent())
            std::abort();
    }
    for (const upmd::ClientId id : clients)
        broker.disconnect(id, now);
    (void)broker.expire(now + 1000);
    if (!broker.idle() || !broker.consistent())
        std::abort();
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
