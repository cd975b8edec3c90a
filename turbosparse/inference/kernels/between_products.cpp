// The CPU backend of turbosparse::rms_norm and turbosparse::attend (see ../operators.py): what a decoding step
// does between its products with weights. As single operators of torch it takes an eighth of a sparse layer.

#include <omp.h>
#include <torch/library.h>
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "rows.h"

namespace turbosparse {
namespace {

using at::Tensor;
using std::optional;

// The compiler makes vectors of these, and none of c10::BFloat16's own conversions.
inline float to_float(float value) { return value; }
inline float to_float(at::BFloat16 value) { return from_bfloat16(value.x); }
inline void assign(float& to, float value) { to = value; }
inline void assign(at::BFloat16& to, float value) { to.x = to_bfloat16(value); }

template <class Scalar>
void normalise(const Scalar* x, const Scalar* weight, int64_t count, float epsilon, Scalar* output) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < count; ++i) squares += to_float(x[i]) * to_float(x[i]);
  const float scale = 1 / std::sqrt(squares / count + epsilon);
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) assign(output[i], to_float(x[i]) * scale * to_float(weight[i]));
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double epsilon) {
  const Tensor tokens = x.contiguous(), output = at::empty_like(tokens);
  const int64_t count = tokens.size(-1);
  const auto compute = [&](auto scalar) {
    using Scalar = decltype(scalar);
    for (int64_t token = 0; token < tokens.numel() / count; ++token)
      normalise(tokens.const_data_ptr<Scalar>() + token * count, weight.const_data_ptr<Scalar>(), count, epsilon,
                output.mutable_data_ptr<Scalar>() + token * count);
  };
  if (x.scalar_type() == at::kBFloat16)
    compute(at::BFloat16());
  else
    compute(float{});
  return output;
}

// One step's operands, as operators.py describes them.
template <class Scalar>
struct Step {
  const Scalar* heads;  // [sequences, heads + 2 * kv heads, head dim]
  Scalar* block;        // [2, sequences, kv heads, slots, head dim]
  const int64_t* slots;
  const Scalar* cos;  // [sequences, head dim]; so sin
  const Scalar* sin;
  const bool* mask;  // [sequences, end - first]; null: all is seen
  int64_t num_sequences, num_heads, num_kv_heads, num_slots, head_dim, first, end;

  int64_t group() const { return num_heads / num_kv_heads; }
  const Scalar* head(int64_t sequence, int64_t number) const {
    return heads + (sequence * (num_heads + 2 * num_kv_heads) + number) * head_dim;
  }
  Scalar* cached(int64_t which, int64_t sequence, int64_t kv_head) const {
    return block + ((which * num_sequences + sequence) * num_kv_heads + kv_head) * num_slots * head_dim;
  }
};

// Writes a head, turned by its position's angles, to output [head dim].
template <class Scalar>
void rotate(const Step<Scalar>& step, const Scalar* head, int64_t sequence, Scalar* output) {
  const Scalar *cos = step.cos + sequence * step.head_dim, *sin = step.sin + sequence * step.head_dim;
  const int64_t half = step.head_dim / 2;
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    const float left = to_float(head[i]), right = to_float(head[i + half]);
    assign(output[i], left * to_float(cos[i]) - right * to_float(sin[i]));
    assign(output[i + half], right * to_float(cos[i + half]) + left * to_float(sin[i + half]));
  }
}

// Makes scores [count] probabilities.
void softmax(float* scores, int64_t count) {
  const float largest = *std::max_element(scores, scores + count);
  float total = 0;
  for (int64_t i = 0; i < count; ++i) total += scores[i] = std::exp(scores[i] - largest);
  for (int64_t i = 0; i < count; ++i) scores[i] /= total;
}

// Attends with the queries that share one key and value head.
template <class Weights, class Scalar>
void attend_group(const Step<Scalar>& step, int64_t sequence, int64_t kv_head, Scalar* output) {
  const int64_t group = step.group(), head_dim = step.head_dim, num_seen = step.end - step.first;
  Scalar* keys = step.cached(0, sequence, kv_head);
  Scalar* values = step.cached(1, sequence, kv_head);
  const int64_t here = step.slots[sequence] * head_dim;
  rotate(step, step.head(sequence, step.num_heads + kv_head), sequence, keys + here);
  const Scalar* value = step.head(sequence, step.num_heads + step.num_kv_heads + kv_head);
  std::copy(value, value + head_dim, values + here);

  std::vector<Scalar> rotated(group * head_dim);
  for (int64_t i = 0; i < group; ++i)
    rotate(step, step.head(sequence, kv_head * group + i), sequence, &rotated[i * head_dim]);
  const std::vector<float> queries(rotated.begin(), rotated.end());
  const Tokens<Weights> tokens(queries.data(), group, head_dim);

  const auto matrix = [&](const Scalar* rows) {
    return Matrix{.data = reinterpret_cast<const uint8_t*>(rows + step.first * head_dim),
                  .num_rows = num_seen,
                  .num_columns = head_dim,
                  .row_bytes = head_dim * static_cast<int64_t>(sizeof(Scalar)),
                  .scales = nullptr,
                  .num_groups = 1,
                  .group_columns = head_dim};
  };
  const Matrix key_rows = matrix(keys), value_rows = matrix(values);
  const auto later = [&](const Matrix& rows, int64_t i) { return rows.row(std::min(i + rows.rows_ahead(), num_seen - 1)); };
  const bool* mask = step.mask ? step.mask + sequence * num_seen : nullptr;
  const float scale = 1 / std::sqrt(static_cast<float>(head_dim));
  std::vector<float> scores(group * num_seen, -std::numeric_limits<float>::infinity());
  for (int64_t i = 0; i < num_seen; ++i)
    for (int64_t query = 0; query < group && (!mask || mask[i]); ++query)
      scores[query * num_seen + i] = tokens.dot(key_rows, i, query, later(key_rows, i)) * scale;
  for (int64_t query = 0; query < group; ++query) softmax(&scores[query * num_seen], num_seen);

  std::vector<float> sums(group * head_dim);
  for (int64_t i = 0; i < num_seen; ++i)
    for (int64_t query = 0; query < group && (!mask || mask[i]); ++query)
      accumulate<Weights>(value_rows, i, scores[query * num_seen + i], &sums[query * head_dim], later(value_rows, i));
  std::copy(sums.begin(), sums.end(), output + (sequence * step.num_heads + kv_head * group) * head_dim);
}

template <class Weights, class Scalar>
void attend_all(const Step<Scalar>& step, Scalar* output) {
  const int64_t num_groups = step.num_sequences * step.num_kv_heads;
  const bool is_short = num_groups * (step.end - step.first) < 64;
#pragma omp parallel for num_threads(is_short ? 1 : at::get_num_threads())
  for (int64_t i = 0; i < num_groups; ++i)
    attend_group<Weights>(step, i / step.num_kv_heads, i % step.num_kv_heads, output);
}

Tensor attend(const Tensor& heads, Tensor block, const Tensor& slots, const Tensor& cos, const Tensor& sin,
              int64_t first, int64_t end, const optional<Tensor>& mask) {
  TORCH_CHECK(block.is_contiguous(), "the cache's block must be contiguous");
  const Tensor inputs[] = {heads.contiguous(), cos.contiguous(), sin.contiguous()};
  const Tensor seen = mask ? mask->contiguous() : Tensor();
  const int64_t num_kv_heads = block.size(2), num_heads = heads.size(1) - 2 * num_kv_heads;
  const Tensor output = at::empty({heads.size(0), num_heads * heads.size(2)}, heads.options());
  const auto compute = [&](auto scalar, auto weights) {
    using Scalar = decltype(scalar);
    const Step<Scalar> step{inputs[0].const_data_ptr<Scalar>(),
                            block.mutable_data_ptr<Scalar>(),
                            slots.const_data_ptr<int64_t>(),
                            inputs[1].const_data_ptr<Scalar>(),
                            inputs[2].const_data_ptr<Scalar>(),
                            mask ? seen.const_data_ptr<bool>() : nullptr,
                            heads.size(0),
                            num_heads,
                            num_kv_heads,
                            block.size(3),
                            heads.size(2),
                            first,
                            end};
    attend_all<decltype(weights)>(step, output.mutable_data_ptr<Scalar>());
  };
  if (heads.scalar_type() == at::kBFloat16)
    compute(at::BFloat16(), BFloat16ByPairs{});
  else
    compute(float{}, Float32{});
  return output;
}

}  // namespace
}  // namespace turbosparse

TORCH_LIBRARY_IMPL(turbosparse, CPU, library) {
  library.impl("rms_norm", TORCH_FN(turbosparse::rms_norm));
  library.impl("attend", TORCH_FN(turbosparse::attend));
}
