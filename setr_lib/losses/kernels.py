"""The kernels of `fused.py`, in Triton: a loss that never writes the enlarged scores.

Enlarging is linear, so the scores S of P neighbouring pixels are a product of the scores of the
few cells around them with a matrix of bilinear weights that is the same for every class and image:

    S (K,P) = cells (K,T) @ weights (T,P)           loss = log sum_k exp S - S[truth]
    G (K,P) = softmax S - [k is the truth]          gradient (K,T) = G @ weights.T

A program holds one such tile and walks through the classes, KC at a time: the running maximum and
sum of a softmax need nothing of the chunks before. Forward it leaves one number a pixel, the
logarithm of that sum (to the base 2, as the hardware counts); backward it makes S again and from it
G. What remains is to add up gradients of cells that several tiles share. Adding to memory from
many programs at once would give other bits in every run, so there are two ways without it:

- Large steps (a cell spans more than two pixels): S and G @ weights.T are products on tensor
  cores. Every tile writes its share of the gradient to a buffer of its own, and a third kernel adds
  the shares that fall on a cell, always in the same order.
- Small steps: 25 shares for 64 pixels would be moved. A program owns cells instead: all pixels
  that lean on one lie between its two neighbours, so 3x3 cells tell their scores. Each pixel is
  worked out four times, nothing is shared, and all is plain float32 arithmetic.

Tensor cores read no float32. Each operand is cut into two parts that they do read, high and low,
and the products of the parts are added up in float32: high*high + high*low + low*high. A part that
is known to be zero is left out, the low one of scores in half precision for example.
"""

# B batch, K classes, KC of them at once; h w rows and columns of cells, H W of pixels;
# P = PY*PX pixels of a tile, T cells of its patch, TY*TX filled up to a power of two

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# Float16 holds the parts of G and of the weights well if both are enlarged first.
G_ONE, W_ONE = tl.constexpr(2.0**15), tl.constexpr(2.0**10)
SHRINK = 2.0**-25  # undoes both

# ------------------------------------------------------------------------------ one pixel


@triton.jit
def _read_labels(labels, where, inside, ignore_index, K):
    """The labels of pixels, which of them count, and which of those are classes."""
    label = tl.load(labels + where, mask=inside, other=0).to(tl.int32)
    counts = inside & (label != ignore_index)
    return label, counts, counts & (label >= 0) & (label < K)


@triton.jit
def _add_classes(s, real, most, total):
    """The softmax's running maximum (P) and sums (KC,P), with the classes of one chunk more."""
    s = tl.where(real[:, None], s, float("-inf"))
    new = tl.maximum(most, tl.max(s, 0))
    new_log2 = new * LOG2E
    shrink = tl.exp2(most * LOG2E - new_log2)
    return new, total * shrink[None, :] + tl.exp2(s * LOG2E - new_log2[None, :])


@triton.jit
def _end_pixels(
    most, total, picked, even, label, counts, known, weight, weight_sum, keep, share,
    WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr,
):  # fmt: skip
    """Each pixel's loss, its part of the divisor and its log-sum-exp."""
    log2_sum = tl.log2(tl.sum(total, 0))
    picked = tl.where(known, picked, float("nan"))  # an impossible label is not passed over
    scale = counts.to(tl.float32)
    if WEIGHTED:
        scale = tl.load(weight + label, mask=known, other=0.0)
    # In a confident pixel the two are near each other: their difference first.
    loss = ((most - picked) + log2_sum * LN2) * scale
    if SMOOTH:
        loss = keep * loss + share * ((most + log2_sum * LN2) * tl.load(weight_sum) - even)
    lse = tl.where(counts, most * LOG2E + log2_sum, float("inf"))  # exp2(s - inf) is 0
    return tl.where(counts, loss, 0.0), scale, lse


@triton.jit
def _pixel_weights(
    label, known, weight, weight_sum, keep, share, WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr
):
    """What the true class weighs in a pixel's gradient, and what the softmax does."""
    scale = known.to(tl.float32)
    if WEIGHTED:
        scale = tl.load(weight + label, mask=known, other=0.0)
    whole = scale
    if SMOOTH:
        scale = keep * scale
        whole = scale + share * tl.load(weight_sum)
    return scale, whole


@triton.jit
def _slopes(
    p, k, K, label, counts, known, scale, whole, weight, share, ONE: tl.constexpr,
    WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr,
):  # fmt: skip
    """G (KC,P) from the softmax p, both times ONE."""
    truth = tl.where(known, label, -1)
    if WEIGHTED:
        p = p * whole[None, :]
        p = tl.where(k[:, None] == truth[None, :], p - ONE * scale[None, :], p)
    else:
        p = tl.where(k[:, None] == truth[None, :], p - ONE, p)
    if SMOOTH:
        each = tl.load(weight + k, mask=k < K, other=0.0) * share * ONE
        p = tl.where(counts[None, :], p - each[:, None], p)
    return p


# ------------------------------------------------------------------------------ large steps


@triton.jit
def _tile_weights(by, bx, tile_y, tile_x, PY: tl.constexpr, PX: tl.constexpr, TY: tl.constexpr,
                  TX: tl.constexpr, T: tl.constexpr):  # fmt: skip
    """How much of each cell of a patch is in each pixel of its tile (T,P)."""
    t = tl.arange(0, T)[:, None]
    p = tl.arange(0, PY * PX)[None, :]
    real = t < TY * TX
    wy = tl.load(by + (tile_y * PY + p // PX) * TY + t // TX, mask=real, other=0.0)
    wx = tl.load(bx + (tile_x * PX + p % PX) * TX + t % TX, mask=real, other=0.0)
    return wy * wx


@triton.jit
def _tile_cells(first_y, first_x, tile_y, tile_x, s_y, s_x, TX: tl.constexpr, T: tl.constexpr):
    """Where the cells of a patch (T) lie in a class of an image."""
    t = tl.arange(0, T)
    rows = tl.load(first_y + tile_y) + t // TX
    return rows * s_y + (tl.load(first_x + tile_x) + t % TX) * s_x


@triton.jit
def _high(x):
    """The part of float32 that TF32 holds: 11 of 24 bits, rounded to the nearest."""
    bits = x.to(tl.int32, bitcast=True)
    return ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def _scores(cells, w, EXACT: tl.constexpr, HALF: tl.constexpr):
    """S (KC,P) = cells (KC,T) @ w (T,P); the small products are added first."""
    x = cells.to(tl.float32)
    x_high = x
    w_high = w
    if not EXACT:  # some weight has more bits than TF32
        w_high = _high(w)
    s = tl.zeros((x.shape[0], w.shape[1]), tl.float32)
    if not HALF:
        x_high = _high(x)
        s = tl.dot(x - x_high, w_high, s, input_precision="tf32")
    if not EXACT:
        s = tl.dot(x_high, w - w_high, s, input_precision="tf32")
    return tl.dot(x_high, w_high, s, input_precision="tf32")


@triton.jit(do_not_specialize=["images", "K"])
def forward_kernel(
    logits, labels, weight, weight_sum, by, bx, first_y, first_x, lse_out, loss_out, scale_out,
    images, K, H, W, top, left, tiles_x, s_b, s_k, s_y, s_x, l_b, l_y, l_x, ignore_index,
    keep, share, PY: tl.constexpr, PX: tl.constexpr, TY: tl.constexpr, TX: tl.constexpr,
    T: tl.constexpr, KC: tl.constexpr, IMAGES: tl.constexpr, EXACT: tl.constexpr,
    HALF: tl.constexpr, WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr, SAVE: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    tile_y, tile_x = tile // tiles_x, tile % tiles_x
    w = _tile_weights(by, bx, tile_y, tile_x, PY, PX, TY, TX, T)
    cell = _tile_cells(first_y, first_x, tile_y, tile_x, s_y, s_x, TX, T)
    real = tl.arange(0, T) < TY * TX
    p = tl.arange(0, PY * PX)
    y = tile_y * PY + p // PX - top
    x = tile_x * PX + p % PX - left
    inside = (y >= 0) & (y < H) & (x >= 0) & (x < W)
    k = tl.arange(0, KC)
    offsets = k[:, None] * s_k + cell[None, :]
    zero = tl.zeros((), tl.int64)  # a sum with it has 64 bits: batches may be large
    b0 = tl.program_id(1) * IMAGES
    for b in range(b0, tl.minimum(b0 + IMAGES, images)):
        image = logits + (zero + b) * s_b
        where = (zero + b) * l_b + y * l_y + x * l_x
        label, counts, known = _read_labels(labels, where, inside, ignore_index, K)
        most = tl.full((PY * PX,), float("-inf"), tl.float32)
        total = tl.zeros((KC, PY * PX), tl.float32)
        even = tl.zeros((PY * PX,), tl.float32)
        cells = tl.load(image + offsets, mask=real[None, :] & (k < K)[:, None], other=0.0)
        for k0 in range(0, K, KC):
            later = tl.load(  # while this chunk is computed
                image + (k0 + KC) * s_k + offsets,
                mask=real[None, :] & (k < K - KC - k0)[:, None],
                other=0.0,
            )
            s = _scores(cells, w, EXACT, HALF)
            if SMOOTH:  # rows past the last class are zero
                each = tl.load(weight + k0 + k, mask=k < K - k0, other=0.0)
                even += tl.sum(s * each[:, None], 0)
            most, total = _add_classes(s, k < K - k0, most, total)
            cells = later
        truth = label.to(tl.int64)[None, :] * s_k + cell[:, None]
        again = _tile_weights(by, bx, tile_y, tile_x, PY, PX, TY, TX, T)  # held, it takes registers
        truth = tl.load(image + truth, mask=known[None, :] & (again != 0), other=0.0)
        picked = tl.sum(truth.to(tl.float32) * again, 0)
        loss, scale, lse = _end_pixels(
            most, total, picked, even, label, counts, known, weight, weight_sum, keep, share,
            WEIGHTED, SMOOTH,
        )  # fmt: skip
        at = b * tl.num_programs(0) + tile
        tl.store(loss_out + at, tl.sum(loss, 0))
        tl.store(scale_out + at, tl.sum(scale, 0))
        if SAVE:
            tl.store(lse_out + (zero + b) * H * W + y * W + x, lse, mask=inside)


@triton.jit(do_not_specialize=["images", "K", "k_first", "k_last"])
def backward_kernel(
    logits, labels, weight, weight_sum, by, bx, first_y, first_x, lse_in, shares,
    images, K, k_first, k_last, H, W, top, left, tiles_x, s_b, s_k, s_y, s_x, l_b, l_y, l_x,
    ignore_index, keep, share, PY: tl.constexpr, PX: tl.constexpr, TY: tl.constexpr,
    TX: tl.constexpr, T: tl.constexpr, KC: tl.constexpr, IMAGES: tl.constexpr,
    EXACT: tl.constexpr, HALF: tl.constexpr, WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    tile_y, tile_x = tile // tiles_x, tile % tiles_x
    w = _tile_weights(by, bx, tile_y, tile_x, PY, PX, TY, TX, T)
    back = tl.trans(w) * W_ONE  # (P,T)
    back_high = back.to(tl.float16)
    back_low = (back - back_high.to(tl.float32)).to(tl.float16)
    cell = _tile_cells(first_y, first_x, tile_y, tile_x, s_y, s_x, TX, T)
    t = tl.arange(0, T)
    real = t < TY * TX
    p = tl.arange(0, PY * PX)
    y = tile_y * PY + p // PX - top
    x = tile_x * PX + p % PX - left
    inside = (y >= 0) & (y < H) & (x >= 0) & (x < W)
    k = tl.arange(0, KC)
    offsets = k[:, None] * s_k + cell[None, :]
    into = k[:, None] * (TY * TX) + t[None, :]
    zero = tl.zeros((), tl.int64)
    b0 = tl.program_id(1) * IMAGES
    for b in range(b0, tl.minimum(b0 + IMAGES, images)):
        image = logits + (zero + b) * s_b
        where = (zero + b) * l_b + y * l_y + x * l_x
        label, counts, known = _read_labels(labels, where, inside, ignore_index, K)
        scale, whole = _pixel_weights(
            label, known, weight, weight_sum, keep, share, WEIGHTED, SMOOTH
        )
        lse = lse_in + (zero + b) * H * W + y * W + x
        shift = 15.0 - tl.load(lse, mask=inside, other=float("inf"))  # times G_ONE
        out = shares + (b * tl.num_programs(0) + tile) * (k_last - k_first) * (TY * TX)
        cells = tl.load(
            image + k_first * s_k + offsets,
            mask=real[None, :] & (k < k_last - k_first)[:, None],
            other=0.0,
        )
        for k0 in range(k_first, k_last, KC):
            later = tl.load(
                image + (k0 + KC) * s_k + offsets,
                mask=real[None, :] & (k < k_last - KC - k0)[:, None],
                other=0.0,
            )
            s = _scores(cells, w, EXACT, HALF)
            g = tl.exp2(s * LOG2E + shift[None, :])  # rows past the last class are not stored
            g = _slopes(
                g, k + k0, K, label, counts, known, scale, whole, weight, share, G_ONE,
                WEIGHTED, SMOOTH,
            )  # fmt: skip
            g_high = g.to(tl.float16)
            g_low = (g - g_high.to(tl.float32)).to(tl.float16)
            d = tl.dot(g_low, back_high)
            if not EXACT:
                d = tl.dot(g_high, back_low, d)
            d = tl.dot(g_high, back_high, d)
            mask = real[None, :] & (k < k_last - k0)[:, None]
            tl.store(out + (k0 - k_first) * (TY * TX) + into, d, mask=mask)
            cells = later


@triton.jit(do_not_specialize=["K", "k_first", "k_last"])
def add_kernel(
    shares, gradient, factor, first_y, first_x, tile_y_of, tile_x_of,
    K, k_first, k_last, h, w, tiles_y, tiles_x, blocks_x,
    TY: tl.constexpr, TX: tl.constexpr, NY: tl.constexpr, NX: tl.constexpr,
    BY: tl.constexpr, BX: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """BY*BX cells add, for CLASSES classes, their shares of at most NY*NX tiles."""
    n = tl.arange(0, BY * BX)
    i = tl.program_id(0) // blocks_x * BY + n // BX
    j = tl.program_id(0) % blocks_x * BX + n % BX
    exists = (i < h) & (j < w)
    k = k_first + tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)
    b = tl.program_id(2) + tl.zeros((), tl.int64)
    one = (k_last - k_first) * (TY * TX)  # numbers of a tile
    of_class = shares + b * (tiles_y * tiles_x) * one + (k - k_first)[:, None] * (TY * TX)
    first_tile_y = tl.load(tile_y_of + i, mask=exists, other=0)
    first_tile_x = tl.load(tile_x_of + j, mask=exists, other=0)
    total = tl.zeros((CLASSES, BY * BX), tl.float32)
    for m in tl.static_range(NY * NX):
        tile_y = first_tile_y + m // NX
        tile_x = first_tile_x + m % NX
        there = exists & (tile_y < tiles_y) & (tile_x < tiles_x)
        a = i - tl.load(first_y + tile_y, mask=there, other=0)
        c = j - tl.load(first_x + tile_x, mask=there, other=0)
        there = there & (a >= 0) & (a < TY) & (c >= 0) & (c < TX)
        at = (tile_y * tiles_x + tile_x) * one + a * TX + c
        mask = there[None, :] & (k < k_last)[:, None]
        total += tl.load(of_class + at[None, :], mask=mask, other=0.0)
    out = gradient + b * K * h * w + k[:, None] * (h * w) + (i * w + j)[None, :]
    total = total * tl.load(factor)
    tl.store(out, total.to(gradient.dtype.element_ty), exists[None, :] & (k < k_last)[:, None])


# ------------------------------------------------------------------------------ small steps


@triton.jit
def _four(first, right, down, w00, w01, w10, w11, mask):
    """The scores of pixels between four cells each, from where the first of the four lies."""
    s = w00 * tl.load(first, mask=mask, other=0.0).to(tl.float32)
    s += w01 * tl.load(first + right, mask=mask, other=0.0).to(tl.float32)
    s += w10 * tl.load(first + down, mask=mask, other=0.0).to(tl.float32)
    return s + w11 * tl.load(first + down + right, mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["K"])
def near_forward_kernel(
    logits, labels, weight, weight_sum, low_y, low_x, taps_y, taps_x, lse_out, loss_out, scale_out,
    K, down, right, H, W, blocks_x, s_b, s_k, s_y, s_x, l_b, l_y, l_x, ignore_index, keep, share,
    PY: tl.constexpr, PX: tl.constexpr, KC: tl.constexpr, WEIGHTED: tl.constexpr,
    SMOOTH: tl.constexpr, SAVE: tl.constexpr,
):  # fmt: skip
    """PY*PX pixels, each between two rows and two columns of cells."""
    n = tl.arange(0, PY * PX)
    y = tl.program_id(0) // blocks_x * PY + n // PX
    x = tl.program_id(0) % blocks_x * PX + n % PX
    inside = (y < H) & (x < W)
    b = tl.program_id(1) + tl.zeros((), tl.int64)
    label, counts, known = _read_labels(
        labels, b * l_b + y * l_y + x * l_x, inside, ignore_index, K
    )
    i, j = tl.load(low_y + y, mask=inside, other=0), tl.load(low_x + x, mask=inside, other=0)
    image = logits + b * s_b + i * s_y + j * s_x
    above = tl.load(taps_y + 2 * y, mask=inside, other=0.0)
    below = tl.load(taps_y + 2 * y + 1, mask=inside, other=0.0)
    before = tl.load(taps_x + 2 * x, mask=inside, other=0.0)
    after = tl.load(taps_x + 2 * x + 1, mask=inside, other=0.0)
    w00, w01, w10, w11 = above * before, above * after, below * before, below * after
    most = tl.full((PY * PX,), float("-inf"), tl.float32)
    total = tl.zeros((KC, PY * PX), tl.float32)
    even = tl.zeros((PY * PX,), tl.float32)
    for k0 in range(0, K, KC):
        k = k0 + tl.arange(0, KC)
        mask = (k < K)[:, None] & inside[None, :]
        s = _four(
            image[None, :] + k[:, None] * s_k, right, down,
            w00[None, :], w01[None, :], w10[None, :], w11[None, :], mask,
        )  # fmt: skip
        if SMOOTH:
            each = tl.load(weight + k, mask=k < K, other=0.0)
            even += tl.sum(s * each[:, None], 0)
        most, total = _add_classes(s, k < K, most, total)
    picked = _four(image + label * s_k, right, down, w00, w01, w10, w11, known)
    loss, scale, lse = _end_pixels(
        most, total, picked, even, label, counts, known, weight, weight_sum, keep, share,
        WEIGHTED, SMOOTH,
    )  # fmt: skip
    program = b * tl.num_programs(0) + tl.program_id(0)
    tl.store(loss_out + program, tl.sum(loss, 0))
    tl.store(scale_out + program, tl.sum(scale, 0))
    if SAVE:
        tl.store(lse_out + b * H * W + y * W + x, lse, mask=inside)


@triton.jit
def _three(first, RIGHT: tl.constexpr, RIGHT2: tl.constexpr, mask):
    """The scores of three cells beside each other, to the base 2, from where the first lies."""
    return (
        tl.load(first, mask=mask, other=0.0).to(tl.float32) * LOG2E,
        tl.load(first + RIGHT, mask=mask, other=0.0).to(tl.float32) * LOG2E,
        tl.load(first + RIGHT2, mask=mask, other=0.0).to(tl.float32) * LOG2E,
    )


@triton.jit
def _three_weights(table, row, mask):
    """Three numbers of each row of a table (rows,3)."""
    w0 = tl.load(table + 3 * row, mask=mask, other=0.0)
    w1 = tl.load(table + 3 * row + 1, mask=mask, other=0.0)
    w2 = tl.load(table + 3 * row + 2, mask=mask, other=0.0)
    return w0[None, :], w1[None, :], w2[None, :]


# Were w known to be divisible, the compiler would give a thread eight cells of one class, and not
# eight classes of one cell: then labels and weights would be read for each class again.
@triton.jit(do_not_specialize=["K", "h", "w"])
def near_backward_kernel(
    logits, labels, weight, weight_sum, near_y, near_x, pixel_y, pixel_x, lean_y, lean_x,
    own_y, own_x, lse_in, factor, gradient, K, h, w, down, down2, H, W, blocks_x,
    s_b, s_k, s_y, s_x, l_b, l_y, l_x, ignore_index, keep, share,
    RIGHT: tl.constexpr, RIGHT2: tl.constexpr, CY: tl.constexpr, CX: tl.constexpr,
    KC: tl.constexpr, NY: tl.constexpr, NX: tl.constexpr, WEIGHTED: tl.constexpr,
    SMOOTH: tl.constexpr,
):  # fmt: skip
    """CY*CX cells, each with the NY*NX pixels that lean on it, at most."""
    c = tl.arange(0, CY * CX)
    i = tl.program_id(0) // blocks_x * CY + c // CX
    j = tl.program_id(0) % blocks_x * CX + c % CX
    exists = (i < h) & (j < w)
    b = tl.program_id(1) + tl.zeros((), tl.int64)
    i0 = tl.load(near_y + i, mask=exists, other=0)
    j0 = tl.load(near_x + j, mask=exists, other=0)
    image = logits + b * s_b + i0 * s_y + j0 * s_x
    first_y = tl.load(pixel_y + i, mask=exists, other=0)
    first_x = tl.load(pixel_x + j, mask=exists, other=0)
    for k0 in range(0, K, KC):
        k = k0 + tl.arange(0, KC)
        mask = (k < K)[:, None] & exists[None, :]
        first = image[None, :] + k[:, None] * s_k
        a0, a1, a2 = _three(first, RIGHT, RIGHT2, mask)
        b0, b1, b2 = _three(first + down, RIGHT, RIGHT2, mask)
        c0, c1, c2 = _three(first + down2, RIGHT, RIGHT2, mask)
        total = tl.zeros((KC, CY * CX), tl.float32)
        for m in range(NY):
            u0, u1, u2 = _three_weights(lean_y, i * NY + m, exists)
            d0 = u0 * a0 + u1 * b0 + u2 * c0
            d1 = u0 * a1 + u1 * b1 + u2 * c1
            d2 = u0 * a2 + u1 * b2 + u2 * c2
            own_row = tl.load(own_y + i * NY + m, mask=exists, other=0.0)
            for n in range(NX):
                v0, v1, v2 = _three_weights(lean_x, j * NX + n, exists)
                own = own_row * tl.load(own_x + j * NX + n, mask=exists, other=0.0)
                inside = own != 0
                y, x = first_y + m, first_x + n
                label, counts, known = _read_labels(
                    labels, b * l_b + y * l_y + x * l_x, inside, ignore_index, K
                )
                scale, whole = _pixel_weights(
                    label, known, weight, weight_sum, keep, share, WEIGHTED, SMOOTH
                )
                lse = tl.load(lse_in + b * H * W + y * W + x, mask=inside, other=float("inf"))
                p = tl.exp2(v2 * d2 + (v1 * d1 + (v0 * d0 - lse[None, :])))
                g = _slopes(
                    p, k, K, label, counts, known, scale, whole, weight, share, 1.0,
                    WEIGHTED, SMOOTH,
                )  # fmt: skip
                total += own[None, :] * g
        total = total * tl.load(factor)
        out = gradient + b * K * h * w + k[:, None] * (h * w) + (i * w + j)[None, :]
        tl.store(out, total.to(gradient.dtype.element_ty), mask=mask)
