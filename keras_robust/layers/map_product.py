"""The filtered product of images and a weight map, of a large batch one part after the other."""

import math
from collections.abc import Sequence

import keras
from keras import ops

from keras_robust import backend
from keras_robust.checks import Tensor
from keras_robust.layers.box_filter import BoxFilter

PART = 2**20
"""Bytes of the images of a part on a CPU: what its caches hold."""
ACCELERATOR_PART = 64 * 2**20
"""Bytes of the images of a part on an accelerator, which small parts would keep idle."""
LEAST_IMAGES = 16
"""Images of a part at the least: fewer would cost more in reading the weights again than they save."""


def filtered_product(x: Tensor, kernel: Tensor, filter_: BoxFilter, lengths: tuple[int, int]) -> Tensor:
    """Multiplies each pixel by its own matrix and filters the result.

    Compilers copy the images to bring their pixels to the front, as a batched matrix product wants them, and copy
    the product back. In parts these copies are small: a large batch needs little more memory than its images and
    outputs, and keeps its images alone for the gradient.

    Args:
        x: Shape `(batch, height, width, channels)`, or `(batch, channels, height, width)` if those are the axes
            of `filter_`.
        kernel: Shape `(height, width, channels, filters)`.
        filter_: The filter.
        lengths: Rows and columns of the filtered map.

    Returns:
        Shape `(batch, *lengths, filters)`, or with the filters first.
    """
    parts = part_count(x.shape) if backend.COMPILES else 1
    inputs, outputs = ("bihw", "bohw") if filter_.axes == (2, 3) else ("bhwi", "bhwo")
    if parts == 1:
        return filter_(ops.einsum(f"{inputs},hwio->{outputs}", x, kernel), lengths)
    images = x.shape[0] // parts

    def part(tensor, index):
        return ops.slice(tensor, _start(index * images), (images, *tensor.shape[1:]))

    def put(tensor, index, update):
        return ops.slice_update(tensor, _start(index * images), update)

    @backend.custom_gradient
    def run(whole, maps):
        size = tuple(whole.shape[axis] for axis in filter_.axes)
        shape = (whole.shape[0], maps.shape[-1], *lengths)
        shape = shape if outputs == "bohw" else (shape[0], *lengths, shape[1])

        def forward(index, filtered):
            product = ops.einsum(f"{inputs},hwio->{outputs}", part(whole, index), maps)
            return put(filtered, index, filter_.apply(product, lengths))

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream

            def backward(index, gradients):
                by_whole, by_maps = gradients
                by_product = filter_.gradient(part(upstream, index), size)
                by_part = ops.einsum(f"{outputs},hwio->{inputs}", by_product, maps)
                summand = ops.einsum(f"{inputs},{outputs}->hwio", part(whole, index), by_product)
                return put(by_whole, index, by_part), by_maps + ops.cast(summand, by_maps.dtype)

            half = keras.backend.standardize_dtype(maps.dtype) in ("float16", "bfloat16")
            exact = "float32" if half else maps.dtype  # a long sum in half precision stops growing
            zeros = ops.zeros(whole.shape, whole.dtype), ops.zeros(maps.shape, exact)
            by_whole, by_maps = ops.fori_loop(0, parts, backward, zeros)
            return by_whole, ops.cast(by_maps, maps.dtype)

        return ops.fori_loop(0, parts, forward, ops.zeros(shape, whole.dtype)), gradient

    return run(x, kernel)


def part_count(shape: Sequence[int | None]) -> int:
    """Returns into how many equal parts a batch falls; 1 if it is small, of unknown size, or nearly prime."""
    batch, *rest = shape
    if batch is None:
        return 1
    limit = PART if backend.device_name() == "cpu" else ACCELERATOR_PART
    wanted = min(-(-4 * batch * math.prod(rest) // limit), batch // LEAST_IMAGES)  # type: ignore[arg-type]
    return next((parts for parts in range(wanted, 1, -1) if batch % parts == 0), 1)


def _start(index: Tensor) -> tuple[Tensor, int, int, int]:
    return index, 0, 0, 0
