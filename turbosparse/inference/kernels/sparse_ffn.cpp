// The CPU backend of turbosparse's sparse_ffn, linear, predict and route (see ../operators.py).
//
// Work is shared out among OpenMP's threads statically and sums are added in a fixed order: results are the
// same bits for the same number of threads.

#include <omp.h>
#include <torch/library.h>
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "rows.h"

namespace turbosparse {
namespace {

using at::Tensor;
using std::optional;

Matrix matrix_of(const Tensor& weight, const optional<Tensor>& scales) {
  const int64_t num_columns = weight.size(1) * (weight.scalar_type() == at::kByte ? 2 : 1);
  const int64_t num_groups = scales ? scales->size(1) : 1;
  return {
      .data = static_cast<const uint8_t*>(weight.data_ptr()),
      .num_rows = weight.size(0),
      .num_columns = num_columns,
      .row_bytes = weight.stride(0) * static_cast<int64_t>(weight.element_size()),
      .scales = scales ? static_cast<const uint16_t*>(scales->data_ptr()) : nullptr,
      .num_groups = num_groups,
      .group_columns = num_columns / num_groups,
  };
}

// Calls `function` with the kind of weight that a tensor's dtype stands for, beside tokens of x's.
template <class Function>
void dispatch(const Tensor& weight, const Tensor& x, Function&& function) {
  const bool is_narrow = x.scalar_type() == at::kBFloat16;
  switch (weight.scalar_type()) {
    case at::kFloat: return function(Float32{});
    case at::kBFloat16: return is_narrow ? function(BFloat16ByPairs{}) : function(BFloat16{});
    case at::kChar: return is_narrow ? function(Int8ByIntegers{}) : function(Int8{});
    case at::kByte: return function(Int4{});
    default: TORCH_CHECK(false, "no CPU kernel for weights of ", weight.scalar_type());
  }
}

// Threads for products with so many bytes of weights: one where sharing them out takes longer than reading them.
int num_threads_for(int64_t num_bytes) {
  constexpr int64_t kWorthSharing = 256 * 1024;
  return num_bytes < kWorthSharing ? 1 : at::get_num_threads();
}

// The part of `count` things that falls to a thread.
struct Share {
  int64_t begin, end;
  explicit Share(int64_t count)
      : begin(count * omp_get_thread_num() / omp_get_num_threads()),
        end(count * (omp_get_thread_num() + 1) / omp_get_num_threads()) {}
};

// Neurons that are still in question, in ascending order, and a value for each of them and each token.
struct Candidates {
  std::vector<int64_t> neurons;
  std::vector<float> values;  // [neurons, tokens]

  int64_t size() const { return static_cast<int64_t>(neurons.size()); }
};

// One call's operands, its tokens as fp32 [tokens, hidden].
struct Call {
  Matrix gate, up, down_t;
  const float* x;
  const bool* active;  // [tokens, intermediate]; null: whatever the gate lets through
  int64_t num_tokens;

  int64_t hidden_size() const { return gate.num_columns; }
  int64_t intermediate_size() const { return gate.num_rows; }
};

// Appends the neurons whose byte of `asked` is set. Eight bytes are looked at together: most are zero.
void append_set(const uint8_t* asked, int64_t count, std::vector<int64_t>& neurons) {
  int64_t neuron = 0;
  for (; neuron + 8 <= count; neuron += 8)
    for (uint64_t word = load<uint64_t>(asked + neuron); word != 0; word &= word - 1)
      neurons.push_back(neuron + std::countr_zero(word) / 8);
  for (; neuron < count; ++neuron)
    if (asked[neuron]) neurons.push_back(neuron);
}

// Returns the neurons that some token asks for.
std::vector<int64_t> asked_for(const Call& call) {
  const int64_t count = call.intermediate_size();
  const uint8_t* active = reinterpret_cast<const uint8_t*>(call.active);
  std::vector<int64_t> neurons;
  if (active == nullptr) {
    neurons.resize(count);
    std::iota(neurons.begin(), neurons.end(), 0);
    return neurons;
  }
  // Room for all is not reserved: given back after each call and touched anew, it took 1% of one row in ten.
  std::vector<uint8_t> asked(active, active + count);
  for (int64_t token = 1; token < call.num_tokens; ++token)
    for (int64_t neuron = 0; neuron < count; ++neuron) asked[neuron] |= active[token * count + neuron];
  append_set(asked.data(), count, neurons);
  return neurons;
}

// Returns this thread's candidates: neurons in turn, so that each thread has as many, wherever they lie.
Candidates share_of(const Call& call, const std::vector<int64_t>& asked) {
  Candidates mine;
  mine.neurons.reserve(asked.size() / omp_get_num_threads() + 1);
  for (size_t i = omp_get_thread_num(); i < asked.size(); i += omp_get_num_threads())
    mine.neurons.push_back(asked[i]);
  mine.values.assign(mine.size() * call.num_tokens, 1.0f);
  if (call.active == nullptr || call.num_tokens == 1) return mine;
  for (int64_t i = 0; i < mine.size(); ++i)
    for (int64_t token = 0; token < call.num_tokens; ++token)
      mine.values[i * call.num_tokens + token] =
          call.active[token * call.intermediate_size() + mine.neurons[i]];
  return mine;
}

// Returns the row to bring nearer while the i-th of `neurons` is read: a later one of the same matrix or, at the
// end, the first of those that will be read of the next.
const uint8_t* row_after(int64_t i, const std::vector<int64_t>& neurons, const Matrix& matrix, const Matrix& next) {
  const int64_t later = i + matrix.rows_ahead(), count = neurons.size();
  return later < count ? matrix.row(neurons[later]) : next.row(neurons[std::min(later - count, i)]);
}

// Multiplies candidates by relu(row . x) and drops those that are then zero for every token.
template <class Weights>
void multiply(const Matrix& matrix, const Matrix& next, const Tokens<Weights>& tokens, Candidates& mine,
              int64_t num_tokens) {
  int64_t kept = 0;
  for (int64_t i = 0; i < mine.size(); ++i) {
    const int64_t neuron = mine.neurons[i];
    const uint8_t* later = row_after(i, mine.neurons, matrix, next);
    bool is_kept = false;
    for (int64_t token = 0; token < num_tokens; ++token) {
      float value = mine.values[i * num_tokens + token];
      if (value > 0) value *= std::max(0.0f, tokens.dot(matrix, neuron, token, later));
      mine.values[kept * num_tokens + token] = value;
      is_kept |= value > 0;
    }
    mine.neurons[kept] = neuron;
    kept += is_kept;
  }
  mine.neurons.resize(kept);
  mine.values.resize(kept * num_tokens);
}

// Adds candidates' rows of down_t to sums [tokens, hidden].
template <class Weights>
void add_rows(const Call& call, const Candidates& mine, float* sums) {
  for (int64_t i = 0; i < mine.size(); ++i) {
    const uint8_t* later = call.down_t.row(mine.neurons[std::min(i + call.down_t.rows_ahead(), mine.size() - 1)]);
    for (int64_t token = 0; token < call.num_tokens; ++token) {
      const float value = mine.values[i * call.num_tokens + token];
      if (value > 0)
        accumulate<Weights>(call.down_t, mine.neurons[i], value, sums + token * call.hidden_size(), later);
    }
  }
}

// Writes the sum over threads of sums [threads, tokens * hidden] to output.
void add_sums(const std::vector<float>& sums, int64_t count, float* output) {
  const Share share(count);
  std::copy(&sums[share.begin], &sums[share.end], output + share.begin);
  for (int64_t thread = 1; thread < omp_get_num_threads(); ++thread)
    for (int64_t i = share.begin; i < share.end; ++i) output[i] += sums[thread * count + i];
}

// A thread goes through all three matrices on its own; the threads meet at the end.
template <class Weights>
void compute(const Call& call, float* output, int64_t* rows_read) {
  const std::vector<int64_t> asked = asked_for(call);
  const Tokens<Weights> tokens(call.x, call.num_tokens, call.hidden_size());
  const int64_t count = call.num_tokens * call.hidden_size();
  const int num_threads = num_threads_for(call.gate.num_rows * call.gate.row_bytes);
  std::vector<float> sums(num_threads * count);
  int64_t num_open = 0, num_combined = 0;
#pragma omp parallel num_threads(num_threads) reduction(+ : num_open, num_combined)
  {
    Candidates mine = share_of(call, asked);
    for (int64_t i = 0; i < std::min(call.gate.rows_ahead(), mine.size()); ++i)
      prefetch_row<Weights>(call.gate.row(mine.neurons[i]), call.hidden_size());
    multiply(call.gate, call.up, tokens, mine, call.num_tokens);
    num_open += mine.size();
    multiply(call.up, call.down_t, tokens, mine, call.num_tokens);
    num_combined += mine.size();
    add_rows<Weights>(call, mine, &sums[omp_get_thread_num() * count]);
#pragma omp barrier
    add_sums(sums, count, output);
  }
  const int64_t num_read[3] = {static_cast<int64_t>(asked.size()), num_open, num_combined};
  for (int part = 0; rows_read && part < 3; ++part) rows_read[part] += num_read[part];
}

Tensor sparse_ffn(const Tensor& x, const Tensor& gate, const Tensor& up, const Tensor& down_t,
                  const optional<Tensor>& active, const optional<Tensor>& gate_scales,
                  const optional<Tensor>& up_scales, const optional<Tensor>& down_scales,
                  const optional<Tensor>& rows_read) {
  const Tensor tokens = x.to(at::kFloat).contiguous();
  const Tensor output = at::empty_like(tokens);
  const Tensor mask = active ? active->contiguous() : Tensor();
  const Call call{matrix_of(gate, gate_scales),
                  matrix_of(up, up_scales),
                  matrix_of(down_t, down_scales),
                  tokens.const_data_ptr<float>(),
                  active ? mask.const_data_ptr<bool>() : nullptr,
                  tokens.numel() / tokens.size(-1)};
  int64_t* counts = rows_read ? rows_read->mutable_data_ptr<int64_t>() : nullptr;
  dispatch(gate, x, [&](auto weights) {
    compute<decltype(weights)>(call, output.mutable_data_ptr<float>(), counts);
  });
  return output.to(x.scalar_type());
}

// Writes x times each matrix, one beside the other, to output [tokens, rows of all].
template <class Weights>
void multiply_all(const std::vector<Matrix>& matrices, const float* x, int64_t num_tokens, float* output) {
  const Tokens<Weights> tokens(x, num_tokens, matrices[0].num_columns);
  int64_t num_rows = 0;
  for (const Matrix& matrix : matrices) num_rows += matrix.num_rows;
#pragma omp parallel num_threads(num_threads_for(num_rows * matrices[0].row_bytes))
  {
    float* first = output;
    for (const Matrix& matrix : matrices) {
      const Share share(matrix.num_rows);
      for (int64_t row = share.begin; row < share.end; ++row) {
        const uint8_t* later = matrix.row(std::min(row + matrix.rows_ahead(), share.end - 1));
        for (int64_t token = 0; token < num_tokens; ++token)
          first[token * num_rows + row] = tokens.dot(matrix, row, token, later);
      }
      first += matrix.num_rows;
    }
  }
}

Tensor linear(const Tensor& x, at::TensorList weights, at::TensorList scales) {
  const Tensor tokens = x.to(at::kFloat).contiguous();
  std::vector<Matrix> matrices;
  for (size_t i = 0; i < weights.size(); ++i)
    matrices.push_back(matrix_of(weights[i], scales.empty() ? std::nullopt : optional<Tensor>(scales[i])));
  auto sizes = x.sizes().vec();
  sizes.back() = 0;
  for (const Matrix& matrix : matrices) sizes.back() += matrix.num_rows;
  const Tensor output = at::empty(sizes, tokens.options());
  dispatch(weights[0], x, [&](auto kind) {
    multiply_all<decltype(kind)>(matrices, tokens.const_data_ptr<float>(), tokens.numel() / tokens.size(-1),
                                 output.mutable_data_ptr<float>());
  });
  return output.to(x.scalar_type());
}

// Returns which neurons a predictor's logits put above a threshold: [tokens, intermediate], bool.
Tensor predict(const Tensor& x, const Tensor& fc1, const Tensor& fc2, const Tensor& fc1_scales,
               const Tensor& fc2_scales, double threshold) {
  const Tensor tokens = x.to(at::kFloat).contiguous();
  const int64_t num_tokens = tokens.size(0), rank = fc1.size(0), num_neurons = fc2.size(0);
  std::vector<float> hidden(num_tokens * rank), logits(num_tokens * num_neurons);
  const Tensor active = at::empty({num_tokens, num_neurons}, tokens.options().dtype(at::kBool));
  dispatch(fc1, x, [&](auto kind) {
    using Weights = decltype(kind);
    multiply_all<Weights>({matrix_of(fc1, fc1_scales)}, tokens.const_data_ptr<float>(), num_tokens, hidden.data());
    for (float& value : hidden) value = std::max(0.0f, value);
    multiply_all<Weights>({matrix_of(fc2, fc2_scales)}, hidden.data(), num_tokens, logits.data());
  });
  bool* output = active.mutable_data_ptr<bool>();
  for (size_t i = 0; i < logits.size(); ++i) output[i] = logits[i] > threshold;
  return active;
}

// Returns each token's weights and experts, the heaviest first (see operators.py).
std::tuple<Tensor, Tensor> route(const Tensor& x, const Tensor& weight, int64_t num_chosen) {
  const Tensor logits = linear(x, {weight}, {}).to(at::kFloat);  // rounded as the model's own are
  const int64_t num_tokens = logits.size(0), num_experts = logits.size(1);
  TORCH_CHECK(0 < num_chosen && num_chosen <= num_experts, "of ", num_experts, " experts ", num_chosen);
  const Tensor shares = at::empty({num_tokens, num_chosen}, logits.options());
  const Tensor experts = at::empty({num_tokens, num_chosen}, logits.options().dtype(at::kLong));
  std::vector<int64_t> order(num_experts);
  for (int64_t token = 0; token < num_tokens; ++token) {
    const float* found = logits.const_data_ptr<float>() + token * num_experts;
    float* share = shares.mutable_data_ptr<float>() + token * num_chosen;
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return found[a] > found[b]; });
    float total = 0;
    for (int64_t i = 0; i < num_chosen; ++i) total += share[i] = std::exp(found[order[i]] - found[order[0]]);
    for (int64_t i = 0; i < num_chosen; ++i) share[i] /= total;
    std::copy_n(order.begin(), num_chosen, experts.mutable_data_ptr<int64_t>() + token * num_chosen);
  }
  return {shares, experts};
}

}  // namespace
}  // namespace turbosparse

TORCH_LIBRARY_IMPL(turbosparse, CPU, library) {
  library.impl("sparse_ffn", TORCH_FN(turbosparse::sparse_ffn));
  library.impl("linear", TORCH_FN(turbosparse::linear));
  library.impl("predict", TORCH_FN(turbosparse::predict));
  library.impl("route", TORCH_FN(turbosparse::route));
}
