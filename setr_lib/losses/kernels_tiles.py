"""Kernels for large steps: products of matrices on tensor cores; see `kernels.py`.

Tensor cores read no float32. Each operand is cut into two parts that they do read, high and low,
and the products of the parts are added up in float32: high*high + high*low + low*high. A part that
is known to be zero is left out, the low one of logits in half precision for example.
"""

# KC of K classes at once; h w rows and columns of cells, H W of pixels;
# P = PY*PX pixels of a tile, T cells of its patch, TY*TX filled up to a power of two

import triton
import triton.language as tl

from .kernels import LOG2E, add_classes, end_pixels, pixel_weights, read_labels, slopes

# Float16 holds the parts of G and of the weights well if both are enlarged first.
G_ONE, W_ONE = tl.constexpr(2.0**15), tl.constexpr(2.0**10)
SHRINK = 2.0**-25  # undoes both


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
def _enlarged(cells, w, EXACT: tl.constexpr, HALF: tl.constexpr):
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
        label, counts, known = read_labels(labels, where, inside, ignore_index, K)
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
            s = _enlarged(cells, w, EXACT, HALF)
            if SMOOTH:  # rows past the last class are zero
                each = tl.load(weight + k0 + k, mask=k < K - k0, other=0.0)
                even += tl.sum(s * each[:, None], 0)
            most, total = add_classes(s, k < K - k0, most, total)
            cells = later
        truth = label.to(tl.int64)[None, :] * s_k + cell[:, None]
        again = _tile_weights(by, bx, tile_y, tile_x, PY, PX, TY, TX, T)  # held, it takes registers
        truth = tl.load(image + truth, mask=known[None, :] & (again != 0), other=0.0)
        picked = tl.sum(truth.to(tl.float32) * again, 0)
        loss, scale, lse = end_pixels(
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
        label, counts, known = read_labels(labels, where, inside, ignore_index, K)
        scale, whole = pixel_weights(
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
            s = _enlarged(cells, w, EXACT, HALF)
            g = tl.exp2(s * LOG2E + shift[None, :])  # rows past the last class are not stored
            g = slopes(
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
