// Rows of weights as the kernels read them: a dot product with a row, and a row added to a sum.
//
// All sums are in fp32.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "vectors.h"

namespace turbosparse {

// How far ahead rows are brought nearer. Two rows of 8 KiB were read 2 to 17% faster than one, no slower than three;
// of 1.25 KiB two were read at 18 GB/s and twelve at 23 (one core).
constexpr int64_t kBytesAhead = 16 * 1024;

// A matrix whose rows are read one by one.
struct Matrix {
  const uint8_t* data;
  int64_t num_rows;
  int64_t num_columns;
  int64_t row_bytes;
  const uint16_t* scales;  // bf16, num_groups to a row; null where weights are not quantised
  int64_t num_groups;
  int64_t group_columns;

  const uint8_t* row(int64_t number) const { return data + number * row_bytes; }
  int64_t rows_ahead() const { return std::max<int64_t>(1, kBytesAhead / row_bytes); }
  float scale(int64_t number, int64_t group) const {
    return scales ? from_bfloat16(scales[number * num_groups + group]) : 1.0f;
  }
};

// Each kind of weight says how kLanes of a block become floats: those of the block's part number `part`.
// Where a row need not be whole blocks, `count` says how many of them there are.
struct Float32 {
  using Input = float;
  static constexpr int64_t kBits = 32;
  static constexpr int64_t kBlock = 64;
  static constexpr bool kWholeBlocks = false;
  static Floats part(const uint8_t* block, int64_t part) { return load<Floats>(block + 4 * part * kLanes); }
  static Floats some(const uint8_t* block, int64_t count) { return load_some<Floats>(block, 4 * count); }
};

struct BFloat16 {
  using Input = float;
  static constexpr int64_t kBits = 16;
  static constexpr int64_t kBlock = 64;
  static constexpr bool kWholeBlocks = false;
  static Floats floats(Halves halves) { return (Floats)(widen(halves) << 16); }
  static Floats part(const uint8_t* block, int64_t part) {
    return floats(load<Halves>(block + 2 * part * kLanes));
  }
  static Floats some(const uint8_t* block, int64_t count) {
    return floats(load_some<Halves>(block, 2 * count));
  }
};

// bf16 weights for tokens of bf16: where the processor multiplies them as they are, a product takes a quarter of
// the instructions of one of floats.
struct BFloat16ByPairs : BFloat16 {
#if defined(__AVX512BF16__)
  using Input = uint16_t;
#endif
};

struct Int8 {
  using Input = float;
  static constexpr int64_t kBits = 8;
  static constexpr int64_t kBlock = 64;
  static constexpr bool kWholeBlocks = false;
  static Floats floats(SignedBytes bytes) { return __builtin_convertvector(widen(bytes), Floats); }
  static Floats part(const uint8_t* block, int64_t part) {
    return floats(load<SignedBytes>(block + part * kLanes));
  }
  static Floats some(const uint8_t* block, int64_t count) {
    return floats(load_some<SignedBytes>(block, count));
  }
};

// int8 weights for tokens of bf16, which 16-bit integers hold as well: a product of integers takes a third of
// the instructions of one of floats, and a row is read as fast as memory gives it.
struct Int8ByIntegers : Int8 {
  using Input = int16_t;
};

// A block's byte i holds weight i in its low half and weight i + 16 in its high half, each plus 8.
struct Int4 {
  using Input = float;
  static constexpr int64_t kBits = 4;
  static constexpr int64_t kBlock = 32;
  static constexpr bool kWholeBlocks = true;
  static Floats part(const uint8_t* block, int64_t part) {
    const Ints pairs = widen(load<SignedBytes>(block + part * kLanes % 16));
    return floats(part * kLanes < 16 ? pairs : pairs >> 4);
  }
  static Floats some(const uint8_t*, int64_t) { return Floats{}; }

 private:
  static Floats floats(Ints nibbles) {
#if defined(__AVX512F__)
    // The permutation looks at the low four bits alone.
    const Floats table = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    return (Floats)_mm512_permutexvar_ps((__m512i)nibbles, (__m512)table);
#else
    return __builtin_convertvector((nibbles & 15) - 8, Floats);
#endif
  }
};

// Brings a block of a later row nearer: into the second-level cache, for the first has no room for x and
// two rows (22.7 against 11.5 GB/s, one row in ten of bf16 [14336, 4096], one core).
template <class Weights>
inline void prefetch(const uint8_t* block) {
  constexpr int64_t num_bytes = Weights::kBlock * Weights::kBits / 8;
  for (int64_t byte = 0; byte < num_bytes; byte += 64) __builtin_prefetch(block + byte, 0, 2);
}

// Brings a whole row nearer: the first of many.
template <class Weights>
inline void prefetch_row(const uint8_t* row, int64_t num_columns) {
  for (int64_t byte = 0; byte < num_columns * Weights::kBits / 8; byte += 64) __builtin_prefetch(row + byte, 0, 2);
}

// A stretch of a row's columns that share a scale.
struct Group {
  uint64_t begin, end;
  float scale;
  Group(const Matrix& matrix, int64_t row, uint64_t number)
      : begin(number * matrix.group_columns),
        end(begin + matrix.group_columns),
        scale(matrix.scale(row, number)) {}
};

template <class Weights>
inline const uint8_t* at(const uint8_t* row, uint64_t column) {
  return row + column * Weights::kBits / 8;
}

// Returns the products of a group's columns from `column` on, fewer than kLanes.
template <class Weights>
inline Floats last_products(const uint8_t* row, const float* x, const Group& group, uint64_t column) {
  const int64_t count = group.end - column;
  if (group.end - group.begin < kLanes)
    return Weights::some(at<Weights>(row, column), count) * load_some<Floats>(x + column, 4 * count);
  // The last kLanes of all, less those that have been counted: far faster than copying a few bytes.
  const uint64_t start = group.end - kLanes;
  const Floats products = Weights::part(at<Weights>(row, start), 0) * load<Floats>(x + start);
  Ints is_left{};
  for (int64_t lane = kLanes - count; lane < kLanes; ++lane) is_left[lane] = -1;
  return (Floats)((Ints)products & is_left);
}

// Adds the products of as many columns as two registers of floats hold, by pairs.
inline Ints add_products(Ints total, const uint8_t* row, const int16_t* x) {
#if defined(__AVX512VNNI__)
  const __m512i wide = _mm512_cvtepi8_epi16(load<__m256i>(row));
  return (Ints)_mm512_dpwssd_epi32((__m512i)total, wide, load<__m512i>(x));
#elif defined(__AVX512BW__)
  const __m512i wide = _mm512_cvtepi8_epi16(load<__m256i>(row));
  return (Ints)_mm512_add_epi32((__m512i)total, _mm512_madd_epi16(wide, load<__m512i>(x)));
#elif defined(__AVX2__)
  const __m256i wide = _mm256_cvtepi8_epi16(load<__m128i>(row));
  return (Ints)_mm256_add_epi32((__m256i)total, _mm256_madd_epi16(wide, load<__m256i>(x)));
#else
  for (int64_t half = 0; half < 2; ++half)
    total += widen(load<SignedBytes>(row + half * kLanes)) *
             __builtin_convertvector(load<Shorts>(x + half * kLanes), Ints);
  return total;
#endif
}

// Returns the dot product of a row of int8 with x [columns] of 16-bit integers.
template <class Weights>
float dot(const Matrix& matrix, int64_t number, const int16_t* x, const uint8_t* later) {
  constexpr int64_t kStep = 2 * kLanes, kSums = 4;
  constexpr int64_t kColumnsPerSum = 4096;  // a quarter of what products of 127 and 32767 leave room for
  const uint8_t* row = matrix.row(number);
  Floats total{};
  int64_t column = 0;
  while (column + kStep <= matrix.num_columns) {
    const int64_t end = std::min(column + kColumnsPerSum, matrix.num_columns);
    Ints sums[kSums] = {};
    for (; column + kSums * kStep <= end; column += kSums * kStep) {
      for (int64_t byte = 0; byte < kSums * kStep; byte += 64) __builtin_prefetch(later + column + byte, 0, 2);
      for (int64_t i = 0; i < kSums; ++i)
        sums[i] = add_products(sums[i], row + column + i * kStep, x + column + i * kStep);
    }
    for (; column + kStep <= end; column += kStep) sums[0] = add_products(sums[0], row + column, x + column);
    for (const Ints& part : sums) total += __builtin_convertvector(part, Floats);
  }
  int32_t last = 0;
  for (; column < matrix.num_columns; ++column) last += static_cast<int8_t>(row[column]) * x[column];
  return (sum(total) + static_cast<float>(last)) * matrix.scale(number, 0);
}

#if defined(__AVX512BF16__)
// Returns the dot product of a row of bf16 with x [columns], bf16 as well.
template <class Weights>
float dot(const Matrix& matrix, int64_t number, const uint16_t* x, const uint8_t* later) {
  constexpr int64_t kStep = 2 * kLanes, kSums = 4;
  const auto add = [](Floats total, __m512i row, __m512i tokens) {
    return (Floats)_mm512_dpbf16_ps((__m512)total, (__m512bh)row, (__m512bh)tokens);
  };
  const uint16_t* row = reinterpret_cast<const uint16_t*>(matrix.row(number));
  Floats sums[kSums] = {};
  int64_t column = 0;
  for (; column + kSums * kStep <= matrix.num_columns; column += kSums * kStep) {
    for (int64_t i = 0; i < kSums; ++i) {
      const int64_t first = column + i * kStep;
      __builtin_prefetch(later + 2 * first, 0, 2);
      sums[i] = add(sums[i], load<__m512i>(row + first), load<__m512i>(x + first));
    }
  }
  for (; column < matrix.num_columns; column += kStep) {
    const int64_t num_bytes = 2 * std::min(kStep, matrix.num_columns - column);
    sums[0] = add(sums[0], load_some<__m512i>(row + column, num_bytes), load_some<__m512i>(x + column, num_bytes));
  }
  return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}
#endif

// Returns the dot product of a row with x [columns].
template <class Weights>
float dot(const Matrix& matrix, int64_t number, const float* x, const uint8_t* later) {
  constexpr int64_t num_parts = Weights::kBlock / kLanes;
  const uint8_t* row = matrix.row(number);
  Floats total{};
  for (int64_t i = 0; i < matrix.num_groups; ++i) {
    const Group group(matrix, number, i);
    uint64_t column = group.begin;
    Floats sums[num_parts] = {};
    for (; column + Weights::kBlock <= group.end; column += Weights::kBlock) {
      prefetch<Weights>(at<Weights>(later, column));
      for (int64_t part = 0; part < num_parts; ++part)
        sums[part] += Weights::part(at<Weights>(row, column), part) * load<Floats>(x + column + part * kLanes);
    }
    if constexpr (!Weights::kWholeBlocks) {
      for (; column + kLanes <= group.end; column += kLanes)
        sums[0] += Weights::part(at<Weights>(row, column), 0) * load<Floats>(x + column);
      if (column < group.end) sums[0] += last_products<Weights>(row, x, group, column);
    }
    for (int64_t part = 1; part < num_parts; ++part) sums[0] += sums[part];
    total += sums[0] * group.scale;
  }
  return sum(total);
}

// Adds factor times a row to output [columns].
template <class Weights>
void accumulate(const Matrix& matrix, int64_t number, float factor, float* output, const uint8_t* later) {
  constexpr int64_t num_parts = Weights::kBlock / kLanes;
  const uint8_t* row = matrix.row(number);
  for (int64_t i = 0; i < matrix.num_groups; ++i) {
    const Group group(matrix, number, i);
    const float scaled = factor * group.scale;
    uint64_t column = group.begin;
    for (; column + Weights::kBlock <= group.end; column += Weights::kBlock) {
      prefetch<Weights>(at<Weights>(later, column));
      for (int64_t part = 0; part < num_parts; ++part) {
        float* here = output + column + part * kLanes;
        store(load<Floats>(here) + Weights::part(at<Weights>(row, column), part) * scaled, here, kLanes);
      }
    }
    if constexpr (!Weights::kWholeBlocks) {
      for (; column < group.end; column += kLanes) {
        const int64_t count = std::min<int64_t>(kLanes, group.end - column);
        const Floats before = load_some<Floats>(output + column, 4 * count);
        store(before + Weights::some(at<Weights>(row, column), count) * scaled, output + column, count);
      }
    }
  }
}

// Tokens [tokens, columns] as a kind of weight is multiplied with.
template <class Weights>
class Tokens {
 public:
  using Input = typename Weights::Input;

  Tokens(const float* x, int64_t num_tokens, int64_t num_columns) : x_(x), num_columns_(num_columns) {
    if constexpr (is_narrow)
      for (int64_t token = 0; token < num_tokens; ++token) narrow(x + token * num_columns);
  }

  float dot(const Matrix& matrix, int64_t row, int64_t token, const uint8_t* later) const {
    if constexpr (is_narrow)
      return turbosparse::dot<Weights>(matrix, row, &narrow_[token * num_columns_], later) * scales_[token];
    else
      return turbosparse::dot<Weights>(matrix, row, x_ + token * num_columns_, later);
  }

 private:
  static constexpr bool is_narrow = !std::is_same_v<Input, float>;

  void narrow(const float* token) {
    const int64_t first = narrow_.size();
    narrow_.resize(first + num_columns_);
    if constexpr (std::is_same_v<Input, uint16_t>) {
      for (int64_t i = 0; i < num_columns_; ++i) narrow_[first + i] = to_bfloat16(token[i]);
      scales_.push_back(1);
    } else {
      float largest = 0;
      for (int64_t i = 0; i < num_columns_; ++i) largest = std::max(largest, std::fabs(token[i]));
      const float per_unit = largest > 0 ? 32767 / largest : 1;
      for (int64_t i = 0; i < num_columns_; ++i)
        narrow_[first + i] = static_cast<int16_t>(token[i] * per_unit + std::copysign(0.5f, token[i]));
      scales_.push_back(1 / per_unit);
    }
  }

  const float* x_;
  const int64_t num_columns_;
  std::vector<Input> narrow_;
  std::vector<float> scales_;
};

}  // namespace turbosparse
