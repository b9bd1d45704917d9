"""index_select, embedding, gather, one_hot."""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample


def index_select(x, index, *, dim=0):
    return np.take(x, index, dim)


def embedding(indices, weight, *, padding_idx=None):
    return weight[indices]


def gather(x, index, *, dim=0):
    parts = tuple(slice(None) if i == dim % x.ndim else slice(n) for i, n in enumerate(index.shape))
    return np.take_along_axis(x[parts], index, dim)


def one_hot(index, *, num_classes=1, dtype="float32"):
    return np.eye(num_classes, dtype="float64" if dtype == "float32" else dtype)[index]


def torch_select(x, index):
    return x.index_select(0, index)


def torch_embedding(indices, weight):
    import torch.nn.functional

    return torch.nn.functional.embedding(indices, weight)


def torch_gather(x, index):
    return x.gather(1, index)


def below(n, *shape, dtype="int64"):
    return Arr(*shape, kind="int", high=n, dtype=dtype)


def table(name, rows, width, *shape, dtypes=("float32",)):
    size = int(np.prod(shape))
    return Bench(
        name,
        below(rows, *shape),
        Arr(rows, width),
        torch=torch_embedding,
        bytes=8 * size * (width + 1),
        backward=True,
        dtypes=dtypes,
    )


cases = [
    Case(
        op="index_select",
        reference=index_select,
        samples=[
            Sample("rows", Arr(5, 7), below(5, 9)),
            Sample("columns", Arr(5, 7), below(7, 4), dim=1),
            Sample("middle", Arr(3, 5, 4), below(5, 6), dim=-2),
            Sample("elements", Arr(50), below(50, 33)),
            Sample("int32", Arr(5, 3), below(5, 4, dtype="int32")),
            Sample("scalar index", Arr(5, 3), below(5)),
            Sample("matrix of indices", Arr(5, 3), below(5, 2, 4)),
            Sample("no index", Arr(5, 3), below(5, 0)),
            Sample("rows of nothing", Arr(5, 0), below(5, 3)),
            Sample("one row, many times", Arr(1, 70), below(1, 20)),
            Sample("wide rows", Arr(40, 131), below(40, 90)),
        ],
        errors=[
            Error(ValueError, "index has 5; expected 0 to 4", Arr(5, 2), np.array([1, 5])).on_cpu(),
            Error(ValueError, "index has -1", Arr(5, 2), np.array([-1])).on_cpu(),
            Error(TypeError, "index is float32", Arr(5, 2), Arr(3)),
            Error(ValueError, "dim is 2", Arr(5, 2), np.array([0]), dim=2),
            Error(ValueError, "extent 0", Arr(0, 2), np.array([0])),
        ],
        bench=[
            Bench(
                "rows of 512",
                Arr(30_000, 512),
                below(30_000, 8192),
                torch=torch_select,
                bytes=8192 * 512 * 8,
                backward=True,
            )
        ],
        family="index",
    ),
    Case(
        op="embedding",
        reference=embedding,
        samples=[
            Sample("sentences", below(11, 4, 6), Arr(11, 8)),
            Sample("odd width", below(7, 9), Arr(7, 5)),
            Sample("width 1", below(7, 9), Arr(7, 1)),
            Sample("wide rows", below(300, 2, 70), Arr(300, 131)),
            Sample("aligned rows, many of each", below(3, 90), Arr(3, 64)),
            Sample("int32", below(5, 3, 4, dtype="int32"), Arr(5, 12)),
            Sample("scalar", below(5), Arr(5, 3)),
            Sample("no index", below(5, 2, 0), Arr(5, 3)),
            Sample("no index, no rows", below(1, 0), Arr(0, 3)),
            Sample("rows of nothing", below(5, 3), Arr(5, 0)),
            Sample("special values", below(4, 6), Arr(4, 9, kind="special")).no_gradient(),
            Sample("padding without use", np.array([0, 2]), Arr(4, 3), padding_idx=-1),
        ],
        errors=[
            Error(ValueError, "indices has 5; expected 0 to 4", np.array([1, 5]), Arr(5, 2)).on_cpu(),
            Error(ValueError, "indices has -1", np.array([-1]), Arr(5, 2)).on_cpu(),
            Error(ValueError, "weight is (5,); expected (V, D)", np.array([0]), Arr(5)),
            Error(ValueError, "extent 0; expected no index", np.array([0]), Arr(0, 2)),
            Error(
                ValueError, "padding_idx is 5; expected a row of weight (5, 2)", np.array([0]), Arr(5, 2), padding_idx=5
            ),
            Error(ValueError, "padding_idx is -6", np.array([0]), Arr(5, 2), padding_idx=-6),
            Error(ValueError, "has 9 axes; expected at most 8", np.zeros([1] * 8, np.int64), Arr(5, 2)),
            Error(TypeError, "indices is float32", Arr(3), Arr(5, 2)),
        ],
        bench=[
            table("BERT, 32 x 128 tokens", 30_000, 768, 32, 128, dtypes=("float32", "bfloat16")),
            table("word2vec, 4096 words", 100_000, 128, 4096),
        ],
    ),
    Case(
        op="gather",
        reference=gather,
        samples=[
            Sample("rows", Arr(5, 7), below(5, 3, 7)),
            Sample("columns", Arr(5, 7), below(7, 5, 4), dim=1),
            Sample("smaller index", Arr(5, 7, 3), below(7, 2, 9, 2), dim=-2),
            Sample("vector", Arr(50), below(50, 70)),
            Sample("int32", Arr(5, 7), below(7, 5, 1, dtype="int32"), dim=1),
            Sample("no index", Arr(5, 7), below(7, 5, 0), dim=1),
            Sample("long rows", Arr(3, 300), below(300, 3, 500), dim=1),
        ],
        errors=[
            Error(ValueError, "index has 7; expected 0 to 6", Arr(2, 7), np.array([[7]]), dim=1).on_cpu(),
            Error(ValueError, "index is (3,)", Arr(5, 7), np.array([0, 1, 2])),
            Error(ValueError, "index is (6, 1)", Arr(5, 7), np.zeros((6, 1), np.int64), dim=1),
            Error(TypeError, "index is bool", Arr(3), Arr(3, kind="bool")),
        ],
        bench=[Bench("1M", Arr(1024, 1024), below(1024, 1024, 1024), dim=1, torch=torch_gather, backward=True)],
        family="index",
    ),
    Case(
        op="one_hot",
        reference=one_hot,
        dtypes=("float32",),
        samples=[
            Sample("vector", below(10, 33), num_classes=10),
            Sample("matrix", below(3, 4, 5), num_classes=3),
            Sample("one class", below(1, 4)),
            Sample("int32 to int64", below(4, 9, dtype="int32"), num_classes=4, dtype="int64"),
            Sample("no index", below(4, 0), num_classes=4),
        ],
        errors=[
            Error(ValueError, "index has 3; expected 0 to 2", np.array([3]), num_classes=3).on_cpu(),
            Error(ValueError, "num_classes is 0", np.array([0]), num_classes=0),
            Error(TypeError, "index is float32", Arr(3), num_classes=3),
        ],
        family="index",
    ),
]
