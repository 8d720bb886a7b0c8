"""Plugin of pytest: hears how the tests of reliability cases end, and writes the table of cases.py.

`pytest -m "slow or case" --cases tests/CASES.md` writes the table of one whole run. Several runs, as the two of
`make test-slow`, make one table through a file that keeps how each test ended last, and at which commit:

    pytest -m "slow or case" --case-results results.json tests/test_crashes.py          # any part, as often as needed
    pytest -m "slow or case" --case-results results.json --cases tests/CASES.md --collect-only
"""

import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.cases import CASES, Proof, table

HERE = Path(__file__).parent.parent


@dataclass
class Ended:
    """How a test ended: passed, failed or skipped."""

    outcome: str
    reason: str
    commit: str


class CaseTable:
    """Writes the table to `path` when the session ends; goes on from `results` and adds to it.

    Where several processes share the tests, this one hears how they end but does not collect them: it keeps results, and
    makes no table.
    """

    def __init__(self, path: Path | None, results: Path | None = None):
        self._path, self._results, self._commit = path, results, commit()
        self._cases: dict[str, set[str]] = {}  # of each test
        self._ended: dict[str, Ended] = {}
        if results is not None and results.exists():
            self._ended = {test: Ended(**ended) for test, ended in json.loads(results.read_text()).items()}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Before tests are left out: a case whose tests were left out is not one without tests."""
        for item in items:
            named = {case for mark in item.iter_markers("case") for case in mark.args}
            if unknown := named - CASES.keys():
                raise pytest.UsageError(f"{item.nodeid} names {', '.join(sorted(unknown))}, not in tests/cases.py")
            self._cases[item.nodeid] = named

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "setup":
            self._ended.pop(report.nodeid, None)
        if report.failed:
            self._ended[report.nodeid] = Ended("failed", "", self._commit)
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self._ended[report.nodeid] = Ended("skipped", reason.removeprefix("Skipped: "), self._commit)
        elif report.when == "call":
            self._ended[report.nodeid] = Ended("passed", "", self._commit)
        self._keep()

    def pytest_sessionfinish(self) -> None:
        if self._path is not None:
            self._path.write_text(table(self.proofs()))

    def proofs(self) -> dict[str, dict[str, Proof]]:
        """Of the tests that there are, by case and function."""
        found: dict[str, dict[str, Proof]] = {}
        for test, cases in self._cases.items():
            for case in cases:
                function = test.split("[")[0].rsplit("/", 1)[-1]
                _count(found.setdefault(case, {}).setdefault(function, Proof()), self._ended.get(test))
        return found

    def _keep(self) -> None:
        """After every test: a run that is killed has shown something too."""
        if self._results is not None:
            ended = {test: asdict(ended) for test, ended in sorted(self._ended.items())}
            partial = self._results.with_suffix(".partial")
            partial.write_text(json.dumps(ended, indent=1))
            partial.replace(self._results)


def _count(proof: Proof, ended: Ended | None) -> None:
    if ended is None:
        proof.not_run += 1
        return
    proof.commits[ended.commit] = None
    if ended.outcome == "skipped":
        proof.skipped[ended.reason] = None
    else:
        proof.passed += ended.outcome == "passed"
        proof.failed += ended.outcome == "failed"


def commit() -> str:
    """What is checked out here, with a + where files differ from it; "unknown" without git."""
    try:
        name = _git("rev-parse", "--short", "HEAD").strip()
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!tests/CASES.md")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + "+" * bool(changed)


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=True).stdout
