"""Every sample of every case, in every dtype and memory layout, against its NumPy reference."""

import pytest

from cases import LAYOUTS, Arr, materialise
from harness import assert_same_bits, call, compare, expected, label, memory, samples


def layouts_of(sample):
    """The layout as written, then every other layout that makes a difference to these inputs."""
    yield "contiguous"
    arrays = [x for x in sample.inputs if isinstance(x, Arr)]
    if not arrays:
        return
    ndim = max(len(x.shape) for x in arrays)
    for layout in LAYOUTS[1:]:
        if (layout == "channels_last" and ndim != 4) or (layout == "transposed" and ndim < 2):
            continue
        if layout == "expanded" and (ndim < 2 or any(x.kind == "distinct" for x in arrays)):
            continue  # all values equal, or no longer distinct: not what the sample asks for
        yield layout


@pytest.mark.parametrize(("case", "sample", "dtype"), samples())
def test_value(case, sample, dtype):
    for layout in layouts_of(sample):
        where = f"{label(case, sample, dtype)}, {layout}"
        inputs = materialise(case, sample, dtype, layout)
        before = memory(inputs)
        if layout in ("contiguous", "expanded"):  # the others hold the same values as the contiguous one
            want = expected(case, inputs, sample.attrs, dtype)
        got = call(case, inputs, sample.attrs)
        assert len(got) == len(want), f"{where}: {len(got)} outputs; expected {len(want)}"
        for i, (y, truth) in enumerate(zip(got, want, strict=True)):
            compare(y, truth, f"{where}, output {i}")
        if not case.mutates:
            assert memory(inputs) == before, f"{where}: an input was written to"
        again = call(case, materialise(case, sample, dtype, layout), sample.attrs)
        for i, (first, second) in enumerate(zip(got, again, strict=True)):
            assert_same_bits(first, second, f"{where}, output {i}, two runs")
