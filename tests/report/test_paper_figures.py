"""Every figure as a paper prints it: in the width of a page and of a column, drawn from the committed reference.

Seven points is the smallest type that journals ask for; 3.35 and 6.75 in are the widths of a
two-column paper.
"""

from collections import defaultdict

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.lines import Line2D
from matplotlib.text import Text

from prunelib import chapters
from prunelib.report import figures, panels, readings, reference, style
from prunelib.report.publish import read_manifest
from prunelib.runs.tables import read_csv

SOURCE = reference.folder("smollm2-135m-instruct")


@pytest.fixture(scope="module")
def drawn() -> dict[str, dict[bool, object]]:
    """The matplotlib figure of every committed figure, by id and by whether it is for one column."""
    chapters.load_figures()
    made = {}
    for figure_id in read_manifest(SOURCE)["figures"]:
        made[figure_id] = {}
        for column in (False, True):
            look = style.light(column)
            with style.applied(look, salt=figure_id):
                fig = figures.spec(figure_id).function(read_csv(SOURCE / "figures" / f"{figure_id}.csv"), look).fig
                panels.finish(fig)
                fig.draw_without_rendering()
            made[figure_id][column] = fig
    return made


def each(drawn, forms=(False, True)):
    return [(f"{name}{', column' if form else ''}", of[form]) for name, of in drawn.items() for form in forms]


def texts(fig) -> list[Text]:
    """Every visible text of a figure that is not empty."""
    return [text for text in fig.findobj(Text) if text.get_visible() and text.get_text().strip()]


def test_a_column_is_drawn_for_its_width(drawn):
    widths = {form: {fig.get_size_inches()[0] for _, fig in each(drawn, [form])} for form in (False, True)}
    assert widths == {False: {6.75}, True: {3.35}}
    assert max(fig.get_size_inches()[1] for _, fig in each(drawn)) < 9  # the height of a page's text


def test_no_letter_is_smaller_than_seven_points(drawn):
    small = [
        (name, text.get_text(), text.get_fontsize())
        for name, fig in each(drawn)
        for text in texts(fig)
        if text.get_fontsize() < style.SMALLEST or "$" in text.get_text()  # formulas have smaller indices
    ]
    assert small == []


def test_no_text_leaves_the_figure(drawn):
    outside = []
    for name, fig in each(drawn):
        hidden = {label for axes in fig.axes for label in _beyond(axes)}
        for text in set(texts(fig)) - hidden:
            box = text.get_window_extent()
            if box.x0 < -1 or box.y0 < -1 or box.x1 > fig.bbox.width + 1 or box.y1 > fig.bbox.height + 1:
                outside.append((name, text.get_text()))
    assert outside == []


def _beyond(axes) -> set:
    """Tick labels of a panel that lie outside its view and are not drawn."""
    axis = (axes.xaxis, axes.yaxis)
    ticks = [tick for one in axis for tick in (*one.get_major_ticks(), *one.get_minor_ticks())]
    return {label for tick in ticks for label in (tick.label1, tick.label2)} - {*_ticks(axis[0]), *_ticks(axis[1])}


def _ticks(axis) -> list:
    low, high = sorted(axis.get_view_interval())
    slack = 1e-9 * (high - low)
    inside = [tick.label1 for tick in axis.get_major_ticks() if low - slack <= tick.get_loc() <= high + slack]
    return [label for label in inside if label.get_visible() and label.get_text()]


def test_numbers_of_an_axis_do_not_touch(drawn):
    touching = []
    for name, fig in each(drawn):
        for axes in fig.axes:
            for axis, side in ((axes.xaxis, 0), (axes.yaxis, 1)):
                boxes = sorted(label.get_window_extent().get_points()[:, side].tolist() for label in _ticks(axis))
                touching += [
                    (name, axes.get_title(loc="left")) for a, b in zip(boxes, boxes[1:], strict=False) if b[0] < a[1]
                ]
    assert touching == []


def test_legends_lie_outside_the_data_and_name_everything(drawn):
    for name, fig in each(drawn):
        assert all(axes.get_legend() is None for axes in fig.axes), name
        for legend in fig.legends:
            box = legend.get_window_extent()
            assert not any(box.overlaps(axes.get_window_extent()) for axes in fig.axes), name
        listed = {text.get_text() for legend in fig.legends for text in legend.get_texts()}
        labels = {label for axes in fig.axes for label in axes.get_legend_handles_labels()[1]}
        assert labels <= listed or name.startswith("fig-methods-stream"), name  # there each line is named at its end


def test_a_thing_has_one_look_through_the_whole_book(drawn):
    seen = defaultdict(set)
    for _, fig in each(drawn):
        for axes in fig.axes:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                line = handle[0] if isinstance(handle, ErrorbarContainer) else handle
                if isinstance(line, Line2D) and label not in ("mean, 95 % interval",):  # of what the title names
                    seen[label].add((to_hex(line.get_color()), line.get_marker()))
    for found in seen.values():  # a curve too dense for markers has the colour alone
        found -= {(colour, "None") for colour, marker in found if marker != "None"}
    assert {label: found for label, found in seen.items() if len(found) > 1} == {}
    assert len(seen) > 20


def test_readings_are_the_values_that_are_drawn(drawn):
    fig = drawn["fig-dropping-kept"][False]
    data = read_csv(SOURCE / "figures" / "fig-dropping-kept.csv")
    own = data[(data["source"] == "this run") & (data["kind"] == "mlp") & (data["readout"] == "choice")]
    panel = next(one for one in readings.of(fig) if one["title"] == "MLP dropped")
    for row in own.itertuples():
        place = next(place for place in panel["places"] if place[1] == f"{row.x:.3g}")
        assert ["multiple choice", f"{row.kept:.3g}".replace("-", "−")] in place[2]
    left, bottom, right, top = panel["box"]
    across = [place[0] for place in panel["places"]]
    assert across == sorted(across) and left - 0.01 <= across[0] and across[-1] <= right + 0.01
    assert 0 < bottom < top < 1 and np.ptp(across) > 0.5 * (right - left)


def test_every_figure_by_layer_can_be_read(drawn):
    by_layer = [name for name, of in drawn.items() if any(axes.get_xlabel() == "layer" for axes in of[False].axes)]
    assert len(by_layer) > 5
    for name in by_layer:
        if name != "fig-site-map":  # a heat map has no curves
            for form in (False, True):
                assert readings.of(drawn[name][form]), name
