"""Run by `test_triton.py`: compiles the kernels for compute capability 9.0, where there need be no GPU, and looks at what they take.

The interpreter forgives what a compiler does not: types that change in a loop, tiles that fit no memory. Exits with 77 where the Triton
there is cannot compile without a device.
"""

import inspect
import re
import subprocess
import sys
import tempfile

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lossmith.fused.triton import kernels, launch
from lossmith.fused.triton.launch import Tiles

SHARED = 227 * 1024
"""Bytes of shared memory that a block may have on an H100."""
SPILLED = 64
"""Bytes of stack a thread, in the plain case: a few registers moved out of the way once a tile."""

ALONE = {"bias": None, "cap": None, "class_weight": None}
SUMS = {**ALONE, "stored": None, "power": None, "LABELLED": True, "MOMENT": False, "MEAN": False, "BETAS": (), "FURTHER": 1}
STORED = {name: value for name, value in SUMS.items() if name not in ("stored", "power")}
SLOPES = {**ALONE, "by_bias": None, "by_class_weight": None, "by_cap": None, "LABELLED": True, "ENTROPY": False, "MEAN": False, "BETAS": ()}
ALL = {"LABELLED": True, "MEAN": True, "BETAS": (0.5,)}

CASES = {
    "sums": (kernels.sums, launch.HALF, torch.bfloat16, True, SUMS, True),
    "sums, stored": (
        kernels.sums,
        launch.HALF,
        torch.bfloat16,
        True,
        STORED,
        False,
    ),
    "sums, everything, any strides": (kernels.sums, launch.SMALL, torch.float16, False, {**ALL, "MOMENT": True, "FURTHER": 1}, False),
    "sums, float32": (kernels.sums, launch.SINGLE, torch.float32, True, SUMS, True),
    "slopes": (kernels.slopes, launch.HALF, torch.bfloat16, True, SLOPES, True),
    "slopes, everything, any strides": (kernels.slopes, launch.SMALL, torch.bfloat16, False, {**ALL, "ENTROPY": True}, False),
    "slopes, float32": (kernels.slopes, launch.SINGLE, torch.float32, True, SLOPES, True),
    "level": (kernels.level, launch.HALF, torch.bfloat16, False, {}, True),
}
NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
UNALIGNED = {"start", "stop", "n", "classes", "splits", "share"}


def compiled(kernel, tile: Tiles, dtype: torch.dtype, described: bool, fixed: dict[str, object]):
    """The kernel for these constants: contiguous hidden states and head, addresses and widths that are multiples of 16."""
    of_tile = {"ROWS": tile.rows, "CLASSES": tile.classes, "WIDTH": tile.width, "GROUP": tile.group}
    fixed = {**of_tile, "OPERAND": launch.operand_type(dtype), "PRECISION": launch.precision(), "DESCRIBED": described, **fixed}
    fixed |= {"x_col": 1, "w_col": 1}
    half = NAMES[dtype]
    types = {"label": "*i32", "count": "*i32", "stored": f"*{half}", "slope": f"*{half}", "bias": f"*{half}"}
    types |= {name: "*fp32" for name in ("partial", "chosen", "power", "common", "rowwise", "cap", "class_weight")}
    types |= {name: "*fp32" for name in ("by_bias", "by_class_weight", "by_cap")}
    for name, rows in (("x", tile.rows), ("weight", tile.classes)):
        types[name] = f"tensordesc<{half}[{rows},{tile.width}]>" if described else f"*{half}"
    names = list(inspect.signature(kernel.fn).parameters)
    signature = {name: "constexpr" if name in fixed else types.get(name, "i32") for name in names}
    aligned = [i for i, name in enumerate(names) if not signature[name].startswith(("constexpr", "tensordesc")) and name not in UNALIGNED]
    source = ASTSource(
        kernel,
        signature=signature,
        constexprs={name: fixed[name] for name in names if name in fixed},
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    options = {"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def registers(cubin: bytes) -> tuple[int, int] | None:
    """(registers, bytes of stack) a thread, where there is the tool that reads them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        try:
            tool = triton.knobs.nvidia.cuobjdump.path
            said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
        except (AttributeError, OSError, RuntimeError, subprocess.CalledProcessError):
            return None
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None


def main() -> None:
    if not hasattr(triton, "knobs") or launch.INTERPRETED:
        print("this Triton cannot compile without a device")
        sys.exit(77)
    for name, (kernel, tile, dtype, described, fixed, plain) in CASES.items():
        built = compiled(kernel, tile, dtype, described, fixed)
        used = registers(built.asm["cubin"])
        print(f"{name}: {built.metadata.shared} bytes of shared memory, (registers, stack) {used}", flush=True)
        assert built.metadata.shared <= SHARED, name
        assert kernel is kernels.level or "wgmma.mma_async" in built.asm["ptx"], f"{name}: not on the tensor cores"
        assert not described or "cp.async.bulk.tensor" in built.asm["ptx"], f"{name}: not by the copy engine"
        assert not (plain and used) or used[1] <= SPILLED, f"{name}: registers spilled"


if __name__ == "__main__":
    main()
