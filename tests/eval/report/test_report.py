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


def row_of(name: str | int) -> str:
    return f'<th scope="row">{name}</th>'


def answers_are_those_of(speed_folder: Path, quality_folder: Path) -> None:
    path = quality_folder / "summary.json"
    summary = json.loads(path.read_text())
    summary["settings"]["answers"] = str(speed_folder / "answers")
    path.write_text(json.dumps(summary))


class Tags(HTMLParser):
    """Collects what a page opens and what it would fetch, and checks that it closes what it opens."""

    VOID = frozenset({"meta", "br", "hr", "img", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.pictures: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag == "figure":
            named = dict(attrs)
            assert named["role"] == "img"
            self.pictures.append(str(named["aria-label"]))

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
    assert not re.search(r"url\((?!#)|@import|https?://|<script", page)


def test_the_headline_is_the_fastest_mode(speed_folder: Path, tmp_path: Path) -> None:
    page = report(tmp_path / "report", str(speed_folder))
    assert re.search(r"<b>3\.2\dx</b>", page), "the median of 4 / 1.1, 4 / 1.2, 4 / 1.3 and 4 / 1.4"
    assert "<code>medusa-apar</code>, median over 4 questions" in page


def test_the_timeline_has_a_row_per_thread_and_its_text(speed_folder: Path, tmp_path: Path) -> None:
    page = report(tmp_path / "report", str(speed_folder))
    timeline, _, _ = page.partition("<h3>One answer, step by step</h3>")[2].partition("<h3>")
    assert re.findall(r">(thread \d)</text>", timeline) == ["thread 0", "thread 1"]
    assert "<dt>thread 0, steps 0 to 2, 4 tokens</dt><dd>Here are &lt;three&gt; colours</dd>" in timeline
    forked = "<dt>thread 1, steps 2 to 3, 3 tokens, forked from thread 0</dt>"
    assert f"{forked}<dd>details of the first &amp; only fork</dd>" in timeline, "what models write is no markup"


def test_what_threads_save_and_how_far_draft_tokens_reach(speed_folder: Path, tmp_path: Path) -> None:
    page = report(tmp_path / "report", str(speed_folder))
    threads, acceptance = page.partition("<h3>Threads</h3>")[2].split("<h3>Acceptance</h3>")
    assert row_of("medusa-apar") in threads
    table, _, _ = acceptance.partition("</table>")
    assert row_of("medusa-apar") in table
    assert row_of("apar") not in table, "it drafts nothing"


def test_every_picture_has_a_name(speed_folder: Path, quality_folder: Path, batch_folder: Path, tmp_path: Path) -> None:
    answers_are_those_of(speed_folder, quality_folder)
    tags = Tags()
    tags.feed(report(tmp_path / "report", *map(str, (speed_folder, quality_folder, batch_folder))))
    assert [name.partition(":")[0] for name in tags.pictures] == [
        "Speed-up against ar",
        "One answer, step by step",
        "KV slots over the same answer",
        "Speed by batch size",
        "Quality against speed",
    ]


def test_categories_are_folded_below_the_figures_of_all(speed_folder: Path, tmp_path: Path) -> None:
    page = report(tmp_path / "report", str(speed_folder))
    everything, by_category = page.split("<details><summary>Speed by category</summary>")
    assert f"<tr>{row_of('apar')}<td>4</td>" in everything
    for category, turns in (("math", 2), ("stem", 2), ("overall", 4)):
        assert f"<tr>{row_of(category)}{row_of('apar')}<td>{turns}</td>" in by_category


def test_quality_stands_beside_it(speed_folder: Path, quality_folder: Path, tmp_path: Path) -> None:
    page = report(tmp_path / "report", str(speed_folder), str(quality_folder))
    for figure in ("1.234", "25%", "6.50"):
        assert f"<td>{figure}</td>" in page
    assert "<td>50%</td>" not in page, "one category alone needs no table"
    assert "Quality against speed" not in page, "other answers than those that were timed"
    text = (tmp_path / "report" / "report.md").read_text()
    assert re.search(r"^\| apar \| .* 1\.234 \| .* 25% \|", text, re.M)
    assert re.search(r"^\| apar \| .* 6\.50 \|$", text, re.M), "the judge's rating too"


def test_a_judges_comparisons_stand_beside_it(quality_folder: Path, tmp_path: Path) -> None:
    path = quality_folder / "summary.json"
    summary = json.loads(path.read_text())
    pair = {"judged": [10, 0, 0], "same": 0, "wins": 3, "ties": 5, "losses": 2, "turn 1": 0.55, "all": 0.55}
    summary["tables"]["Against ar"] = [{"category": "overall", "mode": "apar", **pair}]
    path.write_text(json.dumps(summary))
    page = report(tmp_path / "report", str(quality_folder))
    assert f"{row_of('apar')}<td>10</td><td>0</td><td>3</td><td>5</td><td>2</td><td>55%</td><td>55%</td>" in page
    text = (tmp_path / "report" / "report.md").read_text()
    assert "### Against ar" in text
    assert re.search(r"^\| apar +\| +10 \| +0 \| +3 \| +5 \| +2 \| +55% \| +55% \|$", text, re.M)


@pytest.mark.parametrize(("judged", "figure"), [(True, "Ratings: all"), (False, "Without a judge: nats/token")])
def test_quality_of_answers_that_were_timed_stands_against_their_speed_up(
    speed_folder: Path, quality_folder: Path, tmp_path: Path, judged: bool, figure: str
) -> None:
    answers_are_those_of(speed_folder, quality_folder)
    if not judged:
        path = quality_folder / "summary.json"
        summary = json.loads(path.read_text())
        del summary["tables"]["Ratings"]
        path.write_text(json.dumps(summary))
    page = report(tmp_path / "report", str(speed_folder), str(quality_folder))
    quality = page.partition("<h2>Quality")[2]
    assert '<th scope="col">speed-up</th></tr>' in quality
    picture, _, _ = quality.partition("<h3>Quality against speed</h3>")[2].partition("</figure>")
    assert f">{figure}</text>" in picture
    assert ">apar</text>" in picture
    text = (tmp_path / "report" / "report.md").read_text()
    assert re.search(r"^\| .* 1\.234 \| .* \| \d\.\d\d \(\d\.\d-\d\.\d\) \|$", text, re.M)


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
    batch_folder: Path, serving_folder: Path, tmp_path: Path
) -> None:
    page = report(tmp_path / "report", str(batch_folder), str(serving_folder))
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.fetched == []
    batches, serving = page.split("<section>")[1:]
    assert "<h2>Batches: default on lists, bfloat16</h2>" in batches
    assert f"{row_of(32)}{row_of('apar')}<td>1</td><td>1500</td>" in batches
    assert all(f">{text}</text>" in batches for text in ("batch size", "tokens/s", "speed-up", "32", "apar"))
    little, much = serving.split("<h3>512 blocks</h3>")
    assert "<h3>40 blocks</h3>" in little
    assert re.search(rf"closed:4</th>{row_of('apar')}.*<td>777</td>", little)
    assert re.search(rf"closed:4</th>{row_of('ar')}.*<td>600</td>", much)
    for memory in (little, much):
        assert all(f">{text}</text>" in memory for text in ("arrivals", "tokens/s", "s/answer", "closed:4"))
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
        (["{empty}"], "holds no results; give folders that eval speed, batch, quality, replay or serving"),
        (["{foreign}"], "holds results of another version .'model' is wrong in it.; measure again into another folder"),
        (["{earlier}"], "holds results of another version .'tables' is wrong in it.; measure again into another"),
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
    folders["earlier"] = tmp_path / "earlier"
    folders["earlier"].mkdir()
    summary = {"settings": {"answers": "answers", "questions": "lists", "model": "default"}, "measures": []}
    (folders["earlier"] / "summary.json").write_text(json.dumps(summary))
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
