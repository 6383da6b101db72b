"""The cost of the Triton kernels without a GPU: compiled for three targets, disassembled, counted, held to a budget.

`static_budget.json` records, for the named Triton version, the instructions per pair in the innermost loop, what was
reached and the arithmetic floor. Triton's wheel carries the assembler and `nvdisasm`.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton has wheels for Linux alone")

from triton.backends.compiler import GPUTarget  # noqa: E402 - only where Triton is
from triton.compiler import ASTSource  # noqa: E402

from kantor_kernels.pairwise import triton as pairwise  # noqa: E402

BUDGET = json.loads((Path(__file__).parent / "static_budget.json").read_text())
NVDISASM = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
POINTERS = dict.fromkeys(("x_ptr", "y_ptr", "b_ptr", "scale_ptr"), "*fp32")
POINTERS |= dict.fromkeys(("value_ptr", "slope_ptr"), "*fp64")


def innermost_loops(sass: str) -> list[list[str]]:
    """The opcodes of every loop without a loop inside."""
    lines = sass.splitlines()
    labels = {match[1]: n for n, line in enumerate(lines) if (match := re.match(r"^(\.L_x_\d+):", line))}
    spans = [
        (labels[match[1]], n)
        for n, line in enumerate(lines)
        if (match := re.search(r"\bBRA(?:\.\w+)*\s+.*`\((\.L_x_\d+)\)", line)) and labels.get(match[1], n) < n
    ]
    inner = [a for a in spans if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    opcode = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")
    return [[match[1] for line in lines[a : b + 1] if (match := opcode.search(line))] for a, b in inner]


def main_loop(target: int, d: int, gradient: bool, tmp_path: Path) -> list[str]:
    constants = pairwise.specialisation(d, "energy", (1.0,), False, False, gradient, torch.float32)
    signature = POINTERS | dict.fromkeys(("n", "m", "part_columns"), "i32")
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=pairwise.pairwise_kernel, signature=signature, constexprs=constants)
    options = {"num_warps": pairwise.WARPS, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    sass = subprocess.run([NVDISASM, "-c", cubin], capture_output=True, text=True, check=True).stdout
    # The unrolled loop, not the one for what remains: it holds the most reciprocal roots, one a pair.
    return max(innermost_loops(sass), key=lambda ops: ops.count("MUFU.RSQ"))


@pytest.mark.parametrize("entry", BUDGET["kernels"], ids=lambda e: f"sm{e['target']}-D{e['d']}-{e['pass']}")
def test_instructions_per_pair(entry: dict, tmp_path: Path) -> None:
    if not triton.__version__.startswith(BUDGET["triton"]):
        pytest.skip(f"the budget holds for Triton {BUDGET['triton']}, this is {triton.__version__}")
    ops = main_loop(entry["target"], entry["d"], entry["pass"] == "value+gradient", tmp_path)
    assert not [op for op in ops if op.startswith(("LDL", "STL"))], "registers spill in the main loop"
    pairs = ops.count("MUFU.RSQ")
    assert pairs >= pairwise.ROWS // (32 * pairwise.WARPS)
    assert len(ops) / pairs <= entry["budget"], f"{len(ops) / pairs:.1f} instructions a pair"
