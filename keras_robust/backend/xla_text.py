"""The text of a program that XLA has compiled, without the names that two equal programs may differ in."""

import re

_METADATA = re.compile(r", metadata=\{(?:[^{}\"]|\"[^\"]*\"|\{[^{}]*\})*\}")
_COMMENT = re.compile(r"/\*.*?\*/")
_PARAMETER = re.compile(r"(?<=[(\s])[\w.\-]+: (?=\(*[a-z]+[0-9]*[a-z0-9]*\[)")
_NAME = re.compile(r"%[\w.\-]+")


def without_names(text: str) -> str:
    """Numbers the names of a program in the order of their appearance, and drops where its operations come from.

    Args:
        text: HLO text of a module.

    Returns:
        The text of its computations: equal for equal programs, whatever their layers are called.
    """
    computations, inside = [], False
    for line in text.splitlines():
        inside = inside or line.startswith(("%", "ENTRY"))
        if inside:
            computations.append(line.rstrip())
        inside = inside and line != "}"
    names: dict[str, str] = {}
    found = _COMMENT.sub("", _METADATA.sub("", "\n".join(computations)))
    found = _PARAMETER.sub("", found)
    return _NAME.sub(lambda name: names.setdefault(name.group(), f"%{len(names)}"), found)
