"""The files that GitHub and citation managers read: they parse, and say what setup.py says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from radlake import __version__

ROOT = Path(__file__).parent.parent
GITHUB = ROOT / ".github"
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("[!c]*.yml"))  # config.yml is no form
PAGES = [*GITHUB.rglob("*.*"), *(ROOT / n for n in ("SECURITY.md", "CODE_OF_CONDUCT.md"))]
FIELDS = {"markdown", "input", "textarea", "dropdown", "checkboxes"}  # GitHub's, which we use


def read(path: Path):
    return yaml.safe_load(path.read_text())


def metadata(*options: str) -> list[str]:
    """Return what setup.py says, a line per value."""
    command = [sys.executable, "setup.py", "--quiet", *options]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return process.stdout.splitlines()


def test_the_citation_is_that_of_the_package():
    citation = read(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    [author] = citation["authors"]
    values = [citation["title"], citation["version"], citation["license"], *author.values()]
    assert values == metadata("--name", "--version", "--license", "--author")
    assert citation["version"] == __version__


def test_the_workflow_tests_every_python_of_the_classifiers():
    [job] = read(GITHUB / "workflows" / "test.yml")["jobs"].values()
    versions = job["strategy"]["matrix"]["python"]
    pattern = r"Programming Language :: Python :: (3\.\d+)"
    classifier_versions = [
        m[1] for line in metadata("--classifiers") if (m := re.fullmatch(pattern, line))
    ]
    assert versions == classifier_versions and len(versions) >= 3
    assert job["env"]["PYTHON"] == "python${{ matrix.python }}"
    [setup] = [step for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert setup["with"]["python-version"] == "${{ matrix.python }}"
    assert job["steps"][-1]["run"] == ".ci/run" and (ROOT / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_has_what_github_requires(path):
    form = read(path)
    assert form.keys() == {"name", "description", "labels", "body"}
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in form["body"]} <= FIELDS
    names = [field["id"] for field in fields]
    labels = [field["attributes"]["label"] for field in fields]
    assert len({*names}) == len({*labels}) == len(fields) >= 3
    assert any(field.get("validations", {}).get("required") for field in fields)
    for field in fields:
        assert ("options" in field["attributes"]) == (field["type"] in ("dropdown", "checkboxes"))
    if path.stem != "feature":
        [box] = fields[-1]["attributes"]["options"]
        assert "patient" in box["label"] and box["required"]


def test_there_is_a_form_for_each_kind_of_issue():
    assert [path.stem for path in FORMS] == ["bug", "feature", "wrong_result"]
    assert read(GITHUB / "ISSUE_TEMPLATE" / "config.yml") == {"blank_issues_enabled": False}


def test_no_person_no_address_and_no_page_of_ours_that_is_not_there():
    assert len(PAGES) >= 8
    for path in [*PAGES, ROOT / "CITATION.cff", ROOT / "setup.py"]:
        text = path.read_text()
        assert not re.findall(r"[\w.+-]+@[\w-]+\.[\w.]+", text), path
        urls = {
            re.sub(r"^https?://(?:www\.)?", "", url)
            for url in re.findall(r"https?://[^\s)>/]+", text)
        }
        assert urls <= {"contributor-covenant.org"}, path
        for link in re.findall(r"\]\((?!http)([^)]+)\)", text):
            assert (path.parent / link).exists(), (path, link)
