// Vectors of the machine's width, and the few conversions that the kernels need.
//
// Written with the vector extensions of GCC and Clang, which compile to whatever the machine has: AVX-512,
// AVX2, SSE2 or NEON.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace turbosparse {

// As many floats as one register holds.
#if defined(__AVX512F__)
constexpr int64_t kLanes = 16;
#elif defined(__AVX__)
constexpr int64_t kLanes = 8;
#else
constexpr int64_t kLanes = 4;
#endif
using Floats = float __attribute__((vector_size(4 * kLanes)));
using Ints = int32_t __attribute__((vector_size(4 * kLanes)));
using Words = uint32_t __attribute__((vector_size(4 * kLanes)));
using Halves = uint16_t __attribute__((vector_size(2 * kLanes)));
using SignedBytes = int8_t __attribute__((vector_size(kLanes)));
using Shorts = int16_t __attribute__((vector_size(2 * kLanes)));

template <class Vector>
inline Vector load(const void* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof(vector));
  return vector;
}

template <class Vector>
inline Vector load_some(const void* from, size_t num_bytes) {
  Vector vector{};
  std::memcpy(&vector, from, num_bytes);
  return vector;
}

inline void store(Floats lanes, float* to, int64_t count) { std::memcpy(to, &lanes, 4 * count); }

// Adds lanes in pairs: one after the other they would take longer than 8 KB of a row's products.
inline float sum(Floats lanes) {
  float values[kLanes];
  store(lanes, values, kLanes);
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t lane = 0; lane < half; ++lane) values[lane] += values[lane + half];
  return values[0];
}

inline float from_bfloat16(uint16_t value) {
  const uint32_t bits = uint32_t{value} << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

// Rounds to the nearest, ties to even; what is not a number stays so.
inline uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return value == value ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fc0;
}

// Narrow integers as wide ones. GCC 12 takes vectors apart where a conversion widens fourfold.
inline Ints widen(SignedBytes bytes) {
#if defined(__AVX512F__)
  return (Ints)_mm512_cvtepi8_epi32((__m128i)bytes);
#elif defined(__AVX2__)
  return (Ints)_mm256_cvtepi8_epi32(_mm_cvtsi64_si128((long long)bytes));
#else
  return __builtin_convertvector(__builtin_convertvector(bytes, Shorts), Ints);
#endif
}

inline Words widen(Halves halves) {
#if defined(__AVX512F__)
  return (Words)_mm512_cvtepu16_epi32((__m256i)halves);
#elif defined(__AVX2__)
  return (Words)_mm256_cvtepu16_epi32((__m128i)halves);
#else
  return __builtin_convertvector(halves, Words);
#endif
}

}  // namespace turbosparse
