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


def test_readme_gives_the_two_commands_that_the_scripts_are():
    text = README.read_text()
    for command in ("bash scripts/quickstart.sh", "bash scripts/test.sh"):
        assert f"```bash\n{command}\n```" in text
        assert (README.parent / command.split()[1]).is_file()
