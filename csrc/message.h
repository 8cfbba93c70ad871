// msgpack, as far as messages use it: cuts bytes into tokens.
//
// Rules: whatever is not plain (extension types) or not whole is no token; the reader never looks
// beyond `end`, and what follows a container's token are its items, for the caller to read.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace spoke {

enum class TokenKind { kNil, kBool, kInt, kUint, kFloat, kText, kBytes, kArray, kMap };

struct Token {
    TokenKind kind = TokenKind::kNil;
    int64_t number = 0;        // kInt, kBool
    uint64_t size = 0;         // kUint: the value; kText, kBytes: bytes; kArray: items; kMap: pairs
    double real = 0;           // kFloat
    const char* data = nullptr;  // kText, kBytes
};

class TokenReader {
  public:
    TokenReader(const char* begin, size_t size) : at_(begin), end_(begin + size) {}

    bool at_end() const noexcept { return at_ == end_; }

    // The next token; false where there is none.
    bool next(Token& token) noexcept {
        if (at_ == end_) return false;
        const auto first = static_cast<unsigned char>(*at_++);
        if (first < 0x80) return integer(token, first);
        if (first >= 0xe0) return integer(token, static_cast<int8_t>(first));
        if (first < 0x90) return sized(token, TokenKind::kMap, first & 0x0fU);
        if (first < 0xa0) return sized(token, TokenKind::kArray, first & 0x0fU);
        if (first < 0xc0) return text(token, TokenKind::kText, first & 0x1fU);
        return marked(token, first);
    }

  private:
    bool marked(Token& token, unsigned char first) noexcept {
        uint64_t value = 0;
        switch (first) {
            case 0xc0: token.kind = TokenKind::kNil; return true;
            case 0xc2:
            case 0xc3: token.kind = TokenKind::kBool; token.number = first & 1; return true;
            case 0xc4:
            case 0xc5:
            case 0xc6: return big_endian(value, size_t{1} << (first - 0xc4)) && text(token, TokenKind::kBytes, value);
            case 0xca:
                if (!big_endian(value, 4)) return false;
                token.kind = TokenKind::kFloat;
                token.real = std::bit_cast<float>(static_cast<uint32_t>(value));
                return true;
            case 0xcb:
                if (!big_endian(value, 8)) return false;
                token.kind = TokenKind::kFloat;
                token.real = std::bit_cast<double>(value);
                return true;
            case 0xcc:
            case 0xcd:
            case 0xce:
            case 0xcf: return big_endian(value, size_t{1} << (first - 0xcc)) && sized(token, TokenKind::kUint, value);
            case 0xd0: return big_endian(value, 1) && integer(token, static_cast<int8_t>(value));
            case 0xd1: return big_endian(value, 2) && integer(token, static_cast<int16_t>(value));
            case 0xd2: return big_endian(value, 4) && integer(token, static_cast<int32_t>(value));
            case 0xd3: return big_endian(value, 8) && integer(token, static_cast<int64_t>(value));
            case 0xd9:
            case 0xda:
            case 0xdb: return big_endian(value, size_t{1} << (first - 0xd9)) && text(token, TokenKind::kText, value);
            case 0xdc:
            case 0xdd: return big_endian(value, size_t{2} << (first - 0xdc)) && sized(token, TokenKind::kArray, value);
            case 0xde:
            case 0xdf: return big_endian(value, size_t{2} << (first - 0xde)) && sized(token, TokenKind::kMap, value);
            default: return false;  // 0xc1 and the extension types
        }
    }

    bool big_endian(uint64_t& value, size_t bytes) noexcept {
        if (static_cast<size_t>(end_ - at_) < bytes) return false;
        value = 0;
        for (size_t i = 0; i < bytes; ++i) value = value << 8 | static_cast<unsigned char>(*at_++);
        return true;
    }

    static bool integer(Token& token, int64_t number) noexcept {
        token.kind = TokenKind::kInt;
        token.number = number;
        return true;
    }

    // Every item takes a byte at least: a larger count is a lie, and nothing is allocated for it.
    bool sized(Token& token, TokenKind kind, uint64_t size) const noexcept {
        token.kind = kind;
        token.size = size;
        return kind == TokenKind::kUint || size <= static_cast<uint64_t>(end_ - at_);
    }

    bool text(Token& token, TokenKind kind, uint64_t size) noexcept {
        if (static_cast<uint64_t>(end_ - at_) < size) return false;
        token.kind = kind;
        token.size = size;
        token.data = at_;
        at_ += size;
        return true;
    }

    const char* at_;
    const char* end_;
};

}  // namespace spoke
