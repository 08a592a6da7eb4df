"""report.html in Chromium, on a screen and on a phone: every control does what it says, nothing is
cut off, and axe-core finds nothing that keeps a reader out."""

import csv
import io
import re
import shutil

import numpy as np
import pytest
from makers.predictions import example, scores_at
from makers.reports import NASTY, evaluation_of, without_masks

from trainer.evaluation import charts, choice, gallery, report
from trainer.evaluation import threshold_grid as grid
from trainer.evaluation.outcomes import decide
from trainer.inference import decision as decisions
from trainer.inference.decision import Decision, Triplet

pytestmark = pytest.mark.services
DECISION = Decision(Triplet(0.5, 0.002, 0.3), 0.2)
IMAGES = 240
SCREEN, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
FORMULA = '=HYPERLINK("http://x","y")'
# Elements that reach beyond the page at the right, but those in a box that scrolls or in a drawing.
CUT_OFF = """() => [...document.querySelectorAll("body *")].filter((one) =>
  one.getBoundingClientRect().right > document.documentElement.clientWidth + 1
  && !one.closest(".scroll, nav ul, svg, pre, .hidden, .skip, dialog:not([open])"))
  .map((one) => one.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if not path:
        pytest.skip(f"none of {', '.join(names)} is here; make test-services installs chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def predictions():
    """Many images, of which one has the id of an attack on a page and one that on a spreadsheet."""
    few, pairs = example()
    many = few.take(np.arange(IMAGES) % 40)
    ids = [NASTY, FORMULA, *(f"i{n}" for n in range(2, IMAGES))]
    return many._replace(ids=np.array(ids)), pairs * (IMAGES // 40)


@pytest.fixture(scope="module")
def files(predictions, tmp_path_factory):
    """The pages of a segmenter and of a classifier, by name."""
    many, pairs = predictions
    classifier = without_masks(many)
    frozen = choice.choose_for_classifier(classifier.lesion, classifier.labels)
    paths = {}
    for name, part, decision in (("segmenter", many, DECISION), ("classifier", classifier, frozen)):
        folder = tmp_path_factory.mktemp(name)
        paths[name] = folder / "report.html"
        paths[name].write_text(report.page(*evaluation_of(part, pairs, decision, folder)))
    return paths


@pytest.fixture
def show(browser, files):
    """A function that opens a page; what its scripts complain of, and whatever it asks a network
    for, is an error."""
    complaints, pages = [], []

    def open_page(name="segmenter", viewport=SCREEN, **context):
        page = browser.new_page(viewport=viewport, **context)
        pages.append(page)
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda one: one.url[:5] in ("file:", "data:", "blob:") or complaints.append(one.url))  # fmt: skip  # noqa: E501
        page.goto(f"file://{files[name]}")
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not complaints


def move(page, **positions) -> None:
    """Move sliders, as a hand does."""
    for name, position in positions.items():
        script = "(one, value) => { one.value = value; one.dispatchEvent(new Event('input')); }"
        page.locator(f"#slider-{name}").evaluate(script, position)


def place_of(page, point: str) -> tuple[float, float]:
    """Return where in the unit square a point of a chart lies."""
    x, y = re.findall(r"[\d.]+", page.get_attribute(f"#{point}", "transform"))
    width, height = charts.RIGHT - charts.LEFT, charts.BOTTOM - charts.TOP
    return (float(x) - charts.LEFT) / width, (charts.BOTTOM - float(y)) / height


def outline_of(page, number: int) -> str:
    return page.locator(".picture").nth(number).locator(".predicted .core").get_attribute("d")


def area(path: str) -> float:
    """Return the area within an SVG path: holes go round the other way."""
    total = 0.0
    for part in path.split("Z"):
        x, y = np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", part), float).reshape(-1, 2).T
        total += (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2
    return abs(total)


def test_sliders_change_scores_points_heat_map_and_outlines(show, predictions):
    page, (many, pairs) = show(), predictions
    frozen_texts = page.locator("#now tbody td").all_text_contents()
    frozen_outline, frozen_point = outline_of(page, 0), place_of(page, "roc-moved")
    assert frozen_texts[0::2] == frozen_texts[1::2]
    assert place_of(page, "roc-frozen") == pytest.approx(frozen_point, abs=0.002)
    values = {"top": grid.TOPS, "area": grid.AREAS_SHARE, "bottom": grid.BOTTOMS}
    values["lesion"] = decisions.LESIONS
    for positions in ({"top": 1, "area": 0, "bottom": 5, "lesion": 0}, {"lesion": 4, "bottom": 0}):
        move(page, **positions)
        places_now = {name: int(page.input_value(f"#slider-{name}")) for name in values}
        chosen = {name: values[name][position] for name, position in places_now.items()}
        triplet = Triplet(chosen["top"], chosen["area"], chosen["bottom"])
        expected = scores_at(many, Decision(triplet, chosen["lesion"]))
        for name in report.MOVED:
            text = page.text_content(f"#now-{name}")
            assert float(text) == pytest.approx(expected[name], abs=0.0051), name
        hits = round(expected["sensitivity"] * (many.labels > 0).sum())
        assert page.text_content("#now-hits") == str(hits)
        point = place_of(page, "roc-moved")
        right = 1 - expected["specificity"], expected["sensitivity"]
        assert point == pytest.approx(right, abs=0.002) and point != frozen_point
        moved_cell = page.locator("#heat-map td.moved")
        assert moved_cell.count() == 1
        assert float(moved_cell.text_content()) == pytest.approx(expected["dice_mean"], abs=0.0051)
    # All masks are kept, so the outlines are the borders of p > 0.1, to a pixel of the map or so.
    move(page, lesion=0, area=0, bottom=0)
    page.wait_for_timeout(200)
    places = sum(gallery.choose(decide(many, DECISION)).values(), [])
    for number, place in enumerate(places):
        p = pairs[place][0]
        pixels = (p > np.float32(0.1)).sum()
        assert area(outline_of(page, number)) == pytest.approx(pixels, rel=0.25, abs=8), number
    move(page, lesion=11, top=8, area=6)
    page.wait_for_timeout(200)
    assert "" in [outline_of(page, number) for number in range(len(places))]
    page.click("#reset")
    page.wait_for_timeout(200)
    assert page.locator("#now tbody td").all_text_contents() == frozen_texts
    assert outline_of(page, 0) == frozen_outline and place_of(page, "roc-moved") == frozen_point


def luminance(colour: str) -> float:
    """Return the relative luminance of "rgb(r, g, b)", as WCAG 2 defines it."""
    levels = np.array(re.findall(r"\d+", colour)[:3], float) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_outlines_are_seen_on_any_grey_and_told_apart_without_colour(show):
    page = show()

    def style(kind: str, line: str, name: str) -> str:
        script = f"one => getComputedStyle(one).{name}"
        return page.locator(f".picture .{kind} .{line}").first.evaluate(script)

    for kind in ("truth", "predicted"):
        edges = [luminance(style(kind, line, "stroke")) for line in ("edge", "core")]
        for grey in (0, 128, 255):
            ground = luminance(f"rgb({grey}, {grey}, {grey})")
            contrasts = [(max(e, ground) + 0.05) / (min(e, ground) + 0.05) for e in edges]
            assert max(contrasts) >= 3, (kind, grey)
        assert float(style(kind, "edge", "strokeWidth")[:-2]) > float(
            style(kind, "core", "strokeWidth")[:-2]
        )
    dashes = [style(kind, "core", "strokeDasharray") for kind in ("truth", "predicted")]
    assert dashes[0] == "none" and dashes[1] != "none"
    page.uncheck("#show-truth")
    shown = [style(kind, "core", "visibility") for kind in ("truth", "predicted")]
    assert shown == ["hidden", "visible"]


def test_an_image_is_enlarged_and_left_by_keyboard(show):
    page = show()
    pictures = page.locator(".picture")
    pictures.nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator("#viewer").evaluate("one => one.open")
    assert page.text_content("#viewer-facts").startswith(f"2 of {pictures.count()}: dice 0.")
    small, large = (page.locator(one).first.bounding_box() for one in (".picture svg", "#viewer-picture svg"))  # fmt: skip  # noqa: E501
    assert large["width"] > 2 * small["width"]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.text_content("#viewer-facts").startswith("3 of ")
    page.keyboard.press("t")
    assert page.get_attribute('[data-outline="truth"]', "aria-pressed") == "false"
    assert page.locator("#viewer-picture .truth .core").evaluate(
        "one => getComputedStyle(one).visibility") == "hidden"  # fmt: skip
    # The focus stays in the dialog, and goes back to the image that was shown last.
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate("!document.activeElement.closest('main, nav, header')")
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").evaluate("one => one.open")
    assert page.evaluate("document.activeElement.dataset.figure") == "2"
    pictures.first.click()
    page.click("#viewer-previous")
    assert page.text_content("#viewer-facts").startswith(f"{pictures.count()} of ")
    page.click("#viewer-close")
    assert not page.locator("#viewer").evaluate("one => one.open")


def test_window_and_level_change_the_grey_of_the_pictures(show):
    page = show()

    def slope() -> float:
        return float(page.get_attribute("#window-level feFuncR", "slope"))

    page.locator("#window").fill("128")
    page.locator("#level").fill("64")
    # Levels 0 to 128 are spread over all greys.
    assert slope() == 2
    assert float(page.get_attribute("#window-level feFuncR", "intercept")) == 0
    page.click("#reset-window")
    assert slope() == 1 and page.text_content("#value-level") == "128"
    page.locator(".picture").first.click()
    box = page.locator("#viewer-picture").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 128, y)
    page.mouse.up()
    assert slope() == pytest.approx(256 / 384, abs=0.01)
    page.locator("#viewer-picture").dblclick()
    assert slope() == 1
    # The greys themselves: a narrow window leaves black and white.
    page.locator("#viewer-close").click()
    page.locator("#window").fill("2")
    from PIL import Image

    picture = Image.open(io.BytesIO(page.locator(".picture image").first.screenshot())).convert("L")
    levels = np.bincount(np.asarray(picture).ravel(), minlength=256)
    assert levels[:8].sum() + levels[-8:].sum() > 0.6 * levels.sum()


def test_the_table_is_sorted_searched_and_taken_as_a_csv(show, predictions):
    page, outcomes = show(), decide(predictions[0], DECISION)
    rows = page.locator("#image-table tbody tr")

    def column(title: str) -> list[str]:
        titles = [text.strip() for text in page.locator("#image-table th").all_text_contents()]
        cells = page.locator(f"#image-table tbody td:nth-child({titles.index(title) + 1})")
        return cells.all_text_contents()

    assert rows.count() == 100 and column("image")[0] == NASTY
    page.click("#more-rows")
    page.click("#more-rows")
    assert rows.count() == IMAGES and not page.locator("#more-rows").is_visible()
    for order in ("ascending", "descending"):
        page.get_by_role("button", name="dice", exact=True).click()
        assert page.locator(f"#image-table th[aria-sort={order}]").text_content() == "dice"
        dices = [float(text) for text in column("dice")]
        expected = sorted(outcomes.dice.round(4), reverse=order == "descending")
        assert dices == pytest.approx(expected[:100], abs=0.00051)
    is_missed = (predictions[0].labels > 0) & ~outcomes.is_called
    unit = "mm" if predictions[0].has_spacing[is_missed].any() else "px"
    for _ in range(2):
        page.get_by_role("button", name=f"HD95, {unit}").click()
    assert column(f"HD95, {unit}")[0] == "infinite" and column(f"HD95, {unit}")[-1] == "-"
    page.fill("#filter", "false negative")
    assert page.text_content("#row-count").startswith(f"{is_missed.sum()} of {is_missed.sum()} ")
    assert set(column("result")) == {"false negative"}
    page.fill("#filter", "")
    with page.expect_download() as download:
        page.click("#take-csv")
    assert download.value.suggested_filename == "images.csv"
    text = download.value.path().read_bytes().decode()
    table = {row["image_id"]: row for row in csv.DictReader(io.StringIO(text))}
    assert len(table) == IMAGES and f"'{FORMULA}" in table and NASTY in table
    assert float(table["i7"]["dice"]) == pytest.approx(outcomes.dice[7], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "viewport", "scheme"),
    [("segmenter", SCREEN, "light"), ("segmenter", PHONE, "dark"), ("classifier", PHONE, "light")],
)
def test_nothing_is_cut_off_and_nobody_kept_out(show, name, viewport, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = show(name, viewport, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    assert page.evaluate(CUT_OFF) == []
    page.fill("#filter", NASTY)  # one row is like the other, and each takes axe-core its time
    violations = Axe().run(page).response["violations"]
    if viewport == PHONE:
        assert not page.locator(".controls").evaluate("one => one.open")
        page.click(".controls summary")
    page.locator(".picture").first.click()
    violations += Axe().run(page, "#viewer").response["violations"]
    assert not [(one["id"], [node["html"][:90] for node in one["nodes"]]) for one in violations]
    assert page.evaluate(CUT_OFF) == []
    page.keyboard.press("Escape")
    # The menu leads to every section.
    for link in page.locator("nav a").all():
        link.click()
        assert page.locator(link.get_attribute("href")).is_visible()


def test_paper_has_the_images_and_no_controls(show):
    page = show(viewport={"width": 720, "height": 1000}, color_scheme="dark")
    page.emulate_media(media="print")
    for name in ("nav", "aside", "#take-csv", "#more-rows"):
        assert not page.locator(name).first.is_visible()
    assert page.locator(".picture image").first.is_visible()
    assert page.evaluate(CUT_OFF) == []
    ground = page.locator("body").evaluate("one => getComputedStyle(one).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
