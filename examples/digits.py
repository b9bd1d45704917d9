"""Trains a network on scikit-learn's handwritten digits: 1,797 real images of 8×8 pixels, 20 % of them held out.

    python examples/digits.py                  # a convolutional network
    python examples/digits.py --model lstm     # an LSTM that reads the image row by row
    python examples/digits.py --seeds 5        # five runs, with their mean
    python examples/digits.py --device cuda    # on a GPU
    python examples/digits.py --device sim     # a few steps of the CUDA kernels on the CPU, compared with the CPU's own

Each run prints test accuracy, a confusion table and images per second, saves a checkpoint, loads it into a new network
and verifies that it predicts the same.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import lamina
import lamina.functional as F
from lamina import nn, optim


class Cnn(nn.Module):
    """Two convolution blocks and a linear classifier: (N, 1, 8, 8) → (N, 10) logits."""

    batch_size, epochs, lr, shifts = 64, 30, 3e-3, True

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.25), nn.Linear(64 * 2 * 2, 10))

    def forward(self, x: lamina.Tensor) -> lamina.Tensor:
        return self.classifier(self.features(x))


class Lstm(nn.Module):
    """A bidirectional LSTM over the eight rows: (N, 1, 8, 8) → (N, 10) logits from the mean of its outputs."""

    batch_size, epochs, lr, shifts = 64, 40, 3e-3, True

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 64, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(128, 10)

    def forward(self, x: lamina.Tensor) -> lamina.Tensor:
        y, _ = self.lstm(F.reshape(x, shape=(x.shape[0], 8, 8)))
        return self.classifier(F.mean(y, dim=1))


def load_data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and test images (N, 1, 8, 8) scaled to mean 0 and deviation 1, and labels (N,); the split is fixed."""
    digits = load_digits()
    images = digits.images.astype(np.float32)[:, None]
    images = (images - images.mean()) / images.std()
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    held_out, rest = np.split(order, [len(order) // 5])
    return images[rest], labels[rest], images[held_out], labels[held_out]


def shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every image moved by −1, 0 or 1 pixels in each direction."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=images.min())
    dy, dx = rng.integers(0, 3, (2, len(images)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (8, 8), axis=(2, 3))
    return windows[np.arange(len(images)), :, dy, dx]


def predict(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """Labels (N,) by the largest logit."""
    model.eval()
    return model(lamina.tensor(images, device=place_of(model))).numpy().argmax(axis=1)


def place_of(model: nn.Module) -> str:
    return next(iter(model.parameters())).device


def show_progress(epoch: int, epochs: int, loss: float, speed: float) -> None:
    """One line that rewrites itself on a terminal, and one line at the end elsewhere."""
    done = 30 * epoch // epochs
    line = f"[{'#' * done}{'.' * (30 - done)}] epoch {epoch}/{epochs}  loss {loss:.4f}  {speed:,.0f} images/s"
    if sys.stdout.isatty():
        print("\r" + line, end="\n" if epoch == epochs else "", flush=True)
    elif epoch == epochs:
        print(line)


def training_step(model: nn.Module, optimizer: optim.Optimizer) -> Callable[[np.ndarray, np.ndarray], lamina.Tensor]:
    """A function of images and labels that updates the model and gives the loss; recorded, then replayed."""

    @lamina.record
    def step(x: lamina.Tensor, target: lamina.Tensor) -> lamina.Tensor:
        with lamina.Tape() as tape:
            loss = F.cross_entropy(model(x), target, label_smoothing=0.05)
        tape.backward(loss)
        optimizer.step()
        return loss

    device = place_of(model)
    return lambda images, labels: step(lamina.tensor(images, device=device), lamina.tensor(labels, device=device))


def train(model: nn.Module, images: np.ndarray, labels: np.ndarray, seed: int) -> None:
    """Adam with a learning rate that falls along half a cosine to zero."""
    rng = np.random.default_rng(seed)
    optimizer = optim.AdamW(model.parameters(), lr=model.lr, weight_decay=1e-2)
    step = training_step(model, optimizer)
    batches = len(images) // model.batch_size  # a last, smaller batch waits for the next shuffle
    model.train()
    for epoch in range(model.epochs):
        start = time.perf_counter()
        optimizer.lr = model.lr * (1 + np.cos(np.pi * epoch / model.epochs)) / 2
        total = lamina.zeros(device=place_of(model))  # read once an epoch: a GPU need not wait for Python
        order = rng.permutation(len(images))[: batches * model.batch_size].reshape(batches, -1)
        for batch in order:
            x = shifted(images[batch], rng) if model.shifts else images[batch]
            total = total + step(x, labels[batch])
        mean = float(total) / batches
        speed = order.size / (time.perf_counter() - start)
        show_progress(epoch + 1, model.epochs, mean, speed)


def print_confusion(labels: np.ndarray, predicted: np.ndarray) -> None:
    """Rows: true digit; columns: predicted digit."""
    table = np.zeros((10, 10), np.int64)
    np.add.at(table, (labels, predicted), 1)
    print("true\\predicted " + "".join(f"{digit:4}" for digit in range(10)))
    for digit, row in enumerate(table):
        print(f"{digit:14} " + "".join(f"{count or '.':>4}" for count in row))


def compare_with_cpu(kind: type[nn.Module], device: str, seed: int, steps: int = 4) -> None:
    """A few training steps on the device and on the CPU, from the same start on the same images."""
    images, labels, _, _ = load_data()

    def losses(place: str) -> list[float]:
        lamina.manual_seed(seed)
        model = kind().to(place)
        step = training_step(model, optim.AdamW(model.parameters(), lr=model.lr))
        return [float(step(images[i : i + 16], labels[i : i + 16])) for i in range(0, 16 * steps, 16)]

    there, here = losses(device), losses("cpu")
    for place, values in ((device, there), ("cpu", here)):
        print(f"loss on {place:>6}: " + "  ".join(f"{value:.6f}" for value in values))
    if not np.allclose(there, here, rtol=1e-3):
        raise SystemExit(f"{device} and the CPU disagree")
    print(f"{device} agrees with the CPU")


def run(kind: type[nn.Module], seed: int, checkpoint: Path, device: str) -> float:
    """Trains one network, reports, and verifies its checkpoint; gives the accuracy on the held-out images."""
    train_images, train_labels, test_images, test_labels = load_data()
    lamina.manual_seed(seed)
    model = kind().to(device)
    train(model, train_images, train_labels, seed)
    predicted = predict(model, test_images)
    accuracy = float((predicted == test_labels).mean())
    print_confusion(test_labels, predicted)
    print(f"seed {seed}: test accuracy {accuracy:.2%}")

    lamina.save(checkpoint, model.state_dict(), {"seed": str(seed), "accuracy": f"{accuracy:.4f}"})
    restored = kind().to(device)
    restored.load_state_dict(lamina.load(checkpoint))
    if not np.array_equal(predict(restored, test_images), predicted):
        raise SystemExit(f"{checkpoint}: the restored network predicts differently")
    print(f"checkpoint {checkpoint} saved, loaded and verified")
    return accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["cnn", "lstm"], default="cnn")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first run")
    parser.add_argument("--seeds", type=int, default=1, help="number of runs")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or sim (needs LAMINA_SIM_LIBRARY)")
    parser.add_argument("--checkpoint", type=Path, default=Path("digits.safetensors"))
    args = parser.parse_args()
    kind = {"cnn": Cnn, "lstm": Lstm}[args.model]
    if args.device == "sim":
        return compare_with_cpu(kind, args.device, args.seed)
    start = time.perf_counter()
    accuracies = [run(kind, args.seed + i, args.checkpoint, args.device) for i in range(args.seeds)]
    seconds = (time.perf_counter() - start) / args.seeds
    print(f"mean accuracy {np.mean(accuracies):.2%}, lowest {min(accuracies):.2%}, {seconds:.1f} s per run")


if __name__ == "__main__":
    main()
