"""The tree itself: rooms and the arrows between them, light parts stay light, no secret is in
it."""

import ast
import base64
import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
# package -> what it must not import; inside `beam/`, `import apache_beam as beam` is another
# package.
FORBIDDEN = {
    "lake": {"beam", "apache_beam", "trainer", "launch", "radlake"},
    "beam": {"trainer", "launch", "keras", "radlake"},
    "trainer": {"beam", "apache_beam", "launch"},
    "launch": {"beam", "apache_beam", "tensorflow", "keras"},
    # The command imports a module when its word is used; of the others it only knows their names.
    "radlake": {"beam", "apache_beam", "trainer", "launch", "tensorflow", "keras", "numpy"},
}
# package, or folder in one -> {room -> the rooms that its files may import}. A room is a folder, or
# a file beside the folders. A row stands above every room that it names, so there is no circle.
ARROWS = {
    "trainer": {
        "task": "tuning training evaluation prediction serving inference config workdir options "
        "data devices display",
        "options": "config",
        "tuning": "devices display workdir config",
        # The four verbs stand side by side: none imports another.
        "training": "devices data augmentation models scoring display workdir provenance config",
        "evaluation": "inference data scoring models display workdir provenance config",
        "prediction": "inference data display config",
        "serving": "inference data workdir provenance config",
        "inference": "data models scoring workdir config",
        "provenance": "workdir",
        "display": "scoring workdir config",
        "workdir": "models config",
        "scoring": "models config",
        "data": "devices config",
        "models": "config",
        "augmentation": "config",
        "config": "",
        "devices": "",
    },
    "lake": {
        "__main__": "inspection records terminal storage signals",
        "inspection": "lock predictions records sources labels terminal scan exam ids storage pool "
        "signals picture clock",
        "lock": "terminal storage signals clock",
        "predictions": "sources labels terminal scan exam storage",
        "records": "sources labels scan exam ids storage",
        "sources": "labels scan exam storage ids",
        "labels": "scan storage",
        "terminal": "signals storage",
        "picture": "",
        "scan": "exam",
        "exam": "",
        "ids": "",
        "storage": "signals disk",
        "pool": "signals",
        "clock": "",
        "signals": "",
        "disk": "",
    },
    # The door of a room: dicom/dicom.py, pictures/images.py, volumes/metaimage.py, masks/masks.py.
    "lake/sources": {
        "reader": "masks volumes pictures dicom kinds names",
        "masks": "volumes pictures dicom damage",
        "volumes": "dicom pixels damage",
        "kinds": "pictures names",
        "dicom": "codecs pixels damage",
        "pictures": "codecs pixels damage",
        "codecs": "",
        "pixels": "clahe",
        "clahe": "",
        "damage": "",
        "names": "",
    },
    "beam": {
        "convert": "conversion estimate running",
        "predict": "prediction running",
        "table": "conversion running",
        "synthetic_ct": "synthetic phantoms running",
        "synthetic": "phantoms running",
        "estimate": "conversion running",
        "conversion": "running",
        "prediction": "running",
        "phantoms": "",
        "running": "",
    },
}
ENTRIES, FLOORS = 17, 7  # that each of SMALL shows at most
SMALL = ("trainer", "lake", "lake/sources", "beam")
WITHOUT_TENSORFLOW = ("models", "augmentation", "scoring", "config")


def imported(path: Path) -> set[str]:
    """Dotted names of all that a file imports, also inside functions: modules, and what is taken
    from them."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(package: str, name: str) -> str | None:
    """The room of a dotted name of the package; None: the package itself, such as lake.Reject."""
    place = name.replace(".", "/")
    if not place.startswith(f"{package}/"):
        return None
    room = place.removeprefix(f"{package}/").split("/")[0]
    folder = ROOT / package
    return room if (folder / room).is_dir() or (folder / f"{room}.py").exists() else None


@functools.cache
def arrows(package: str) -> dict[str, dict[str, set[str]]]:
    """{room: {another room that it imports: the files that do}} of a package."""
    result = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        room = path.relative_to(ROOT / package).with_suffix("").parts[0]
        if room == "__init__":
            continue
        targets = {room_of(package, name) for name in imported(path)} - {None, room}
        row = result.setdefault(room, {})
        for target in targets:
            row.setdefault(target, set()).add(str(path.relative_to(ROOT)))
    return result


def floor_of(room: str, rows: dict[str, dict]) -> int:
    """1 where a room imports no other; else one above the highest that it imports."""
    return 1 + max((floor_of(other, rows) for other in rows[room]), default=0)


def test_packages_import_one_way():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for package, forbidden in FORBIDDEN.items()
        for path in (ROOT / package).rglob("*.py")
        for name in {name.split(".")[0] for name in imported(path)} & forbidden
    ]
    assert not wrong


@pytest.mark.parametrize("package", ARROWS)
def test_rooms_import_what_the_table_says(package):
    rows = {room: set(others.split()) for room, others in ARROWS[package].items()}
    assert rows.keys() == arrows(package).keys()
    wrong = [
        f"{', '.join(sorted(files))} -> {target}"
        for room, targets in arrows(package).items()
        for target, files in targets.items()
        if target not in rows[room]
    ]
    assert not wrong


@pytest.mark.parametrize("package", ARROWS)
def test_the_table_points_down_and_has_no_circle(package):
    above = set()
    for room, others in ARROWS[package].items():
        assert not above & set(others.split()), f"{room} points up"
        above.add(room)


@pytest.mark.parametrize("package", SMALL)
def test_a_package_is_small_to_look_at(package):
    entries = {path.name for path in (ROOT / package).iterdir()} - {"__init__.py", "__pycache__"}
    assert len(entries) <= ENTRIES
    rows = arrows(package)
    assert max(floor_of(room, rows) for room in rows) <= FLOORS


def test_every_room_has_a_card_and_nothing_else_in_it():
    for package in FORBIDDEN:
        for path in (ROOT / package).rglob("*/__init__.py"):
            tree = ast.parse(path.read_text())
            assert ast.get_docstring(tree) and len(tree.body) == 1, path


@pytest.mark.parametrize("room", WITHOUT_TENSORFLOW)
def test_networks_losses_metrics_and_augmentation_use_keras_alone(room):
    files = [*(ROOT / "trainer" / room).rglob("*.py")]
    names = {path.name: {name.split(".")[0] for name in imported(path)} for path in files}
    assert not [name for name, packages in names.items() if "tensorflow" in packages]


def test_every_package_is_in_setup():
    setup = (ROOT / "setup.py").read_text()
    packages = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in FORBIDDEN
        for path in (ROOT / top).rglob("__init__.py")
    }
    package_list = re.search(r"packages=\[(.*?)\]", setup, re.DOTALL)[1]
    packages.add("radlake.configs")  # the folder configs/, which has no code
    assert packages == set(re.findall(r'"(.*?)"', package_list))


def test_conversion_and_help_need_no_tensorflow():
    code = (
        "import sys, beam.convert, beam.conversion.options, beam.predict, beam.synthetic, "
        "beam.synthetic_ct, lake.__main__, launch.cluster, launch.dataflow, launch.slurm, "
        "launch.tpu_vm, launch.vertex, radlake.command, trainer.config.files, trainer.task\n"
        "beam.conversion.options.parser(); trainer.task.parser()\n"
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# --- size and words ---

LONGEST_FUNCTION, LONGEST_FILE = 60, 320  # lines, of the packages
# Words that name nothing; say what the thing is: headers, message, position.
VAGUE = {"found", "said", "told", "asked", "made", "own", "known", "given", "at"}
CODE = (*FORBIDDEN, "tests", "benchmarks", "docs")


class Definition(NamedTuple):
    """A module, class or function of a file."""

    place: str  # FILE:LINE
    kind: type[ast.AST]
    name: str
    num_lines: int
    docstring: str


class Tree(NamedTuple):
    """What is checked of the Python files below a folder; all their nodes would be millions."""

    definitions: list[Definition]
    bound_names: list[tuple[str, str]]  # (FILE:LINE, name) of locals, parameters and fields


@functools.cache
def read_tree(top: str) -> Tree:
    tree = Tree([], [])
    for path in sorted((ROOT / top).rglob("*.py")):
        file = path.relative_to(ROOT)
        for node in ast.walk(ast.parse(path.read_text())):
            place = f"{file}:{getattr(node, 'lineno', 1)}"
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                name = getattr(node, "name", file.stem)
                num_lines = 0 if isinstance(node, ast.Module) else node.end_lineno - node.lineno + 1
                docstring = ast.get_docstring(node) or ""
                tree.definitions.append(Definition(place, type(node), name, num_lines, docstring))
            elif name := bound_name(node):
                tree.bound_names.append((place, name))
    return tree


def bound_name(node: ast.AST) -> str:
    """Return the name of a local, parameter or field that a node binds, or ""."""
    if isinstance(node, ast.arg):
        return node.arg
    is_bound = isinstance(getattr(node, "ctx", None), ast.Store)
    if isinstance(node, ast.Name) and is_bound:
        return node.id
    return node.attr if isinstance(node, ast.Attribute) and is_bound else ""


@pytest.mark.parametrize("package", FORBIDDEN)
def test_files_and_functions_are_short(package):
    files = list((ROOT / package).rglob("*.py"))
    assert not [path for path in files if path.read_text().count("\n") > LONGEST_FILE]
    functions = functions_below(package)
    assert functions
    assert not [function for function in functions if function.num_lines > LONGEST_FUNCTION]


def functions_below(top: str) -> list[Definition]:
    return [one for one in read_tree(top).definitions if one.kind is ast.FunctionDef]


@pytest.mark.parametrize("top", CODE)
def test_names_say_what_the_thing_is(top):
    names = [(one.place, one.name) for one in functions_below(top)]
    wrong = [name for name in names if name[1] == "of" or name[1].lstrip("_").startswith("of_")]
    assert not wrong + [name for name in read_tree(top).bound_names if name[1] in VAGUE]


@pytest.mark.parametrize("top", CODE)
def test_docstrings_are_sentences(top):
    definitions = read_tree(top).definitions
    assert definitions
    assert not [one for one in definitions if one.docstring.startswith("Of ")]


def secrets_in(paths: list[Path]) -> list[str]:
    """What detect-secrets says of the lines of the files. It takes half a minute for this
    repository, so that its filters judge those lines alone that one of its detectors stops at."""
    from detect_secrets import settings
    from detect_secrets.core import scan
    from detect_secrets.plugins import keyword

    words = re.compile("|".join(keyword.DENYLIST), re.IGNORECASE)  # KeywordDetector is the slowest

    @functools.cache
    def is_suspicious(line: str, suffix: str) -> bool:
        return any(
            detector.analyze_line(filename=f"a{suffix}", line=line, line_number=1)
            for detector in detectors
            if type(detector) is not keyword.KeywordDetector or words.search(line)
        )

    with settings.default_settings():
        detectors = scan.get_plugins()
        return [
            f"{path}:{number}: {secret.type}"
            for path in paths
            for lines in scan._get_lines_from_file(str(path))
            for number, line in enumerate(lines, start=1)
            if is_suspicious(line.rstrip(), path.suffix)
            for secret in scan._process_line_based_plugins([(1, line)], str(path))
        ]


TOKEN = base64.b64encode(bytes(range(40))).decode()
SECRETS = {
    "key.json": '{"private_key": "-----BEGIN ' + 'PRIVATE KEY-----"}',
    "quoted.py": "\n\npass" + "word = 'correct-horse-battery'\n",
    "unquoted.yaml": "a:\n  client_" + "key: correct-horse-battery\n",
    "unquoted.ini": "[a]\nb = 1\ndb_" + "pass = correct-horse-battery\n",
    "amazon.md": "AK" + "IAIOSFODNN7EXAMPLQ",
    "random.py": f"a = '{TOKEN}'",
    "random.cfg": f"[a]\nb = {TOKEN}\n",
}


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_seen(name, tmp_path):
    (tmp_path / name).write_text(SECRETS[name])
    assert secrets_in([tmp_path / name])


@pytest.mark.slow
def test_no_secret_is_in_the_repository_or_may_get_into_an_image():
    """What is committed, and what lies beside it untracked, which an engine would be sent."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "setup.py" in names
    texts = [
        name for name in names.splitlines() if not name.endswith((".png", ".jpg", ".tfrecord"))
    ]
    assert not secrets_in([ROOT / name for name in texts])


def test_no_two_test_files_have_one_name():
    """pytest imports each as a module of its name alone, and a second one of a name not at all."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py")]
    assert len(names) == len(set(names))
