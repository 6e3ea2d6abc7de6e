"""The site in a real browser that reaches no network, beside the runtime."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

import albef.runtime
from albef.cli import main
from albef.preprocessing.transforms import MEAN, STD, Evaluate
from tests.conftest import CAPTIONS
from tests.serving.running import describe

SITE = Path(albef.__file__).parent / "serving/site"


@contextmanager
def opened(browser: Any, folder: Path) -> Iterator[Any]:
    """A page of the files of a folder; everything else is refused."""
    context = browser.new_context(base_url="http://site.invalid")
    refused: list[str] = []

    def answer(route: Any) -> None:
        file = folder / (urlsplit(route.request.url).path.strip("/") or "index.html")
        if file.is_file():
            return route.fulfill(path=file)
        refused.append(route.request.url)
        return route.fulfill(status=404, body="")

    context.route("**/*", answer)
    page = context.new_page()
    page.on("pageerror", lambda error: refused.append(f"{error}"))
    page.set_default_timeout(120_000)
    try:
        page.goto("/")
        yield page
    finally:
        context.close()
    assert [each for each in refused if not each.endswith("favicon.ico")] == []


def test_images_become_the_pixels_that_the_runtime_makes_of_them(
    browser: Any, pictures: list[bytes], tmp_path: Path
) -> None:
    shutil.copytree(SITE, tmp_path, dirs_exist_ok=True)
    (tmp_path / "index.html").write_text("")
    program = """async ([bytes, side, how]) => {
      const { pixels } = await import("/pixels.js");
      return [...(await pixels(new Blob([new Uint8Array(bytes)]), side, how))];
    }"""
    how = {"mean": MEAN, "std": STD}
    with opened(browser, tmp_path) as page:
        for picture in pictures:
            for side in (16, 48):
                found = page.evaluate(program, [list(picture), side, how])
                step = 0 if picture.startswith(b"\x89PNG") else 4  # of a channel, between decoders
                expected = Evaluate(side)(picture).ravel()
                np.testing.assert_allclose(found, expected, atol=1e-6 + step / 255 / min(STD))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")
def test_searches_matches_and_answers_as_the_runtime_does(
    browser: Any, tiny_exports: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gallery, site = tmp_path / "gallery", tmp_path / "site"
    gallery.mkdir()
    rng = np.random.default_rng(1)
    for i in range(14):
        noise = rng.integers(0, 256, (4, 4, 4 if i == 3 else 3), dtype=np.uint8)
        Image.fromarray(noise).resize((20 + 7 * i, 60 - 3 * i)).save(gallery / f"{i}.png")
    (gallery / "broken.png").write_bytes(b"no picture")
    exports = {kind: tmp_path / kind for kind in ("retrieval", "vqa")}
    for kind, export in exports.items():  # as calibration and the choice of a weight leave them
        mix = {"itc_weight": 2.0} if kind == "retrieval" else {}
        describe(shutil.copytree(tiny_exports[kind], export), temperature=0.6, **mix)
    given = [str(exports["retrieval"]), str(gallery), str(site)]
    with pytest.raises(SystemExit, match="0"):
        main(["site", *given, "--questions", str(exports["vqa"])])
    printed = capsys.readouterr()
    assert "broken.png is skipped" in printed.err
    assert "14 images" in printed.out
    program = """async (texts) => {
      const { Api } = await import("/api.js");
      const api = new Api();
      const { models } = await api.load();
      const image = await (await fetch("/squares/0.png")).blob();
      const named = { label: texts, template: "not {}" };
      const found = [];
      for (const text of texts) {
        const search = async (rerank) =>
          (await api.post("v1/indexes/gallery/search", { text, k: 10, rerank })).results;
        found.push({
          alike: await search(0),
          read: await search(14),
          match: (await api.post("v1/match", { image, text })).probabilities[0],
          answers: (await api.post("v1/ask", { image, question: text })).answers[0],
          classes: (await api.post("v1/zero-shot", { image, ...named })).results[0],
        });
      }
      return [found, models];
    }"""
    with opened(browser, site) as page:
        found, models = page.evaluate(program, list(CAPTIONS))
        page.fill("#query", CAPTIONS[0])
        page.locator(".tile.read").nth(13).wait_for()
        assert page.locator("nav a").all_inner_texts() == ["Search", "Ask", "Rank", "Classify"]
        assert not page.locator("#adding").is_visible()
    assert [each["precision"] for each in models] == ["int8", "int8"]
    matching = albef.runtime.load(exports["retrieval"], precision="int8")
    asking = albef.runtime.load(exports["vqa"], precision="int8")
    names = json.loads((site / "site.json").read_text())["images"]
    images = [gallery / name for name in names]
    features = np.concatenate([matching.embed_image([image]) for image in images])
    square = (site / "squares/0.png").read_bytes()
    for text, said in zip(CAPTIONS, found, strict=True):
        alike, read = said["alike"], said["read"]
        sim = features @ matching.embed_text([text])[0]
        best = np.argsort(-sim, kind="stable")[:10]
        assert [hit["id"] for hit in alike] == [names[i] for i in best]
        np.testing.assert_allclose([hit["similarity"] for hit in alike], sim[best], atol=1e-4)
        logits = np.concatenate([matching.match_logits([image], [text]) for image in images])
        margin = logits[:, 1] - logits[:, 0]
        best = np.argsort(-matching.rank_scores(margin, sim), kind="stable")[:10]
        assert [hit["id"] for hit in read] == [names[i] for i in best]
        expected = 1 / (1 + np.exp(-margin[best]))
        np.testing.assert_allclose([hit["probability"] for hit in read], expected, atol=1e-3)
        np.testing.assert_allclose(said["match"], matching.match([square], [text])[0], atol=1e-3)
        shares = [said["classes"]["probabilities"][label] for label in CAPTIONS]
        expected = matching.zero_shot([square], CAPTIONS, ["not {}"])[0]
        np.testing.assert_allclose(shares, expected, atol=1e-3)
        answers = asking.ask([square], [text])[0]
        assert [answer["text"] for answer in said["answers"]] == [own.text for own in answers]
        given = [answer["probability"] for answer in said["answers"]]
        np.testing.assert_allclose(given, [own.probability for own in answers], atol=1e-3)


def test_what_makes_no_site_is_a_sentence(
    tiny_exports: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "onnxruntime-web-1.30.0.tgz").write_bytes(b"no package")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    retrieval, out = str(tiny_exports["retrieval"]), str(tmp_path / "out")
    for given, sentence in (
        ([retrieval, str(tmp_path), str(tmp_path / "there")], "there exists; remove it"),
        ([retrieval, str(tmp_path / "there"), out], "has no image that can be read"),
        ([str(tiny_exports["vqa"]), str(tmp_path), out], "has no image-text matching"),
        ([retrieval, str(tmp_path), out, "--questions", retrieval], "not a VQA export"),
        ([retrieval, str(tmp_path), out, "--packages", str(tmp_path)], "is not onnxruntime-web"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["site", *given])
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
