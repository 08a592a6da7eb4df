"""The tree itself: imports point one way, light parts stay light, and no secret is in it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# package -> what it must not import; inside `beam/`, `import apache_beam as beam` is another
# package.
FORBIDDEN = {
    "lake": {"beam", "apache_beam", "trainer", "launch"},
    "beam": {"trainer", "launch", "keras"},
    "trainer": {"beam", "apache_beam", "launch"},
    "launch": {"beam", "apache_beam", "tensorflow", "keras"},
}


def imported(path: Path) -> set[str]:
    """Top-level names of every package that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def test_arrows_point_one_way():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for package, forbidden in FORBIDDEN.items()
        for path in (ROOT / package).rglob("*.py")
        for name in imported(path) & forbidden
    ]
    assert not wrong


def test_every_package_is_in_setup():
    setup = (ROOT / "setup.py").read_text()
    packages = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in FORBIDDEN
        for path in (ROOT / top).rglob("__init__.py")
    }
    listed = re.search(r"packages=\[(.*?)\]", setup)[1]
    assert packages == set(re.findall(r'"(.*?)"', listed))


def test_conversion_and_help_need_no_tensorflow():
    code = (
        "import sys, beam.convert, beam.options, beam.predict, beam.synthetic, "
        "beam.synthetic_ct, lake.__main__, launch.cluster, launch.dataflow, launch.tpu_vm, "
        "launch.vertex, trainer.config, trainer.task\n"
        "beam.options.parser(); trainer.task.parser()\n"
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_networks_losses_metrics_and_augmentation_use_keras_alone():
    files = [*(ROOT / "trainer" / "models").glob("*.py")]
    names = ("losses", "metrics", "augment", "warp", "grey", "transforms", "config")
    files += [ROOT / "trainer" / f"{name}.py" for name in names]
    assert not [path.name for path in files if "tensorflow" in imported(path)]


def secrets_in(paths: list[Path]) -> list[str]:
    from detect_secrets import SecretsCollection, settings

    found = SecretsCollection()
    with settings.default_settings():
        for path in paths:
            found.scan_file(str(path))
    return [f"{path}:{secret.line_number}: {secret.type}" for path, secret in found]


@pytest.mark.slow
def test_no_secret_is_in_the_repository_or_may_get_into_an_image(tmp_path):
    """What is committed, and what lies beside it untracked, which an engine would be sent."""
    planted = tmp_path / "key.json"
    planted.write_text('{"private_key": "-----BEGIN ' + 'PRIVATE KEY-----"}')
    assert len(secrets_in([planted])) == 1
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "setup.py" in names
    assert not secrets_in([ROOT / name for name in names.splitlines()])
