// See connection.h for the rules.
#include "connection.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>

namespace spoke {

namespace {

constexpr size_t kMaxPieces = 64;        // one sendmsg; more only costs stack
constexpr size_t kChunkRoom = 64 * 1024;  // small messages share a chunk of the queue

// One gathering write, with a descriptor if fd >= 0.  -1 with errno, EINTR never.
ssize_t write_pieces(int socket, struct iovec* pieces, size_t count, int fd) {
    struct msghdr message {};
    message.msg_iov = pieces;
    message.msg_iovlen = count;
    alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    if (fd >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        struct cmsghdr* header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
    }
    for (;;) {
        const ssize_t written = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (written >= 0 || errno != EINTR) return written;
    }
}

bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == ENOBUFS; }

}  // namespace

size_t LargeFrame::places(std::span<char> (&result)[2]) const noexcept {
    size_t count = 0;
    if (received < meta_size) result[count++] = {meta.data() + received, meta_size - received};
    const size_t of_payload = received > meta_size ? received - meta_size : 0;
    if (of_payload < payload_size) result[count++] = {payload->data() + of_payload, payload_size - of_payload};
    return count;
}

void Outbox::clear() {
    chunks_.clear();
    bytes_ = 0;
}

void Outbox::queue(std::span<const Piece> pieces, size_t skip, int fd) {
    size_t rest = 0;
    for (const Piece& piece : pieces) rest += piece.size();
    rest -= skip;
    const bool fits = !chunks_.empty() && fd < 0 && chunks_.back().data.size() - chunks_.back().end >= rest;
    if (!fits) {
        Chunk chunk;
        chunk.data = RawBuffer(std::max(rest, fd < 0 && rest < kChunkRoom ? kChunkRoom : rest));
        if (fd >= 0) {
            chunk.fd = UniqueFd(check(::fcntl(fd, F_DUPFD_CLOEXEC, 3), "duplicating a descriptor to send"));
        }
        chunks_.push_back(std::move(chunk));
    }
    Chunk& chunk = chunks_.back();
    for (const Piece& piece : pieces) {
        const size_t passed = std::min(skip, piece.size());
        skip -= passed;
        const size_t size = piece.size() - passed;
        if (size == 0) continue;
        std::memcpy(chunk.data.data() + chunk.end, piece.data() + passed, size);
        chunk.end += size;
    }
    bytes_ += rest;
}

bool Outbox::send(int socket, std::span<const Piece> pieces, int fd) {
    if (bytes_ != 0) {
        queue(pieces, 0, fd);
        return true;
    }
    size_t first = 0;
    while (first < pieces.size()) {
        struct iovec vectors[kMaxPieces];
        const size_t count = std::min(kMaxPieces, pieces.size() - first);
        size_t size = 0;
        for (size_t i = 0; i < count; ++i) {
            const Piece& piece = pieces[first + i];
            vectors[i] = {const_cast<char*>(piece.data()), piece.size()};
            size += piece.size();
        }
        ssize_t written = write_pieces(socket, vectors, count, fd);
        if (written < 0) {
            if (!would_block(errno)) return false;
            written = 0;
        }
        if (written > 0) fd = -1;  // sent
        if (static_cast<size_t>(written) < size) {
            queue(pieces.subspan(first), static_cast<size_t>(written), fd);
            return true;
        }
        first += count;
    }
    return true;
}

bool Outbox::flush(int socket) {
    while (!chunks_.empty()) {
        struct iovec vectors[kMaxPieces];
        size_t count = 0;
        size_t size = 0;
        const int fd = chunks_.front().begin == 0 ? chunks_.front().fd.get() : -1;
        for (const Chunk& chunk : chunks_) {
            // A descriptor belongs to the first byte of its own write.
            if (count == kMaxPieces || (count > 0 && chunk.fd)) break;
            vectors[count++] = {chunk.data.data() + chunk.begin, chunk.end - chunk.begin};
            size += chunk.end - chunk.begin;
        }
        const ssize_t written = write_pieces(socket, vectors, count, fd);
        if (written < 0) return would_block(errno);
        auto rest = static_cast<size_t>(written);
        bytes_ -= rest;
        while (!chunks_.empty() && rest >= chunks_.front().end - chunks_.front().begin) {
            rest -= chunks_.front().end - chunks_.front().begin;
            chunks_.pop_front();
        }
        if (!chunks_.empty()) chunks_.front().begin += rest;
        if (static_cast<size_t>(written) < size) return true;
    }
    return true;
}

}  // namespace spoke
