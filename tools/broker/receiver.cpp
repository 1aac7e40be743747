// SPDX-License-Identifier: MIT
#include "tools/broker/receiver.hpp"

#include "libupm/base/close_range.hpp"
#include "libupm/base/packet.hpp"
#include "libupm/base/system.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

namespace upm::broker {

// Belongs to one thread at a time: the loop's, then the receiver's, then the loop's.
struct Receiver::Job {
    std::uint64_t client = 0;
    std::size_t bytes = 0;
    std::size_t fds = 0;
    Welcome welcome = nullptr;
    Received received;
};

struct Receiver::Thread {
    Descriptor channel; // the loop's end of it
    bool busy = false;
    uid_t uid = 0; // for whom
    std::uint64_t since = 0;
};

namespace {

// What goes through a channel. A thread answers each job twice: with what it received,
// and when it has closed what it did not hand on.
struct Word {
    void *job = nullptr; // nothing: the thread is free again
};

int send_word(int channel, const Word &word, std::span<const int> fds) noexcept {
    const iovec part{.iov_base = const_cast<Word *>(&word), .iov_len = sizeof(word)};
    return packet::send(channel, {&part, 1}, fds);
}

int receive_word(int channel, Word &word, std::span<int> fds, packet::Received &received,
                 int flags) noexcept {
    const iovec part{.iov_base = &word, .iov_len = sizeof(word)};
    const int ret = packet::receive(channel, {&part, 1}, fds, received, flags);
    return ret == 0 && received.bytes != sizeof(word) ? -EPROTO : ret;
}

// Leaves the thread with one descriptor in a table of its own. False: it cannot be done.
bool keep_only(int fd) noexcept {
    const auto number = static_cast<unsigned>(fd);
    if (close_descriptors(number + 1, ~0U, CLOSE_RANGE_UNSHARE) != 0)
        return false;
    return number == 0 || close_descriptors(0, number - 1, 0) == 0;
}

} // namespace

bool is_memfd(int fd) noexcept {
    return ::fcntl(fd, F_GET_SEALS) >= 0;
}

bool is_memory_or_device(int fd) noexcept {
    struct stat status {};
    return is_memfd(fd) || (::fstat(fd, &status) == 0 &&
                            (S_ISCHR(status.st_mode) || (status.st_mode & S_IFMT) == 0));
}

namespace {

// Receives one packet of a client's socket; what is not welcome stays in `rest`.
template <class Job>
void receive_one(int socket, Job &job, std::vector<int> &good, std::vector<int> &rest) {
    auto &received = job.received;
    received.client = job.client;
    received.packet.resize(job.bytes);
    const iovec part{.iov_base = received.packet.data(), .iov_len = received.packet.size()};
    std::array<int, packet::kMaxFds> numbers{};
    packet::Received came;
    received.error =
        packet::receive(socket, {&part, 1}, std::span(numbers).first(job.fds), came, MSG_DONTWAIT);
    received.packet.resize(came.bytes);
    for (const int fd : std::span(numbers).first(came.fds))
        (job.welcome(fd) ? good : rest).push_back(fd);
    received.attachments.unwelcome = !rest.empty();
    received.attachments.lost = came.fds_cut && came.fds < job.fds;
    if (came.cut || (came.fds_cut && came.fds == job.fds))
        received.error = -EPROTO; // longer than any packet of the protocol
}

// A channel that ends ends the thread: the loop is gone.
template <class Job>
void serve(int channel) {
    if (!keep_only(channel) || send_word(channel, {}, {}) != 0) {
        (void)::shutdown(channel, SHUT_RDWR); // the loop waits for a word
        return;
    }
    for (;;) {
        Word word;
        int socket = -1;
        packet::Received received;
        if (receive_word(channel, word, {&socket, 1}, received, 0) != 0 || word.job == nullptr)
            return;
        std::vector<int> good;
        std::vector<int> rest;
        receive_one(socket, *static_cast<Job *>(word.job), good, rest);
        const bool told = send_word(channel, word, good) == 0;
        packet::close_all({&socket, 1});
        packet::close_all(good);
        packet::close_all(rest); // here it may hang
        if (!told || send_word(channel, {}, {}) != 0)
            return;
    }
}

} // namespace

Receiver::Receiver(const Settings &settings, Watch watch, Ready ready)
    : settings_(settings), watch_(std::move(watch)), ready_(std::move(ready)) {}

// Threads end when their channels do; one that hangs is not waited for.
Receiver::~Receiver() = default;

Receiver::Thread *Receiver::start_thread() {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0)
        return nullptr;
    Descriptor ours(ends[0]);
    const Descriptor its(ends[1]); // closed here once the thread has one of its own
    try {
        std::thread(serve<Job>, its.get()).detach();
    } catch (const std::system_error &) {
        return nullptr; // no more threads
    }
    Word word;
    packet::Received received;
    if (receive_word(ours.get(), word, {}, received, 0) != 0)
        return nullptr;
    watch_(ours.get());
    threads_.push_back(Thread{.channel = std::move(ours)});
    return &threads_.back();
}

Receiver::Thread *Receiver::free_thread(uid_t uid) {
    const auto mine = static_cast<std::size_t>(
        std::count_if(threads_.begin(), threads_.end(),
                      [&](const Thread &thread) { return thread.busy && thread.uid == uid; }));
    if (mine >= settings_.user_threads)
        return nullptr;
    const auto idle = std::find_if(threads_.begin(), threads_.end(),
                                   [](const Thread &thread) { return !thread.busy; });
    if (idle != threads_.end())
        return &*idle;
    const std::size_t left_behind = std::min(hanging(nullptr), settings_.hanging);
    return threads_.size() < settings_.threads + left_behind ? start_thread() : nullptr;
}

// How many threads hang, of one user or of all.
std::size_t Receiver::hanging(const uid_t *uid) const {
    const std::uint64_t now = now_ms();
    return static_cast<std::size_t>(
        std::count_if(threads_.begin(), threads_.end(), [&](const Thread &thread) {
            return thread.busy && (uid == nullptr || thread.uid == *uid) &&
                   thread.since + settings_.patience_ms <= now;
        }));
}

// Says if waiting for a thread is of no use, since those that this user may have hang.
bool Receiver::all_hang(uid_t uid) const {
    return hanging(&uid) >= settings_.user_threads ||
           hanging(nullptr) >= settings_.threads + settings_.hanging;
}

bool Receiver::begin(Thread &thread, const Waiting &wanted) {
    auto job = std::make_unique<Job>();
    job->client = wanted.client;
    job->bytes = settings_.bytes;
    job->fds = settings_.fds;
    job->welcome = settings_.welcome;
    if (send_word(thread.channel.get(), {.job = job.get()}, {&wanted.socket, 1}) != 0)
        return false;
    (void)job.release(); // the thread's, until it comes back
    thread.busy = true;
    thread.uid = wanted.uid;
    thread.since = now_ms();
    return true;
}

bool Receiver::receive(std::uint64_t client, uid_t uid, int socket) {
    const Waiting wanted{.client = client, .uid = uid, .socket = socket, .since = now_ms()};
    if (Thread *const thread = free_thread(uid); thread != nullptr && begin(*thread, wanted))
        return true;
    const bool any = std::any_of(threads_.begin(), threads_.end(),
                                 [](const Thread &thread) { return thread.busy; });
    if (!any || all_hang(uid))
        return false;
    waiting_.push_back(wanted);
    return true;
}

void Receiver::forget(std::uint64_t client) {
    std::erase_if(waiting_, [&](const Waiting &wanted) { return wanted.client == client; });
}

void Receiver::begin_waiting() {
    std::deque<Waiting> left;
    for (const Waiting &wanted : waiting_) {
        Thread *const thread = free_thread(wanted.uid);
        if (thread == nullptr || !begin(*thread, wanted))
            left.push_back(wanted);
    }
    waiting_.swap(left);
}

void Receiver::take_result(Thread &thread, std::unique_ptr<Job> job) {
    if (job == nullptr) {
        thread.busy = false;
        begin_waiting();
        return;
    }
    ready_(std::move(job->received));
}

bool Receiver::ready(int fd) {
    const auto thread = std::find_if(threads_.begin(), threads_.end(),
                                     [&](const Thread &each) { return each.channel.get() == fd; });
    if (thread == threads_.end())
        return false;
    Word word;
    std::array<int, packet::kMaxFds> numbers{};
    packet::Received received;
    const int ret =
        receive_word(fd, word, std::span(numbers).first(settings_.fds), received, MSG_DONTWAIT);
    if (ret == -EAGAIN)
        return true;
    if (ret != 0) { // it could not go on
        threads_.erase(thread);
        return true;
    }
    std::unique_ptr<Job> job(static_cast<Job *>(word.job));
    if (job != nullptr) {
        Attachments &attachments = job->received.attachments;
        for (const int number : std::span(numbers).first(received.fds))
            attachments.fds.emplace_back(number);
        attachments.lost = attachments.lost || received.fds_cut;
    }
    take_result(*thread, std::move(job));
    return true;
}

int Receiver::tick(std::uint64_t now) {
    std::vector<Waiting> refused;
    std::erase_if(waiting_, [&](const Waiting &wanted) {
        const bool over = wanted.since + settings_.patience_ms <= now;
        if (over)
            refused.push_back(wanted);
        return over;
    });
    for (const Waiting &wanted : refused) {
        Received without;
        without.client = wanted.client;
        without.error = -EBUSY;
        ready_(std::move(without));
    }
    return waiting_.empty() ? -1 : static_cast<int>(settings_.patience_ms);
}

} // namespace upm::broker
