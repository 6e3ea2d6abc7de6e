"""A site in Chromium: what it weighs, and how long its first and its further answers take.

``python -m benchmarks.site SITE`` with a folder that ``albef site`` wrote. A search reads the 16
most similar pictures together with the text. Each round opens a new page with an empty cache; files
come from this machine.
"""

import argparse
import shutil
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from benchmarks.timing import machine, spread
from tests.commands.test_site import opened

SEARCH = """async (text) => {
  const { Api } = await import("/api.js");
  globalThis.api ??= new Api();
  if (!globalThis.api.model) await globalThis.api.load();
  await globalThis.api.post("v1/indexes/gallery/search", { text, k: 16, rerank: 16 });
}"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.site")
    parser.add_argument("site", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    size = sum(file.stat().st_size for file in given.site.rglob("*") if file.is_file())
    times: dict[str, list[float]] = {"first": [], "next": [], "the same pictures": []}
    with sync_playwright() as playwright:
        path = shutil.which("chromium")  # else the one that playwright installed
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        print(f"{machine()}, Chromium {browser.version}, a site of {size / 1e6:.1f} MB\n")
        for _ in range(given.rounds):
            with opened(browser, given.site) as page:
                for which, text in zip(times, ("a dog", "two frogs", "two frogs"), strict=True):
                    start = time.perf_counter()
                    page.evaluate(SEARCH, text)
                    times[which].append(time.perf_counter() - start)
    for which, seconds in times.items():
        print(f"{which}: {spread(seconds, unit=' s')}")


if __name__ == "__main__":
    main()
