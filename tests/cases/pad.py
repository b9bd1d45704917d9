"""pad: margins in four modes."""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample

NUMPY_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def reference(x, *, padding=(), mode="constant", value=0.0):
    pairs = [(0, 0)] * (x.ndim - len(padding) // 2) + list(zip(padding[::2], padding[1::2], strict=True))[::-1]
    more = {"constant_values": value} if mode == "constant" else {}
    return np.pad(x, pairs, NUMPY_MODES[mode], **more)


def torch_pad(mode):
    def run(x):
        from torch.nn.functional import pad

        return pad(x, (1, 1, 1, 1), mode)

    return run


MODES = ("reflect", "replicate", "circular")
case = Case(
    op="pad",
    reference=reference,
    samples=[
        Sample("constant", Arr(3, 4), padding=(1, 2), value=-1.5),
        Sample("constant, three axes", Arr(2, 3, 4), padding=(1, 2, 0, 3, 2, 0)),
        Sample("constant, of nothing", Arr(2, 0), padding=(1, 2)),
        Sample("constant, images", Arr(2, 3, 4, 5), padding=(1, 1, 2, 0), value=2),
        Sample("nothing to do", Arr(3, 4), padding=()),
        *(Sample(f"{mode}, vector", Arr(5), padding=(2, 3), mode=mode) for mode in MODES),
        *(Sample(f"{mode}, one axis of three", Arr(2, 3, 5), padding=(4, 0), mode=mode) for mode in MODES),
        *(Sample(f"{mode}, images", Arr(2, 3, 4, 5), padding=(1, 2, 3, 0), mode=mode) for mode in MODES),
        *(
            Sample(
                f"{mode}, channels last",
                Arr(2, 3, 4, 5, layout="channels_last"),
                padding=(1, 2, 2, 1),
                mode=mode,
            )
            for mode in MODES
        ),
        Sample("replicate, far", Arr(2, 3), padding=(9, 11), mode="replicate"),
        Sample("replicate, one pixel", Arr(1, 1), padding=(2, 2, 2, 2), mode="replicate"),
    ],
    errors=[
        Error(ValueError, "mode is 'mirror'", Arr(3), padding=(1, 1), mode="mirror"),
        Error(ValueError, "expected a pair", Arr(3), padding=(1,)),
        Error(ValueError, "expected a pair", Arr(3), padding=(1, 1, 1, 1)),
        Error(ValueError, "at most two axes", Arr(3, 3, 3), padding=(1,) * 6, mode="reflect"),
        Error(ValueError, "(3, 0); expected 0 or more, up to 2", Arr(3), padding=(3, 0), mode="reflect"),
        Error(ValueError, "(4, 0); expected 0 or more, up to 3", Arr(3), padding=(4, 0), mode="circular"),
        Error(ValueError, "up to 0", Arr(0), padding=(1, 0), mode="replicate"),
        Error(ValueError, "(-1, 0)", Arr(3), padding=(-1, 0)),
    ],
    bench=[
        Bench(
            f"{mode}",
            Arr(16, 64, 56, 56),
            padding=(1, 1, 1, 1),
            mode=mode,
            torch=torch_pad(mode),
            backward=True,
        )
        for mode in ("constant", "reflect")
    ],
    family="layout",
)
