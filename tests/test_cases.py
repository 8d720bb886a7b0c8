"""The table of reliability cases: every case is there, proven or explained, and a failure is never a pass."""

import re
from pathlib import Path

import pytest

from tests import case_table
from tests.cases import CASES, REMARKS, Proof, table

pytest_plugins = ("pytester",)
HERE = Path(__file__).resolve().parent

PROGRAM = """
    import pytest

    @pytest.mark.case("T-01")
    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_three(n): pass

    @pytest.mark.case("T-02", "T-03")
    def test_bad(): assert False

    @pytest.mark.case("T-03")
    def test_good(): pass

    @pytest.mark.case("C-13")
    def test_not_here(): pytest.skip("no such machine")

    @pytest.fixture
    def broken(): raise OSError

    @pytest.mark.case("C-12")
    def test_never_begun(broken): pass

    @pytest.mark.case("L-14")
    @pytest.mark.slow
    def test_left_out(): pass
"""


def named() -> set[str]:
    """The cases that the other test files name, in their marks."""
    texts = [path.read_text() for path in HERE.glob("test_*.py") if path.name != Path(__file__).name]
    return {case for text in texts for case in re.findall(r'"([DTCL]-\d\d)"', text)}


def test_every_case_has_a_test_or_a_reason():
    assert len(CASES) == 24 + 18 + 20 + 16
    assert CASES.keys() - named() <= REMARKS.keys()
    assert (named() | REMARKS.keys()) <= CASES.keys()


def rows(text: str) -> dict[str, list[str]]:
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    return {case: rest for case, *rest in cells[1:]}


def test_the_table_says_how_tests_ended(pytester: pytest.Pytester):
    pytester.makeconftest(
        "from pathlib import Path\nfrom tests.case_table import CaseTable\n"
        "def pytest_configure(config):\n    config.pluginmanager.register(CaseTable(Path('table.md')))\n"
    )
    pytester.makepyfile(PROGRAM)
    pytester.runpytest("-m", "not slow")
    found = rows((pytester.path / "table.md").read_text())
    assert found.keys() == CASES.keys()
    name = "test_the_table_says_how_tests_ended.py::test_"
    assert found["T-01"][1:] == ["pass", f"`{name}three` (3)"]
    assert [found[case][1] for case in ("T-02", "T-03", "C-12")] == ["**fail**"] * 3
    assert found["C-13"][1:] == ["skipped", f"`{name}not_here`; skipped: no such machine"]
    assert found["L-14"][1:] == ["not run", f"`{name}left_out` (1 not run)"]
    assert found["T-11"][1:] == ["no test", REMARKS["T-11"]]


SECOND = PROGRAM.replace("assert False", "pass").replace("def test_good(): pass", "def test_good(): assert False")


def test_several_runs_make_one_table_that_says_when_they_were(pytester: pytest.Pytester, monkeypatch):
    pytester.makeconftest(
        "from pathlib import Path\nfrom tests.case_table import CaseTable\ndef pytest_configure(config):\n"
        "    config.pluginmanager.register(CaseTable(Path('table.md'), Path('results.json')))\n"
    )
    name = "test_several_runs_make_one_table_that_says_when_they_were.py"
    monkeypatch.setattr(case_table, "commit", lambda: "aaaa")
    pytester.makepyfile(PROGRAM)
    pytester.runpytest("-m", "not slow")
    monkeypatch.setattr(case_table, "commit", lambda: "bbbb")
    pytester.makepyfile(SECOND)
    pytester.runpytest("-k", "bad or left_out")
    pytester.runpytest("--collect-only")
    text = (pytester.path / "table.md").read_text()
    assert "Tests ran at commit aaaa" in text
    found = rows(text)
    assert found["T-02"][1:] == ["pass", f"`{name}::test_bad` (at bbbb)"]
    assert found["T-03"][1:] == ["pass", f"`{name}::test_bad` (at bbbb), `{name}::test_good`"]
    assert found["L-14"][1:] == ["pass", f"`{name}::test_left_out` (at bbbb)"]
    assert found["C-12"][1] == "**fail**"
    pytester.makepyfile(SECOND.replace("def test_three(n)", "def test_other(n)"))
    pytester.runpytest("--collect-only")
    assert rows((pytester.path / "table.md").read_text())["T-01"][1:] == [
        "not run",
        f"`{name}::test_other` (3 not run)",
    ]


def test_processes_that_share_the_tests_tell_what_one_tells(pytester: pytest.Pytester):
    pytester.makeconftest("from tests.conftest import pytest_addoption, pytest_configure")
    pytester.makepyfile(PROGRAM)
    pytester.runpytest("-m", "not slow", "--cases", "one.md")
    pytester.runpytest("-m", "not slow", "-n", "2", "--case-results", "results.json")
    pytester.runpytest("--collect-only", "--case-results", "results.json", "--cases", "two.md")
    one, two = ((pytester.path / name).read_text() for name in ("one.md", "two.md"))
    assert rows(one)["T-02"][1] == "**fail**"
    assert one == two


def test_a_remark_makes_a_pass_partial():
    case = next(iter(REMARKS))
    assert rows(table({case: {"f": Proof(passed=1)}}))[case][1:] == ["pass, in part", f"`f`; {REMARKS[case]}"]


def test_a_case_that_is_not_known_is_refused(pytester: pytest.Pytester):
    pytester.makeconftest(
        "from pathlib import Path\nfrom tests.case_table import CaseTable\n"
        "def pytest_configure(config):\n    config.pluginmanager.register(CaseTable(Path('table.md')))\n"
    )
    pytester.makepyfile('import pytest\n@pytest.mark.case("T-99")\ndef test_one(): pass')
    pytester.runpytest().stderr.fnmatch_lines(["*names T-99, not in tests/cases.py*"])
