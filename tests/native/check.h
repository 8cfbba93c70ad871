// The few lines of a test framework that these tests need: a failed check names itself and exits.
#pragma once

#include <cstdio>
#include <cstdlib>

#define CHECK(condition)                                                             \
    do {                                                                             \
        if (!(condition)) {                                                          \
            std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                            \
        }                                                                            \
    } while (false)

#define CHECK_THROWS(type, expression)                                                          \
    do {                                                                                        \
        bool thrown = false;                                                                    \
        try {                                                                                   \
            expression;                                                                         \
        } catch (const type&) {                                                                 \
            thrown = true;                                                                      \
        }                                                                                       \
        if (!thrown) {                                                                          \
            std::fprintf(stderr, "%s:%d: %s did not throw " #type "\n", __FILE__, __LINE__, #expression); \
            std::exit(1);                                                                       \
        }                                                                                       \
    } while (false)
