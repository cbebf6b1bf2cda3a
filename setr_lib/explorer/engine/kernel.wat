;; What takes the time of the network, four numbers at a time (WebAssembly SIMD). machine.js calls
;; it, and does the same in plain JavaScript where SIMD is missing. Addresses are in bytes.
;;
;; `python -m tools.kernel` turns this text into the bytes of kernel.js.
(module
  (memory (import "env" "memory") 1)

  ;; C (M,N) = A (M,K) B (K,N). M a multiple of 4, N of 8. B lies in panels of four columns:
  ;; [N / 4][K][4]. Each turn of the inner loop adds to 4 rows and 8 columns of C.
  (func (export "product")
    (param $M i32) (param $N i32) (param $K i32) (param $A i32) (param $B i32) (param $C i32)
    (local $i i32) (local $j i32) (local $left i32) (local $row i32) (local $to i32)
    (local $wide i32) (local $deep i32)
    (local $a0 i32) (local $a1 i32) (local $a2 i32) (local $a3 i32) (local $b0 i32) (local $b1 i32)
    (local $x v128) (local $y v128) (local $s v128)
    (local $c00 v128) (local $c01 v128) (local $c10 v128) (local $c11 v128)
    (local $c20 v128) (local $c21 v128) (local $c30 v128) (local $c31 v128)
    (local.set $deep (i32.mul (local.get $K) (i32.const 4)))
    (local.set $wide (i32.mul (local.get $N) (i32.const 4)))
    (loop $rows
      (local.set $row (i32.add (local.get $A) (i32.mul (local.get $i) (local.get $deep))))
      (local.set $b0 (local.get $B))
      (local.set $j (i32.const 0))
      (loop $columns
        (local.set $a0 (local.get $row))
        (local.set $a1 (i32.add (local.get $a0) (local.get $deep)))
        (local.set $a2 (i32.add (local.get $a1) (local.get $deep)))
        (local.set $a3 (i32.add (local.get $a2) (local.get $deep)))
        (local.set $b1 (i32.add (local.get $b0) (i32.mul (local.get $deep) (i32.const 4))))
        (local.set $c00 (v128.const f32x4 0 0 0 0))
        (local.set $c01 (v128.const f32x4 0 0 0 0))
        (local.set $c10 (v128.const f32x4 0 0 0 0))
        (local.set $c11 (v128.const f32x4 0 0 0 0))
        (local.set $c20 (v128.const f32x4 0 0 0 0))
        (local.set $c21 (v128.const f32x4 0 0 0 0))
        (local.set $c30 (v128.const f32x4 0 0 0 0))
        (local.set $c31 (v128.const f32x4 0 0 0 0))
        (local.set $left (local.get $K))
        (loop $inner
          (local.set $x (v128.load (local.get $b0)))
          (local.set $y (v128.load (local.get $b1)))
          (local.set $s (v128.load32_splat (local.get $a0)))
          (local.set $c00 (f32x4.add (local.get $c00) (f32x4.mul (local.get $s) (local.get $x))))
          (local.set $c01 (f32x4.add (local.get $c01) (f32x4.mul (local.get $s) (local.get $y))))
          (local.set $a0 (i32.add (local.get $a0) (i32.const 4)))
          (local.set $s (v128.load32_splat (local.get $a1)))
          (local.set $c10 (f32x4.add (local.get $c10) (f32x4.mul (local.get $s) (local.get $x))))
          (local.set $c11 (f32x4.add (local.get $c11) (f32x4.mul (local.get $s) (local.get $y))))
          (local.set $a1 (i32.add (local.get $a1) (i32.const 4)))
          (local.set $s (v128.load32_splat (local.get $a2)))
          (local.set $c20 (f32x4.add (local.get $c20) (f32x4.mul (local.get $s) (local.get $x))))
          (local.set $c21 (f32x4.add (local.get $c21) (f32x4.mul (local.get $s) (local.get $y))))
          (local.set $a2 (i32.add (local.get $a2) (i32.const 4)))
          (local.set $s (v128.load32_splat (local.get $a3)))
          (local.set $c30 (f32x4.add (local.get $c30) (f32x4.mul (local.get $s) (local.get $x))))
          (local.set $c31 (f32x4.add (local.get $c31) (f32x4.mul (local.get $s) (local.get $y))))
          (local.set $a3 (i32.add (local.get $a3) (i32.const 4)))
          (local.set $b0 (i32.add (local.get $b0) (i32.const 16)))
          (local.set $b1 (i32.add (local.get $b1) (i32.const 16)))
          (br_if $inner (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
        (local.set $to (i32.add (local.get $C) (i32.add
          (i32.mul (local.get $i) (local.get $wide)) (i32.mul (local.get $j) (i32.const 4)))))
        (v128.store (local.get $to) (local.get $c00))
        (v128.store offset=16 (local.get $to) (local.get $c01))
        (local.set $to (i32.add (local.get $to) (local.get $wide)))
        (v128.store (local.get $to) (local.get $c10))
        (v128.store offset=16 (local.get $to) (local.get $c11))
        (local.set $to (i32.add (local.get $to) (local.get $wide)))
        (v128.store (local.get $to) (local.get $c20))
        (v128.store offset=16 (local.get $to) (local.get $c21))
        (local.set $to (i32.add (local.get $to) (local.get $wide)))
        (v128.store (local.get $to) (local.get $c30))
        (v128.store offset=16 (local.get $to) (local.get $c31))
        (local.set $b0 (local.get $b1)) ;; the next two panels
        (local.set $j (i32.add (local.get $j) (i32.const 8)))
        (br_if $columns (i32.lt_s (local.get $j) (local.get $N))))
      (local.set $i (i32.add (local.get $i) (i32.const 4)))
      (br_if $rows (i32.lt_s (local.get $i) (local.get $M)))))

  ;; e ** x for x <= 0, 0 below -87: 2 ** n times a polynomial in the rest (Cephes' expf).
  (func $exp (param $x v128) (result v128)
    (local $n v128) (local $r v128) (local $p v128)
    (local.set $n (f32x4.nearest (f32x4.mul (local.get $x) (f32x4.splat (f32.const 1.44269504)))))
    (local.set $r (f32x4.sub
      (f32x4.sub (local.get $x)
        (f32x4.mul (local.get $n) (f32x4.splat (f32.const 0.693359375))))
      (f32x4.mul (local.get $n) (f32x4.splat (f32.const -2.12194440e-4)))))
    (local.set $p (f32x4.splat (f32.const 1.9875691500e-4)))
    (local.set $p (f32x4.add (f32x4.mul (local.get $p) (local.get $r))
      (f32x4.splat (f32.const 1.3981999507e-3))))
    (local.set $p (f32x4.add (f32x4.mul (local.get $p) (local.get $r))
      (f32x4.splat (f32.const 8.3334519073e-3))))
    (local.set $p (f32x4.add (f32x4.mul (local.get $p) (local.get $r))
      (f32x4.splat (f32.const 4.1665795894e-2))))
    (local.set $p (f32x4.add (f32x4.mul (local.get $p) (local.get $r))
      (f32x4.splat (f32.const 1.6666665459e-1))))
    (local.set $p (f32x4.add (f32x4.mul (local.get $p) (local.get $r))
      (f32x4.splat (f32.const 5.0000001201e-1))))
    (local.set $p (f32x4.add (f32x4.add (f32x4.mul (local.get $p)
      (f32x4.mul (local.get $r) (local.get $r))) (local.get $r)) (f32x4.splat (f32.const 1))))
    (v128.and
      (f32x4.gt (local.get $x) (f32x4.splat (f32.const -87)))
      (f32x4.mul (local.get $p)
        (i32x4.shl
          (i32x4.add (i32x4.trunc_sat_f32x4_s (local.get $n)) (i32x4.splat (i32.const 127)))
          (i32.const 23)))))

  ;; In place, the softmax of every row of X (M,N) + bias (N); N a multiple of 4. stats (M,2)
  ;; receives each row's largest number and the sum of the powers after it was taken off.
  (func (export "softmax")
    (param $M i32) (param $N i32) (param $X i32) (param $bias i32) (param $stats i32)
    (local $end i32) (local $at i32) (local $b i32) (local $v v128) (local $most v128)
    (local $total v128) (local $top f32) (local $sum f32)
    (loop $rows
      (local.set $end (i32.add (local.get $X) (i32.mul (local.get $N) (i32.const 4))))
      (local.set $most (f32x4.splat (f32.const -inf)))
      (local.set $at (local.get $X))
      (local.set $b (local.get $bias))
      (loop $largest
        (local.set $v (f32x4.add (v128.load (local.get $at)) (v128.load (local.get $b))))
        (v128.store (local.get $at) (local.get $v))
        (local.set $most (f32x4.pmax (local.get $most) (local.get $v)))
        (local.set $b (i32.add (local.get $b) (i32.const 16)))
        (local.set $at (i32.add (local.get $at) (i32.const 16)))
        (br_if $largest (i32.lt_u (local.get $at) (local.get $end))))
      (local.set $top (f32.max
        (f32.max
          (f32x4.extract_lane 0 (local.get $most)) (f32x4.extract_lane 1 (local.get $most)))
        (f32.max
          (f32x4.extract_lane 2 (local.get $most)) (f32x4.extract_lane 3 (local.get $most)))))
      (local.set $most (f32x4.splat (local.get $top)))
      (local.set $total (v128.const f32x4 0 0 0 0))
      (local.set $at (local.get $X))
      (loop $powers
        (local.set $v (call $exp (f32x4.sub (v128.load (local.get $at)) (local.get $most))))
        (v128.store (local.get $at) (local.get $v))
        (local.set $total (f32x4.add (local.get $total) (local.get $v)))
        (local.set $at (i32.add (local.get $at) (i32.const 16)))
        (br_if $powers (i32.lt_u (local.get $at) (local.get $end))))
      (local.set $sum (f32.add
        (f32.add
          (f32x4.extract_lane 0 (local.get $total)) (f32x4.extract_lane 1 (local.get $total)))
        (f32.add
          (f32x4.extract_lane 2 (local.get $total)) (f32x4.extract_lane 3 (local.get $total)))))
      (local.set $total (f32x4.splat (f32.div (f32.const 1) (local.get $sum))))
      (local.set $at (local.get $X))
      (loop $shares
        (v128.store (local.get $at) (f32x4.mul (v128.load (local.get $at)) (local.get $total)))
        (local.set $at (i32.add (local.get $at) (i32.const 16)))
        (br_if $shares (i32.lt_u (local.get $at) (local.get $end))))
      (f32.store (local.get $stats) (local.get $top))
      (f32.store offset=4 (local.get $stats) (local.get $sum))
      (local.set $stats (i32.add (local.get $stats) (i32.const 8)))
      (local.set $X (local.get $end))
      (br_if $rows (local.tee $M (i32.sub (local.get $M) (i32.const 1))))))

  ;; In place, the exact GELU of count numbers, a multiple of 4: x times the share of a normal
  ;; distribution below x; erf by Abramowitz and Stegun 7.1.26, within 1.5e-7.
  (func (export "gelu") (param $count i32) (param $X i32)
    (local $end i32) (local $x v128) (local $z v128) (local $t v128) (local $p v128)
    (local.set $end (i32.add (local.get $X) (i32.mul (local.get $count) (i32.const 4))))
    (loop $numbers
      (local.set $x (v128.load (local.get $X)))
      (local.set $z (f32x4.mul (f32x4.abs (local.get $x)) (f32x4.splat (f32.const 0.70710678))))
      (local.set $t (f32x4.div (f32x4.splat (f32.const 1)) (f32x4.add (f32x4.splat (f32.const 1))
        (f32x4.mul (f32x4.splat (f32.const 0.3275911)) (local.get $z)))))
      (local.set $p (f32x4.splat (f32.const 1.061405429)))
      (local.set $p (f32x4.add (f32x4.mul (local.get $p) (local.get $t))
        (f32x4.splat (f32.const -1.453152027))))
      (local.set $p (f32x4.add (f32x4.mul (local.get $p) (local.get $t))
        (f32x4.splat (f32.const 1.421413741))))
      (local.set $p (f32x4.add (f32x4.mul (local.get $p) (local.get $t))
        (f32x4.splat (f32.const -0.284496736))))
      (local.set $p (f32x4.add (f32x4.mul (local.get $p) (local.get $t))
        (f32x4.splat (f32.const 0.254829592))))
      (local.set $p (f32x4.mul (f32x4.mul (local.get $p) (local.get $t))
        (call $exp (f32x4.neg (f32x4.mul (local.get $z) (local.get $z))))))
      (v128.store (local.get $X)
        (f32x4.mul (f32x4.mul (f32x4.splat (f32.const 0.5)) (local.get $x))
          (v128.bitselect
            (local.get $p) (f32x4.sub (f32x4.splat (f32.const 2)) (local.get $p))
            (f32x4.lt (local.get $x) (v128.const f32x4 0 0 0 0)))))
      (br_if $numbers (i32.lt_u
        (local.tee $X (i32.add (local.get $X) (i32.const 16))) (local.get $end))))))
