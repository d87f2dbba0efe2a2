"""What rules say of the axes, so that nothing is fixed that could move.

Letters are atoms in order of use, `3!` is an axis of three fixed units, `a & b` alternates, and `of
a` says that the numbers of an index tensor name units of `a`. Every size that a case leaves open is
three.
"""

from __future__ import annotations

import pytest

from tests.tracer.operators import computing, creating, indexing, shapes, spatial
from tests.tracer.operators.probe import Sizes, described, probe

CASES = {
    "pointwise": computing.POINTWISE,
    **shapes.CASES,
    **computing.CASES,
    **creating.CASES,
    **spatial.CASES,
    **indexing.CASES,
}
EXPECTED = """
pointwise-1: [a, b, c] [b, c] -> [a, b, c]
pointwise-2: [a, 1, b] [c, 1] -> [a, c, b]
pointwise-5: [3!, 3!] -> [3!, 3!]
pointwise-6: [a, b] -> [a, b]
mm-0: [a, b] [b, c] -> [a, c]
bmm-0: [a, b, c] [a, c, d] -> [a, b, d]
addmm-0: [a] [b, c] [c, a] -> [b, a]
baddbmm-1: [1, a] [b, c, d] [b, d, a] -> [b, c, a]
linear-0: [a, b, c] [d, c] [d] -> [a, b, d]
_trilinear-0: [a, b] [c, b, d] [a, d] -> [a, c]
addr-1: [1, a] [b] [a] -> [b, a]
sum-1: [a, b, c] -> [1, b, 1]
native_layer_norm-0: [a, b, c] [b, c] [b, c] -> [a, b, c] [a, 1, 1] [a, 1, 1]
native_batch_norm-0: [a, b, c] [b] [b] [b] [b] -> [a, b, c] [b] [b]
native_group_norm-0: [a, b*c, d] [b*c] [b*c] -> [a, b*c, d] [a, b] [a, b]
_weight_norm_interface-0: [a, b, c] [a, 1, 1] -> [a, b, c] [a, 1, 1]
_softmax-0: [a, b, c] -> [a, b, c]
cumsum-0: [3!, a, b] -> [3!, a, b]
convolution-0: [a, b, 5!] [c, b, 3!] [c] -> [a, c, 5!]
convolution-2: [a, b, c, d] [e, b, 1, 1] [e] -> [a, e, c, d]
convolution-4: [a, b*c, 5!] [b*d, c, 3!] [b*d] -> [a, b*d, 5!]
convolution-5: [a, b, 5!] [b, 1, 3!] [b] -> [a, b, 5!]
convolution-6: [a, b, 5!] [b*c, 1, 3!] -> [a, b*c, 5!]
convolution-7: [a, b, 4!, 5!] [b, c, 3!, 3!] [c] -> [a, c, 4!, 5!]
convolution-8: [a, b*c, 5!] [b*c, d, 3!] [b*d] -> [a, b*d, 5!]
max_unpool2d-0: [a, b, 4!, 6!] -> [a, b, 4!, 6!]
upsample_bilinear2d-0: [a, b, 4!, 5!] -> [a, b, 6!, 7!]
avg_pool2d-1: [a, b, 4!, c] -> [a, b, 2!, c]
avg_pool2d-2: [a, b, c, d] -> [a, b, c, d]
avg_pool2d-5: [a, b, c, 3!] -> [a, b, c, 1]
max_pool2d_with_indices-1: [a, b, 4!, 3!] -> [a, b, 2!, 3!] [a, b, 2!, 3!]
_fft_c2c-1: [3!, a, 3!] -> [3!, a, 3!]
_fft_r2c-0: [a, 4!, b] -> [a, 3!, b]
grid_sampler_2d-0: [a, b, 4!, 5!] [a, c, d, 2!] -> [a, b, c, d]
im2col-0: [a, b, 4!, 5!] -> [a, b*4!, 12!]
pixel_shuffle-1: [a*b*c, d, e] -> [a, d*b, e*c]
pixel_unshuffle-0: [a, b, c*d, e*f] -> [a, b*d*f, c, e]
channel_shuffle-0: [a, b*c, d] -> [a, c*b, d]
view-0: [a, b, c] -> [a, b*c]
view-1: [a, b*c] -> [a, b, c]
view-4: [3!, 4!] -> [2!, 6!]
view-5: [a*b + a*b + c*d, e | e | e] -> [a, b, e] [c, d, e]
view-6: [a*(b + c + d), e] -> [a, b, e] [a, c, e] [a, d, e]
view-7: [a, b] [c, b] -> [a & c, b]
view-8: [a + b, c | c] [1 + d, c | c] -> [a & 1, c] [d & b, c]
view-9: [a + 1, b | b] [1 + c, b | b] [d, b] -> [c & 1, b] [(a & 1) & d, b]
view-10: [a, b] [c, b] -> [a, b] [c, b]
view-12: [4!, a] [4!, a] -> [4! + 4!, a]
view-14: [a & b, c] [d & e, c] [a, c] [d, c] [b, c] [e, c] -> [(a & b) & (d & e), c]
expand-0: [a, 1] -> [b, a, c]
repeat-0: [a, b] -> [c, a, d*b]
select-2: [a + 1 + b, c | d | e] -> [d]
slice-0: [1 + a + 1, b | c | d] -> [a, c]
slice-6: [a*(1 + b), c] -> [a, c]
slice-7: [a*(1 + 1 + 1), b] -> [a, b]
split_with_sizes-0: [1 + a + b, c | d | e] -> [1, c] [a, d] [b, e]
unbind-0: [1 + 1 + 1, a | b | c] -> [a] [b] [c]
cat-0: [a, b] [c, b] -> [a + c, b]
cat-2: [1, a] [1, b] -> [1 + 1, a | b]
cat-3: [1, a] [b, a] -> [1 + b, a]
stack-2: [a, b] [c, b] -> [c, b] [a, b]
constant_pad_nd-0: [a, b] -> [a, 1 + b + 2!]
roll-0: [3!, a] -> [3!, a]
glu-0: [a | a, b + b] -> [a, b]
as_strided-2: [a, b] -> [b, a]
as_strided-3: [a, 6!, b] -> [a, 2!, 4!, b]
as_strided-4: [6!, a, b] -> [a, 2!, 4!, b]
as_strided-10: [a, b, c] -> [a, b, c]
unfold-0: [a, 5!, b] -> [a, 3!, b, 3!]
zeros-1: [a, b] -> [a + c, b] [b, a + c]
_embedding_bag-0: [3!, a] -> [2!, a] [4!] [2!] [2!]
_embedding_bag-2: [3!, a] -> [2!, a] [4!] [2!] [2!, a]
embedding-0: [3!, a] -> [3!, 3!, a]
embedding-2: [a, b] [c, a] -> [c, 2!, b]
index-0: [a, 3!, b] -> [a, 3!, 3!, b]
index-3: [1 + a + 1, b | c | d] -> [a, c]
index-5: [a, 3!, b] -> [a, 2!, b]
index-11: [a, b, c] [d, b] -> [a, d, 2!, c]
index-12: [a, b] -> [a*2!] of b
index-13: [a, b] -> [2! + 2!, a] of b
index-20: [a, b] -> [a, 1 + 1, 2!] of b
index-14: [a, 3!] -> [a, 2!]
gather-3: [a, b] [a, b] -> [a, 2!]
scatter-3: [a, b] [a, b] -> [a, b]
index_put-0: [3!, a] [2!, a] -> [3!, a]
slice_scatter-0: [1 + a + 1, b | c | d] [a, c] -> [1 + a + 1, b | c | d]
topk-1: [a, b, c] -> [a, b, 2!] [a, b, 2!] of c
argmax-1: [a, b, c] -> [a, b] of c
argmax-2: [3!, 3!] -> []
max-0: [a, b, c] -> [b, c] [b, c] of a
nonzero-0: [3!, 3!] -> [5!, 2!]
"""


@pytest.mark.parametrize("line", EXPECTED.split("\n")[1:-1], ids=lambda line: line.split(":")[0])
def test_nothing_is_fixed_that_could_move(line: str) -> None:
    label, _, expected = line.partition(": ")
    name, _, number = label.rpartition("-")
    case = CASES[name][int(number)](Sizes(1, equal=True))
    assert described(probe(case)) == expected


def test_three_is_the_size_that_a_case_leaves_open() -> None:
    assert Sizes(1, equal=True)["abc"] == 27
