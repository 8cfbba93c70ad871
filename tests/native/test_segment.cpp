// Segments: bounds, sharing, populating, lifetime of mappings.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <limits>
#include <string>

#include "check.h"
#include "segment.h"

namespace {

using spoke::Piece;
using spoke::Segment;

Piece piece(const char* text) { return {text, std::strlen(text)}; }

void write_and_share() {
    const Segment segment = Segment::create("test", 100000);
    const Piece pieces[] = {piece("hello "), Piece(), piece("world")};
    CHECK(segment.write(99989, pieces) == 11);
    const Segment other = Segment::map(segment.mapping()->fd(), 100000, false);
    CHECK(other.mapping()->fd() != segment.mapping()->fd());
    CHECK(std::memcmp(other.mapping()->at(99989, 11), "hello world", 11) == 0);
    CHECK_THROWS(spoke::SysError, other.write(0, pieces));
    CHECK_THROWS(spoke::SysError, other.populate(0, 1));
}

void bounds() {
    const Segment segment = Segment::create("test", 4096);
    const Piece pieces[] = {piece("ab")};
    CHECK_THROWS(std::invalid_argument, segment.write(4095, pieces));
    CHECK_THROWS(std::invalid_argument, segment.write(std::numeric_limits<uint64_t>::max(), pieces));
    CHECK_THROWS(std::invalid_argument, segment.mapping()->at(1, std::numeric_limits<uint64_t>::max()));
    CHECK_THROWS(std::invalid_argument, segment.populate(4096, 1));
    CHECK_THROWS(spoke::SysError, Segment::map(segment.mapping()->fd(), 8192, true));
    CHECK_THROWS(spoke::SysError, Segment::map(-1, 8192, true));
    CHECK_THROWS(spoke::SysError, Segment::create("test", 0));
    CHECK_THROWS(spoke::SysError, Segment::create("test", uint64_t{1} << 60));
    CHECK(::ftruncate(segment.mapping()->fd(), 100) != 0);  // sealed
}

void populate_keeps_contents() {
    const uint64_t size = (20 << 20) + 100;
    const Segment segment = Segment::create("test", size);
    const Piece pieces[] = {piece("x")};
    segment.write(5000, pieces);
    segment.populate(4999, size - 4999);
    CHECK(*segment.mapping()->at(5000, 1) == 'x');
    struct stat info {};
    CHECK(::fstat(segment.mapping()->fd(), &info) == 0);
    CHECK(info.st_blocks * 512 >= static_cast<int64_t>(size - 4096));
}

void mapping_outlives_segment() {
    std::shared_ptr<spoke::Mapping> kept;
    {
        const Segment segment = Segment::create("test", 4096);
        kept = segment.mapping();
    }
    *kept->at(0, 1) = 'y';
    CHECK(*kept->at(0, 1) == 'y');
}

}  // namespace

int main() {
    write_and_share();
    bounds();
    populate_keeps_contents();
    mapping_outlives_segment();
    CHECK(spoke::memcpy_rate(1 << 20) > 0);
    std::puts("segment: ok");
}
