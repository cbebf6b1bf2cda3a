"""What the kernels of `fused.py` do, and what one pixel needs in all of them; in Triton.

Enlarging is linear, so the logits S of P neighbouring pixels are a product of the logits of the
few cells around them with a matrix of bilinear weights that is the same for every class and image:

    S (K,P) = cells (K,T) @ weights (T,P)           loss = log sum_k exp S - S[truth]
    G (K,P) = softmax S - [k is the truth]          gradient (K,T) = G @ weights.T

A program holds one such tile and walks through the classes, KC at a time: the running maximum and
sum of a softmax need nothing of the chunks before. Forward it leaves one number a pixel, the
logarithm of that sum (to the base 2, as the hardware counts); backward it makes S again and from it
G. What remains is to add up gradients of cells that several tiles share. Adding to memory from
many programs at once would give other bits in every run, so there are two ways without it:

- `kernels_tiles.py`, for large steps (a cell spans more than two pixels): S and G @ weights.T are
  products on tensor cores. Every tile writes its share of the gradient to a buffer of its own, and
  a third kernel adds the shares that fall on a cell, always in the same order.
- `kernels_near.py`, for small steps, where 25 shares for 64 pixels would be moved. A program owns
  cells instead: all pixels that lean on one lie between its two neighbours, so 3x3 cells tell
  their logits. Each pixel is worked out four times, nothing is shared, and all is plain float32
  arithmetic.
"""

# KC of K classes at once; P pixels

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def read_labels(labels, where, inside, ignore_index, K):
    """The labels of pixels, which of them count, and which of those are classes."""
    label = tl.load(labels + where, mask=inside, other=0).to(tl.int32)
    counts = inside & (label != ignore_index)
    return label, counts, counts & (label >= 0) & (label < K)


@triton.jit
def add_classes(s, real, most, total):
    """The softmax's running maximum (P) and sums (KC,P), with the classes of one chunk more."""
    s = tl.where(real[:, None], s, float("-inf"))
    new = tl.maximum(most, tl.max(s, 0))
    new_log2 = new * LOG2E
    shrink = tl.exp2(most * LOG2E - new_log2)
    return new, total * shrink[None, :] + tl.exp2(s * LOG2E - new_log2[None, :])


@triton.jit
def end_pixels(
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
def pixel_weights(
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
def slopes(
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
