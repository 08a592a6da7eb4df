"""The licences of all packages that users install fit Apache-2.0, by what the packages say."""

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
# Extras for developers alone: pylibjpeg-libjpeg in `test` is GPL-3.0.
NOT_FOR_USERS = {"test", "test-all"}
# A word of a licence -> why it is refused.
REFUSED = {
    r"A?GPL": "whoever passes the whole on must do so under the GPL",
    "GNU": "as GPL",
    "EUPL|OSL|SSPL|BUSL": "copyleft, or no open licence",
    "NonCommercial|CC-BY-NC": "users may be companies",
}
# Copyleft that ends at the package's own files or at its border, judged one by one.
JUDGED = {
    "certifi": "MPL-2.0: a list of certificates, unchanged",
    "orjson": "MPL-2.0 and Apache-2.0 or MIT: the MPL part is unchanged (apache-beam)",
    "tqdm": "MPL-2.0 and MIT: unchanged (optuna)",
}
# Packages whose metadata say nothing.
SILENT = {
    "namex": "Apache-2.0, by the file LICENSE in it (keras)",
    "huey": "MIT, by the file LICENSE in it (mlflow)",
}
# Not in the tests' environment, which has tensorflow-cpu: the same code under the same licence, and
# CUDA under NVIDIA's own, which train-gpu's users accept with its download.
ELSEWHERE = {"tensorflow"}
# In the environment of make test-all, for the size of what they need (MLflow Apache-2.0, W&B MIT).
TRACKERS = {"mlflow", "wandb"}


def setup_arguments() -> dict:
    """What setup.py gives to setup()."""
    arguments = {}
    path = ROOT / "setup.py"
    namespace = {"setup": lambda **keywords: arguments.update(keywords), "__file__": str(path)}
    text = path.read_text()
    assert "from setuptools import setup\n" in text
    exec(text.replace("from setuptools import setup\n", ""), namespace)  # noqa: S102
    return arguments


def requirements_of_users() -> list[str]:
    arguments = setup_arguments()
    extras = arguments["extras_require"]
    assert extras.keys() >= NOT_FOR_USERS
    lists = [lines for name, lines in extras.items() if name not in NOT_FOR_USERS]
    return arguments["install_requires"] + [line for lines in lists for line in lines]


def closure(requirements: list[str]) -> tuple[dict[str, metadata.Distribution], set[str]]:
    """Return the installed packages that these need, and what they need, by name; the names of
    those that are not installed."""
    packages, missing, waiting, visits = {}, set(), [(line, "") for line in requirements], set()
    while waiting:
        text, extra = waiting.pop()
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            missing.add(name)
            continue
        packages[name] = package
        for extra_name in {"", *requirement.extras}:
            if (name, extra_name) not in visits:
                visits.add((name, extra_name))
                waiting += [(line, extra_name) for line in package.requires or ()]
    return packages, missing


def licence(package: metadata.Distribution) -> str:
    """Return what the metadata say of the licence, in one line; "" where they say nothing.

    A field with the whole text of a licence is cut: such texts name others.
    """
    fields = package.metadata
    classifiers = fields.get_all("Classifier") or []
    names = [line.split("::")[-1] for line in classifiers if line.startswith("License ::")]
    names += [fields.get("License-Expression") or "", (fields.get("License") or "")[:80]]
    return " ".join(" ".join(names).split()).removesuffix("UNKNOWN")


def objection(text: str) -> str:
    """Return why a licence is refused, "" where it is not."""
    for words, reason in REFUSED.items():
        if re.search(rf"\b({words})", text, re.IGNORECASE):
            return reason
    return ""


def test_no_package_that_users_install_has_a_licence_that_does_not_fit():
    packages, missing = closure(requirements_of_users())
    assert missing - TRACKERS == ELSEWHERE
    assert len(packages) > 100 and {"imagecodecs", "pylibjpeg-openjpeg", "keras"} <= packages.keys()
    texts = {name: licence(package) for name, package in packages.items()}
    licences = {name: text for name, text in texts.items() if objection(text)}
    assert not licences.keys() - JUDGED.keys()
    copyleft = {name for name, text in texts.items() if re.search("MPL|LGPL|Mozilla|EPL", text)}
    assert copyleft == JUDGED.keys()
    assert {name for name, text in texts.items() if not text} == SILENT.keys() & packages.keys()


def test_the_second_reader_is_gpl_and_no_user_s():
    """It is what the test above would find."""
    packages, _ = closure(["pylibjpeg-libjpeg"])
    assert objection(licence(packages["pylibjpeg-libjpeg"]))
    assert "pylibjpeg-libjpeg" not in closure(requirements_of_users())[0]
    lists = (ROOT / "requirements").glob("*.txt")
    assert not [path.name for path in lists if "pylibjpeg-libjpeg" in path.read_text()]


@pytest.mark.parametrize(
    ("text", "is_refused"),
    [
        ("GNU General Public License v3 (GPLv3)", True),
        ("GPL-3.0-only", True),
        ("AGPL-3.0", True),
        ("GNU Lesser General Public License v2 (LGPLv2)", True),
        ("BSD-3-Clause AND MIT", False),
        ("Apache-2.0 WITH LLVM-exception", False),
        ("Mozilla Public License 2.0 (MPL 2.0)", False),
    ],
)
def test_licences_are_told_apart(text, is_refused):
    assert bool(objection(text)) == is_refused
