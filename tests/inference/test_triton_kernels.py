"""Triton's kernels compute what the reference does: interpreted on a CPU, compiled on a GPU."""

import os
import subprocess
import sys

import pytest
import torch

COMPARE = """
import sys, torch
from turbosparse.inference.operators import sparse_ffn_reference
from turbosparse.inference.triton_kernels import sparse_ffn_triton

device, dtype = sys.argv[1], getattr(torch, sys.argv[2])
torch.manual_seed(0)
hidden, intermediate, num_tokens = 70, 20, 2
wide = torch.randn(intermediate, 2 * hidden, device=device).to(dtype)
gate, up = wide.chunk(2, dim=1)  # rows of a stack, as a Mixtral expert's
down_t = torch.randn(intermediate, hidden, device=device).to(dtype)
x = torch.randn(num_tokens, hidden, device=device).to(dtype)
active = torch.rand(num_tokens, intermediate, device=device) < 0.5
for mask in (None, active):
    rows = [torch.full((3,), 5, device=device) for _ in range(2)]
    found = sparse_ffn_triton(x, gate, up, down_t, mask, rows_read=rows[0])
    expected = sparse_ffn_reference(x, gate, up, down_t, mask, rows_read=rows[1])
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    error = ((found.double() - expected.double()).norm() / expected.double().norm()).item()
    assert error < tolerance, error
    assert rows[0].tolist() == rows[1].tolist(), rows
    assert torch.equal(found, sparse_ffn_triton(x, gate, up, down_t, mask))
# What is not active must not be read.
for matrix in (gate, up, down_t):
    matrix[~active.any(dim=0)] = torch.nan
assert not sparse_ffn_triton(x, gate, up, down_t, active).isnan().any()
print("equal")
"""


def compare(device, dtype, **environment):
    pytest.importorskip("triton")
    command = [sys.executable, "-c", COMPARE, device, dtype]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.stdout == "equal\n", done.stderr


def test_the_interpreted_kernels_equal_the_reference():
    # In a process of its own: Triton decides when it decorates whether it interprets.
    compare("cpu", "float32", TRITON_INTERPRET="1")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_compiled_kernels_equal_the_reference(dtype):
    assert torch.cuda.is_available(), "a gpu test needs a GPU"
    compare("cuda", dtype)
