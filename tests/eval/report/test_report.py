"""From folders of results to one page."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from medusa_apar.eval.cli import main
from medusa_apar.eval.report.results import read_results


def report(out: Path, *arguments: str) -> str:
    assert main(["report", *arguments, "--output_dir", str(out)]) == 0
    return (out / "index.html").read_text()


class Tags(HTMLParser):
    """Collects what a page opens and what it would fetch, and checks that it closes what it opens."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "rect", "line", "polyline", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.threads = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href")]
        self.threads += ("class", "thread") in attrs

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(speed_folder: Path, quality_folder: Path, tmp_path: Path) -> None:
    page = report(tmp_path / "report", str(speed_folder), str(quality_folder))
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.fetched == []
    assert not re.search(r"url\(|@import|https?://", page)


def test_the_headline_is_the_fastest_mode(speed_folder: Path, tmp_path: Path) -> None:
    page = report(tmp_path / "report", str(speed_folder))
    assert re.search(r"<b>3\.2\dx</b>", page), "the median of 4 / 1.1, 4 / 1.2, 4 / 1.3 and 4 / 1.4"
    assert "<code>medusa-apar</code>, median over 4 questions" in page


def test_the_timeline_has_a_row_per_thread_and_its_text(speed_folder: Path, tmp_path: Path) -> None:
    page = report(tmp_path / "report", str(speed_folder))
    tags = Tags()
    tags.feed(page)
    assert tags.threads == 2
    assert "Here are &lt;three&gt; colours" in page, "what models write is no markup"
    assert "details of the first &amp; only fork" in page


def test_what_threads_save_and_how_far_draft_tokens_reach(speed_folder: Path, tmp_path: Path) -> None:
    page = report(tmp_path / "report", str(speed_folder))
    threads, acceptance = page.partition("What threads cost and save")[2].split("How far draft tokens reach")
    assert "<td>medusa-apar</td>" in threads
    table, _, _ = acceptance.partition("</table>")
    assert "<td>medusa-apar</td>" in table
    assert "<td>apar</td>" not in table, "it drafts nothing"


def test_every_mode_has_its_curve_of_slots(speed_folder: Path, tmp_path: Path) -> None:
    page = report(tmp_path / "report", str(speed_folder))
    assert page.count('<polyline class="curve"') == 3


def test_quality_stands_beside_it(speed_folder: Path, quality_folder: Path, tmp_path: Path) -> None:
    page = report(tmp_path / "report", str(speed_folder), str(quality_folder))
    for figure in ("1.234", "25 %", "6.50"):
        assert f"<td>{figure}</td>" in page
    assert "Quality against speed" not in page, "other answers than those that were timed"
    text = (tmp_path / "report" / "report.md").read_text()
    assert re.search(r"^\| .* \| 1\.234 \| .* \| 6\.50 \|$", text, re.M), "the judge's rating too"


def test_a_judges_comparisons_stand_beside_it(quality_folder: Path, tmp_path: Path) -> None:
    path = quality_folder / "summary.json"
    pair = {"category": "overall", "mode": "apar", "turn": None, "baseline": "ar", "wins": 3, "ties": 5, "losses": 2}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pairs": [pair, {**pair, "turn": 1, "wins": 1}]}))
    page = report(tmp_path / "report", str(quality_folder))
    assert "<td>3, 5, 2</td>" in page
    assert "against <code>ar</code>, in both orders" in page
    assert re.search(r"^\| apar \| .* \| 3, 5, 2 \|$", (tmp_path / "report" / "report.md").read_text(), re.M)


def test_quality_of_answers_that_were_timed_has_their_speed_up(
    speed_folder: Path, quality_folder: Path, tmp_path: Path
) -> None:
    path = quality_folder / "summary.json"
    summary = json.loads(path.read_text())
    summary["settings"]["answers"] = str(speed_folder / "answers")
    path.write_text(json.dumps(summary))
    page = report(tmp_path / "report", str(speed_folder), str(quality_folder))
    text = (tmp_path / "report" / "report.md").read_text()
    quality = page.partition("<h2>Quality")[2]
    assert "<th>speed-up</th></tr>" in quality
    assert "<title>apar: 6.5 rating, speed-up 2</title>" in quality, "the picture of the judge's rating"
    assert re.search(r"^\| .* \| 1\.234 \| .* \| \d\.\d\d \(\d\.\d-\d\.\d\) \|$", text, re.M)


def test_without_a_judge_likelihood_is_drawn_against_speed(
    speed_folder: Path, quality_folder: Path, tmp_path: Path
) -> None:
    path = quality_folder / "summary.json"
    summary = json.loads(path.read_text()) | {"scores": []}
    summary["settings"]["answers"] = str(speed_folder / "answers")
    path.write_text(json.dumps(summary))
    page = report(tmp_path / "report", str(speed_folder), str(quality_folder))
    assert "<title>apar: 1.23 nats/token, speed-up 2</title>" in page


def test_where_and_by_which_command_it_was_measured(speed_folder: Path, quality_folder: Path, tmp_path: Path) -> None:
    for folder in (speed_folder, quality_folder):
        (folder / "provenance.json").write_text(
            json.dumps({"command": "eval <that>", "processor": f"of {folder.name}"})
        )
    page = report(tmp_path / "report", str(speed_folder), str(quality_folder))
    text = (tmp_path / "report" / "report.md").read_text()
    for folder in (speed_folder, quality_folder):
        assert f"<dt>processor</dt><dd>of {folder.name}</dd>" in page
        assert f"- processor: of {folder.name}" in text
    assert "eval &lt;that&gt;" in page


def test_a_simulation_is_called_one(speed_folder: Path, tmp_path: Path) -> None:
    path = speed_folder / "settings.json"
    simulated = {"what": "Calibrated simulation", "answers": "vicuna.jsonl", "backbone": "llama-110m"}
    path.write_text(json.dumps(json.loads(path.read_text()) | simulated))
    page = report(tmp_path / "report", str(speed_folder))
    assert page.count('<p class="simulation">Calibrated simulation</p>') == 2, "at the headline and at the section"
    assert (
        "## Calibrated simulation: vicuna.jsonl on a random llama-110m"
        in (tmp_path / "report" / "report.md").read_text()
    )


def test_the_same_as_markdown(speed_folder: Path, tmp_path: Path) -> None:
    report(tmp_path / "report", str(speed_folder))
    text = (tmp_path / "report" / "report.md").read_text()
    assert re.search(r"^\*\*3\.2\dx\*\* .* \(`medusa-apar`, median over 4 questions", text, re.M), "the headline"
    assert "## default on lists, bfloat16" in text
    assert "| overall" in text
    assert "### Acceptance" in text


def test_sweeps_are_drawn_and_their_figures_stand_below(
    batch_folder: Path, scaling_folder: Path, serving_folder: Path, tmp_path: Path
) -> None:
    page = report(tmp_path / "report", str(batch_folder), str(scaling_folder), str(serving_folder))
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.fetched == []
    batches, scaling, serving = page.split('<section class="sweep">')[1:]
    assert "<h2>Batches: default on lists, bfloat16</h2>" in batches
    assert "<td>apar</td><td>250</td><td>1,500</td>" in batches
    assert "<td>apar</td><td>2.5</td><td>1.5</td>" in batches
    assert '<p class="simulation">Calibrated simulation</p>' in scaling
    assert "apar, threads of an answer 8: 123 tokens/s" in scaling
    assert "<td>ar, 512 blocks</td><td>600</td>" in serving
    assert "<td>apar, 40 blocks</td><td>777</td>" in serving
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## Serving: default on vLLM, lists" in text
    assert re.search(r"\| +32 +\| apar +\|", text)


def test_a_sweep_without_figures_is_named(batch_folder: Path) -> None:
    (batch_folder / "batches.jsonl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"batches\.jsonl holds nothing yet; let the measurement end first"):
        read_results([batch_folder])


def test_the_wanted_answer_is_drawn(speed_folder: Path, tmp_path: Path) -> None:
    assert "Question 3, medusa-apar" in report(tmp_path / "report", str(speed_folder), "--answer", "3")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["{speed}", "--answer", "99"], "answer='99': no answer of mode medusa-apar to that question in .*"),
        (["{empty}"], "holds no results; give folders that eval speed, batch, quality, replay, scaling or"),
        (["{foreign}"], "holds results of another version .'model' is wrong in it.; measure again into another folder"),
        (["{listed}"], r"settings\.json holds no JSON object"),
    ],
)
def test_what_cannot_be_reported(
    speed_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    folders = {"speed": speed_folder, "empty": empty}
    for name, settings in (("foreign", '{"modes": []}'), ("listed", "[1]")):
        folders[name] = tmp_path / name
        shutil.copytree(speed_folder, folders[name])
        (folders[name] / "settings.json").write_text(settings)
    named = [argument.format(**folders) for argument in arguments]
    with pytest.raises(SystemExit):
        main(["report", *named, "--output_dir", str(tmp_path / "report")])
    assert re.search(error, capsys.readouterr().err.replace("\n", " "))


def test_a_line_that_was_cut_off_is_left_out(batch_folder: Path, tmp_path: Path) -> None:
    with (batch_folder / "batches.jsonl").open("ab") as records:
        records.write(b'{"batch_si')
    main(["report", str(batch_folder), "--output_dir", str(tmp_path / "report")])
    assert (tmp_path / "report" / "index.html").is_file()


def test_turns_of_another_version_are_named(speed_folder: Path) -> None:
    (speed_folder / "turns.jsonl").write_text('{"question_id": 1}\n')
    with pytest.raises(ValueError, match="measure again into another folder"):
        read_results([speed_folder])
