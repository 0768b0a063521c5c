# pyrefly: ignore-errors
# A kernel is Triton's language in Python's syntax: its values are not what Python's types say.
"""The kernels: sums over tiles of logits, slopes of tiles of logits, and the levelling of stored exponentials."""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
STEP = tl.constexpr(64)
"""Stored exponentials are relative to a power of two in these steps, so that nearly all tiles of a row share one."""
NOTHING = tl.constexpr(-1e30)
"""A logit whose exponential is 0, and 0 still when multiplied by it."""


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


@triton.jit
def sums(
    x, weight, bias, cap, class_weight, label, count, partial, chosen, stored, power,
    n, classes, width, splits, share, x_row, x_col, w_row, w_col, stored_row,
    LABELLED: tl.constexpr, MOMENT: tl.constexpr, MEAN: tl.constexpr, BETAS: tl.constexpr, FURTHER: tl.constexpr,
    ROWS: tl.constexpr, CLASSES: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Into `partial` `(4 + len(BETAS), splits, n)`: maximum, sum of exponentials, entropy's moment, weighted logits, sums at `BETAS`.

    With `stored`, the exponentials too, times the softcap's slope, relative to 2 to the `power` `(n, tiles)`. `FURTHER` is the next
    power of two to the number of `BETAS`.
    """
    block, split = place(tl.cdiv(n, ROWS), splits, GROUP)
    row, first = block * ROWS, split * share
    last = min(first + share, tl.cdiv(classes, CLASSES))
    rows = row + tl.arange(0, ROWS)
    here = rows < n
    within = tl.arange(0, ROWS)[:, None] * stored_row + tl.arange(0, CLASSES)[None, :]
    if row < tl.load(count):
        y = tl.load(label + rows, mask=here, other=-1)
        m = tl.full((ROWS,), float("-inf"), tl.float32)
        s = tl.zeros((ROWS,), tl.float32)
        moment = tl.zeros((ROWS,), tl.float32)
        mean = tl.zeros((ROWS,), tl.float32)
        at_betas = tl.zeros((ROWS, FURTHER), tl.float32)
        which = tl.arange(0, FURTHER)[None, :]
        for tile in range(first, last):
            col = tile * CLASSES
            cols = col + tl.arange(0, CLASSES)
            z = raw_logits(
                x, weight, bias, row, col, n, classes, width, x_row, x_col, w_row, w_col,
                ROWS, CLASSES, WIDTH, OPERAND, PRECISION, DESCRIBED,
            )  # fmt: skip
            if cap is not None:
                c = tl.load(cap).to(tl.float32)
                t = tanh(z / c)
                z = c * t
            if MEAN:
                if class_weight is None:
                    mean += tl.sum(tl.where((cols < classes)[None, :], z, 0.0), 1)
                else:  # a class of weight 0 is left out, whatever its logit
                    v = tl.load(class_weight + cols, mask=cols < classes, other=0.0).to(tl.float32)[None, :]
                    mean += tl.sum(tl.where(v == 0, 0.0, z * v), 1)
            counted = (cols < classes)[None, :]
            if LABELLED:
                hit = cols[None, :] == y[:, None]
                tl.store(chosen + rows, tl.sum(tl.where(hit, z, 0.0), 1), mask=here & (y >= col) & (y < col + CLASSES))
                counted = counted & (hit == 0)
            z = tl.where(counted, z, float("-inf"))
            highest = tl.maximum(m, tl.max(z, 1))
            reference = tl.where(highest == float("-inf"), 0.0, highest)
            fall = tl.where(m == float("-inf"), 0.0, m - reference)
            d = z - reference[:, None]
            e = tl.exp(d)
            if MOMENT:
                moment = tl.exp(fall) * (moment + fall * s) + tl.sum(tl.where(d > float("-inf"), e * d, e), 1)
            for i in tl.static_range(len(BETAS)):
                more = tl.sum(tl.exp(d * BETAS[i]), 1)[:, None]
                at_betas = tl.where(which == i, at_betas * tl.exp(fall * BETAS[i])[:, None] + more, at_betas)
            s = tl.exp(fall) * s + tl.sum(e, 1)
            m = highest
            if stored is not None:
                level = tl.ceil(highest * (LOG2_E / STEP)) * STEP
                tl.store(power + rows.to(tl.int64) * tl.cdiv(classes, CLASSES) + tile, level, mask=here)
                e *= tl.exp2(reference * LOG2_E - tl.where(highest == float("-inf"), 0.0, level))[:, None]
                if cap is not None:
                    e *= 1 - t * t
                at = stored + row.to(tl.int64) * stored_row + col + within
                tl.store(at, e.to(stored.dtype.element_ty), mask=here[:, None] & (cols < classes)[None, :])
        tl.store(partial + split.to(tl.int64) * n + rows, m, mask=here)
        tl.store(partial + (splits + split).to(tl.int64) * n + rows, s, mask=here)
        if MOMENT:
            tl.store(partial + (2 * splits + split).to(tl.int64) * n + rows, moment, mask=here)
        if MEAN:
            tl.store(partial + (3 * splits + split).to(tl.int64) * n + rows, mean, mask=here)
        for i in tl.static_range(len(BETAS)):
            to = partial + ((4 + i) * splits + split).to(tl.int64) * n + rows
            tl.store(to, tl.sum(tl.where(which == i, at_betas, 0.0), 1), mask=here)
    elif stored is not None:  # the products read all rows: those that take no part are to be nothing, and not what was there before
        for tile in range(first, last):
            cols = tile * CLASSES + tl.arange(0, CLASSES)
            at = stored + row.to(tl.int64) * stored_row + tile * CLASSES + within
            nothing = tl.zeros((ROWS, CLASSES), stored.dtype.element_ty)
            tl.store(at, nothing, mask=here[:, None] & (cols < classes)[None, :])
            tl.store(power + rows.to(tl.int64) * tl.cdiv(classes, CLASSES) + tile, tl.zeros((ROWS,), tl.float32), mask=here)


@triton.jit
def slopes(
    x, weight, bias, cap, class_weight, label, count, rowwise, slope, by_bias, by_class_weight, by_cap,
    start, stop, n, classes, width, x_row, x_col, w_row, w_col, slope_row,
    LABELLED: tl.constexpr, ENTROPY: tl.constexpr, MEAN: tl.constexpr, BETAS: tl.constexpr,
    ROWS: tl.constexpr, CLASSES: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Into `slope` `(n, stop - start)`: the derivative of a row's weighted statistics by its logits, before the softcap.

    `rowwise` `(5 + 2 len(BETAS), n)` holds the logsumexp, the weights of p and of -p log p, the label's slope, the weight of the mean, and
    for every further temperature minus its logsumexp and its weight. Sums over a block's rows go to `by_bias` and `by_class_weight`
    `(blocks, stop - start)`, over a tile to `by_cap` `(blocks, tiles)`.
    """
    across = tl.cdiv(stop - start, CLASSES)
    block, tile = place(tl.cdiv(n, ROWS), across, GROUP)
    row, col = block * ROWS, start + tile * CLASSES
    rows, cols = row + tl.arange(0, ROWS), col + tl.arange(0, CLASSES)
    kept, inside = rows < tl.load(count), cols < stop
    base = slope + row.to(tl.int64) * slope_row + (col - start)  # 32 bits are enough within the tile
    where = (rows < n)[:, None] & inside[None, :]
    within = tl.arange(0, ROWS)[:, None] * slope_row + tl.arange(0, CLASSES)[None, :]
    summed = block.to(tl.int64) * (stop - start) + cols - start
    if row < tl.load(count):
        z = raw_logits(
            x, weight, bias, row, col, n, stop, width, x_row, x_col, w_row, w_col,
            ROWS, CLASSES, WIDTH, OPERAND, PRECISION, DESCRIBED,
        )  # fmt: skip
        if cap is not None:
            c = tl.load(cap).to(tl.float32)
            ratio = z / c
            t = tanh(ratio)
            z = c * t
        log_p = tl.maximum(z - tl.load(rowwise + rows, mask=kept, other=0.0)[:, None], NOTHING)
        on_p = tl.load(rowwise + 1 * n + rows, mask=kept, other=0.0)[:, None]
        if ENTROPY:
            on_p = on_p - tl.load(rowwise + 2 * n + rows, mask=kept, other=0.0)[:, None] * log_p
        d = tl.exp(log_p) * on_p
        if LABELLED:
            y = tl.load(label + rows, mask=kept, other=-1)
            at_label = tl.load(rowwise + 3 * n + rows, mask=kept, other=0.0)
            d = tl.where(cols[None, :] == y[:, None], at_label[:, None], d)
        if MEAN:
            on_mean = tl.load(rowwise + 4 * n + rows, mask=kept, other=0.0)[:, None]
            if class_weight is None:
                d += on_mean / classes
            else:
                v = tl.load(class_weight + cols, mask=inside, other=0.0).to(tl.float32)[None, :]
                d += on_mean * v
                if by_class_weight is not None:
                    tl.store(by_class_weight + summed, tl.sum(tl.where(kept[:, None], on_mean * z, 0.0), 0), mask=inside)
        for i in tl.static_range(len(BETAS)):
            minus_lse = tl.load(rowwise + (5 + 2 * i) * n + rows, mask=kept, other=0.0)[:, None]
            on_it = tl.load(rowwise + (6 + 2 * i) * n + rows, mask=kept, other=0.0)[:, None]
            d += tl.exp(z * BETAS[i] + minus_lse) * on_it
        if cap is not None:
            curb = 1 - t * t
            if by_cap is not None:
                moved = d * (t - tl.where(curb == 0, 0.0, ratio) * curb)
                tl.store(by_cap + block * across + tile, tl.sum(tl.where(kept[:, None] & inside[None, :], moved, 0.0)))
            d *= curb
        d = tl.where(kept[:, None], d, 0.0)
        if by_bias is not None:
            tl.store(by_bias + summed, tl.sum(d, 0), mask=inside)
        tl.store(base + within, d.to(slope.dtype.element_ty), mask=where)
    else:
        tl.store(base + within, tl.zeros((ROWS, CLASSES), slope.dtype.element_ty), mask=where)
        if by_bias is not None:
            tl.store(by_bias + summed, tl.zeros((CLASSES,), tl.float32), mask=inside)
        if by_class_weight is not None:
            tl.store(by_class_weight + summed, tl.zeros((CLASSES,), tl.float32), mask=inside)
        if by_cap is not None:
            tl.store(by_cap + block * across + tile, 0.0)


@triton.jit
def level(stored, power, common, count, n, classes, stored_row, ROWS: tl.constexpr, CLASSES: tl.constexpr):
    """Bring the tiles of a row from their own `power` of two to the row's `common` one."""
    block, tile = tl.program_id(0), tl.program_id(1)
    rows, cols = block * ROWS + tl.arange(0, ROWS), tile * CLASSES + tl.arange(0, CLASSES)
    kept = rows < tl.load(count)
    own = tl.load(power + rows.to(tl.int64) * tl.cdiv(classes, CLASSES) + tile, mask=kept, other=0.0)
    factor = tl.exp2(own - tl.load(common + rows, mask=kept, other=0.0))
    if tl.max(tl.where(factor == 1, 0, 1), 0) > 0:
        at = stored + rows.to(tl.int64)[:, None] * stored_row + cols[None, :]
        where = kept[:, None] & (cols < classes)[None, :]
        e = tl.load(at, mask=where, other=0.0).to(tl.float32)
        tl.store(at, (e * factor[:, None]).to(stored.dtype.element_ty), mask=where)
