"""Standard normal numbers as a pure function of a key, cheap inside a function that XLA compiles.

XLA on a CPU needs seconds for three million numbers of TensorFlow's own stateless generator, and tens of
milliseconds for JAX's: as long as a small network's pass. This fuses into one kernel of a few milliseconds.
"""

import math

from keras import ops

from keras_robust.checks import Tensor

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_ROUNDS = 13  # the fewest that pass BigCrush (Salmon et al., 2011, table 2)
_PARITY = 0x1BD11BDA
# Coefficients of sine and cosine, Taylor; on [-pi/4, pi/4] the remainder is below float32's rounding.
_SINE = (1 / 362880, -1 / 5040, 1 / 120, -1 / 6, 1.0)
_COSINE = (1 / 40320, -1 / 720, 1 / 24, -1 / 2, 1.0)


def normal(shape: tuple[int, ...], key: Tensor) -> Tensor:
    """Draws standard normal numbers: Threefry-2x32 bits, Box-Muller transform.

    Args:
        shape: Shape of the result, integers.
        key: Two 32-bit words, shape `(2,)`, type uint32 or int32; other keys give independent numbers.

    Returns:
        Tensor of the given shape, float32; the same for the same key, whatever the framework, up to rounding.

    Reference:
        Salmon et al., 2011, https://doi.org/10.1145/2063384.2063405
    """
    count = math.prod(shape)
    half = -(-count // 2)
    key = ops.cast(key, "uint32")
    # Both members of a pair start from the same words, computed twice: joining two halves would not vectorise.
    counter = ops.broadcast_to(ops.cast(ops.arange(half, dtype="int32"), "uint32"), (2, half))
    member = ops.broadcast_to(ops.cast(ops.arange(2, dtype="int32"), "uint32")[:, None], (2, half))
    first, second = _threefry(key[0], key[1], counter)
    # (0, 1]: 24 bits, so the logarithm is finite and no number exceeds 5.9.
    radius = ops.sqrt(-2.0 * ops.log((_to_float(_right(first, 8)) + 0.5) * 2.0**-24))
    # The direction: 22 bits of an angle within [-pi/4, pi/4], one that swaps the axes, one that mirrors both.
    angle = ((_to_float(_right(second, 10)) + 0.5) * 2.0**-22 - 0.5) * (math.pi / 2)
    square = angle * angle
    sine, cosine = angle * _polynomial(_SINE, square), _polynomial(_COSINE, square)
    swap = ops.equal(ops.bitwise_and(ops.bitwise_xor(second, member), _word(1)), _word(1))
    sign = 1.0 - _to_float(ops.bitwise_and(second, _word(2)))
    values = sign * radius * ops.where(swap, sine, cosine)
    return ops.reshape(ops.reshape(values, (2 * half,))[:count], shape)


def _threefry(k0: Tensor, k1: Tensor, counter: Tensor) -> tuple[Tensor, Tensor]:
    keys = (k0, k1, ops.bitwise_xor(ops.bitwise_xor(k0, k1), _word(_PARITY)))
    x0, x1 = counter + keys[0], ops.zeros_like(counter) + keys[1]
    for turn in range(_ROUNDS):
        x0 = x0 + x1
        bits = _ROTATIONS[turn % 8]
        x1 = ops.bitwise_xor(ops.bitwise_or(ops.left_shift(x1, _word(bits)), _right(x1, 32 - bits)), x0)
        if turn % 4 == 3:
            times = turn // 4 + 1
            x0, x1 = x0 + keys[times % 3], x1 + keys[(times + 1) % 3] + _word(times)
    return x0, x1


def _word(value: int) -> Tensor:
    return ops.convert_to_tensor(value, dtype="uint32")


def _right(words: Tensor, bits: int) -> Tensor:
    return ops.right_shift(words, _word(bits))


def _to_float(words: Tensor) -> Tensor:
    return ops.cast(ops.cast(words, "int32"), "float32")  # vectorised, unlike the cast from uint32


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    value = coefficients[0]
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value
