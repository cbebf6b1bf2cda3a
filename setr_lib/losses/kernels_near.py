"""Kernels for small steps: a program owns cells; see `kernels.py`."""

# KC of K classes at once; h w rows and columns of cells, H W of pixels

import triton
import triton.language as tl

from .kernels import LOG2E, add_classes, end_pixels, pixel_weights, read_labels, slopes


@triton.jit
def _four(first, right, down, w00, w01, w10, w11, mask):
    """The logits of pixels between four cells each, from where the first of the four lies."""
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
    label, counts, known = read_labels(labels, b * l_b + y * l_y + x * l_x, inside, ignore_index, K)
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
        most, total = add_classes(s, k < K, most, total)
    picked = _four(image + label * s_k, right, down, w00, w01, w10, w11, known)
    loss, scale, lse = end_pixels(
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
    """The logits of three cells beside each other, to the base 2, from where the first lies."""
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
                label, counts, known = read_labels(
                    labels, b * l_b + y * l_y + x * l_x, inside, ignore_index, K
                )
                scale, whole = pixel_weights(
                    label, known, weight, weight_sum, keep, share, WEIGHTED, SMOOTH
                )
                lse = tl.load(lse_in + b * H * W + y * W + x, mask=inside, other=float("inf"))
                p = tl.exp2(v2 * d2 + (v1 * d1 + (v0 * d0 - lse[None, :])))
                g = slopes(
                    p, k, K, label, counts, known, scale, whole, weight, share, 1.0,
                    WEIGHTED, SMOOTH,
                )  # fmt: skip
                total += own[None, :] * g
        total = total * tl.load(factor)
        out = gradient + b * K * h * w + k[:, None] * (h * w) + (i * w + j)[None, :]
        tl.store(out, total.to(gradient.dtype.element_ty), mask=mask)
