"""The product of a weight map and its filter, a band of rows at a time, where a compiler makes the loop cheap."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_robust import backend
from keras_robust.checks import Tensor
from keras_robust.layers.box_filter import BoxFilter, pad, window_sums

LARGE = 64 * 2**20
"""Bytes of the images above which bands are worth their time: some 10 to 20 % of a training step."""
BANDS = 4
"""Bands of rows; each needs its part of images and products in the order of a matrix product."""


def banded_product(x: Tensor, kernel: Tensor, filter_: BoxFilter, lengths: tuple[int, int]) -> Tensor:
    """Multiplies each pixel by its own matrix and filters the result, with a gradient that keeps images only.

    Compilers copy whole tensors to bring the pixels of a batched matrix product to the front, and its result back:
    a lone layer then needs twice the bytes of its inputs and outputs. Here they copy a band: it needs 1.35 times
    as many. Between weight maps a compiler keeps the order of one for the next, and bands save nothing.

    Args:
        x: Shape `(batch, height, width, channels)`.
        kernel: Shape `(height, width, channels, filters)`.
        filter_: Filter with a step of 1 along the axes 1 and 2.
        lengths: Rows and columns of the filtered map.

    Returns:
        Shape `(batch, *lengths, filters)`.
    """

    @backend.custom_gradient
    def run(images, maps):
        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            return _by_images(upstream, maps, filter_), _by_maps(upstream, images, filter_)

        return _forward(images, maps, filter_, lengths), gradient

    return run(x, kernel)


def fits(shape: Sequence[int | None], rows: int, filter_: BoxFilter, *, large: int = LARGE) -> bool:
    """Tells whether images of that shape, filtered to that many rows, gain by bands.

    Images must be large, their number known, and the bands overlap by little.
    """
    batch, height, width, channels = shape
    if batch is None or height is None or 4 * batch * height * width * channels < large:  # type: ignore[operator]
        return False
    pads = filter_.before, _after(filter_.before, rows, height, filter_.size)
    inside = min(pads) >= 0 and max(pads) < filter_.size
    return filter_.strides == 1 and inside and 2 * (filter_.size - 1) < _band(min(height, rows))


def _forward(x: Tensor, kernel: Tensor, filter_: BoxFilter, lengths: tuple[int, int]) -> Tensor:
    (rows, columns), band = lengths, _band(lengths[0])

    def step(index, outputs):
        start = ops.minimum(index * band, rows - band)

        def products(first, count):
            return ops.einsum("bhwi,hwio->bhwo", _rows(x, 1, first, count), _rows(kernel, 0, first, count))

        spans = (start, band, rows), columns
        part = _filtered(products, spans, (x.shape[1], x.shape[2]), filter_, filter_.before)
        return ops.slice_update(outputs, _start(1, start), part)

    return _loop(rows, band, step, ops.zeros((ops.shape(x)[0], rows, columns, kernel.shape[-1]), x.dtype))


def _by_images(upstream: Tensor, kernel: Tensor, filter_: BoxFilter) -> Tensor:
    height, width, channels, _ = kernel.shape
    band = _band(height)

    def step(index, outputs):
        start = ops.minimum(index * band, height - band)
        products = _by_products(upstream, (start, band, height), width, filter_)
        part = ops.einsum("bhwo,hwio->bhwi", products, _rows(kernel, 0, start, band))
        return ops.slice_update(outputs, _start(1, start), part)

    return _loop(height, band, step, ops.zeros((ops.shape(upstream)[0], height, width, channels), upstream.dtype))


def _by_maps(upstream: Tensor, x: Tensor, filter_: BoxFilter) -> Tensor:
    _, height, width, channels = x.shape
    band = _band(height)

    def step(index, outputs):
        start = ops.minimum(index * band, height - band)
        products = _by_products(upstream, (start, band, height), width, filter_)
        part = ops.einsum("bhwi,bhwo->hwio", _rows(x, 1, start, band), products)
        return ops.slice_update(outputs, _start(0, start), part)

    return _loop(height, band, step, ops.zeros((height, width, channels, upstream.shape[-1]), upstream.dtype))


def _by_products(upstream: Tensor, rows: tuple[Any, int, int], width: int, filter_: BoxFilter) -> Tensor:
    """Gradient by the products of a band: the same filter, with the zeros of the other side."""
    sizes = upstream.shape[1], upstream.shape[2]
    before = filter_.size - 1 - filter_.before
    return _filtered(lambda first, count: _rows(upstream, 1, first, count), (rows, width), sizes, filter_, before)


def _filtered(get: Any, spans: Any, sizes: tuple[int, int], filter_: BoxFilter, before: int) -> Tensor:
    """Filters the band of rows from `start` on of a map of `sizes`, of which `get` gives rows."""
    (start, band, rows), columns = spans
    height, width = sizes
    reach = band + filter_.size - 1
    first = ops.clip(start - before, 0, height - reach)
    part, after = get(first, reach), _after(before, rows, height, filter_.size)
    if before or after:
        # At a border the rows are not where the band wants them: move them, and put zeros beyond the border.
        part = _rows(pad(part, 1, before, after), 1, start - first, reach)
    total = window_sums(part, 1, filter_.size)
    total = pad(total, 2, before, _after(before, columns, width, filter_.size))
    total = window_sums(total, 2, filter_.size)
    total = total if filter_.box == 1.0 else filter_.box * total
    return total + filter_.middle * part[:, before : before + band] if filter_.middle else total


def _after(before: int, filtered: int, length: int, size: int) -> int:
    """Zeros after a map that is filtered to a given length."""
    return filtered + size - 1 - before - length


def _band(rows: int) -> int:
    return -(-rows // BANDS)


def _loop(rows: int, band: int, step: Any, outputs: Tensor) -> Tensor:
    return ops.fori_loop(0, -(-rows // band), step, outputs)


def _rows(x: Tensor, axis: int, start: Any, count: int) -> Tensor:
    shape = [ops.shape(x)[each] for each in range(len(x.shape))]
    shape[axis] = count
    return ops.slice(x, _start(axis, start), shape)


def _start(axis: int, start: Any) -> list[Any]:
    return [start if each == axis else 0 for each in range(4)]
