"""Puts the zoo's folder into the wheel: everything of every entry, weights only up to 1.55 MB.

Of the weights an sdist has the same ones, so that a wheel can be made of it.
"""

from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WEIGHTS = "model.weights.h5"
LARGEST_WEIGHTS = 1_550_000  # what the wheel bears, to stay under 20 MB


class ZooContents(BuildHookInterface):
    def initialize(self, version, build_data):
        if version == "editable":
            return
        zoo = Path(self.root) / "zoo"
        if self.target_name == "sdist":  # which leaves out weights, but nothing else of the zoo
            for file in zoo.glob(f"*/{WEIGHTS}"):
                if file.stat().st_size <= LARGEST_WEIGHTS:
                    build_data["force_include"][str(file)] = f"zoo/{file.relative_to(zoo)}"
            return
        for file in sorted(zoo.glob("*/*")):
            if file.suffix not in (".toml", ".json", ".md", ".npz", ".h5"):
                continue
            if file.name == WEIGHTS and file.stat().st_size > LARGEST_WEIGHTS:
                continue
            build_data["force_include"][str(file)] = f"keras_robust/zoo_data/{file.relative_to(zoo)}"
