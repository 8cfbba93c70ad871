// Tokens of msgpack: every kind, every cut, bytes at random.
#include "message.h"

#include <random>
#include <string>
#include <vector>

#include "check.h"

using spoke::Token;
using spoke::TokenKind;
using spoke::TokenReader;

namespace {

Token one(const std::string& bytes) {
    // A copy of its own, exactly as long, so that a sanitizer sees a look beyond the end.
    const std::vector<char> exact(bytes.begin(), bytes.end());
    TokenReader reader(exact.data(), exact.size());
    Token token;
    CHECK(reader.next(token) && reader.at_end());
    token.data = nullptr;
    return token;
}

int64_t number(const std::string& bytes) {
    const Token token = one(bytes);
    CHECK(token.kind == TokenKind::kInt);
    return token.number;
}

void test_numbers() {
    CHECK(number("\x7f") == 127 && number("\xff") == -1 && number("\xe0") == -32);
    CHECK(number("\xd0\x80") == -128 && number("\xd1\xff\x7f") == -129);
    CHECK(number(std::string("\xd2\x80\x00\x00\x00", 5)) == INT32_MIN);
    CHECK(number(std::string("\xd3\x80\x00\x00\x00\x00\x00\x00\x00", 9)) == INT64_MIN);
    CHECK(one("\xcc\xff").size == 255 && one(std::string("\xcd\x01\x00", 3)).size == 256);
    CHECK(one("\xcf\xff\xff\xff\xff\xff\xff\xff\xff").size == UINT64_MAX);
    CHECK(one(std::string("\xca\x3f\xc0\x00\x00", 5)).real == 1.5);
    CHECK(one(std::string("\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00", 9)).real == 1.5);
    CHECK(one("\xc0").kind == TokenKind::kNil && one("\xc3").number == 1 && one("\xc2").number == 0);
}

void test_text_bytes_and_containers() {
    CHECK(one("\xa2hi").size == 2 && one("\xd9\x02hi").kind == TokenKind::kText);
    CHECK(one(std::string("\xda\x00\x02hi", 5)).size == 2 && one(std::string("\xc4\x00", 2)).kind == TokenKind::kBytes);
    Token token;
    const std::string list("\x92\x01\x02", 3);
    TokenReader reader(list.data(), list.size());
    CHECK(reader.next(token) && token.kind == TokenKind::kArray && token.size == 2);
    CHECK(reader.next(token) && reader.next(token) && token.number == 2 && !reader.next(token));
    // More items than bytes are left.
    for (const std::string& lie : {std::string("\xdd\xff\xff\xff\xff", 5), std::string("\xdf\x00\x01\x00\x00", 5)}) {
        TokenReader liar(lie.data(), lie.size());
        CHECK(!liar.next(token));
    }
}

void test_cuts_and_extensions() {
    Token token;
    const std::vector<std::string> whole = {
        std::string("\xcd\x01\x00", 3), "\xa2hi", std::string("\xc6\x00\x00\x00\x01x", 6),
        std::string("\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00", 9), std::string("\xdc\x00\x00", 3)};
    for (const std::string& bytes : whole)
        for (size_t size = 0; size < bytes.size(); ++size) {
            const std::vector<char> cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
            TokenReader reader(cut.data(), cut.size());
            CHECK(!reader.next(token));
        }
    for (const char* odd : {"\xc1", "\xc7\x01\x01x", "\xd4\x01x", "\xd8"}) {
        TokenReader reader(odd, std::char_traits<char>::length(odd));
        CHECK(!reader.next(token));
    }
}

void test_random_bytes() {
    std::mt19937 random(20260);
    for (int round = 0; round < 100'000; ++round) {
        std::vector<char> bytes(random() % 24);
        for (char& byte : bytes) byte = static_cast<char>(random());
        TokenReader reader(bytes.data(), bytes.size());
        Token token;
        uint64_t sum = 0;
        for (size_t tokens = 0; reader.next(token); ++tokens) {
            CHECK(tokens < bytes.size());
            for (uint64_t i = 0; token.data != nullptr && i < token.size; ++i) sum += static_cast<unsigned char>(token.data[i]);
            token = Token();
        }
        CHECK(sum < 24 * 256);
    }
}

}  // namespace

int main() {
    test_numbers();
    test_text_bytes_and_containers();
    test_cuts_and_extensions();
    test_random_bytes();
    std::puts("message: ok");
}
