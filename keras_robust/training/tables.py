"""The tables of a recipe; every key is known and checked."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Norm = Literal["Linf", "L2", "L1"]
KernelType = Literal["float32", "float16", "bfloat16"]


class Table(BaseModel):
    """A table whose every key is known and of its type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DatasetTable(Table):
    """Which images; `validation_fraction` of the training images is held out, the first `images` others used."""

    name: str
    validation_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)
    images: int | None = Field(default=None, ge=1)


class InitialWeightsTable(Table):
    """Weights that a training starts from: those of an entry of the zoo, or of an address `hf://` on the Hub.

    `sha256` is that of its `model.weights.h5`, as `entry.json` and the card state it.
    """

    entry: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class ModelTable(Table):
    """Builder of `keras_robust.models` and its arguments; `initial_weights` of another training to start from."""

    builder: str
    arguments: dict[str, Any] = {}
    initial_weights: InitialWeightsTable | None = None


class TrainingTable(Table):
    """Length of the training, the precision of its passes, and what becomes of the weights at its end.

    `mixed_bfloat16` computes in bfloat16 on variables that stay float32; what is evaluated is a float32 model.
    `batch_statistics` are those of batch normalization: `running`, averaged over the batches of the training with
    their noise and perturbations; `clean`, estimated at the end on training images as they are
    (`models.recalibrate`). Kernels are rounded to the type `weights`, stored, and evaluated as stored.
    """

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    batch_statistics: Literal["running", "clean"] = "running"
    weights: KernelType = "float32"


class OptimizerTable(Table):
    """Optimizer in PyTorch's meaning; `weight_decay` is added to the gradient of every parameter.

    `max_gradient_norm` bounds the L2 norm of the gradient of all parameters together, before weight decay.
    """

    name: Literal["sgd", "adam"]
    learning_rate: float = Field(gt=0.0)
    momentum: float = Field(default=0.0, ge=0.0, lt=1.0)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0.0)
    max_gradient_norm: float | None = Field(default=None, gt=0.0)

    @model_validator(mode="after")
    def _momentum_belongs_to_sgd(self):
        if self.name == "adam" and (self.momentum or self.nesterov):
            raise ValueError("`momentum` and `nesterov` belong to the optimizer 'sgd'; remove them")
        if self.nesterov and not self.momentum:
            raise ValueError("`nesterov` needs a positive `momentum`")
        return self


class ScheduleTable(Table):
    """Learning rate over epochs: constant, piecewise (times `factor` at each milestone), cosine or cyclic.

    `cyclic` rises linearly from 0 to the learning rate at `peak` (a fraction of the epochs) and falls back to 0.
    """

    type: Literal["constant", "piecewise", "cosine", "cyclic"] = "constant"
    milestones: list[int] = []
    factor: float = Field(default=0.1, gt=0.0, lt=1.0)
    peak: float = Field(default=0.5, gt=0.0, lt=1.0)

    @model_validator(mode="after")
    def _milestones_belong_to_piecewise(self):
        if (self.type == "piecewise") != bool(self.milestones):
            raise ValueError("`milestones` (epochs) must be given for the type 'piecewise', and only for it")
        if sorted(set(self.milestones)) != self.milestones or (self.milestones and self.milestones[0] < 1):
            raise ValueError("`milestones` must be positive and rise")
        return self


class PhaseTable(Table):
    """One of the phases that a training goes through: its epochs, and what they have of their own.

    The learning rate is interpolated between the values that it has at the epochs `at_epochs`, counted from the
    beginning of the phase; two values are its first and its last. What is left out is the recipe's.
    """

    epochs: int = Field(ge=1)
    image_size: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    learning_rate: list[float] | None = Field(default=None, min_length=2)
    at_epochs: list[float] | None = None

    @model_validator(mode="after")
    def _learning_rates_have_their_epochs(self):
        rates, at = self.learning_rate, self.at_epochs
        if rates is not None and min(rates) < 0:
            raise ValueError("`learning_rate` must not be negative")
        if rates is None:
            fits = at is None
        elif at is None:
            fits = len(rates) == 2
        else:
            fits = len(at) == len(rates) and at == sorted(set(at)) and (at[0], at[-1]) == (0, self.epochs)
        if not fits:
            raise ValueError(
                "`at_epochs` must rise from 0 to `epochs` and hold one epoch for each `learning_rate`; it may be "
                "left out where there are two"
            )
        return self


class AugMixTable(Table):
    """AugMix; with the objective 'jensen_shannon' two views of each image, else the mixed images alone."""

    width: int = Field(default=3, ge=1)
    depth: int = Field(default=-1, ge=-1)
    alpha: float = Field(default=1.0, gt=0.0)
    severity: float = Field(default=3.0, ge=0.1, le=10.0)

    @model_validator(mode="after")
    def _some_depth(self):
        if self.depth == 0:
            raise ValueError("`depth` must be a number of operations, or -1 for 1, 2 or 3 at random")
        return self


class AugmentationTable(Table):
    """Random crop after zero padding by `random_crop` pixels, horizontal flip; then AutoAugment or AugMix.

    `random_resized_crop` is the size in pixels of the crops of pictures that are decoded from files (ImageNet).
    """

    random_crop: int = Field(default=0, ge=0)
    random_resized_crop: int = Field(default=0, ge=0)
    horizontal_flip: bool = False
    auto_augment: Literal["cifar10", "imagenet"] | None = None
    augmix: AugMixTable | None = None

    @model_validator(mode="after")
    def _one_policy(self):
        if self.auto_augment is not None and self.augmix is not None:
            raise ValueError("`auto_augment` and `augmix` exclude each other; remove one")
        return self

    @model_validator(mode="after")
    def _one_crop(self):
        if self.random_crop and self.random_resized_crop:
            raise ValueError("`random_crop` and `random_resized_crop` exclude each other; remove one")
        return self


class GaussianNoiseTable(Table):
    """Gaussian noise on the input, for models that hold no noise layer of their own."""

    type: Literal["gaussian_noise"]
    sigma: float = Field(gt=0.0)


class AdversarialTable(Table):
    """Adversarial training; Fast-AT is one step of 1.25 epsilon in the mode 'train'."""

    type: Literal["adversarial"]
    epsilon: float = Field(gt=0.0)
    norm: Norm = "Linf"
    step_size: float | None = Field(default=None, gt=0.0)
    steps: int = Field(default=10, ge=1)
    random_start: bool = True
    loss: Literal["cross_entropy", "margin", "dlr"] = "cross_entropy"
    model_mode: Literal["eval", "train"] = "eval"


class FreeAdversarialTable(Table):
    """Free adversarial training: each batch `replays` times, in epochs that are as much longer."""

    type: Literal["free_adversarial"]
    epsilon: float = Field(gt=0.0)
    step_size: float | None = Field(default=None, gt=0.0)
    replays: int = Field(default=8, ge=1)


PerturbationTable = Annotated[
    GaussianNoiseTable | AdversarialTable | FreeAdversarialTable, Field(discriminator="type")
]


class CrossEntropyTable(Table):
    """Cross-entropy with label smoothing, and with a share of it on the clean images."""

    type: Literal["cross_entropy"]
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    clean_weight: float = Field(default=0.0, ge=0.0, lt=1.0)


class TradesTable(Table):
    """TRADES, which makes its own adversarial examples."""

    type: Literal["trades"]
    epsilon: float = Field(gt=0.0)
    beta: float = Field(default=6.0, gt=0.0)
    norm: Norm = "Linf"
    step_size: float | None = Field(default=None, gt=0.0)
    steps: int = Field(default=10, ge=1)
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)


class JensenShannonTable(Table):
    """Cross-entropy of the clean images and divergence between three views, which `augmentation.augmix` makes."""

    type: Literal["jensen_shannon"]
    weight: float = Field(default=12.0, gt=0.0)


ObjectiveTable = Annotated[CrossEntropyTable | TradesTable | JensenShannonTable, Field(discriminator="type")]


class AWPTable(Table):
    """Adversarial weight perturbation."""

    type: Literal["awp"]
    gamma: float = Field(default=0.01, gt=0.0)
    warmup_epochs: int = Field(default=0, ge=0)


class ExtraDataTable(Table):
    """Extra images as a share of each batch: pseudo-labelled ones, or changed ones such as DeepAugment's.

    `file` is an .npz in the folder of the data sets, with `pixels` (as the data set stores them) and `labels`; or
    a folder there with pictures in class folders, as `datasets.read_class_folders` takes it, which also says what
    `sha256` is then. DeepAugment trains on ImageNet and two versions of it alike: a `fraction` of 2/3, with epochs
    a third as long as one pass through all three.
    """

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    fraction: float = Field(default=0.5, gt=0.0, lt=1.0)


class EarlyStoppingTable(Table):
    """Keeps the epoch that is most robust under PGD on the validation images, or best on clean ones."""

    type: Literal["robust_accuracy", "accuracy"]
    epsilon: float | None = Field(default=None, gt=0.0)
    norm: Norm = "Linf"
    step_size: float | None = Field(default=None, gt=0.0)
    steps: int = Field(default=20, ge=1)

    @model_validator(mode="after")
    def _options_of_pgd_belong_to_robust_accuracy(self):
        if self.type == "robust_accuracy" and self.epsilon is None:
            raise ValueError("`epsilon` must be given for the type 'robust_accuracy'")
        given = sorted(self.model_fields_set - {"type"})
        if self.type == "accuracy" and given:
            names = ", ".join(given)
            raise ValueError(f"the type 'accuracy' attacks nothing and takes no options. Received: {names}")
        return self


class WeakSubnetsTable(Table):
    """Enhancement of weak subnets; `interval` and what follows it belong to the search `controller`."""

    search: Literal["controller", "random", "l1"] = "controller"
    rho: float = Field(default=0.7, gt=0.0, lt=1.0)
    scope: Literal["block", "conv2"] = "block"
    path_rounding: Literal["up", "nearest"] = "up"
    distillation_weight: float = Field(default=1.0, ge=0.0)
    clean_weight: float = Field(default=0.0, ge=0.0)
    loss: Literal["kl", "reverse_kl", "cross_entropy"] = "kl"
    reduction: Literal["batch_mean", "element_mean"] = "batch_mean"
    interval: int = Field(default=10, ge=1)
    samples: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=3e-4, gt=0.0)
    entropy_weight: float = Field(default=0.005, ge=0.0)

    @model_validator(mode="after")
    def _controller_options_belong_to_the_controller(self):
        given = {"interval", "samples", "learning_rate", "entropy_weight"} & self.model_fields_set
        changed = sorted(name for name in given if getattr(self, name) != type(self).model_fields[name].default)
        if self.search != "controller" and changed:
            raise ValueError(f"`{changed[0]}` belongs to the search 'controller'; remove it")
        return self


class AttackTable(Table):
    """One attack of the evaluation, at one epsilon or several; options left out keep their defaults."""

    name: Literal["fgsm", "pgd", "apgd", "fab", "square", "autoattack"]
    norm: Literal["Linf", "L2", "L1"]
    epsilon: float | list[float]
    steps: int | None = Field(default=None, ge=1)
    step_size: float | None = Field(default=None, gt=0.0)
    restarts: int | None = Field(default=None, ge=1)
    random_start: bool | None = None
    loss: str | None = None
    targets: int | None = Field(default=None, ge=1)
    queries: int | None = Field(default=None, ge=1)
    eot: int | None = Field(default=None, ge=1)
    version: Literal["standard", "plus", "rand"] | None = None


class NoiseTable(Table):
    """Accuracy under noise at several levels: sigma of Gaussian noise, the upper bound of uniform noise."""

    type: Literal["gaussian", "uniform"]
    levels: list[float]


class CertifiedTable(Table):
    """Certified smoothing of the first `images`: sigma and radii in pixel units, `n` noisy copies of each."""

    sigma: float = Field(gt=0.0)
    radii: list[float] = Field(min_length=1)
    n: int = Field(default=100_000, ge=1)
    images: int = Field(default=500, ge=1)


class EvaluationTable(Table):
    """What `keras-robust evaluate` does where the command line does not say otherwise.

    `corruptions` are the 15 of CIFAR-10-C at their five severities, made from the test images. Attacks run on the
    first `attack_images`, on all where it is left out.
    """

    images: int = Field(default=1000, ge=1)
    attack_images: int | None = Field(default=None, ge=1)
    stages_alone: int = Field(default=0, ge=0)  # first images on which each attack of AutoAttack runs alone too
    attacks: list[AttackTable] = []
    noise: list[NoiseTable] = []
    certified: list[CertifiedTable] = []
    corruptions: bool = False


class MetadataTable(Table):
    """What the model card says."""

    description: str
    licence: str = "Apache-2.0"
    references: list[str] = []
