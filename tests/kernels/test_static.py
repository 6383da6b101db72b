"""The cost of the Triton kernels without a GPU: compiled for three targets, disassembled, counted, held to a budget.

`static_budget.json` records, for the named Triton version, the instructions per pair in the innermost loop, what was
reached and the arithmetic floor. Triton's wheel carries the assembler and `nvdisasm`.
"""

from __future__ import annotations

import heapq
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

if sys.platform != "linux":
    pytest.skip("Triton has wheels for Linux alone", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kantor_kernels.pairwise import triton as pairwise
from kantor_kernels.pairwise import triton_hvp as second
from kantor_kernels.pairwise import triton_products as products
from kantor_kernels.pairwise import triton_sums as parts

BUDGET = json.loads((Path(__file__).parent / "static_budget.json").read_text())
# The Triton of the budget, in a folder of its own where the environment's is another: `make` installs it.
PINNED = Path(sys.prefix) / f"triton-{BUDGET['triton']}"
IS_PINNED = triton.__version__.startswith(f"{BUDGET['triton']}.")
budgeted = pytest.mark.skipif(
    not IS_PINNED, reason="runs in the process with the pinned Triton that a test above starts"
)
NVDISASM = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
POINTERS = dict.fromkeys(("x_ptr", "y_ptr", "b_ptr", "scale_ptr"), "*fp32")
POINTERS |= dict.fromkeys(("value_ptr", "slope_ptr"), "*fp64")


# Predicate, opcode, operands.
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)")


@pytest.mark.parametrize("options", [("-m", "not slow"), pytest.param((), marks=pytest.mark.slow)], ids=["few", "all"])
@pytest.mark.skipif(IS_PINNED, reason="this process has the Triton of the budget")
def test_the_budgets_hold_with_their_triton(options: tuple[str, ...], elsewhere: Callable[..., None]) -> None:
    assert (PINNED / "triton").is_dir(), f"{PINNED} is missing: `make .venv/tested` installs it"
    elsewhere(
        {Path(__file__): ("test_instructions_per_pair", "test_instructions_per_pair_of_products")},
        *options,
        PYTHONPATH=str(PINNED),
    )


def name(entry: dict) -> str:
    return f"sm{entry['target']}-D{entry['d']}-{entry['pass']}"


def with_slow(entries: list[dict]) -> list:
    return [
        entry if entry["d"] == 64 and entry["target"] != 100 else pytest.param(entry, marks=pytest.mark.slow)
        for entry in entries
    ]


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


def direct_loop(target: int, d: int, gradient: bool, tmp_path: Path) -> list[str]:
    constants = pairwise.specialisation(d, "energy", (1.0,), False, "every", gradient, torch.float32)
    signature = POINTERS | dict.fromkeys(("n", "m", "batch", "part_columns"), "i32")
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=pairwise.pairwise_kernel, signature=signature, constexprs=constants)
    options = {"num_warps": pairwise.WARPS, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    sass = subprocess.run([NVDISASM, "-c", cubin], capture_output=True, text=True, check=True).stdout
    # The unrolled loop, not the one for what remains: it holds the most reciprocal roots, one a pair.
    return max(innermost_loops(sass), key=lambda ops: ops.count("MUFU.RSQ"))


@budgeted
@pytest.mark.parametrize("entry", BUDGET["kernels"], ids=name)
def test_instructions_per_pair(entry: dict, tmp_path: Path) -> None:
    ops = direct_loop(entry["target"], entry["d"], entry["pass"] == "value+gradient", tmp_path)
    assert not [op for op in ops if op.startswith(("LDL", "STL"))], "registers spill in the main loop"
    pairs = ops.count("MUFU.RSQ")
    assert pairs >= pairwise.ROWS // (32 * pairwise.WARPS)
    assert len(ops) / pairs <= entry["budget"], f"{len(ops) / pairs:.1f} instructions a pair"


def main_loop(sass: str) -> list[str]:
    """The opcodes of the shortest way round the smallest loop that takes a reciprocal root: rare branches left out."""
    lines = sass.splitlines()
    labels = {match[1]: n for n, line in enumerate(lines) if (match := re.match(r"^(\.L_x_\d+):", line))}
    found = {n: match for n, line in enumerate(lines) if (match := INSTRUCTION.search(line))}
    targets = {
        n: labels[match[1]]
        for n, i in found.items()
        if i[2].startswith("BRA") and (match := re.search(r"`\((\.L_x_\d+)\)", i[3]))
    }
    loops = sorted((n - first, first, n) for n, first in targets.items() if first < n)
    for _, first, last in loops:
        way = shortest_way(found, targets, first, last)
        if any(op == "MUFU.RSQ" for op in way):
            return way
    raise AssertionError("no loop takes a reciprocal root")


def shortest_way(found: dict, targets: dict[int, int], first: int, last: int) -> list[str]:
    length, before, queue = {first: 0}, {}, [(0, first)]
    while queue:
        steps, n = heapq.heappop(queue)
        if n == last:
            break
        ahead = [n + 1]
        if n in targets:
            conditional = found[n][1] or re.match(r"\s+!?U?P\d", found[n][3])
            ahead = [targets[n], n + 1] if conditional else [targets[n]]
        for following in ahead:
            total = steps + (n in found)
            if first <= following <= last and total < length.get(following, 1 << 30):
                length[following], before[following] = total, n
                heapq.heappush(queue, (total, following))
    else:
        return []
    way = [last]
    while way[-1] != first:
        way.append(before[way[-1]])
    return [found[n][2] for n in way if n in found]


# Of arguments that are not float32 pointers or int32 numbers.
TYPES: dict[str, str] = dict.fromkeys(("value_ptr", "slope_ptr", "near_ptr", "extent_ptr"), "*fp64")
TYPES |= dict.fromkeys(("high_ptr", "low_ptr"), "*fp16") | {"met_ptr": "*i32"}


def compiled(kernel: Any, target: int, constants: dict[str, Any], types: dict[str, str], **options: Any) -> Any:
    """The kernel for this compute capability, as PyTorch's aligned memory would have it."""
    names = kernel.arg_names
    other = {name: types.get(name, "*fp32" if name.endswith("_ptr") else "i32") for name in names}
    signature = {name: "constexpr" if name in constants else other[name] for name in names}
    aligned: Any = {(n,): [["tt.divisibility", 16]] for n, name in enumerate(names) if name.endswith("_ptr")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)


@cache
def compiled_products(target: int, d: int, gradient: bool) -> tuple[str, int]:
    """(disassembly, bytes of shared memory) of `product_kernel`."""
    constants = products.specialisation(d, "energy", (1.0,), False, "every", gradient, target)
    kernel = compiled(products.product_kernel, target, constants, TYPES, **products.options(d))
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        sass = subprocess.run([NVDISASM, "-c", cubin], capture_output=True, text=True, check=True).stdout
    return sass, kernel.metadata.shared


def kernels() -> dict[str, tuple[Any, dict[str, Any], dict[str, str], dict[str, Any]]]:
    """Every kernel in the forms that differ: (function, constants, types, options)."""
    found: dict[str, Any] = {}
    fused = {"enable_fp_fusion": True}
    four_warps = {"num_warps": 4, "enable_fp_fusion": True}
    for family, numbers in (("energy", (1.0,)), ("energy", (1.5,)), ("gaussian", (1.0, 2.0)), ("laplacian", (1.0,))):
        name = f"{family}-{numbers[0]}"
        found[f"direct-{name}"] = (
            pairwise.pairwise_kernel,
            pairwise.specialisation(8, family, numbers, True, "off_diagonal", True, torch.float32),
            TYPES,
            four_warps,
        )
        constants = second.specialisation(8, family, numbers, True, True, True, True)
        found[f"hvp-{name}"] = second.hvp_kernel, constants, double(second.hvp_kernel), four_warps
        constants = products.specialisation(64, family, numbers, True, "off_diagonal", True)
        found[f"products-64-{name}"] = products.product_kernel, constants, TYPES, products.options(64)
    constants = pairwise.specialisation(16, "energy", (1.0,), False, "above", False, torch.float64)
    found["direct-above"] = pairwise.pairwise_kernel, constants, double(pairwise.pairwise_kernel), four_warps
    constants = products.specialisation(64, "energy", (1.0,), False, "every", True, 100)
    found["products-64-newer"] = products.product_kernel, constants, TYPES, products.options(64)
    for d in (20, 128, 256):
        constants = products.specialisation(d, "energy", (1.0,), False, "every", True)
        found[f"products-{d}"] = products.product_kernel, constants, TYPES, products.options(d)
    constants = products.specialisation(64, "energy", (1.0,), True, "above", False)
    found["products-above"] = products.product_kernel, constants, TYPES, products.options(64)
    constants = {"D": 100, "WIDTH": 64, "A_WEIGHTED": True, "B_WEIGHTED": False, "ROWS": products.BLOCK_ROWS}
    found["extent"] = products.extent_kernel, constants, TYPES, fused
    chunks = {"WIDTH": 64, "CHUNKS": 2}
    constants = chunks | {"D": 100, "POINT_EXPONENT": 6, "BLOCKS": products.BLOCKS, "ROWS": products.BLOCK_ROWS}
    found["halves"] = products.halves_kernel, constants, TYPES, fused
    constants = chunks | {"NEAR": 2.0**-10, "SAMPLE": products.SAMPLE, "ROWS": products.SAMPLE_ROWS}
    found["floor"] = products.floor_kernel, constants, TYPES, fused
    sums = {"D": 100, "WIDTH": 128, "GRAD": True, "NEAR": True, "ROWS": 8}
    types = double(parts.gather_kernel) | {"grad_ptr": "*fp32", "met_ptr": "*i32"}
    found["gather"] = parts.gather_kernel, sums, types, fused
    constants = sums | {"OWN_FACTOR": 0, "OWN_TIMES": 2, "CROSS_TIMES": 2, "WEIGHTED": True}
    types = double(parts.share_kernel) | {"grad_ptr": "*fp32", "weight_ptr": "*fp32"}
    found["share"] = (
        parts.share_kernel,
        constants,
        types | dict.fromkeys(("own_met_ptr", "cross_met_ptr"), "*i32"),
        fused,
    )
    return found


def double(kernel: Any) -> dict[str, str]:
    return {name: "*fp64" for name in kernel.arg_names if name.endswith("_ptr")}


# The versions that cannot be tested on a device are tested here: `make test-triton` takes the oldest one.
QUICK = ["direct-energy-1.0", "products-64-energy-1.0", "products-64-newer", "products-128", "products-above"]


@pytest.mark.parametrize("target", [80, 90, 100])
@pytest.mark.parametrize("form", QUICK)
def test_it_compiles(form: str, target: int) -> None:
    function, constants, types, options = kernels()[form]
    assert compiled(function, target, constants, types, **options).asm["cubin"]


@pytest.mark.slow
@pytest.mark.parametrize("target", [80, 90, 100])
@pytest.mark.parametrize("form", list(kernels()))
def test_every_form_compiles(form: str, target: int) -> None:
    function, constants, types, options = kernels()[form]
    assert compiled(function, target, constants, types, **options).asm["cubin"]


def narrow_products(ttir: str, strides: tuple[int, ...]) -> list[str]:
    """Products in 32 bits of a number known at run time with one of these strides or with another such number."""
    known: dict[str, int | None] = {}
    found = []
    for line in ttir.splitlines():
        match = re.match(r"\s*(%\w+) = (\w+\.\w+)(.*?)( loc\(.*)?$", line)
        if not match:
            continue
        result, op, rest = match[1], match[2], match[3]
        operands = re.findall(r"%\w+", rest)
        known.pop(result, None)
        if op in ("arith.constant", "tt.make_range"):
            number = re.search(r"(?:dense<|constant )(-?\d+)", op + rest)
            known[result] = int(number[1]) if number and op == "arith.constant" else None
        elif operands and all(operand in known for operand in operands):
            known[result] = known[operands[0]] if op == "tt.splat" else None
        elif op == "arith.muli" and re.search(r"(: |x)i32\b", rest):
            constants = [known[operand] for operand in operands if operand in known]
            if not constants or constants[0] in strides:
                found.append(line.strip())
    return found


# A row times its length may pass 2^31. Allowed: part times columns, block times rows, 3 D times at most 64 blocks.
@pytest.mark.parametrize("form, allowed", [("direct", 0), ("hvp", 0), ("products", 1), ("extent", 1), ("halves", 1),
                                           ("floor", 0), ("gather", 0), ("share", 0)])  # fmt: skip
def test_offsets_have_64_bits(form: str, allowed: int) -> None:
    forms = kernels()
    direct = pairwise.specialisation(13, "energy", (1.0,), True, "off_diagonal", True, torch.float32)
    wide = products.specialisation(150, "energy", (1.0,), True, "off_diagonal", True)
    hvp = second.specialisation(13, "energy", (1.0,), True, True, True, True)
    chosen = {
        "direct": ("direct-energy-1.0", direct),
        "hvp": ("hvp-energy-1.0", hvp),
        "products": ("products-128", wide),
    }
    source, constants = chosen.get(form, (form, {}))
    function, usual, types, options = forms[source]
    # Strides that no block of rows has.
    constants = constants or {
        **usual,
        **({"D": 150} if "D" in usual else {}),
        **({"CHUNKS": 3} if "CHUNKS" in usual else {}),
    }
    if form in ("gather", "share"):
        constants["WIDTH"] = 256
    ttir = compiled(function, 80, constants, types, **options).asm["ttir"]
    found = narrow_products(ttir, (13, 150, 192, 3 * 150))
    assert len(found) <= allowed, found


@budgeted
@pytest.mark.parametrize("entry", with_slow(BUDGET["products"]), ids=name)
def test_instructions_per_pair_of_products(entry: dict) -> None:
    sass, shared = compiled_products(entry["target"], entry["d"], entry["pass"] == "value+gradient")
    ops = main_loop(sass)
    spilled = [op for op in ops if op.startswith(("LDL", "STL"))]
    assert not spilled, f"registers spill in the main loop: {spilled}"
    # One processor's shared memory, less what the driver keeps.
    assert shared <= {80: 163, 90: 227, 100: 227}[entry["target"]] * 1024
    pairs = ops.count("MUFU.RSQ")
    assert pairs >= products.TILE // 2 * products.ROWS // (32 * products.WARPS)
    assert len(ops) / pairs <= entry["budget"], f"{len(ops) / pairs:.1f} instructions a pair"
