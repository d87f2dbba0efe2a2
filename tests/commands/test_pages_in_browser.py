"""The pages that --plot writes, as a browser shows them; skipped where there is no Chromium.

All pages stand in frames of one document, at the width of a phone and of a desk, once in light and
once in dark; a script in that document measures them. The pages themselves have none.
"""

import html
import json
import re
import shutil
import subprocess
from itertools import combinations, product
from pathlib import Path

import pytest

from rebasin_cli.commands.barrier.plot import draw
from rebasin_cli.commands.barrier.series.series_plot import draw_series
from rebasin_cli.commands.related.kin import Kin, KinPair
from rebasin_cli.commands.related.kinship_plot import draw_kinship
from rebasin_cli.commands.related.run import Kinship
from tests.commands.barrier.test_pictures import contour, curves, place
from tests.commands.barrier.test_series_pictures import series

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is on this machine"),
]
PHONE, DESK = 390, 1280  # CSS pixels
QUIET = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
SCHEMES = {"dark": 0, "light": 1}  # what Chromium's settings call them
READABLE = 4.5  # WCAG 2.1, 1.4.3: contrast of text
LETTERS = 8.5  # CSS pixels: the smallest text of a picture that is still read
HEAD = 80  # CSS pixels: three lines of the head of a table, and its padding
DRAWN = 9  # points, of which the box of a picture is made: the smallest text that is drawn
MEASURE = """
const found = [];
const rgb = text => text.match(/[\\d.]+/g).map(Number);
const light = text => {
  const [r, g, b] = rgb(text).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument, view = frame.contentWindow, root = page.documentElement;
  const body = view.getComputedStyle(page.body), svg = page.querySelector("svg");
  const ink = light(body.color), paper = light(body.backgroundColor);
  const box = svg.getBoundingClientRect();
  found.push({
    page: frame.title, width: view.innerWidth, spread: root.scrollWidth, paper,
    contrast: (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05),
    text: parseFloat(body.fontSize), scale: box.width / svg.viewBox.baseVal.width,
    behind: view.getComputedStyle(svg.parentElement).backgroundColor, title: page.title,
    heads: Math.max(...[...page.querySelectorAll("th")].map(each => each.offsetHeight)),
    requests: view.performance.getEntriesByType("resource").length,
  });
}
document.body.textContent = JSON.stringify(found);
"""


def kinship():
    """Return models with long names that are copies of each other."""
    models = tuple(Path(f"a-name-without-end/of-model-{n}.safetensors") for n in range(6))
    pairs = (KinPair(a, b, Kin.SAME_BYTES) for a, b in combinations(models, 2))
    return Kinship(models, tuple(pairs), ())


def pages(folder):
    """Write one page of each kind, and return their texts by name."""
    draw(curves(), place(folder / "curves.html"))
    draw(contour(), place(folder / "plane.html"))
    draw_series(series(), place(folder / "series.html"))
    draw_kinship(kinship(), place(folder / "related.html"))
    return {path.stem: path.read_text("utf-8") for path in sorted(folder.glob("*.html"))}


def shown(folder, document, *options):
    """Return what a browser makes of a document: its text when it is loaded, and its log."""
    (folder / "frames.htm").write_text(document, "utf-8")
    profile = f"--user-data-dir={folder / 'profile'}"
    argv = (BROWSER, "--headless", *QUIET, profile, "--enable-logging=stderr", *options)
    argv = (*argv, "--dump-dom", (folder / "frames.htm").as_uri())
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True)
    (body,) = re.findall("<body>(.*)</body>", done.stdout, re.DOTALL)
    return html.unescape(body), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def framed(texts):
    """Return a document with all pages, at both widths, and what measures them."""
    frames = [
        f'<iframe title="{name}" width="{width}" height="800" style="border: 0" '
        f'srcdoc="{html.escape(text)}"></iframe>'
        for (name, text), width in product(texts.items(), (PHONE, DESK))
    ]
    script = f"<script>onload = () => {{{MEASURE}}}</script>"
    return f'<!doctype html><meta charset="utf-8"><body>{"".join(frames)}{script}</body>'


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pages_are_readable_on_a_phone_and_at_a_desk(tmp_path, scheme):
    texts = pages(tmp_path)
    setting = f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"
    said, log = shown(tmp_path, framed(texts), setting)
    assert log == []
    found = json.loads(said)
    assert [(each["page"], each["width"]) for each in found] == list(
        product(sorted(texts), (PHONE, DESK))
    )
    for each in found:
        assert each["spread"] <= each["width"], f"{each['page']} is wider than its window"
        assert (each["paper"] < 0.1) == (scheme == "dark")
        assert each["contrast"] >= READABLE
        assert each["text"] >= 16
        assert each["behind"] == "rgb(255, 255, 255)"  # what is drawn is drawn for white
        assert each["scale"] * DRAWN >= LETTERS
        assert each["title"]
        assert each["heads"] <= HEAD
        assert each["requests"] == 0


def test_what_a_page_does_wrong_is_seen(tmp_path):
    wide = (
        '<!doctype html><title>t</title><body style="background: #fff; color: #ddd">'
        '<div style="width: 600px">wide</div><p><svg viewBox="0 0 900 9" width="300"></svg></p>'
        "<script>console.error('boom')</script>"
    )
    said, log = shown(tmp_path, framed({"wide": wide}))
    phone = json.loads(said)[0]
    assert phone["spread"] > phone["width"]
    assert phone["contrast"] < READABLE
    assert phone["scale"] * DRAWN < LETTERS
    assert ['"boom"' in line for line in log] == [True, True]
