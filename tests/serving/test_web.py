"""The page in a real browser, of a real server of real exports."""

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.conftest import NAMES
from tests.serving.running import PATIENCE, Running, describe, running, wait_until

pytest.importorskip("playwright")
from playwright.sync_api import Browser, Page, Route, expect

WEB = Path(__file__).parents[2] / "albef/serving/web"
SECTIONS = {
    "search": "Search",
    "ask": "Ask",
    "ground": "Find",
    "compare": "Compare",
    "entail": "Check",
    "match": "Rank",
    "classify": "Classify",
}
CREDIT = re.compile(r"(\w+), [0-9.]+ m?s")
EVIL = "<b>bold</b><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
"""A text and the name of a picture, which are texts and nothing else."""
BAD = {"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture at all"}
WATCH = """
window.broken = [];
addEventListener("securitypolicyviolation", (event) => broken.push(event.violatedDirective));
"""
DROP = """
([selector, files]) => {
  const carried = new DataTransfer();
  for (const [name, bytes] of files) {
    carried.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
  }
  const event = { bubbles: true, cancelable: true, dataTransfer: carried };
  const place = document.querySelector(selector);
  for (const kind of ["dragenter", "dragover", "drop"]) {
    place.dispatchEvent(new DragEvent(kind, event));
  }
}
"""


@pytest.fixture
def url(everything: Running) -> str:
    return f"{everything.client.base_url}"


@contextlib.contextmanager
def opened(browser: Browser, url: str, **how: Any) -> Iterator[Page]:
    """A page of its own, which must not complain; Chromium itself tells of answers that refuse."""
    with contextlib.closing(browser.new_context(base_url=url, **how)) as context:
        context.set_default_timeout(PATIENCE * 1000)
        page = context.new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(f"{error}"))
        page.on("console", lambda line: complaints.append(f"{line.type}: {line.text}"))
        page.add_init_script(WATCH)
        yield page
        assert page.evaluate("broken") == [], "its content security policy was violated"
        assert page.evaluate("window.hacked") is None
        assert page.locator("b b, main script, img[src=x]").count() == 0
        bad = [line for line in complaints if not re.match("log|info|.*Failed to load", line)]
        assert bad == []


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with opened(browser, url) as page:
        yield page


def show(page: Page, section: str) -> Any:
    page.goto(f"/#{section}")
    place = page.locator(f"#{section}")
    expect(place).to_be_visible()
    return place


def give(place: Any, picture: Any, nth: int = 0) -> None:
    if isinstance(picture, bytes):
        picture = {"name": f"{EVIL}.png", "mimeType": "image/png", "buffer": picture}
    place.locator(".slot input").nth(nth).set_input_files(picture)


def say(place: Any, text: str) -> None:
    place.locator("form [name=text]").fill(text)
    place.locator("form [name=text]").press("Enter")


def shares(place: Any) -> list[float]:
    texts = place.locator(".bars").first.locator(".value").all_text_contents()
    return [float(re.sub(r"[^\d.]", "", text)) for text in texts]


def test_typing_finds_images(page: Page) -> None:
    place = show(page, "search")
    status = place.locator(".status").first
    expect(status).to_contain_text("The 5 images in “gallery”")
    expect(place.locator(".tile img[src]")).to_have_count(5)
    examples = place.locator(".examples button").all_text_contents()
    assert set(examples) <= {"a dog left of an apple", "two apples above a squid", "three frogs"}
    assert len(examples) == 3
    page.locator("#query").press_sequentially("two frogs")  # no Enter
    expect(place.locator(".tile.read")).to_have_count(5)
    values = place.locator(".tile b").all_text_contents()
    assert len(values) == 5
    assert all(value.endswith("%") for value in values)
    expect(status).to_contain_text(CREDIT)
    told = place.locator(".source").first.get_attribute("title") or ""
    assert re.fullmatch("kind retrieval, digest [0-9a-f]{12}", told)
    page.locator("#rerank").uncheck()
    expect(status).to_contain_text("by similarity")
    expect(place.locator(".tile.read")).to_have_count(0)
    widths = page.evaluate("[...document.images].filter((i) => i.src).map((i) => i.naturalWidth)")
    assert all(widths)


@pytest.mark.slow
def test_a_model_that_ranks_by_similarity_alone_offers_no_re_ranking(
    browser: Browser, tiny_export: Path, gallery: Path, tmp_path: Path
) -> None:
    export = describe(shutil.copytree(tiny_export, tmp_path / "export"), itc_weight=None)
    with (
        running([export], gallery=gallery) as server,
        opened(browser, str(server.client.base_url)) as page,
    ):
        place = show(page, "search")
        expect(place.locator(".tile img[src]")).to_have_count(5)
        expect(page.locator("#rerank")).to_be_hidden()
        page.locator("#query").press_sequentially("two frogs")
        expect(place.locator(".status").first).to_contain_text("by similarity")


@pytest.mark.slow
def test_search_needs_no_mouse(page: Page) -> None:
    show(page, "ask")
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_visible()
    expect(page.locator("#query")).to_be_focused()
    page.keyboard.type("a fox/")
    assert page.locator("#query").input_value() == "a fox/"
    page.keyboard.press("Enter")
    expect(page.locator(".tile.read")).to_have_count(5)
    page.locator(".tile").first.focus()
    first = page.evaluate("document.activeElement.title")
    page.keyboard.press("ArrowRight")
    second = page.evaluate("document.activeElement.title")
    assert [first, second] == [
        page.locator(".tile").nth(i).get_attribute("title") for i in range(2)
    ]
    page.keyboard.press("Enter")
    expect(page.locator("#shown")).to_be_visible()
    expect(page.locator("#shown-title")).to_have_text(second)
    page.keyboard.press("Escape")
    expect(page.locator("#shown")).to_be_hidden()
    assert page.evaluate("document.activeElement.title") == second
    page.keyboard.press("Escape")
    expect(page.locator("#query")).to_have_value("")
    expect(page.locator("#query")).to_be_focused()


def test_a_text_that_is_sent_before_its_image_is_read_is_answered(
    page: Page, pictures: list[bytes]
) -> None:
    place = show(page, "ground")
    page.evaluate(
        "() => { const read = createImageBitmap; window.createImageBitmap = async (blob) => {"
        " await new Promise((done) => setTimeout(done, 300)); return read(blob); }; }"
    )
    give(place, pictures[5])
    say(place, EVIL)
    expect(place.locator("figcaption b")).to_have_text(EVIL)


@pytest.mark.slow
def test_ground_draws_a_map(page: Page, pictures: list[bytes]) -> None:
    place = show(page, "ground")
    give(place, pictures[5])
    say(place, EVIL)
    expect(place.locator(".map")).to_be_visible()
    expect(place.locator("figcaption b")).to_have_text(EVIL)
    canvas = place.locator("canvas")

    def drawn() -> str:
        return str(canvas.evaluate("(canvas) => canvas.toDataURL()"))

    everything = drawn()
    page.locator("#box").uncheck()
    heat = drawn()
    page.locator("#heat").focus()
    page.keyboard.press("Home")
    picture = drawn()
    page.keyboard.press("End")
    assert drawn() == heat
    page.locator("#grid").check()
    assert len({everything, heat, picture, drawn()}) == 4
    page.locator("#grid").uncheck()
    page.locator("#heat").press("End")
    canvas.evaluate("(canvas) => canvas.scrollIntoView({ block: 'center' })")
    area = canvas.bounding_box()
    assert area
    for share, boxes in ((0.1, 1), (0.5, 2)):  # drawn with the mouse
        page.mouse.move(area["x"] + share * area["width"], area["y"] + share * area["height"])
        page.mouse.down()
        page.mouse.move(area["x"] + area["width"] * (share + 0.4), area["y"] + area["height"] * 0.9)
        page.mouse.up()
        box = r"\d+, \d+, \d+, \d+"
        value = re.compile(f"^{'; '.join([box] * boxes)}$")
        expect(place.locator("#boxes")).to_have_value(value)
        expect(place).to_have_attribute("aria-busy", "false")
    expect(place.locator("figcaption")).to_contain_text(
        re.compile(r"Best of 2 boxes: number [12]\.")
    )
    assert drawn() != heat
    page.locator("#boxes").fill("1, 2, 3")
    page.locator("#boxes").press("Enter")
    expect(place.get_by_role("alert")).to_contain_text("left, top, width, height")
    give(place, pictures[0])  # the map was another picture's
    expect(place.locator(".map")).to_be_hidden()


@pytest.mark.slow
def test_dropped_images_are_looked_for_or_added(page: Page, pictures: list[bytes]) -> None:
    place = show(page, "search")
    expect(place.locator(".tile img[src]")).to_have_count(5)
    page.evaluate(DROP, ["#search h2", [[EVIL, list(pictures[0])]]])
    expect(place.locator("#alike")).to_contain_text(f"Like {EVIL}")
    expect(place.locator(".status").first).to_contain_text("by similarity")
    expect(place.locator(".tile").first).to_have_attribute("title", f"{NAMES[0]}.png")
    several = [["one <b>.png", list(pictures[0])], ["two.png", list(pictures[1])]]
    several += [["setup.py", list(b"import this")]]
    page.evaluate(DROP, ["body", several])
    added = page.locator("#adding")
    expect(added.locator(".status")).to_contain_text("Added 2 images; “images” now has 2.")
    refused = "Not added: setup.py: the image of the file cannot be decoded"
    expect(added.locator(".status")).to_contain_text(refused)
    expect(added.locator(".status")).to_contain_text(CREDIT)
    expect(page.locator("#index")).to_have_value("images")
    expect(place.locator(".tile img[src]")).to_have_count(2)
    place.locator(".tile").first.click()
    page.get_by_role("button", name="Remove from the collection").click()
    expect(place.locator(".tile")).to_have_count(1)


def test_errors_are_shown_and_a_busy_server_is_asked_again_when_it_says(
    page: Page, pictures: list[bytes]
) -> None:
    def busy(route: Route) -> None:
        body = {"error": {"code": "busy", "message": "the queue is full"}}
        route.fulfill(status=429, headers={"retry-after": "1"}, json=body)

    place = show(page, "ask")
    alert = place.get_by_role("alert")
    give(place, BAD)
    expect(place.locator(".caption")).to_contain_text("notes.png · no preview")
    say(place, "what is it?")
    expect(alert).to_contain_text(re.compile("^The image of file 0 cannot be decoded"))
    expect(place.locator(".card")).to_have_count(0)
    assert place.get_attribute("aria-busy") == "false"
    give(place, pictures[0])
    page.route("**/v1/ask", busy, times=1)
    say(place, "what is it?")
    expect(alert).to_contain_text("The queue is full. Retry in 1 s.")
    again = alert.get_by_role("button", name="Try again")
    expect(again).to_be_disabled()
    again.click()  # waits until it can be
    expect(place.locator(".card")).to_have_count(1)
    expect(place.locator(".card .source")).to_contain_text(re.compile("^vqa, "))
    values = shares(place)
    assert values == sorted(values, reverse=True)
    expect(alert).to_be_hidden()
    page.route("**/v1/ask", lambda route: route.abort(), times=1)
    say(place, "and now?")
    expect(alert).to_contain_text("Cannot reach the server.")


def test_everything_fits_on_a_phone(browser: Browser, url: str, pictures: list[bytes]) -> None:
    how = {"viewport": {"width": 400, "height": 800}, "reduced_motion": "reduce"}
    with opened(browser, url, **how) as page:
        for section, title in SECTIONS.items():
            place = show(page, section)
            assert page.title() == f"{title} · ALBEF"
            for nth in range(place.locator(".slot").count()):
                give(place, pictures[nth], nth)
            say(place, f"two apples above {EVIL}")
            expect(place.locator(".tile, .card, .map figcaption, .bars").first).to_be_visible()
            expect(place).to_have_attribute("aria-busy", "false")
            assert page.evaluate("document.documentElement.scrollWidth") == 400, section


@pytest.mark.slow
def test_the_page_says_which_export_a_missing_section_needs(
    browser: Browser, tiny_exports: dict[str, Path]
) -> None:
    with (
        running([tiny_exports["vqa"]]) as server,
        opened(browser, f"{server.client.base_url}") as page,
    ):
        page.goto("/")
        away = page.locator("#away")
        expect(away).to_contain_text("Rank (an export of kind retrieval with ITM)")
        expect(away).to_contain_text("Classify (an export of kind retrieval)")


@pytest.mark.slow
def test_a_token_is_asked_for_and_kept_for_the_tab(
    browser: Browser, tiny_export: Path, gallery: Path
) -> None:
    token = "0123456789abcdef-right"
    with (
        running([tiny_export], gallery=gallery, tokens=[token]) as server,
        opened(browser, f"{server.client.base_url}") as page,
    ):
        headers = {"authorization": f"Bearer {token}"}
        about = "/v1/indexes/gallery"  # The page does not wait for images that are still read.
        wait_until(lambda: server.client.get(about, headers=headers).json().get("images") == 5)
        page.goto("/")
        dialog = page.locator("#token")
        page.locator("#secret").fill("wrong")
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_contain_text("does not know this token")
        page.keyboard.press("Escape")
        expect(page.locator("#start")).to_contain_text("The server requires a token")
        page.get_by_role("button", name="Try again").click()
        page.locator("#secret").fill(token)
        page.keyboard.press("Enter")
        expect(page.locator(".tile img[src]")).to_have_count(5)
        expect(dialog).to_be_hidden()
        kept = page.evaluate(
            "[Object.values(sessionStorage), localStorage.length, document.cookie]"
        )
        assert kept == [[token], 0, ""]
        assert token not in page.content()
        assert page.locator("nav a").all_text_contents() == ["Search", "Rank", "Classify"]
        expect(page.locator("#away")).to_contain_text("Ask (an export of kind vqa)")
        page.goto("/#ask")  # not served here
        expect(page.locator("#search")).to_be_visible()
        page.reload()
        expect(page.locator(".tile img[src]")).to_have_count(5)  # without asking


def test_the_files_of_the_page_name_nothing_outside() -> None:
    for file in WEB.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//cdn|innerHTML|insertAdjacentHTML|\beval\(", text), file
        if file.suffix == ".html":
            assert not re.search(r"\s(on\w+|style)=|<script(?! type=\"module\" src)|<style", text)


def test_a_page_that_is_opened_as_a_file_says_what_to_do(browser: Browser) -> None:
    with contextlib.closing(browser.new_context()) as context:
        page = context.new_page()
        page.goto((WEB / "index.html").as_uri())
        hint = page.locator("#start .late")
        expect(hint).to_contain_text("python -m http.server")
        expect(hint).to_be_visible()
