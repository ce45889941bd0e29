"""The report in headless Chromium, where it is installed: CI does so, and runs this."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fwp_rl.reports.page import write_report
from fwp_rl.reports.records import read_records

from .conftest import MakeRun

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PROBE = """<script>
const errors = [];
addEventListener("error", event => errors.push(String(event.message)), true);
addEventListener("load", () => {
  const images = [...document.images].map(i => i.complete && i.naturalWidth > 0);
  const requests = performance.getEntriesByType("resource").map(r => r.name);
  const result = document.createElement("pre");
  result.id = "probe";
  result.textContent = JSON.stringify({
    errors, images, requests: requests.filter(name => !name.startsWith("data:")),
    width: innerWidth, content: document.documentElement.scrollWidth,
    text: parseFloat(getComputedStyle(document.body).fontSize),
  });
  document.body.append(result);
});
</script>"""


@pytest.fixture
def browser() -> str:
    if BROWSER is None:
        if "FWP_RL_REQUIRE_BROWSER" in os.environ:
            pytest.fail(f"none of {', '.join(NAMES)} is installed")
        pytest.skip("needs Chromium")
    return BROWSER


@pytest.mark.parametrize("width", [500, 1280])
def test_the_page_in_a_browser(width: int, browser: str, tmp_path: Path, make_run: MakeRun) -> None:
    for core in ("delta_net", "lstm", "recurrent_delta_net"):
        for seed in (1, 2):
            make_run(core, seed=seed, score=seed / 3)
            make_run(core, "Breakout", seed=seed, score=4.0 * seed)
    page = write_report(read_records([tmp_path / "runs"]), tmp_path / "report", title="A title")
    probed = page.with_name("probed.html")
    probed.write_text(page.read_text().replace("<title>", PROBE + "<title>"))
    command = [
        *(browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"),
        *("--virtual-time-budget=5000", "--dump-dom", probed.as_uri()),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    found = re.search(r'<pre id="probe">(.*?)</pre>', dom, flags=re.DOTALL)
    assert found, dom[-2000:]
    result = json.loads(found[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
    assert result["errors"] == []
    assert result["requests"] == []
    assert len(result["images"]) == 4
    assert all(result["images"])
    assert result["content"] <= result["width"] == width  # nothing to scroll sideways
    assert result["text"] >= 16
