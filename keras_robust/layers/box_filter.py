"""The box filter of a weight map, with a gradient that is a box filter too."""

import dataclasses

from keras import ops

from keras_robust import backend
from keras_robust.checks import Tensor


@dataclasses.dataclass(frozen=True)
class BoxFilter:
    """Sums windows of a map along two axes, and adds a multiple of the map itself.

    Args:
        size: Side of the window.
        strides: Step of the window.
        before: Rows and columns of zeros before the map; as many as needed lie after it.
        box: Factor of the sum.
        middle: Factor of every `strides`-th pixel of the map.
        axes: The two axes of the image.
    """

    size: int
    strides: int = 1
    before: int = 0
    box: float = 1.0
    middle: float = 0.0
    axes: tuple[int, int] = (1, 2)

    def __call__(self, x: Tensor, lengths: tuple[int, int]) -> Tensor:
        """Returns the filtered map, `lengths` long along the axes, differentiable by the gradient below."""
        whole = tuple(x.shape[axis] for axis in self.axes)

        @backend.custom_gradient
        def run(tensor):
            def gradient(*args, upstream=None):
                return self.gradient(args[0] if upstream is None else upstream, whole)

            return self.apply(tensor, lengths), gradient

        return run(x)

    def apply(self, x: Tensor, lengths: tuple[int, int]) -> Tensor:
        """Returns the filtered map; `lengths` counts its rows and columns."""
        total = x
        for axis, length in zip(self.axes, lengths, strict=True):
            after = (length - 1) * self.strides + self.size - self.before - x.shape[axis]
            total = pad(total, axis, self.before, after)
        for axis in self.axes:  # after all zeros are there: a compiler makes one loop of the rest
            total = window_sums(total, axis, self.size)
        if self.strides > 1:
            total = self._every(total)
        total = total if self.box == 1.0 else self.box * total
        return total + self.middle * (x if self.strides == 1 else self._every(x)) if self.middle else total

    def gradient(self, upstream: Tensor, lengths: tuple[int, int]) -> Tensor:
        """Returns the gradient by the map, `lengths` long, from that by the filtered map."""
        for axis in self.axes if self.strides > 1 else ():
            upstream = _spread(upstream, axis, self.strides)
        total = upstream
        for axis, length in zip(self.axes, lengths, strict=True):
            before = self.size - 1 - self.before
            after = length + self.size - 1 - before - upstream.shape[axis]
            total = pad(total, axis, before, after)
        for axis in self.axes:
            total = window_sums(total, axis, self.size)
        total = total if self.box == 1.0 else self.box * total
        if self.middle:
            for axis, length in zip(self.axes, lengths, strict=True):
                upstream = pad(upstream, axis, 0, length - upstream.shape[axis])
            total = total + self.middle * upstream
        return total

    def _every(self, x: Tensor) -> Tensor:
        index = [slice(None)] * 4
        for axis in self.axes:
            index[axis] = slice(None, None, self.strides)
        return x[tuple(index)]


def window_sums(x: Tensor, axis: int, size: int) -> Tensor:
    """Sums each window of `size` neighbours along an axis, in about log2(size) additions."""
    if size == 1:
        return x
    length = x.shape[axis] - size + 1
    index = (slice(None),) * axis
    total, position, power, width = None, 0, x, 1
    while True:
        if size & width:
            piece = power[(*index, slice(position, position + length))]
            total = piece if total is None else total + piece
            position += width
        if 2 * width > size:
            return total
        # `power` holds the sums of `width` neighbours; two of them side by side make twice as wide a window.
        reach = power.shape[axis] - width
        power = power[(*index, slice(0, reach))] + power[(*index, slice(width, width + reach))]
        width *= 2


def pad(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Adds zeros along an axis; negative numbers cut instead."""
    if before < 0 or after < 0:
        x = x[(*(slice(None),) * axis, slice(max(0, -before), x.shape[axis] - max(0, -after)))]
    if max(before, after) <= 0:
        return x
    pads = [(0, 0)] * len(x.shape)
    pads[axis] = (max(0, before), max(0, after))
    return ops.pad(x, pads)


def _spread(x: Tensor, axis: int, step: int) -> Tensor:
    """Puts `step - 1` zeros between neighbours along an axis."""
    length = x.shape[axis]
    x = pad(ops.expand_dims(x, axis + 1), axis + 1, 0, step - 1)
    shape = [-1 if size is None else size for size in (*x.shape[:axis], length * step, *x.shape[axis + 2 :])]
    return pad(ops.reshape(x, shape), axis, 0, 1 - step)
