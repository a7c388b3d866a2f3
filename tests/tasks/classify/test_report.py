"""The report of a run: its figures, opened, and its page, rendered."""

import csv
import io
import itertools
import math

import numpy as np
import pytest
from markdown_it import MarkdownIt
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image

from mnv2zoo.errors import ImageReadError
from mnv2zoo.tasks.classify import report
from mnv2zoo.tasks.classify.metrics import Mistake, Scores

pytestmark = pytest.mark.filterwarnings("error")
ALWAYS = {"README.md", "confusion.png", "confusion.csv"}
NAN = math.nan
RED = (255, 0, 0)


def by_class(confusion):
    """The recall of each class, which stands for all metrics here."""
    return tuple(100 * row[number] / sum(row) if sum(row) else None for number, row in enumerate(confusion))


def scores(confusion, names=None):
    names = names or [f"class-{number}" for number in range(len(confusion))]
    return Scores(
        images=sum(map(sum, confusion)),
        loss=0.51234,
        top1=66.666,
        top5=99.5,
        calibration_error=3.217,
        f1_macro=61.234,
        f1_weighted=64.0,
        precision_macro=70.0,
        balanced_accuracy=60.5,
        roc_auc=90.25,
        average_precision=80.75,
        class_metrics={name: by_class(confusion) for name in report.CLASS_METRICS},
        label_names=tuple(names),
        confusions={
            (truth, found): count for truth, row in enumerate(confusion) for found, count in enumerate(row) if count
        },
    )


def diagonal(classes, names=None):
    return scores(np.eye(classes, dtype=int).tolist(), names)


def row(epoch, **figures):
    figures = {"train_loss": 1 / epoch, "lr": 0.01, "seconds": 61.0, "images_per_second": 300.0} | figures
    return {"epoch": epoch} | figures


def validated(epoch, top1):
    return row(epoch, val_loss=2 / epoch, val_top1=top1, val_top5=99.0)


def photo(index):
    return Image.new("RGB", (64, 48), RED)


def write(folder, history=(), scores=None, mistakes=(), read=photo, title="a title"):
    report.write(folder, history, scores or SCORES, mistakes, read, title)
    return MarkdownIt().enable("table").parse((folder / "README.md").read_text())


def text(token):
    return "".join(child.content for child in token.children if child.type == "text")


def sections(page):
    """The rendered page as its tables' rows of cells, without the titles, under the heading they come after."""
    found, heading = {}, None
    for before, token in itertools.pairwise(page):
        if before.type == "heading_open":
            heading = text(token)
            found[heading] = []
        elif before.type == "tr_open":
            found[heading].append([])
        elif before.type == "td_open":
            found[heading][-1].append(text(token))
    return {heading: [cells for cells in rows if cells] for heading, rows in found.items()}


def pictures(page):
    children = [child for token in page if token.type == "inline" for child in token.children]
    return [child.attrs["src"] for child in children if child.type == "image"]


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def shows(picture, color):
    return (picture == [round(255 * part) for part in to_rgb(color)]).all(-1).any()


def cells(figure):
    """The text in the cells of a confusion matrix, by row and column."""
    return {
        (int(cell.get_position()[1]), int(cell.get_position()[0])): cell.get_text() for cell in figure.axes[0].texts
    }


def names_drawn(figure):
    """The names along both axes of a confusion matrix."""
    across, down = (
        [label.get_text() for label in axis.get_ticklabels()] for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis)
    )
    assert across == down
    return down


SCORES = scores([[8, 2, 0], [1, 3, 4], [0, 0, 0]], ["ant", "bee", "cat"])
MISTAKES = [Mistake(17, 0, 1, 0.98765), Mistake(4, 1, 0, 0.5)]


def test_the_page_has_its_title_and_the_headline_figures(tmp_path):
    assert sections(write(tmp_path, title="net_1 on *birds* #2"))["net_1 on *birds* #2"] == [
        ["images", "18"],
        ["top-1", "66.67 %"],
        ["top-5", "99.50 %"],
        ["loss (cross-entropy)", "0.5123"],
        ["calibration error", "3.22 %"],
        ["F1, macro", "61.23 %"],
        ["F1, weighted", "64.00 %"],
        ["precision, macro", "70.00 %"],
        ["balanced accuracy", "60.50 %"],
        ["ROC AUC", "90.25 %"],
        ["average precision", "80.75 %"],
    ]


def test_the_confusion_matrix_is_there_in_counts(tmp_path):
    write(tmp_path)
    with (tmp_path / "confusion.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["true \\ predicted", "ant", "bee", "cat"],
            ["ant", "8", "2", "0"],
            ["bee", "1", "3", "4"],
            ["cat", "0", "0", "0"],
        ]


def test_the_page_has_a_row_for_each_class_the_worst_first_and_those_without_images_last(tmp_path):
    assert sections(write(tmp_path))["Classes, from worst to best"] == [
        ["1", "bee", "8", *["37.5"] * 4],
        ["0", "ant", "10", *["80.0"] * 4],
        ["2", "cat", "0", *[""] * 4],
    ]


def test_the_confusions_of_many_classes_are_listed_and_not_drawn(tmp_path):
    confusions = np.eye(report.DRAWN + 1, dtype=int)
    confusions[3, 5] = 7
    page = write(tmp_path, scores=scores(confusions.tolist()))
    with (tmp_path / "confusion.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["true", "predicted", "images"]
    assert len(rows) == report.DRAWN + 2
    assert [row for row in rows if row[0] == "class-3"] == [["class-3", "class-3", "1"], ["class-3", "class-5", "7"]]
    assert not (tmp_path / "confusion.png").exists()
    assert pictures(page) == []


def test_the_page_has_the_confusions_the_most_frequent_first(tmp_path):
    assert sections(write(tmp_path))["Confusions"] == [
        ["bee", "cat", "4", "50.0"],
        ["ant", "bee", "2", "20.0"],
        ["bee", "ant", "1", "12.5"],
    ]


def test_of_confusions_the_page_has_ten(tmp_path):
    page = write(tmp_path, scores=scores([list(range(20))] * 20))
    rows = sections(page)["Confusions"]
    assert [images for _, _, images, _ in rows] == ["19"] * 10
    assert len(sections(page)["Classes, from worst to best"]) == 20


def test_the_page_says_so_where_nothing_was_confused(tmp_path):
    page = write(tmp_path, scores=diagonal(3))
    assert sections(page)["Confusions"] == []
    assert any(token.type == "inline" and "all predictions are correct" in text(token) for token in page)


def test_the_page_has_the_mistakes_in_the_order_given(tmp_path):
    assert sections(write(tmp_path, mistakes=MISTAKES))["Most confident mistakes"] == [
        ["17", "ant", "bee", "98.8"],
        ["4", "bee", "ant", "50.0"],
    ]


def test_a_heat_map_stands_beside_each_mistake_and_doubtful_labels_have_a_section_of_their_own(tmp_path):
    heat, doubtful = [Image.new("RGB", (32, 32), (0, 0, 255))] * 2, [Mistake(30, 2, 0, 0.75)]
    report.write(tmp_path, (), SCORES, MISTAKES, photo, "a title", heat, doubtful)
    page = MarkdownIt().enable("table").parse((tmp_path / "README.md").read_text())
    assert sections(page)["Probable label errors"] == [["30", "cat", "ant", "75.0"]]
    assert pictures(page) == ["confusion.png", "mistakes.png", "labels.png"]
    assert "shows the parts that support the prediction in red" in (tmp_path / "README.md").read_text()
    drawn = pixels(tmp_path / "mistakes.png").astype(int)
    red, blue = ((drawn == color).all(-1).sum(0) > 50 for color in (RED, (0, 0, 255)))
    columns = np.select([red, blue], [1, 2])
    assert [key for key, _ in itertools.groupby(columns[columns > 0])] == [1, 2, 1, 2]
    report.write(tmp_path, (), SCORES, MISTAKES, photo, "a title")
    assert not (tmp_path / "labels.png").exists()
    assert "Grad-CAM" not in (tmp_path / "README.md").read_text()


def test_the_page_tells_of_the_epochs_and_the_first_of_the_best(tmp_path):
    page = write(tmp_path, [validated(1, 50.0), validated(2, 70.125), validated(3, NAN), validated(4, 70.125)])
    summary = "Epochs: 4. Training time (h:mm:ss): 0:04:04. Best validation top-1: 70.12 %, first reached in epoch 2."
    assert summary in [text(token) for token in page if token.type == "inline"]


ODD_NAMES = [
    *("a|b", r"back\slash", r"\|", "`code`", "``", "*stars*", "_under_score_", "**", "[link](x)", "![image](x.png)"),
    *(
        "<b>bold</b>",
        "<!-- gone -->",
        "&amp;",
        "~~struck~~",
        "$x^2$",
        "$a_{$",
        "$",
        r"\$a_{",
        ":smile:",
        "https://a.org",
        "# 1",
    ),
    *("- item", "1. one", "---", "| --- |", "a\\", "猫", "😀", "собака", "שלום", "e\u0301", "C#", "'\"", "x" * 300, ""),
]


def test_odd_names_stand_in_the_page_as_they_are(tmp_path):
    mistakes = [Mistake(0, number, number - 1, 1.0) for number in range(len(ODD_NAMES))]
    page = write(tmp_path, scores=diagonal(len(ODD_NAMES), ODD_NAMES), mistakes=mistakes)
    assert [label for _, label, *_ in sections(page)["Classes, from worst to best"]] == ODD_NAMES
    assert not any(token.type == "html_inline" for part in page for token in part.children or [])
    assert pictures(page) == ["confusion.png", "mistakes.png"]


def test_names_stay_on_their_line_and_bytes_that_are_no_text_do_no_harm(tmp_path):
    page = write(tmp_path, scores=diagonal(3, ["two\r\nlines", "\ud800", "tab\tand  blanks "]))
    labels = [label for _, label, *_ in sections(page)["Classes, from worst to best"]]
    assert labels == ["two lines", "?", "tab and blanks"]


@pytest.mark.parametrize(("classes", "least", "most"), [(2, 400, 700), (20, 800, 1500), (200, 2500, 3500)])
def test_the_confusion_matrix_grows_with_the_classes(tmp_path, classes, least, most):
    write(tmp_path, scores=diagonal(classes, ["a class of some length"] * classes))
    height, width, _ = pixels(tmp_path / "confusion.png").shape
    assert least < height < most
    assert least < width < most


def test_the_confusion_matrix_shows_percent_of_each_row(tmp_path):
    figure = report.confusion_figure(SCORES)
    drawn = figure.axes[0].images[0].get_array()
    assert drawn[:2].tolist() == [[80, 20, 0], [12.5, 37.5, 50]]
    assert drawn.mask.tolist() == [[False] * 3, [False] * 3, [True] * 3]
    shown = {place: content for place, content in cells(figure).items() if content}
    assert shown == {(0, 0): "80", (0, 1): "20", (1, 0): "12", (1, 1): "38", (1, 2): "50"}
    assert names_drawn(figure) == ["ant", "bee", "cat"]
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("predicted class", "true class")


def test_a_class_without_images_is_gray_and_the_picture_says_so(tmp_path):
    write(tmp_path)
    assert shows(pixels(tmp_path / "confusion.png"), report.PALE)
    assert "gray: no images" in report.confusion_figure(SCORES).axes[0].get_title()
    assert "gray" not in report.confusion_figure(diagonal(2)).axes[0].get_title()


def test_few_but_some_are_not_shown_as_none():
    assert cells(report.confusion_figure(scores([[999, 1], [0, 1]])))[0, 1] == "<1"


def test_up_to_200_classes_all_names_are_drawn_and_beyond_that_as_many_as_can_be_read():
    assert len(names_drawn(report.confusion_figure(diagonal(200)))) == 200
    assert names_drawn(report.confusion_figure(diagonal(401)))[:3] == ["class-0", "class-3", "class-6"]


def test_in_pictures_names_are_shortened_by_their_width_and_else_stand_as_they_are():
    names = ["W" * 300, "i" * 300, "West Highland white terrier", "$x$ and $y_{", "猫", "long name " * 20 + "猫"]
    wide, narrow, *others = names_drawn(report.confusion_figure(diagonal(len(names), names)))
    assert wide.strip("W") == narrow.strip("i") == "…"
    assert 10 < len(wide) < 20 < 40 < len(narrow)
    assert others[:2] == names[2:4]
    assert others[2] == "class 4"  # no installed font has the letter
    assert others[3].startswith("long name long")


@pytest.mark.parametrize(
    ("history", "validation"),
    [
        ([row(1)], False),
        ([validated(1, 50.0)], True),
        ([row(epoch) for epoch in range(1, 301)], False),
        ([validated(epoch, epoch / 3) for epoch in range(1, 301)], True),
        ([row(1), validated(2, 40.0), row(3), validated(4, 60.0)], True),
        ([row(1), row(2, train_loss=NAN), row(3, train_loss=math.inf, lr=-math.inf)], False),
        ([validated(1, 10.0), row(2, train_loss=NAN, val_loss=math.inf, val_top1=NAN)], True),
        ([row(1, train_loss=1e30), row(2, train_loss=1e-30, seconds=math.inf)], False),
    ],
)
def test_curves_show_what_there_is(tmp_path, history, validation):
    page = write(tmp_path, history)
    assert pictures(page) == ["curves.png", "confusion.png"]
    picture = pixels(tmp_path / "curves.png")
    assert picture.shape[:2] == (384, 1440 if validation else 960)
    assert shows(picture, report.BLUE)
    assert shows(picture, report.ORANGE) == validation
    assert shows(picture, report.GREEN)


def test_a_training_that_diverged_at_once_has_a_report_all_the_same(tmp_path):
    write(tmp_path, [row(1, train_loss=NAN, lr=NAN, seconds=NAN, val_loss=NAN, val_top1=NAN)])
    assert not shows(pixels(tmp_path / "curves.png"), report.GREEN)


def test_without_epochs_and_mistakes_there_are_no_such_sections_nor_pictures_of_an_earlier_report(tmp_path):
    write(tmp_path, [row(1)], mistakes=MISTAKES)
    assert {file.name for file in tmp_path.iterdir()} == {*ALWAYS, "curves.png", "mistakes.png"}
    page = write(tmp_path)
    assert list(sections(page)) == ["a title", "Classes, from worst to best", "Confusions"]
    assert {file.name for file in tmp_path.iterdir()} == ALWAYS


@pytest.mark.parametrize(("count", "size"), [(1, (264, 324)), (5, (1320, 324)), (6, (1320, 648)), (25, (1320, 1620))])
def test_mistakes_are_a_grid_of_five_a_row(tmp_path, count, size):
    asked = []

    def read(index):
        asked.append(index)
        return photo(index)

    write(tmp_path, mistakes=[Mistake(100 - place, 0, 1, 0.9) for place in range(count)], read=read)
    picture = pixels(tmp_path / "mistakes.png")
    assert picture.shape[1::-1] == size
    assert asked == [100 - place for place in range(count)]
    assert (picture == RED).all(-1).sum() > count * 200 * 150


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK"])
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (2000, 10)])
def test_photos_of_any_mode_and_shape_fit_into_the_grid(mode, size):
    figure = report.mistakes_figure(MISTAKES, lambda index: Image.new(mode, size), ["ant", "bee"])
    figure.savefig(io.BytesIO(), format="png")
    assert {axes.images[0].get_array().shape for axes in figure.axes} == {(256, 256, 3)}


def test_each_photo_has_its_truth_prediction_and_probability():
    figure = report.mistakes_figure(MISTAKES, photo, ["$ant$", "bee" * 50])
    assert figure.axes[0].get_title() == "label: $ant$"
    taken, sure = figure.axes[0].get_xlabel().split("\n")
    assert taken.startswith("predicted: beebee")
    assert taken.endswith("…")
    assert sure == "probability: 99 %"


@pytest.mark.parametrize("name", ["W" * 300, "i" * 300, "mouse " * 50])
def test_what_is_written_about_a_photo_is_no_wider_than_its_place(name):
    figure = report.mistakes_figure(MISTAKES, photo, [name, name])
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes in figure.axes:
        for line in (axes.title, axes.xaxis.label):
            assert 100 < line.get_window_extent(renderer).width <= figure.bbox.width / 2


def test_a_report_that_fails_leaves_the_earlier_one_as_it_was(tmp_path):
    def read(index):
        raise ImageReadError("gone")

    write(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ImageReadError, match="gone"):
        report.write(tmp_path, [row(1)], diagonal(2), MISTAKES, read, "another")
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_the_folder_is_made_and_pyplot_holds_no_figure(tmp_path):
    write(tmp_path / "runs" / "report")
    assert (tmp_path / "runs/report/README.md").is_file()
    assert pyplot.get_fignums() == []
