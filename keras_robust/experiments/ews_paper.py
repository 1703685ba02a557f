"""The numbers of the weak subnets paper, in per cent as printed, and what is inconsistent in them.

Reference:
    Guo et al., 2022, https://arxiv.org/abs/2201.12765 (tables 1 to 5)
"""

from collections.abc import Mapping, Sequence

# Clean and corruption error of ResNet-50: CIFAR-10, then CIFAR-100.
TABLE_1: dict[tuple[str, str], tuple[float, float, float, float]] = {
    ("standard", "vanilla"): (5.32, 26.46, 23.45, 50.76),
    ("standard", "dropout"): (5.16, 26.17, 23.19, 50.43),
    ("standard", "ews"): (4.44, 24.94, 22.41, 40.08),
    ("autoaugment", "vanilla"): (4.05, 16.19, 23.02, 44.37),
    ("autoaugment", "dropout"): (3.91, 16.04, 22.84, 44.09),
    ("autoaugment", "ews"): (3.23, 14.31, 22.16, 42.40),
    ("augmix", "vanilla"): (4.35, 13.57, 22.45, 38.28),
    ("augmix", "dropout"): (4.19, 13.44, 22.11, 37.97),
    ("augmix", "ews"): (3.76, 10.80, 21.81, 35.24),
}

# mCE of ImageNet-C, then the corruption errors in the order of `keras_robust.corruptions.CORRUPTIONS`.
TABLE_2: dict[tuple[str, str], tuple[float, ...]] = {
    ("standard", "vanilla"): (76.5, 80, 82, 83, 75, 89, 78, 80, 78, 75, 66, 57, 71, 85, 77, 77),
    ("standard", "dropout"): (76.5, 77, 79, 80, 78, 90, 79, 87, 77, 77, 67, 58, 70, 84, 75, 76),
    ("standard", "ews"): (75.1, 75, 76, 77, 73, 87, 77, 79, 80, 73, 65, 58, 73, 83, 74, 75),
    ("autoaugment", "vanilla"): (72.7, 69, 68, 72, 77, 83, 80, 81, 79, 75, 64, 56, 70, 88, 57, 71),
    ("autoaugment", "ews"): (71.7, 67, 68, 71, 78, 82, 78, 79, 78, 73, 64, 55, 69, 86, 56, 72),
    ("augmix", "vanilla"): (68.4, 65, 66, 67, 70, 80, 66, 66, 75, 72, 67, 58, 58, 79, 69, 69),
    ("augmix", "ews"): (67.5, 64, 63, 63, 70, 81, 65, 66, 72, 70, 64, 57, 63, 79, 64, 70),
    ("deepaugment", "vanilla"): (60.4, 49, 50, 47, 59, 73, 65, 76, 64, 60, 58, 51, 61, 76, 48, 67),
    ("deepaugment", "ews"): (58.7, 48, 48, 47, 58, 72, 58, 62, 63, 62, 58, 50, 56, 74, 47, 62),
}

# mFR of ImageNet-P, then the flip rates in the printed order, that of `keras_robust.corruptions.PERTURBATIONS`.
TABLE_3: dict[tuple[str, str], tuple[float, ...]] = {
    ("standard", "vanilla"): (58.0, 59, 58, 64, 72, 63, 62, 44, 52, 57, 48),
    ("standard", "dropout"): (57.8, 62, 59, 65, 52, 48, 58, 63, 57, 44, 72),
    ("standard", "ews"): (56.1, 62, 55, 62, 49, 45, 52, 64, 52, 42, 71),
    ("autoaugment", "vanilla"): (51.7, 50, 45, 57, 68, 63, 53, 40, 44, 50, 46),
    ("autoaugment", "ews"): (50.4, 48, 44, 53, 70, 62, 52, 36, 45, 49, 45),
    ("augmix", "vanilla"): (37.4, 46, 41, 30, 47, 38, 46, 25, 32, 35, 33),
    ("augmix", "ews"): (36.6, 45, 39, 31, 42, 33, 43, 39, 35, 27, 32),
    ("deepaugment", "vanilla"): (32.1, 29, 28, 25, 41, 31, 43, 27, 31, 33, 33),
    ("deepaugment", "ews"): (30.9, 28, 26, 25, 40, 28, 41, 26, 30, 32, 33),
}
REORDERED = (("standard", "dropout"), ("standard", "ews"))
"""Rows of table 3 whose columns are evidently in alphabetical order, under a header of another order."""
_ALPHABETICAL = (
    "brightness",
    "gaussian_noise",
    "motion_blur",
    "rotate",
    "scale",
    "shot_noise",
    "snow",
    "tilt",
    "translate",
    "zoom_blur",
)

# Clean, PGD-20 and AutoAttack error on CIFAR-10: PreAct ResNet-18, WRN-28-10, WRN-34-10.
TABLE_4: dict[tuple[str, str], tuple[float, ...]] = {
    ("at", "vanilla"): (17.54, 49.18, 52.96, 14.89, 45.17, 47.81, 14.74, 45.39, 47.47),
    ("at", "ews"): (16.85, 47.99, 51.84, 14.57, 44.24, 47.17, 14.33, 44.04, 46.58),
    ("at", "awp"): (19.59, 46.01, 51.43, 15.89, 42.93, 46.41, 14.17, 41.89, 45.96),
    ("at", "awp_ews"): (19.25, 44.98, 50.48, 15.81, 41.72, 45.58, 14.21, 41.07, 45.29),
    ("trades", "vanilla"): (17.42, 46.88, 50.84, 15.50, 44.11, 47.40, 15.32, 43.84, 46.89),
    ("trades", "ews"): (17.10, 45.73, 49.67, 15.09, 43.45, 46.72, 14.56, 43.13, 46.06),
    ("trades", "awp"): (18.27, 45.36, 49.62, 14.84, 41.25, 44.86, 15.55, 40.85, 43.90),
    ("trades", "awp_ews"): (17.67, 44.20, 48.58, 14.30, 40.40, 44.22, 14.13, 40.05, 43.17),
    ("trades_500k", "awp"): (17.13, 43.68, 48.37, 13.37, 38.51, 41.97, 12.73, 35.97, 40.74),
    ("trades_500k", "awp_ews"): (16.62, 42.33, 47.23, 12.59, 37.60, 41.23, 11.90, 35.19, 40.05),
}
NETWORKS_4 = ("preact_resnet18", "wrn28_10", "wrn34_10")

# Clean and corruption error of ResNet-50 on CIFAR-10; the paper has no row for dropout, which is in table 1.
TABLE_5: dict[str, tuple[float, float]] = {
    "vanilla": (5.32, 26.46),
    "dropout": (5.16, 26.17),
    "random": (4.49, 25.81),
    "l1": (4.37, 25.45),
    "ews": (4.12, 24.94),
}

NOTES: dict[int, tuple[str, ...]] = {
    1: (
        "CIFAR-100, standard, ews: corruption error printed 40.08; its printed change of -1.68 from 50.76 gives "
        "49.08, so that 40.08 looks like a misprint.",
        "CIFAR-10, standard, ews: clean error 4.44 here, 4.12 in table 5, with the same corruption error 24.94.",
    ),
    2: (
        "deepaugment, ews: the printed columns average 57.67, the printed mCE is 58.7; some 15 points are missing "
        "in one column or several, zoom_blur (62 after 76) being the suspect. Other rows agree to 0.5.",
    ),
    3: (
        "standard, dropout and standard, ews are evidently printed in alphabetical order of the columns, under "
        "the header of the other rows: both readings are given. augmix, ews is partly permuted too, and is given "
        "as it is printed.",
        "standard, ews: the printed columns average 55.4, the printed mFR is 56.1.",
    ),
    4: (
        "The text gives AT with ews a gain of 1.19 in clean error of ResNet-18; the table gives 0.69 "
        "(17.54 to 16.85), and 1.19 is the gain under PGD-20 (49.18 to 47.99).",
    ),
    5: (
        "ews: clean error 4.12 here, 4.44 in table 1, with the same corruption error 24.94. With 4.44 the "
        "controller would be worse than l1 (4.37) on clean images.",
        "dropout is no row of the paper's table 5; its number is that of table 1.",
    ),
}
"""What does not add up in the paper, by table, to be shown beside its numbers."""


def fractions(names: Sequence[str], printed: Sequence[float]) -> dict[str, float]:
    """Returns printed percentages as fractions by name, as rows of a study keep them.

    Args:
        names: Names of the columns.
        printed: Numbers of a row, one for each name.

    Returns:
        Fractions by name.
    """
    return {name: round(number / 100, 6) for name, number in zip(names, printed, strict=True)}


def flip_rates(key: tuple[str, str], perturbations: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
    """Returns a row of table 3 in each reading of its columns.

    Args:
        key: Augmentation and method.
        perturbations: Names of the perturbations in the printed order.

    Returns:
        Fractions by name for `"as printed"` and, for the rows of `REORDERED`, `"columns in alphabetical order"`.
    """
    total, *columns = TABLE_3[key]
    readings = {"as printed": fractions(["mFR", *perturbations], [total, *columns])}
    if key in REORDERED:
        by_name = fractions(["mFR", *_ALPHABETICAL], [total, *columns])
        readings["columns in alphabetical order"] = {name: by_name[name] for name in ["mFR", *perturbations]}
    return readings
