"""The cost of the critic step in Triton without a GPU: compiled for three targets, disassembled, held to a budget.

`static_budget.json` records, for the named Triton version, the instructions per matrix instruction in the largest loop
that has no loop inside: for `critic_kernel` a product of hidden layers, for `gradient_kernel` that of a chunk of rows.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("Triton has wheels for Linux alone", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kantor_kernels.critic_step import triton as critic_step

BUDGET = json.loads((Path(__file__).parents[1] / "static_budget.json").read_text())
# The Triton of the budget, in a folder of its own where the environment's is another: `make` installs it.
PINNED = Path(sys.prefix) / f"triton-{BUDGET['triton']}"
IS_PINNED = triton.__version__.startswith(f"{BUDGET['triton']}.")
budgeted = pytest.mark.skipif(
    not IS_PINNED, reason="runs in the process with the pinned Triton that a test above starts"
)
NVDISASM = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
# One processor's shared memory, less what the driver keeps.
SHARED = {80: 163, 90: 227, 100: 227}
KINDS = {"table_ptr": "*i64", "weight": "fp32", "target": "fp32", "slope": "fp32"}
OPCODE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")


@pytest.mark.parametrize("options", [("-m", "not slow"), pytest.param((), marks=pytest.mark.slow)], ids=["few", "all"])
@pytest.mark.skipif(IS_PINNED, reason="this process has the Triton of the budget")
def test_the_budgets_hold_with_their_triton(options: tuple[str, ...], elsewhere: Callable[..., None]) -> None:
    assert (PINNED / "triton").is_dir(), f"{PINNED} is missing: `make .venv/tested` installs it"
    elsewhere({Path(__file__): ("test_instructions_per_matrix_instruction",)}, *options, PYTHONPATH=str(PINNED))


def name(entry: dict) -> str:
    if entry["kernel"] == "gradient":
        return f"sm{entry['target']}-gradient"
    return (
        f"sm{entry['target']}-{entry['loss']}-{entry['activation']}-{entry['width']}-{entry['rows']}-{entry['launch']}"
    )


def with_slow(entries: list[dict]) -> list:
    return [
        entry
        if entry["target"] == 90 and entry["kernel"] == "gradient"
        else pytest.param(entry, marks=pytest.mark.slow)
        for entry in entries
    ]


def compiled(entry: dict, tmp_path: Path) -> tuple[str, int]:
    """(disassembly, bytes of shared memory)."""
    if entry["kernel"] == "gradient":
        kernel, options = critic_step.gradient_kernel, critic_step.gradient_options()
        constants = {"WIDTH": 128, "TILE": critic_step.TILE, "PART": critic_step.PART, "CHUNK": critic_step.PART_CHUNK}
    else:
        kernel, width = critic_step.critic_kernel, entry["width"]
        sizes = (8, *[width] * 4, 1 if entry["loss"] == "wasserstein" else min(width, 64))
        constants = critic_step.specialisation(sizes, True, entry["activation"], entry["loss"], False, entry["rows"])
        phase = critic_step.PHASES[entry["loss"]][entry["launch"]]
        constants |= dict(zip(("FORWARD", "REVERSE", "ADJOINT"), phase, strict=True))
        options = critic_step.critic_options(constants["WIDTH"])
    names = kernel.arg_names
    signature = {n: KINDS.get(n, "*fp32" if n.endswith("_ptr") else "i32") for n in names}
    signature |= dict.fromkeys(constants, "constexpr")
    # What PyTorch allocates is aligned, and Triton specialises for it.
    aligned: Any = {(index,): [["tt.divisibility", 16]] for index, n in enumerate(names) if n.endswith("_ptr")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    found = triton.compile(source, target=GPUTarget("cuda", entry["target"], 32), options=options)
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(found.asm["cubin"])
    sass = subprocess.run([NVDISASM, "-c", cubin], capture_output=True, text=True, check=True).stdout
    return sass, found.metadata.shared


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
    return [[match[1] for line in lines[a : b + 1] if (match := OPCODE.search(line))] for a, b in inner]


def matrix_instructions(ops: list[str]) -> int:
    return sum("MMA" in op for op in ops)


@budgeted
@pytest.mark.parametrize("entry", with_slow(BUDGET["critic_step"]), ids=name)
def test_instructions_per_matrix_instruction(entry: dict, tmp_path: Path) -> None:
    sass, shared = compiled(entry, tmp_path)
    assert not [op for op in OPCODE.findall(sass) if op.startswith(("LDL", "STL"))], "registers spill"
    assert shared <= SHARED[entry["target"]] * 1024
    ops = max(innermost_loops(sass), key=matrix_instructions)
    reached = len(ops) / matrix_instructions(ops)
    assert reached <= entry["budget"], f"{reached:.1f} instructions a matrix instruction"
