"""Weight maps: a weight for each pixel and pair of channels, followed by a box filter."""

import keras
from keras import ops

from keras_robust.checks import check_choice, check_positive_integer
from keras_robust.layers.box_filter import BoxFilter
from keras_robust.layers.map_product import filtered_product

MODES = ("smoothing", "unsharp")


@keras.saving.register_keras_serializable(package="keras_robust")
class WeightMap(keras.layers.Layer):
    """Multiplies each pixel by its own weights, then smooths or sharpens the result with a box filter.

    For each pair of channels a map of weights of the input's size multiplies the input; the products are summed
    over input channels and filtered with a box of ones (`smoothing`), or twice the products minus that
    (`unsharp`). The bias has a weight for each output pixel. The layer belongs to one image size.

    The sum over input channels comes first, which gives the same output since the filter is linear.

    Args:
        filters: Output channels.
        kernel_size: Side of the box filter, in pixels.
        strides: Step of the box filter; `unsharp` keeps every `strides`-th pixel of its full-size output.
        mode: `"smoothing"` or `"unsharp"`.
        padding: `"valid"`, `"same"`, or the number of zero pixels around the map before the filter. None is
            `"valid"` for smoothing and `"same"` for unsharp, which needs a filtered map of the input's size.
        use_bias: Whether to add the bias.
        normalize: Whether the box filter averages (gain 1). Differs from the paper: its box is of ones.
        data_format: `"channels_last"` or `"channels_first"`; None takes the one in Keras's configuration.
        seed: Integer seed of the initial weights; None draws one.

    Call arguments:
        inputs: Activations, shape `(batch, height, width, channels)`.

    Returns:
        Activations, shape `(batch, output height, output width, filters)`.

    Raises:
        ValueError: If the image size is unknown, smaller than the filter, or not the one that the layer was built
            for, or if `unsharp` is asked for an output of another size.

    Reference:
        Amer and Maul, 2019, https://arxiv.org/abs/1905.00568 (equations 1 to 4)
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int = 3,
        strides: int = 1,
        mode: str = "smoothing",
        padding: str | int | None = None,
        use_bias: bool = True,
        normalize: bool = False,
        *,
        data_format: str | None = None,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive_integer("filters", filters)
        check_positive_integer("kernel_size", kernel_size)
        check_positive_integer("strides", strides)
        check_choice("mode", mode, MODES)
        if padding is None or isinstance(padding, str):
            check_choice("padding", padding, (None, "valid", "same"))
        else:
            check_positive_integer("padding", padding, minimum=0)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.mode = mode
        self.padding = padding
        self.use_bias = use_bias
        self.normalize = normalize
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        check_choice("data_format", self.data_format, ("channels_last", "channels_first"))
        self.seed = seed
        if mode == "unsharp" and sum(self.pads()) != kernel_size - 1:
            raise ValueError(
                "mode='unsharp' subtracts the filtered map from the map, so both must have one size. "
                f"Received: padding={padding!r} with kernel_size={kernel_size}. Use padding='same'."
            )

    def build(self, input_shape):
        """Creates the maps for this image size."""
        height, width, channels = self._split(input_shape)
        # Inputs that reach one output pixel: the reading of the paper's "fan in" that keeps the scale.
        bound = (channels * self.kernel_size**2) ** -0.5
        self.kernel = self.add_weight(
            shape=(height, width, channels, self.filters),
            initializer=keras.initializers.RandomUniform(-bound, bound, seed=self.seed),
            name="kernel",
        )
        self.bias = None
        if self.use_bias:
            bias_seed = None if self.seed is None else self.seed + 1
            self.bias = self.add_weight(
                shape=(*self._output_size(height, width), self.filters),
                initializer=keras.initializers.RandomUniform(-bound, bound, seed=bias_seed),
                name="bias",
            )

    def call(self, inputs):
        """Applies the maps, the box filter and the bias."""
        self._check_size(inputs.shape)
        first = self.data_format == "channels_first"
        lengths = self._output_size(*(inputs.shape[axis] for axis in self._axes()))
        kernel = ops.cast(self.kernel, self.compute_dtype)
        outputs = filtered_product(inputs, kernel, self._filter(), lengths)
        if self.bias is not None:
            outputs = outputs + (
                ops.transpose(self.bias, (2, 0, 1)) if first else ops.convert_to_tensor(self.bias)
            )
        return outputs

    def load_own_variables(self, store):
        """Reads the maps, which must be of this image size."""
        stored, built = tuple(store["0"].shape) if "0" in store else None, tuple(self.kernel.shape)
        if stored is not None and stored != built:
            raise ValueError(
                "The maps of a `WeightMap` belong to one image size. "
                f"Expected: (height, width, channels, filters) = {built}. Received: a file with {stored}. "
                "Build the model for the images that the file was trained on."
            )
        super().load_own_variables(store)

    def compute_output_shape(self, input_shape):
        """Returns the shape after the box filter."""
        height, width, _ = self._split(input_shape)
        if self.built:
            self._check_size(input_shape)
        size = self._output_size(height, width)
        if self.data_format == "channels_first":
            return (input_shape[0], self.filters, *size)
        return (input_shape[0], *size, self.filters)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = (
            "filters",
            "kernel_size",
            "strides",
            "mode",
            "padding",
            "use_bias",
            "normalize",
            "data_format",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names}, "seed": self.seed}

    def _axes(self) -> tuple[int, int]:
        return (2, 3) if self.data_format == "channels_first" else (1, 2)

    def pads(self) -> tuple[int, int]:
        """Returns the rows of zeros before and after the map, along either axis of the image."""
        if isinstance(self.padding, int):
            return self.padding, self.padding
        same = self.mode == "unsharp" if self.padding is None else self.padding == "same"
        return ((self.kernel_size - 1) // 2, self.kernel_size // 2) if same else (0, 0)

    def _output_size(self, height: int, width: int) -> tuple[int, int]:
        spare = sum(self.pads()) - self.kernel_size
        return (height + spare) // self.strides + 1, (width + spare) // self.strides + 1

    def _filter(self) -> BoxFilter:
        box = self.kernel_size**-2 if self.normalize else 1.0
        sign, middle = (-1.0, 2.0) if self.mode == "unsharp" else (1.0, 0.0)
        return BoxFilter(self.kernel_size, self.strides, self.pads()[0], sign * box, middle, self._axes())

    def _split(self, input_shape) -> tuple[int, int, int]:
        """Returns height, width and channels, checked."""
        if len(input_shape) != 4:
            raise ValueError(
                "`WeightMap` needs images, shape (batch, height, width, channels). "
                f"Received: input_shape={tuple(input_shape)}."
            )
        channel = 1 if self.data_format == "channels_first" else 3
        size = tuple(input_shape[axis] for axis in self._axes())
        channels = input_shape[channel]
        if None in (*size, channels):
            raise ValueError(
                "`WeightMap` has a weight for each pixel, so height, width and channels must be known. "
                f"Received: input_shape={tuple(input_shape)}."
            )
        if min(size) + sum(self.pads()) < self.kernel_size:
            raise ValueError(
                f"The box filter of side kernel_size={self.kernel_size} must fit into the padded map. "
                f"Received: input_shape={tuple(input_shape)}, padding={self.padding!r}. "
                "Use a smaller kernel_size or padding='same'."
            )
        return (*size, channels)

    def _check_size(self, shape) -> None:
        got, built = self._split(shape), tuple(self.kernel.shape[:3])
        if got != built:
            raise ValueError(
                "The maps of a `WeightMap` belong to one image size. "
                f"Expected: (height, width, channels) = {built}. Received: {got}. "
                "Resize the images, or build the model for this size and train it."
            )
