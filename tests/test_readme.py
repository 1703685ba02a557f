"""README's example runs as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.mark.slow
def test_the_python_example_runs_and_prints_both_accuracies(capsys):
    code = re.search(r"<!-- example -->\n```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    clean, attacked = (float(value) for value in re.findall(r"([\d.]+)%", printed))
    assert clean > attacked > 20


def test_readme_gives_the_two_commands_that_the_scripts_are():
    text = README.read_text()
    for command in ("bash scripts/quickstart.sh", "bash scripts/test.sh"):
        assert f"```bash\n{command}\n```" in text
        assert (README.parent / command.split()[1]).is_file()
