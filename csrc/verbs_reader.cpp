#include "verbs_reader.h"

#include <algorithm>

namespace spoke {

// -- Operation

bool Operation::wait(std::chrono::nanoseconds limit) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, limit, [&] { return finished_; });
}

bool Operation::finished() {
    const std::lock_guard lock(mutex_);
    return finished_;
}

std::string Operation::error() {
    const std::lock_guard lock(mutex_);
    return error_;
}

void Operation::finish(const std::string& error) {
    const std::lock_guard lock(mutex_);
    if (finished_) return;
    finished_ = true;
    error_ = error;
    changed_.notify_all();
}

// -- Reader

Reader::Reader(std::shared_ptr<Engine> engine) : pair_(std::move(engine), {kReadQueue, 1, 0}) {
    number_ = pair_.engine()->attach(this, kReadQueue + 1);
    requests_.resize(kReadQueue);
    pieces_.resize(kReadQueue);
}

Reader::~Reader() {
    close("the reader was closed");
    pair_.engine()->detach(number_, kReadQueue + 1);
}

void Reader::connect(const std::string& peer) {
    const QpAddress address = QpAddress::unpack(peer);
    const std::lock_guard lock(mutex_);
    if (!failed_.empty()) throw SysError(ENOTCONN, failed_);
    pair_.connect(address);
    connected_ = true;
}

bool Reader::usable() {
    const std::lock_guard lock(mutex_);
    return connected_ && failed_.empty();
}

uint64_t Reader::bytes_read() {
    const std::lock_guard lock(mutex_);
    return bytes_;
}

std::shared_ptr<Operation> Reader::read(std::vector<Slice> slices) {
    Job job;
    job.operation = std::make_shared<Operation>();
    std::erase_if(slices, [](const Slice& slice) { return slice.length == 0; });
    for (const Slice& slice : slices) {
        if (!slice.into || !slice.into->contains(slice.local, slice.length))
            throw SysError(EINVAL, "a read of " + std::to_string(slice.length) + " bytes would end outside its destination's region");
        if (slice.remote + slice.length < slice.remote) throw SysError(EINVAL, "a read would pass the end of the address space");
        job.bytes += slice.length;
    }
    const std::shared_ptr<Operation> operation = job.operation;
    const std::lock_guard lock(mutex_);
    if (!failed_.empty()) throw SysError(ENOTCONN, failed_);
    if (!connected_) throw SysError(ENOTCONN, "the reader is not connected");
    if (slices.empty()) {
        operation->finish("");
        return operation;
    }
    job.slices = std::move(slices);
    jobs_.push_back(std::move(job));
    pump();
    return operation;
}

// Fills the request ring with up to `room` requests of this job; returns how many.
uint32_t Reader::fill(Job& job, uint32_t room) {
    uint32_t count = 0;
    while (count < room && job.next_slice < job.slices.size()) {
        const Slice& slice = job.slices[job.next_slice];
        const uint64_t size = std::min(kReadBytes, slice.length - job.next_byte);
        ib::SendWr& wr = requests_[count];
        ib::Sge& piece = pieces_[count];
        const uint32_t index = pair_.posted() + count;
        piece = {slice.local + job.next_byte, static_cast<uint32_t>(size), slice.into->lkey()};
        wr = {};
        wr.wr_id = uint64_t{number_} << 32 | (index & 0x7fffffffu);
        wr.sg_list = &piece;
        wr.num_sge = 1;
        wr.opcode = ib::kRdmaRead;
        wr.wr.rdma.remote_addr = slice.remote + job.next_byte;
        wr.wr.rdma.rkey = slice.rkey;
        job.next_byte += size;
        if (job.next_byte == slice.length) {
            job.next_byte = 0;
            ++job.next_slice;
        }
        const bool last = job.next_slice == job.slices.size();
        wr.send_flags = last || pair_.signal_due(index) ? static_cast<unsigned int>(ib::kSignaled) : 0u;
        if (count != 0) requests_[count - 1].next = &wr;
        ++count;
    }
    return count;
}

void Reader::pump() {
    for (Job& job : jobs_) {
        if (job.posted) continue;
        const uint32_t count = fill(job, pair_.room());
        if (count == 0) return;
        try {
            pair_.post(requests_.data(), count);
        } catch (const SysError& error) {
            fail(error.what());
            return;
        }
        if (job.next_slice < job.slices.size()) return;  // the queue is full
        job.posted = true;
        job.end = pair_.posted();
    }
}

void Reader::completed(const ib::Wc& wc, bool receive, uint32_t index) {
    const std::lock_guard lock(mutex_);
    if (receive || pair_.gone()) return;
    pair_.retire(index);
    if (wc.status != ib::kSuccess) {
        // Only the first tells the cause; what follows it is flushed.
        fail(describe_failure(*pair_.engine(), "RDMA READ", wc, pair_.number()));
    } else if (failed_.empty()) {
        retire_jobs();
        pump();
    }
    if (!failed_.empty() && pair_.idle()) finish_all();
}

void Reader::retire_jobs() {
    while (!jobs_.empty() && jobs_.front().posted && static_cast<int32_t>(pair_.retired() - jobs_.front().end) >= 0) {
        bytes_ += jobs_.front().bytes;
        jobs_.front().operation->finish("");
        jobs_.pop_front();
    }
}

void Reader::fail(const std::string& why) {
    if (!failed_.empty()) return;
    failed_ = why;
    give_up_ = Clock::now() + kDrainLimit;
    pair_.stop();
    pair_.engine()->hurry(number_);
    pair_.engine()->notify({NoticeKind::kBroken, number_, why});
}

// Every request is accounted for, or the device does not do it: then destroying the pair does.
void Reader::finish_all() {
    pair_.destroy();
    for (Job& job : jobs_) job.operation->finish(failed_);
    jobs_.clear();
    changed_.notify_all();
}

bool Reader::tick(Clock::time_point now) {
    const std::lock_guard lock(mutex_);
    if (failed_.empty() || pair_.gone()) return false;
    if (!pair_.idle() && now < give_up_ && pair_.engine()->alive()) return true;
    finish_all();
    return false;
}

void Reader::lost(const std::string& why) {
    const std::lock_guard lock(mutex_);
    fail(why);
}

void Reader::abort(const std::string& why) {
    const std::lock_guard lock(mutex_);
    fail(why);
}

void Reader::close(const std::string& why) {
    std::unique_lock lock(mutex_);
    fail(why);
    changed_.wait_for(lock, kDrainLimit + std::chrono::seconds(1), [&] { return pair_.gone(); });
    if (!pair_.gone()) finish_all();  // the owner thread is busy elsewhere: nothing may read on
}

// -- Responder

void Responder::connect(const std::string& peer) {
    const QpAddress address = QpAddress::unpack(peer);
    const std::lock_guard lock(mutex_);
    pair_.connect(address);
}

void Responder::close() {
    const std::lock_guard lock(mutex_);
    pair_.stop();
    pair_.destroy();
}

bool Responder::usable() {
    const std::lock_guard lock(mutex_);
    return !pair_.gone() && pair_.engine()->alive();
}

}  // namespace spoke
