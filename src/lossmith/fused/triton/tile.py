"""A tile of logits in a kernel: the matrix product, bias and softcap that both kernels begin with."""

import triton
import triton.language as tl


@triton.jit
def tanh(u):
    """To a few units in the last place at both ends; Triton itself has none.

    Near 0 the odd polynomial of the Cephes library, where 1 - exp(-2u) would cancel.
    """
    square = u * u
    series = -5.70498872745e-3
    series = series * square + 2.06390887954e-2
    series = series * square - 5.37397155531e-2
    series = series * square + 1.33314422036e-1
    series = series * square - 3.33332819422e-1
    e = tl.exp(-2 * tl.abs(u))
    far = (1 - e) / (1 + e)
    return tl.where(tl.abs(u) < 0.625, u + u * square * series, tl.where(u < 0, -far, far))


@triton.jit
def raw_logits(
    x, weight, bias, row, col, n, stop, width, x_row, x_col, w_row, w_col,
    ROWS: tl.constexpr, CLASSES: tl.constexpr, WIDTH: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    """hidden @ weight.T + bias of the rows from `row` and the classes from `col` on, float32; 0 beyond `n` rows, the bias beyond `stop`.

    `DESCRIBED`: hidden states and head come as descriptors, by which Hopper's copy engine reads whole tiles; else as pointers with
    any strides. Addresses are 64 bits wide: rows times classes pass 2^31.
    """
    acc = tl.zeros((ROWS, CLASSES), tl.float32)
    rows, cols = row + tl.arange(0, ROWS), col + tl.arange(0, CLASSES)
    if DESCRIBED:
        for k in range(0, width, WIDTH):
            a, b = x.load([row, k]), weight.load([col, k])
            acc = tl.dot(a.to(OPERAND), b.to(OPERAND).T, acc, input_precision=PRECISION)
    else:
        ks = tl.arange(0, WIDTH)
        from_x = x + rows.to(tl.int64)[:, None] * x_row + ks[None, :] * x_col
        from_w = weight + cols.to(tl.int64)[None, :] * w_row + ks[:, None] * w_col
        for k in range(0, width, WIDTH):
            within = ks < width - k
            a = tl.load(from_x, mask=(rows < n)[:, None] & within[None, :], other=0.0)
            b = tl.load(from_w, mask=within[:, None] & (cols < stop)[None, :], other=0.0)
            acc = tl.dot(a.to(OPERAND), b.to(OPERAND), acc, input_precision=PRECISION)
            from_x += WIDTH * x_col
            from_w += WIDTH * w_col
    if bias is not None:
        acc += tl.load(bias + cols, mask=cols < stop, other=0.0).to(tl.float32)[None, :]
    return acc


@triton.jit
def place(blocks, across, GROUP: tl.constexpr):
    """(block of rows, which of the `across`) of this program.

    `GROUP` blocks of rows go over the same classes at the same time, so that the head is read from memory once for all of them, and
    their hidden states stay in the second-level cache.
    """
    program = tl.program_id(0)
    first = program // (GROUP * across) * GROUP
    size = min(blocks - first, GROUP)
    within = program % (GROUP * across)
    return first + within % size, within // size
