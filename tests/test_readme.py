"""README's examples run as they stand."""

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.mark.slow
def test_the_python_examples_run_one_after_another(capsys):
    first, *others = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names = {"__name__": "readme"}
    exec(compile(first, "README.md", "exec"), names)
    clean, attacked = (float(value) for value in re.findall(r"([\d.]+)%", capsys.readouterr().out))
    assert clean > attacked > 20
    for code in others:
        exec(compile(code, "README.md", "exec"), names)
    assert names["result"].accuracy_after["clean"] > names["result"].robust_accuracy > 0
    assert (names["certificates"].radius > 0).any()
    shapes = [[variable.shape for variable in names[each].trainable_variables] for each in ("plain", "noisy")]
    assert shapes[0] == shapes[1]
    assert len(names["trainer"].history.epoch) == 10


def test_what_readme_trains_does_not_lie_beside_finished_weights():
    commands = re.findall(r"^keras-robust train (zoo/\S+)(.*)", README.read_text(), re.MULTILINE)
    assert commands
    for folder, options in commands:
        finished = (README.parent / folder / "model.weights.h5").is_file()
        assert not finished or "--output-dir" in options or "--overwrite" in options


def test_readme_says_which_backend_after_installing_it():
    assert re.search(r"```bash\npip install -e \"\.\[jax\]\".*\nexport KERAS_BACKEND=jax ", README.read_text())


def test_readme_gives_the_two_commands_that_the_scripts_are():
    text = README.read_text()
    for command in ("bash scripts/quickstart.sh", "bash scripts/test.sh"):
        assert f"```bash\n{command}\n```" in text
        assert (README.parent / command.split()[1]).is_file()
